"""The spectrum of a graph: its smallest Laplacian eigenpairs, the eigengap, and labels by cluster-QR."""

import numpy as np
from scipy import linalg, sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import LinearOperator, eigsh

from skexmap.cluster._cluster_labels import renumber_by_size

# Below this number of rows, a dense solver takes milliseconds and always converges.
DENSE_BELOW = 512
# Largest accepted |L v - w v|. The eigenvalues of interest differ by far more.
RESIDUAL = 1e-6


def graph_spectrum(affinity, n_eigenpairs, random_state):
    """Return the smallest Laplacian eigenpairs of a graph that may have several components."""
    # With C components the eigenvalue 0 occurs C times. A solver would return those zeros in an order and with gaps
    # that are rounding noise. So the components are counted first, their vectors ``D^(1/2) 1_C`` span the null space
    # exactly, and the other eigenvalues are computed component by component.
    n_components, components = csgraph.connected_components(affinity, directed=False)
    components = renumber_by_size(components)
    laplacian, sqrt_degree = normalized_laplacian(affinity)
    pairs = []
    for c in range(min(n_components, n_eigenpairs)):
        rows = np.flatnonzero(components == c)
        pairs.append((0.0, c, rows, sqrt_degree[rows] / np.linalg.norm(sqrt_degree[rows])))
        n_others = min(n_eigenpairs - n_components, len(rows) - 1)
        if n_others > 0:
            part = laplacian if n_components == 1 else laplacian[rows][:, rows]
            values, vectors = smallest_eigenpairs(part, n_others + 1, random_state)
            # The first pair is the null vector again.
            pairs += [(values[i], c, rows, vectors[:, i]) for i in range(1, n_others + 1)]
    pairs.sort(key=lambda pair: pair[:2])
    pairs = pairs[:n_eigenpairs]
    embedding = np.zeros((len(components), len(pairs)))
    for i, (_, _, rows, vector) in enumerate(pairs):
        embedding[rows, i] = vector / sqrt_degree[rows]
    return np.array([pair[0] for pair in pairs]), embedding, components


def normalized_laplacian(affinity):
    """Return L = I - D^(-1/2) A D^(-1/2) as a csr_array, and the square root of the degrees."""
    # The diagonal of A is ignored. A row without neighbors has the eigenvalue 0 and the degree 1.
    laplacian, sqrt_degree = csgraph.laplacian(affinity, normed=True, return_diag=True)
    return sparse.csr_array(laplacian), sqrt_degree


def smallest_eigenpairs(laplacian, n_eigenpairs, random_state):
    """Return the smallest eigenpairs of the normalized Laplacian of a connected graph, ascending."""
    # A dense solver decomposes small graphs. For others, ARPACK computes the largest eigenvalues of ``2 I - L``, which
    # needs no factorization. If a pair has a residual ``|L v - w v|`` of 1e-6 or more, ARPACK runs again in
    # shift-invert mode, which factorizes L but resolves very close eigenvalues.
    n = laplacian.shape[0]
    # ARPACK needs more Lanczos vectors than requested pairs.
    is_small = n < DENSE_BELOW or 3 * n_eigenpairs >= n
    starts = random_state.uniform(-1, 1, size=(n, n_eigenpairs))
    failures = []
    for name in ("dense",) if is_small else ("arpack", "shift-invert"):
        try:
            eigenvalues, vectors = SOLVERS[name](laplacian, n_eigenpairs, starts)
        except RuntimeError as error:
            failures.append(f"{name}: {error}")
            continue
        residual = np.linalg.norm(laplacian @ vectors - vectors * eigenvalues, axis=0).max()
        if residual < RESIDUAL:
            order = np.argsort(eigenvalues, kind="stable")
            # A Laplacian has no negative eigenvalues: values below zero are rounding errors.
            return np.maximum(eigenvalues[order], 0.0), vectors[:, order]
        failures.append(f"{name}: largest residual {residual:.1e}")
    raise np.linalg.LinAlgError(
        f"No solver found the {n_eigenpairs} smallest eigenpairs of the {n} x {n} Laplacian to "
        f"{RESIDUAL:.0e} ({'; '.join(failures)}). Raise `n_neighbors` or lower `max_clusters`."
    )


