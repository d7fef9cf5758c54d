"""Frame-exactness of every backend on every kind of file, damage, processes, the cache under
several processes and a kill."""
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from numbered import (
    change_packets, fill_cache, forever, numbered_frame, numbers, pack_b_frames, read_in_child,
    remux, write_numbered
)

from fstcn import cache as frame_cache
from fstcn import packets, seek, video
from fstcn.cache import FrameCache
from fstcn.decoding import FrameClock, decode_forward, known_facts, open_video, to_rgb
from fstcn.files import PART
from fstcn.guard import Guard
from fstcn.video import VideoError, probe_video, read_frames, write_video

DATA = Path(__file__).parents[2]/'shared'/'data'
H264 = dict(codec='libx264')
OPEN_GOP = {'x264-params': 'open-gop=1:b-pyramid=2'}
PYRAMID = {'preset': 'medium', 'x264-params': 'b-pyramid=2:ref=6'}


def _times():
    rng, t = random.Random(0), [0]
    for _ in range(119): t.append(t[-1] + rng.choice([7, 20, 40, 40, 133]))
    return t


# name -> how to write it, and whether the packets prove that a jump is exact
FILES = {
    'mpeg4_b2.mkv': (dict(gop=30, b_frames=2), True),
    'h264_b3.mkv': (dict(H264, gop=30, b_frames=3), True),
    'h264_b3.avi': (dict(H264, gop=30, b_frames=3), False),
    'hevc_b3.mp4': (dict(codec='libx265', gop=30, b_frames=3), True),
    'mjpeg.avi': (dict(codec='mjpeg'), False),
    'empty_chunks.avi': (dict(n=60, times=[80*i for i in range(60)]), False),
    'open_gop.mp4': (dict(H264, gop=30, b_frames=3, options=OPEN_GOP), True),
    'pyramid.mp4': (dict(H264, gop=40, b_frames=6, options=PYRAMID), True),
    'intra_refresh.mp4': (dict(H264, gop=30, options={'x264-params': 'intra-refresh=1'}), True),
    'one.avi': (dict(n=1), True),
    'one.mp4': (dict(H264, n=1), True),
    'two.avi': (dict(n=2), True),
    'two.mp4': (dict(H264, n=2, b_frames=2), True),
    'odd.avi': (dict(size=(97, 143)), True),
    'odd.mp4': (dict(H264, size=(97, 143), b_frames=2), True),
    'vfr.mp4': (dict(H264, gop=20, b_frames=2, times=_times()), True),
    'vfr.mkv': (dict(H264, gop=20, b_frames=2, times=_times()), False),
    'rotated_90.mp4': (dict(H264, rotation=90, b_frames=2), True),
    'rotated_-90.mp4': (dict(H264, rotation=-90), True),
    'rotated_180.mp4': (dict(H264, rotation=180, gop=50), True)}
for gop in (12, 50, 250):
    for b in (0, 1, 2):
        for suffix in ('avi', 'mp4'):
            FILES[f'mpeg4_b{b}_g{gop}.{suffix}'] = dict(gop=gop, b_frames=b), True
    for b in (1, 2):
        FILES[f'packed_b{b}_g{gop}.avi'] = dict(pack=f'mpeg4_b{b}_g{gop}.avi'), False
    for b in (0, 3):
        FILES[f'h264_b{b}_g{gop}.mp4'] = dict(H264, gop=gop, b_frames=b), True


@pytest.fixture(scope='session')
def numbered(tmp_path_factory):
    "A function from a name in `FILES` to the path of that file, written once."
    root = tmp_path_factory.mktemp('numbered')
    def get(name):
        how = dict(FILES[name][0])
        if not (root/name).exists():
            if 'pack' in how: pack_b_frames(get(how['pack']), root/name)
            else: write_numbered(root/name, **{'n': 120, 'size': (96, 160), **how})
        return root/name
    return get


def n_written(name): return FILES[name][0].get('n', 120)


def index_lists(n, seed=0):
    "Clip pairs at random and extreme starts; sorted, unsorted, repeated, random and last indices."
    rng = random.Random(seed)
    starts = [0, max(n - 30, 0), *(rng.randrange(n) for _ in range(4))]
    offsets = (0, 5, 10, 15, 20, 9, 14, 19, 24, 29)
    pairs = [np.minimum(np.add(start, offsets), n - 1).tolist() for start in starts]
    some = [rng.randrange(n) for _ in range(12)]
    up, last = sorted(some), list(range(n))[-3:]
    return [*pairs, up, up[::-1], some, [n - 1], [n - 1, 0, n - 1], [0], last]


@pytest.mark.parametrize('name', FILES)
def test_every_frame_is_the_one_asked_for(numbered, name):
    path, n = numbered(name), n_written(name)
    assert (seek._packet_index(path) is not None) == FILES[name][1]
    for idx in index_lists(n):
        known_facts(path).clear()                               # as in a fresh process
        x = read_frames(path, idx)
        assert numbers(x) == idx
        assert torch.equal(x, read_frames(path, idx, backend='pyav'))
    info = probe_video(path)
    height, width = FILES[name][0].get('size', (96, 160))
    assert (info.n_frames, info.height, info.width, info.damage) == (n, height, width, '')
    for idx in index_lists(n, seed=1):                          # with everything known
        assert numbers(read_frames(path, idx)) == idx
    past = f'index {n} is past the end, the video has {n} frames'
    with pytest.raises(ValueError, match=past): read_frames(path, [0, n])


def _in_file_order(i, packet): packet.pts = packet.dts = i*packet.duration
def _as_they_are(i, packet): pass


def _early(i, packet):
    packet.pts -= 7*packet.duration
    packet.dts -= 7*packet.duration


def _now_and_then_in_file_order(i, packet):
    if i//20 % 2: packet.pts = packet.dts + 3*packet.duration


def _some_too_late(i, packet):
    if i % 11 == 5: packet.pts += 2*packet.duration + 1


STAMPS = (_as_they_are, _in_file_order, _early, _now_and_then_in_file_order, _some_too_late)
FRAGMENTS = {'movflags': 'frag_keyframe+empty_moov+default_base_moof'}


