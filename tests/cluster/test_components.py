"""More connected components than clusters: which ones join which."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import make_blobs

from skexmap.cluster import EigengapSpectralClustering, OverclusteringKMeans
from skexmap.cluster._components import merge_into_nearest


def test_surplus_clusters_join_as_a_whole_the_cluster_with_the_nearest_mean():
    # Of cluster 2 (8 on average) one row is nearer to the mean of cluster 0 (0), the other to that of cluster 1 (10).
    rows = np.array([[0.0]] * 5 + [[10.0]] * 4 + [[4.0], [12.0]] + [[1.0]])
    labels = np.repeat([0, 1, 2, 3], [5, 4, 2, 1])
    merged = merge_into_nearest(labels, np.array([2, 3]), rows=rows)
    assert merged.tolist() == [0] * 5 + [1] * 6 + [0]


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
def test_without_rows_surplus_clusters_follow_the_mean_affinity(make):
    labels = np.array([0, 0, 0, 1, 1, 2, 3])
    affinity = np.zeros((7, 7))
    affinity[5, [3, 4]] = 0.3
    affinity[5, [0, 1, 2]] = 0.25
    # 0.3 on average to cluster 1, 0.25 to cluster 0, though its sum is larger; nothing to any for the last row.
    merged = merge_into_nearest(labels, np.array([2, 3]), affinity=make(affinity + affinity.T))
    assert merged.tolist() == [0, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "clusterer",
    [EigengapSpectralClustering(3, n_neighbors=5), OverclusteringKMeans(3, random_state=0)],
    ids=lambda clusterer: type(clusterer).__name__,
)
def test_a_sliver_is_a_cluster_like_any_other_for_training_and_new_rows(clusterer):
    X, y = make_blobs([120, 80, 6], centers=[[0] * 4, [30] * 4, [24] * 4], cluster_std=0.5, random_state=0)
    np.testing.assert_array_equal(clusterer.fit(X).labels_, y)
    assert clusterer.n_clusters_ == 3
    assert clusterer.predict([[24.1] * 4, [0.1] * 4, [30.1] * 4]).tolist() == [2, 0, 1]
