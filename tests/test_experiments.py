"What a reader need not see of a run: unreadable videos, a full disk, scores of several processes."
from unittest.mock import Mock, patch

import pytest
import torch
from numbered import change_size, lose_packets, write_numbered

import fstcn.experiments
from fstcn.cache import FrameCache
from fstcn.check import check_videos, look_at, tell_damage
from fstcn.decoding import VideoError
from fstcn.learning import TrainingError
from fstcn.loading import VideoReader
from fstcn.splits import Video, VideoSplit
from fstcn.benchmarks import ucf101
from fstcn.experiments import _write_results, run_experiment, score_together
from fstcn.inference import Recognizer
from fstcn.scores import Scores, score_videos
from fstcn.model import FstCN, FstCNConfig
from fstcn.records import read_lines
from fstcn.synthetic import make_synthetic
from fstcn.runs import TrainConfig

TINY = FstCNConfig.small(
    2, n_clips=2, crop_size=76, short_side=90, scl_channels=(8, 8, 8, 8), spatial_channels=8,
    temporal_channels=8, permuted_channels=8, fc_sizes=(16, 16), fusion_size=16)
ONCE = TrainConfig(epochs=1, batch_size=4, workers=0)
SKIP = TrainConfig(epochs=1, batch_size=4, workers=0, on_error='skip')


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    "Two classes, four actors."
    folder = tmp_path_factory.mktemp('data')
    return ucf101(make_synthetic(folder, ['SitDown', 'StandUp'], n_groups=4, n_clips=1), 1)


@pytest.fixture
def bad(tmp_path):
    "A file that is no video."
    (tmp_path/'bad.avi').write_bytes(bytes(2000))
    return tmp_path/'bad.avi'


def run(split, settings, out, **options):
    return run_experiment(split, TINY, settings, out, device='cpu', progress=False, **options)


def recognizer(): return Recognizer(FstCN(TINY), ['a', 'b'], 2, device='cpu')


def never(): return patch.object(fstcn.experiments, 'train', side_effect=ZeroDivisionError)


def test_a_file_that_cannot_be_read_is_told_before_training(split, tmp_path):
    unread = patch.object(fstcn.experiments, 'checksum', side_effect=OSError('cannot be read'))
    with unread, never(), pytest.raises(OSError, match='be read'):
        run(split, ONCE, tmp_path/'never', validate=.4)
    assert not (tmp_path/'never').exists()


def test_nothing_to_hold_out_is_told_before_training(split, tmp_path):
    none = patch.object(fstcn.experiments, 'hold_out', return_value=(split.train, []))
    with none, never(), pytest.raises(ValueError, match='no training video can be held out'):
        run(split, ONCE, tmp_path/'never', validate=.4)
    assert not (tmp_path/'never').exists()


def test_where_no_test_video_can_be_read_nothing_is_scored(split, bad, tmp_path):
    record = run(VideoSplit(split.classes, split.train, (Video(bad, 0),)), SKIP, tmp_path/'nothing')
    assert 'accuracy' not in record
    assert not (tmp_path/'nothing'/'scores.npz').exists()


def test_a_held_out_video_that_cannot_be_read_is_left_out(split, bad, tmp_path):
    few = VideoSplit(split.classes, (*split.train, Video(bad, 0, 'g09')), ())
    held = split.train, (split.train[0], Video(bad, 0))
    with patch.object(fstcn.experiments, 'hold_out', return_value=held):
        data = run(few, SKIP, tmp_path/'valid', validate=.5)['data']
    assert (data['valid'], data['unreadable']) == (1, ['bad.avi'])


def test_the_record_does_not_wait_for_pictures(tmp_path):
    full = patch.object(fstcn.experiments, 'plot_history', side_effect=OSError('disk full'))
    with full, pytest.raises(OSError, match='disk full'):
        _write_results(tmp_path/'torn', [], None, {'a': 1})
    assert read_lines(tmp_path/'torn'/'record.json') == [{'a': 1}]


def as_process(rank, gather, recognizer, videos):
    "What one of two processes does, with `gather` in place of the exchange."
    state = Mock(return_value=Mock(process_index=rank, num_processes=2))
    with patch.multiple(fstcn.experiments, PartialState=state, gather_object=gather):
        return score_together(recognizer, videos, progress=False)