@pytest.mark.faults
@pytest.mark.parametrize('seed', range(30))
def test_no_muxing_makes_a_jump_wrong(tmp_path, seed):
    """A stream copied with times that say little or lie, as `-c copy` and careless tools write
    them: jumps return what decoding forward does."""
    rng = random.Random(seed)
    codec = rng.choice(['libx264', 'libx264', 'libx265', 'mpeg4'])
    b_frames, gop = rng.choice([0, 1, 3, 6]), rng.choice([5, 12, 30])
    options = {}
    if codec == 'libx264':
        open_gop, pyramid = rng.choice([0, 1]), rng.choice([0, 2])
        options['x264-params'] = f'open-gop={open_gop}:b-pyramid={pyramid}:force-cfr=1'
    how = dict(codec=codec, gop=gop, b_frames=b_frames, options=options)
    source = write_numbered(tmp_path/'source.mp4', n=60, size=(96, 160), **how)
    stamp, suffix = STAMPS[seed % len(STAMPS)], rng.choice(['.mp4', '.mov', '.mkv'])
    options = FRAGMENTS if suffix == '.mp4' and rng.random() < .5 else {}
    path = remux(source, tmp_path/f'copy{suffix}', stamp, **options)
    n = probe_video(path).n_frames
    every = read_frames(path, range(n), backend='pyav')
    assert n > 40
    for wanted in [[i] for i in range(n)] + index_lists(n, seed):
        known_facts(path).clear()
        what = how, stamp.__name__, suffix, wanted
        assert torch.equal(read_frames(path, wanted), every[wanted]), what


def test_times_in_the_order_of_the_file_do_not_stop_jumps(tmp_path, numbered, monkeypatch):
    """`ffmpeg -c copy` from AVI to MP4, the everyday form of it: H.264 with B-frames, one time a
    picture in the order of the file."""
    path = remux(numbered('h264_b3_g12.mp4'), tmp_path/'copy.mp4', _in_file_order)
    probe_video(path) # so that a jump pays
    monkeypatch.setattr(video, 'decode_forward', None)
    for wanted in index_lists(120): assert numbers(read_frames(path, wanted)) == wanted


def test_the_first_reading_of_a_file_decodes_forward(numbered, monkeypatch):
    "What a jump needs to know takes a look at the whole file; that pays from the second time on."
    path, jumps = numbered('h264_b3_g50.mp4'), []
    known_facts(path).clear()
    def watched(path, wanted):
        jumps.append(wanted)
        return seek.jump(path, wanted)
    monkeypatch.setattr(video, 'jump', watched)
    for _ in range(2): assert numbers(read_frames(path, [70, 75])) == [70, 75]
    assert jumps == [[70, 75]]


def test_jumps_are_taken(numbered, monkeypatch):
    """Where the packets prove the order and keyframes are fresh starts, nothing is decoded forward
    from the start."""
    def forbidden(*a): raise AssertionError('decoded forward')
    for name, (_, proven) in FILES.items():
        path = numbered(name)
        probe_video(path)
        with monkeypatch.context() as m:
            m.setattr(video, 'decode_forward', forbidden)
            for idx in index_lists(n_written(name)):
                if not proven:
                    with pytest.raises(AssertionError, match='decoded forward'):
                        read_frames(path, idx)
                elif name not in ('intra_refresh.mp4', 'open_gop.mp4'):
                    assert numbers(read_frames(path, idx)) == idx


def test_a_jump_decodes_only_what_is_shown_from_its_keyframe_on(numbered, monkeypatch):
    "Even where the seek lands on an earlier keyframe, as it does with a variable frame rate."
    opened = seek.open_video
    class Context:
        def __init__(self, ctx): vars(self)['ctx'] = ctx
        def __getattr__(self, name): return getattr(self.ctx, name)
        def __setattr__(self, name, value): setattr(self.ctx, name, value)
        def decode(self, packet):
            if packet: decoded.append(packet.pts)
            return self.ctx.decode(packet)
    @contextmanager
    def watched(path):
        with opened(path) as (c, s):
            container = SimpleNamespace(
                seek=lambda t, stream: c.seek(t, stream=s), demux=lambda stream: c.demux(s)
            )
            yield container, SimpleNamespace(codec_context=Context(s.codec_context))
    for name in ('mpeg4_b2_g50.avi', 'h264_b3_g50.mp4', 'h264_b3.mkv', 'vfr.mp4'):
        path = numbered(name)
        index = seek._packet_index(path)
        for i in range(0, 120, 7):
            decoded = []
            with monkeypatch.context() as m:
                m.setattr(seek, 'open_video', watched)
                assert [n for n, _ in seek.jump(path, [i])] == [i]
            assert min(decoded) == max(k for k in index.key_number if k <= i)


