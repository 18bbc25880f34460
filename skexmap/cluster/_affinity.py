"""Affinity matrices: which rows are neighbours, and how strongly."""

import numpy as np
from scipy import sparse
from sklearn.metrics.pairwise import rbf_kernel


def log_neighbors(n_samples):
    """Return floor(ln n) (at least 2): ExMap's number of neighbours, the point itself included."""
    return max(2, int(np.log(n_samples)))


def symmetric_graph(indices, n_samples):
    """Return the affinity matrix (A + A^T) / 2 of a nearest-neighbour graph A.

    Parameters
    ----------
    indices : ndarray of shape (n_samples, k)
        Neighbours of each row; whether the row itself is among them makes no difference to the Laplacian.
    n_samples : int
        Number of rows.

    Returns
    -------
    affinity : csr_array of shape (n_samples, n_samples), float64
        1 where two rows are neighbours of each other, 1/2 where only one of them is.
    """
    k = indices.shape[1]
    graph = sparse.csr_array(
        (np.ones(indices.size), indices.ravel(), np.arange(0, indices.size + 1, k)), shape=(n_samples,) * 2
    )
    return sparse.csr_array((graph + graph.T) / 2)


def rbf_affinity(X):
    """Return ``exp(-|x - y|^2 / (n_features * X.var()))`` between the rows of X."""
    variance = X.var()
    return rbf_kernel(X, gamma=1.0 / (X.shape[1] * variance) if variance > 0 else 1.0)


def neighbors_in_graph(distances, k, *, exclude_self):
    """Return the k nearest stored neighbours of each row of a sparse graph of distances.

    Parameters
    ----------
    distances : sparse matrix of shape (n_queries, n_samples)
        Distances to neighbours, as `sklearn.neighbors.KNeighborsTransformer` makes them.
    k : int
        Number of neighbours to take.
    exclude_self : bool
        Whether to skip the diagonal.

    Returns
    -------
    indices : ndarray of shape (n_queries, k), int64
        Nearest first; ties by index.

    Raises
    ------
    TypeError
        If the graph is dense: its zeros might be distances, or no neighbours at all.
    ValueError
        If a row has fewer than k neighbours.
    """
    if not sparse.issparse(distances):
        raise TypeError(
            "affinity='precomputed_nearest_neighbors' needs a sparse graph of distances, as KNeighborsTransformer "
            "makes it, and X is dense. For a dense matrix of affinities, use affinity='precomputed'."
        )
    graph = distances.tocoo()
    rows, columns, values = graph.row, graph.col, graph.data
    if exclude_self:
        others = rows != columns
        rows, columns, values = rows[others], columns[others], values[others]
    counts = np.bincount(rows, minlength=graph.shape[0])
    if counts.min() < k:
        raise ValueError(
            f"{(counts < k).sum()} of {len(counts)} rows of the precomputed graph have fewer than {k} "
            f"neighbours (smallest: {counts.min()}). Lower `n_neighbors`, or build the graph with more."
        )
    order = np.lexsort((columns, values, rows))
    starts = np.cumsum(counts) - counts
    return columns[order][starts[:, None] + np.arange(k)].astype(np.int64)


def strongest_in_affinity(affinity, k):
    """Return the k columns of largest positive affinity of each row, strongest first; ties by index.

    Parameters
    ----------
    affinity : ndarray or sparse matrix of shape (n_queries, n_samples)
        Affinity to each sample.
    k : int
        Number of columns.

    Returns
    -------
    indices : ndarray of shape (n_queries, k), int64
        -1 at the end where a row has an affinity to fewer than k columns.
    """
    indices = np.empty((affinity.shape[0], k), dtype=np.int64)
    for i in range(affinity.shape[0]):
        row = affinity[[i]]
        row = row.toarray()[0] if sparse.issparse(row) else row[0]
        strongest = np.argsort(-row, kind="stable")[:k]
        indices[i] = np.where(row[strongest] > 0, strongest, -1)
    return indices


def check_precomputed(X, affinity):
    """Raise where a precomputed matrix cannot be what `affinity` says it is.

    Parameters
    ----------
    X : ndarray or csr_matrix
        The matrix.
    affinity : {"precomputed", "precomputed_nearest_neighbors"}
        What it should be.

    Raises
    ------
    ValueError
        If X is not square; if an affinity matrix is asymmetric or negative; if a graph of distances is
        negative.
    """
    if X.shape[0] != X.shape[1]:
        raise ValueError(
            f"affinity='{affinity}' needs a square matrix, a row and a column for every sample; "
            f"got shape {X.shape}."
        )
    values = X.data if sparse.issparse(X) else X
    n_negative = int((values < 0).sum())
    if n_negative:
        raise ValueError(
            f"Negative values in data: {n_negative} entries of the precomputed matrix. Pass values >= 0."
        )
    if affinity == "precomputed":
        difference = abs(X - X.T)
        largest = difference.max() if X.shape[0] else 0.0
        if largest > 1e-5 * max(1.0, values.max(initial=0.0)):
            raise ValueError(
                f"The precomputed affinity matrix is not symmetric (largest difference: {largest:.2g}). "
                "Pass (A + A.T) / 2."
            )
