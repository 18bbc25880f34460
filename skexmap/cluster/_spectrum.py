"""The spectrum of a graph: its smallest Laplacian eigenpairs, the eigengap and the labels."""

import warnings

import numpy as np
from scipy import linalg, sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh, lobpcg

# Below this many rows a dense solver takes milliseconds and needs no convergence.
DENSE_BELOW = 512
# Fallback of the iterative solvers: 4,000 rows are 128 MB and half a minute.
DENSE_RESCUE = 4000
# Largest accepted |L v - w v|: the eigenvalues of interest differ by far more.
RESIDUAL = 1e-6


def normalized_laplacian(affinity):
    """Return L = I - D^(-1/2) A D^(-1/2) and the square root of the degrees.

    The diagonal of A does not count. A row without neighbours has the eigenvalue 0 and the degree 1.

    Parameters
    ----------
    affinity : csr_array or ndarray of shape (n_samples, n_samples)
        Symmetric, non-negative.

    Returns
    -------
    laplacian : csr_array or ndarray of shape (n_samples, n_samples), float64
    sqrt_degree : ndarray of shape (n_samples,), float64
    """
    laplacian, sqrt_degree = csgraph.laplacian(affinity, normed=True, return_diag=True)
    return (sparse.csr_array(laplacian) if sparse.issparse(laplacian) else laplacian), sqrt_degree


def smallest_eigenpairs(laplacian, n_eigenpairs, random_state):
    """Return the smallest eigenpairs of the normalised Laplacian of a connected graph, each checked.

    The solvers are tried in turn until the residual ``|L v - w v|`` of every pair is below 1e-6: a dense
    one for small graphs; ARPACK on ``2 I - L``, whose largest eigenvalues are wanted, so that nothing is
    factorised; ARPACK in shift-invert mode; LOBPCG; and a dense one again where it is still affordable.

    Parameters
    ----------
    laplacian : csr_array or ndarray of shape (n_samples, n_samples)
        Normalised Laplacian: its eigenvalues lie in [0, 2].
    n_eigenpairs : int
        How many; at most n_samples.
    random_state : numpy.random.RandomState
        Draws the starting vectors.

    Returns
    -------
    eigenvalues : ndarray of shape (n_eigenpairs,), ascending
    eigenvectors : ndarray of shape (n_samples, n_eigenpairs)

    Raises
    ------
    numpy.linalg.LinAlgError
        If no solver converges; the message has the residual of each.
    """
    n = laplacian.shape[0]
    # ARPACK needs more Lanczos vectors than wanted pairs.
    if n < DENSE_BELOW or 3 * n_eigenpairs >= n:
        solvers = ("dense",)
    else:
        solvers = ("arpack", "shift_invert", "lobpcg", *(("dense",) if n <= DENSE_RESCUE else ()))
    start = random_state.uniform(-1, 1, size=(n, n_eigenpairs))
    failures = []
    for solver in solvers:
        try:
            eigenvalues, vectors = SOLVERS[solver](laplacian, n_eigenpairs, start)
        except (ArpackError, RuntimeError, ValueError, linalg.LinAlgError) as error:
            failures.append(f"{solver}: {error}")
            continue
        residual = np.linalg.norm(laplacian @ vectors - vectors * eigenvalues, axis=0).max()
        if residual < RESIDUAL:
            order = np.argsort(eigenvalues, kind="stable")
            # A Laplacian has no negative eigenvalue: what is below zero is rounding.
            return np.maximum(eigenvalues[order], 0.0), vectors[:, order]
        failures.append(f"{solver}: largest residual {residual:.1e}")
    raise np.linalg.LinAlgError(
        f"No solver found the {n_eigenpairs} smallest eigenpairs of the {n} x {n} Laplacian to "
        f"{RESIDUAL:.0e} ({'; '.join(failures)}). Raise `n_neighbors` or lower `max_clusters`."
    )


def _dense(laplacian, n_eigenpairs, start):
    dense = laplacian.toarray() if sparse.issparse(laplacian) else laplacian
    return linalg.eigh(dense, subset_by_index=(0, n_eigenpairs - 1))


def _arpack(laplacian, n_eigenpairs, start):
    n = laplacian.shape[0]
    values, vectors = _lanczos(lambda v: 2 * v - laplacian @ v, n, n_eigenpairs, start[:, 0])
    # Started from one vector, Lanczos may see a repeated eigenvalue once only. So look for a pair that it missed
    # among the vectors orthogonal to those found, until there is none.
    for i in range(1, n_eigenpairs):

        def flipped_without_found(v, found=vectors):
            v = v - found @ (found.T @ v)
            v = 2 * v - laplacian @ v
            return v - found @ (found.T @ v)

        value, vector = _lanczos(flipped_without_found, n, 1, start[:, i])
        smallest = values.argmin()
        if value[0] <= values[smallest] + RESIDUAL / 10:
            break
        values[smallest], vectors[:, smallest] = value[0], vector[:, 0]
    return 2 - values, vectors


def _lanczos(multiply, n, k, start):
    operator = LinearOperator((n, n), matvec=multiply, dtype=np.float64)
    ncv = min(n - 1, max(4 * k, 20))
    return eigsh(operator, k=k, which="LA", v0=start, ncv=ncv, tol=1e-10)


def _shift_invert(laplacian, n_eigenpairs, start):
    # The shift lies just below zero, where L - shift I is positive definite.
    return eigsh(sparse.csc_array(laplacian), k=n_eigenpairs, sigma=-1e-3, which="LM", v0=start[:, 0])


