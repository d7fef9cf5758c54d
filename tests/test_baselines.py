"Baselines, beyond what their notebook shows: gradients, memory format, batches, refusals."
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.svm import LinearSVC
from torch.testing import assert_close

from fstcn.conv3d import SOURCES, BaselineConfig, Conv3DNet
from fstcn.two_stream import flow_input, fuse_two_stream, optical_flow
from fstcn.baselines import BASELINES, network_cost
from fstcn.scores import Scores

TINY = dict(crop_size=76, short_side=76, channels=(8, 12, 16, 16, 8), fc_sizes=(32, 24), dropout=0.)
LABELS = torch.arange(60) % 5


@pytest.mark.parametrize(('field', 'value', 'why'), [
    ('crop_size', 300, 'exceeds short_side'),
    ('dropout', 1., 'dropout must be in'),
    ('stride', 0, 'at least 1')])
def test_sizes_that_make_no_network(field, value, why):
    with pytest.raises(ValueError, match=why): BaselineConfig(2, **{field: value})


# The 3D CNN

@pytest.fixture(params=SOURCES)
def network(request):
    torch.manual_seed(0)
    return Conv3DNet(BaselineConfig(4, **TINY, source=request.param))


@pytest.fixture
def block():
    "Frames of three clips."
    return torch.randn(3, 3, 5, 76, 76, generator=torch.Generator().manual_seed(1))


def test_every_parameter_has_a_gradient(network, block):
    network(block).logsumexp(1).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_it_starts_at_even_odds(network, block):
    assert network(block).softmax(1).sub(.25).abs().max() < .1
    he = (2/(27*12))**.5                                    # by what a unit reads
    assert abs(network.conv3.weight.std()/he - 1) < .1 and not network.conv3.bias.any()


def test_memory_of_three_axes(network, block):
    before = network(block)
    assert network.to(memory_format=torch.channels_last) is network
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert_close(network(block), before, rtol=1e-4, atol=1e-5)
    assert_close(network(block[1:2]), before[1:2], rtol=1e-4, atol=1e-5)    # whatever its batch


def test_frames_of_another_shape(network, block):
    short, small = block[:, :, :4], block[..., :70, :70]
    with pytest.raises(ValueError) as error: network(short)
    assert 'frames must have shape (b,3,5,76,76), got (3, 3, 4, 76, 76)' in str(error.value)
    with pytest.raises(ValueError, match='frames must have shape'): network(small)


# Optical flow

@pytest.fixture(scope='module')
def film():
    "Three frames of a texture that moves by (3,-2) pixels, uint8 (3,108,108,3)."
    noise = np.random.default_rng(1).normal(size=(108, 108)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.)
    picture = np.clip(128 + 50*smooth/smooth.std(), 0, 255).round().astype(np.uint8)
    frames = [np.roll(picture, (-2*i, 3*i), (0, 1)) for i in range(3)]
    return np.repeat(np.stack(frames)[..., None], 3, 3)


@pytest.fixture(scope='module')
def clip(film):
    "A clip pair of that texture, uint8 (1,2,2,h,w,3)."
    return torch.from_numpy(np.stack([film[:2], film[1:]]))[None]


def test_pairs_of_frames_keep_their_order(film):
    a, b = film[:1], film[1:2]
    ours, = optical_flow(a, b)
    assert not optical_flow(a, a).any()                     # nothing moves
    both = optical_flow(np.concatenate([a, a]), np.concatenate([a, b]))
    assert not both[0].any() and ours.any()
    assert_close(both[1], ours)


def test_flow_of_no_frames(film):
    a, b = film[:1], film[1:2]
    with pytest.raises(ValueError, match='must be uint8'): optical_flow(a.astype(float), b)
    with pytest.raises(ValueError, match='as many before as after'): optical_flow(a, b[:, :90])


def test_flow_whatever_the_number_of_threads(film):
    threads, runs = cv2.getNumThreads(), []
    for n in (1, 3):
        cv2.setNumThreads(n)
        runs.append(optical_flow(film[:1], film[1:2]))
    cv2.setNumThreads(threads)
    assert np.array_equal(*runs)


def test_clips_keep_their_order(clip):
    flow, = flow_input(clip)
    mirrored, = flow_input(clip.flip(-2))
    three, = flow_input(torch.cat([clip, clip.flip(-2), clip]))
    assert_close(three, torch.cat([flow, mirrored, flow]))


def test_flow_is_clipped_before_its_mean_is_taken(clip):
    raw = torch.from_numpy(optical_flow(*clip[0].numpy())).flatten(0, 1).clamp(-1, 1)
    limited, = flow_input(clip, limit=1.)
    assert_close(limited[0], raw - raw.mean((-2, -1), keepdim=True))


def test_flow_of_what_is_no_clip_pair(clip):
    with pytest.raises(ValueError, match=r'\(b,2,t,h,w,3\)'): flow_input(clip[:, :1])
    with pytest.raises(ValueError, match='must be uint8'): flow_input(clip.float())


