"""OverclusteringKMeans: the number of clusters, the reductions, new rows and refusals."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from skexmap._blocks import make_blocks
from skexmap.cluster import OverclusteringKMeans
from skexmap.exceptions import ConstantInputWarning
from skexmap.groups import PseudoGroupLabeler


def blobs(centers=4, n=200):
    return make_blobs(n, centers=centers, n_features=6, center_box=(-20, 20), random_state=1)


def test_the_silhouette_chooses_the_number_of_blobs():
    X, y = blobs()
    clusterer = OverclusteringKMeans((2, 7), n_init=3, random_state=0).fit(X)
    assert clusterer.n_clusters_ == 4
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    assert sorted(clusterer.silhouettes_) == [2, 3, 4, 5, 6, 7]
    assert clusterer.silhouettes_[4] == pytest.approx(silhouette_score(X, y))


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.IrreproducibleClustersWarning")
def test_a_given_number_is_scikit_learns_kmeans_numbered_by_size():
    X, _ = blobs()
    clusterer = OverclusteringKMeans(8, random_state=0).fit(X)
    by_hand = KMeans(8, n_init=10, random_state=np.random.RandomState(0).randint(np.iinfo(np.int32).max)).fit(
        X
    )
    assert adjusted_rand_score(by_hand.labels_, clusterer.labels_) == 1
    assert (np.diff(np.bincount(clusterer.labels_)) <= 0).all()
    assert clusterer.silhouettes_ == {}
    np.testing.assert_array_equal(clusterer.predict(X), clusterer.labels_)


def test_pca_clusters_the_first_components():
    X, _ = blobs()
    clusterer = OverclusteringKMeans(3, reduce="pca", n_components=2, random_state=0).fit(X)
    points = PCA(2).fit_transform(X)
    assert (
        adjusted_rand_score(KMeans(3, n_init=10, random_state=0).fit_predict(points), clusterer.labels_) == 1
    )
    np.testing.assert_array_equal(clusterer.predict(X), clusterer.labels_)


def test_mini_batches_find_the_blobs_too():
    X, y = blobs()
    clusterer = OverclusteringKMeans(4, batch_size=64, random_state=0).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) == 1


def test_george_clusters_the_embeddings_of_each_class():
    X, y = blobs()
    labeler = PseudoGroupLabeler(
        OverclusteringKMeans((2, 4), n_init=2), scope="local", block="embedding", merge_alpha=None
    )
    out = labeler.fit_transform(make_blocks(embedding=np.abs(X), heatmap=X), y % 2)
    assert out["cluster"].shape == (200, 2)
    # Blobs 0 and 2 are the two clusters of class 0, blobs 1 and 3 those of class 1.
    assert labeler.n_clusters_per_class_.tolist() == [2, 2]
    assert adjusted_rand_score(y, labeler.group_labels_) == 1


@pytest.mark.slow
def test_umap_separates_blobs_and_its_training_rows_keep_their_labels():
    pytest.importorskip("umap")
    X, y = blobs(n=120)
    clusterer = OverclusteringKMeans(4, reduce="umap", random_state=0).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    np.testing.assert_array_equal(clusterer.predict(X[10:40]), clusterer.labels_[10:40])
    assert (clusterer.predict(X + 1e-6) == clusterer.labels_).mean() > 0.95


def test_umap_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install umap-learn"):
        OverclusteringKMeans(2, reduce="umap").fit(blobs()[0])


def test_one_repeated_point_is_one_cluster_with_a_named_warning():
    with pytest.warns(ConstantInputWarning, match="All 20 rows are identical"):
        clusterer = OverclusteringKMeans().fit(np.ones((20, 3)))
    assert clusterer.n_clusters_ == 1


def test_a_range_ends_before_every_row_is_a_cluster():
    X = np.array([[0.0], [0.1], [5.0], [5.1]])
    clusterer = OverclusteringKMeans((2, 15), random_state=0).fit(X)
    assert sorted(clusterer.silhouettes_) == [2, 3]
    assert clusterer.labels_.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_clusters": 5}, "n_clusters=5 is too many for 4 samples"),
        ({"n_clusters": (4, 2)}, r"n_clusters=\(4, 2\) is an empty range"),
        ({"n_clusters": "eigengap"}, "'n_clusters' parameter"),
        ({"n_clusters": (2, 3, 4)}, r"n_clusters=\(2, 3, 4\) is no range"),
        ({"n_clusters": (2, 3.5)}, r"n_clusters=\(2, 3.5\) is no range"),
        ({"n_clusters": (None, 3)}, r"n_clusters=\(None, 3\) is no range"),
        ({"reduce": "tsne"}, "'reduce' parameter"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        OverclusteringKMeans(**params).fit(np.eye(4))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="Input X contains NaN"):
        OverclusteringKMeans(2).fit([[np.nan], [1.0]])
