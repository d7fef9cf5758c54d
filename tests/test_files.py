"""What killed processes leave beside a file, and who removes it; what is no file to read."""
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from fstcn.files import PART, atomic, file_fault, remove_parts
from fstcn.decoding import VideoError, probe_video
from fstcn.video import read_frames
from fstcn.datasets import DatasetError, load_split
from fstcn.frame_folders import frame_files

pytestmark = pytest.mark.faults

WAITS = '''
import sys, time
from fstcn.files import atomic
with atomic(sys.argv[1]) as part:
    part.write_text('half')
    print('begun', flush=True)
    time.sleep(60)
'''
WRITES = '''
import sys
from fstcn.files import atomic
with atomic(sys.argv[1]) as part: part.write_text('whole')
'''


def begin(file):
    "A process in the middle of a file."
    run = subprocess.Popen([sys.executable, '-c', WAITS, file], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == 'begun\n'
    return run


def kill(run):
    run.send_signal(signal.SIGKILL)
    run.wait()


def parts(folder): return list(folder.glob(f'{PART}*'))


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path):
    kill(begin(tmp_path/'dead'))
    alive = begin(tmp_path/'alive')
    try:
        subprocess.run([sys.executable, '-c', WRITES, tmp_path/'new'], check=True)
        left, = parts(tmp_path)
        assert (left/'alive').read_text() == 'half'
        remove_parts(tmp_path)
        assert parts(tmp_path) == [left]
    finally:
        kill(alive)
    remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['new']


def test_killed_before_the_lock_or_left_by_an_earlier_version(tmp_path):
    for name in ('empty', 'old'): (tmp_path/f'{PART}{name}').mkdir()
    (tmp_path/f'{PART}old'/'video.avi').touch()
    remove_parts(tmp_path)
    assert parts(tmp_path) == []


def test_writing_while_another_removes(tmp_path):
    "Two processes that remove all the time, between every two lines of a writer."
    removes = ('import sys\nfrom fstcn.files import remove_parts\nprint(flush=True)\n'
               'while True: remove_parts(sys.argv[1])')
    others = []
    for _ in range(2):
        others.append(subprocess.Popen(
            [sys.executable, '-c', removes, tmp_path], stdout=subprocess.PIPE))
    try:
        for other in others: other.stdout.readline()
        end, n = time.monotonic() + 2, 0
        while time.monotonic() < end:
            with atomic(tmp_path/'file', sync=False) as part: part.write_text(str(n))
            assert (tmp_path/'file').read_text() == str(n)
            n += 1
    finally:
        for other in others: kill(other)


POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'


def video_reads(path):
    "Each way in which a video is opened."
    yield probe_video, path
    for backend in ('auto', 'pyav', 'decord'):
        yield partial(read_frames, backend=backend), path, [0]


@pytest.mark.skipif(sys.platform in ('darwin', 'win32'), reason='names are UTF-8 here')
def test_what_is_no_video_is_named(tmp_path):
    strange = tmp_path/os.fsdecode(b'caf\xe9.avi')
    for file, content in [(tmp_path/'film.mp4', POINTER), (strange, b'RIFF')]:
        file.write_bytes(content)
    reasons = {
        tmp_path/'film.mp4': 'git lfs pull', strange: 'not UTF-8', tmp_path: 'is a directory',
        tmp_path/'a\0b': 'does not exist', tmp_path/'film.mp4/a': 'does not exist'}
    for path, reason in reasons.items():
        for read, *args in video_reads(path):
            with pytest.raises(VideoError, match=reason) as e: read(*args)
            assert e.value.path == path


@pytest.mark.skipif(sys.platform in ('darwin', 'win32'), reason='names are UTF-8 here')
def test_a_folder_of_frames_has_the_same_rule(tmp_path):
    strange = tmp_path/os.fsdecode(b'd\xe9')
    strange.mkdir()
    (strange/'0.png').touch()
    with pytest.raises(VideoError, match='not UTF-8'): frame_files(strange)


def test_a_list_that_is_a_pointer(tmp_path):
    (tmp_path/'list.csv').write_bytes(POINTER)
    with pytest.raises(DatasetError, match='list.csv: cannot be read: is a Git LFS pointer'):
        load_split(tmp_path/'list.csv')


def test_a_device_is_not_read_from(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    assert file_fault(tmp_path/'pipe') == '' # opening it would wait for a writer
