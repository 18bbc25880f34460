"""Arithmetic on cluster labels: numbering, mean rows, and merging into the nearest cluster."""

import numpy as np

_BLOCK_OF_ROWS = 1024


def renumber_by_size(labels):
    """Number clusters by size, largest first and equal sizes by their first member; -1 is kept."""
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


def cluster_means(rows, labels):
    """Return the mean row of each cluster in float64, without the rows of cluster -1."""
    # Rows are converted block by block, because a float64 copy of all of them may exceed the memory.
    clusters = np.arange(labels.max() + 1)
    sums = np.zeros((len(clusters), rows.shape[1]))
    for start in range(0, len(rows), _BLOCK_OF_ROWS):
        block = slice(start, start + _BLOCK_OF_ROWS)
        sums += (labels[block] == clusters[:, None]).astype(np.float64) @ rows[block].astype(np.float64)
    return sums / np.bincount(labels[labels >= 0])[:, None]


def keep_largest(labels, n_clusters, rows):
    """Keep the first `n_clusters` clusters; merge every other one into the one with the nearest mean row."""
    n_found = int(labels.max()) + 1
    if n_found <= n_clusters:
        return labels
    centers = cluster_means(rows, labels)
    becomes = np.arange(n_found)
    for c in range(n_clusters, n_found):
        becomes[c] = ((centers[:n_clusters] - centers[c]) ** 2).sum(axis=1).argmin()
    return becomes[labels]
