"""The policy for small clusters."""

import numpy as np
import pytest

from skexmap.cluster._sizes import smallest_size, without_small_clusters
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
