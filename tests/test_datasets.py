"The data set readers on the complete official lists, on damaged layouts, and on files that hang or crash a decoder."
import csv
import os
import re
import shutil
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from fstcn import check
from fstcn import datasets as ds
from fstcn.video import write_video

DATA = Path(__file__).parents[2] / 'shared' / 'data'
needs_videos = pytest.mark.skipif(not (DATA / 'ut_interaction').is_dir(), reason='the real videos are not here')


def touch(root, names):
    for folder in {n.rpartition('/')[0] for n in names}: (root / folder).mkdir(parents=True, exist_ok=True)
    for n in names: (root / n).touch()


def lines(file): return file.read_bytes().decode().split()


def with_lists(tmp_path_factory, name, folder):
    "A new folder with the official lists of a data set in `folder`."
    if not (DATA / 'splits').is_dir(): pytest.skip('the official split lists are not here')
    root = tmp_path_factory.mktemp(name)
    shutil.copytree(DATA / 'splits' / name, root / folder)
    return root


@pytest.fixture(scope='module')
def ucf(tmp_path_factory):
    "All 13,320 names of UCF-101 as empty files, with the official lists."
    root = with_lists(tmp_path_factory, 'ucf101', 'ucfTrainTestlist')
    touch(root / 'UCF-101', [n for n in lines(root / 'ucfTrainTestlist/trainlist01.txt')[::2] + lines(root / 'ucfTrainTestlist/testlist01.txt')])
    return root


@pytest.fixture(scope='module')
def hmdb(tmp_path_factory):
    "All 6,766 names of HMDB-51 as empty files, with the official lists."
    root = with_lists(tmp_path_factory, 'hmdb51', 'testTrainMulti_7030_splits')
    for f in (root / 'testTrainMulti_7030_splits').iterdir():
        if f.name.endswith('_test_split1.txt'): touch(root, [f'{f.name[:-len("_test_split1.txt")]}/{n}' for n in lines(f)[::2]])
    return root


# UCF-101