def test_a_picture_the_decoder_calls_corrupt_is_not_jumped_to(numbered, tmp_path):
    "Some damage is no error of the decoder, which only marks the picture."
    source, corrupt = numbered('mpeg4_b2_g50.avi').read_bytes(), 0
    for seed in (2, 3, 36, 48):
        rng, data, path = np.random.default_rng(seed), bytearray(source), tmp_path/f'{seed}.avi'
        at, n = int(rng.integers(len(data)//10, int(.85*len(data)))), int(rng.choice([4, 40, 400]))
        data[at:at + n] = rng.integers(0, 256, n, np.uint8).tobytes()
        path.write_bytes(data)
        index = seek._packet_index(path)
        if index is not None:
            for i in range(120):
                assert not any(frame.is_corrupt for _, frame in seek.jump(path, [i]))
        with open_video(path) as (container, stream):
            for packet in container.demux(stream):
                try: frames = stream.codec_context.decode(packet)
                except av.FFmpegError: continue
                corrupt += sum(frame.is_corrupt for frame in frames)
    assert corrupt                       # or this test has shown nothing


def test_an_empty_packet_is_not_the_end(numbered, tmp_path):
    "A picture of no bytes, which a decoder would take for the end of the stream."
    path = write_numbered(tmp_path/'a.mov', n=20, size=(96, 160), codec='mjpeg')
    data = bytearray(path.read_bytes())
    sizes = data.index(b'stsz') + 16     # four bytes for the length of each picture
    five, six = np.frombuffer(data, '>u4', 2, sizes + 20)
    # the sixth is nothing; what it was trails the fifth, unused
    data[sizes + 20:sizes + 28] = np.array([five + six, 0], '>u4').tobytes()
    path.write_bytes(data)
    with av.open(str(path)) as c: assert [p.size == 0 for p in c.demux(video=0)].index(True) == 6
    assert probe_video(path).n_frames == 19
    assert numbers(read_frames(path, range(19))) == [i for i in range(20) if i != 6]


def test_packing_is_real(numbered):
    "FFmpeg's own filter takes the packed file apart into the pictures it was made of."
    from av.bitstream import BitStreamFilterContext
    def pictures(chunks):
        return [c[c.index(VOP):] for c in chunks if VOP in c and len(c) > 19]
    packed, plain = numbered('packed_b2_g50.avi'), numbered('mpeg4_b2_g50.avi')
    with av.open(str(packed)) as c, av.open(str(plain)) as plain:
        bsf = BitStreamFilterContext('mpeg4_unpack_bframes', c.streams.video[0])
        chunks = [bytes(q) for p in c.demux(video=0) if p.size for q in bsf.filter(p)]
        assert pictures(chunks) == pictures([bytes(p) for p in plain.demux(video=0) if p.size])


@pytest.mark.parametrize(
    'name', ['mpeg4_b2_g50.avi', 'mpeg4_b1_g50.avi', 'packed_b2_g50.avi', 'mpeg4_b2_g50.mp4']
)
def test_decord_is_still_wrong(numbered, name):
    "When this fails, decord has been mended: say so in the notebook."
    pytest.importorskip('decord')
    path, wrong = numbered(name), 0
    for idx in index_lists(120):
        wrong += numbers(read_frames(path, idx, backend='decord')) != idx
    assert wrong > 0


@pytest.mark.parametrize('name', [
    'h264_b0_g12.mp4', 'h264_b3_g50.mp4', 'mpeg4_b0_g12.avi', 'rotated_90.mp4', 'rotated_-90.mp4',
    'rotated_180.mp4'])
def test_decord_where_it_is_right(numbered, name):
    pytest.importorskip('decord')
    for idx in index_lists(120):
        assert numbers(read_frames(numbered(name), idx, backend='decord')) == idx


# with 5 every packet is still there, the first ones marked as not shown
@pytest.mark.parametrize('hidden', [5, 20])
def test_hidden_first_frames(tmp_path, numbered, hidden):
    "An edit list hides the first frames of the file: they are not shown, so they have no number."
    source, cut = numbered('h264_b0_g12.mp4'), tmp_path/'cut.mp4'
    with av.open(str(source)) as inp, av.open(str(cut), 'w') as out:
        s = inp.streams.video[0]
        copy = out.add_stream_from_template(s)
        for p in inp.demux(s):
            if p.dts is None: continue
            p.pts -= hidden*p.duration
            p.dts -= hidden*p.duration
            p.stream = copy
            out.mux(p)
    assert numbers(read_frames(cut, [50])) == [50 + hidden]      # before anything is known
    assert probe_video(cut).n_frames == 120 - hidden
    assert numbers(read_frames(cut, [0, 50, 119 - hidden])) == [hidden, 50 + hidden, 119]


@pytest.mark.parametrize(
    'name,start', [('mpeg4_b0_g50.avi', 5), ('mpeg4_b2_g50.avi', 52), ('mpeg4_b2_g50.avi', 53)]
)
def test_a_file_that_begins_in_the_middle(tmp_path, numbered, name, start):
    """Its first pictures refer to some that are not there: whatever is decodable of it, jumps and
    decoding forward agree."""
    path = tmp_path/'tail.avi'
    with av.open(str(numbered(name))) as inp, av.open(str(path), 'w') as out:
        copy = out.add_stream_from_template(inp.streams.video[0])
        tail = [p for i, p in enumerate(inp.demux(video=0)) if p.size and i >= start]
        for t, p in enumerate(tail):
            p.pts = p.dts = t
            p.stream = copy
            out.mux(p)
    every = read_frames(path, range(probe_video(path).n_frames), backend='pyav')
    for idx in index_lists(len(every)):
        known_facts(path).clear()
        assert torch.equal(read_frames(path, idx), every[idx])


def damaged(path, target, how):
    data = bytearray(path.read_bytes())
    n = len(data)
    if how == 'cut': data = data[:int(.6*n)]
    elif how == 'zeros in the middle': data[n//2:n//2 + n//50] = bytes(n//50)
    elif how == 'zeros at the end': data[int(.7*n):] = bytes(n - int(.7*n))
    elif how == 'noise':
        noise = np.random.default_rng(0).integers(0, 256, 400, np.uint8)
        data[int(.7*n):int(.7*n) + 400] = noise.tobytes()
    target.write_bytes(data)
    return target


SPOILED = ('mpeg4_b0_g12.avi', 'mpeg4_b2_g50.avi', 'mpeg4_b2_g250.avi', 'packed_b2_g50.avi',
           'h264_b3.mkv')
HOW = ('cut', 'zeros in the middle', 'zeros at the end', 'noise')
DAMAGE = [(name, how) for name in SPOILED for how in HOW]
DAMAGE += [('h264_b0_g12.mp4', 'noise'), ('h264_b3_g50.mp4', 'noise')]


@pytest.mark.parametrize('name,how', DAMAGE)
def test_damage_never_gives_a_wrong_frame(numbered, tmp_path, name, how):
    path = damaged(numbered(name), tmp_path/name, how)
    first_touch = {}
    for i in (0, 20, 40, 50, 60, 70, 80, 90, 100, 119):
        known_facts(path).clear()
        try: first_touch[i] = numbers(read_frames(path, [i]))
        except ValueError: pass
    info = probe_video(path)
    matroska = path.suffix == '.mkv'                            # which may just end,
    assert 20 < info.n_frames < 120 and (info.damage or matroska)
    # and the pictures that waited for what is cut off come last
    sure = range(info.n_frames - (3 if matroska else 0))
    shown = numbers(read_frames(path, sure))
    assert shown == sorted(set(shown))
    # not painted over either
    assert torch.equal(read_frames(path, sure), read_frames(numbered(name), shown))
    assert shown == list(sure) or how not in ('cut', 'zeros at the end')
    if info.damage and how != 'cut': assert 0 < info.missing <= 120 - info.n_frames + 2
    for past in (info.n_frames, 119):
        with pytest.raises(ValueError, match=f'has {info.n_frames} frames'):
            read_frames(path, [past])
    for i, got in first_touch.items():
        if i < len(shown): assert got == [shown[i]]


def test_unreadable_files(tmp_path, numbered):
    "Every reason is an error of one kind that names the file."
    cases = {
        'empty.avi': (b'', 'empty file'), 'text.avi': (b'not a video\n'*400, 'video'),
        'noise.mp4': (os.urandom(9000), 'video')}
    for name, (data, _) in cases.items(): (tmp_path/name).write_bytes(data)
    damaged(numbered('h264_b0_g12.mp4'), tmp_path/'cut.mp4', 'cut')         # its index is gone
    cases['cut.mp4'] = None, 'cannot be opened as a video'
    with av.open(str(tmp_path/'picture.png'), 'w') as c:
        s = c.add_stream('png')
        s.width, s.height, s.pix_fmt = 32, 32, 'rgb24'
        c.mux(s.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format='rgb24')))
    cases['picture.png'] = None, 'is not a video'
    with av.open(str(tmp_path/'sound.wav'), 'w') as c:
        s = c.add_stream('pcm_s16le', rate=8000, layout='mono')
        silence = np.zeros((1, 800), np.int16)
        sound = av.AudioFrame.from_ndarray(silence, format='s16', layout='mono')
        sound.sample_rate = 8000
        c.mux(s.encode(sound))
    cases['sound.wav'] = None, 'no video stream'
    (tmp_path/'folder.avi').mkdir()
    cases['folder.avi'], cases['gone.avi'] = (None, 'directory'), (None, 'does not exist')
    cache = FrameCache(tmp_path/'cache')
    reads = [
        probe_video, lambda path: read_frames(path, [0]),
        lambda path: read_frames(path, [0], None, 'pyav'),
        lambda path: cache.read_frames(path, [0])]
    for name, (_, reason) in cases.items():
        path = tmp_path/name
        for read in reads:
            with pytest.raises(VideoError, match=reason) as e: read(path)
            assert e.value.path == path and str(e.value) == f'{path}: {e.value.reason}'


WRONG = [
    ([-1], 'negative'), ([], 'no frame index'), ([1.5], 'whole numbers'),
    ([0, 120], 'past the end'), ([10**9], 'past the end')]


@pytest.mark.parametrize('idx,words', WRONG)
def test_wrong_indices(numbered, idx, words):
    path = numbered('mpeg4_b0_g12.avi')
    for backend in ('auto', 'pyav'):
        with pytest.raises(ValueError, match=words) as e: read_frames(path, idx, backend=backend)
        assert str(path) in str(e.value)


def test_wrong_arguments(numbered):
    path = numbered('mpeg4_b0_g12.avi')
    with pytest.raises(ValueError, match='unknown backend'):
        read_frames(path, [0], backend='opencv')
    with pytest.raises(ValueError, match='short_side'): read_frames(path, [0], short_side=0)
    for idx in (np.array([3, 5]), torch.tensor([3, 5])):
        assert numbers(read_frames(path, idx)) == [3, 5]


def test_backend_that_does_not_load(numbered, monkeypatch):
    monkeypatch.setitem(sys.modules, 'decord', None)
    with pytest.raises(ValueError, match="'decord' cannot be loaded here"):
        read_frames(numbered('one.avi'), [0], backend='decord')


def test_a_changed_file_is_read_anew(tmp_path):
    path = write_numbered(tmp_path/'a.avi', n=5, size=(96, 160))
    assert probe_video(path).n_frames == 5 and numbers(read_frames(path, [4])) == [4]
    write_numbered(path, n=9, size=(96, 160), first=100)
    assert probe_video(path).n_frames == 9 and numbers(read_frames(path, [8])) == [108]


def test_each_wanted_frame_is_converted_once(numbered, monkeypatch):
    calls, rgb = [], video.to_rgb
    monkeypatch.setattr(video, 'to_rgb', lambda f: calls.append(1) or rgb(f))
    for name in ('h264_b3_g50.mp4', 'packed_b2_g50.avi'):
        calls.clear()
        read_frames(numbered(name), [40, 7, 40, 7, 41])
        assert len(calls) == 3


def test_decoding_stops_after_the_last_wanted_frame(numbered, monkeypatch):
    seen, forward = [], video.decode_forward
    def counted(*a):
        for f in forward(*a):
            seen.append(1)
            yield f
    monkeypatch.setattr(video, 'decode_forward', counted)
    read_frames(numbered('packed_b2_g50.avi'), [3, 20, 9])
    assert len(seen) == 21


def test_memory_does_not_grow_with_the_video(tmp_path):
    frames = (np.full((240, 320, 3), i % 250, np.uint8) for i in range(1200))
    path = write_video(tmp_path/'long.avi', frames)     # 276 MB when decoded
    code = '''import resource, sys
from fstcn.video import read_frames, probe_video
read_frames(sys.argv[1], [0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_frames(sys.argv[1], [1199, 3], backend='pyav')
probe_video(sys.argv[1])
read_frames(sys.argv[1], [1199, 3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)'''
    command = [sys.executable, '-c', code, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(out.stdout) < 40_000                # kB


def test_nothing_is_printed_about_damage(numbered, tmp_path):
    path = damaged(numbered('mpeg4_b2_g50.avi'), tmp_path/'a.avi', 'zeros in the middle')
    code = '''import sys
from fstcn.video import probe_video, read_frames
print(probe_video(sys.argv[1]).n_frames, len(read_frames(sys.argv[1], [3])))'''
    command = [sys.executable, '-c', code, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stderr == '' and out.stdout.split()[1] == '1'


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_reading_in_a_worker_after_the_parent_has_read(numbered, tmp_path, method):
    if method not in multiprocessing.get_all_start_methods(): pytest.skip('not on this system')
    path, context = numbered('h264_b3_g50.mp4'), multiprocessing.get_context(method)
    assert numbers(read_frames(path, [100, 5])) == [100, 5]
    queue = context.Queue()
    args = queue, FrameCache(tmp_path), path, [119, 60, 3]
    child = context.Process(target=read_in_child, args=args)
    child.start()
    assert [queue.get(timeout=300), queue.get(timeout=300)] == [[119, 60, 3]]*2
    child.join()


def test_guard_ends_what_does_not_end(numbered):
    path = numbered('mpeg4_b0_g12.avi')
    with Guard(timeout=2) as guard:
        with pytest.raises(VideoError, match='did not end within 2 s') as e: guard(forever, path)
        assert e.value.path == path
        guard.timeout = 200
        assert guard(probe_video, path) == probe_video(path)
        child = guard(eval, 'os.getpid()')
        assert guard(eval, 'os.getpid()') == child     # the same process serves the next call
        with pytest.raises(ValueError, match='negative'): guard(read_frames, path, [-1])
        with pytest.raises(VideoError, match='does not exist'):
            guard(probe_video, path.with_name('gone.avi'))
        with ThreadPoolExecutor(2) as pool:
            infos = list(pool.map(lambda p: guard(probe_video, p), [path]*6))
        assert [info.n_frames for info in infos] == [120]*6
        with pytest.raises(VideoError, match='killed the process'): guard(eval, 'os._exit(3)')
        child = guard(eval, 'os.getpid()')
        os.kill(child, 0)
    with pytest.raises(ProcessLookupError): os.kill(child, 0)


def test_guard_after_the_parent_has_used_its_threads(numbered, monkeypatch):
    "A forked child does not wait for threads that only its parent has."
    path = numbered('h264_b3_g50.mp4')
    x = torch.rand(1000, 1000)
    x @ x
    here = read_frames(path, [3, 100], short_side=48)
    with Guard(timeout=60, workers=2) as guard:
        for _ in range(4): assert torch.equal(guard(read_frames, path, [3, 100], 48), here)


def test_guard_in_a_script_without_a_main_guard(tmp_path):
    """Where children are spawned, a script that starts them as it is imported is told what to do,
    and does not start them for ever."""
    script = tmp_path/'script.py'
    script.write_text('''import sys
from fstcn.guard import Guard
sys.platform = 'darwin'
with Guard() as guard: guard(str.upper, 'a')
''')
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "under `if __name__ == '__main__':`" in done.stderr


CACHED = [
    ('h264_b3_g50.mp4', None), ('packed_b2_g50.avi', 48), ('odd.avi', 64), ('rotated_90.mp4', 48),
    ('vfr.mkv', 200)]


@pytest.mark.parametrize('name,short_side', CACHED)
def test_cache_equals_reading(numbered, tmp_path, monkeypatch, name, short_side):
    cache, path = FrameCache(tmp_path/'cache', short_side), numbered(name)
    for idx in index_lists(120):
        assert torch.equal(cache.read_frames(path, idx), read_frames(path, idx, short_side))
    assert cache.n_frames(path) == 120
    with pytest.raises(ValueError, match='past the end, the video has 120'):
        cache.read_frames(path, [120])
    side = short_side or min(probe_video(path).height, probe_video(path).width)
    with monkeypatch.context() as m:                    # from now on nothing is decoded
        m.setattr(av, 'open', None)
        assert min(cache.read_frames(path, [5]).shape[1:3]) == side


def test_cache_follows_the_file(tmp_path):
    cache = FrameCache(tmp_path/'cache')
    path = write_numbered(tmp_path/'a.avi', n=5, size=(96, 160))
    assert numbers(cache.read_frames(path, [4])) == [4]
    write_numbered(path, n=5, size=(96, 160), first=100)
    assert numbers(cache.read_frames(path, [4])) == [104]
    assert len(list((tmp_path/'cache').iterdir())) == 1        # the earlier version is gone
    (stored,) = (tmp_path/'cache').iterdir()
    whole = stored.read_bytes()
    for spoiled in (b'broken', b'', whole[:100], whole[:-50_000], whole[:-1], whole + b'x'):
        # a new file: cut short in place, it would take the pages from under the cache
        stored.unlink()
        stored.write_bytes(spoiled)
        for reader in (cache, FrameCache(tmp_path/'cache')):
            assert numbers(reader.read_frames(path, [4])) == [104]
        assert stored.read_bytes() == whole                    # made anew
    path.unlink()
    with pytest.raises(VideoError, match='does not exist'): cache.read_frames(path, [4])


def test_cache_is_bounded(tmp_path):
    paths = [tmp_path/f'{i}.avi' for i in range(3)]
    for i, path in enumerate(paths): write_numbered(path, n=5, size=(96, 160), first=10*i)
    cache = FrameCache(tmp_path/'cache', max_bytes=2*(5*96*160*3 + 200))
    for p in paths[:2]: cache.read_frames(p, [0])
    with pytest.warns(UserWarning, match='the frame cache is full'):
        assert numbers(cache.read_frames(paths[2], [4, 1])) == [24, 21]
    assert len(list((tmp_path/'cache').iterdir())) == 2
    assert frame_cache._cache_size(cache.root) <= cache.max_bytes
    assert cache.n_frames(paths[2]) == 5


def test_cache_under_several_processes_and_a_kill(numbered, tmp_path):
    context, root = multiprocessing.get_context('spawn'), tmp_path/'cache'
    names = ('h264_b3_g50.mp4', 'packed_b2_g50.avi', 'odd.avi', 'vfr.mkv', 'two.avi')
    paths = [numbered(name) for name in names]
    work = dict(target=fill_cache, args=(root, paths, 2**30, 64), daemon=True)
    children = [context.Process(**work) for _ in range(2)]
    for c in children: c.start()
    limit = time.time() + 300
    while not any(root.glob('*')) and time.time() < limit: time.sleep(.005)
    for c in children: c.kill()
    for c in children: c.join()
    for f in root.glob('*.npy'): assert len(np.load(f)) in (2, 120)      # whole or not there
    cache = FrameCache(root, 64)
    for p in paths:
        assert torch.equal(cache.read_frames(p, [1, 0]), read_frames(p, [1, 0], 64))


def test_abandoned_parts_are_removed(tmp_path):
    old, new = tmp_path/f'{PART}old', tmp_path/f'{PART}new'
    for folder in (old, new):
        folder.mkdir()
        (folder/'x.npy').write_bytes(b'x'*10)
    for left in (old/'x.npy', old): os.utime(left, (0, 0))
    assert frame_cache._cache_size(tmp_path) == 10 and new.exists() and not old.exists()


@pytest.mark.parametrize('name,options', [
    ('a.avi', {}), ('a.mp4', {}), ('a.mkv', {}), ('b.avi', dict(b_frames=2, gop=50)),
    ('h.mp4', dict(codec='libx264', b_frames=2)),
    ('o.mp4', dict(codec='libx264', preset='ultrafast', gop=30))])
@pytest.mark.parametrize('size', [(96, 160), (97, 143)])
def test_written_frames_come_back(tmp_path, name, options, size):
    frames = np.stack([numbered_frame(i, *size) for i in range(40)])
    path, again = tmp_path/name, tmp_path/f'2{name}'
    write_video(path, frames, fps=30, **options)
    write_video(again, iter(torch.from_numpy(frames)), fps=30, **options)
    assert path.read_bytes() == again.read_bytes()       # the same bytes every time
    info, back = probe_video(tmp_path/name), read_frames(tmp_path/name, range(40))
    assert (info.n_frames, info.fps, info.height, info.width) == (40, 30, *size)
    assert numbers(back) == list(range(40))
    assert (back.double() - torch.from_numpy(frames).double()).abs().mean() < 4


def test_writing_is_whole_or_not_at_all(tmp_path):
    good = np.zeros((3, 32, 48, 3), np.uint8)
    path = write_video(tmp_path/'a.avi', good)
    before = path.read_bytes()
    def breaks():
        yield good[0]
        raise KeyError('in the middle')
    with pytest.raises(KeyError): write_video(path, breaks())
    wrong = [
        ([], 'no frames'), (good.astype(float), 'float64'), (good[..., :1], 'uint8'),
        (good[0], 'uint8'), ([good[0], good[0, :16]], 'one size')]
    for frames, words in wrong:
        with pytest.raises(ValueError, match=words): write_video(path, frames)
    odd = dict(codec='libx264', pix_fmt='yuv420p')
    with pytest.raises(ValueError, match='yuv444p'):
        write_video(tmp_path/'b.mp4', good[:, :31], **odd)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.avi']


STRANGE = ('-a(1)[2]!#&+;~@.avi', 'http:x.avi', 'concat:a|b.avi')


def test_names_that_break_other_tools(tmp_path):
    "Names as in HMDB-51, and some that FFmpeg would take for a protocol or a pattern."
    for name in (*STRANGE, '%03d.avi', 'ü ñ.avi', "it's.avi"):
        path = write_numbered(tmp_path/'plain.avi', n=3, size=(96, 160)).rename(tmp_path/name)
        assert probe_video(path).n_frames == 3 and numbers(read_frames(path, [2, 0])) == [2, 0]
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for name in STRANGE: assert numbers(read_frames(name, [1])) == [1]
        assert write_video('http:y.avi', np.zeros((1, 32, 32, 3), np.uint8)).exists()
    finally: os.chdir(here)


def test_tags_that_are_not_utf8(tmp_path):
    path = tmp_path/'a.avi'
    with av.open(str(path), 'w') as c:
        c.metadata['title'] = 'QQQQQQ'
        s = c.add_stream('mpeg4', rate=25)
        s.width, s.height, s.pix_fmt = 32, 32, 'yuv420p'
        c.mux(s.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format='rgb24')))
        c.mux(s.encode())
    assert b'QQQQQQ' in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b'QQQQQQ', b'\x8c\xff\xfeQQQ'))
    assert probe_video(path).n_frames == 1


