"What no cell can check about recognition: a run that is killed and goes on, and memory that grows neither with a video nor with its clip pairs."
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
import torch

import fstcn.inference
from fstcn.inference import Recognizer, predict_many
from fstcn.checkpoint import save_checkpoint
from fstcn.model import FstCN, FstCNConfig
from fstcn.video import write_video


def checkpoint(folder, **kwargs):
    torch.manual_seed(0)
    model = FstCN(FstCNConfig.small(3, crop_size=76, **kwargs))
    return save_checkpoint(folder/'net.safetensors', model, ('a', 'b', 'c'))


MANY = '''
import sys
from pathlib import Path
import fstcn.inference
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


def test_results_become_a_table(tmp_path):
    "The command that the refusal of a CSV file advises does what it says."
    results = [
        {'video': 'a, b.avi', 'error': None, 'labels': ['"walk"', 'run'], 'probs': [.75, .25]},
        {'video': 'c.avi', 'error': 'does not exist', 'labels': [], 'probs': []},
    ]
    (tmp_path/'many.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in results))
    recognizer = Recognizer.load(checkpoint(tmp_path, short_side=80), 'cpu')
    with pytest.raises(ValueError, match='ends in .jsonl') as refused: predict_many(recognizer, [], tmp_path/'many.csv')
    code = re.search('python -c "(.*)"', str(refused.value))[1]
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, timeout=120)
    with open(tmp_path/'many.csv', newline='') as file: rows = list(csv.DictReader(file))
    table = [(row['video'], row['labels'], row['probs']) for row in rows]
    assert table == [('a, b.avi', '"walk"', '0.75'), ('a, b.avi', 'run', '0.25'), ('c.avi', '', '')]


class Brightness(torch.nn.Module):
    "A network that costs next to nothing."
    config = FstCNConfig.small(2, crop_size=76, short_side=80)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def prepare(self, pairs, middle): return (pairs.float().mean((1, 2, 3, 4, 5))/255,)
    def forward(self, x): return torch.stack([x*self.weight, 1 - x], 1)


def test_predict_holds_a_few_clip_pairs(monkeypatch):
    "Of seven chunks of clip pairs three are held: the first, whose size says where the views are, the one before, and the next."
    chunks, held = [], []
    read = fstcn.inference.clip_pair_chunks

    def watched(*args):
        for pairs in read(*args):
            chunks.append(weakref.ref(pairs))
            held.append(sum(chunk() is not None for chunk in chunks))
            yield pairs

    monkeypatch.setattr(fstcn.inference, 'clip_pair_chunks', watched)
    video = np.random.default_rng(0).integers(0, 256, (60, 80, 90, 3), dtype=np.uint8)
    got = Recognizer(Brightness(), ('dark', 'bright'), n_clips=200, device='cpu').predict(video)
    assert len(got.starts) == 200 and len(chunks) == 7
    assert max(held) <= 3, held


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
