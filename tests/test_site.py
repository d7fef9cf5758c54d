"""What a reader of the docs site is given, read from what nbdev hands to Quarto: no Quarto needed.
The built pages are read by `.ci/site`, which is tested here on small ones."""
import ast
import importlib.machinery
import importlib.util
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
pytestmark = pytest.mark.slow

# `nbdev_proc_nbs` installs Quarto and the package where it finds no Quarto: this is the rest of it.
# A cell with an import is run for the page, so imports stand alone.
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


# --- what is shown --------------------------------------------------------------------------------

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
            for alone in re.findall(r'^!\[[^\n]*\]\([^)\n]*\)$', prose(text), re.MULTILINE):
                yield f'Quarto makes the text a caption, and no alternative: {alone}'
            for tag in re.findall(r'<img[^>]*>', prose(text)):
                if not re.search(r'\balt="[^"]+"', tag): yield f'no alternative text: {tag}'


def width(page):
    """No line of code over 100 characters. Signatures are nbdev's own lines, with the full name of
    every type; they scroll, and the source is shown under them."""
    for cell in page.cells:
        written = fences(cell['source']) if cell['cell_type'] == 'markdown' else [echoed(cell)]
        for line in '\n'.join(written).splitlines():
            if len(line) > 100 and '://' not in line: yield f'{len(line)} characters: {line}'


def sources(page):
    "Every entry has a link to its line of the source."
    for name, text in entries(page).items():
        if not re.search(r'^\[source\]\(https://[^)\s]*#L\d+\)', text, re.MULTILINE):
            yield f'{name} has no link to its source'


CHECKS = [colons, links, figures, width, sources]


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_pages(site, check):
    found = [f'{place}: {fault}' for place, page in site.items() for fault in check(page)]
    assert not found, '\n'.join(found)


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
    found = []
    for place, page in site.items():
        module = ROOT/'fstcn'/f'{Path(place).stem.partition("_")[2]}.py'
        if not module.exists(): continue
        tree = ast.parse(module.read_text(encoding='utf-8'))
        found += [f'{place}: {fault}' for fault in undocumented(page, tree)]
    assert not found, '\n'.join(found)


def test_links_lead_somewhere(site):
    found = list(dead_links(site))
    assert not found, '\n'.join(found)


def test_a_name_has_one_page():
    "A name in backticks becomes a link to the first module that has it."
    modules = [p for p in (ROOT/'fstcn').glob('*.py') if not p.stem.startswith('_')]
    trees = [ast.parse(p.read_text(encoding='utf-8')) for p in modules]
    names = Counter(name for tree in trees for found in public(tree) for name in found)
    assert [name for name, n in names.items() if n > 1] == []


# --- a test of the test: a small page passes, and every rule goes red on an offender --------------

def md(source): return {'cell_type': 'markdown', 'source': source}
def py(source, *outs): return {'cell_type': 'code', 'source': source, 'outputs': list(outs)}
def shows(**kinds): return {'data': {kind.replace('_', '/'): text for kind, text in kinds.items()}}


def entry(name, source='https://github.com/fstcn/fstcn/blob/main/fstcn/toy.py#L7'):
    link = f'[source]({source}){{target="_blank"}}'
    text = f'---\n\n{link}\n\n### {name}\n\n```python\ndef {name}()\n```\n\n*Adds.*'
    return py(f'#| echo: false\n#| output: asis\nshow_doc({name})', shows(text_markdown=text))


HOME = 'https://fstcn.github.io/fstcn'
CAPTIONS = "#| fig-cap: 'A line.'\n#| fig-alt: 'It rises.'\n"
TOY = [
    md(f'# Toy\n\n[The same](#what-is-f), [`f`]({HOME}/toy.html#f), [this](01_other.ipynb#other).'),
    md('## What *is* `f`?'),
    entry('f'),
    py('#| code-fold: show\ndef f(x): return x + 1'),
    py('#| code-fold: show\nclass C:\n    def g(self): return 1'),
    entry('C'),
    entry('C.g'),
    py('#| code-fold: show\n@command\ndef h_command(): print(1)'),
    md('It rises:'),
    py(CAPTIONS + 'plot(f)', shows(image_png='iVBOR')),
    md('A table, and ![a square](square.svg):'),
    md('| a |\n|---|\n| 1 |'),
]
TREE = ast.parse("""
def f(x): return x + 1
class C:
    def g(self): return 1
    def extra_repr(self): return ''
    def _own(self): return 1
@command
def h_command(): print(1)""")


