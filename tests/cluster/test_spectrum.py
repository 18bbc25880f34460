"""Spectra, gaps and labels against closed forms and dense solvers."""

import numpy as np
import pytest
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence

from skexmap.cluster import _spectrum
from skexmap.cluster._spectrum import (
    cluster_qr,
    clusters_at_widest_gap,
    graph_spectrum,
    normalized_laplacian,
    runner_up,
    smallest_eigenpairs,
)


def ring(n):
    """Return the adjacency of a ring: its Laplacian eigenvalues are 1 - cos(2 pi j / n)."""
    next_one = sparse.csr_array((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return sparse.csr_array(next_one + next_one.T)


def cliques(*sizes):
    """Return disjoint cliques: a clique of m rows has the eigenvalues 0 and m / (m - 1), m - 1 times."""
    return sparse.csr_array(sparse.block_diag([np.ones((m, m)) - np.eye(m) for m in sizes]))


def spectrum(affinity, n_eigenpairs):
    return graph_spectrum(affinity, n_eigenpairs, np.random.RandomState(0))


# 40 rows go to the dense solver, 700 to ARPACK.
@pytest.mark.parametrize("n", [40, 700])
def test_a_ring_has_its_closed_form_eigenvalues_each_of_them_twice(n):
    values, _, components = spectrum(ring(n), 11)
    expected = np.sort(1 - np.cos(2 * np.pi * np.arange(n) / n))[:11]
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert components.max() == 0


def test_disjoint_cliques_have_exact_zeros_and_the_smallest_of_the_other_eigenvalues():
    values, vectors, components = spectrum(cliques(5, 20, 10), 6)
    assert (values[:3] == 0).all()
    # 20 / 19 is smaller than 10 / 9 and than 5 / 4.
    np.testing.assert_allclose(values[3:], 20 / 19)
    np.testing.assert_array_equal(components, np.repeat([2, 0, 1], [5, 20, 10]))
    # Null vectors are constant on their component and zero elsewhere.
    for c in range(3):
        assert np.ptp(vectors[components == c, c]) < 1e-12
        assert (vectors[components != c, c] == 0).all()


def random_graph(sizes, rng):
    """Return disjoint random weighted graphs, each kept connected by a ring."""
    blocks = []
    for n in sizes:
        weights = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.1), 1)
        blocks.append(weights + weights.T + ring(n).toarray())
    return sparse.block_diag(blocks, format="csr")


@pytest.mark.parametrize("sizes", [(60,), (700,), (40, 25), (30, 20, 10, 1)])
def test_the_spectrum_of_a_graph_in_pieces_equals_a_dense_solvers(sizes):
    affinity = random_graph(sizes, np.random.default_rng(0))
    values, vectors, _ = spectrum(affinity, 9)
    laplacian, sqrt_degree = normalized_laplacian(affinity)
    dense = laplacian.toarray()
    np.testing.assert_allclose(values, linalg.eigvalsh(dense)[:9], atol=1e-9)
    eigenvectors = vectors * sqrt_degree[:, None]
    np.testing.assert_allclose(dense @ eigenvectors, eigenvectors * values, atol=1e-7)
    np.testing.assert_allclose(eigenvectors.T @ eigenvectors, np.eye(9), atol=1e-7)


def test_a_row_without_neighbors_is_a_component_with_eigenvalue_0():
    affinity = sparse.csr_array(sparse.block_diag([ring(10), np.zeros((1, 1))]))
    values, vectors, components = spectrum(affinity, 3)
    np.testing.assert_allclose(values, [0, 0, 1 - np.cos(2 * np.pi / 10)], atol=1e-12)
    assert components[-1] == 1
    assert vectors[-1].tolist() == [0, 1, 0]


def test_with_more_components_than_wanted_every_eigenvalue_is_exactly_0():
    values, vectors, components = spectrum(cliques(*[3] * 8), 4)
    assert values.tolist() == [0] * 4
    assert vectors.shape == (24, 4)
    assert components.max() == 7


RING_OF_600 = normalized_laplacian(ring(600))[0]
STARTS = np.random.default_rng(0).uniform(-1, 1, size=(600, 5))
EIGENVALUES_OF_600 = np.sort(1 - np.cos(2 * np.pi * np.arange(600) / 600))


@pytest.mark.parametrize("solver", ["dense", "arpack", "shift-invert"])
def test_every_solver_finds_the_spectrum_of_a_ring(solver):
    values, vectors = _spectrum.SOLVERS[solver](RING_OF_600, 5, STARTS)
    np.testing.assert_allclose(np.sort(values), EIGENVALUES_OF_600[:5], atol=1e-9)
    np.testing.assert_allclose(RING_OF_600 @ vectors, vectors * values, atol=1e-8)


def did_not_converge(laplacian, n_eigenpairs, starts):
    raise ArpackNoConvergence("no convergence", [], [])


def wrong_eigenpairs(laplacian, n_eigenpairs, starts):
    return np.linspace(0, 0.1, n_eigenpairs), np.eye(laplacian.shape[0])[:, :n_eigenpairs]


@pytest.mark.parametrize("arpack", [did_not_converge, wrong_eigenpairs])
def test_shift_invert_steps_in_if_arpack_does_not_converge_or_its_residuals_are_large(monkeypatch, arpack):
    monkeypatch.setitem(_spectrum.SOLVERS, "arpack", arpack)
    values, _ = smallest_eigenpairs(RING_OF_600, 3, np.random.RandomState(0))
    np.testing.assert_allclose(values, EIGENVALUES_OF_600[:3], atol=1e-9)


def test_if_no_solver_converges_the_error_has_the_residual_of_each(monkeypatch):
    monkeypatch.setattr(_spectrum, "SOLVERS", dict.fromkeys(_spectrum.SOLVERS, wrong_eigenpairs))
    with pytest.raises(
        np.linalg.LinAlgError, match=r"arpack: largest residual .*shift-invert: largest residual"
    ):
        smallest_eigenpairs(RING_OF_600, 3, np.random.RandomState(0))


def test_the_widest_gap_is_looked_for_from_min_clusters_on():
    eigenvalues = np.array([0.0, 0.5, 0.6, 0.9, 1.0])
    assert clusters_at_widest_gap(eigenvalues, min_clusters=1) == 1
    assert clusters_at_widest_gap(eigenvalues) == 3
    assert clusters_at_widest_gap(eigenvalues, min_clusters=4) == 4


def test_the_margin_compares_the_chosen_gap_with_the_widest_other_one():
    gaps = np.array([0.9, 0.1, 0.4, 0.2])
    assert runner_up(gaps, 3, min_clusters=2) == (4, pytest.approx(0.5))
    assert runner_up(gaps, 4, min_clusters=2) == (3, pytest.approx(-0.5))
    assert runner_up(gaps, 1, min_clusters=1) == (3, pytest.approx(0.5 / 0.9))
    assert runner_up(gaps[:2], 2, min_clusters=2) == (None, 1.0)
    assert runner_up(np.zeros(3), 2, min_clusters=2) == (3, 0.0)


def test_cluster_qr_reads_indicator_vectors_and_any_rotation_of_them():
    truth = np.random.default_rng(0).integers(4, size=50)
    indicators = np.eye(4)[truth]
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    for vectors in (indicators, indicators @ rotation):
        labels = cluster_qr(vectors)
        # Each true cluster has one label and each label one true cluster.
        assert len(set(zip(truth, labels, strict=True))) == len(set(labels)) == 4
