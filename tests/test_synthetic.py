"What a reader need not see of the embedded data set: folders left alone, settings refused."
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from fstcn.files import PART
from fstcn.splits import DatasetError
from fstcn.takes import render_action
from fstcn.synthetic import make_synthetic

SMALL = dict(classes=('Wave', 'Walk'), n_groups=3, n_clips=1, n_frames=4)


@pytest.fixture
def root(tmp_path):
    "A finished data set."
    return make_synthetic(tmp_path/'small', **SMALL)


def test_a_lost_file_does_not_hide_a_changed_one(root):
    changed, lost = root/'UCF-101/Walk/v_Walk_g03_c01.avi', root/'UCF-101/Walk/v_Walk_g02_c01.avi'
    with open(changed, 'ab') as f: f.write(b'0')
    lost.unlink()
    for _ in range(2):                                  # neither now nor later
        with pytest.raises(DatasetError, match='have changed'): make_synthetic(root, **SMALL)


def test_a_file_is_not_a_folder_to_write_to(root):
    with pytest.raises(DatasetError, match='neither new, nor empty'):
        make_synthetic(root/'ucfTrainTestlist/classInd.txt')


@pytest.mark.parametrize('settings, message', [
    (dict(classes=('Wave',)), 'two or more'),
    (dict(classes=('Wave', 'Wave', 'Run')), 'two or more'),
    (dict(n_groups=2), 'at least 3 groups'),
    (dict(n_clips=0), 'n_clips >= 1'),
    (dict(seed=-1), 'seed >= 0'),
    (dict(size=(121, 160)), 'even numbers'),
    (dict(n_frames=(60, 50)), 'fewest'),
])
def test_impossible_settings_are_refused_before_anything_is_created(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message): make_synthetic(tmp_path/'new', **settings)
    assert not (tmp_path/'new').exists()


def test_an_unknown_action_is_not_drawn():
    with pytest.raises(ValueError, match="unknown action 'Sing'"): render_action('Sing')


# --- killed runs ----------------------------------------------------------------------------------

@pytest.mark.faults
def test_killed_before_its_first_file_was_complete(tmp_path):
    folders = tmp_path, tmp_path/'UCF-101/Walk', tmp_path/'ucfTrainTestlist'
    (tmp_path/f'{PART}1').mkdir()
    make_synthetic(tmp_path, **SMALL)
    for folder in folders: (folder/f'{PART}2').mkdir() # killed before it was cleaned up
    make_synthetic(tmp_path, **SMALL)
    for folder in folders: assert not list(folder.glob('.*'))


BOTH = '''
import sys
from fstcn.synthetic import make_synthetic
if __name__ == '__main__': make_synthetic(sys.argv[1], n_groups=20, workers=2)
'''


@pytest.mark.faults
def test_workers_end_with_a_killed_process(tmp_path):
    (tmp_path/'both.py').write_text(BOTH)
    run = subprocess.Popen([sys.executable, tmp_path/'both.py', tmp_path/'data'])
    try:
        while not list(tmp_path.rglob('*.avi')):
            assert run.poll() is None
            time.sleep(.05)
        workers = psutil.Process(run.pid).children(recursive=True)
        assert len(workers) > 1
    finally:
        run.kill()
        run.wait()
    psutil.wait_procs(workers, timeout=20)
    try: assert [w for w in workers if w.is_running()] == []
    finally:
        for w in workers:
            with suppress(psutil.NoSuchProcess): w.kill()


@pytest.mark.faults
@pytest.mark.parametrize('text', [
    b'', b'{', b'null', b'[]', b'{}', b'{"settings": null}', b'{"settings": [1, 2]}',
    b'\xff\xfe', b'\0' * 30, b'[' * 100_000])
def test_a_record_that_is_none_is_named(root, text):
    (root/'synthetic.json').write_bytes(text)
    with pytest.raises(DatasetError, match='synthetic.json: cannot be read as the record'):
        make_synthetic(root, **SMALL)
