"What no cell can check about recognition: a run that is killed and goes on, and memory that does not grow with a video."
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fstcn.inference import Recognizer, predict_many
from fstcn.model import FstCN, FstCNConfig, save_checkpoint
from fstcn.video import write_video


def checkpoint(folder, **kwargs):
    torch.manual_seed(0)
    model = FstCN(FstCNConfig.small(3, crop_size=76, **kwargs))
    return save_checkpoint(folder/'net.safetensors', model, ('a', 'b', 'c'))


MANY = '''
import sys
from pathlib import Path
from fstcn.inference import Recognizer, predict_many
if __name__ == '__main__':
    folder = Path(sys.argv[1])
    predict_many(Recognizer.load(folder/'net.safetensors', 'cpu', n_clips=2), sorted(folder.glob('*.avi')), folder/'killed.jsonl', workers=1)
'''


def test_killed_and_resumed(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12): write_video(tmp_path/f'{i:02}.avi', rng.integers(0, 256, (40, 80, 90, 3), dtype=np.uint8))
    (tmp_path/'05.avi').write_bytes(b'no video')
    checkpoint(tmp_path, short_side=80)
    (tmp_path/'many.py').write_text(MANY)
    process = subprocess.Popen([sys.executable, tmp_path/'many.py', tmp_path])
    out, begun = tmp_path/'killed.jsonl', time.monotonic()
    while not out.exists() or out.read_text().count('\n') < 3:
        assert process.poll() is None and time.monotonic() - begun < 120
        time.sleep(.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lines = out.read_text().splitlines()
    assert 3 <= len(lines) < 12, 'the run was over before it was killed'
    recognizer, videos = Recognizer.load(tmp_path/'net.safetensors', 'cpu', n_clips=2), sorted(tmp_path.glob('*.avi'))
    done = predict_many(recognizer, videos, out)
    assert sorted(done) == [str(v) for v in videos] and [v[-6:] for v, o in done.items() if o.error] == ['05.avi']       # wherever its line is: unreadable videos are tried again
    whole = out.read_text().splitlines()
    assert whole[:3] == lines[:3] and len(whole) == 12
    predict_many(recognizer, videos, tmp_path/'at_once.jsonl')
    for a, b in zip(*(sorted(map(json.loads, f.read_text().splitlines()), key=lambda r: r['video']) for f in (out, tmp_path/'at_once.jsonl')), strict=True):
        assert a['video'] == b['video'] and a['labels'] == b['labels'] and a['probs'] == pytest.approx(b['probs'], abs=1e-6)


PEAK = '''
import resource, sys
from fstcn.inference import Recognizer, timeline
if __name__ == '__main__':
    line = timeline(Recognizer.load(sys.argv[1], 'cpu'), sys.argv[2], every=.2, views=(4,))
    print(len(line.seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
'''


def test_timeline_holds_a_window(tmp_path):
    "Of 1500 frames of 240 x 320 the 600 that are looked at take 138 MB; ten times as long a video takes no more memory."
    net = checkpoint(tmp_path, short_side=240)
    (tmp_path/'peak.py').write_text(PEAK)
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    found = {}
    for n in (150, 1500):
        write_video(tmp_path/f'{n}.avi', (np.roll(picture, 3*i, 1) for i in range(n)))
        run = subprocess.run([sys.executable, tmp_path/'peak.py', net, tmp_path/f'{n}.avi'], capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        moments, kilobytes = map(int, run.stdout.split())
        assert moments == (n - 30)//5 + 1
        found[n] = kilobytes/1024
    assert found[1500] - found[150] < 60, found