def test_a_size_that_changes(tmp_path):
    """A stream glued from two: its frames cannot be one tensor, unless they are not asked for
    together."""
    both, data = tmp_path/'both.mjpeg', b''
    for height in (96, 112):
        part = tmp_path/f'{height}.mjpeg'
        data += write_numbered(part, n=20, size=(height, 160), codec='mjpeg').read_bytes()
    both.write_bytes(data)
    assert numbers(read_frames(both, [3, 5])) == [3, 5] and numbers(read_frames(both, [25])) == [5]
    with pytest.raises(VideoError, match='another size'): read_frames(both, [3, 25])
    for asked in ([3, 25], [3]):                      # a cache holds a whole video, as one array
        with pytest.raises(VideoError, match='frame 20 has another size'):
            FrameCache(tmp_path/'cache').read_frames(both, asked)
    assert not list((tmp_path/'cache').iterdir())


REAL = [
    ('ucf101_samples/v_ApplyEyeMakeup_g01_c01.avi', 164, 164),
    ('ucf101_samples/v_BaseballPitch_g01_c01.avi', 107, 107),
    ('ut_interaction/segmented_set1/0_1_4.avi', 108, 110)]      # the header counts two more


@pytest.mark.skipif(not DATA.exists(), reason='the real videos are not here')
@pytest.mark.parametrize('name,n,header', REAL)
def test_real_videos(tmp_path, name, n, header):
    path = DATA/name
    assert probe_video(path).n_frames == n and not probe_video(path).damage
    every = read_frames(path, range(n), backend='pyav')
    for idx in index_lists(n): assert torch.equal(read_frames(path, idx), every[idx])
    with av.open(str(path)) as c: assert c.streams.video[0].frames == header
    cut = damaged(path, tmp_path/path.name, 'cut')
    m = probe_video(cut).n_frames
    assert n//3 < m < n and torch.equal(read_frames(cut, range(m)), every[:m])


