"The command line: what it answers, what it refuses, what it leaves untouched."
import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import av
import cv2
import onnxruntime
import pandas as pd
import pytest
import torch
import typer

import fstcn
from fstcn.checkpoint import TrainedOn, load_checkpoint, save_checkpoint
from fstcn.cli import app
from fstcn.cli_options import call_command
from fstcn.cli_reproduce import BENCH_MODULES
from fstcn.datasets import from_folder, load_all, load_split
from fstcn.frame_folders import videos_in
from fstcn.fusion import FUSIONS, Fusion
from fstcn.initialization import initialize
from fstcn.learning import default_epochs
from fstcn.plan import Job
from fstcn.records import RECORDS, read_lines, read_records, write_record
from fstcn.scores import Scores
from fstcn.splits import DatasetError, checksum
from fstcn.video import probe_video, read_frames
from fstcn.weight_formats import imagenet_state
from fstcn.writing import write_video

NB = Path(__file__).resolve().parent.parent/'nbs'/'practice'/'76_cli.ipynb'
FILM = 'data/UCF-101/SitDown/v_SitDown_g02_c01.avi'
NET = '-c run/model.safetensors'
QUICK = '--epochs 1 --workers 1 --clips 1'
EVALUATE = f'fstcn evaluate {{}} {NET} --clips 1 --workers 1'


class Shell:
    "Commands, as a shell in a folder would call them."
    def __init__(self, folder): self.folder = folder

    def __call__(self, line):
        "Exit status, stdout and stderr."
        return call_command(line, self.folder)

    def does(self, line, code=0):
        "Stdout of a command that ends with this status; of 0, without a word on stderr."
        got, out, err = self(line)
        assert got == code and (err == '' or code), (line, got, out, err)
        return out

    def refuses(self, line, *told):
        "Exit status 2, nothing on stdout and one line on stderr that says why."
        code, out, err = self(line)
        assert (code, out, err.count('\n')) == (2, '', 1), (line, code, out, err)
        assert 'Traceback' not in err
        for text in told:
            assert text in err, (line, err)

    def refuses_at_once(self, line, where, told):
        "Refused before anything is loaded or scored; the folder to write to stays as it is."
        before = content(self.folder/where)
        with (
            patch('fstcn.experiments.score_together', side_effect=AssertionError),
            patch('fstcn.inference.Recognizer.load', side_effect=AssertionError),
        ):
            self.refuses(f'{line} --out {where}', told)
        assert content(self.folder/where) == before


def content(where):
    "Names and bytes of the files of a folder; None where there is none."
    if not where.is_dir(): return None
    return {p.name: p.read_bytes() for p in where.iterdir()}


def films(shell): return sorted((shell.folder/'data'/'UCF-101').rglob('*.avi'))


def shares(text):
    "The lines of a command that tell accuracies."
    return [line for line in text.splitlines() if '%' in line]


@pytest.fixture(scope='module')
def shell(tmp_path_factory):
    "In a folder with eight films of two classes in data/ and a trained network in run/."
    shell = Shell(tmp_path_factory.mktemp('cli'))
    out = shell.does('fstcn synth data --classes SitDown,StandUp --groups 4 --clips 1')
    assert out == '8 videos of 2 classes in data\n'
    shell.trained = shell.does(f'fstcn train data --out run --cache cache {QUICK}')
    (shell.folder/'nothing').mkdir()
    (shell.folder/'text.avi').write_text('hello')
    return shell


# --- the command --------------------------------------------------------------------------

SLOW = ('torch', 'numpy', 'pandas', 'av', 'matplotlib')


def python(source, *args):
    "A Python of its own."
    return subprocess.run([sys.executable, '-c', source, *args], capture_output=True, text=True)


def test_nothing_slow_is_imported():
    loaded = python(f'import sys, fstcn.cli; print([m for m in {SLOW} if m in sys.modules])')
    assert loaded.stdout == '[]\n'


def test_version(shell): assert shell.does('fstcn --version') == f'fstcn {fstcn.__version__}\n'


def test_command_that_is_none():
    usage = python('import fstcn.cli; fstcn.cli.main()', 'nonsense')
    assert usage.returncode == 2
    assert 'nonsense' in usage.stderr and 'Traceback' not in usage.stderr


def test_every_command_is_listed():
    out = python('import fstcn.cli; fstcn.cli.main()', '--help').stdout
    for command in app.registered_commands:
        assert f'│ {command.name} ' in out


def test_stored_help_is_of_today():
    "The help that the notebook shows lists every command, in order."
    cells = json.loads(NB.read_text(encoding='utf-8'))['cells']
    texts = [''.join(o.get('text', [])) for c in cells for o in c.get('outputs', [])]
    shown = next(text for text in texts if 'Usage:' in text)
    listed = []
    for line in shown.partition(' Commands ')[2].splitlines():
        if line.startswith('│ ') and line[2] != ' ': listed.append(line.split()[1])
    assert listed == [command.name for command in app.registered_commands]


def test_help_tells_the_default_of_epochs():
    options = typer.main.get_command(app).commands['train'].params
    told = next(option.help for option in options if option.name == 'epochs')
    assert 'Default: 60' in told
    few = int(told.split('fewer than ')[1].split()[0])
    assert [default_epochs(n) for n in (few - 1, few)] == [61, 60]
    many = int(told.split('--size paper, ')[1].split(')')[0].replace(',', ''))
    assert [default_epochs(n, 'paper') for n in (many - 1, many)] == [61, 60]


# --- bad input ----------------------------------------------------------------------------

