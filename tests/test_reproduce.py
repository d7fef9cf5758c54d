"What no notebook need show of reproducing: other trainings, lost scores, streams trained anew."
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from fstcn import plan
from fstcn.checkpoint import save_checkpoint
from fstcn.splits import Video, VideoSplit
from fstcn.scores import Scores
from fstcn.model import FstCN, FstCNConfig
from fstcn.records import RECORDS, read_jobs, read_lines, read_records, replace_lines, write_record
from fstcn.plan import STREAMS, Job, estimate_minutes, open_data, plan_jobs, settings_for
from fstcn.jobs import _stages_before, check_record, find_record
from fstcn.reproduce import _scores, fuse_streams, pair_networks, read_table, reproduce
from fstcn.synthetic import make_synthetic
from fstcn.learning import TrainingError
from odd import ODD, places, with_odd


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    "As in the notebooks: they are tested side by side."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize('asked, wrong', [
    (dict(tables=[5]), 'tables are 1, 2, 3'),
    (dict(tables=[2], series='a/b'), "not 'a/b'"),
])
def test_plan_refuses(asked, wrong):
    with pytest.raises(ValueError, match=wrong): plan_jobs(data='synthetic', **asked)


# --- paired tests of networks that were made by hand ----------------------------------------------

HAND = Job('hand', 'both', 1, 3)
SURE = {
    'both': [.9, .9, .9, .9, .1, .1, .1, .9],
    'tcl': [.1, .1, .1, .9, .9, .1, .1, .1],
    'scl': [.6]*8,
    'two-stream-temporal': [.1, .9, .9, .9, .9, .9, .45, .1],
}


def of_groups(groups):
    "Eight test videos of these groups."
    videos = [Video(name, 0, group) for name, group in zip('abcdefgh', groups, strict=True)]
    return {1: VideoSplit(('yes', 'no'), (), tuple(videos))}


def paired(folder): return read_records(folder, 'paired').set_index('network')


def grouped(folder):
    "Whether there was a test over groups."
    return not pd.isna(paired(folder).p_over_groups['two-stream-temporal'])


def pair(folder, groups='ppqqqrrr'): pair_networks([HAND], of_groups(groups), folder, folder)


def recorded(job, name):
    "The least that a record of a network says, with a name that tells trainings apart."
    return {
        'kind': 'network', 'job': job.fields, 'train': {'name': name}, 'accuracy': {},
        'minutes': {}, 'data': {'test': 8, 'classes': 2}, 'parameters': 9}


@pytest.fixture
def hand(tmp_path):
    "Four networks that scored eight videos, and their paired tests."
    for network, p in SURE.items():
        job = replace(HAND, network=network)
        (tmp_path/job.name).mkdir()
        p = torch.tensor(p)[:, None, None].expand(8, 1, 18)
        labels = torch.zeros(8, dtype=torch.int64)
        scores = Scores(torch.stack([p, 1 - p], -1), labels, tuple('abcdefgh'), ('yes', 'no'))
        scores.save(tmp_path/job.name/'scores.npz')
        record = recorded(job, network)
        write_record(tmp_path/RECORDS, record)
        write_record(tmp_path/job.name/'record.json', record)
    pair(tmp_path)
    return tmp_path


def scores_of(folder, network): return folder/replace(HAND, network=network).name/'scores.npz'


@pytest.mark.parametrize('says, lost', [('another', True), ('tcl', False)])
def test_scores_of_another_record_are_none(hand, says, lost):
    tcl = replace(HAND, network='tcl')
    record = recorded(tcl, says)
    write_record(hand/RECORDS, record)
    assert (_scores(tcl, hand, hand) is None) == lost


def test_what_is_known_is_kept_without_scores(hand):
    before = paired(hand)
    assert set(before.index) == {'tcl', 'scl', 'two-stream-temporal', 'two-stream'}
    for network in ('scl', 'tcl'): scores_of(hand, network).unlink()
    pair(hand)
    assert paired(hand).equals(before)


