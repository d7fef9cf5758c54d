"""What no cell can check about the notebooks themselves.

Their anatomy, their stored outputs, and that all of them are tested, listed and read.
"""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nbdev.doclinks import nbglob

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted(
    (p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts),
    key=lambda p: p.name
)
PAGES = {    # they export nothing
    'index', 'notebooks', '08_results', '09_readings', '39_own_videos', '77_promises'}
CHAPTERS = [nb for nb in NBS if nb.stem not in PAGES]
TITLE = re.compile(r'# \S.*\n+> \S.*[.!?]\s*')
PATHS = re.compile(
    r'(?<![\w.~-])/(?:root|home|tmp|work|Users|var/folders|private)/|site-packages|[A-Z]:\\Users'
)
PROGRESS = re.compile(r'\d%\||\d ?(?:it|s)/(?:s|it)\b')


def place(nb):
    "Where a notebook stands in `nbs`, as `sidebar.yml` writes it."
    return nb.relative_to(ROOT/'nbs').as_posix()


def cells(nb, kind=None):
    "The cells of notebook file `nb` with their source joined."
    found = json.loads(nb.read_text(encoding='utf-8'))['cells']
    return [{**c, 'source': ''.join(c['source'])} for c in found if kind in (None, c['cell_type'])]


def directives(cell):
    "The `#|` directives that open a code cell."
    if cell['cell_type'] != 'code': return []
    return re.findall(r'^#\s*\|\s*(.*?)\s*$', cell['source'], re.MULTILINE)


def texts(cell):
    "Every text of a code cell's stored outputs."
    for out in cell.get('outputs', []):
        yield ''.join(out.get('text', []))
        for mime, data in out.get('data', {}).items():
            if not mime.startswith('image/'):
                yield data if isinstance(data, str) else ''.join(map(str, data))


# --- faults: each takes the cells of a notebook and says what is wrong with them

def anatomy(cs, name):
    """`default_exp`, a title cell that holds a title and one sentence, and the export call at the
    end."""
    first, title, last = cs[0], cs[1], cs[-1]
    if directives(first) != [f'default_exp {name}']:
        yield f'the first cell is not `#| default_exp {name}`'
    if title['cell_type'] != 'markdown' or not TITLE.fullmatch(title['source']):
        yield 'the second cell is not a title and one `> ` sentence, alone'
    headed = cs[-2]['source'].startswith('## Export -')
    hidden = 'hide' in directives(last)
    if not headed or not hidden or 'nbdev.nbdev_export()' not in last['source']:
        yield 'the last cells are not `## Export -` and the hidden export call'


def balance(cs, name):
    "Prose enough."
    told = [c for c in cs if not re.search(r'^show_doc\(', c['source'], re.MULTILINE)]
    kinds = [c['cell_type'] for c in told]
    n_md, n_code = kinds.count('markdown'), kinds.count('code')
    if n_md < .8*n_code: yield f'{n_md} markdown cells for {n_code} code cells'


def exports(cs, name):
    "At least one exported cell."
    found = {d.partition(' ')[0] for c in cs for d in directives(c)}
    if not found & {'export', 'exports', 'exporti'}: yield 'exports nothing'


def width(cs, name):
    "Lines of code of at most 100 characters; an address may be longer."
    for cell in cs:
        if cell['cell_type'] != 'code': continue
        for line in cell['source'].splitlines():
            if len(line) > 100 and '://' not in line:
                yield f'a line of {len(line)} characters: {line}'


def outputs(cs, name):
    "Stored outputs that read the same on every machine."
    for c in cs:
        for out in c.get('outputs', []):
            if out['output_type'] == 'error' or out.get('name') == 'stderr':
                yield f'an error or warning is stored: {out}'
        for text in texts(c):
            for what, pattern in (('path', PATHS), ('progress bar', PROGRESS)):
                if m := pattern.search(text):
                    yield f'a {what} is stored: ...{text[max(m.start()-30, 0):m.end()+30]}...'


def python(cell):
    "The code of a cell without Jupyter's own commands."
    return re.sub(r'^\s*[%!].*$', '', cell['source'], flags=re.MULTILINE)


def calls(cs, name):
    """Tests that can fail for one reason only: no star import, no `test_close`, no `test_fail` that
    any exception would please."""
    for c in cs:
        if c['cell_type'] != 'code': continue
        for node in ast.walk(ast.parse(python(c))):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == '*':
                yield f'from {node.module} import *'
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == 'test_close':
                    yield f'test_close ignores shapes: {ast.unparse(node)}'
                if node.func.id == 'test_fail' and 'contains' not in [k.arg for k in node.keywords]:
                    yield f'no contains=: {ast.unparse(node)}'


CHECKS = [anatomy, balance, exports, width, outputs, calls]


@pytest.mark.parametrize('nb', CHAPTERS, ids=lambda p: p.stem)
@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_chapter(nb, check): assert not list(check(cells(nb), nb.stem.partition('_')[2]))


@pytest.mark.parametrize('nb', NBS, ids=lambda p: p.stem)
def test_size(nb): assert nb.stat().st_size < 300_000


