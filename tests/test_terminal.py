"What the surroundings of a command are like: another code page, what an earlier run left there."
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from fstcn.checkpoint import save_checkpoint
from fstcn.cli_reproduce import _parse_numbers
from fstcn.letters import legible
from fstcn.model import FstCN, FstCNConfig
from fstcn.inference import Recognizer
from fstcn.timeline import Timeline
from fstcn.visualize import explain, plot_confusion
from fstcn.writing import write_video

NAMES = ('歩く', '走る', 'bücken')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Videos of three classes in a folder each, and a network that knows them."
    folder = tmp_path_factory.mktemp('names')
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder/'data'/name).mkdir(parents=True)
        for i in range(2):
            film = rng.integers(0, 256, (12, 80, 90, 3), dtype=np.uint8)
            write_video(folder/'data'/name/f'{i}.avi', film)
    torch.manual_seed(0)
    config = FstCNConfig.small(3, crop_size=76, short_side=80, n_clips=1)
    save_checkpoint(folder/'net.safetensors', FstCN(config), NAMES)
    return folder


def command(folder, line, **environment):
    "Status, stdout and stderr of a command, as bytes."
    start = 'from fstcn.cli import main; main()'
    ended = subprocess.run(
        [sys.executable, '-c', start, *line.split()], cwd=folder, capture_output=True,
        env={**os.environ, **environment})
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.faults
def test_a_terminal_that_lacks_the_letters(folder):
    "What it has no letters for is escaped; the result is there."
    code, out, err = command(
        folder, 'predict data/bücken/0.avi -c net.safetensors', PYTHONIOENCODING='cp1252')
    assert (code, err) == (0, b''), err
    assert rb'\u6b69\u304f' in out and out.count(b' %  ') == 3, out


@pytest.mark.faults
def test_what_an_earlier_run_left_in_the_environment(folder, tmp_path):
    "One process is the first one, whatever its number was to be: it prints and writes."
    line = f'evaluate data -c net.safetensors --all --out {tmp_path}'
    code, out, err = command(folder, line, PYTHONIOENCODING='utf-8', RANK='3')
    assert code == 0 and b'6 of 6 videos scored' in out, err
    assert {'record.json', 'scores.npz', 'confusion.png'} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.faults
@pytest.mark.parametrize('text', ['1-999999999', '0-1000', '9'*5000, '1,2-2000', '3-1', '', 'x'])
def test_numbers_beyond_all_measure(text):
    with pytest.raises(ValueError, match='--splits must be numbers .*; at most 1,000') as said:
        _parse_numbers(text, '--splits')
    assert len(str(said.value)) < 200


def test_as_many_numbers_as_there_may_be():
    assert len(_parse_numbers('0-999', '--seeds')) == 1000


@pytest.mark.faults
def test_pictures_of_any_names(folder):
    "Their letters, or an escape, and no warning of Matplotlib's."
    names = [*NAMES, 'a\U0010fffd', '$x$']
    shown = legible(names)[1]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure = plot_confusion(torch.eye(5), names, '歩く')
        figure.canvas.draw()
        line = Timeline(tuple(names), torch.arange(4.), torch.full((4, 5), .2), 4., '')
        drawn = line.plot()
        drawn.canvas.draw()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == shown
    legend = {t.get_text() for t in drawn.axes[0].get_legend().get_texts()}
    assert legend == set(shown)


@pytest.mark.faults
@pytest.mark.parametrize('name', ['a'*250, '歩'*83, 'a b'])
def test_explained_under_a_long_name(folder, tmp_path, name):
    (tmp_path/f'{name}.avi').write_bytes((folder/'data'/'bücken'/'0.avi').read_bytes())
    recognizer = Recognizer.load(folder/'net.safetensors', 'cpu', n_clips=1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = explain(recognizer, tmp_path/f'{name}.avi', tmp_path/'out', 'bücken')
    assert got.film.exists() and got.sheet.exists()
    assert got.film.stem == got.sheet.stem and got.film.stem.startswith(name[:60].replace(' ', '_'))