@pytest.mark.parametrize('line,told', [
    (f'predict none.avi {NET}', 'none.avi'),
    (f'predict text.avi {NET}', 'text.avi'),
    (f'predict {FILM} -c none.safetensors', 'none.safetensors'),
    (f'predict {FILM} -c {FILM}', 'not a readable safetensors file'),
    (f'predict {FILM} {NET} --fusion max', "'max'"),
    (f'predict {FILM} {NET} --device gpu', "'gpu'"),
    (f'predict data {NET}', '8 videos: name a file'),
    (f'predict {FILM} -o x.csv {NET}', 'ends in .jsonl'),
    (f'predict {FILM} -o x.jsonl --json {NET}', 'x.jsonl: drop one of them'),
    (f'predict nothing {NET}', 'no video files'),
    ('train nothing', 'not a data set'),
    ('train nowhere', 'no such file or folder'),
    ('train data --backend opencv', 'opencv'),
    ('train data --split 20', 'split is 1, 2 or 3, got 20'),     # of UT-Interaction there are 20
    ('train data --size huge', "'huge'"),
    ('train data --path rgb', "'rgb'"),
    ('train data --stage aux', "'aux'"),
    ('train data --stage frames', 'name it with --weights'),
    (f'train data --stage frames --path tcl --weights run/model.safetensors {QUICK} '
     '--out no-motion', 'leave out --path tcl'),
    ('train data --clip-norm=-1', 'clip_norm must be positive'),
    ('weights data/none.mat', 'none.mat: no such file'),
    ('reproduce --table 5', 'tables are 1, 2, 3'),
    ('reproduce --table x', 'must be numbers such as'),
    ('reproduce --seeds 2-0', "--seeds must be numbers such as 1,2,5-8, not '2-0'"),
    ('reproduce --seeds 0-1-2', 'must be numbers'),
    ('reproduce --data ucf101', '--root'),
    ('reproduce --size huge', "'huge'"),
    ('reproduce --networks conv3d --table 2', 'not conv3d'),
    ('fuse none.npz', 'no such file'),
    ('fuse run/model.safetensors', 'not an archive of scores'),
    (f'fuse {FILM}', 'not an archive of scores'),
    (f'timeline none.avi {NET} --out line', 'none.avi: does not exist'),
    (f'timeline nothing {NET} --out line', 'without frames'),
    (f'timeline {FILM} --every 0 {NET} --out line', 'positive'),
    (f'export {NET} --out net.h5', 'must be one of .onnx, .pt2'),
    ('info none.safetensors', 'no such checkpoint'),
    (f'info {FILM}', 'not a readable safetensors file'),
    ('bench nothing', "'nothing'"),
    ('bench lrn --videos data', "not with 'lrn'"),
    ('bench loading --videos nowhere', 'nowhere'),
    ('synth more --classes Fly', 'Fly'),
])
def test_bad_input_is_one_line(shell, line, told): shell.refuses(f'fstcn {line}', told)


@pytest.mark.parametrize('options,told', [
    ('--out run', 'holds a trained network'),
    ('--weights none.pth --out new', 'none.pth'),
])
def test_training_refuses(shell, options, told):
    code, _, err = shell(f'fstcn train data {QUICK} {options}')
    assert code == 2 and told in err and err.count('\n') == 1, err


def test_interrupted_without_a_word(shell):
    with patch('fstcn.synthetic.make_synthetic', side_effect=KeyboardInterrupt):
        assert shell('fstcn synth data') == (130, '', '')


def test_name_that_is_not_utf8(shell):
    def encode(*args, **kwargs): return 'caf\udce9.avi'.encode()
    with patch('fstcn.check.check_videos', side_effect=encode):
        told = "fstcn: error: 'caf\\udce9.avi': a name that is not UTF-8. Rename it\n"
        assert shell('fstcn check data') == (2, '', told)


# --- check --------------------------------------------------------------------------------

def test_check_names_what_is_wrong(shell):
    spoilt = shell.folder/'spoilt'
    shutil.copytree(shell.folder/'data', spoilt)
    film = sorted(spoilt.rglob('*.avi'))[1]
    whole = film.read_bytes()
    (spoilt/'broken.avi').write_bytes(b'not a video')
    (spoilt/'cut.avi').write_bytes(whole[:-3000])
    (spoilt/'copy.avi').write_bytes(whole)
    code, out, err = shell('fstcn check spoilt --workers 1')
    assert code == 1
    assert out.startswith('11 videos\n       1  unreadable\n       1  damaged'), out
    assert 'spoilt/broken.avi: cannot be opened' in err, err
    assert 'spoilt/cut.avi: ' in err, err
    assert f'{film.relative_to(shell.folder)} = spoilt/copy.avi\n' in err, err
    assert '--output FILE.csv says it of every file\n' in err, err


BLANK = dict(
    status='ok', reason='', short=False, count_mismatch=False, decord_inexact=False,
    duplicate_of='', looks_like='')


def check(shell, rows, options=''):
    "What `check` says of a table with these rows, and how often it decodes."
    table = pd.DataFrame([BLANK | {'path': f'{i}.avi'} | row for i, row in enumerate(rows)])
    with patch('fstcn.check.check_videos', return_value=table) as decode:
        code, out, err = shell(f'fstcn check data {options}')
    return code, out, err, decode.call_count


def test_check_of_what_is_right(shell):
    code, _, err, _ = check(shell, 12*[{}])
    assert (code, err) == (0, '')


