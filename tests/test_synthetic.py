"What a reader need not see of the embedded data set: folders left alone, settings refused."
import pytest

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