def _dense(laplacian, n_eigenpairs, starts):
    return linalg.eigh(laplacian.toarray(), subset_by_index=(0, n_eigenpairs - 1))


def _arpack(laplacian, n_eigenpairs, starts):
    n = laplacian.shape[0]
    values, vectors = _lanczos(lambda v: 2 * v - laplacian @ v, n, n_eigenpairs, starts[:, 0])
    # From one starting vector, Lanczos may find a repeated eigenvalue only once. So search for missed pairs among the
    # vectors orthogonal to those found, until there are none.
    for i in range(1, n_eigenpairs):

        def flipped_without_found(v, found=vectors):
            v = v - found @ (found.T @ v)
            v = 2 * v - laplacian @ v
            return v - found @ (found.T @ v)

        value, vector = _lanczos(flipped_without_found, n, 1, starts[:, i])
        smallest = values.argmin()
        if value[0] <= values[smallest] + RESIDUAL / 10:
            break
        values[smallest], vectors[:, smallest] = value[0], vector[:, 0]
    return 2 - values, vectors


def _lanczos(multiply, n, k, v0):
    operator = LinearOperator((n, n), matvec=multiply, dtype=np.float64)
    ncv = min(n - 1, max(4 * k, 20))
    return eigsh(operator, k=k, which="LA", v0=v0, ncv=ncv, tol=1e-10)


def _shift_invert(laplacian, n_eigenpairs, starts):
    # The shift lies just below zero, where L - shift I is positive definite.
    return eigsh(sparse.csc_array(laplacian), k=n_eigenpairs, sigma=-1e-3, which="LM", v0=starts[:, 0])


SOLVERS = {"dense": _dense, "arpack": _arpack, "shift-invert": _shift_invert}


def clusters_at_widest_gap(eigenvalues, min_clusters=2):
    """Return the number of clusters before the widest gap, at least `min_clusters`."""
    # As in ExMap, ``min_clusters=2`` skips the first gap, because one cluster would split nothing.
    gaps = np.diff(eigenvalues)
    return min_clusters + int(gaps[min_clusters - 1 :].argmax())


def runner_up(eigengaps, chosen, min_clusters):
    """Return the best number of clusters that was not chosen, and how clear the choice is."""
    # The number is None if there is no other. The margin is the chosen gap minus the runner-up's, divided by the wider
    # of the two: 1 is clear, 0 is a tie, and -1 is clearly against the choice.
    others = eigengaps.copy()
    others[: min_clusters - 1] = -np.inf
    chosen_gap = 0.0
    if chosen <= len(others):
        chosen_gap = eigengaps[chosen - 1]
        others[chosen - 1] = -np.inf
    if not np.isfinite(others).any():
        return None, 1.0
    best = int(others.argmax())
    widest = max(chosen_gap, others[best])
    return best + 1, float((chosen_gap - others[best]) / widest) if widest > 0 else 0.0


def cluster_qr(vectors):
    """Return the cluster of each row of a matrix of eigenvectors by cluster-QR."""
    # Pivoted QR picks, one after another, the rows with the most independent directions. The polar factor of those rows
    # rotates the embedding so that each cluster lies along one axis. There are no restarts and no randomness, and any
    # rotation of the columns (as in a degenerate eigenspace) gives the same labels.
    k = vectors.shape[1]
    _, _, pivots = linalg.qr(vectors.T, pivoting=True, mode="economic")
    left, _, right = linalg.svd(vectors[pivots[:k]].T)
    return np.abs(vectors @ (left @ right)).argmax(axis=1)
