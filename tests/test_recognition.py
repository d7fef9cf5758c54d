"""What no cell shows about recognition: all that is refused, readers that hang or die, a run
that is killed and goes on, and memory that grows neither with a video nor with its clip pairs."""
import csv
import json
import math
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import weakref
import zlib
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch

import fstcn.inference
from fstcn.model import FstCN, FstCNConfig
from fstcn.writing import write_video
from fstcn.decoding import VideoError
from fstcn.guard import Guard
from fstcn.splits import Video
from fstcn.frame_folders import FrameFolder, frame_files, read_image, videos_in
from fstcn.loading import VideoReader
from fstcn.shared_views import view_probabilities
from fstcn.checkpoint import save_checkpoint
from fstcn.inference import Recognizer, read_in_part
from fstcn.scores import score_videos
from fstcn.many import predict_many
from fstcn.timeline import timeline
from odd import busy

CLASSES = ('bend', 'clap', 'run', 'walk')
CONFIG = FstCNConfig.small(4, crop_size=76, short_side=80)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return FstCN(replace(CONFIG, **changes)).eval()


def recognizer(model=None, classes=CLASSES, **kwargs):
    return Recognizer(model or network(), classes, device='cpu', **kwargs)


@pytest.fixture(scope='module')
def frames():
    return np.random.default_rng(0).integers(0, 256, (45, 90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def folder(frames, tmp_path_factory):
    "A video, a folder of frames, and what only looks like one of them."
    folder = tmp_path_factory.mktemp('recognition')
    write_video(folder/'some.avi', frames)
    (folder/'not.avi').write_text('no video')
    for name in ('frames', 'empty', 'odd', 'torn', 'linked'): (folder/name).mkdir()
    for i in range(4): cv2.imwrite(str(folder/'frames'/f'{i}.png'), frames[i])
    for name in ('odd', 'torn'): cv2.imwrite(str(folder/name/'0.png'), frames[0])
    cv2.imwrite(str(folder/'odd'/'1.jpg'), frames[0][:80])
    (folder/'torn'/'1.jpg').write_bytes(b'')
    (folder/'linked'/'0.png').symlink_to('gone.png')
    return folder


def test_no_clip_pairs():
    none = torch.empty(0, 2, 5, 80, 96, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match='no clip pairs'): view_probabilities(network(), none)


def test_no_recognizer(frames):
    with pytest.raises(ValueError, match='top_k'): recognizer().predict(frames, top_k=0)
    with pytest.raises(ValueError, match='2 class names for 4 classes'):
        recognizer(classes=('a', 'b'))
    with pytest.raises(ValueError, match="device 'gpu'"):
        Recognizer(network(), CLASSES, device='gpu')


@pytest.mark.parametrize(('video', 'name', 'why'), [
    ('not.avi', 'not.avi', 'cannot be opened'),
    ('empty', 'empty', 'without frames'),
    ('odd', '1.jpg', 'another size'),
    ('torn', '1.jpg', 'not a readable image'),
    ('linked', '0.png', 'cannot be read (No such file'),
])
def test_unreadable(folder, video, name, why):
    with pytest.raises(VideoError) as refused: recognizer().predict(folder/video)
    assert refused.value.path.name == name
    assert why in refused.value.reason


@pytest.mark.faults
@pytest.mark.parametrize(('others', 'found'), [
    (['flow_x_{:05}.png', 'flow_y_{:05}.png'], '6 x flow_x_#, 6 x flow_y_#, 6 x img_#'),
    (['thumb.png'], '6 x img_#, 1 x thumb'),
    (['img_{:05}.jpg'], '6 x img_#.jpg, 6 x img_#.png'),
    ([f'{name}_{{}}.png' for name in 'abcdefghijkl'], ' and 3 more'),
])
def test_images_of_several_sequences_are_no_film(tmp_path, others, found):
    "Of a film and its optical flow, of a film and its cover, of a film twice."
    picture = np.zeros((80, 96, 3), np.uint8)
    for pattern in ['img_{:05}.png', *others]:
        for i in range(6): cv2.imwrite(str(tmp_path/pattern.format(i)), picture)
    (tmp_path/'.hidden.png').write_bytes(b'')
    for read in (frame_files, FrameFolder().n_frames, recognizer().predict):
        with pytest.raises(VideoError, match='more than one sequence') as refused: read(tmp_path)
        assert found in refused.value.reason and refused.value.path == tmp_path
    assert videos_in(tmp_path) == [tmp_path]          # and is refused where it is read
    with pytest.raises(VideoError, match='more than one sequence'): timeline(recognizer(), tmp_path)


@pytest.mark.faults
def test_one_sequence_may_have_more_numbers_and_endings(tmp_path):
    names = ['a2_1.jpeg', 'a1_10.JPG', 'a1_9.png']
    for name in names: (tmp_path/name).write_bytes(b'')
    assert [file.name for file in frame_files(tmp_path)] == names[::-1]


def claims(target, width, height):
    "A PNG of a few bytes whose header claims that size."
    def chunk(kind, data):
        checksum = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + checksum
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    chunks = chunk(b'IHDR', header), chunk(b'IDAT', pixels), chunk(b'IEND', b'')
    target.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunks))
    return target


