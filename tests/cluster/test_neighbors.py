"""The blocked search against scikit-learn's brute force, on easy rows and on nasty ones."""

import numpy as np
import pytest

from skexmap.cluster import _neighbors
from skexmap.cluster._neighbors import augmented_block, first_repeats, float32_error, nearest_rows


def by_definition(X, k, Y=None):
    """Return the neighbors from the full float64 distance matrix, ties by index."""
    X = X.astype(np.float64)
    Y = X if Y is None else Y.astype(np.float64)
    squares = ((Y[:, None, :] - X[None, :, :]) ** 2).sum(axis=2)
    return np.argsort(squares, axis=1, kind="stable")[:, :k]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Make a few hundred rows several blocks."""
    monkeypatch.setattr(_neighbors, "BLOCK", 64)
    monkeypatch.setattr(_neighbors, "CHUNK", 20_000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, k", [(3, 2), (64, 5), (65, 1), (300, 7), (301, 40)])
def test_neighbors_are_those_of_the_full_distance_matrix(dtype, n, k):
    X = np.random.default_rng(0).standard_normal((n, 12)).astype(dtype)
    np.testing.assert_array_equal(nearest_rows(X, k), by_definition(X, k))
    Y = np.random.default_rng(1).standard_normal((90, 12)).astype(dtype)
    np.testing.assert_array_equal(nearest_rows(X, k, Y=Y), by_definition(X, k, Y))


def nasty_rows(kind):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6))
    if kind == "integers with many ties":
        return rng.integers(0, 3, (200, 6)).astype(np.float64)
    if kind == "far from the origin":
        return X + 1e7
    if kind == "an outlier that leaves float32 no digits":
        X[0] = 1e9
    if kind == "a crowd of copies":
        X[50:120] = X[7]
    if kind == "two crowds and signed zeros":
        X[50:120] = 0.0
        X[80:90] = -0.0
        X[130:150] = 1.0
    if kind == "tiny numbers":
        X *= 1e-30
    if kind == "huge numbers":
        X *= 1e30
    if kind == "a crowd that vanishes beside the others":
        X[50:120] *= 1e-20
    return X


NASTY = [
    "integers with many ties",
    "far from the origin",
    "an outlier that leaves float32 no digits",
    "a crowd of copies",
    "two crowds and signed zeros",
    "tiny numbers",
    "huge numbers",
    "a crowd that vanishes beside the others",
]


@pytest.mark.parametrize("kind", NASTY)
def test_nasty_rows_have_exact_neighbors_too(kind):
    X = nasty_rows(kind)
    np.testing.assert_array_equal(nearest_rows(X, 5), by_definition(X, 5))
    np.testing.assert_array_equal(nearest_rows(X, 5, Y=X[::3]), by_definition(X, 5, X[::3]))


def test_without_the_float64_search_the_outlier_would_spoil_the_neighbors(monkeypatch):
    X = nasty_rows("an outlier that leaves float32 no digits")
    monkeypatch.setattr(_neighbors, "float32_error", lambda norms, *_: np.full(len(norms), -np.inf))
    assert (nearest_rows(X, 5) != by_definition(X, 5)).any()


def test_the_error_bound_holds_for_float32_products():
    X = np.random.default_rng(0).standard_normal((400, 300)) + 3
    single = X.astype(np.float32)
    halves = np.einsum("ij,ij->i", single, single, dtype=np.float64).astype(np.float32)
    squares = halves[:, None] + halves[None, :] - 2 * (single @ single.T)
    X = single.astype(np.float64)
    exact = ((X[:, None, :] - X[None, :, :]) ** 2).sum(axis=2)
    bound = float32_error(np.linalg.norm(X, axis=1)[:, None], np.sqrt(exact), 300, 1.0)
    assert (np.abs(squares - exact) <= bound).all()


def test_no_product_of_the_search_is_subnormal():
    # Relevance that fades to nothing: with subnormal products the search of real heatmaps took a hundred times longer.
    X = np.random.default_rng(0).standard_normal((50, 40)) * 10.0 ** np.arange(0, -40, -1)
    X = X.astype(np.float32)
    left, right = (
        augmented_block(X, slice(0, 50), X.mean(axis=0), np.abs(X).max(), side) for side in ("left", "right")
    )
    products = np.abs(left[:, None, :].astype(np.float64) * right[None, :, :])
    assert (products[products > 0] >= np.finfo(np.float32).tiny).all()


def test_the_number_of_threads_does_not_change_the_neighbors():
    X = np.random.default_rng(0).integers(0, 4, (500, 20)).astype(np.float32)
    one, two, default = (nearest_rows(X, 6, n_jobs=n_jobs) for n_jobs in (1, 2, None))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, default)


def test_a_memory_map_is_searched_like_the_array(tmp_path):
    X = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(nearest_rows(mapped, 6), nearest_rows(X, 6))


def test_a_crowd_of_copies_links_to_its_first_members():
    X = nasty_rows("a crowd of copies")
    repeats = first_repeats(X, X, 5)
    assert sorted(repeats) == [7, *range(50, 120)]
    assert repeats[100].tolist() == [7, 50, 51, 52, 53]


@pytest.mark.parametrize("make", [nearest_rows, lambda X, k: nearest_rows(X, k, Y=X)], ids=["fit", "predict"])
def test_float16_rows_have_the_neighbors_of_the_same_values_in_float64(make):
    X = np.random.default_rng(0).random((400, 30)).astype(np.float16)
    np.testing.assert_array_equal(make(X, 6), make(X.astype(np.float64), 6))


@pytest.mark.parametrize("n", [5, 40])
def test_a_query_beyond_the_range_of_float32_has_its_nearest_rows(n):
    rows = np.random.default_rng(0).normal(size=(n, 2))
    queries = np.array([[1e20, 3.0], [1e149, -1e149], [0.1, 0.2]])
    distances = ((queries[:, None] - rows) ** 2).sum(axis=2)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(nearest_rows(rows, 3, Y=queries), expected)
