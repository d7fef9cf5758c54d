"Archives of scores that are damaged, or say what cannot be."
import struct
import zipfile

import numpy as np
import pytest
import torch

from fstcn.scores import Scores

GOOD = {
    'probs': np.full((3, 2, 18, 4), .25, np.float32),
    'labels': np.array([0, 3, 1]),
    'names': np.array(['a.avi', 'b.avi', 'c.avi']),
    'classes': np.array(['bend', 'clap', 'run', 'walk']),
    'starts': np.zeros((3, 2), np.int64),
}


@pytest.fixture
def file(tmp_path):
    np.savez_compressed(tmp_path/'scores.npz', **GOOD)
    return tmp_path/'scores.npz'


def refused(file, why=''):
    "Whether a file is, in one line that names it."
    try: Scores.load(file)
    except ValueError as e:
        said = str(e)
        assert said.startswith(f'{file}: ') and '\n' not in said and why in said, said
        return True
    return False


@pytest.mark.faults
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_damaged_bytes(file, save):
    "Of damaged archives most are refused; none is another error, and none takes much memory."
    save(file, **GOOD)
    whole, random, n = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 4)):
            damaged[at] = random.integers(0, 256)
        if random.random() < .1: del damaged[random.integers(1, len(whole)):]
        file.write_bytes(damaged)
        n += refused(file)
    assert n > 1000


def changed(archive, name, at, value):
    "Change a field of a member's entry in the directory of an archive."
    data = bytearray(archive.read_bytes())
    entry = data.rindex(f'{name}.npy'.encode()) - 46
    struct.pack_into('<I' if value > 65535 else '<H', data, entry + at, value)
    archive.write_bytes(data)


@pytest.mark.faults
@pytest.mark.parametrize('at, value', [(10, 99), (8, 1), (24, 2**31)])
def test_damaged_directory(file, at, value):
    "A method of compression that is none, a password, sizes that are not there."
    changed(file, 'probs', at, value)
    assert refused(file)


@pytest.mark.faults
@pytest.mark.parametrize('shape', [(10**6, 10**6), (2**62, 4), (3, 2, 18, 5)])
def test_a_shape_that_the_file_does_not_hold(file, shape):
    with zipfile.ZipFile(file, 'w') as z:
        for name, x in GOOD.items():
            with z.open(f'{name}.npy', 'w') as f:
                if name != 'probs': np.lib.format.write_array(f, x)
                else: np.lib.format.write_array_header_1_0(
                    f, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
    assert refused(file, 'probs is not')


@pytest.mark.faults
@pytest.mark.parametrize('name, x, why', [
    ('labels', np.array([0, 4, 1]), 'labels beyond 4 classes'),
    ('labels', np.array([0, -1, 1]), 'labels beyond 4 classes'),
    ('labels', np.array([0, 1]), 'labels are int64 (2,)'),
    ('labels', np.array([0., 1., 2.]), 'labels are float64'),
    ('probs', np.full((3, 2, 18, 4), np.nan, np.float32), 'not in [0,1]'),
    ('probs', np.full((3, 2, 18, 4), -3, np.float32), 'not in [0,1]'),
    ('probs', np.full((3, 2, 18, 4), 7, np.float32), 'not in [0,1]'),
    ('probs', np.ones((3, 2, 18, 4), int), 'probs are int64'),
    ('probs', np.ones((3, 4), np.float32), 'probs are float32 (3, 4)'),
    ('probs', np.ones((0, 2, 18, 4), np.float32), 'probs are float32 (0, 2, 18, 4)'),
    ('names', np.array(['a.avi']), 'names are'),
    ('names', np.array([1, 2, 3]), 'names are int64'),
    ('names', np.array('a.avi'), 'names are'),
    ('classes', np.array(['bend', 'clap', 'run']), 'classes are'),
    ('classes', np.array(['bend', 'clap', 'run', 'run']), 'not told apart'),
    ('starts', np.zeros((2, 2), np.int64), 'starts are'),
    ('starts', np.array(['x']), 'starts are'),
])
def test_contents_that_cannot_be(file, name, x, why):
    np.savez(file, **GOOD | {name: x})
    assert refused(file, why)


def test_what_is_whole_comes_back(file):
    got = Scores.load(file)
    assert torch.equal(got.probs, torch.from_numpy(GOOD['probs']))
    assert got.names == tuple(GOOD['names']) and got.classes == tuple(GOOD['classes'])
    assert got.labels.tolist() == [0, 3, 1] and got.starts.shape == (3, 2)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.npz'): Scores.load(tmp_path/'none.npz')
