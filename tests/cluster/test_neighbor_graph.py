"""The graph of neighbors: its affinities, the neighbors read from a graph of distances, and the vote of neighbors."""

import numpy as np
import pytest
from scipy import sparse

from skexmap.cluster._neighbor_graph import log_neighbors, nearest_in_graph, symmetric_graph, vote


def test_the_number_of_neighbors_is_the_floor_of_the_logarithm_and_at_least_2():
    assert [log_neighbors(n) for n in (2, 20, 21, 20_000)] == [2, 2, 3, 9]


def test_the_affinity_is_1_between_mutual_neighbors_and_one_half_if_only_one_names_the_other():
    affinity = symmetric_graph(np.array([[0, 1], [1, 0], [2, 1]])).toarray()
    assert affinity.tolist() == [[1, 1, 0], [1, 1, 0.5], [0, 0.5, 1]]


def test_the_nearest_of_a_graph_of_distances_come_in_order_with_ties_by_index_and_zeros_counted():
    rows = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    columns = [2, 0, 1, 1, 2, 0, 2, 0, 1]
    values = [0.5, 0.0, 0.5, 0.0, 0.0, 0.7, 0.0, 2.0, 1.0]
    graph = sparse.csr_array((values, (rows, columns)), shape=(3, 3))
    assert nearest_in_graph(graph, 2).tolist() == [[0, 1], [1, 2], [2, 1]]
    assert nearest_in_graph(graph, 2, exclude_self=True).tolist() == [[1, 2], [2, 0], [1, 0]]


def test_rows_with_too_few_neighbors_are_counted_in_the_error():
    graph = sparse.csr_array(np.eye(4) + np.diag([1, 1], 2))
    with pytest.raises(ValueError, match=r"2 of 4 rows .* fewer than 2 neighbors \(smallest: 1\)"):
        nearest_in_graph(graph, 2)


def test_a_dense_graph_is_refused_because_its_zeros_may_be_distances():
    with pytest.raises(TypeError, match=r"returned a dense ndarray.* sparse graph of distances"):
        nearest_in_graph(np.ones((3, 3)), 1)


def test_the_vote_goes_to_the_most_frequent_label_and_ties_to_the_nearest():
    labels = np.array([[2, 0, 0], [1, 0, 2], [3, 1, 3]])
    assert vote(labels).tolist() == [0, 1, 3]
