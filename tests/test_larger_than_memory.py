"""Maps in a file are read block by block: no step holds a copy of all of them."""

import tracemalloc

import numpy as np
import pytest

from skexmap import DFRClassifier, EigengapSpectralClustering, PseudoGroupLabeler
from skexmap.cluster import _cluster_block, _cluster_labels, _neighbors


@pytest.fixture
def blocks(tmp_path, request):
    """Blocks in a memory map, with maps of 22 MB in float32."""
    n = 600
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, n)
    dtype = [("embedding", "f4", (8,)), ("heatmap", request.param, (3, 56, 56)), ("predicted", "i8")]
    blocks = np.lib.format.open_memmap(tmp_path / "blocks.npy", mode="w+", dtype=np.dtype(dtype), shape=(n,))
    blocks["embedding"] = rng.standard_normal((n, 8)) + kind[:, None]
    blocks["predicted"] = np.arange(n) % 2
    blocks["heatmap"] = 0.3 * rng.random((n, 3, 56, 56), dtype=np.float32)
    for k in range(3):
        blocks["heatmap"][kind == k, :, 10 * k : 10 * k + 30] += 0.6
    return np.load(tmp_path / "blocks.npy", mmap_mode="r")


def peak_of(act, *args):
    tracemalloc.start()
    try:
        result = act(*args)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks far smaller than the maps."""
    for module in (_neighbors, _cluster_block):
        monkeypatch.setattr(module, "BLOCK", 32)
    monkeypatch.setattr(_neighbors, "CHUNK", 50_000)
    monkeypatch.setattr(_cluster_labels, "_BLOCK_OF_ROWS", 32)


@pytest.mark.parametrize("blocks", ["f2", "f4"], indirect=True)
def test_grouping_and_retraining_hold_no_copy_of_the_maps(blocks, small_blocks):
    y = np.arange(len(blocks)) // 2 % 2
    labeler = PseudoGroupLabeler(EigengapSpectralClustering(n_jobs=1), merge_alpha=None)
    # What is imported or made once is no copy of the maps.
    labeler.fit(blocks[:300], y[:300])
    peak, clusters = peak_of(labeler.fit_transform, blocks, y)
    assert peak < blocks["heatmap"].nbytes
    assert labeler.n_clusters_ == 3
    peak, _ = peak_of(labeler.transform, blocks)
    assert peak < blocks["heatmap"].nbytes
    peak, _ = peak_of(DFRClassifier(random_state=0).fit, clusters, y)
    assert peak < blocks["heatmap"].nbytes


@pytest.mark.parametrize("blocks", ["f2"], indirect=True)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_found_in_the_last_float16_block(blocks, small_blocks, value):
    rows = np.array(blocks["heatmap"].reshape(len(blocks), -1))
    rows[-1, -1] = value
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        EigengapSpectralClustering().fit(rows)