def test_times_that_do_not_rise_count_for_nothing():
    "No times at all, or the same again and again: the stated rate counts."
    for times in ([None]*40, [0.]*40, [i % 20/10 for i in range(40)]):
        clock = FrameClock(25)
        for t in times: clock.add(t)
        assert (clock.fps(), clock.at(30)) == (25, 30)
        passed = [clock.passed(since, .2) for since in (26, 34, 35)]
        assert passed == [True, True, False]


VOP = b'\0\0\1\xb6'


def test_the_type_of_a_picture_of_mpeg4():
    pictures = [VOP + bytes([first]) + bytes(20) for first in (0, 64, 128, 192)]
    assert [packets.vop_type(p) for p in pictures] == list('IPBS')


@pytest.mark.parametrize('packet', [2*(VOP + bytes(20)), VOP + bytes(8), bytes(30)])
def test_packets_that_are_packed_or_small_or_hold_no_picture(packet):
    assert packets.vop_type(packet) is None


H264_UNITS = [((9, 6, 5), True), ((9, 6, 1), False), ((6,), False), ((), False)]


@pytest.mark.parametrize('kinds,refresh', H264_UNITS)
def test_refreshes_of_h264(kinds, refresh):
    units = b''.join(bytes([0, 0, 0, 3, kind, 1, 2]) for kind in kinds)     # each of three bytes
    assert packets.is_refresh(units, 'h264', bytes([1, 0, 0, 0, 255])) is refresh
    assert packets.is_refresh(units, 'h264', b'') is False    # start codes, no lengths