def test_two_processes_score_as_one_does(split):
    torch.manual_seed(0)
    recognizer = Recognizer(FstCN(TINY), split.classes, 2, device='cpu')
    videos = [*split.test, split.train[0]]                  # three: one process has more
    parts = []

    def collect(part):
        parts.append(part)
        raise InterruptedError
    for rank in (0, 1):
        with pytest.raises(InterruptedError): as_process(rank, collect, recognizer, videos)
    got = as_process(1, lambda part: parts[0] + parts[1], recognizer, videos)
    wanted = score_videos(recognizer, videos, progress=False)
    assert isinstance(got, Scores)
    for part in ('probs', 'starts', 'labels'):
        assert torch.equal(getattr(got, part), getattr(wanted, part)), part
    assert (got.names, got.classes) == (wanted.names, wanted.classes)
    with pytest.raises(RuntimeError, match='3 videos were to be scored once each'):
        as_process(1, lambda part: part, recognizer, videos)


@pytest.fixture(scope='module')
def films(tmp_path_factory):
    "A whole film, one damaged in the middle, one whose pictures change their size."
    folder = tmp_path_factory.mktemp('films')
    whole = write_numbered(folder/'whole.mp4', n=60, size=(96, 160), codec='libx264', gop=12)
    hurt = lose_packets(whole, folder/'hurt.mp4', 30)
    return whole, hurt, change_size(folder/'both.mjpeg', 96, 112)


def readers(folder):
    "Of the files, through a cache, and through one that has no room."
    return VideoReader(90), FrameCache(folder/'a', 90), FrameCache(folder/'b', 90, max_bytes=10)


@pytest.mark.faults
@pytest.mark.parametrize('kind', range(3))
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.filterwarnings('ignore:.*the frame cache is full')
def test_before_a_run_every_video_is_looked_at(films, tmp_path, kind, workers):
    whole, hurt, both = (Video(path, 0) for path in films)
    reader = readers(tmp_path)[kind]
    for _ in range(2):                     # found out, and remembered or kept in the cache
        seen = look_at([whole, both, hurt], reader, 'valid', 'skip', workers)
        assert (seen.readable, seen.unreadable) == ((whole, hurt), ('both.mjpeg',))
        (damaged,) = seen.damaged
        assert (damaged['video'], damaged['part']) == ('hurt.mp4', 'valid')
        assert damaged['reason'] == check_videos(films[1:2], progress=False).reason[0].split(';')[0]
    with pytest.raises(VideoError, match='both.mjpeg'):
        look_at([whole, both, hurt], reader, 'valid', 'raise', workers)
    assert tell_damage(()) == ''
    assert tell_damage(seen.damaged).startswith('1 videos are damaged and read in part: hurt.mp4;')


@pytest.mark.faults
def test_a_size_that_changes_is_refused_before_training(split, films, tmp_path):
    both = films[2]
    told = f'{both}: the size of its pictures changes at frame 20; leave it out, or write it anew'
    with pytest.raises(VideoError) as e: VideoReader().n_frames(both)
    assert str(e.value).startswith(told)
    with pytest.raises(VideoError) as e: recognizer().predict(both)
    assert str(e.value).startswith(told)
    for part in ('train', 'test'):
        parts = {'train': split.train, 'test': split.test}
        parts[part] += (Video(both, 0),)
        with never(), pytest.raises(VideoError) as e:
            run(VideoSplit(split.classes, **parts), ONCE, tmp_path/'never')
        assert str(e.value).startswith(told) and not (tmp_path/'never').exists()
    row = check_videos([both], progress=False).iloc[0]
    assert row.status == 'damaged' and row.reason.startswith('the size of the pictures changes at')


@pytest.mark.faults
def test_what_is_read_in_part_or_not_at_all_is_in_the_record(split, films, tmp_path):
    whole, hurt, both = (Video(path, 0) for path in films)
    more = VideoSplit(split.classes, (*split.train, hurt, both), (*split.test, hurt))
    with patch.object(fstcn.experiments, 'checksum', return_value=''):
        record = run(more, SKIP, tmp_path/'run')
    data = record['data']
    assert data['unreadable'] == ['both.mjpeg'] and record['skipped_videos'] == 1
    parts = [(found['video'], found['part']) for found in data['damaged']]
    assert parts == [('hurt.mp4', 'train'), ('hurt.mp4', 'test')]
    assert (data['train'], data['test']) == (len(split.train) + 1, len(split.test) + 1)
    assert read_lines(tmp_path/'run'/'record.json')[0]['data'] == data


@pytest.mark.faults
def test_resuming_names_the_videos_that_are_gone(split, tmp_path):
    out, often = tmp_path/'run', TrainConfig(epochs=4, batch_size=2, workers=0, save_every=0)
    with patch('fstcn.runs.Run.close', side_effect=InterruptedError):
        with pytest.raises(InterruptedError): run(split, often, out)
    fewer = VideoSplit(split.classes, split.train[1:], split.test)
    with pytest.raises(TrainingError, match='without v_SitDown_g0') as e:
        run(fewer, often, out, resume=True)
    assert 'resume it as it was' in str(e.value)
    with pytest.raises(TrainingError, match='go on with --resume'): run(split, often, out)