@pytest.mark.parametrize('name', sorted(PAGES))
def test_page(name):
    page, = [nb for nb in NBS if nb.stem == name]
    cs = cells(page)
    assert TITLE.fullmatch(cs[0]['source'])
    assert not [*width(cs, name), *outputs(cs, name), *calls(cs, name)]


# --- a test of the test: a small notebook passes, and every rule goes red on an offender

def md(source): return {'cell_type': 'markdown', 'source': source}
def py(source, *outs): return {'cell_type': 'code', 'source': source, 'outputs': list(outs)}
def said(text, name='stdout'): return {'output_type': 'stream', 'name': name, 'text': [text]}

TOY = [
    py('#| default_exp toy'),
    md('# Toy\n\n> Adds numbers.'),
    md('Why.'),
    py('#| export\ndef f(x): return x+1'),
    md('It adds:'),
    py('test_fail(lambda: f(None), contains="unsupported")\nf(1)', said('2')),
    md('## Export -'),
    py('#| hide\nimport nbdev\nnbdev.nbdev_export()'),
]
ERROR = {'output_type': 'error', 'evalue': 'no'}
PATH = {'output_type': 'execute_result', 'data': {'text/plain': ["PosixPath('/home/me')/x"]}}


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_checks_pass(check): assert list(check(TOY, 'toy')) == []


@pytest.mark.parametrize('check,at,bad,fault', [
    (anatomy, 0, py('#| default_exp tory'), 'first cell'),
    (anatomy, 1, md('# Toy\n\n> Adds numbers.\n\nAnd this.'), 'second cell'),
    (anatomy, 1, md('# Toy'), 'second cell'),
    (anatomy, -1, py('import nbdev\nnbdev.nbdev_export()'), 'last cells'),
    (balance, 2, py('1'), 'markdown cells'),
    (exports, 3, py('f = 1'), 'exports nothing'),
    (width, 3, py('x = ' + '1'*97), 'of 101 characters'),
    (outputs, 5, py('f(1)', said('careful', 'stderr')), 'warning'),
    (outputs, 5, py('f(1)', ERROR), 'error'),
    (outputs, 5, py('f(1)', said('see /tmp/x.avi')), 'path'),
    (outputs, 5, py('f(1)', PATH), 'path'),
    (outputs, 5, py('f(1)', said(' 50%|#####     | 5/10')), 'progress'),
    (outputs, 5, py('f(1)', said('[00:01, 3.1it/s]')), 'progress'),
    (calls, 5, py('from os import *'), 'from os import *'),
    (calls, 5, py('test_close(f(1), 2)'), 'test_close'),
    (calls, 5, py('test_fail(lambda: f(None))'), 'contains'),
])
def test_checks_are_red(check, at, bad, fault):
    cs = list(TOY)
    cs[at] = bad
    found = list(check(cs, 'toy'))
    assert any(fault in f for f in found), found


# --- all of them

def test_every_notebook_is_tested():
    "`nbdev_test` succeeds when it finds nothing to run, so what it would find is counted here."
    assert sorted(p.name for p in nbglob(ROOT/'nbs', as_path=True)) == [nb.name for nb in NBS]
    assert not list((ROOT/'nbs').rglob('.notest'))
    for nb in NBS:
        for cell in cells(nb)[:2]: assert 'skip_exec' not in cell['source'], nb.name
    assert len(CHAPTERS) >= 10


def test_every_notebook_has_a_module():
    modules = {p.stem for p in (ROOT/'fstcn').glob('*.py') if not p.stem.startswith('_')}
    assert modules == {nb.stem.partition('_')[2] for nb in CHAPTERS}


def test_sidebar_lists_every_notebook_in_order():
    sidebar = yaml.safe_load((ROOT/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))
    listed = []
    for entry in sidebar['website']['sidebar']['contents']:
        listed += entry['contents'] if isinstance(entry, dict) else [entry]
    assert len(listed) == len(set(listed)), 'listed twice'
    assert set(listed) == {place(nb) for nb in NBS}
    assert listed[0] == 'index.ipynb'


def test_contributing_maps_every_notebook():
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert not [place(nb) for nb in NBS if f'nbs/{place(nb)}' not in text]


def test_links_between_notebooks_lead_somewhere():
    broken = []
    for nb in NBS:
        prose = '\n'.join(c['source'] for c in cells(nb, 'markdown'))
        for target in re.findall(r'\]\(([^)#:\s]+\.ipynb)', prose):
            if not (nb.parent/target).exists(): broken.append(f'{nb.name}: {target}')
    assert not broken


# --- README.md is the index notebook

def test_readme_is_the_index_notebook():
    made = subprocess.run(
        [sys.executable, ROOT/'.ci'/'readme', '--stdout'], capture_output=True, text=True,
        encoding='utf-8', timeout=120
    )
    assert made.returncode == 0, made.stderr
    stored = (ROOT/'README.md').read_text(encoding='utf-8')
    assert made.stdout == stored, 'README.md is stale: run .ci/readme'


@pytest.mark.parametrize(
    'command', ['pip install . && fstcn demo', 'pip install -e ".[dev]" && nbdev_test && pytest']
)
def test_readme_holds_the_two_commands(command):
    lines = (ROOT/'README.md').read_text(encoding='utf-8').splitlines()
    assert lines.count(command) == 1
