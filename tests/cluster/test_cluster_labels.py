"""The numbers of clusters, their mean rows, and clusters that join the nearest one."""

import numpy as np

from skexmap.cluster._cluster_labels import cluster_means, keep_largest, renumber_by_size


def test_clusters_are_numbered_by_size_and_then_by_first_member():
    labels = np.array([7, 3, 3, -1, 5, 7, 3, 5])
    assert renumber_by_size(labels).tolist() == [1, 0, 0, -1, 2, 1, 0, 2]
    assert renumber_by_size(np.array([-1, -1])).tolist() == [-1, -1]


def test_the_means_of_clusters_are_those_of_their_members_over_several_blocks_of_rows():
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((3000, 4)).astype(np.float32), rng.integers(-1, 3, size=3000)
    expected = [rows[labels == c].astype(np.float64).mean(axis=0) for c in range(3)]
    np.testing.assert_allclose(cluster_means(rows, labels), expected, rtol=1e-10)


def test_surplus_clusters_join_as_a_whole_the_cluster_with_the_nearest_mean():
    # Of cluster 2 (8 on average) one row is nearer to the mean of cluster 0 (0), the other to that of cluster 1 (10).
    rows = np.array([[0.0]] * 5 + [[10.0]] * 4 + [[4.0], [12.0]] + [[1.0]])
    labels = np.repeat([0, 1, 2, 3], [5, 4, 2, 1])
    assert keep_largest(labels, 2, rows).tolist() == [0] * 5 + [1] * 6 + [0]
    assert keep_largest(labels, 4, rows).tolist() == labels.tolist()
