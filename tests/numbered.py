"""Test videos whose frame number is drawn into the picture.

Ten squares along the top, white for 1 and black for 0, lowest bit first.
"""
from functools import lru_cache

import av
import numpy as np

BITS = 10


@lru_cache(maxsize=512)
def numbered_frame(i, height=240, width=320):
    "Frame `i`: its number above a texture that moves."
    y, x = np.mgrid[:height, :width]
    wave = 128 + 60 * np.sin((x + 3 * i) / 17) * np.cos((y - 2 * i) / 23)
    frame = np.stack([wave, np.roll(wave, 40, 1), 255 - wave], -1).astype(np.uint8)
    side = width // BITS
    for b in range(BITS): frame[:side, side * b:side * (b + 1)] = 235 if i >> b & 1 else 16
    return frame


def numbers(frames):
    "The numbers drawn into frames (t,h,w,3)."
    frames = np.asarray(frames)
    side = frames.shape[2] // BITS
    m = max(side // 8, 1)
    squares = [
        frames[:, m:side - m, side * b + m:side * (b + 1) - m].mean((1, 2, 3)) > 125
        for b in range(BITS)
    ]
    return [int(n) for n in sum(s.astype(int) << b for b, s in enumerate(squares))]


def encoder_options(codec, b_frames):
    "What FFmpeg's encoders are told, so that keyframes stand where they are asked for."
    if codec == 'mpeg4': return {'sc_threshold': '1000000000'}
    if codec == 'libx264':
        return {'crf': '12', 'preset': 'veryfast', 'sc_threshold': '0', 'bf': str(b_frames)}
    if codec == 'libx265':
        return {'preset': 'veryfast', 'x265-params': f'log-level=none:bframes={b_frames}'}
    return {}


def write_numbered(
    path, n=150, codec='mpeg4', gop=12, b_frames=0, size=(240, 320), times=None, rotation=0,
    first=0, options=()
):
    """Write `n` numbered frames with PyAV; `times` are presentation times in milliseconds,
    `rotation` degrees go into the container."""
    height, width = size
    with av.open(str(path), 'w') as out:
        stream = out.add_stream(codec, rate=1000 if times else 25)
        stream.width, stream.height = (height, width) if rotation % 180 else (width, height)
        odd = codec == 'libx264' and (height % 2 or width % 2)
        stream.pix_fmt = 'yuv444p' if odd else 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
        ctx = stream.codec_context
        ctx.gop_size, ctx.max_b_frames, ctx.thread_count = gop, b_frames, 1
        if codec == 'mpeg4': ctx.qmin = ctx.qmax = 2
        if codec == 'mpeg4' and str(path).endswith('.avi'): ctx.codec_tag = 'XVID'
        if rotation: stream.set_display_rotation(rotation)
        ctx.options = encoder_options(codec, b_frames) | dict(options)
        for i in range(n):
            # stored lying down, shown upright
            picture = np.rot90(numbered_frame(first + i, height, width), -rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
            frame.pts = times[i] if times else i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def remux(source, target, stamp, **container_options):
    """Copy the packets of `source` into another container; `stamp(i, packet)` changes the times of
    packet `i` of the file."""
    with av.open(str(source)) as inp, av.open(
        str(target), 'w', container_options=container_options
    ) as out:
        stream = inp.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [packet for packet in inp.demux(stream) if packet.size]
        for i, packet in enumerate(packets):
            stamp(i, packet)
            packet.stream = copy
            out.mux(packet)
    return target


VOP = b'\0\0\1\xb6'
# a P-picture that says "as before" and nothing else
NOT_CODED = VOP + b'\x51\x4f'
# how XviD announces packed B-frames
PACKED = b'\0\0\1\xb2DivX503b1393p\0\0\1\xb2XviD0050'


def pack_b_frames(source, target):
    """Rewrite MPEG-4 in AVI as XviD packs B-frames: each anchor with its first B in one chunk, an
    empty picture in the place gained."""
    with av.open(str(source)) as inp, av.open(str(target), 'w') as out:
        stream = inp.streams.video[0]
        copy = out.add_stream_from_template(stream)
        chunks = [bytes(p) for p in inp.demux(stream) if p.size]
        kinds = [c[c.index(VOP) + 4] >> 6 for c in chunks]
        packed, i = [], 0
        while i < len(chunks):
            n_b = 0
            while i + n_b + 1 < len(chunks) and kinds[i + n_b + 1] == 2: n_b += 1
            anchor = chunks[i] if kinds[i] else chunks[i].replace(VOP, PACKED + VOP, 1)
            group = [anchor, *chunks[i + 1:i + 1 + n_b]]
            packed += [group[0] + group[1], *group[2:], NOT_CODED] if n_b else group
            i += n_b + 1
        keys = [c.find(VOP) >= 0 and c[c.index(VOP) + 4] >> 6 == 0 for c in packed]
        for t, (data, key) in enumerate(zip(packed, keys, strict=True)):
            packet = av.Packet(data)
            packet.stream, packet.time_base = copy, stream.time_base
            packet.pts = packet.dts = t
            packet.is_keyframe = key
            out.mux(packet)
    return target


def forever(path):
    "A decoder that hangs."
    while True: pass


def read_in_child(queue, cache, path, indices):
    "Send what a child process reads, without and with the cache it was handed."
    from fstcn.video import read_frames
    queue.put(numbers(read_frames(path, indices)))
    queue.put(numbers(cache.read_frames(path, indices)))


def fill_cache(root, paths, max_bytes, short_side):
    "Read every path through a frame cache, again and again."
    from fstcn.cache import FrameCache
    cache = FrameCache(root, short_side, max_bytes)
    while True:
        for p in paths: cache.read_frames(p, [0])


def lose_packets(path, target, *lost):
    "A copy of a file, all bytes of some of its packets zeroed."
    with av.open(str(path)) as f: places = [(p.pos, p.size) for p in f.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for k in lost:
        begin, size = places[k]
        data[begin:begin + size] = bytes(size)
    target.write_bytes(data)
    return target


def change_size(target, *heights, n=20):
    "A film whose pictures change their size after `n`."
    data = b''
    for height in heights:
        part = target.with_name(f'{height}.mjpeg')
        data += write_numbered(part, n=n, size=(height, 160), codec='mjpeg').read_bytes()
        part.unlink()
    target.write_bytes(data)
    return target


def change_packets(source, target, change):
    "Copy a film into another container; `change(k, data)` gives the bytes of packet `k`."
    with av.open(str(source)) as inp, av.open(str(target), 'w') as out:
        stream = inp.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for k, old in enumerate(packet for packet in inp.demux(stream) if packet.size):
            new = av.Packet(change(k, bytes(old)))
            new.pts, new.dts, new.time_base = old.pts, old.dts, old.time_base
            new.duration, new.is_keyframe, new.stream = old.duration, old.is_keyframe, copy
            out.mux(new)
    return target