def toy_site(cells=TOY):
    other = SimpleNamespace(html='other.html', cells=[md('## Other')])
    return {'00_toy.ipynb': SimpleNamespace(html='toy.html', cells=cells), '01_other.ipynb': other}


def planted(at, *bad):
    "The cells of the toy, with others in the place of one."
    return [*TOY[:at], *bad, *TOY[at+1:]]


def faults(check, cells):
    "What a check of a page or of the site says of these cells."
    site = toy_site(cells)
    if check is undocumented: return list(check(site['00_toy.ipynb'], TREE))
    return list(check(site if check is dead_links else site['00_toy.ipynb']))


@pytest.mark.parametrize('check', [*CHECKS, undocumented, dead_links], ids=lambda f: f.__name__)
def test_checks_pass(check): assert faults(check, TOY) == []


@pytest.mark.parametrize('check,at,bad,fault', [
    (colons, 9, (), 'nothing follows: ...It rises:'),
    (colons, 11, (), 'nothing follows: ...A table'),
    (colons, 9, [py('#| echo: false\nplot(f)')], 'nothing follows'),
    (links, 0, [md('[[`f`](https://a.b/c)](01_other.ipynb)')], 'two in one'),
    (links, 0, [md('`see [f](http://a.b)`')], 'a link inside code'),
    (links, 0, [md('```\n[f](http://a.b)\n```')], 'a link inside code'),
    (links, 0, [md('[half a link](http://a.b')], 'a link that is none'),
    (figures, 9, [py('plot(f)', shows(image_png='iVBOR'))], 'no fig-alt'),
    (figures, 9, [py("#| fig-alt: ''\n#| fig-cap: 'A'\nplot(f)", shows(image_svg='<svg/>'))],
     'no fig-alt'),
    (figures, 9, [md('![](square.svg)')], 'no alternative text of square.svg'),
    (figures, 9, [md('<img src="square.svg">')], 'no alternative text'),
    (figures, 9, [md('![A square](square.svg)')], 'makes the text a caption'),
    (width, 3, [py('x = ' + '1'*97)], '101 characters'),
    (width, 3, [md('```bash\n' + 'x'*101 + '\n```')], '101 characters'),
    (sources, 2, [entry('f', 'https://github.com/fstcn/fstcn/blob/main/fstcn/toy.py#LNone')],
     'f has no link to its source'),
    (undocumented, 2, (), 'f has no entry'),
    (undocumented, 6, (), 'C.g has no entry'),
    (undocumented, 3, (), 'the source of f is not shown'),
    (undocumented, 7, (), 'the source of h_command is not shown'),
    (undocumented, 8, [entry('h_command')], 'h_command is a command and has a signature'),
    (dead_links, 0, [md('[x](#what-is-g)')], 'no anchor #what-is-g'),
    (dead_links, 0, [md('[x](01_other.ipynb#what)')], 'no anchor 01_other.ipynb#what'),
    (dead_links, 0, [md('[x](02_none.ipynb)')], 'no page 02_none.ipynb'),
    (dead_links, 0, [md(f'[x]({HOME}/toy.html#_f)')], 'no anchor'),
    (dead_links, 0, [md(f'[x]({HOME}/none.html)')], 'no page'),
])
def test_checks_are_red(check, at, bad, fault):
    found = faults(check, planted(at, *bad))
    assert any(fault in f for f in found), found


def test_headings_have_the_anchors_of_pandoc():
    "Pandoc's own examples, and ours."
    for heading, anchor in [
        ('Heading identifiers in HTML', 'heading-identifiers-in-html'),
        ("Maître d'hôtel", 'maître-dhôtel'),
        ('*Dogs*?--in *my* house?', 'dogs--in-my-house'),
        ('[HTML], [S5], or [RTF]?', 'html-s5-or-rtf'),
        ('3. Applications', 'applications'),
        ('33', 'section'),
        ('FstCNConfig.paper', 'fstcnconfig.paper'),
        ('A title {#given}', 'given'),
    ]:
        assert heading_id(heading) == anchor


def test_a_site_that_cannot_be_made_is_red(tmp_path):
    "The page is made by running imports and what is exported, and none of the cells between them."
    sources = ['#| default_exp toy', 'y = 1', 'import math\nz = math.floor(y)']
    cells = [{'cell_type': 'code', 'id': f'c{i}', 'metadata': {}, 'execution_count': None,
              'outputs': [], 'source': source} for i, source in enumerate(sources)]
    cells.insert(1, {'cell_type': 'markdown', 'id': 'm', 'metadata': {}, 'source': '# Toy'})
    cells.insert(2, {**cells[0], 'id': 'e', 'source': '#| exports\ndef f(): return 1'})
    spec = {'language': 'python', 'name': 'python3', 'display_name': 'python3'}
    nb = {'cells': cells, 'metadata': {'kernelspec': spec}, 'nbformat': 4, 'nbformat_minor': 5}
    (tmp_path/'nbs').mkdir()
    (tmp_path/'fstcn').mkdir()
    (tmp_path/'nbs'/'00_toy.ipynb').write_text(json.dumps(nb))
    shutil.copy(ROOT/'settings.ini', tmp_path)
    run = make_site(tmp_path)
    assert run.returncode != 0
    assert 'imports and other code' in run.stderr and 'math.floor(y)' in run.stderr


