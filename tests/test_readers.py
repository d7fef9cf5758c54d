"Processes that read ahead: killed while nobody waits, little shared memory, few files, Ctrl-C."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from multiprocessing import active_children
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import fstcn.training
from fstcn.decoding import VideoError
from fstcn.guard import Guard
from fstcn.learning import TrainingError
from fstcn.loading import TestClips
from fstcn.model import FstCN, FstCNConfig
from fstcn.readers import ReaderKilled, watched_items
from fstcn.runs import TrainConfig
from fstcn.scores import watched_clips
from fstcn.splits import Video
from fstcn.training import train
from fstcn.writing import write_video

pytestmark = pytest.mark.faults


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('readers')
    frames = np.random.default_rng(0).integers(0, 256, (32, 80, 96, 3), dtype=np.uint8)
    return [Video(write_video(folder/f'{i}.avi', frames), i % 2) for i in range(6)]


def kill_readers():
    "As the system does where memory is short; then compute for a while."
    for child in active_children(): child.kill()
    until = time.monotonic() + .5
    while time.monotonic() < until: pass


# --- a reader that is killed while the network computes ------------------------------------------

def test_training_says_so_after_the_step(videos):
    steps = []
    def step(*_):
        kill_readers()
        steps.append('done')
        return torch.zeros(4, dtype=torch.float64)
    net = FstCN(FstCNConfig.small(2, crop_size=76, short_side=80))
    config = TrainConfig(epochs=9, batch_size=1, workers=1)
    with patch.object(fstcn.training, 'shared_step', step):
        with pytest.raises(TrainingError, match='was killed.*go on with --resume.*fewer --workers'):
            train(net, videos, config, device='cpu', progress=False)
    assert steps == ['done']


def test_scoring_says_so_after_the_video(videos):
    clips = watched_clips(TestClips(videos), 1, 60, lambda n: videos[n].path)
    next(clips)
    kill_readers()
    with pytest.raises(VideoError, match='1.avi.*run again with fewer --workers'): next(clips)


def test_one_pass_within_another(videos):
    "As validation is; afterwards all is as it was."
    before = signal.getsignal(signal.SIGCHLD)
    outer = watched_items(TestClips(videos), 1, batch_size=None)
    next(outer)
    assert len(list(watched_items(TestClips(videos), 2, batch_size=None))) == len(videos)
    kill_readers()
    with pytest.raises(ReaderKilled): next(outer)
    after = signal.getsignal(signal.SIGCHLD)
    assert after == before or 'torch' in after.__module__


def test_from_another_thread(videos):
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(lambda: list(watched_items(TestClips(videos), 1, batch_size=None)))
        assert len(read.result()) == len(videos)


# --- little shared memory, few open files --------------------------------------------------------

DRIVER = '''
import json, sys
from pathlib import Path
from fstcn.loading import TestClips
from fstcn.readers import watched_items
from fstcn.splits import Video

if __name__ == '__main__':
    videos = [Video(Path(path), 0) for path in sys.argv[2:]]
    workers = int(sys.argv[1])
    items = list(watched_items(TestClips(videos), workers, timeout=20, batch_size=None))
    print(json.dumps([int(item['pairs'].long().sum()) for item in items]))
'''
SMALL = 'mount -t tmpfs -o size={} tmpfs /dev/shm && exec "$@"'
FEW = 'ulimit -n 24; exec "$@"'


def read_under(tmp_path, videos, script, *prefix, workers=2):
    (tmp_path/'driver.py').write_text(DRIVER)
    paths = [str(video.path) for video in videos]
    command = [sys.executable, str(tmp_path/'driver.py'), str(workers), *paths]
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [*prefix, 'bash', '-c', script, '-', *command],
        capture_output=True, text=True, env=env, timeout=120)


def mounts():
    "Whether a file system may be mounted here."
    if shutil.which('unshare') is None: return False
    return subprocess.run(['unshare', '-m', 'bash', '-c', SMALL.format('1m'), '-', 'true'],
                          capture_output=True).returncode == 0


@pytest.mark.skipif(not mounts(), reason='needs the right to mount a file system')
def test_small_shared_memory(tmp_path, videos):
    "1.1 MB a video: of three megabytes some are shared, of a quarter none."
    expected = [int(TestClips(videos)[i]['pairs'].long().sum()) for i in range(len(videos))]
    for size in ('256k', '3m'):
        run = read_under(tmp_path, videos, SMALL.format(size), 'unshare', '-m')
        assert run.returncode == 0 and run.stderr == '', run.stderr
        assert json.loads(run.stdout) == expected


def test_few_open_files(tmp_path, videos):
    run = read_under(tmp_path, videos, FEW)
    assert run.returncode == 0 and run.stderr == '', run.stderr
    run = read_under(tmp_path, videos, FEW, workers=20)
    assert 'OSError: processes that read videos do not start' in run.stderr.splitlines()[-1]
    assert 'Exception ignored' not in run.stderr


# --- Ctrl-C --------------------------------------------------------------------------------------

class Deaf(Dataset):
    "Whether a process that reads hears Ctrl-C."
    def __len__(self): return 1
    def __getitem__(self, i): return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_children_do_not_hear_ctrl_c():
    assert list(watched_items(Deaf(), 1, batch_size=None)) == [True]
    with Guard() as guard:
        assert guard(eval, 'signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())')
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_guard_that_is_closed_lets_waiting_threads_go():
    "Else a command that was interrupted waits for them for ever."
    guard = Guard()
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(guard, exec, 'while True: pass') for _ in range(3)]
        while len(guard._calls) < 3: time.sleep(.01)
        guard.close()
        for call in calls:
            with pytest.raises(CancelledError): call.result(timeout=20)


# --- readers that are spawned --------------------------------------------------------------------

SPAWNED = '''
import sys
from fstcn.loading import ClipPairDataset
from fstcn.readers import watched_items

class Modules(ClipPairDataset):
    def __init__(self): pass
    def __len__(self): return 1
    def __getitem__(self, i): return sorted(sys.modules)

if __name__ == '__main__':
    options = {'batch_size': None, 'multiprocessing_context': 'spawn'}
    print(*next(watched_items(Modules(), 1, **options)))
'''


def test_spawned_readers_import_what_reading_needs(tmp_path):
    (tmp_path/'driver.py').write_text(SPAWNED)
    run = subprocess.run(
        [sys.executable, str(tmp_path/'driver.py')], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    modules = {name.partition('.')[0] for name in run.stdout.split()}
    assert 'av' in modules
    assert not modules & {
        'accelerate', 'decord', 'matplotlib', 'onnx', 'pandas', 'scipy', 'seaborn', 'sklearn',
        'torchvision', 'typer'}
