"""SilhouetteKMeans: the number of clusters, pipelines that reduce the rows first, and refusals."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.pipeline import make_pipeline

from skexmap._blocks import make_blocks
from skexmap.cluster import SilhouetteKMeans, _silhouette_kmeans
from skexmap.groups import PseudoGroupLabeler


def blobs(centers=4, n=200):
    return make_blobs(n, centers=centers, n_features=6, center_box=(-20, 20), random_state=1)


def test_the_silhouette_chooses_the_number_of_blobs():
    X, y = blobs()
    clusterer = SilhouetteKMeans(2, 7, n_init=3, random_state=0).fit(X)
    assert clusterer.n_clusters_ == 4
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    assert sorted(clusterer.silhouettes_) == [2, 3, 4, 5, 6, 7]
    assert clusterer.silhouettes_[4] == pytest.approx(silhouette_score(X, y))


def test_labels_and_silhouettes_equal_a_straight_line_script_and_cluster_0_is_the_largest(monkeypatch):
    monkeypatch.setattr(_silhouette_kmeans, "SILHOUETTE_ROWS", 90)
    X = np.random.default_rng(0).standard_normal((120, 3))
    clusterer = SilhouetteKMeans(3, 5, n_init=2, random_state=7).fit(X)
    seed = np.random.RandomState(7).randint(np.iinfo(np.int32).max)
    sample = np.random.RandomState(seed).permutation(120)[:90]
    labels = {k: KMeans(k, n_init=2, random_state=seed).fit(X).labels_ for k in (3, 4, 5)}
    silhouettes = {k: silhouette_score(X[sample], labels[k][sample]) for k in (3, 4, 5)}
    assert clusterer.silhouettes_ == pytest.approx(silhouettes)
    assert clusterer.n_clusters_ == max(silhouettes, key=silhouettes.get)
    assert adjusted_rand_score(labels[clusterer.n_clusters_], clusterer.labels_) == 1
    assert (np.diff(np.bincount(clusterer.labels_)) <= 0).all()


def test_george_clusters_the_embeddings_of_each_class():
    X, y = blobs()
    labeler = PseudoGroupLabeler(
        SilhouetteKMeans(2, 4, n_init=2), scope="local", block="embedding", merge_alpha=None
    )
    out = labeler.fit_transform(make_blocks(embedding=np.abs(X), heatmap=X), y % 2)
    assert out["cluster"].shape == (200, 2)
    # Blobs 0 and 2 are the two clusters of class 0, blobs 1 and 3 those of class 1.
    assert labeler.n_clusters_per_class_.tolist() == [2, 2]
    assert adjusted_rand_score(y, labeler.group_labels_) == 1


def test_a_pipeline_clusters_the_reduced_rows_and_new_rows_follow_their_nearest_training_row():
    X, y = blobs()
    pipeline = make_pipeline(PCA(2), SilhouetteKMeans(2, 6, n_init=2, random_state=0))
    alone = SilhouetteKMeans(2, 6, n_init=2, random_state=0).fit(PCA(2).fit_transform(X[:150]))
    labeler = PseudoGroupLabeler(pipeline, merge_alpha=None).fit(X[:150], y[:150] % 2)
    np.testing.assert_array_equal(labeler.cluster_labels_, alone.labels_)
    nearest = ((X[150:, None] - X[None, :150]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(labeler.transform(X[150:])[:, 0], alone.labels_[nearest])


@pytest.mark.slow
def test_training_rows_keep_their_clusters_after_a_umap_in_the_labeler():
    umap = pytest.importorskip("umap")
    X, y = blobs(n=120)
    # With a seed, UMAP runs on one thread, and warns unless that is set.
    clusterer = make_pipeline(umap.UMAP(random_state=0, n_jobs=1), SilhouetteKMeans(3, 5, random_state=0))
    labeler = PseudoGroupLabeler(clusterer, merge_alpha=None).fit(X, y % 2)
    assert adjusted_rand_score(y, labeler.cluster_labels_) == 1
    np.testing.assert_array_equal(labeler.transform(X[10:40])[:, 0], labeler.cluster_labels_[10:40])
    np.testing.assert_array_equal(labeler.transform(X + 1e-6)[:, 0], labeler.cluster_labels_)


def test_the_numbers_tried_end_before_every_row_is_a_cluster():
    X = np.array([[0.0], [0.1], [5.0], [5.1]])
    clusterer = SilhouetteKMeans(random_state=0).fit(X)
    assert sorted(clusterer.silhouettes_) == [2, 3]
    assert clusterer.labels_.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "params, X, message",
    [
        ((4, 6), np.eye(4), "min_clusters=4 is too large for 4 samples"),
        ((4, 2), np.eye(4), "min_clusters=4 is greater than max_clusters=2"),
        ((1, 2), np.eye(4), "'min_clusters' parameter"),
        ((2, 3.5), np.eye(4), "'max_clusters' parameter"),
    ],
)
def test_silhouette_kmeans_refuses_bad_input_with_what_and_how_many(params, X, message):
    with pytest.raises(ValueError, match=message):
        SilhouetteKMeans(*params).fit(X)
