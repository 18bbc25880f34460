"""The graph that joins every row to its nearest neighbors."""

import numpy as np
from scipy import sparse


def log_neighbors(n_samples):
    """Return floor(ln n), at least 2: ExMap's number of neighbors, which counts the row itself."""
    return max(2, int(np.log(n_samples)))


def symmetric_graph(indices):
    """Return the affinity matrix (A + A^T) / 2 of the graph A that joins each row to its neighbors, a csr_array."""
    # `indices` has shape (n_samples, k). A row may be its own neighbor, because the Laplacian ignores the diagonal.
    n_samples, k = indices.shape
    row_ends = np.arange(0, indices.size + 1, k)
    graph = sparse.csr_array((np.ones(indices.size), indices.ravel(), row_ends), shape=(n_samples, n_samples))
    return sparse.csr_array((graph + graph.T) / 2)


def nearest_in_graph(distances, k, *, exclude_self=False):
    """Return the k nearest columns of each row of a sparse graph of distances, nearest first and ties by index."""
    # `exclude_self` skips the diagonal.
    if not sparse.issparse(distances):
        raise TypeError(
            f"`neighbors` returned a dense {type(distances).__name__}. It must return a sparse graph of distances, as "
            "KNeighborsTransformer does."
        )
    graph = distances.tocoo()
    rows, columns, values = graph.row, graph.col, graph.data
    if exclude_self:
        others = rows != columns
        if not others.all() and 0 < values[~others].min() >= values.max():
            raise ValueError(
                "In the graph of `neighbors` every row is as far from itself as from its neighbors. The graph must "
                'hold distances: with KNeighborsTransformer, set mode="distance".'
            )
        rows, columns, values = rows[others], columns[others], values[others]
    counts = np.bincount(rows, minlength=graph.shape[0])
    if counts.min() < k:
        raise ValueError(
            f"{(counts < k).sum()} of {len(counts)} rows in the graph of `neighbors` have fewer than {k} neighbors "
            f"(smallest: {counts.min()}). Let the transformer find more neighbors, or lower `n_neighbors`."
        )
    order = np.lexsort((columns, values, rows))
    starts = np.cumsum(counts) - counts
    return columns[order][starts[:, None] + np.arange(k)].astype(np.int64)


def vote(labels):
    """Return the most frequent label of each row; in a tie, the first one."""
    votes = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
