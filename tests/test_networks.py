"Every network of Tables 1 to 4 is kept in a file, comes back as it was, and answers as before."
from dataclasses import asdict

import pytest
import torch
from typer.testing import CliRunner

from fstcn.writing import write_video
from fstcn.checkpoint import load_checkpoint, save_checkpoint
from fstcn.inference import Recognizer
from fstcn.plan import BUILDERS
from fstcn.cli import app

CLASSES = ('bend', 'clap', 'run', 'walk')


@pytest.fixture(scope='module')
def frames():
    "A short film of noise that moves, uint8 (t,h,w,3)."
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(256, (15, 20, 3), generator=generator, dtype=torch.uint8)
    base = base.repeat_interleave(8, 0).repeat_interleave(8, 1)                   # 120 x 160 pixels
    return torch.stack([base.roll((i, 3*i), (0, 1)) for i in range(50)])


def make(name):
    "A small network of that name whose probabilities differ from class to class."
    torch.manual_seed(0)
    model = BUILDERS[name](len(CLASSES), 'small').eval()
    classifier_weight = list(model.parameters())[-2]
    torch.nn.init.normal_(classifier_weight)
    return model


@pytest.mark.parametrize('name', BUILDERS)
def test_a_network_comes_back_as_it_was(tmp_path, frames, name):
    model = make(name)
    again, classes, _ = load_checkpoint(save_checkpoint(tmp_path/'net.safetensors', model, CLASSES))
    assert type(again) is type(model) and again.config == model.config and classes == CLASSES
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    config = model.config
    wanted = torch.from_numpy(config.clip.frames(3, len(frames)))
    crop = frames[wanted][None, ..., :config.crop_size, :config.crop_size, :]
    middle = torch.tensor([config.n_frames//2])
    with torch.no_grad():
        ours = model(*model.prepare(crop, middle)).softmax(-1)
        theirs = again(*again.prepare(crop, middle)).softmax(-1)
    assert torch.equal(ours, theirs) and ours.std() > 1e-4


@pytest.mark.parametrize('name', ['both', 'signed', 'slow-fusion'])
def test_a_recognizer_answers_as_before(tmp_path, frames, name):
    model = make(name)
    file = save_checkpoint(tmp_path/'net.safetensors', model, CLASSES)
    ours = Recognizer(model, CLASSES, device='cpu').predict(frames)
    theirs = Recognizer.load(file, device='cpu').predict(frames)
    assert torch.equal(ours.views, theirs.views) and ours.labels == theirs.labels


def test_switches_change_the_answer(tmp_path, frames):
    "Or the tests above would say nothing about them."
    views = {}
    for name in ('both', 'signed', 'p-identity', 'stride-1', 'dt-1'):
        model = make(name)
        paper = BUILDERS['both'](len(CLASSES), 'small').config
        assert name == 'both' or asdict(model.config) != asdict(paper)
        views[name] = Recognizer(model, CLASSES, device='cpu').predict(frames).views
    for name in set(views) - {'both'}: assert not torch.equal(views[name], views['both'])


RIVALS = ('signed', 'p-identity', 'conv3d', 'slow-fusion', 'two-stream-temporal')


@pytest.mark.parametrize('name', RIVALS)
def test_commands_take_any_network(tmp_path, frames, name):
    "`predict`, `explain` and `info` on a checkpoint of a rival or an ablation."
    model = make(name)
    file = save_checkpoint(tmp_path/'net.safetensors', model, CLASSES)
    film = write_video(tmp_path/'film.avi', frames)
    run = CliRunner().invoke
    got = run(app, ['predict', str(film), '-c', str(file), '--clips', '1'])
    expected = Recognizer(model, CLASSES, n_clips=1, device='cpu').predict(film).labels
    labels = [line.split()[-1] for line in got.stdout.splitlines()]
    assert got.exit_code == 0 and labels == list(expected)
    got = run(app, ['info', str(file)])
    assert got.exit_code == 0 and 'GFLOP' in got.stdout
    assert f'network     {type(model).__name__}' in got.stdout
    seen = tmp_path/'seen'
    got = run(app, ['explain', str(film), '-c', str(file), '--clips', '1', '--out', str(seen)])
    assert got.exit_code == 0, got.output
    assert {p.suffix for p in seen.iterdir()} == {'.mp4', '.png'}