@pytest.mark.parametrize('kind,refresh', [(20, True), (19, False), (21, False), (1, False)])
def test_refreshes_of_hevc(kind, refresh):
    units = b''.join(bytes([0, 0, 0, 3, 2*k, 1, 2]) for k in (35, kind))
    assert packets.is_refresh(units, 'hevc', bytes([1]) + bytes(20) + bytes([255])) is refresh


TURNED = {2: np.fliplr, 4: np.flipud, 5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1)}


@pytest.mark.parametrize('orientation', TURNED)
def test_pictures_with_exif(tmp_path, orientation):
    "PyAV fails at their side data."
    picture, path = numbered_frame(5, 120, 160), tmp_path/'a.mjpeg'
    jpeg = write_video(path, [picture]*9, codec='mjpeg', pix_fmt='yuvj420p').read_bytes()
    tag = b'\x01\0\x12\x01\x03\0\x01\0\0\0' + bytes([orientation]) + bytes(7)
    exif = b'Exif\0\0II*\0\x08\0\0\0' + tag
    path.write_bytes(jpeg[:2] + b'\xff\xe1\0' + bytes([len(exif) + 2]) + exif + jpeg[2:])
    for _ in range(2):                         # what is replaced meanwhile is put back
        frame = next(decode_forward(path))
        # the day PyAV knows EXIF, `_side_data` can go
        with pytest.raises(ValueError, match='is not a valid Type'): _ = frame.side_data
        shown, expected = to_rgb(frame), TURNED[orientation](picture)
        assert shown.shape == expected.shape
        assert np.abs(shown.astype(int) - expected).mean() < 8


