"What no cell can check about training: several processes, a run that is killed, a disk that is full."
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fstcn.files import PART
from fstcn.checkpoint import load_checkpoint, read_tensors
from fstcn.video import write_video

DRIVER = '''
import json, sys
from pathlib import Path
import torch
from fstcn.datasets import Video
from fstcn.model import FstCN, FstCNConfig
from fstcn.training import TrainConfig, train

if __name__ == '__main__':
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    out, valid, dropout = options.pop('out'), options.pop('valid', 0), options.pop('dropout', 0.)
    videos = [Video(folder/f'{i}.avi', i % 2) for i in range(7)]
    torch.manual_seed(0)
    net = FstCN(FstCNConfig.small(2, crop_size=76, short_side=80, n_frames=3, scl_channels=(8, 12, 16, 16), spatial_channels=8, temporal_channels=16,
                                  permuted_channels=16, fc_sizes=(32, 32), fusion_size=32, dropout=dropout))
    train(net, videos, TrainConfig(**{'batch_size': 4, 'workers': 1, **options}), out=folder/out, device='cpu', progress=False, valid=videos[:valid], resume=True)
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Seven videos of a disc that falls or rises, and the script that trains on them."
    folder = tmp_path_factory.mktemp('training')
    y, x = np.mgrid[:80, :96]
    falling = np.stack([(y - 10 - 1.7*i)**2 + (x - 48)**2 < 81 for i in range(36)])[..., None]*np.array([200, 160, 60]) + 20
    for i in range(7): write_video(folder/f'{i}.avi', falling[::-1 if i % 2 else 1].astype(np.uint8))
    (folder/'driver.py').write_text(DRIVER)
    return folder


def start(folder, processes=1, **options):
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)] if processes > 1 else []
    return subprocess.Popen([sys.executable, *launch, str(folder/'driver.py'), str(folder), json.dumps(options)], env={**os.environ, 'OMP_NUM_THREADS': '1'},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(folder, **options):
    "Run to the end; the weights, and the history."
    process = start(folder, **options)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    _, _, info = load_checkpoint(folder/options['out']/'model.safetensors')
    return load_file(folder/options['out']/'model.safetensors'), info['history']


# --- several processes ------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def alone(folder): return finish(folder, out='alone', epochs=2, valid=3)


@pytest.mark.parametrize('options', [{'processes': 2}, {'processes': 2, 'accumulate': 2}], ids=['two processes', 'two processes, two parts each'])
def test_processes_share_the_batch(folder, alone, options):
    "Batches of four and of three: equal and unequal shares, and with two parts an empty one."
    weights, history = finish(folder, out='-'.join(map(str, options.values())), epochs=2, valid=3, **options)
    for name, w in weights.items(): torch.testing.assert_close(w, alone[0][name], rtol=1e-5, atol=1e-6)
    for a, b in zip(history, alone[1], strict=True):
        for key in ('loss', 'accuracy', 'valid_loss', 'valid_clip_top1', 'valid_video_top1'): assert a[key] == pytest.approx(b[key], rel=1e-5), key


# --- a run that is killed ---------------------------------------------------------------------------------------------------------------

def test_killed_and_resumed_is_the_same_run(folder):
    "SIGKILL at random moments, workers included, until the run is over: the same bits as without."
    options = dict(epochs=60, dropout=.5, save_every=0.)
    whole, history = finish(folder, out='whole', **options)
    draw, kills, seen = random.Random(0), 0, []
    while True:
        process, begun = start(folder, out='killed', **options), time.monotonic()
        state, wait = folder/'killed'/'state.safetensors', draw.uniform(.02, .4)
        before = state.stat().st_mtime_ns if state.exists() else None
        while process.poll() is None and time.monotonic() - begun < 120:           # let it get as far as saving something, then some
            if state.exists() and state.stat().st_mtime_ns != before: break
            time.sleep(.01)
        try: process.wait(wait if kills < 4 else 300)
        except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
        if process.returncode == 0: break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
        seen.append(read_tensors(state)[1]['step'])                                # whole, whatever moment it was
    assert process.returncode == 0 and kills >= 3 and seen == sorted(seen) and 0 < seen[0] < 120
    weights = load_file(folder/'killed'/'model.safetensors')
    assert all(torch.equal(weights[k], whole[k]) for k in whole)
    assert [r['loss'] for r in load_checkpoint(folder/'killed'/'model.safetensors')[2]['history']] == [r['loss'] for r in history]
    assert sorted(p.name for p in (folder/'killed').iterdir()) == ['history.csv', 'model.safetensors', 'train.json']


def test_full_disk_keeps_the_state(folder):
    "The system refuses to write more than a part of the file; the state before is still there, and serves."
    limited = DRIVER.replace("if __name__ == '__main__':", "if __name__ == '__main__':\n    import resource, signal\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                             "    import fstcn.training as t\n    save = t._save_state\n    def full(*args, **head):\n"
                             "        if head['step'] == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))\n        save(*args, **head)\n    t._save_state = full")
    (folder/'limited.py').write_text(limited)
    options = {'out': 'full', 'epochs': 3, 'dropout': .5, 'save_every': 0., 'workers': 0}
    run = subprocess.run([sys.executable, folder/'limited.py', folder, json.dumps(options)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, timeout=300)
    assert run.returncode != 0 and 'state.safetensors: cannot be written' in run.stderr, run.stderr
    assert read_tensors(folder/'full'/'state.safetensors')[1]['step'] == 2
    assert not list((folder/'full').glob(f'{PART}*'))
    weights, _ = finish(folder, **options)
    whole, _ = finish(folder, **{**options, 'out': 'roomy'})
    assert all(torch.equal(weights[k], whole[k]) for k in whole)
