"""What no cell can check about the package as a whole.

It imports on its own, its imports point in one direction, and every public name is documented.
"""
import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
import torch
from fastcore.docments import docments

import fstcn

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    m.name for m in pkgutil.walk_packages(fstcn.__path__, 'fstcn.')
    if not m.name.rpartition('.')[2].startswith('_')
]
SYMBOLS = [(m, n) for m in MODULES for n in importlib.import_module(m).__all__]
HEAVY = {
    'torch', 'torchvision', 'accelerate', 'numpy', 'pandas', 'matplotlib', 'seaborn', 'cv2', 'av',
    'decord'
}
SLOW = {
    'torchvision', 'pandas', 'sklearn', 'scipy', 'matplotlib', 'seaborn', 'accelerate', 'decord'
}
DEV_ONLY = {'nbdev', 'execnb', 'fastcore', 'ghapi', 'IPython', 'pytest'}
HOOKS = {'extra_repr'}       # called by PyTorch, never by a reader


def fresh(code, cwd):
    """What `code` prints as JSON, run by a fresh interpreter from a folder that is not the
    repository."""
    run = subprocess.run(
        [sys.executable, '-W', 'error::SyntaxWarning', '-c', code], cwd=cwd, capture_output=True,
        text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# --- imports

def test_found():
    "Zero matches would make every parametrized test below pass."
    assert len(SYMBOLS) >= 10


def test_every_public_name_exists_in_a_fresh_process(tmp_path):
    code = f'''
import importlib, json, sys
sys.modules['ipywidgets'] = None    # where it is, seaborn takes it, and IPython with it
missing = []
for name in {MODULES!r}:
    module = importlib.import_module(name)
    missing += [f"{{name}}.{{n}}" for n in module.__all__ if not hasattr(module, n)]
print(json.dumps([missing, sorted({DEV_ONLY!r} & set(sys.modules))]))'''
    missing, dev_only = fresh(code, tmp_path)
    assert not missing
    assert not dev_only, 'the package needs these to run, and its users do not have them'


@pytest.mark.parametrize(
    'module,unwanted', [('fstcn', HEAVY), ('fstcn.cli', HEAVY), ('fstcn.inference', SLOW)]
)
def test_light_import(module, unwanted, tmp_path):
    """`fstcn --help` answers at once, `fstcn predict` soon: nothing heavy is imported before it is
    needed."""
    code = f'import json, sys, {module}; print(json.dumps(sorted({unwanted!r} & set(sys.modules))))'
    assert fresh(code, tmp_path) == []


def order():
    "Module name to position in the reading order, from the notebooks' numbers."
    stems = [nb.stem for nb in (ROOT/'nbs').rglob('[0-9]*.ipynb')]
    return {stem.partition('_')[2]: stem for stem in stems}


def siblings(source):
    "The modules of fstcn that `source` imports, at its top or inside a function."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name.split('.')[1] for a in node.names if a.name.startswith('fstcn.')}
        elif isinstance(node, ast.ImportFrom):
            if node.module == 'fstcn' or (node.level and not node.module):
                found |= {a.name for a in node.names if a.name != '__version__'}
            elif node.level: found.add(node.module.split('.')[0])
            elif node.module.startswith('fstcn.'): found.add(node.module.split('.')[1])
    return found


@pytest.mark.parametrize('module', MODULES)
def test_imports_point_down(module):
    """A module imports lower-numbered modules only, so that the reading order is the dependency
    order."""
    name, rank = module.partition('.')[2], order()
    assert name in rank, f'{module} has no notebook'
    source = (ROOT/'fstcn'/f'{name}.py').read_text(encoding='utf-8')
    assert not [m for m in siblings(source) if rank[m] >= rank[name]]


def test_siblings():
    lines = [
        'import fstcn.a, os', 'import fstcn.b as b', 'from fstcn.c import x', 'from .d import y',
        'from . import e', 'from fstcn import f, __version__',
        'def fn():', '    from fstcn.g.h import z',
    ]
    assert siblings('\n'.join(lines)) == set('abcdefg')


# --- documentation

def function_in(o):
    """The plain function inside a property, class method, static method or decorated function; None
    where there is none."""
    if isinstance(o, property): o = o.fget
    elif isinstance(o, functools.cached_property): o = o.func
    o = getattr(o, '__func__', o)
    o = inspect.unwrap(o) if callable(o) else None
    return o if inspect.isfunction(o) else None


def function_faults(f, where, docstring=True):
    "What function `f` leaves undocumented."
    faults = [] if not docstring or f.__doc__ else [f'{where} has no docstring']
    sig, docs = inspect.signature(f), docments(f, args_kwargs=True)
    for p in sig.parameters.values():
        if p.name in ('self', 'cls', 'args', 'kwargs'): continue
        variadic = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        # the command line's options carry their own help
        helped = [*getattr(p.annotation, '__metadata__', ()), p.default]
        if p.annotation is p.empty and not variadic:
            faults.append(f'{where}({p.name}) has no annotation')
        if not docs.get(p.name) and not any(getattr(h, 'help', None) for h in helped):
            faults.append(f'{where}({p.name}) has no comment')
    if f.__name__ == '__init__': return faults
    if sig.return_annotation is sig.empty: faults.append(f'{where} has no return annotation')
    elif sig.return_annotation not in (None, 'None') and not docs.get('return'):
        faults.append(f"{where}'s return has no comment")
    return faults