@pytest.mark.faults
@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('width,height', [
    (100_000, 100_000), (2**31 - 1, 2**31 - 1), (16_000, 16_000), (2**26 + 1, 1), (10_000, 9_000)])
def test_an_image_that_claims_to_be_huge(tmp_path, width, height):
    image = claims(tmp_path/'0.png', width, height)
    tracemalloc.start()
    with pytest.raises(VideoError, match='0.png: is ') as refused: recognizer().predict(tmp_path)
    assert 'pixels' in refused.value.reason and '\n' not in refused.value.reason
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 20_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError): read_image(image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000            # kB


@pytest.mark.faults
def test_an_image_without_pixels(tmp_path):
    for name, size in {'0.png': (0, 5), '1.png': (640, 640)}.items():
        with pytest.raises(VideoError, match='is not a readable image'):
            read_image(claims(tmp_path/name, *size))


def test_folder_that_is_not_there(folder):
    why = r'nope: cannot be read as a folder of frames \(No such file'
    with pytest.raises(VideoError, match=why): FrameFolder().n_frames(folder/'nope')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs an image that never ends')
def test_image_that_never_ends(folder, tmp_path):
    (tmp_path/'hangs').mkdir()
    os.mkfifo(tmp_path/'hangs'/'0.png')
    with Guard(60) as guard:
        guarded = FrameFolder(80, guard).read_frames(folder/'frames', [3, 1])
        alone = FrameFolder(80).read_frames(folder/'frames', [3, 1])
        assert torch.equal(guarded, alone)
        guard.timeout = 2                               # its child has imported everything by now
        with pytest.raises(VideoError, match='did not end within 2 s'):
            recognizer(guard=guard).predict(tmp_path/'hangs')


def test_results_of_others_are_refused(folder, tmp_path):
    "Other weights, classes, configuration or settings; the file stays as it is, torn lines too."
    many, videos = tmp_path/'many.jsonl', [folder/'some.avi']
    predict_many(recognizer(n_clips=5), videos, many, top_k=2)
    before = many.read_text() + '{"video": "torn'
    many.write_text(before)
    sampled = network(dt=8)
    sampled.load_state_dict(network().state_dict())
    others = {
        'weights': recognizer(network(seed=1), n_clips=5),
        'classes': recognizer(classes=('bend', 'clap', 'walk', 'run'), n_clips=5),
        'configuration': recognizer(sampled, n_clips=5),
        'clip pairs': recognizer(n_clips=4),
        'fusion': recognizer(n_clips=5, fusion='average'),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match='results of another network or other') as refused:
            predict_many(other, videos, many, top_k=2)
        assert str(refused.value).startswith(f'{many}: holds results'), name
        assert many.read_text() == before, name
    with pytest.raises(ValueError, match='results of another network or other settings'):
        predict_many(recognizer(n_clips=5), videos, many, top_k=3)
    assert many.read_text() == before


@pytest.mark.parametrize(('text', 'why'), [
    ('[1]\n', 'something else'),
    ('a line of my own\n', 'something else'),
    ('a line of my own', 'something else'),
    ('7', 'something else'),
    ('{"a": 1}\n', 'something else'),
    ('\xff\n', 'something else'),
    ('video,error,label1\na.avi,,walk\n', 'something else'),
    ('{"video": "a.avi", "labels": ["walk"], "probs": [1], "error": null}\n', 'it does not say'),
])
def test_no_results(folder, tmp_path, text, why):
    "A file of something else, or of results that name no network, is refused and kept."
    notes = tmp_path/'notes.jsonl'
    notes.write_text(text, encoding='latin-1')
    with pytest.raises(ValueError, match=why):
        predict_many(recognizer(), [folder/'some.avi'], notes)
    assert notes.read_text(encoding='latin-1') == text


@pytest.mark.parametrize('name', ['some.avi', 'many.csv'])
def test_results_are_lines(folder, name):
    with pytest.raises(ValueError, match=f'{name}: results go to a file that ends in .jsonl'):
        predict_many(recognizer(), [folder/'some.avi'], folder/name)


class Hanging(VideoReader):
    def read_frames(self, path, indices): time.sleep(60)


class Deadly(VideoReader):
    def read_frames(self, path, indices): os._exit(1)


class Broken(VideoReader):
    def read_frames(self, path, indices):
        raise RuntimeError('it timed out, and exited unexpectedly')


def scored(path, *args, **kwargs):
    return score_videos(recognizer(), [Video(path, 0)], *args, progress=False, **kwargs)


def test_no_videos():
    with pytest.raises(ValueError, match='no videos'): score_videos(recognizer(), [])


def test_reader_that_hangs(folder):
    with pytest.raises(VideoError, match='some.avi: reading it did not end within 1 s'):
        scored(folder/'some.avi', Hanging(), workers=1, timeout=1)


def test_reader_that_dies(folder):
    with pytest.raises(VideoError, match='some.avi: reading it killed'):
        scored(folder/'some.avi', Deadly(), workers=1)


@pytest.mark.parametrize('workers', [0, 1])
def test_error_is_no_verdict(folder, workers):
    "Whatever its words are."
    with pytest.raises(RuntimeError, match='it timed out'):
        scored(folder/'some.avi', Broken(), workers=workers, timeout=60)


@pytest.mark.parametrize('workers', [0, 1])
def test_unreadable_video_ends_scoring(folder, workers):
    with pytest.raises(VideoError, match='not.avi'): scored(folder/'not.avi', workers=workers)


@pytest.mark.parametrize(('video', 'why'), [
    ('not.avi', 'cannot be opened'),
    ('empty', 'without frames'),
    ('torn', 'not a readable image'),
    ('odd', 'another size'),
])
def test_no_timeline(folder, video, why):
    with pytest.raises(VideoError, match=why): timeline(recognizer(), folder/video)


def test_a_damaged_packet_is_told_alike(frames, tmp_path):
    "By `predict` and by `timeline`, and in a file of results."
    hurt = write_video(tmp_path/'hurt.mp4', frames, codec='libx264', gop=45)
    with av.open(str(hurt)) as file: packets = [(p.pos, p.size) for p in file.demux() if p.size]
    begin, size = packets[6]
    data = bytearray(hurt.read_bytes())
    data[begin:begin+size] = bytes(size)
    hurt.write_bytes(data)
    ours = recognizer()
    warning = ours.predict(hurt).warning
    line = timeline(ours, hurt)
    assert warning.startswith('is read in part, up to 1.8 s (')         # its noise has keyframes
    assert read_in_part(line.duration, line.damage) == warning
    done = predict_many(ours, [hurt], tmp_path/'many.jsonl')
    assert done[str(hurt)].warning == warning


@pytest.mark.parametrize('wrong', [
    {'every': 0}, {'every': math.inf}, {'every': math.nan}, {'window': math.inf}, {'fps': math.inf},
], ids=str)
def test_impossible_times(frames, wrong):
    with pytest.raises(ValueError, match='positive'): timeline(recognizer(), frames, **wrong)


def checkpoint(folder, **kwargs):
    torch.manual_seed(0)
    model = FstCN(FstCNConfig.small(3, crop_size=76, **kwargs))
    return save_checkpoint(folder/'net.safetensors', model, ('a', 'b', 'c'))


MANY = '''
import sys
from pathlib import Path
from fstcn.inference import Recognizer
from fstcn.many import predict_many
if __name__ == '__main__':
    folder = Path(sys.argv[1])
    recognizer = Recognizer.load(folder/'net.safetensors', 'cpu', n_clips=2)
    videos = sorted(folder.glob('*.avi'))
    predict_many(recognizer, videos, folder/'killed.jsonl', workers=1)
'''


def by_video(path):
    "The rows of a file of results in the order of its videos."
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: row['video'])


