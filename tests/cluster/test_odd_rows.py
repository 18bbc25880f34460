"""Rows at the edge of what can be clustered: the right clusters, or an error that says what is wrong."""

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans

from skexmap._blocks import make_blocks
from skexmap.cluster import EigengapSpectralClustering, SilhouetteKMeans
from skexmap.exceptions import ClusteringWarning
from skexmap.groups import PseudoGroupLabeler

# Two kinds of rows, far apart.
KIND = np.arange(60) % 2
ROWS = np.random.default_rng(0).normal(size=(60, 4)) + 40.0 * KIND[:, None]
CLUSTERERS = {
    "eigengap": EigengapSpectralClustering(n_neighbors=6),
    "silhouette": SilhouetteKMeans(max_clusters=4, n_init=2, random_state=0),
    "labeler": PseudoGroupLabeler(EigengapSpectralClustering(n_neighbors=6), merge_alpha=None),
    "labeler without predict": PseudoGroupLabeler(AgglomerativeClustering(2), merge_alpha=None),
}


def read_only(rows):
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


def clusters_of(clusterer, rows):
    if isinstance(clusterer, PseudoGroupLabeler):
        return clusterer.fit(rows, np.arange(len(rows)) // 2 % 2).cluster_labels_
    return clusterer.fit_predict(rows)


@pytest.mark.parametrize(
    "make",
    [
        np.float16,
        lambda rows: rows.astype(object),
        lambda rows: rows.tolist(),
        read_only,
        lambda rows: rows[::-1, ::-1].copy()[::-1, ::-1],
        lambda rows: np.asfortranarray(rows),
        torch.from_numpy,
        lambda rows: torch.from_numpy(rows).float().requires_grad_(),
        lambda rows: torch.from_numpy(rows).requires_grad_() * 2,
    ],
    ids=["half", "object", "list", "read-only", "strides", "Fortran", "tensor", "parameter", "in a graph"],
)
@pytest.mark.parametrize("name", CLUSTERERS)
def test_the_form_of_the_rows_changes_no_cluster(name, make):
    np.testing.assert_array_equal(clusters_of(CLUSTERERS[name], make(ROWS)), KIND)


@pytest.mark.parametrize("name", ["eigengap", "labeler", "labeler without predict"])
def test_blocks_without_rows_are_refused(name):
    blocks = make_blocks(embedding=np.empty((0, 3)), heatmap=np.empty((0, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"0 (samples|sample\(s\))"):
        clusters_of(CLUSTERERS[name], blocks)


@pytest.mark.parametrize("value", [0, 0.3, -1e30])
@pytest.mark.parametrize("n, dtype", [(7, np.float32), (60, np.float32), (600, np.float64)])
def test_equal_rows_are_one_cluster_with_a_warning(n, dtype, value):
    rows = np.full((n, 4), value, dtype=dtype)
    for clusterer in (EigengapSpectralClustering(), SilhouetteKMeans()):
        with pytest.warns(ClusteringWarning, match=f"All {n} rows are identical: they form one cluster"):
            labels = clusterer.fit_predict(rows)
        assert labels.tolist() == [0] * n
    assert clusterer.silhouettes_ == {}
    with pytest.warns(ClusteringWarning, match="identical"):
        assert PseudoGroupLabeler().fit(rows, np.arange(n) % 2, np.arange(n) % 2).n_clusters_ == 1


@pytest.mark.parametrize("factor", [1e-138, 1e148])
@pytest.mark.parametrize("name", CLUSTERERS)
def test_values_inside_the_stated_range_are_clustered(name, factor):
    np.testing.assert_array_equal(clusters_of(CLUSTERERS[name], ROWS * factor), KIND)


def test_a_new_row_may_be_tiny_but_not_huge():
    labeler = CLUSTERERS["labeler"].fit(ROWS, KIND)
    np.testing.assert_array_equal(
        labeler.transform(np.full((1, 4), 1e-300)), labeler.transform(np.zeros((1, 4)))
    )
    with pytest.raises(ValueError, match="largest absolute value"):
        labeler.transform(np.full((1, 4), 1e155))


@pytest.mark.parametrize(
    "rows, message",
    [
        (ROWS[:1], r"Found array with 1 sample\(s\)"),
        (ROWS[:0], r"Found array with 0 sample\(s\)"),
        (ROWS[:, :0], r"Found array with 0 feature\(s\)"),
        (ROWS.reshape(60, 2, 2), "Found array with dim 3"),
        (np.full((60, 2), "a", dtype=object), "could not convert string to float"),
        (np.where(ROWS > 41, np.nan, ROWS), "Input X contains NaN"),
        (np.where(ROWS > 41, np.inf, ROWS), "Input X contains infinity"),
        (
            np.where(ROWS.max() == ROWS, 1e155, ROWS),
            r"largest absolute value .* is 1e\+155.*leave the range of float64",
        ),
        (np.where(ROWS.max() == ROWS, -1e300, ROWS), r"largest absolute value .* is 1e\+300"),
        (ROWS * 1e-300, r"largest absolute value .*e-299.*Scale the rows"),
    ],
)
@pytest.mark.parametrize("name", CLUSTERERS)
def test_rows_that_cannot_be_clustered_are_refused(name, rows, message):
    with pytest.raises(ValueError, match=message):
        clusters_of(CLUSTERERS[name], rows)


@pytest.mark.parametrize(
    "clusterer, message",
    [
        (EigengapSpectralClustering(61), "n_clusters=61 is too large for 60 samples"),
        (SilhouetteKMeans(61, 70), "min_clusters=61 is too large for 60 samples"),
        (
            PseudoGroupLabeler(KMeans(61), merge_alpha=None),
            r"Clustering the rows \(60 samples\) failed: .*61",
        ),
    ],
)
def test_more_clusters_than_rows_are_refused(clusterer, message):
    with pytest.raises(ValueError, match=message):
        clusters_of(clusterer, ROWS)


def test_as_many_clusters_as_rows_are_one_each():
    assert sorted(EigengapSpectralClustering(60).fit_predict(ROWS)) == list(range(60))
