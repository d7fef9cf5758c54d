"What the notebook leaves out: several processes, kills, a full disk, and every refusal."
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fstcn.training
from fstcn.model import FstCN, FstCNConfig
from fstcn.learning import LearningConfig, TrainingError, fit
from fstcn.files import PART
from fstcn.writing import write_video
from fstcn.decoding import VideoError
from fstcn.splits import Video
from fstcn.loading import VideoReader
from fstcn.checkpoint import (
    CheckpointError, load_checkpoint, read_tensors, save_checkpoint, write_tensors,
)
from fstcn.runs import STATE, Run, TrainConfig, make_accelerator
from fstcn.initialization import Beginning, initialize
from fstcn.validation import validate
from fstcn.training import train
from odd import ODD, busy, places, with_odd

TINY = {
    'crop_size': 76, 'short_side': 80, 'n_frames': 3, 'scl_channels': (8, 12, 16, 16),
    'spatial_channels': 8, 'temporal_channels': 16, 'permuted_channels': 16,
    'fc_sizes': (32, 32), 'fusion_size': 32, 'dropout': 0.,
}

DRIVER = '''
import json, sys
from pathlib import Path
import torch
from fstcn.datasets import Video
from fstcn.model import FstCN, FstCNConfig
from fstcn.training import TrainConfig, train

if __name__ == '__main__':
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    tiny, out, valid = options.pop('tiny'), options.pop('out'), options.pop('valid', 0)
    videos = [Video(folder/f'{i}.avi', i % 2) for i in range(7)]
    torch.manual_seed(0)
    net = FstCN(FstCNConfig.small(2, **tiny))
    config = TrainConfig(**{'batch_size': 4, 'workers': 1, **options})
    train(net, videos, config, out=folder/out, device='cpu', progress=False,
          valid=videos[:valid], resume=True)
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Seven videos of a disc that falls or rises, and the script that trains on them."
    folder = tmp_path_factory.mktemp('training')
    y, x = np.mgrid[:80, :96]
    discs = np.stack([(y - 10 - 1.7*i)**2 + (x - 48)**2 < 81 for i in range(36)])
    falling = (discs[..., None]*np.array([200, 160, 60]) + 20).astype(np.uint8)
    for i in range(7):
        write_video(folder/f'{i}.avi', falling[::-1] if i % 2 else falling)
    (folder/'driver.py').write_text(DRIVER)
    return folder


def start(folder, processes=1, **options):
    launch = []
    if processes > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
    return subprocess.Popen(
        [sys.executable, *launch, *command(folder, 'driver.py', options)], env=one_thread(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def command(folder, script, options):
    "The script with its two arguments; the size of the network and its dropout go along."
    options = dict(options)
    tiny = TINY | {'dropout': options.pop('dropout', 0.)}
    return [str(folder/script), str(folder), json.dumps(options | {'tiny': tiny})]


def one_thread(): return {**os.environ, 'OMP_NUM_THREADS': '1'}


def finish(folder, **options):
    "Run to the end; the weights, and the history."
    process = start(folder, **options)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    file = folder/options['out']/'model.safetensors'
    _, _, info = load_checkpoint(file)
    return load_file(file), info['history']


def same_weights(a, b): return all(torch.equal(a[k], b[k]) for k in b)


# --- several processes ---------------------------------------------------------------------------

@pytest.fixture(scope='module')
def alone(folder): return finish(folder, out='alone', epochs=2, valid=3)


MEASURES = (
    'loss', 'accuracy', 'gradient', 'cut', 'valid_loss', 'valid_clip_top1', 'valid_video_top1')


@pytest.mark.parametrize('options', [
    pytest.param({'processes': 2}, id='two processes'),
    pytest.param({'processes': 2, 'accumulate': 2}, id='two processes, two parts each'),
])
def test_processes_share_the_batch(folder, alone, options):
    "Batches of four and of three: equal and unequal shares, and with two parts an empty one."
    out = '-'.join(map(str, options.values()))
    weights, history = finish(folder, out=out, epochs=2, valid=3, **options)
    weights_alone, history_alone = alone
    for name, w in weights.items():
        torch.testing.assert_close(w, weights_alone[name], rtol=1e-5, atol=1e-6)
    for a, b in zip(history, history_alone, strict=True):
        for key in MEASURES:
            assert a[key] == pytest.approx(b[key], rel=1e-5), key


# --- a run that is killed ------------------------------------------------------------------------

@pytest.mark.faults
def test_killed_and_resumed_is_the_same_run(folder):
    "SIGKILL at random moments, workers included, until the run is over: the same bits as without."
    options = dict(epochs=60, dropout=.5, save_every=0.)
    whole, history = finish(folder, out='whole', **options)
    draw, kills, seen = random.Random(0), 0, []
    state = folder/'killed'/STATE
    while True:
        process, begun = start(folder, out='killed', **options), time.monotonic()
        wait = draw.uniform(.02, .4)
        before = state.stat().st_mtime_ns if state.exists() else None
        # let it get as far as saving something, then some
        while process.poll() is None and time.monotonic() - begun < 120:
            if state.exists() and state.stat().st_mtime_ns != before: break
            time.sleep(.01)
        try:
            process.wait(wait if kills < 4 else 300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
        if process.returncode == 0: break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
        seen.append(read_tensors(state)[1]['step'])         # whole, whatever moment it was
    assert process.returncode == 0 and kills >= 3
    assert seen == sorted(seen) and 0 < seen[0] < 120
    last = folder/'killed'/'model.safetensors'
    assert same_weights(load_file(last), whole)
    _, _, info = load_checkpoint(last)
    for key in ('loss', 'gradient', 'cut'):
        assert [r[key] for r in info['history']] == [r[key] for r in history]
    files = sorted(p.name for p in last.parent.iterdir())
    assert files == ['history.csv', 'model.safetensors', 'train.json']


FULL = '''
    import resource, signal
    from fstcn.runs import Run
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save = Run.save
    def full(run):
        if run.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
        save(run)
    Run.save = full
