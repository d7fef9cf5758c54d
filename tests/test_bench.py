"The benchmarks as a whole, each rival in a process of its own; `pytest -m slow` runs them."
import numpy as np
import pytest
from numpy.testing import assert_allclose

from fstcn.bench import bench_loading
from fstcn.model import FstCNConfig
from fstcn.synthetic import make_synthetic
from fstcn.throughput import RIVALS
from fstcn.step_bench import bench_step
from fstcn.video_bench import bench_video

pytestmark = pytest.mark.slow


def test_steps_of_every_rival():
    tiny = FstCNConfig.small(2, crop_size=76, short_side=76, fc_sizes=(16, 16), fusion_size=16)
    told = []
    record = bench_step(
        tiny, 2, rounds=1, steps=1, video=(4, 32), matrix=64, device='cpu', say=told.append
    )
    results = record['results']
    assert list(results) == list(RIVALS)
    assert told == [f'{name}: {v["ms"]:.1f} ms' for name, v in results.items()]
    for v in results.values():
        assert_allclose(v['clips_per_s'], 2000/v['ms'])
        if v['peak_memory_gb'] is not None: assert .1 < v['peak_memory_gb'] < 3


def test_whole_videos_in_every_way():
    tiny = FstCNConfig.small(
        3, crop_size=76, short_side=80, scl_channels=(8, 8, 8, 8), spatial_channels=8,
        temporal_channels=8, permuted_channels=8, fc_sizes=(16, 16), fusion_size=16)
    record = bench_video(tiny, 2, 40, (80, 96), device='cpu')
    results = record['results']
    assert max(results[way]['largest difference'] for way in ('naive loop', 'exact')) < 1e-5
    assert results['exact']['same class in each view'] == 1
    assert list(record['layers_ms']) == [
        'conv2', 'conv3', 'conv4', 'spatial conv5', 'temporal conv5'
    ]
    assert_allclose(
        record['ratios']['plain loop over exact'],
        results['plain loop']['seconds']/results['exact']['seconds']
    )


def test_an_epoch_of_loading(tmp_path):
    make_synthetic(tmp_path, ('Wave', 'SitDown'), n_groups=3, n_clips=1)
    own = sorted(tmp_path.rglob('*.avi'))[0]
    record = bench_loading(n_groups=4, n_clips=1, own=[own])
    overhead = record['overhead over decoding']
    assert record['videos'] == 3*18 and list(overhead)[-1] == f'1 files of {own.parent.name}'
    assert all(np.isfinite(x) for v in overhead.values() for x in v.values())
    assert all(v > 0 for v in record['seconds'].values())