def _lobpcg(laplacian, n_eigenpairs, start):
    with warnings.catch_warnings():
        # It warns when it stops early; the residual check says so better.
        warnings.simplefilter("ignore", UserWarning)
        return lobpcg(laplacian, start, largest=False, tol=RESIDUAL / 10, maxiter=2000)


SOLVERS = {"dense": _dense, "arpack": _arpack, "shift_invert": _shift_invert, "lobpcg": _lobpcg}


def graph_spectrum(affinity, n_eigenpairs, random_state):
    """Return the smallest Laplacian eigenpairs of a graph that may fall apart into components.

    With C components the eigenvalue 0 occurs C times. A solver would return those zeros in an order, with
    gaps among them, that are rounding noise; so the components are counted first, their vectors ``D^(1/2)
    1_C`` span the null space exactly, and the other eigenvalues are computed component by component.

    Parameters
    ----------
    affinity : csr_array or ndarray of shape (n_samples, n_samples)
        Symmetric, non-negative.
    n_eigenpairs : int
        How many eigenpairs; at most n_samples.
    random_state : numpy.random.RandomState
        Starts the iterative solvers.

    Returns
    -------
    eigenvalues : ndarray of shape (n_eigenpairs,), ascending
    vectors : ndarray of shape (n_samples, n_eigenpairs)
        Eigenvectors divided by the square root of the degree, as cluster-QR wants them: those of the null
        space are constant on each component.
    components : ndarray of shape (n_samples,), int64
        Connected component of each row, the largest first.
    """
    n = affinity.shape[0]
    n_components, components = csgraph.connected_components(affinity, directed=False)
    components = renumber_by_size(components)
    laplacian, sqrt_degree = normalized_laplacian(affinity)
    pairs = []
    for c in range(min(n_components, n_eigenpairs)):
        rows = np.flatnonzero(components == c)
        pairs.append((0.0, c, rows, sqrt_degree[rows] / np.linalg.norm(sqrt_degree[rows])))
        wanted = min(n_eigenpairs - n_components, len(rows) - 1)
        if wanted > 0:
            own = laplacian if n_components == 1 else laplacian[rows][:, rows]
            values, vectors = smallest_eigenpairs(own, wanted + 1, random_state)
            # The first pair is the null vector again.
            pairs += [(values[i], c, rows, vectors[:, i]) for i in range(1, wanted + 1)]
    pairs.sort(key=lambda pair: pair[:2])
    pairs = pairs[:n_eigenpairs]
    embedding = np.zeros((n, len(pairs)))
    for i, (_, _, rows, vector) in enumerate(pairs):
        embedding[rows, i] = vector / sqrt_degree[rows]
    return np.array([pair[0] for pair in pairs]), embedding, components


def clusters_at_widest_gap(eigenvalues, min_clusters=2):
    """Return the number of clusters before the widest gap.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_eigenvalues,), ascending
        At least ``min_clusters + 1`` of them. As in ExMap, ``min_clusters=2`` skips the first gap: one
        cluster would split nothing.
    min_clusters : int, default=2
        Smallest number of clusters allowed.

    Returns
    -------
    n_clusters : int
    """
    gaps = np.diff(eigenvalues)
    return min_clusters + int(gaps[min_clusters - 1 :].argmax())


def cluster_qr(vectors):
    """Return the cluster of each row by cluster-QR.

    Pivoted QR picks, one after another, the rows that point in the most independent directions; the polar
    factor of those rows rotates the embedding so that each cluster lies along one axis. There are no
    restarts and nothing random, and any rotation of the columns (as in a degenerate eigenspace) gives the
    same labels.

    Parameters
    ----------
    vectors : ndarray of shape (n_samples, n_clusters)
        Eigenvectors.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int64

    References
    ----------
    A. Damle, V. Minden, L. Ying, "Simple, direct and efficient multi-way spectral clustering",
    Information and Inference 8(1), 2019, algorithm 1.
    """
    k = vectors.shape[1]
    _, _, pivots = linalg.qr(vectors.T, pivoting=True, mode="economic")
    left, _, right = linalg.svd(vectors[pivots[:k]].T)
    return np.abs(vectors @ (left @ right)).argmax(axis=1)


def renumber_by_size(labels):
    """Number clusters canonically: the largest first, equal sizes by their first member; -1 stays.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        Any non-negative numbering, and -1 for rows that belong to none.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int64
    """
    labels = np.asarray(labels)
    belongs = labels >= 0
    _, first, codes, sizes = np.unique(
        labels[belongs], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    renumbered = np.full(len(labels), -1, dtype=np.int64)
    renumbered[belongs] = rank[codes]
    return renumbered


def runner_up(eigengaps, chosen, min_clusters):
    """Return the best number of clusters that was not chosen, and how clear the choice is.

    Parameters
    ----------
    eigengaps : ndarray of shape (n_gaps,)
        ``eigengaps[k - 1]`` is the gap after k clusters.
    chosen : int
        The chosen number of clusters.
    min_clusters : int
        Smallest number allowed.

    Returns
    -------
    runner_up : int or None
        The other number with the widest gap; None where there is no other.
    margin : float
        The chosen gap less the runner-up's, over the wider of the two: from 1 (clear) over 0 (a toss-up)
        to -1.
    """
    others = eigengaps.copy()
    others[: min_clusters - 1] = -np.inf
    own = 0.0
    if chosen <= len(others):
        own = eigengaps[chosen - 1]
        others[chosen - 1] = -np.inf
    if not np.isfinite(others).any():
        return None, 1.0
    best = int(others.argmax())
    widest = max(own, others[best])
    return best + 1, float((own - others[best]) / widest) if widest > 0 else 0.0