@pytest.mark.parametrize('split,n_train,n_test', [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_ucf101_is_the_official_split(ucf, split, n_train, n_test):
    s = ds.ucf101(ucf, split)
    assert (len(s.train), len(s.test)) == (n_train, n_test)
    numbers = lines(ucf / 'ucfTrainTestlist/classInd.txt')
    assert s.classes == tuple(numbers[1::2]) and numbers[::2] == [str(i) for i in range(1, 102)]
    listed = lines(ucf / f'ucfTrainTestlist/trainlist{split:02d}.txt')
    assert [f'{v.path.parent.name}/{v.path.name}' for v in s.train] == listed[::2]
    assert [v.label + 1 for v in s.train] == [int(n) for n in listed[1::2]]                    # the lists' own numbers
    assert [f'{v.path.parent.name}/{v.path.name}' for v in s.test] == lines(ucf / f'ucfTrainTestlist/testlist{split:02d}.txt')
    assert {v.group for v in s.test} == {f'g{7 * (split - 1) + i:02d}' for i in range(1, 8)}
    assert not {v.group for v in s.test} & {v.group for v in s.train}
    assert all(v.path.is_file() for v in s.train + s.test)


def test_ucf101_facts_that_the_notebook_states(ucf):
    s = ds.ucf101(ucf)
    assert sorted(s.classes) != list(s.classes) == sorted(s.classes, key=str.lower)
    moved = {c for i, c in enumerate(sorted(s.classes)) if s.classes[i] != c}
    assert moved == {'Hammering', 'HammerThrow', 'JumpRope', 'JumpingJack'}
    odd = [v for v in s.train + s.test if v.path.name.split('_')[1] != s.classes[v.label]]
    assert len(odd) == 128 and {v.path.parent.name for v in odd} == {'HandstandPushups'}
    assert {len({v.group for v in ds.ucf101(ucf, k).test}) for k in (1, 2, 3)} == {7}
    assert {28, 49} == {f(Counter(v.label for v in s.test).values()) for f in (min, max)}


def test_ucf101_13320_entries_in_two_seconds(ucf):
    took = []
    for _ in range(8):                                                          # a busy computer gets a few tries
        start = time.perf_counter()
        s = ds.ucf101(ucf)
        took.append(time.perf_counter() - start)
        assert len(s.train + s.test) == 13320
        if took[-1] < 2: break
    assert min(took) < 2, took


def test_ucf101_does_not_ask_for_each_file(ucf, monkeypatch):
    calls = Counter()
    real = os.stat
    def counted(*args, **kwargs): calls['stat'] += 1; return real(*args, **kwargs)
    monkeypatch.setattr(os, 'stat', counted)
    ds.ucf101(ucf)
    assert sum(calls.values()) < 1000, calls


def test_ucf101_missing_files_are_named_and_counted(ucf, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(ucf, root)
    listed = lines(root / 'ucfTrainTestlist/trainlist01.txt')[::2]
    gone = listed[100:113]
    for n in gone: (root / 'UCF-101' / n).unlink()
    with pytest.raises(ds.DatasetError) as e: ds.ucf101(root)
    assert '13 of 13320 listed videos are missing' in str(e.value) and 'and 3 more' in str(e.value)
    assert all(n in str(e.value) for n in gone[:10]) and gone[10] not in str(e.value)
    shutil.rmtree(root / 'UCF-101' / 'HandstandPushups')                        # a whole class
    with pytest.raises(ds.DatasetError, match='HandstandPushups'): ds.ucf101(root, 2)


def test_ucf101_survives_repaired_names(ucf, tmp_path):
    "Copies that renamed the folder, or the files, so that both spell the class in one way."
    folder = tmp_path / 'UCF-101'
    shutil.copytree(ucf / 'UCF-101', folder)
    for f in (folder / 'HandstandPushups').iterdir(): f.rename(f.with_name(f.name.replace('HandStand', 'Handstand')))
    (folder / 'HandstandPushups').rename(folder / 'HANDSTANDPUSHUPS')
    want, got = ds.ucf101(ucf), ds.ucf101(tmp_path, lists=ucf / 'ucfTrainTestlist')
    assert [v.label for v in got.train] == [v.label for v in want.train] and got.classes == want.classes
    assert all(v.path.is_file() for v in got.test)


def test_ucf101_counts_are_asserted(ucf, tmp_path):
    shutil.copytree(ucf / 'ucfTrainTestlist', tmp_path / 'lists')
    file = tmp_path / 'lists' / 'testlist01.txt'
    file.write_text('\n'.join(lines(file)[:-1]))
    with pytest.raises(ds.DatasetError, match='9537 training and 3782 test videos, officially 9537 and 3783'): ds.ucf101(ucf, lists=file.parent)
    assert len(ds.ucf101(ucf, lists=file.parent, check_counts=False).test) == 3782


def test_load_split_recognizes_ucf101_and_hmdb51(ucf, hmdb):
    assert ds.data_kind(ucf) == 'ucf101' and ds.load_split(ucf, 3) == ds.ucf101(ucf, 3)
    assert ds.data_kind(hmdb) == 'hmdb51' and ds.load_split(hmdb, 2) == ds.hmdb51(hmdb, 2)
    assert ds.data_kind(ucf / 'UCF-101') == 'folder'


@pytest.mark.parametrize('names,kind', [
    (['a.avi', 'b.avi'], None), (['x/a.avi'], 'folder'), (['train/x/a.MP4'], 'folder'), (['1/2/3/a.avi'], None),
    (['set/0_1_4.avi'], 'folder'), (['segmented_set1/0_1_4.avi'], 'ut_interaction'), (['x/y/classInd.txt', 'z/a.avi'], 'ucf101'),
    (['x/y/z/classInd.txt'], None), (['splits/kick_ball_test_split2.txt'], 'hmdb51'), (['list.csv/a/b.avi'], 'folder')])
def test_what_a_folder_is_taken_for(tmp_path, names, kind):
    touch(tmp_path, names)
    if kind: assert ds.data_kind(tmp_path) == kind
    else:
        with pytest.raises(ds.DatasetError, match='not a data set. It must be a CSV file'): ds.data_kind(tmp_path)


def test_class_folders_of_ucf101_hold_out_whole_groups(ucf):
    s = ds.from_folder(ucf / 'UCF-101', test_fraction=0.28, seed=1)
    assert not {v.group for v in s.train} & {v.group for v in s.test}
    n = Counter(v.label for v in s.train + s.test)
    share = [k / n[c] for c, k in Counter(v.label for v in s.test).items()]
    assert len(share) == 101 and 0.2 < min(share) and max(share) < 0.36 and abs(len(s.test) / 13320 - 0.28) < 0.025


def test_checksum_does_not_depend_on_the_place(ucf, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'b').symlink_to(ucf / 'UCF-101')
    shutil.copytree(ucf / 'ucfTrainTestlist', tmp_path / 'lists')
    sums = [ds.checksum(ds.ucf101(r, k)) for r in (ucf, tmp_path) for k in (1, 2)]
    assert sums[:2] == sums[2:] and sums[0] != sums[1]
    file = ds.ucf101(ucf).test[5].path
    file.write_bytes(b'x')
    try: assert ds.checksum(ds.ucf101(ucf)) != sums[0]
    finally: file.write_bytes(b'')


# HMDB-51

@pytest.mark.parametrize('split', [1, 2, 3])
def test_hmdb51_is_the_official_split(hmdb, split):
    s = ds.hmdb51(hmdb, split)
    assert (len(s.train), len(s.test)) == (3570, 1530)
    assert set(Counter(v.label for v in s.train).values()) == {70} and set(Counter(v.label for v in s.test).values()) == {30}
    want = {'1': set(), '2': set()}
    for c in s.classes:
        for line in (hmdb / f'testTrainMulti_7030_splits/{c}_test_split{split}.txt').read_text().splitlines():
            name, code = line.split()
            if code != '0': want[code].add((c, name))
    assert {(v.path.parent.name, v.path.name) for v in s.train} == want['1']
    assert {(v.path.parent.name, v.path.name) for v in s.test} == want['2']
    assert all(s.classes[v.label] == v.path.parent.name and v.path.is_file() for v in s.train + s.test)
    assert len(s.classes) == 51 and list(s.classes) == sorted(d for d in os.listdir(hmdb) if '_splits' not in d)
    assert s.classes.index('kick') < s.classes.index('kick_ball')


def test_hmdb51_facts_that_the_notebook_states(hmdb):
    s = [ds.hmdb51(hmdb, k) for k in (1, 2, 3)]
    names = [p.name for c in s[0].classes for p in (hmdb / c).iterdir()]
    assert len(names) == 6766 and sum(bool(set(n) & set('()!#[]&+;~@')) for n in names) == 536 and sum(n[0] == '-' for n in names) == 13
    files = sorted(f for f in os.listdir(hmdb / 'testTrainMulti_7030_splits') if f.endswith('split1.txt'))
    by_file = [f[:-len('_test_split1.txt')] for f in files]
    assert {a for a, b in zip(by_file, s[0].classes, strict=True) if a != b} == {'climb', 'climb_stairs', 'kick', 'kick_ball', 'sword', 'sword_exercise'}
    sides = defaultdict(set)
    for part in ('train', 'test'):
        for v in getattr(s[0], part): sides[v.group.split('/', 1)[1]].add(part)
    assert (len(sides), sum(len(x) == 2 for x in sides.values())) == (1352, 133)
    assert len({v.path for x in s for v in x.test}) == 4243
    assert [len({v.group for v in x.train + x.test}) for x in s] == [2023, 2006, 2000]


def test_hmdb51_missing_names_with_special_characters(hmdb, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(hmdb, root)
    bad = [v.path.relative_to(hmdb) for v in ds.hmdb51(hmdb).train if re.search(r'[\[#(;&]|^-', v.path.name)]
    for p in bad: (root / p).unlink()
    with pytest.raises(ds.DatasetError) as e: ds.hmdb51(root)
    assert f'{len(bad)} of 5100' in str(e.value) and all(p.as_posix() in str(e.value) for p in bad[:10])
    assert f'and {len(bad) - 10} more' in str(e.value)


def test_hmdb51_archives_not_unpacked(hmdb, tmp_path):
    shutil.copytree(hmdb / 'testTrainMulti_7030_splits', tmp_path / 'splits')
    touch(tmp_path, ['brush_hair.rar', 'cartwheel.rar'])
    with pytest.raises(ds.DatasetError, match='5100 of 5100.*Still packed here: brush_hair.rar, cartwheel.rar'): ds.hmdb51(tmp_path)


# CSV: UT-Interaction, which has no reader of its own

@needs_videos
def test_ut_interaction_by_csv(tmp_path):
    names = ('shake', 'hug', 'kick', 'point', 'punch', 'push')
    videos = sorted((DATA / 'ut_interaction' / 'segmented_set1').glob('*.avi'))
    with open(tmp_path / 'fold3.csv', 'w', newline='') as f:
        out = csv.writer(f)
        out.writerow(['path', 'label', 'split', 'group'])
        for v in videos:
            _, sequence, label = v.stem.split('_')
            out.writerow([v.resolve(), label, 'test' if sequence == '3' else 'train', sequence])    # leave one sequence out
    s = ds.load_split(tmp_path / 'fold3.csv')
    assert (len(s.train), len(s.test)) == (54, 6) and s.classes == tuple('012345')
    assert {v.group for v in s.test} == {'3'} and '3' not in {v.group for v in s.train}
    named = ds.from_csv(tmp_path / 'fold3.csv', classes=names)
    assert named.classes == names and [v.label for v in named.test] == [int(v.path.stem[-1]) for v in named.test]
    rows = list(csv.reader(open(tmp_path / 'fold3.csv', newline='')))
    with open(tmp_path / 'drawn.csv', 'w', newline='') as f: csv.writer(f).writerows([r[:2] + r[3:] for r in rows])
    drawn = ds.load_split(tmp_path / 'drawn.csv', test_fraction=0.2, seed=4)                        # two of ten sequences
    assert len({v.group for v in drawn.test}) == 2 and not {v.group for v in drawn.train} & {v.group for v in drawn.test}


@needs_videos
def test_check_real_videos():
    some = [DATA / 'ucf101_samples' / 'v_BaseballPitch_g01_c01.avi', DATA / 'ut_interaction' / 'segmented_set1' / '44_8_4.avi']
    t = check.check_videos(some, workers=1, progress=False)
    assert t.status.tolist() == ['ok', 'ok'] and t.n_frames.tolist() == [107, 59] and t['size'].tolist() == ['320x240', '308x232']
    assert t.count_mismatch.tolist() == [False, True] and t.header_frames.tolist() == [107, 61]      # the header counts two too many
    if t.decord_inexact.notna().all(): assert t.decord_inexact.tolist() == [False, True]


# the check: parallel, limited, complete

def frames(n): return (np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8) for i in range(n))


def scripted(path):
    "What happens to a file of this name; runs in a child process."
    if path.name == 'crash.avi': os.abort()
    return {'status': 'ok', 'reason': '', 'n_frames': 7}


def scripted_decord(path, n_frames):
    if path.name == 'late.avi': time.sleep(99)
    return {'decord_inexact': n_frames != 7}


def test_a_crash_or_a_hang_costs_one_file(tmp_path, monkeypatch):
    "The decoder dies on one file, decord hangs on another; the files before and after are examined."
    monkeypatch.setattr(check, '_file_report', scripted)
    monkeypatch.setattr(check, '_decord_report', scripted_decord)
    names = ['a.avi', 'crash.avi', 'late.avi', 'z.avi']
    touch(tmp_path, [f'x/{n}' for n in names])
    t = check.check_videos(tmp_path, workers=2, timeout=8, progress=False)
    assert [os.path.basename(p) for p in t.path] == names
    assert t.status.tolist() == ['ok', 'unreadable', 'ok', 'ok'] and t.n_frames.fillna(-1).tolist() == [7, -1, 7, 7]
    assert 'process' in t.reason[1] and t.reason[2].startswith('decord: ') and '8 s' in t.reason[2]
    assert t.decord_inexact.fillna(True).tolist() == [False, True, True, False] and t.decord_inexact.isna().tolist() == [False, True, False, False]


def test_check_names_with_special_characters(tmp_path):
    names = ['-_[HD]_#1 (x)!.avi', 'a,b;c&d.avi', "it's \"é\".avi"]
    for n in names: write_video(tmp_path / n, frames(5))
    (tmp_path / 'empty.avi').touch()
    t = check.check_videos([*(tmp_path / n for n in names), tmp_path / 'gone.avi', tmp_path / 'empty.avi'], workers=1, progress=False, clip_span=5)
    assert t.path.tolist() == [str(tmp_path / n) for n in [*names, 'gone.avi', 'empty.avi']]
    assert t.status.tolist() == ['ok'] * 3 + ['unreadable'] * 2 and t.n_frames.tolist()[:3] == [5] * 3
    assert not t.short[:3].any() and t.short[3:].isna().all() and t.reason[3] and t.reason[4]
    assert t.duplicate_of.tolist() == ['', str(tmp_path / names[0]), str(tmp_path / names[0]), '', '']
    assert t.columns.tolist() == ['path', 'status', 'reason', 'n_frames', 'header_frames', 'fps', 'size', 'codec',
                                  'short', 'count_mismatch', 'decord_inexact', 'duplicate_of']


def test_check_without_decord(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'decord', None)
    write_video(tmp_path / 'a.avi', frames(3))
    assert check._decord_report(tmp_path / 'a.avi', 3) == {'decord_inexact': None}
    assert check._table([tmp_path / 'a.avi'], [{'status': 'ok', 'n_frames': 3, 'decord_inexact': None}], 30).decord_inexact.isna().all()
