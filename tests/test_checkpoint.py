"Every way in which a checkpoint can be unusable, and what is said of it."
import json
import os
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fstcn.checkpoint import (
    CheckpointError,
    ForeignFileError,
    TrainedOn,
    _trained_on,
    load_checkpoint,
    save_checkpoint,
)
from fstcn.model import FstCN, FstCNConfig
from odd import ODD, places, with_odd

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


NAMED = {'format': 2, 'classes': ['a', 'b'], 'info': {}}


@pytest.mark.parametrize('head, said', [
    ({'format': 9}, 'newer than this version'),
    ({'format': 1, 'config': {}}, 'header cannot be used'),
    (NAMED | {'config': {'wings': 1}}, 'wings'),
    (NAMED | {'config': {'n_classes': 2}}, 'do not fit'),
    (NAMED | {'config': {}, 'network': 'Wings'}, "'Wings' is none of the networks"),
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


def head_of(file):
    with safe_open(file, 'pt') as f:
        return json.loads(f.metadata()['fstcn'])


@pytest.mark.faults
def test_an_odd_head_is_refused_or_does_no_harm(tmp_path):
    "Numbers for names, null, lists, sizes beyond all measure: nothing but a CheckpointError."
    config = FstCNConfig.small(4, crop_size=76, short_side=76, fc_sizes=(8, 8), path='scl')
    net = FstCN(config).eval()
    net.trained_on = TrainedOn(('1f', '2c'), False)
    file = save_checkpoint(tmp_path/'net.safetensors', net, NAMES, data={'name': 'x'}, seed=0)
    weights, head = load_file(file), head_of(file)
    odd = tmp_path/'odd.safetensors'
    refused = 0
    for at in places(head):
        for value in ODD:
            text = json.dumps(with_odd(head, at, value))
            save_file(weights, odd, metadata={'fstcn': text})
            try: model, classes, info = load_checkpoint(odd)
            except CheckpointError as e:
                assert str(e).startswith(str(odd)) and '\n' not in str(e) and len(str(e)) < 500
                refused += 1
            else:
                assert set(map(type, classes)) == {str} and isinstance(info, dict), (at, value)
                assert isinstance(model.trained_on.complete, bool)
                config = model.config
                assert 2*config.n_frames*config.short_side**2 <= 2**26
    assert refused > 300


@pytest.mark.faults
def test_brackets_without_an_end_are_no_head(tmp_path):
    save_file({'w': torch.ones(1)}, tmp_path/'deep.safetensors', metadata={'fstcn': '['*100_000})
    assert 'nested too deeply' in refusal(tmp_path/'deep.safetensors')


@pytest.mark.faults
@pytest.mark.parametrize('change', [
    lambda x: x.int(), lambda x: x.to(torch.float8_e4m3fn), lambda x: x[..., None], lambda x: x[:1],
])
def test_weights_of_another_form(tmp_path, small, change):
    file = save_checkpoint(tmp_path/'net.safetensors', small, NAMES)
    weights = load_file(file)
    text = json.dumps(head_of(file))
    changed = weights | {'scl.conv1.bias': change(weights['scl.conv1.bias']).contiguous()}
    save_file(changed, file, metadata={'fstcn': text})
    assert 'weights' in refusal(file)