# --- the built pages ------------------------------------------------------------------------------

def load_script(path):
    "A Python script that has no suffix, as a module."
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


CRAWL = load_script(ROOT/'.ci'/'site')

# what Quarto makes of a page, as far as it is read
BUILT = """<html><head><script>let s = "[f](http://a.b)"</script></head><body>
<nav><a href="../index.html#quarto-anything">Home</a> <a href="https://a.b/c">out</a></nav><main>
<h1 class="title">Toy</h1>
<section id="adding" class="level2"><h2>Adding</h2>
<p><a href="#adding">here</a> <a href="other.html#h">there</a> <a href="/fstcn/">home</a></p>
<p><a href="https://fstcn.github.io/fstcn/paper/other.html#h">by its address</a></p>
<p><a href="https://github.com/fstcn/fstcn/blob/main/fstcn/toy.py#L7">source</a></p>
<section id="f" class="level3"><h3><code>f</code></h3><p>Adds one if x &lt; 1.</p></section>
<div><h3 id="c.g">C.g</h3><p>Gives one.</p></div>
<details><summary>Exported source</summary><pre>def f(x): return x + 1</pre></details>
<p><img src="a.png" alt="A line rises."></p></section></main></body></html>"""


def build(folder, page=BUILT):
    "A built site of three pages, one of them given."
    (folder/'paper').mkdir()
    (folder/'index.html').write_text('<main><a href="paper/toy.html">toy</a></main>')
    (folder/'paper'/'toy.html').write_text(page)
    (folder/'paper'/'other.html').write_text('<main><h2 id="h">Other</h2></main>')
    found = {'objectID': 'paper/toy.html#adding', 'href': 'paper/toy.html#adding', 'title': 'Toy',
             'section': 'Adding', 'text': 'Adds one.', 'crumbs': ['The paper', 'Toy']}
    (folder/'search.json').write_text(json.dumps([found]))


def test_built_pages_pass(tmp_path, capsys):
    build(tmp_path)
    assert CRAWL.main(tmp_path) == 0, capsys.readouterr().out


def test_search_finds_functions(tmp_path):
    build(tmp_path)
    for _ in range(2): CRAWL.main(tmp_path)         # twice is once
    items = json.loads((tmp_path/'search.json').read_text())
    assert [item['href'].partition('#')[2] for item in items] == ['adding', 'f', 'c.g']
    assert items[1] == {
        'objectID': 'paper/toy.html#f', 'href': 'paper/toy.html#f', 'title': 'Toy',
        'section': 'f', 'text': 'Adds one if x &lt; 1.', 'crumbs': ['The paper', 'Toy']}


@pytest.mark.parametrize('good,bad,fault', [
    ('href="#adding"', 'href="#add"', 'no anchor #add'),
    ('other.html#h"', 'other.html#i"', 'no anchor other.html#i'),
    ('href="other.html', 'href="none.html', 'no page none.html'),
    ('fstcn/paper/other.html#h', 'fstcn/paper/other.html#_h', 'no anchor https://'),
    ('fstcn/paper/other.html#h', 'fstcn/paper/none.html#h', 'no page https://'),
    ('Adds one', 'Adds [one](http://a.b)', 'shown as it is written'),
    ('return x + 1', '# see [one](http://a.b)', 'shown as it is written'),
    ('alt="A line rises."', 'alt=""', 'no alternative text of a.png'),
    (' alt="A line rises."', '', 'no alternative text of a.png'),
    ('toy.py#L7', 'toy.py', 'no link to the source'),
    ('toy.py#L7', 'toy.py#LNone', 'without its line'),
])
def test_built_pages_are_red(tmp_path, capsys, good, bad, fault):
    assert good in BUILT
    build(tmp_path, BUILT.replace(good, bad, 1))
    assert CRAWL.main(tmp_path) == 1
    assert fault in capsys.readouterr().out


def test_an_empty_site_is_red(tmp_path):
    (tmp_path/'search.json').write_text('[]')
    assert CRAWL.main(tmp_path) == 1