def test_groups_count_where_every_video_has_one_and_there_are_two(hand):
    assert grouped(hand)
    pair(hand, [*'pppqqqq', None])
    assert not grouped(hand)
    pair(hand)
    assert grouped(hand)
    pair(hand, 'pppppppp')
    assert not grouped(hand)


def test_another_fstcn_is_compared_anew(hand):
    for network in ('scl', 'tcl'): scores_of(hand, network).unlink()
    mine = Scores.load(scores_of(hand, 'both'))
    replace(mine, probs=mine.probs.flip(-1)).save(scores_of(hand, 'both'))
    pair(hand, 'pppppppp')
    assert list(paired(hand).index) == ['two-stream-temporal'] and not grouped(hand)


def test_without_fstcn_nothing_is_compared(hand):
    scores_of(hand, 'both').unlink()
    replace_lines(hand/RECORDS, lambda r: r['kind'] == 'paired', [])
    pair(hand)
    assert len(read_records(hand, 'paired')) == 0


# --- a miniature: two classes, four actors, one epoch ---------------------------------------------

@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    "TCL path and both streams, trained: options to do it again, data, record of the path."
    folder = tmp_path_factory.mktemp('reproduce')
    make_synthetic(folder/'two', ['SitDown', 'StandUp'], n_groups=4, n_clips=1)
    options = dict(
        data=str(folder/'two'), work=folder/'work', results=folder/'results', epochs=1, workers=0,
        device='cpu', progress=False, say=lambda line: None)
    reproduce([2, 3], networks=['tcl', *STREAMS], **options)
    record = find_record(Job('two', 'tcl', 1, 0), folder/'results')
    split = open_data(options['data'], None, 1)
    return SimpleNamespace(folder=folder, options=options, record=record, split=split)


@pytest.fixture(scope='module')
def staged(mini):
    "One network in three stages, trained; what it began with, and options to do it again."
    begin = new_weights(mini.folder/'begin.safetensors', path='scl')
    where = mini.folder/'staged'
    options = mini.options | dict(work=where, results=where, weights=begin, networks=['scl'])
    reproduce([2], **options)
    return SimpleNamespace(folder=where, options=options, begin=begin)


def new_weights(file, **changes):
    return save_checkpoint(file, FstCN(FstCNConfig.small(2, **changes)), ('x', 'y'))


def test_compiled_or_not_is_the_same_recipe(mini):
    aside = mini.folder/'fast'
    options = mini.options | dict(work=aside, results=aside, networks=['scl'])
    with patch('fstcn.training.compile_network') as compiled:
        reproduce([2], **options, compile=True)
    assert compiled.call_count == 1
    assert find_record(Job('two', 'scl', 1, 0), aside)['train']['compile']
    assert not mini.record['train']['compile']
    reproduce([2], **options)


def test_a_table_does_not_mix_two_trainings(mini):
    with pytest.raises(ValueError, match='scl-split1-seed0 is of another training'):
        reproduce([2], **mini.options | {'seeds': [1], 'epochs': 2})


@pytest.mark.parametrize('part, setting, value', [
    ('train', 'lr', .5),
    ('train', 'momentum', 0.),
    ('config', 'dropout', .9),
    ('config', 'tcl_kernel_sizes', [3]),
])
def test_record_of_another_recipe(mini, part, setting, value):
    record = mini.record | {part: mini.record[part] | {setting: value}}
    with pytest.raises(ValueError) as refused:
        check_record(record, Job(mini.options['data'], 'tcl', 1, 0), mini.split, 1)
    assert f'is of another training ({setting} {value}, asked for is ' in str(refused.value)


def test_record_without_a_later_setting_and_with_a_free_one(mini):
    train = mini.record['train'] | {'workers': 9}
    del train['clip_norm']
    job = Job(mini.options['data'], 'tcl', 1, 0)
    check_record(mini.record | {'train': train}, job, mini.split, 1)