def members(cls):
    """The functions of `cls` that its users call: the constructor, `forward`, public methods and
    properties."""
    for name, m in vars(cls).items():
        if name in ('__init__', '__call__') or not (name.startswith('_') or name in HOOKS):
            f = function_in(m)
            # not the constructor that a Protocol is given
            if f and f.__module__ == cls.__module__: yield name, f


def class_faults(cls):
    """What class `cls` leaves undocumented. An inherited docstring or the one a dataclass makes up
    is none."""
    name, doc = cls.__name__, vars(cls).get('__doc__')
    faults = []
    if not doc or doc.startswith(f'{name}('): faults.append(f'{name} has no docstring of its own')
    if dataclasses.is_dataclass(cls):
        docs, own = docments(cls), inspect.get_annotations(cls)
        for f in dataclasses.fields(cls):
            if f.name in own and f.init and not docs.get(f.name):
                faults.append(f'{name}.{f.name} has no comment')
    for m, f in members(cls):
        if m == '__init__' and dataclasses.is_dataclass(cls): continue
        faults += function_faults(f, f'{name}.{m}', docstring=not m.startswith('_'))
    return faults


def faults_of(o):
    "What public object `o` leaves undocumented; constants and instances have nothing to say."
    if inspect.isclass(o): return class_faults(o)
    f = function_in(o)
    return function_faults(f, f.__name__) if f else []


@pytest.mark.parametrize('module,name', SYMBOLS)
def test_documented(module, name):
    assert not faults_of(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize('module', MODULES)
def test_module_docstring(module):
    "The notebook's title cell holds a title and one sentence, which is the module's docstring."
    assert re.fullmatch(r'\S.*[.!?]', importlib.import_module(module).__doc__ or '')


# --- a test of the test: every rule goes red on an offender, and a well-documented toy passes

def good(
    x:int, # the number
    *rest:int, # more numbers
    scale:float=1., # a factor
) -> float: # their scaled sum
    "Sum and scale."
    return scale*(x+sum(rest))

def no_docstring(
    x:int, # the number
) -> int: # the number again
    return x

def no_comment(x:int) -> int: # the number again
    "Return `x`."
    return x

def no_annotation(
    x=3, # the number
) -> int: # the number again
    "Return `x`."
    return x

def no_return(
    x:int, # the number
):
    "Return `x`."
    return x

def no_return_comment(
    x:int, # the number
) -> int:
    "Return `x`."
    return x

def two_to_a_line(
    x:int, y:int, # the numbers
) -> int: # their sum
    "Sum."
    return x+y

@contextlib.contextmanager
def bad_context():
    yield

class Good:
    "Counts."
    def __init__(self,
        start:int=0, # first number
    ): self.n = start

    @property
    def now(self) -> int: # the count
        "Where the count stands."
        return self.n

    @classmethod
    def zero(cls) -> 'Good': # a fresh counter
        "Start at zero."
        return cls(0)

    def reset(self) -> None:
        "Start again."
        self.n = 0

    def __len__(self): return self.n

class Heir(Good):
    pass

class BadForward(torch.nn.Module):
    "Has an undocumented forward."
    def forward(self, x): return x

class InheritedDoc(Good):
    "Documents nothing of what it changes."
    def reset(self) -> None: self.n = 1

class BadInit:
    "Has an undocumented constructor."
    def __init__(self, start): self.n = start

class BadProperty:
    "Has an undocumented property."
    @property
    def now(self): return 0

class Readable(Protocol):
    "Has a constructor that it did not write."
    def read(self) -> int: # bytes read
        "Read."

class BadCached:
    "Has an undocumented cached property."
    @functools.cached_property
    def now(self): return 0

class BadStatic:
    "Has an undocumented static method."
    @staticmethod
    def now(): return 0

@dataclasses.dataclass
class GoodFields:
    "A point."
    x:int # to the right
    y:int = 0 # upwards

@dataclasses.dataclass
class BadFields:
    "A point."
    x:int # to the right
    y:int = 0

@dataclasses.dataclass
class MadeUpDoc:
    x:int # to the right


@pytest.mark.parametrize('o', [good, Good, GoodFields, Readable, 3, 'text', len])
def test_documented_passes(o): assert faults_of(o) == []


@pytest.mark.parametrize('o,fault', [
    (no_docstring, 'no docstring'),
    (no_comment, '(x) has no comment'),
    (no_annotation, '(x) has no annotation'),
    (no_return, 'no return annotation'),
    (no_return_comment, 'return has no comment'),
    (two_to_a_line, '(x) has no comment'),
    (bad_context, 'bad_context has no docstring'),
    (Heir, 'no docstring of its own'),
    (BadForward, 'BadForward.forward(x) has no annotation'),
    (BadForward, 'BadForward.forward has no docstring'),
    (InheritedDoc, 'InheritedDoc.reset has no docstring'),
    (BadInit, 'BadInit.__init__(start) has no comment'),
    (BadProperty, 'BadProperty.now has no docstring'),
    (BadCached, 'BadCached.now has no docstring'),
    (BadStatic, 'BadStatic.now has no docstring'),
    (BadFields, 'BadFields.y has no comment'),
    (MadeUpDoc, 'MadeUpDoc has no docstring'),
])
def test_documented_is_red(o, fault): assert any(fault in f for f in faults_of(o)), faults_of(o)
