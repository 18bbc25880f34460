"""The policy for small clusters."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import make_blobs

from skexmap.cluster import EigengapSpectralClustering, OverclusteringKMeans
from skexmap.cluster._sizes import merge_into_nearest, smallest_size, without_small_clusters
from skexmap.exceptions import TinyClusterWarning

ROWS = np.array([[0.0]] * 5 + [[10.0]] * 4 + [[8.0]] * 2 + [[1.0]])
LABELS = np.repeat([0, 1, 2, 3], [5, 4, 2, 1])


def test_a_size_is_a_number_a_share_or_none():
    assert smallest_size(None, 100) == 1
    assert smallest_size(7, 100) == 7
    assert smallest_size(0.051, 100) == 6


def test_small_clusters_join_the_cluster_with_the_nearest_mean():
    merged, small = without_small_clusters(LABELS, 3, "merge", rows=ROWS)
    assert small.tolist() == [2, 3]
    assert merged.tolist() == [0] * 5 + [1] * 6 + [0]


def test_small_clusters_can_be_marked():
    marked, _ = without_small_clusters(LABELS, 3, "mark", rows=ROWS)
    assert marked.tolist() == [0] * 5 + [1] * 4 + [-1] * 3


def test_kept_small_clusters_are_warned_of():
    with pytest.warns(TinyClusterWarning, match=r"2 of 4 clusters have fewer than 3 rows \(smallest: 1\)"):
        kept, _ = without_small_clusters(LABELS, 3, "keep", rows=ROWS)
    np.testing.assert_array_equal(kept, LABELS)


def test_rows_that_belong_to_none_stay_out_of_it():
    labels = np.append(LABELS, -1)
    merged, _ = without_small_clusters(labels, 3, "merge", rows=np.append(ROWS, [[8.0]], axis=0))
    assert merged.tolist() == [0] * 5 + [1] * 6 + [0, -1]


@pytest.mark.parametrize("policy", ["merge", "mark"])
def test_only_small_clusters_are_refused(policy):
    with pytest.raises(ValueError, match=r"All 4 clusters have fewer than 6 rows \(largest: 5\)"):
        without_small_clusters(LABELS, 6, policy, rows=ROWS)


def test_only_small_clusters_can_be_kept():
    with pytest.warns(TinyClusterWarning, match="4 of 4 clusters have fewer than 6 rows"):
        kept, small = without_small_clusters(LABELS, 6, "keep", rows=ROWS)
    np.testing.assert_array_equal(kept, LABELS)
    assert small.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
def test_without_rows_small_clusters_follow_the_mean_affinity(make):
    labels = np.array([0, 0, 0, 1, 1, 2, 3])
    affinity = np.zeros((7, 7))
    affinity[5, [3, 4]] = 0.3
    affinity[5, [0, 1, 2]] = 0.25
    # 0.3 on average to cluster 1, 0.25 to cluster 0, though its sum is larger; nothing to any for the last row.
    merged = merge_into_nearest(labels, np.array([2, 3]), affinity=make(affinity + affinity.T))
    assert merged.tolist() == [0, 0, 0, 1, 1, 1, 0]


def sliver_data():
    X, y = make_blobs([120, 80, 6], centers=[[0] * 4, [30] * 4, [24] * 4], cluster_std=0.5, random_state=0)
    return X, y


@pytest.mark.parametrize(
    "make",
    [
        lambda **size: EigengapSpectralClustering(3, n_neighbors=5, **size),
        lambda **size: OverclusteringKMeans(3, random_state=0, **size),
    ],
)
def test_estimators_apply_the_policy_to_training_and_new_rows(make):
    X, y = sliver_data()
    np.testing.assert_array_equal(make().fit(X).labels_, y)
    merged = make(min_cluster_size=10).fit(X)
    np.testing.assert_array_equal(merged.labels_, np.minimum(y, 1))
    assert (merged.n_clusters_, merged.n_small_clusters_) == (2, 1)
    assert merged.predict([[24.1] * 4, [0.1] * 4]).tolist() == [1, 0]
    marked = make(min_cluster_size=0.05, small_clusters="mark").fit(X)
    np.testing.assert_array_equal(marked.labels_, np.where(y == 2, -1, y))
    assert marked.predict([[24.1] * 4, [0.1] * 4]).tolist() == [-1, 0]
    with pytest.warns(TinyClusterWarning):
        make(min_cluster_size=10, small_clusters="keep").fit(X)
