"Pictures, beyond what their notebook shows: batches, paths, other classes, names with a $."
from dataclasses import replace
from io import BytesIO

import matplotlib.pyplot as plt
import pytest
import torch
from torch.testing import assert_close

from fstcn.inference import Recognizer
from fstcn.model import FstCN, FstCNConfig
from fstcn.writing import write_video
from fstcn.decoding import probe_video
from fstcn.video import read_frames
from fstcn.visualize import explain, plot_confusion, saliency
from fstcn.class_images import class_image, plot_class_images
from fstcn.features import plot_permutation, plot_tsne

CONFIG = FstCNConfig(
    3, n_frames=3, crop_size=60, short_side=60, scl_channels=(8, 12, 12, 12), spatial_channels=12,
    temporal_channels=12, permuted_channels=12, tcl_channels=4, fc_sizes=(32, 24), fusion_size=24)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FstCN(CONFIG).double().eval()


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 2, 3, 60, 60, 3), dtype=torch.uint8, generator=generator)


def test_a_map_does_not_depend_on_its_batch(model, pairs):
    maps = saliency(model, pairs, torch.tensor([2, 0]))
    alone = saliency(model, pairs[1:], 0)
    assert set(maps) == {'rgb', 'diff'}
    for k in maps: assert_close(alone[k], maps[k][1:])
    with torch.no_grad(): assert_close(saliency(model, pairs, 0)['rgb'][1], maps['rgb'][1])


@pytest.mark.parametrize('options, inputs', [
    ({'path': 'scl'}, ['rgb']),
    ({'path': 'tcl'}, ['diff']),
    ({'path': 'tcl', 'difference': 'signed'}, ['diff']),
])
def test_an_image_of_a_class(options, inputs):
    "Of one path; the score rises; no value leaves what a video can hold."
    torch.manual_seed(0)
    config = FstCNConfig.small(3, crop_size=64, short_side=64, n_frames=2, **options)
    network = FstCN(config).eval()
    image = class_image(network, 1, steps=8)
    assert list(image.inputs) == inputs
    assert image.scores[-1] > image.scores[0]
    assert class_image(network, 1, steps=8).scores == image.scores
    values = image.inputs[inputs[0]]
    least = {'rgb': -2.2, 'diff': -4.5 if 'difference' in options else 0.}[inputs[0]]
    assert least <= values.min() and values.max() <= 4.5
    assert (values.min() < 0) == (least < 0)
    assert plot_class_images({'a $ class': image}).axes
    assert class_image(network.double(), 1, steps=1).scores[-1] > image.scores[0]
    with pytest.raises(ValueError, match='training mode'):
        class_image(network.train(), 1)


def test_no_parameter_is_touched(model, pairs):
    saliency(model, pairs, 1)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(('path', 'key'), [('scl', 'rgb'), ('tcl', 'diff')])
def test_a_path_alone_has_the_map_of_its_own_input(pairs, path, key):
    maps = saliency(FstCN(replace(CONFIG, path=path)).eval(), pairs, 1)
    assert list(maps) == [key] and (maps[key] > 0).any()


# A video, explained

@pytest.fixture(scope='module')
def video(tmp_path_factory):
    "Thirty-three noisy frames, half as wide again as a crop."
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randint(60, 196, (33, 60, 90, 3), generator=generator).to(torch.uint8)
    return write_video(tmp_path_factory.mktemp('film')/'a square.mp4', noisy, codec='libx264',
                       quality=12)


@pytest.fixture
def recognizer():
    torch.manual_seed(0)
    model = FstCN(replace(CONFIG, n_classes=2, path='scl')).eval()
    return Recognizer(model, ('red', 'blue $'), n_clips=2, device='cpu')


def test_another_class_has_its_own_files(recognizer, video, tmp_path):
    red = explain(recognizer, video, tmp_path, 'red')
    blue = explain(recognizer, video, tmp_path, 'blue $')
    more = max(red, blue, key=lambda got: got.probability)
    assert (red.label, blue.label) == ('red', 'blue $')
    assert red.recognized == blue.recognized == more.label
    assert_close(red.probability + blue.probability, 1., rtol=0, atol=1e-6)
    assert more.probability > .5
    assert (red.film.name, blue.film.name) == ('a_square-red.mp4', 'a_square-blue_.mp4')
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'a_square-blue_.mp4', 'a_square-blue_.png', 'a_square-red.mp4', 'a_square-red.png']


def test_the_first_panel_is_the_frame(recognizer, video, tmp_path):
    film = explain(recognizer, video, tmp_path).film
    shown = read_frames(film, [5])[0, :240, :360].float()               # enlarged four times
    small = shown.unflatten(0, (60, 4)).unflatten(2, (90, 4)).mean((1, 3))
    far = (read_frames(video, range(33)).float() - small).abs().flatten(1).mean(1)
    assert far.argmin() == 5


def test_both_paths_explained(video, tmp_path):
    both = explain(Recognizer(FstCN(CONFIG), 'abc', n_clips=1, device='cpu'), video, tmp_path)
    shapes = {k: tuple(m.shape) for k, m in both.maps.items()}
    assert shapes == {'rgb': (1, 60, 90), 'diff': (1, 3, 60, 90)}
    assert probe_video(both.film).n_frames == 20


# Text in pictures

def texts(labels): return [(t.get_text(), t.get_parse_math()) for t in labels]


@pytest.mark.parametrize('names', [('win$$', 'a_$b$'), ('$\\x$', 'x^2 $y')])
def test_classes_with_a_dollar_in_a_confusion_matrix(names):
    "As formulas these are errors, or other names."
    fig = plot_confusion(torch.eye(2), names, 'of $$')
    fig.savefig(BytesIO())
    ax, = fig.axes
    plain = [(n, False) for n in names]
    assert texts(ax.get_xticklabels()) == plain and texts(ax.get_yticklabels()) == plain
    assert plt.rcParams['text.parse_math']          # elsewhere a formula is one


def test_classes_with_a_dollar_beside_features():
    features = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    names = ('win$$', 'a_$b$', '$\\x$')
    fig = plot_tsne({'tcl': features}, torch.arange(9) % 3, names)
    fig.savefig(BytesIO())
    assert texts(fig.legends[0].get_texts()) == [(n, False) for n in names]


def test_nothing_beside_p_is_cut_off():
    fig = plot_permutation(FstCN(FstCNConfig.small(6)))
    fig.savefig(BytesIO())
    drawn, page = fig.get_tightbbox(), fig.bbox_inches
    assert 0 <= drawn.x0 and drawn.x1 <= page.x1 and 0 <= drawn.y0 and drawn.y1 <= page.y1