def test_check_names_ten_of_each(shell):
    unreadable = dict(status='unreadable', reason='no')
    damaged = dict(status='damaged', reason='half')
    rows = 11*[unreadable] + 12*[damaged] + 13*[dict(duplicate_of='a')]
    _, out, err, _ = check(shell, rows)
    lines = err.splitlines()
    assert lines[9:12] == ['9.avi: no', '... and 1 more', '11.avi: half']
    assert lines[20:23] == ['20.avi: half', '... and 2 more', '23.avi = a']
    where = '--output FILE.csv says it of every file'
    assert lines[31:] == ['32.avi = a', '... and 3 more', where]
    numbers = [line.split()[0] for line in out.splitlines()]
    assert numbers == ['36', '11', '12', '0', '0', '0', '13', '0']


def test_check_of_a_short_one(shell):
    code, _, err, _ = check(shell, [dict(short=True)])
    assert (code, err) == (0, '--output FILE.csv says it of every file\n')


def test_check_writes_its_table(shell):
    rows = [dict(status='unreadable', reason='no')]
    code, _, err, _ = check(shell, rows, '--output reports/new/table.csv')
    assert (code, err) == (1, '0.avi: no\n')
    assert len((shell.folder/'reports'/'new'/'table.csv').read_text().splitlines()) == 2


def test_check_refuses_a_folder_before_it_decodes(shell):
    code, _, err, decoded = check(shell, [{}], '--output nothing')
    assert (code, decoded) == (2, 0) and 'Is a directory' in err, err


@pytest.fixture(scope='module')
def scenes(shell):
    "The films by name of class, scene and take, in class folders; scenes 3 and 4 are made of 1."
    root = shell.folder/'scenes'
    for number, film in enumerate(films(shell)):
        name = film.parent.name
        (root/name).mkdir(parents=True, exist_ok=True)
        frames = read_frames(film, range(20)).numpy()
        for take in (1, 2):
            cut = frames[5*take:5*take + 8]
            write_video(root/name/f'{name}_{number%4 + 1}_{take}.mp4', cut)
    return root


PROPOSAL = "(4 groups of 16 videos): --group '^[^_]+_(.+)_[^_]+$' keeps them together\n"


@pytest.mark.faults
def test_grouped_names_are_proposed_and_never_applied(shell, scenes):
    out = shell('fstcn check scenes --workers 1')[1]
    told = [line for line in out.splitlines() if 'look grouped' in line]
    assert len(told) == 1 and f'{told[0]}\n'.endswith(PROPOSAL), out
    out = shell("fstcn check scenes --workers 1 --group '^[^_]+_(.+)_[^_]+$'")[1]
    assert '\n4 groups, such as 1: each will be on one side of a split\n' in out, out
    with patch('fstcn.experiments.run_experiment', side_effect=ValueError('began')) as begin:
        _, out, err = shell('fstcn train scenes --out grouped')
    assert PROPOSAL in err and err.index(PROPOSAL) < err.index('began'), err
    assert out.endswith('the test part is 30 % of every class, drawn with seed 0\n')
    split = begin.call_args.args[0]
    assert {v.group for v in split.train + split.test} == {None}


@pytest.mark.faults
def test_training_and_evaluation_take_the_same_groups(shell, scenes):
    group = '--group "_(.)_"'
    code, out, err = shell(f'fstcn train scenes --out by-scene {group} {QUICK}')
    assert code == 0 and 'look grouped' not in err, err
    assert ', whole groups such as 1\n' in out
    line = 'fstcn evaluate scenes -c by-scene/model.safetensors --clips 1 --workers 1'
    again = shell.does(f'{line} {group}')
    assert shares(again) == shares(out)[1:]
    shell.refuses(line, ' new to the network', 'trained with --group, give the same here')
    shell.refuses(f'{line} --all {group}', '--all needs none')


