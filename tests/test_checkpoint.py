"Every way in which a checkpoint can be unusable, and what is said of it."
import json
import os
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from fstcn.checkpoint import (
    CheckpointError,
    ForeignFileError,
    TrainedOn,
    _trained_on,
    load_checkpoint,
    save_checkpoint,
)
from fstcn.model import FstCN, FstCNConfig

NAMES = ('bend', 'clap', 'run', 'walk')


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return FstCN(FstCNConfig.small(4, crop_size=76, short_side=76)).eval()


def write(path, head=None):
    "A safetensors file of one number, with that head."
    metadata = None if head is None else {'fstcn': json.dumps(head)}
    save_file({'w': torch.ones(1)}, path, metadata=metadata)
    return path


def refusal(path, kind=CheckpointError):
    "What is said of a file; the error is of that kind, not of one derived from it."
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert type(caught.value) is kind
    return str(caught.value)


def test_who_may_read_it_is_the_users_choice(tmp_path, small):
    "Not that of safetensors."
    umask = os.umask(0o027)
    try:
        file = save_checkpoint(tmp_path/'net.safetensors', small, NAMES)
    finally:
        os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_network_that_could_not_be_loaded_is_not_saved(tmp_path, small):
    class Unknown(FstCN):
        pass

    with pytest.raises(ValueError, match='put @register_network above its class'):
        save_checkpoint(tmp_path/'net.safetensors', Unknown(small.config), NAMES)


def test_missing_file(tmp_path):
    assert 'none.safetensors: no such file' in refusal(tmp_path/'none.safetensors')


def test_torn_file(tmp_path, small):
    file = save_checkpoint(tmp_path/'torn.safetensors', small, NAMES)
    file.write_bytes(file.read_bytes()[:5000])
    assert 'torn.safetensors: not a readable safetensors file' in refusal(file)


def test_text_file(tmp_path):
    (tmp_path/'text.txt').write_text('hello')
    assert 'not a readable safetensors file' in refusal(tmp_path/'text.txt')


def test_file_of_somebody_else(tmp_path):
    file = write(tmp_path/'other.safetensors')
    assert 'but not of fstcn' in refusal(file, ForeignFileError)


def test_head_without_a_format(tmp_path):
    file = write(tmp_path/'odd.safetensors', {'config': {}})
    assert 'but not of fstcn' in refusal(file, ForeignFileError)


@pytest.mark.parametrize('head, said', [
    ({'format': 9}, 'newer than this version'),
    ({'format': 1, 'config': {}}, 'header cannot be used'),
    ({'format': 1, 'config': {'n_classes': 2, 'wings': 4}}, 'wings'),
    ({'format': 1, 'config': {'n_classes': 2}, 'classes': ['a', 'b'], 'info': {}}, 'do not fit'),
    ({'format': 2, 'network': 'Wings'}, "'Wings' is none of the networks"),
])
def test_head_that_cannot_be_used(tmp_path, head, said):
    assert said in refusal(write(tmp_path/'odd.safetensors', head))


def knows(head):
    "What a head says, by way of JSON."
    return _trained_on(json.loads(json.dumps(head)))


def test_what_older_files_know_of_their_videos():
    assert knows({'info': {}}) == TrainedOn()
    assert knows({'info': {'train': {}}}) == TrainedOn(complete=False)
    assert knows({'info': {'seen': '? 1f 2c', 'train': {}}}) == TrainedOn(('1f', '2c'), False)


@pytest.mark.parametrize('known', [TrainedOn(), TrainedOn(('1f', '2c'), False)])
def test_what_a_file_knows_of_its_videos(known):
    assert knows({'trained_on': asdict(known)}) == known