def test_killed_and_resumed(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        write_video(tmp_path/f'{i:02}.avi', rng.integers(0, 256, (40, 80, 90, 3), dtype=np.uint8))
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
    recognizer = Recognizer.load(tmp_path/'net.safetensors', 'cpu', n_clips=2)
    videos = sorted(tmp_path.glob('*.avi'))
    done = predict_many(recognizer, videos, out)
    assert sorted(done) == [str(video) for video in videos]
    unreadable = [video[-6:] for video, outcome in done.items() if outcome.error]
    assert unreadable == ['05.avi']                     # wherever its line is: it is tried again
    whole = out.read_text().splitlines()
    assert whole[:3] == lines[:3] and len(whole) == 12
    at_once = tmp_path/'at_once.jsonl'
    predict_many(recognizer, videos, at_once)
    for a, b in zip(by_video(out), by_video(at_once), strict=True):
        assert a['video'] == b['video'] and a['labels'] == b['labels']
        assert a['probs'] == pytest.approx(b['probs'], abs=1e-6)


@pytest.mark.faults
def test_two_calls_that_write_to_one_file(tmp_path, monkeypatch):
    "No row is lost or doubled: the second one names the first, by whatever name the file goes."
    recognizer = Recognizer.load(checkpoint(tmp_path, short_side=80), 'cpu', n_clips=1)
    out, link = tmp_path/'many.jsonl', tmp_path/'link.jsonl'
    link.symlink_to(out)
    with busy(out) as other:
        for name in (out, link):
            with monkeypatch.context() as m, pytest.raises(OSError) as refused:
                m.setattr('fstcn.files.PATIENCE', .1)
                predict_many(recognizer, [tmp_path/'none.avi'], name)
            assert f'{out}: process {other.pid} is writing there' in str(refused.value)
    done = predict_many(recognizer, [tmp_path/'none.avi'], out)
    assert len(done) == out.read_text().count('\n') == 1


@pytest.mark.faults
@pytest.mark.parametrize('line', [
    '5', 'null', '{"video": 5, "error": null}', '{"video": "a"}', '{"video": "a", "error": []}',
    '['*100_000, '{"video": "a", "error": null, "warning": 5}',
])
def test_rows_that_are_no_results_are_named(tmp_path, line):
    recognizer = Recognizer.load(checkpoint(tmp_path, short_side=80), 'cpu', n_clips=1)
    out = tmp_path/'many.jsonl'
    out.write_text(f'{line}\n')
    with pytest.raises(ValueError, match=r'many\.jsonl: holds something else .*\(line 1: '):
        predict_many(recognizer, [tmp_path/'none.avi'], out)
    assert out.read_text() == f'{line}\n'


def test_results_become_a_table(tmp_path):
    "The command that the refusal of a CSV file advises does what it says."
    results = [
        {'video': 'a, b.avi', 'error': None, 'labels': ['"walk"', 'run'], 'probs': [.75, .25]},
        {'video': 'c.avi', 'error': 'does not exist', 'labels': [], 'probs': []},
    ]
    (tmp_path/'many.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in results))
    recognizer = Recognizer.load(checkpoint(tmp_path, short_side=80), 'cpu')
    with pytest.raises(ValueError, match='ends in .jsonl') as refused:
        predict_many(recognizer, [], tmp_path/'many.csv')
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
    """Of seven chunks of clip pairs three are held: the first, whose size says where the views
    are, the one before, and the next."""
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
from fstcn.inference import Recognizer
from fstcn.timeline import timeline
if __name__ == '__main__':
    line = timeline(Recognizer.load(sys.argv[1], 'cpu'), sys.argv[2], every=.2, views=(4,))
    print(len(line.seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
'''


@pytest.mark.slow
def test_timeline_holds_a_window(tmp_path):
    """Of 1500 frames of 240 x 320 the 600 that are looked at take 138 MB; ten times as long a
    video takes no more memory."""
    net = checkpoint(tmp_path, short_side=240)
    (tmp_path/'peak.py').write_text(PEAK)
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    found = {}
    for n in (150, 1500):
        write_video(tmp_path/f'{n}.avi', (np.roll(picture, 3*i, 1) for i in range(n)))
        command = [sys.executable, tmp_path/'peak.py', net, tmp_path/f'{n}.avi']
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        moments, kilobytes = map(int, run.stdout.split())
        assert moments == (n - 30)//5 + 1
        found[n] = kilobytes/1024
    assert found[1500] - found[150] < 60, found