'''


@pytest.mark.slow
def test_full_disk_keeps_the_state(folder):
    "The system refuses to write the whole file; the state before is still there, and serves."
    main = "if __name__ == '__main__':\n"
    (folder/'limited.py').write_text(DRIVER.replace(main, main + FULL))
    options = {'out': 'full', 'epochs': 3, 'dropout': .5, 'save_every': 0., 'workers': 0}
    run = subprocess.run(
        [sys.executable, *command(folder, 'limited.py', options)], env=one_thread(),
        capture_output=True, text=True, timeout=300)
    assert run.returncode != 0 and 'state.safetensors: cannot be written' in run.stderr, run.stderr
    _, head = read_tensors(folder/'full'/STATE)
    assert head['step'] == 2
    assert not list((folder/'full').glob(f'{PART}*'))
    weights, _ = finish(folder, **options)
    whole, _ = finish(folder, **{**options, 'out': 'roomy'})
    assert same_weights(weights, whole)


# --- settings ------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, value', [
    ('epochs', 0),
    ('lr', 0.),
    ('clip_norm', 0.),
    ('clip_norm', float('nan')),
    ('bias_lr', 0.),
    ('timeout', 0.),
    ('batch_size', 0),
    ('accumulate', 0),
    ('validate_every', 0),
])
def test_settings_that_must_be_positive(name, value):
    with pytest.raises(ValueError, match='must be positive'):
        TrainConfig(**{name: value})


@pytest.mark.parametrize('name, value', [
    ('warmup', -1),
    ('warmup', 1),
    ('momentum', -.1),
    ('momentum', 1.),
    ('lr_steps', (0, .5)),
    ('lr_steps', (.5, 2)),
    ('weight_decay', -1e-4),
])
def test_settings_that_have_a_range(name, value):
    with pytest.raises(ValueError, match=r'must be in \[0,1\)'):
        TrainConfig(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    TrainConfig(warmup=0, momentum=0, lr_steps=(1,), weight_decay=0, workers=0, clip_norm=None)


def test_settings_that_are_a_choice():
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        TrainConfig(on_error='ignore')


def test_workers_are_none_or_some():
    with pytest.raises(ValueError, match='workers must not be negative'):
        TrainConfig(workers=-1)


def test_the_settings_of_a_run_are_found_where_it_is_trained():
    assert fstcn.training.TrainConfig is TrainConfig
    assert isinstance(TrainConfig.small(), TrainConfig)
    assert (TrainConfig.small().batch_size, TrainConfig.small().lr) == (16, .03)


# --- the loop over videos in memory --------------------------------------------------------------

@pytest.fixture
def noise():
    "Three videos of different length and size; the last one is shorter than a clip pair."
    draw = np.random.default_rng(0)
    sizes = (40, 80, 96), (30, 90, 80), (12, 80, 80)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize('path', ['both', 'scl', 'tcl'])
def test_the_loop_is_what_a_run_does(noise, path):
    "Bit for bit, with dropout, uneven batches, other settings and a last batch of one."
    settings = {'epochs': 3, 'batch_size': 2, 'lr': .02, 'clip_norm': None, 'seed': 4}

    class Memory:
        def n_frames(self, path): return len(noise[int(path)])
        def read_frames(self, path, indices): return torch.from_numpy(noise[int(path)][indices])

    torch.manual_seed(0)
    loop, run = fresh(path=path, dropout=.5), fresh(path=path, dropout=.5)
    run.load_state_dict(loop.state_dict())
    history = fit(loop, noise, [0, 1, 1], LearningConfig(**settings))
    names = [Video(str(i), label) for i, label in enumerate([0, 1, 1])]
    rows = train(run, names, TrainConfig(workers=0, **settings), Memory(), device='cpu',
                 progress=False)
    assert [row['loss'] for row in rows] == [row['loss'] for row in history]
    for key in ('accuracy', 'gradient', 'cut'):
        assert [row[key] for row in rows] == [row[key] for row in history]
    assert same_weights(run.state_dict(), loop.state_dict())
    assert not loop.training


def test_the_loop_stops_where_the_network_breaks_down(noise):
    network = fresh()
    network.classifier.bias.data[0] = float('nan')
    with pytest.raises(TrainingError, match='the loss is nan at learning rate .*: lower it'):
        fit(network, noise, [0, 1, 1], LearningConfig(epochs=1))


# --- the folder of a run -------------------------------------------------------------------------

def fresh(n_classes=2, **kwargs): return FstCN(FstCNConfig.small(n_classes, **{**TINY, **kwargs}))


@pytest.fixture(scope='module')
def videos(folder): return [Video(folder/f'{i}.avi', i % 2) for i in range(4)]


def attempt(videos, reader=None, out=None, resume=False, **settings):
    "Train a new network; the rows of history."
    config = TrainConfig(**{'epochs': 1, 'batch_size': 2, 'workers': 0, **settings})
    return train(fresh(), videos, config, reader, out=out, device='cpu', progress=False,
                 resume=resume)


@pytest.mark.parametrize('every, waits', [(60., 190.), (300., 300.), (0., .01)])
def test_saving_takes_a_twentieth_of_the_time_at_most(videos, tmp_path, every, waits):
    "By a clock that the test moves: saving takes ten seconds."
    now = [0.]
    def saving(*args, **head): now[0] += 10
    config, accelerator = TrainConfig(save_every=every), make_accelerator(TrainConfig(), 'cpu')
    with patch('time.monotonic', lambda: now[0]), patch('fstcn.runs.write_tensors', saving):
        run = Run(fresh(), videos, config, accelerator, tmp_path)
        now[0] += every + 1e-3
        assert run.due()
        run.save()
        now[0] += waits - 1e-3
        assert run.due() is (every == 0)
        now[0] += 2e-3
        assert run.due()


def test_processes_wait_for_each_other_for_hours():
    accelerator = make_accelerator(TrainConfig(), 'cpu')
    assert accelerator.init_handler.timeout == timedelta(hours=12)


def test_a_torn_state_is_refused(videos, tmp_path):
    file = write_tensors(tmp_path/STATE, {'model.weight': torch.ones(2000)}, step=1)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match='not a readable safetensors file'):
        attempt(videos, out=tmp_path, resume=True)


def test_a_state_that_knows_no_lengths_goes_on(videos, tmp_path):
    "One of before gradients were measured: that epoch's figures are of its later steps."
    accelerator, settings = make_accelerator(TrainConfig(), 'cpu'), TrainConfig()
    run = Run(fresh(), videos, settings, accelerator, tmp_path)
    run.epoch.add(torch.tensor([2., 1., 1., 5.]), [], 0., 1.)
    run.save()
    tensors, head = read_tensors(tmp_path/STATE)
    assert head.pop('lengths') == [5.]
    write_tensors(tmp_path/STATE, tensors, **head)
    again = Run(fresh(), videos, settings, accelerator, tmp_path)
    again.find(resume=True)
    again.epoch.add(torch.tensor([2., 1., 1., .5]), [], 0., 1.)
    row = again.epoch.row(accelerator, settings.clip_norm)
    assert (row['gradient'], row['cut'], row['loss']) == (.5, 0., .5)


@pytest.mark.faults
def test_two_runs_in_one_folder(videos, tmp_path, monkeypatch):
    "The second one names the first, and goes on once that is dead, children of it or not."
    with busy(tmp_path) as other:
        with monkeypatch.context() as m, pytest.raises(OSError) as refused:
            m.setattr('fstcn.files.PATIENCE', .1)
            attempt(videos, out=tmp_path)
        assert f'{tmp_path}: process {other.pid} is writing there' in str(refused.value)
    assert len(attempt(videos, out=tmp_path)) == 1
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith('.')]


def begun(videos, folder):
    "A run that stands before its first step, its state in the folder."
    run = Run(fresh(), videos, TrainConfig(), make_accelerator(TrainConfig(), 'cpu'), folder)
    run.save()
    return run


@pytest.mark.faults
def test_an_odd_state_is_refused_or_does_no_harm(videos, tmp_path):
    run = begun(videos, tmp_path)
    row = {'epoch': 0, 'lr': .01, 'loss': 1., 'accuracy': .5, 'clips_per_s': 9., 'waiting': 0.}
    run.history = [row | {'short': 0, 'skipped': 0}]
    run.save()
    tensors, head = read_tensors(tmp_path/STATE)
    refused = 0
    for at in places({k: v for k, v in head.items() if k != 'same'}):
        for value in ODD:
            text = json.dumps(with_odd(head, at, value))
            save_file(tensors, tmp_path/STATE, metadata={'fstcn': text})
            try: run.find(resume=True)
            except (CheckpointError, TrainingError) as e:
                assert str(e).startswith(str(tmp_path)) and '\n' not in str(e) and len(str(e)) < 500
                refused += 1
    assert refused > 150


@pytest.mark.faults
@pytest.mark.parametrize('name, change', [
    ('model.classifier.bias', lambda x: x[:1]), ('model.classifier.bias', lambda x: x.int()),
    ('rng.cpu', lambda x: x[:, :100]), ('rng.cpu', lambda x: x.float()), ('rng.cpu', lambda x: x*0),
    ('momentum.classifier.bias', lambda x: torch.ones(3)), ('momentum.other', torch.ones_like),
])
def test_a_state_of_other_tensors_is_refused(videos, tmp_path, name, change):
    run = begun(videos, tmp_path)
    tensors, head = read_tensors(tmp_path/STATE)
    tensors[name] = change(tensors.get(name, torch.ones(2))).contiguous()
    write_tensors(tmp_path/STATE, tensors, **head)
    with pytest.raises(CheckpointError, match='cannot go on from it'): run.find(resume=True)


@pytest.mark.faults
def test_a_finished_network_of_other_sizes_is_refused(videos, tmp_path):
    run = begun(videos, tmp_path)
    run.close()
    save_checkpoint(tmp_path/'model.safetensors', fresh(scl_channels=(8, 12, 16, 20)), ('a', 'b'),
                    history=[], same={})
    with pytest.raises(CheckpointError, match='do not fit'): run.find(resume=True)


# --- videos that cannot be read ------------------------------------------------------------------

@pytest.fixture
def bad(tmp_path):
    (tmp_path/'bad.avi').write_bytes(b'no video')
    return Video(tmp_path/'bad.avi', 0)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_unreadable_video_ends_the_run(videos, bad, workers):
    with pytest.raises(VideoError, match='bad.avi'):
        attempt([*videos, bad], workers=workers)


def test_a_run_that_was_ended_by_a_video_goes_on_without_it(videos, bad, tmp_path):
    out = tmp_path/'stopped'
    settings = {'epochs': 2, 'save_every': 0., 'out': out, 'resume': True}
    with_bad = [bad, *videos[::-1]]
    with pytest.raises(VideoError, match='bad.avi'):
        attempt(with_bad, **settings)
    assert (out/STATE).exists()
    (out/f'{PART}1').mkdir()                                            # of a killed run
    (out/f'{PART}1'/'.tmp').touch()
    rows = attempt(with_bad, on_error='skip', **settings)
    assert [row['skipped'] for row in rows] == [1, 1]
    assert not list(out.glob(f'{PART}*'))


def test_no_videos():
    with pytest.raises(ValueError, match='no videos to train on'):
        attempt([])


class Hanging(VideoReader):
    def each_frame(self, path, indices): time.sleep(60)
    read_frames = each_frame


class Dying(VideoReader):
    def each_frame(self, path, indices): os.kill(os.getpid(), signal.SIGKILL)
    read_frames = each_frame


def test_a_reading_process_that_is_killed(videos):
    with pytest.raises(TrainingError, match='a reading process was killed') as caught:
        attempt(videos, Dying(80), batch_size=32, workers=1)
    assert '3.avi' in str(caught.value)


def test_a_validation_video_that_never_ends(videos):
    accelerator = make_accelerator(TrainConfig(), 'cpu')
    with pytest.raises(VideoError, match='1.avi: reading it did not end within 1 s'):
        validate(fresh(), videos[1:3], Hanging(80), accelerator, timeout=1)


# --- weights to begin with -----------------------------------------------------------------------

@pytest.fixture(scope='module')
def auxiliary(tmp_path_factory):
    "A checkpoint of the spatial path with three classes, and its network."
    torch.manual_seed(0)
    network = fresh(3, path='scl')
    file = tmp_path_factory.mktemp('auxiliary')/'aux.safetensors'
    return save_checkpoint(file, network, 'abc'), network


def test_the_same_network_takes_everything(auxiliary):
    file, source = auxiliary
    network = fresh(3, path='scl')
    began = initialize(network, file, ('a', 'b', 'c'))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert began == Beginning('aux.safetensors', digest, (), 'scl', 3)
    assert '; new: nothing; sha256 ' in str(began)
    assert same_weights(network.state_dict(), source.state_dict())


def test_an_auxiliary_classifier_begins_where_stage_2_ended(auxiliary):
    file, source = auxiliary
    network = fresh(3, auxiliary=True)
    began = initialize(network, file, ('a', 'b', 'c'))
    assert 'auxiliary' not in began.new and 'classifier' in began.new
    assert torch.equal(network.auxiliary.weight, source.classifier.weight)
    assert 'auxiliary' in initialize(network, file, ('a', 'b', 'd')).new


def test_an_auxiliary_classifier_that_the_source_has_not(tmp_path):
    file = save_checkpoint(tmp_path/'whole.safetensors', fresh(3), 'abc')
    assert initialize(fresh(3, auxiliary=True), file, ('a', 'b', 'c')).new == ('auxiliary',)


def test_training_with_an_auxiliary_classifier(videos, tmp_path):
    "It learns, is kept, and is silent when the network is used."
    network, before = fresh(auxiliary=True), fresh(auxiliary=True)
    before.load_state_dict(network.state_dict())
    config = TrainConfig(epochs=2, batch_size=4, workers=0)
    train(network, videos, config, out=tmp_path, device='cpu', progress=False)
    assert not torch.equal(network.auxiliary.weight, before.auxiliary.weight)
    kept, _, _ = load_checkpoint(tmp_path/'model.safetensors')
    x = torch.rand(1, 3, 76, 76), torch.rand(1, 3, 3, 76, 76)
    assert same_weights(kept.state_dict(), network.state_dict())
    assert kept(*x).shape == (1, 2)


def test_as_many_classes_but_others(auxiliary):
    network = fresh(3, path='scl')
    drawn = network.classifier.weight.clone()
    began = initialize(network, auxiliary[0], ('a', 'b', 'd'))
    assert began.new == ('classifier',)
    assert torch.equal(network.classifier.weight, drawn)


def test_the_same_classes_but_told_from_other_features(auxiliary):
    network = fresh(3)
    drawn = network.classifier.weight.clone()
    initialize(network, auxiliary[0], ('a', 'b', 'c'))
    assert torch.equal(network.classifier.weight, drawn)


def test_weights_of_another_size_are_refused(auxiliary):
    said = r'aux.safetensors: 3 layers do not fit: spatial.fc.fc6.weight is \(30, '
    with pytest.raises(CheckpointError, match=said):
        initialize(fresh(fc_sizes=(30, 32)), auxiliary[0])


def test_torn_weights_are_refused(auxiliary, tmp_path):
    torn = tmp_path/'torn.safetensors'
    torn.write_bytes(auxiliary[0].read_bytes()[:3000])
    with pytest.raises(CheckpointError, match='not a readable safetensors file'):
        initialize(fresh(), torn)
