"""EigengapSpectralClustering: what it finds, what it predicts, and what it refuses."""

import numpy as np
import pytest
from scipy import linalg
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import (
    KNeighborsTransformer,
    NearestNeighbors,
    RadiusNeighborsTransformer,
    kneighbors_graph,
)
from sklearn.pipeline import make_pipeline

from skexmap._blocks import block_names, get_block, make_blocks
from skexmap.cluster import EigengapSpectralClustering
from skexmap.exceptions import ClusteringWarning


def blobs(n=300, centers=3, seed=0, **kwargs):
    return make_blobs(n, centers=centers, n_features=8, random_state=seed, **kwargs)


def two_moons_bridge(n=400, seed=0):
    """Return two overlapping blobs whose neighbor graph is connected."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    X[: n // 2, 0] += 4.5
    return X, (np.arange(n) < n // 2).astype(int)


@pytest.mark.parametrize("centers", [2, 3, 5, 10])
def test_separated_blobs_are_found_with_their_number_and_a_clear_margin(centers):
    X, y = blobs(centers=centers, center_box=(-40, 40))
    clusterer = EigengapSpectralClustering(n_neighbors=12).fit(X)
    assert clusterer.n_clusters_ == clusterer.n_connected_components_ == centers
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    assert clusterer.eigengap_margin_ > 0.5


def test_the_fit_equals_a_straight_line_script():
    X, _ = two_moons_bridge()
    clusterer = EigengapSpectralClustering().fit(X)
    k = int(np.log(len(X)))
    A = kneighbors_graph(X, k, include_self=True).toarray()
    A = (A + A.T) / 2
    np.fill_diagonal(A, 0)
    d = A.sum(axis=1)
    L = np.eye(len(X)) - A / np.sqrt(d[:, None] * d[None, :])
    eigenvalues = linalg.eigvalsh(L)[:11]
    np.testing.assert_allclose(clusterer.eigenvalues_, eigenvalues, atol=1e-9)
    np.testing.assert_allclose(clusterer.eigengaps_, np.diff(eigenvalues), atol=1e-9)
    assert clusterer.n_clusters_ == 2 + np.diff(eigenvalues)[1:].argmax()
    affinity = clusterer.affinity_matrix_.toarray()
    np.fill_diagonal(affinity, 0)
    np.testing.assert_array_equal(affinity, A)


@pytest.mark.parametrize("n", [200, 900])
def test_labels_equal_those_of_scikit_learn_given_the_right_k(n):
    X, y = two_moons_bridge(n)
    ours = EigengapSpectralClustering(n_clusters=2, n_neighbors=8).fit(X)
    theirs = SpectralClustering(
        2, affinity="nearest_neighbors", n_neighbors=8, assign_labels="cluster_qr", random_state=0
    ).fit(X)
    assert ours.n_connected_components_ == 1
    assert adjusted_rand_score(theirs.labels_, ours.labels_) == 1
    assert adjusted_rand_score(y, ours.labels_) > 0.9


def test_one_cluster_is_an_answer_when_min_clusters_allows_it():
    X = np.random.default_rng(0).standard_normal((300, 10))
    one = EigengapSpectralClustering(min_clusters=1, n_neighbors=150).fit(X)
    assert one.n_clusters_ == 1
    assert (one.labels_ == 0).all()
    assert (one.predict(X) == 0).all()
    assert EigengapSpectralClustering(n_neighbors=150).fit(X).n_clusters_ >= 2


def test_more_components_than_max_clusters_become_the_clusters_with_a_named_warning():
    X, y = blobs(n=260, centers=13, center_box=(-100, 100), cluster_std=0.1)
    with pytest.warns(ClusteringWarning, match=r"13 connected components, more than max_clusters=10"):
        clusterer = EigengapSpectralClustering(n_neighbors=10).fit(X)
    assert clusterer.n_clusters_ == 13
    assert clusterer.eigengap_margin_ == 0
    assert adjusted_rand_score(y, clusterer.labels_) == 1


def test_fewer_clusters_than_components_join_the_small_ones_to_the_nearest():
    X = np.concatenate(
        [np.zeros((20, 2)), np.full((15, 2), 100.0), np.full((5, 2), 90.0), np.full((4, 2), 1.0)]
    )
    X += np.random.default_rng(0).random(X.shape) / 10
    with pytest.warns(ClusteringWarning, match="more than n_clusters=2"):
        clusterer = EigengapSpectralClustering(2, n_neighbors=4).fit(X)
    assert clusterer.labels_.tolist() == [0] * 20 + [1] * 20 + [0] * 4
    assert clusterer.n_clusters_ == 2
    # New rows follow the component that they are near to.
    assert clusterer.predict([[90.05, 90.05], [1.05, 1.05]]).tolist() == [1, 0]


@pytest.mark.parametrize("n", [200, 1500])
def test_predict_agrees_with_labels_on_the_training_rows(n):
    X, _ = two_moons_bridge(n)
    clusterer = EigengapSpectralClustering().fit(X)
    np.testing.assert_array_equal(clusterer.predict(X), clusterer.labels_)


def test_new_rows_get_the_majority_of_their_neighbors():
    X, y = blobs(n=600, centers=3, center_box=(-30, 30))
    clusterer = EigengapSpectralClustering(n_neighbors=9).fit(X[:400])
    neighbors = NearestNeighbors(n_neighbors=9).fit(X[:400]).kneighbors(X[400:], return_distance=False)
    expected = [np.bincount(row).argmax() for row in clusterer.labels_[neighbors]]
    np.testing.assert_array_equal(clusterer.predict(X[400:]), expected)
    assert adjusted_rand_score(y[400:], clusterer.predict(X[400:])) == 1


@pytest.mark.parametrize("n", [200, 900])
def test_another_seed_gives_the_same_clusters_even_on_noise_for_the_dense_and_the_iterative_solver(n):
    X = np.random.default_rng(0).standard_normal((n, 20))
    fits = [EigengapSpectralClustering(6, random_state=seed).fit(X) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(fits[0].eigenvalues_, fits[1].eigenvalues_)
    for other in fits[1:]:
        np.testing.assert_array_equal(other.labels_, fits[0].labels_)


NEIGHBORS = {
    "distances": KNeighborsTransformer(n_neighbors=7),
    "more neighbors than needed": KNeighborsTransformer(n_neighbors=12),
    "a pipeline": make_pipeline(PCA(4), KNeighborsTransformer(n_neighbors=12)),
    "within a radius": RadiusNeighborsTransformer(radius=5.0),
}


@pytest.mark.parametrize("neighbors", NEIGHBORS.values(), ids=NEIGHBORS)
def test_exact_neighbors_from_a_transformer_give_the_same_clusters_and_predictions(neighbors):
    X, _ = two_moons_bridge(500)
    X[:, 1:] /= 3
    rows, new = X[:400], X[400:]
    plain = EigengapSpectralClustering(n_neighbors=8).fit(rows)
    clusterer = EigengapSpectralClustering(n_neighbors=8, neighbors=neighbors).fit(rows)
    np.testing.assert_allclose(clusterer.affinity_matrix_.diagonal(), 0)
    np.testing.assert_allclose(clusterer.eigenvalues_, plain.eigenvalues_, atol=1e-9)
    np.testing.assert_array_equal(clusterer.labels_, plain.labels_)
    np.testing.assert_array_equal(clusterer.predict(rows), plain.labels_)
    np.testing.assert_array_equal(clusterer.predict(new), plain.predict(new))


def test_precomputed_distances_give_the_same_clusters_and_predictions():
    X, _ = two_moons_bridge(500)
    distances = euclidean_distances(X, X[:400])
    plain = EigengapSpectralClustering(n_neighbors=8).fit(X[:400])
    neighbors = KNeighborsTransformer(n_neighbors=8, metric="precomputed")
    clusterer = EigengapSpectralClustering(n_neighbors=8, neighbors=neighbors).fit(distances[:400])
    np.testing.assert_array_equal(clusterer.labels_, plain.labels_)
    np.testing.assert_array_equal(clusterer.predict(distances), plain.predict(X))


def test_a_transformer_brings_another_metric():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    # Two directions, at any length: the angle tells them apart, the distance does not.
    directions = np.eye(20)[y] + 0.2 * rng.standard_normal((200, 20))
    X = directions * rng.uniform(0.05, 10, size=(200, 1))
    cosine = KNeighborsTransformer(n_neighbors=20, metric="cosine")
    clusterer = EigengapSpectralClustering(n_neighbors=15, neighbors=cosine).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    assert adjusted_rand_score(y, EigengapSpectralClustering(n_neighbors=15).fit_predict(X)) < 0.5
    # A clone was fitted.
    assert not hasattr(cosine, "n_features_in_")
    assert clusterer.neighbors_.n_features_in_ == 20


@pytest.mark.slow
def test_approximate_neighbors_give_the_clusters_of_exact_ones():
    pynndescent = pytest.importorskip("pynndescent")
    X, y = make_blobs([600, 300, 100], n_features=20, cluster_std=1.5, random_state=0)
    neighbors = pynndescent.PyNNDescentTransformer(n_neighbors=15, random_state=0)
    clusterer = EigengapSpectralClustering(neighbors=neighbors).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    np.testing.assert_array_equal(clusterer.predict(X), clusterer.labels_)
    plain = EigengapSpectralClustering().fit(X).affinity_matrix_
    found = clusterer.affinity_matrix_.multiply(plain).sum() / (plain.multiply(plain).sum() - len(X))
    assert found > 0.95


def test_a_transformer_works_if_all_outputs_are_data_frames():
    pytest.importorskip("pandas")
    X, y = blobs(centers=3, center_box=(-30, 30))
    with config_context(transform_output="pandas"):
        clusterer = EigengapSpectralClustering(neighbors=KNeighborsTransformer(n_neighbors=9))
        out = clusterer.fit_transform(X)
        assert list(out.columns) == ["cluster_0"]
        np.testing.assert_array_equal(clusterer.transform(X), out)
    assert adjusted_rand_score(y, out["cluster_0"]) == 1


@pytest.fixture
def blocks():
    X, _ = blobs(n=120, centers=2, center_box=(-20, 20))
    heatmap = X.reshape(-1, 2, 2, 2).astype(np.float32)
    return make_blocks(embedding=np.arange(360.0).reshape(120, 3), heatmap=heatmap)


def test_the_heatmap_block_becomes_the_cluster_block_and_the_embedding_passes(blocks):
    clusterer = EigengapSpectralClustering(n_neighbors=8)
    out = clusterer.fit_transform(blocks)
    assert block_names(out) == ("embedding", "cluster")
    np.testing.assert_array_equal(get_block(out, "cluster", required_by=None), clusterer.labels_)
    np.testing.assert_array_equal(out["embedding"], blocks["embedding"])
    np.testing.assert_array_equal(clusterer.transform(blocks[::2]), out[::2])
    flat = blocks["heatmap"].reshape(len(blocks), -1)
    np.testing.assert_array_equal(clone(clusterer).fit_predict(flat), clusterer.labels_)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_blocks_come_out_as_the_columns_of_a_frame_and_frames_go_in(blocks, container):
    library = pytest.importorskip(container)
    names = [f"embedding_{i}" for i in range(3)] + [f"heatmap_{i}" for i in range(8)]
    columns = np.hstack([blocks["embedding"], blocks["heatmap"].reshape(120, -1)])
    frame = library.DataFrame(dict(zip(names, columns.T, strict=True)))
    for X in (blocks, frame):
        clusterer = EigengapSpectralClustering(n_neighbors=8).set_output(transform=container)
        out = clusterer.fit_transform(X)
        assert isinstance(out, library.DataFrame)
        assert list(out.columns) == ["embedding_0", "embedding_1", "embedding_2", "cluster_0"]
        assert list(clusterer.get_feature_names_out()) == list(out.columns)
        np.testing.assert_array_equal(get_block(out, "cluster", required_by=None), clusterer.labels_)
        assert clusterer.transform(X).equals(out)


def test_blocks_in_a_memory_map_are_clustered_like_those_in_memory(blocks, tmp_path):
    np.save(tmp_path / "blocks.npy", blocks)
    mapped = np.load(tmp_path / "blocks.npy", mmap_mode="r")
    out = EigengapSpectralClustering(n_neighbors=8).fit_transform(mapped)
    np.testing.assert_array_equal(out, EigengapSpectralClustering(n_neighbors=8).fit_transform(blocks))


def test_two_repeated_points_are_two_clusters():
    X = np.repeat([[0.0, 0.0], [1.0, 1.0]], [40, 20], axis=0)
    labels = EigengapSpectralClustering().fit_predict(X)
    assert labels.tolist() == [0] * 40 + [1] * 20


X_GOOD = np.random.default_rng(0).standard_normal((30, 3))


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_neighbors": 31}, r"n_neighbors=31 counts the row itself and needs .* n_samples = 30"),
        ({"min_clusters": 5, "max_clusters": 4}, "min_clusters=5 is greater than max_clusters=4"),
        ({"min_clusters": 30, "max_clusters": 40}, "min_clusters=30 is too large for 30 samples"),
        ({"n_clusters": 0}, "'n_clusters' parameter"),
        ({"n_neighbors": 1}, "'n_neighbors' parameter"),
        ({"neighbors": PCA(2)}, "must return a sparse graph of distances"),
        ({"neighbors": "approximate"}, "'neighbors' parameter"),
        (
            {"neighbors": KNeighborsTransformer(n_neighbors=3), "n_neighbors": 6},
            "30 of 30 rows in the graph of `neighbors` have fewer than 5 neighbors",
        ),
        (
            {"neighbors": KNeighborsTransformer(mode="connectivity")},
            "every row is as far from itself as from its neighbors.*distances",
        ),
        (
            {"neighbors": KNeighborsTransformer(), "n_jobs": 2},
            "n_jobs=2 has no effect, because KNeighborsTransformer searches",
        ),
    ],
)
def test_eigengap_clustering_refuses_bad_input_with_what_and_how_many(params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EigengapSpectralClustering(**params).fit(X_GOOD)