@pytest.mark.faults
def test_videos_that_are_nearly_the_same_are_named(shell):
    "Another coding, three quarters of the size, and without the last frames."
    root = shell.folder/'twins'
    for film in films(shell):
        (root/film.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(film, root/film.parent.name/film.name)
    held = next(v.path for v in from_folder(root).test)
    kept = read_frames(held, range(probe_video(held).n_frames - 2)).numpy()
    frames = [cv2.resize(frame, None, fx=.75, fy=.75) for frame in kept]
    again = held.parent/'again_g99_.mp4'
    write_video(again, frames, codec='libx264')
    assert again not in {v.path for v in from_folder(root).test}
    pair = f'{held.parent.name}/{held.name}'
    name = f'{again.parent.name}/{again.name}'
    out = shell('fstcn check twins --workers 1')[1]
    assert '       1  nearly the same as another\n' in out, out
    assert f'nearly the same: {pair} and {name}. One group' in out, out
    with patch('fstcn.experiments.run_experiment', side_effect=ValueError('began')):
        err = shell('fstcn train twins --out twins-run')[2]
    assert f'1 test videos are nearly the same as training videos: {pair} and {name}. ' in err, err


@pytest.mark.faults
@pytest.mark.parametrize('line,told', [
    ("train scenes --group '('", "'(' is no regular expression"),
    ('train scenes --group take', "'take': the group is what parentheses match"),
    ("train scenes --group '(take)'", 'finds a group in none of the 16 file names'),
    ("train data --group '(g..)'", 'UCF-101 has groups of its own'),
    ("check scenes --group '('", "'(' is no regular expression"),
    ("reproduce --dry-run --data scenes --group take", 'the group is what parentheses match'),
    ("reproduce --dry-run --group '(g..)'", 'synthetic has groups of its own')])
def test_groups_that_cannot_be(shell, scenes, line, told): shell.refuses(f'fstcn {line}', told)


@pytest.mark.faults
def test_every_layout_is_in_the_help(shell):
    for line in ('train --help', 'evaluate --help'):
        words = ' '.join(shell.does(f'fstcn {line}').replace('│', ' ').split())
        for told in ('path,label', 'split', 'group', 'train/<class>/', 'val/', '--group'):
            assert told in words, words


def test_check_of_nothing_makes_no_folder(shell):
    assert shell('fstcn check none --output none/table.csv')[0] == 2
    assert not (shell.folder/'none').exists()


# --- train --------------------------------------------------------------------------------

def test_training_says_what_came_of_it(shell):
    assert shell.trained.startswith('6 videos to train on, 2 to test on, 2 classes\n')
    assert 'SCI fusion' in shell.trained
    assert shell.trained.endswith('--checkpoint run/model.safetensors\n')


def test_the_stages_of_the_paper(shell):
    "Three layers on frames, then everything on clip pairs; what was validated is used."
    begin = 'fstcn train data --cache cache'
    stage2 = '--stage frames --weights run/model.safetensors --out stage2'
    out = shell.does(f'{begin} {stage2} {QUICK}')
    assert "began with model.safetensors (2 classes, path 'both'); new: classifier" in out
    stage3 = '--weights stage2/model.safetensors --validate .3 --out stage3'
    out = shell.does(f'{begin} {stage3} {QUICK}')
    assert "path 'scl'); new: classifier, fc8, temporal.conv5" in out
    record = json.loads((shell.folder/'stage3'/'record.json').read_text())
    assert record['data']['valid'] == 2
    assert (shell.folder/'stage3'/'best.safetensors').exists()
    assert out.endswith('--checkpoint stage3/best.safetensors\n')
    best = shell.does('fstcn evaluate data -c stage3/best.safetensors --clips 1 --workers 1')
    assert shares(best) == shares(out)


def test_stage_2_without_freezing_and_without_a_ceiling(shell):
    "Said, kept in record and checkpoint, and seen in the weights and in the history."
    options = '--stage frames-all --weights run/model.safetensors --clip-norm none --out loose'
    shell.does(f'fstcn train data {options} --epochs 2 --workers 1 --clips 1')
    record = json.loads((shell.folder/'loose'/'record.json').read_text())
    network, _, info = load_checkpoint(shell.folder/'loose'/'model.safetensors')
    assert record['train']['train_only'] == info['train']['train_only'] == []
    assert record['train']['clip_norm'] is info['train']['clip_norm'] is None
    begun = load_checkpoint(shell.folder/'run'/'model.safetensors')[0].state_dict()
    same = {k for k, v in network.state_dict().items() if torch.equal(v, begun.get(k))}
    assert not same
    history = pd.read_csv(shell.folder/'loose'/'history.csv')
    assert (history.gradient > 0).all() and (history.cut == 0).all()


def test_a_ceiling_that_is_no_number(shell):
    code, out, err = shell('fstcn train data --clip-norm few')
    assert (code, out) == (2, '') and "'--clip-norm'" in err and "'few'" in err, err


def test_no_test_video_can_be_read(shell):
    torn = shell.folder/'torn'
    shutil.copytree(shell.folder/'data', torn)
    broken = [video.path for video in load_split(torn, 1).test]
    for path in broken:
        path.write_bytes(b'not a video')
    code, out, err = shell('fstcn train torn --out torn-run --epochs 1 --workers 1 --on-error skip')
    assert (code, err) == (0, '')
    assert '\nnone of the 2 test videos could be read: nothing was scored\n' \
           'left out, since they cannot be read: ' in out, out
    assert all(path.name in out for path in broken), out


@pytest.mark.faults
def test_videos_that_are_read_in_part_are_named(shell):
    hurt = shell.folder/'hurt'
    shutil.copytree(shell.folder/'data', hurt)
    split = load_split(hurt, 1)
    names = split.train[0].path.name, split.test[0].path.name
    for video in (split.train[0], split.test[0]):
        data = video.path.read_bytes()
        video.path.write_bytes(data[:len(data)*4//5])
    out = shell.does(f'fstcn train hurt --out hurt-run {QUICK}')
    assert f'\n2 videos are damaged and read in part: {names[0]}, {names[1]}; `fstcn check`' in out
    scored = 'fstcn evaluate hurt -c hurt-run/model.safetensors --clips 1 --out hurt-ev'
    code, out, err = shell(scored)
    assert code == 0 and f'1 videos are damaged and read in part: {names[1]};' in err, err
    for folder, n in {'hurt-run': 2, 'hurt-ev': 1}.items():
        damaged = json.loads((shell.folder/folder/'record.json').read_text())['data']['damaged']
        assert tuple(found['video'] for found in damaged) == names[2 - n:]


@pytest.mark.faults
@pytest.mark.parametrize('seconds', ['inf', 'nan', '0', '-1'])
@pytest.mark.parametrize('command', ['check data', f'predict {FILM} {NET}'])
def test_a_time_limit_is_a_number_of_seconds(shell, command, seconds):
    code, out, err = shell(f'fstcn {command} --timeout {seconds}')
    assert (code, out) == (2, '') and '--timeout' in err and 'Traceback' not in err, err


@pytest.mark.parametrize('command', [
    f'evaluate data {NET}',
    f'timeline {FILM} {NET}',
    f'explain {FILM} {NET}',
    f'train data {QUICK}'])
class TestNoFolderToWriteTo:
    def test_a_file(self, shell, command):
        file = shell.folder/'text.avi'
        for where in (file, file/'new'):
            told = (f'{where}: no folder to write to (Not a directory: {file}); '
                    'name another with --out')
            with patch('fstcn.datasets.load_split', side_effect=AssertionError):
                shell.refuses_at_once(f'fstcn {command}', where, told)

    @pytest.mark.skipif(sys.platform != 'linux', reason='no folder where nobody can write')
    def test_where_nobody_can_write(self, shell, command):
        told = '/proc/fstcn: no folder to write to ('
        shell.refuses_at_once(f'fstcn {command}', '/proc/fstcn', told)


def test_no_folder_inside_the_data(shell):
    classes = 'data/UCF-101'
    told = (f'{classes}/new lies in the data set {classes}, where it would be taken for a class: '
            'name another folder with --')
    for command in (f'evaluate {classes} {NET}', f'train {classes} {QUICK}'):
        shell.refuses_at_once(f'fstcn {command}', f'{classes}/new', f'{told}out')
    code, _, err = shell(f'fstcn train {classes} {QUICK} --out new --cache {classes}/new')
    assert code == 2 and f'{told}cache' in err, err
    assert not (shell.folder/classes/'new').exists()


# --- evaluate -----------------------------------------------------------------------------

def test_evaluation_repeats_the_training(shell):
    line = EVALUATE.format('data') + ' --out eval'
    out = shell.does(line)
    assert out.startswith('2 of 8 videos scored, the test part\n')
    assert shares(out) == shares(shell.trained)
    assert shell.does(line) == out                       # its own record may be replaced
    kept = sorted(p.name for p in (shell.folder/'eval').iterdir())
    assert kept == ['confusion.png', 'record.json', 'scores.npz']


def test_what_was_learned_from_is_not_scored(shell):
    "The same files under other names, in a CSV file, are drawn into other parts."
    rows = ['path,label\n']
    for i, film in enumerate(films(shell)):
        shutil.copy(film, shell.folder/f'moved{i}.avi')
        rows.append(f'moved{i}.avi,{film.parent.name}\n')
    (shell.folder/'listed.csv').write_text(''.join(rows))
    again = EVALUATE.format('listed.csv')
    shell.refuses(again, 'none of the 2 test videos is new to the network',
                  '. Name other videos, or add --all --unseen')
    known = '(run/model.safetensors was trained on them, or chosen by them): moved'
    shell.refuses(f'{again} --all', f'6 of 8 test videos are not new to the network {known}',
                  ' and 1 more. Add --unseen to leave them out')
    rest = shell.does(f'{again} --all --unseen --out rest')
    assert rest.startswith('2 of 8 videos scored; 6 left out')
    assert shares(rest) == shares(shell.trained)

    scored = json.loads((shell.folder/'rest'/'record.json').read_text())['data']
    every = load_all(shell.folder/'listed.csv', ('SitDown', 'StandUp'))
    assert scored.pop('checksum') != checksum(every)
    assert scored == {
        'name': 'listed.csv, all videos', 'classes': 2, 'test': 2, 'left_out': 6, 'damaged': []}
    assert len(Scores.load(shell.folder/'rest'/'scores.npz').names) == 2


def test_new_videos_of_one_class(shell):
    "Too little for a data set, and the error names the way out. Old checkpoints serve."
    model, names, info = load_checkpoint(shell.folder/'run'/'model.safetensors')
    model.trained_on = TrainedOn(complete=False)
    save_checkpoint(shell.folder/'old.safetensors', model, names, **info)
    tested = load_split(shell.folder/'data', 1).test
    fresh = next(video.path for video in tested if video.path.parent.name == 'StandUp')
    new = shell.folder/'one-class'/'test'/'StandUp'
    new.mkdir(parents=True)
    shutil.copy(fresh, new/'mine.avi')
    shell.refuses(EVALUATE.format('one-class'), 'no videos in this class folder, only StandUp/',
                  ' (to score all 1 videos of it, add --all)')
    one = shell.does(EVALUATE.format('one-class') + ' --all --out one')
    assert one.startswith('1 of 1 videos scored\n')
    code, same, err = shell('fstcn evaluate one-class --all -c old.safetensors --clips 1')
    assert code == 0 and one.startswith(same)
    assert err == ('fstcn: warning: old.safetensors does not say which videos it was trained on: '
                   'whether these are new to it cannot be told\n')
    by_class = json.loads((shell.folder/'one'/'record.json').read_text())['class_accuracy']
    assert by_class['SitDown'] is None and by_class['StandUp'] is not None


def test_record_of_a_training_is_kept(shell):
    told = 'run/record.json: the record of a training, and would be replaced; choose another --out'
    shell.refuses_at_once(f'fstcn evaluate data {NET}', 'run', told)


def test_record_that_is_none_is_kept(shell):
    (shell.folder/'odd').mkdir()
    (shell.folder/'odd'/'record.json').write_text('{')
    shell.refuses_at_once(f'fstcn evaluate data {NET}', 'odd', 'record.json, line 1: not a record')


def test_record_comes_before_the_picture(shell):
    with patch('fstcn.experiments.plot_confusion', side_effect=ValueError('no picture')):
        code, _, err = shell(f'fstcn evaluate data {NET} --clips 1 --out drawn')
    assert code == 2 and 'no picture' in err, err
    assert json.loads((shell.folder/'drawn'/'record.json').read_text())['accuracy']


def test_test_folder_alone(shell):
    "One class is no data set, and a class that the network does not know is no class of it."
    new = shell.folder/'films'/'test'/'StandUp'
    new.mkdir(parents=True)
    tested = load_split(shell.folder/'data', 1).test
    fresh = next(video.path for video in tested if video.path.parent.name == 'StandUp')
    shutil.copy(fresh, new/'mine.avi')
    shell.refuses(EVALUATE.format('films/test'), 'at least two classes', ', add --all)')
    new.rename(new.parent/'Fly')
    told = "'Fly': not among the classes of the network, which are SitDown, StandUp"
    shell.refuses(EVALUATE.format('films') + ' --all', told)


def test_classes_in_another_order(shell):
    model, names, info = load_checkpoint(shell.folder/'run'/'model.safetensors')
    model.trained_on = TrainedOn(complete=False)
    save_checkpoint(shell.folder/'turned.safetensors', model, names[::-1], **info)
    code, _, err = shell('fstcn evaluate data -c turned.safetensors --clips 1 --workers 1')
    told = ('SitDown, StandUp... against StandUp, SitDown... '
            '(to score all 8 videos of it, add --all)\n')
    assert code == 2 and told in err, err


def test_all_is_named_only_where_it_helps(shell):
    other = shell.folder/'other'
    def fill(name, paths):
        (other/name).mkdir(parents=True)
        for i, path in enumerate(paths):
            shutil.copy(path, other/name/f'{name}{i}.avi')
    fill('Fly', films(shell)[:2])
    fill('SitDown', films(shell)[2:4])
    no_way_out = 'against SitDown, StandUp...\n'
    shell.refuses(EVALUATE.format('other'), 'its classes are not those of', no_way_out)

    shutil.rmtree(other)
    fill('StandUp', films(shell)[:1])
    fill('SitDown', films(shell)[2:3])
    told = 'not enough to hold any out (to score all 2 videos of it, add --all)'
    shell.refuses(EVALUATE.format('other'), told)

    shutil.rmtree(other)
    learned = next(video.path for video in load_split(shell.folder/'data', 1).train)
    fill('SitDown', [learned])
    told = 'SitDown0.avi. Name other videos\n'
    shell.refuses(EVALUATE.format('other') + ' --all --unseen', told)


# --- weights and reproduce ----------------------------------------------------------------

NARROW = {
    'features.0': (4, 3, 7, 7),
    'features.4': (5, 4, 5, 5),
    'features.8': (6, 5, 3, 3),
    'features.10': (6, 6, 3, 3),
    'features.12': (6, 6, 3, 3),
    'classif.0': (9, 216),
    'classif.3': (8, 9),
    'classif.6': (7, 8)}


def test_weights_of_imagenet(shell):
    state = {}
    for name, shape in NARROW.items():
        state |= {f'{name}.weight': torch.randn(shape), f'{name}.bias': torch.randn(shape[0])}
    file = shell.folder/'vggm-narrow.pth'
    torch.save(state, file)
    out = shell.does("fstcn weights vggm-narrow.pth --out 'my aux.safetensors'")
    assert 'scl.conv1: ImageNet' in out and 'classifier: ImageNet' in out
    assert out.endswith("--weights 'my aux.safetensors'\n"), out      # quoted, to be typed
    aux = load_checkpoint(shell.folder/'my aux.safetensors')[0]
    known = imagenet_state(file).state
    assert set(aux.state_dict()) == set(known)
    for name, tensor in aux.state_dict().items():
        assert torch.equal(tensor, known[name]), name
    began = initialize(aux, file)
    assert str(began).startswith('vggm-narrow.pth (ImageNet: scl.conv1, scl.conv2, ')
    assert (began.path, began.new) == (None, ())


FEW = 'fstcn reproduce --data data --table 2 --seeds 0 --epochs 1 --work work --results records'


def test_reproduce_passes_on_what_is_given(shell):
    seen = {}
    def reproduce(tables, **given):
        seen.update(given, tables=tables)
        return {}
    with patch('fstcn.reproduce.reproduce', side_effect=reproduce):
        shell(f'{FEW} --workers 5 --splits 1,3-5 --series longer')
    expected = dict(
        tables=[2], data='data', splits=[1, 3, 4, 5], seeds=[0], epochs=1, workers=5, weights=None,
        series='longer')
    assert {k: seen[k] for k in expected} == expected


@pytest.mark.parametrize('given, changes', [
    ('', {}),
    ('--clip-norm none', {'clip_norm': None}),
    ('--clip-norm 0', {'clip_norm': None}),
    ('--clip-norm 2.5', {'clip_norm': 2.5}),
])
def test_reproduce_with_another_ceiling(shell, given, changes):
    with patch('fstcn.reproduce.reproduce', return_value={}) as reproduce:
        shell.does(f'{FEW} {given}')
    assert reproduce.call_args.kwargs['changes'] == changes


def test_plan_writes_nothing(shell):
    out = shell.does(f'{FEW} --dry-run')
    assert '3 of 3 to do, about ' in out
    assert not (shell.folder/'records').exists()


def test_plan_knows_what_is_done(shell):
    job = Job('data', 'tcl', 1, 0)
    videos = load_split(shell.folder/'data', 1)
    record = dict(
        kind='network', job=job.fields, train={'epochs': 1, 'clip_norm': 1.},
        data={'checksum': checksum(videos), 'test': 2, 'classes': 2}, parameters=1, accuracy={},
        minutes={}, weights=None, config={})
    write_record(shell.folder/'records'/RECORDS, record)
    code, out, err = shell(f'{FEW} --dry-run')
    assert code == 0 and '2 of 3 to do' in out, (out, err)
    done = [line.split() for line in out.splitlines() if 'tcl' in line]
    assert done == [[job.name, 'done']], out
    for options, told in (
        ('--epochs 2', 'epochs 1, asked for is 2'),
        ('--clip-norm none', 'clip_norm 1.0, asked for is None'),
        ('--weights cnn-m.mat', 'cnn-m.mat: no such file'),
        ('--weights run/model.safetensors', 'without a temporal path, or ImageNet; '
                                            "this is model.safetensors (2 classes, path 'both')"),
    ):
        code, _, err = shell(f'{FEW} {options} --dry-run')
        assert code == 2 and told in err and err.count('\n') == 1, err


# --- predict, timeline, explain, info and export ------------------------------------------

def results(shell, name):
    "What a file of results holds of each video."
    return {row['video']: row for row in read_lines(shell.folder/name)}


def test_the_same_answer_for_a_person_and_a_program(shell):
    got = json.loads(shell.does(f'fstcn predict {FILM} {NET} --clips 1 --json'))
    assert sorted(got['labels']) == ['SitDown', 'StandUp']
    assert abs(sum(got['probs']) - 1) < 1e-6
    assert got['warning'] is None
    out = shell.does(f'fstcn predict {FILM} {NET} --clips 1')
    assert [line.split()[-1] for line in out.splitlines()] == got['labels']


def test_many_videos_and_once_more(shell):
    "What is in the file is not done again; what was damaged is, once it is repaired."
    inbox = shell.folder/'many'
    inbox.mkdir()
    for i, film in enumerate(films(shell)[:2]): shutil.copy(film, inbox/f'{i}.avi')
    (inbox/'broken.avi').write_bytes(b'not a video')
    line = f'fstcn predict many {NET} --clips 1 -o repaired.jsonl --workers 1'
    code, out, err = shell(line)
    told = '2 videos recognized, 0 were in the file already, 1 unreadable; results in '
    assert code == 1 and out.startswith(told), out
    assert 'broken.avi: ' in err and err.count('\n') == 1
    first = results(shell, 'repaired.jsonl')
    assert list(first) == ['many/0.avi', 'many/1.avi', 'many/broken.avi']
    alone = json.loads(shell.does(f'fstcn predict many/1.avi {NET} --clips 1 --json'))
    assert first['many/1.avi']['labels'] == alone['labels']

    again = out.replace('2 videos recognized, 0 were', '0 videos recognized, 2 were')
    assert shell(line) == (1, again, err)
    assert results(shell, 'repaired.jsonl') == first

    shutil.copy(inbox/'1.avi', inbox/'broken.avi')
    out = shell.does(line)
    assert out.startswith('1 videos recognized, 2 were in the file already, 0 unreadable')
    repaired = results(shell, 'repaired.jsonl')['many/broken.avi']
    assert repaired['labels'] == first['many/1.avi']['labels']


def test_a_folder_of_frames_is_a_video(shell):
    "Alone, or among others; one that is not there is named, and the rest is done."
    frames = shell.folder/'frames'
    frames.mkdir()
    for i, frame in enumerate(read_frames(shell.folder/FILM, range(40)).numpy()):
        cv2.imwrite(str(frames/f'{i}.png'), frame[..., ::-1])
    assert shell.does(f'fstcn predict frames {NET} --clips 1').count('\n') == 2
    options = f'{NET} --clips 1 -o two.jsonl --workers 1'
    code, out, err = shell(f'fstcn predict frames {FILM} none.avi {options}')
    assert code == 1 and '2 videos recognized' in out
    assert 'none.avi: does not exist' in err
    errors = [row['error'] for row in results(shell, 'two.jsonl').values()]
    assert errors == [None, None, 'does not exist']


def lose_a_frame(path, number):
    "Put zeros where the packet of this number is."
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        lost = packets[number]
        start, stop = lost.pos, lost.pos + lost.size
    content = bytearray(path.read_bytes())
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def test_a_file_that_breaks_off(shell):
    "Every command that recognizes it says so, in the same words, on stderr."
    inbox = shell.folder/'inbox'
    inbox.mkdir()
    shutil.copy(shell.folder/FILM, inbox/'ok.avi')
    many = f'fstcn predict inbox {NET} --clips 1 -o inbox.jsonl'
    assert shell.does(many).startswith('1 videos recognized')
    frames = read_frames(shell.folder/FILM, range(40))
    hurt = write_video(inbox/'hurt.mp4', frames, codec='libx264', gop=40)
    lose_a_frame(hurt, 6)
    told = [
        shell(f'fstcn predict inbox/hurt.mp4 {NET} --clips 1'),
        shell(f'fstcn predict inbox/hurt.mp4 {NET} --clips 1 --json'),
        shell(f'fstcn explain inbox/hurt.mp4 {NET} --clips 1 --out why-hurt'),
        shell(f'fstcn timeline inbox/hurt.mp4 {NET} --out line-hurt'),
        shell(many),
        shell(many)]
    line = told[0][2]
    for code, _, err in told:
        assert (code, err) == (0, line)
    # 6 frames at 25 a second
    assert line.startswith('fstcn: warning: inbox/hurt.mp4 is read in part, up to 0.2 s ('), line
    assert line.count('\n') == 1
    warning = line.strip().partition('hurt.mp4 ')[2]
    assert json.loads(told[1][1])['warning'] == warning
    warnings = {video: row['warning'] for video, row in results(shell, 'inbox.jsonl').items()}
    assert warnings == {'inbox/ok.avi': None, 'inbox/hurt.mp4': warning}


def test_timeline(shell):
    out = shell.does(f'fstcn timeline {FILM} {NET} --out line --every .5 --centre')
    segments = json.loads((shell.folder/'line'/'segments.json').read_text())
    assert out.count(' s to ') == len(segments) > 0
    written = sorted(p.name for p in (shell.folder/'line').iterdir())
    assert written == ['segments.json', 'timeline.csv', 'timeline.png']


def test_explanation(shell):
    out = shell.does(f'fstcn explain {FILM} {NET} --out why --label StandUp --clips 1')
    head, film, sheet = out.splitlines()
    assert 'shown is StandUp' in head
    assert (shell.folder/film).exists() and (shell.folder/sheet).exists()
    told = "fstcn: error: no class 'Fly': choose one of SitDown, StandUp\n"
    assert shell(f'fstcn explain {FILM} {NET} --out no-why --label Fly') == (2, '', told)
    assert not (shell.folder/'no-why').exists()


def test_what_is_in_a_checkpoint(shell):
    out = shell.does('fstcn info run/model.safetensors')
    network = load_checkpoint(shell.folder/'run'/'model.safetensors')[0]
    n = sum(p.numel() for p in network.parameters())
    told = [line.split() for line in out.splitlines() if line.startswith('parameters')]
    assert told == [['parameters', f'{n:,}']]
    assert 'classes     2: SitDown, StandUp' in out
    assert 'data, split 1, 6 videos' in out


def test_export_holds_the_classes(shell):
    assert shell.does(f'fstcn export {NET} --out net.onnx').startswith('net.onnx: ')
    session = onnxruntime.InferenceSession(shell.folder/'net.onnx')
    inside = json.loads(session.get_modelmeta().custom_metadata_map['fstcn'])
    assert inside['classes'] == ['SitDown', 'StandUp']


def test_results_of_other_settings_are_kept(shell):
    command = f'fstcn predict {FILM} {NET} -o many.jsonl'
    assert shell(f'{command} --clips 1')[0] == 0
    told = 'many.jsonl: holds results of another network or other settings'
    shell.refuses(f'{command} --top 1', told)
    shell.refuses(f'{command} --clips 2', 'name another file, or remove it')


def test_what_is_a_video_in_a_folder(shell, tmp_path):
    "A folder is one video only where there are pictures and nothing else to look at."
    film = shell.folder/FILM
    picture = tmp_path/'0.png'
    cv2.imwrite(str(picture), read_frames(film, range(1)).numpy()[0, ..., ::-1])
    for path, what in {
        'inbox/IMG_1.mov': film, 'inbox/ok.mp4': film,
        'inbox/cover.jpg': picture, 'inbox/.thumb.jpg': picture,
        'album/1.PNG': picture, 'album/.thumb.mp4': picture,
        'hidden/.thumb.jpg': picture,
        'nested/cover.png': picture, 'nested/more/a.mp4': film,
        'frames/0.png': picture, 'frames/1.png': picture,
    }.items():
        (tmp_path/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(what, tmp_path/path)
    (tmp_path/'nothing').mkdir()
    def found(name): return [p.relative_to(tmp_path).as_posix() for p in videos_in(tmp_path/name)]
    assert found('inbox') == ['inbox/IMG_1.mov', 'inbox/ok.mp4']
    assert found('nested') == ['nested/more/a.mp4']
    for name in ('album', 'frames', 'inbox/ok.mp4', 'none.avi'):
        assert found(name) == [name]
    for name in ('hidden', 'nothing'):
        with pytest.raises(DatasetError, match=f'{tmp_path/name}: no video files'): found(name)


# --- fuse, bench and demo -----------------------------------------------------------------

def test_fusion_repeats_the_training(shell):
    out = shell.does('fstcn fuse run/scores.npz')
    assert out.startswith('2 videos of 2 classes, 1 clip pairs x 18 views')
    def first(text): return [line.split('%')[0].split() for line in shares(text)[:3]]
    assert first(out) == first(shell.trained)
    table = json.loads(shell.does('fstcn fuse run/scores.npz --json'))
    assert list(table) == ['single', 'average', 'sci', 'maximum']


def test_whatever_fusion_is_registered_is_compared(shell):
    last = Fusion('the last clip pair', lambda p: p[..., -1, 4, :])
    with patch.dict(FUSIONS, last=last):
        _, out, _ = shell('fstcn fuse run/scores.npz')
    assert '\nthe last clip pair    ' in out


def test_bench_says_what_it_has_and_records_one_line(shell):
    def bench_step(say, device):
        say('fstcn: 1.0 ms')
        return {'benchmark': 'step'}
    with patch('fstcn.step_bench.bench_step', side_effect=bench_step):
        told = (0, '{\n "benchmark": "step"\n}\n', 'fstcn: 1.0 ms\n')
        assert shell('fstcn bench step') == told
        for _ in range(2):
            shell('fstcn bench step --record bench.jsonl')
    assert read_lines(shell.folder/'bench.jsonl') == [{'benchmark': 'step'}]


@pytest.mark.parametrize('name,module', BENCH_MODULES.items())
def test_every_benchmark_is_where_it_is_looked_for(shell, name, module):
    with patch(f'fstcn.{module}.bench_{name}', return_value={'benchmark': name}) as bench:
        assert json.loads(shell.does(f'fstcn bench {name} --device cpu')) == {'benchmark': name}
    assert bench.call_args.kwargs.get('device') == (None if module == 'bench' else 'cpu')


def test_demo(shell):
    options = '--epochs 1 --actors 4 --clips 1 --workers 1'
    out = shell.does(f'fstcn demo --out demo {options} --record demo-records/{RECORDS}')
    assert 'SCI fusion' in out and 'fstcn predict demo/' in out
    pictures = 'curves.png', 'confusion.png', 'recognition.webp', 'preview.png'
    for name in ('model.safetensors', 'record.json', 'scores.npz', *pictures):
        assert (shell.folder/'demo'/name).exists(), name
    records = read_records(shell.folder/'demo-records', series='demo')
    assert records.fusion.tolist() == ['single', 'average', 'sci', 'clip']