def test_record_of_other_videos(mini):
    job = Job(mini.options['data'], 'tcl', 1, 0)
    fewer = replace(mini.split, test=())
    with pytest.raises(ValueError, match='checksum of the videos'):
        check_record(mini.record, job, fewer, 1)


def test_other_seeds_have_no_record(mini):
    assert find_record(Job('two', 'tcl', 1, 1), mini.folder/'results') is None


def test_weights_of_another_stage_2(staged, tmp_path):
    other = new_weights(tmp_path/'other.safetensors', path='scl')
    with pytest.raises(TrainingError, match="weights was '"):
        reproduce([2], **staged.options | {'results': tmp_path, 'weights': other})
    with pytest.raises(ValueError) as refused:
        reproduce([2], **staged.options | {'weights': other})
    wrong = 'scl-split1-seed0 is of another training (weights to begin with '
    assert wrong in str(refused.value)


def test_weights_that_are_now_missing(staged):
    with pytest.raises(ValueError, match=', asked for is None'):
        reproduce([2], **staged.options | {'weights': None})


def test_weights_with_a_temporal_path(staged, tmp_path):
    whole = new_weights(tmp_path/'whole.safetensors')
    with pytest.raises(ValueError) as refused:
        reproduce([2], **staged.options | {'results': tmp_path, 'weights': whole})
    assert "this is whole.safetensors (2 classes, path 'both')" in str(refused.value)


def test_weights_under_another_name(staged, tmp_path):
    moved = shutil.copy(staged.begin, tmp_path/'moved.safetensors')
    reproduce([2], **staged.options | {'weights': moved})


def test_stage_2_is_of_a_seed(mini, staged):
    job = Job(mini.options['data'], 'p-fixed', 1, 1)
    settings = settings_for(mini.split, 'small', 1, 1)
    options = dict(device='cpu', progress=False)
    begin, _ = _stages_before(job, mini.split, staged.begin, staged.folder, settings, options)
    assert begin.parent.name == 'two-small-frames-split1-seed1'


def test_seeds_and_splits_of_a_table(mini, tmp_path):
    def known(split, seed, share):
        job = mini.record['job'] | {'split': split, 'seed': seed}
        accuracy = dict.fromkeys(mini.record['accuracy'], share)
        write_record(tmp_path/RECORDS, mini.record | {'job': job, 'accuracy': accuracy})

    def shown(table, label):
        row = read_table(table, 'two', tmp_path).loc[label]
        return row[['here', 'seeds', 'splits']].tolist()
    first, second = (1, 'TCL (5 x 5 kernel + 3 x 3 kernel)'), (2, 'only TCL path')
    known(1, 0, .25)
    known(2, 0, .125)
    assert shown(*first) == ['25.0 %', 1, 1]            # Table 1 is of split 1, Table 2 of all
    assert shown(*second) == ['18.8 %', 1, 2]
    known(1, 1, .75)
    assert shown(*first) == ['50.0 ± 35.4 %', 2, 1]
    # a seed that lacks a split is not averaged with one that has it, and that is said
    assert shown(*second) == ['18.8 %', 1, 2]
    assert read_table(2, 'two', tmp_path)['left out']['only TCL path'] == 'seed 1, of split 1'
    assert 'left out' not in read_table(1, 'two', tmp_path)
    known(2, 1, .625)
    assert shown(*second) == ['43.8 ± 35.4 %', 2, 2]


@pytest.mark.parametrize('network', ['tcl', 'scl', 'both'])
def test_estimate_counts_the_videos_that_are_scored(mini, network):
    n_test, n_train = len(mini.split.test), len(mini.split.train)
    scored = {'tcl': n_test, 'scl': n_test + n_train, 'both': 3*n_test}[network]
    seen, clock = [], [0.]

    def step(*args): clock[0] += 2.

    def views(model, pairs):
        seen.append(pairs.unique().numel())
        clock[0] += .5
    job = Job(mini.options['data'], network, 1, 0)
    watch = SimpleNamespace(perf_counter=lambda: clock[0])
    with patch.multiple(plan, shared_step=step, view_probabilities=views, time=watch):
        minutes = estimate_minutes(job, mini.split, 'cpu', 3)
    assert seen == [256]                                # noise
    assert 60*minutes == pytest.approx(2*3 + .5*scored) # three epochs of one step