def _said(cache, path, other):
    "What a cache warns of while it reads two videos that it cannot take."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        for p in (path, other, other): assert numbers(cache.read_frames(p, [7])) == [7]
        assert cache.n_frames(other) == 120
    return [str(w.message) for w in said]


def test_a_cache_whose_disk_is_gone_says_so_once(numbered, tmp_path):
    root = tmp_path/'away'
    cache = FrameCache(root)
    root.rmdir()
    (said,) = _said(cache, numbered('mpeg4_b2_g50.avi'), numbered('h264_b3_g50.mp4'))
    assert said.startswith(f'{root}: the frame cache cannot be written (No such file')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a disk without space')
def test_a_cache_on_a_full_disk_says_so_once(numbered, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, 'atomic', lambda file, sync: nullcontext('/dev/full'))
    (said,) = _said(FrameCache(tmp_path), numbered('mpeg4_b2_g50.avi'), numbered('h264_b3_g50.mp4'))
    assert 'cannot be written (No space left on device)' in said


def test_packets_that_cannot_be_counted(monkeypatch):
    class Broken:
        def demux(self, stream): raise av.error.InvalidDataError(1, 'broken')
    monkeypatch.setattr(frame_cache, 'open_video', lambda path: nullcontext((Broken(), None)))
    assert frame_cache._n_packets('a.avi') == 0


ORPHAN = '''import os, sys, time
from fstcn.guard import Guard

def forever(path):
    with open(path, 'w') as f: f.write(str(os.getpid()))
    while True: time.sleep(.2)

if __name__ == '__main__':
    if sys.argv[2] == 'spawn': sys.platform = 'darwin'
    with Guard(600, workers=2) as guard:
        guard(str.upper, 'a')
        guard(forever, sys.argv[1])
'''


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    state = Path(f'/proc/{pid}/stat')
    # nobody may be there to collect it
    return not (state.exists() and state.read_text().rpartition(')')[2].split()[0] == 'Z')


@pytest.mark.faults
@pytest.mark.parametrize('method', ['fork', 'spawn'])
@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGTERM])
def test_a_child_does_not_outlive_its_parent(tmp_path, method, end):
    (tmp_path/'orphan.py').write_text(ORPHAN)
    mark = tmp_path/'child'
    parent = subprocess.Popen([sys.executable, tmp_path/'orphan.py', mark, method])
    limit = time.time() + 200
    while not (mark.exists() and mark.read_text()) and time.time() < limit: time.sleep(.1)
    child = int(mark.read_text())
    assert alive(child)
    parent.send_signal(end)
    parent.wait()
    limit = time.time() + 20
    while alive(child) and time.time() < limit: time.sleep(.1)
    assert not alive(child)


@pytest.mark.faults
def test_a_child_that_is_killed_before_it_begins_takes_no_call_with_it(numbered):
    path = numbered('mpeg4_b0_g12.avi')
    with Guard(60) as guard:
        for _ in range(3):
            child = guard(eval, 'os.getpid()')
            os.kill(child, signal.SIGKILL)         # no call is running
            with ThreadPoolExecutor(3) as threads:
                infos = list(threads.map(lambda p: guard(probe_video, p), [path]*3))
            assert [info.n_frames for info in infos] == [120]*3


@pytest.mark.faults
@pytest.mark.parametrize('timeout', [0, -1, float('inf'), float('nan')])
def test_a_time_limit_that_is_none(timeout):
    with pytest.raises(ValueError, match='timeout must be a positive number of seconds'):
        Guard(timeout)


def _repeated(i, packet): packet.pts += packet.pts % (2*packet.duration)
def _without_pts(i, packet): packet.pts = None


H265 = {'x265-params': 'log-level=none:open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3'}
FAST = {'deadline': 'realtime', 'cpu-used': '8'}
OTHERS = {
    'vp8.webm': (dict(codec='libvpx', options=FAST), None),
    'vp9.webm': (dict(codec='libvpx-vp9', options=FAST), None),
    'vp9.mp4': (dict(codec='libvpx-vp9', options=FAST), _early),
    'av1.mkv': (dict(codec='libsvtav1', options={'preset': '12'}), None),
    'av1.mp4': (dict(codec='libsvtav1', options={'preset': '12'}), None),
    'mpeg2.ts': (dict(codec='mpeg2video', b_frames=2), None),
    'mpeg2.mkv': (dict(codec='mpeg2video', b_frames=2), _in_file_order),
    'h264.ts': (dict(H264, b_frames=3), _early),
    'h264.avi': (dict(H264, b_frames=3), _without_pts),
    'h264.mp4': (dict(H264, b_frames=3, options=OPEN_GOP), _repeated),
    'h264.mkv': (dict(H264, b_frames=3, options=PYRAMID), _repeated),
    'hevc.ts': (dict(codec='libx265', options=H265), _repeated),
    'hevc.mov': (dict(codec='libx265', options=H265), _repeated),
    'mpeg4.avi': (dict(b_frames=2), _without_pts),
    'mpeg4.mp4': (dict(b_frames=2), _repeated)}


@pytest.mark.faults
@pytest.mark.parametrize('name', OTHERS)
def test_auto_is_decoding_forward_whatever_the_codec(tmp_path, name):
    how, stamp = OTHERS[name]
    try: av.codec.Codec(how.get('codec', 'mpeg4'), 'w')
    except av.codec.codec.UnknownCodecError: pytest.skip('no such encoder here')
    path = write_numbered(tmp_path/name, n=60, size=(96, 160), **{'gop': 12, **how})
    if stamp: path = remux(path, tmp_path/f'copy.{name}', stamp)
    n = probe_video(path).n_frames
    every = read_frames(path, range(n), backend='pyav')
    assert n > 50 and numbers(every) == sorted(set(numbers(every)))
    for wanted in [[i] for i in range(0, n, 7)] + index_lists(n):
        known_facts(path).clear()
        assert torch.equal(read_frames(path, wanted), every[wanted]), wanted


