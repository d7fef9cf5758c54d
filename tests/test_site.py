"""What a reader of the docs site is given, read from what nbdev hands to Quarto: no Quarto needed.
The built pages are read by `.ci/site`, which is tested here on small ones."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent

# `nbdev_proc_nbs` fetches Quarto and installs the package where there is no Quarto: this is the rest
# of it. A cell with an import is run for the page, so imports stand alone.
MAKE = '''
import sys, warnings
import nbdev.doclinks
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
warnings.simplefilter("ignore")
warnings.filterwarnings("error", "Found cells containing imports")
refresh_quarto_yml()
nbdev.doclinks._build_modidx()
if __name__ == "__main__": proc_nbs(n_workers=0)'''


def make_site(root):
    "What nbdev makes of the notebooks of a project, in its folder `_proc`."
    info = root/'fstcn-0.dist-info'         # installed, as far as links to the source can tell
    info.mkdir()
    (info/'METADATA').write_text('Metadata-Version: 2.1\nName: fstcn\nVersion: 0\n')
    (info/'entry_points.txt').write_text('[nbdev]\nfstcn=fstcn._modidx:d\n')
    environ = {**os.environ, 'PYTHONPATH': str(root), 'MPLBACKEND': 'agg'}
    environ.pop('IN_TEST', None)
    return subprocess.run(
        [sys.executable, '-c', MAKE], cwd=root, env=environ, capture_output=True, text=True,
        timeout=600)


def read_page(path):
    "A page in front of Quarto: the name of its HTML file, and its cells that are not empty."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    cells = [{**c, 'source': ''.join(c['source'])} for c in cells if c.get('source')]
    front = [c['source'].strip().strip('-') for c in cells if c['cell_type'] == 'raw']
    name = (yaml.safe_load(front[0]) if front else {}).get('output-file', f'{path.stem}.html')
    return SimpleNamespace(html=name, cells=cells)


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "Every page by its place below `_proc`."
    root = tmp_path_factory.mktemp('site')
    for folder in ('nbs', 'fstcn', 'results'):
        shutil.copytree(
            ROOT/folder, root/folder,
            ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('settings.ini', 'README.md'):
        shutil.copy(ROOT/name, root)
    run = make_site(root)
    assert run.returncode == 0, run.stderr[-3000:]
    folder = root/'_proc'
    return {p.relative_to(folder).as_posix(): read_page(p) for p in folder.rglob('*.ipynb')}


# --- what is shown ---------------------------------------------------------------------------------

def option(cell, name):
    "The value of the `#| name:` line of a code cell, or nothing."
    found = re.search(rf'^#\|\s*{name}:\s*(.*)$', cell['source'], re.MULTILINE)
    return found[1].strip().strip('\'"') if found else ''


def echoed(cell):
    "The code of a cell, as far as it is shown."
    if cell['cell_type'] != 'code' or option(cell, 'echo') == 'false': return ''
    return re.sub(r'^#\|.*\n?', '', cell['source'], flags=re.MULTILINE)


def data(cell):
    "The outputs of a cell, a dictionary each from kind to text."
    for out in cell.get('outputs', []):
        kinds = {'text/plain': out['text']} if 'text' in out else out.get('data', {})
        yield {kind: ''.join(value) for kind, value in kinds.items()}


def markdown(cell):
    "Every piece of Markdown that a cell shows."
    if cell['cell_type'] == 'markdown': yield cell['source']
    yield from (kinds['text/markdown'] for kinds in data(cell) if 'text/markdown' in kinds)


def fences(text):
    "The code blocks of Markdown."
    return re.findall(r'^```[^\n]*\n(.*?)^```', text, re.MULTILINE | re.DOTALL)


def prose(text):
    "Markdown without its code blocks."
    return re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)


def entries(page):
    "What the page documents, by name."
    found = {}
    for cell in page.cells:
        for text in markdown(cell):
            if cell['cell_type'] == 'code' and (m := re.search(r'^### (\S+)$', text, re.MULTILINE)):
                found[m[1]] = text
    return found


def heading_id(text):
    "The anchor that Pandoc makes of a heading."
    if m := re.search(r'\{#([^\s}]+)', text): return m[1]
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', text)
    text = re.sub(r'[^\w\s.-]', '', text.strip()).lower()
    return re.sub(r'\s+', '-', re.sub(r'^[^a-z]+', '', text)) or 'section'


def anchors(page):
    "Every anchor of a page."
    ids, seen = set(), Counter()
    for text in [t for cell in page.cells for t in markdown(cell)]:
        ids.update(re.findall(r'\bid="([^"]+)"', text))
        for heading in re.findall(r'^#{1,6} (.+)$', prose(text), re.MULTILINE):
            name = heading_id(heading)
            ids.add(f'{name}-{seen[name]}' if seen[name] else name)
            seen[name] += 1
    return ids


# --- faults of a page: each check takes its cells and says what is wrong with them ----------------

BLOCK = re.compile(r'\s*(\||[-*] |\d+\. |>|\$\$|!\[|```|<)')     # what a colon may announce


def colons(page):
    "Prose that ends in a colon is followed by something."
    for cell, after in zip(page.cells, [*page.cells[1:], None], strict=True):
        if cell['cell_type'] != 'markdown' or not cell['source'].rstrip().endswith(':'): continue
        if after is None: shown = False
        elif after['cell_type'] == 'markdown': shown = BLOCK.match(after['source'])
        else: shown = echoed(after) or after.get('outputs')
        if not shown: yield f'nothing follows: ...{cell["source"].rstrip()[-80:]}'


def links(page):
    "No link inside a link, none that is shown as it is written."
    for text in [t for cell in page.cells for t in markdown(cell)]:
        for code in fences(text) + re.findall(r'`[^`\n]+`', prose(text)):
            if '](http' in code: yield f'a link inside code: {code}'
        left = re.sub(r'!?\[[^\[\]]*\]\([^()\s]*\)', '', prose(text))
        for bad in re.findall(r'.{0,60}\]\(.{0,60}', left):
            yield f'a link that is none, or two in one: {bad}'


def figures(page):
    "Every figure has a caption and an alternative text."
    for cell in page.cells:
        if any(kind.startswith('image/') for kinds in data(cell) for kind in kinds):
            for name in ('fig-cap', 'fig-alt'):
                if not option(cell, name): yield f'no {name} in cell {cell.get("id")}'
        for text in markdown(cell):
            for alt, target in re.findall(r'!\[([^\]]*)\]\(([^)\s]*)', prose(text)):
                if not alt.strip(): yield f'no alternative text of {target}'
            for tag in re.findall(r'<img[^>]*>', prose(text)):
                if not re.search(r'\balt="[^"]+"', tag): yield f'no alternative text: {tag}'


def width(page):
    "No line of code over 100 characters."
    for cell in page.cells:
        for code in [echoed(cell)] + [f for text in markdown(cell) for f in fences(text)]:
            for line in code.splitlines():
                if len(line) > 100 and '://' not in line: yield f'{len(line)} characters: {line}'


def sources(page):
    "Every entry has a link to its line of the source."
    for name, text in entries(page).items():
        if not re.search(r'^\[source\]\(https://[^)\s]*#L\d+\)', text, re.MULTILINE):
            yield f'{name} has no link to its source'


CHECKS = [colons, links, figures, width, sources]


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_pages(site, check):
    assert [f'{place}: {fault}' for place, page in site.items() for fault in check(page)] == []


# --- faults of the site ---------------------------------------------------------------------------

def public(tree):
    "What a module offers: functions, classes and their methods; and its commands."
    names, commands = [], []
    for o in tree.body:
        if not isinstance(o, ast.FunctionDef | ast.ClassDef) or o.name.startswith('_'): continue
        command = any(ast.unparse(d) == 'command' for d in o.decorator_list)
        (commands if command else names).append(o.name)
        if isinstance(o, ast.ClassDef):
            methods = [m.name for m in o.body if isinstance(m, ast.FunctionDef)]
            # extra_repr is PyTorch's, for print
            names += [f'{o.name}.{m}' for m in methods if m[0] != '_' and m != 'extra_repr']
    return names, commands


def undocumented(page, tree):
    "Everything public has an entry and is shown as source; a command is what `--help` says of it."
    names, commands = public(tree)
    documented = entries(page)
    code = '\n'.join(echoed(cell) for cell in page.cells)
    for name in names:
        if name not in documented: yield f'{name} has no entry'
    for name in names + commands:
        if not re.search(rf'(def|class) {name.split(".")[-1]}\b', code):
            yield f'the source of {name} is not shown'
    for name in commands:
        if name in documented: yield f'{name} is a command and has a signature'


def dead_links(site, home='https://fstcn.github.io/fstcn/'):
    "Links to pages and anchors that do not exist."
    html = {(Path(place).parent/page.html).as_posix(): place for place, page in site.items()}
    ids = {place: anchors(page) for place, page in site.items()}
    for place, page in site.items():
        text = '\n'.join(prose(t) for cell in page.cells for t in markdown(cell))
        text = re.sub(r'`[^`\n]*`', '', text)
        for target in re.findall(r'\]\(([^()\s]+)\)|\bhref="([^"]+)"', text):
            target = target[0] or target[1]
            path, _, anchor = target.removeprefix(home).partition('#')
            if target.startswith(home): found = html.get(path or 'index.html')
            elif re.match(r'[a-z]+:', target): continue
            elif not path: found = place
            elif not path.endswith('.ipynb'): continue
            else: found = os.path.normpath((Path(place).parent/path).as_posix())
            if found not in site: yield f'{place}: no page {target}'
            elif anchor and anchor not in ids[found]: yield f'{place}: no anchor {target}'


def test_everything_public_is_documented(site):
    faults = []
    for place, page in site.items():
        module = ROOT/'fstcn'/f'{Path(place).stem.partition("_")[2]}.py'
        if not module.exists(): continue
        tree = ast.parse(module.read_text(encoding='utf-8'))
        faults += [f'{place}: {fault}' for fault in undocumented(page, tree)]
    assert faults == []


def test_links_lead_somewhere(site): assert list(dead_links(site)) == []


def test_a_name_has_one_page():
    "A name in backticks becomes a link to the first module that has it."
    modules = [p for p in (ROOT/'fstcn').glob('*.py') if not p.stem.startswith('_')]
    trees = [ast.parse(p.read_text(encoding='utf-8')) for p in modules]
    names = Counter(name for tree in trees for found in public(tree) for name in found)
    assert [name for name, n in names.items() if n > 1] == []