# --- the two streams ------------------------------------------------------------------------------

@pytest.fixture
def streams(mini, tmp_path):
    "Scores and records of the streams, not fused; `fuse` counts the rows of the two together."
    jobs = [Job(mini.options['data'], n, 1, 0) for n in STREAMS]
    for job in jobs: shutil.copytree(mini.folder/'work'/job.name, tmp_path/job.name)
    shutil.copy(mini.folder/'results'/RECORDS, tmp_path)

    def fuse(of=jobs):
        fuse_streams(of, tmp_path, tmp_path)
        return len(read_records(tmp_path, network='two-stream'))

    def forget(network):
        replace_lines(tmp_path/RECORDS, lambda r: r['job']['network'] == network, [])
    forget('two-stream')
    spatial = tmp_path/jobs[0].name
    return SimpleNamespace(
        jobs=jobs, fuse=fuse, forget=forget, folder=tmp_path, spatial=spatial)


def test_fused_by_averaging_and_svm_and_again(streams):
    assert [streams.fuse(), streams.fuse()] == [2, 2]


def test_half_of_a_stream_is_none(streams):
    streams.forget('two-stream-temporal')
    assert streams.fuse() == 0


def test_no_fusion_without_scores_of_training(streams):
    (streams.spatial/'scores-train.npz').unlink()
    assert streams.fuse() == 0


def test_no_fusion_of_the_scores_of_a_trial(streams):
    trial = streams.spatial/'record.json'
    text = trial.read_text()
    trial.write_text(text.replace('"weights": null', '"weights": {}'))
    assert trial.read_text() != text and streams.fuse() == 0


def test_fusion_of_a_stream_trained_anew_is_removed(streams):
    assert streams.fuse() == 2
    record = find_record(streams.jobs[0], streams.folder)
    write_record(streams.folder/RECORDS, record | {'weights': {}})
    assert streams.fuse() == 0


def test_the_other_stream_was_scored_by_another_command(streams):
    assert streams.fuse(streams.jobs[:1]) == 2


# --- tables that are damaged ---------------------------------------------------------------------

NETWORK = recorded(HAND, 'x') | {'accuracy': {'sci': .5}, 'minutes': {'training': 1.}}


@pytest.mark.faults
@pytest.mark.parametrize('line', [
    b'', b'{', b'5', b'null', b'[]', b'"x"', b'\xff\xfe{}', b'\x00', b'['*100_000,
    b'{"a": '*100_000,
])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path/RECORDS).write_bytes(b'{}\n' + line + b'\n')
    for read in (read_lines, lambda path: write_record(path, {})):
        with pytest.raises(ValueError, match=r'records\.jsonl, line 2: not a record'):
            read(tmp_path/RECORDS)


@pytest.mark.faults
def test_a_record_with_something_odd_is_named_or_does_no_harm(tmp_path):
    "In every place of it; whoever reads the table meets a line and its number."
    refused = 0
    for at in places(NETWORK):
        for value in ODD:
            (tmp_path/RECORDS).write_text(json.dumps(with_odd(NETWORK, at, value)))
            try:
                read_records(tmp_path)
                find_record(HAND, tmp_path)
                fuse_streams([HAND], tmp_path, tmp_path)
                pair_networks([HAND], of_groups('ppqqqrrr'), tmp_path, tmp_path)
            except ValueError as e:
                assert 'records.jsonl, line 1: not a record' in str(e)
                refused += 1
    assert refused > 150


def test_the_records_of_the_repository_are_records():
    results = Path(__file__).parent.parent/'results'
    assert len(read_jobs(results)) == len(read_lines(results/RECORDS)) > 100