TEARS = {
    'half': lambda data: data[:max(8, len(data)//2)],
    'nearly nothing': lambda data: data[:8],
    'zeros at the end': lambda data: data[:2*len(data)//3] + bytes(len(data) - 2*len(data)//3),
    'zeros': lambda data: data[:12] + bytes(len(data) - 12)}
# left out is what no decoder notices
TORN = {
    'h264.mkv': (dict(H264, b_frames=3, options=OPEN_GOP), [*TEARS]),
    'h264.mp4': (dict(H264, b_frames=3), [*TEARS]),
    'h264.ts': (dict(H264, b_frames=2, options=OPEN_GOP), ['half', 'zeros']),
    'hevc.mkv': (dict(codec='libx265', options=H265), ['half', 'nearly nothing']),
    'mpeg4.avi': (dict(b_frames=2), ['half', 'nearly nothing']),
    'mpeg4.mkv': (dict(), ['half', 'nearly nothing'])}


@pytest.mark.faults
@pytest.mark.parametrize('name', TORN)
def test_torn_packets_never_give_another_picture(tmp_path, name):
    how, tears = TORN[name]
    n, rng = 48, random.Random(name)
    source = write_numbered(tmp_path/name, n=n, size=(96, 160), **{'gop': 12, **how})
    every, found = [to_rgb(frame) for frame in decode_forward(source)], 0
    for trial in range(24):
        torn = rng.sample(range(1, n), rng.choice([1, 1, 2, 3])) if trial else [2]
        tear = TEARS[tears[trial % len(tears)]]
        def change(k, data, torn=torn, tear=tear): return tear(data) if k in torn else data
        path = change_packets(source, tmp_path/f'{trial}.{name}', change)
        shown = [to_rgb(frame) for frame in decode_forward(path)]
        which = iter(enumerate(every))                 # in order, each of them once
        for picture in shown:
            assert any(np.array_equal(picture, x) for _, x in which), (torn, trial)
        info = probe_video(path)
        assert info.damage or len(shown) == n, torn
        assert (info.missing > 0) == (len(shown) < n), torn
        found += len(shown)
    assert found > 24*n/2                             # it goes on after damage


def nal(kind, body): return bytes([0, 0, 0, len(body) + 1, kind]) + body


@pytest.mark.faults
@pytest.mark.parametrize('where', [range(60), [31]])
def test_a_remark_that_is_shorter_than_it_says_costs_no_picture(tmp_path, where):
    "A SEI unit that announces 710 bytes and has 199, as security cameras write them."
    short = nal(6, bytes([5, 255, 255, 200]) + bytes(range(1, 200)))
    source = write_numbered(tmp_path/'a.mp4', n=60, size=(96, 160), b_frames=2, **H264)
    def change(k, data): return short + data if k in where else data
    path = change_packets(source, tmp_path/'b.mp4', change)
    assert (probe_video(path).n_frames, probe_video(path).damage) == (60, '')
    assert torch.equal(read_frames(path, range(60)), read_frames(source, range(60)))
    for i in range(0, 60, 7): assert numbers(read_frames(path, [i])) == [i]


@pytest.mark.faults
@pytest.mark.parametrize('behind', [b'\0\0\1\xb2camera', bytes(7)])
def test_what_stands_behind_a_picture_of_mpeg4_costs_none(tmp_path, behind):
    source = write_numbered(tmp_path/'a.avi', n=60, size=(96, 160), b_frames=2)
    path = change_packets(source, tmp_path/'b.avi', lambda k, data: data + behind)
    assert (probe_video(path).n_frames, probe_video(path).damage) == (60, '')
    assert torch.equal(read_frames(path, range(60)), read_frames(source, range(60)))


@pytest.mark.faults
@pytest.mark.parametrize('codec', ['libx264', 'mpeg2video'])
def test_transport_streams_that_are_joined(tmp_path, codec):
    "As camcorders and recorders cut them: the counters of the packets jump."
    data = b''
    for first in (0, 30, 60):
        part = tmp_path/f'{first}.ts'
        how = dict(codec=codec, b_frames=2, first=first)
        data += write_numbered(part, n=30, size=(96, 160), **how).read_bytes()
    (tmp_path/'all.ts').write_bytes(data)
    n = probe_video(tmp_path/'all.ts').n_frames
    shown = numbers(read_frames(tmp_path/'all.ts', range(n)))
    assert shown == sorted(set(shown)) and n >= 88, shown
    for i in range(0, n, 9): assert numbers(read_frames(tmp_path/'all.ts', [i])) == [shown[i]]


@pytest.mark.faults
def test_a_still_picture_as_first_track_is_not_the_film(tmp_path):
    source = write_numbered(tmp_path/'a.mp4', n=60, size=(96, 160), b_frames=2, **H264)
    cover, path = write_numbered(tmp_path/'c.mp4', n=1, codec='mjpeg'), tmp_path/'b.mp4'
    with av.open(str(source)) as film, av.open(str(cover)) as still, av.open(str(path), 'w') as out:
        copies = [(c, out.add_stream_from_template(c.streams.video[0])) for c in (still, film)]
        for container, copy in copies:
            for packet in container.demux(video=0):
                if packet.dts is None: continue
                packet.stream = copy
                out.mux(packet)
    info = probe_video(path)
    assert (info.n_frames, info.height, info.width, info.codec) == (60, 96, 160, 'h264')
    assert numbers(read_frames(path, [41, 3])) == [41, 3]


@pytest.mark.faults
@pytest.mark.parametrize('codec,lost', [('libx264', 16), ('libx265', 6)])
def test_open_groups_that_are_cut_and_joined(tmp_path, codec, lost):
    """As cutting tools do: the pictures before a keyframe may need what is no longer there; x264
    may, in the next one, even name it."""
    options = H265 if codec == 'libx265' else OPEN_GOP
    how = dict(codec=codec, options=options, b_frames=3, gop=12)
    source, path = write_numbered(tmp_path/'a.mkv', n=72, size=(96, 160), **how), tmp_path/'b.mkv'
    with av.open(str(source)) as inp, av.open(str(path), 'w') as out:
        packets = [packet for packet in inp.demux(video=0) if packet.size]
        copy = out.add_stream_from_template(inp.streams.video[0])
        keys = [k for k, packet in enumerate(packets) if packet.is_keyframe]
        for packet in packets[:keys[1]] + packets[keys[3]:]:
            packet.stream = copy
            out.mux(packet)
    every = [to_rgb(frame) for frame in decode_forward(source)]
    shown = [to_rgb(frame) for frame in decode_forward(path)]
    which = iter(every)
    for picture in shown: assert any(np.array_equal(picture, x) for x in which)
    kept = keys[1] + len(packets) - keys[3]
    assert kept - lost <= len(shown) <= kept
    assert len(shown) == kept or probe_video(path).missing == kept - len(shown)
    for i in range(0, len(shown), 5):
        assert np.array_equal(read_frames(path, [i])[0].numpy(), shown[i])