# One score from two streams

def made(labels, n, sharp, seed, shift=0):
    "Scores of a stream that favours class `label + shift`."
    generator = torch.Generator().manual_seed(seed)
    favoured = F.one_hot((labels + shift) % n, n)[:, None, None]
    logits = torch.randn(len(labels), 2, 18, n, generator=generator) + sharp*favoured
    names = tuple(f'{i}.avi' for i in range(len(labels)))
    return Scores(logits.softmax(-1), labels, names, tuple('abcde'[:n]))


@pytest.fixture
def ignorant(): return made(LABELS, 5, 0., 1)


@pytest.fixture
def misled(): return made(LABELS, 5, 3., 2, shift=1)


def test_the_svm_is_blind_to_the_size_of_a_score(ignorant, misled):
    training = made(LABELS, 5, 1., 3), made(LABELS, 5, 1., 4)
    double = replace(ignorant, probs=2*ignorant.probs)
    fused = fuse_two_stream(ignorant, misled, 'svm', training)
    assert_close(fuse_two_stream(double, misled, 'svm', training), fused)


def test_both_streams_count(ignorant):
    training = made(LABELS, 5, 5., 3), made(LABELS, 5, 5., 4)
    sure = made(LABELS, 5, 5., 5)
    for streams in ((sure, ignorant), (ignorant, sure)):
        fused = fuse_two_stream(*streams, 'svm', training)
        assert (fused.argmax(1) == LABELS).double().mean() > .95


def stacked(streams):
    "Both streams' video scores by NumPy, each of length 1."
    out = []
    for s in streams:
        mean = s.probs.double().mean((1, 2)).numpy()
        out.append(mean/np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(out, 1)


@pytest.mark.parametrize('c', [1., .01])
def test_the_svm_by_hand(ignorant, misled, c):
    labels = LABELS[:45]
    few = made(labels, 5, .5, 7), made(labels, 5, .5, 8)
    svm = LinearSVC(C=c, random_state=0).fit(stacked(few), labels.numpy())
    by_hand = torch.from_numpy(svm.decision_function(stacked((ignorant, misled))))
    fused = fuse_two_stream(ignorant, misled, 'svm', few, c)
    assert_close(fused, by_hand, rtol=1e-4, atol=1e-5)


def test_streams_of_other_videos(ignorant, misled):
    same = 'the same videos of the same classes'
    renamed = replace(misled, names=misled.names[::-1])
    reclassed = replace(misled, classes=('e', *misled.classes[1:]))
    relabeled = made(LABELS.flip(0), 5, 1., 1)
    for other in (renamed, reclassed, relabeled):
        with pytest.raises(ValueError, match=same): fuse_two_stream(ignorant, other)


@pytest.mark.parametrize(('n', 'why'), [
    (5, 'no training scores of e'), (4, 'same classes as the test')])
def test_training_scores_of_other_classes(ignorant, misled, n, why):
    labels = torch.arange(60) % 4
    training = made(labels, n, 1., 1), made(labels, n, 1., 2)
    with pytest.raises(ValueError, match=why): fuse_two_stream(ignorant, misled, 'svm', training)


# By name

def test_five_widths_of_the_temporal_stream():
    with pytest.raises(ValueError, match='channels must be 5 numbers'):
        BASELINES['two-stream-temporal'](5, 'small', channels=(8,)*4)


def test_a_size_that_does_not_exist():
    with pytest.raises(ValueError, match="got 'large'"): BASELINES['two-stream-spatial'](5, 'large')


def test_fields_can_be_changed():
    changes = dict(n_frames=14, dropout=.1)
    changed = BASELINES['slow-fusion'](5, 'small', **changes).config
    assert changed == replace(BASELINES['slow-fusion'](5, 'small').config, **changes)


@pytest.mark.parametrize('size', ['paper', 'small'])
@pytest.mark.parametrize(('name', 'n_frames', 'stride'), [
    ('conv3d', 5, 5), ('slow-fusion', 10, 1), ('two-stream-temporal', 10, 1),
    ('r2plus1d', 16, 2), ('r2plus1d-5', 5, 5)])
def test_clips_are_those_of_the_papers(name, n_frames, stride, size):
    with torch.device('meta'): c = BASELINES[name](5, size).config
    assert (c.n_frames, c.stride) == (n_frames, stride)


@pytest.mark.parametrize('name', BASELINES)
def test_small_networks_see_the_same_pixels(name):
    c = BASELINES[name](5, 'small').config
    assert (c.crop_size, c.short_side) == (108, 120)


def test_what_a_name_says():
    assert BASELINES['two-stream-temporal'](5, 'small').config.dt == 1
    assert BASELINES['conv3d-diff'](5, 'small').config.source == 'diff'


def test_counting_leaves_the_mode_alone():
    network = BASELINES['conv3d'](5, 'small').train()
    network_cost(network)
    assert network.training
