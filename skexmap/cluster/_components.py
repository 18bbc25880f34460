"""Where clusters lie, and which ones join which if a graph has more connected components than clusters."""

import numpy as np

_BLOCK_OF_ROWS = 1024


def merge_into_nearest(labels, surplus, *, rows=None, affinity=None):
    """Give the rows of some clusters to the nearest of the other clusters, each cluster as a whole.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        Clusters, the largest first.
    surplus : ndarray of shape (n_surplus,), int64
        Clusters to dissolve; not all of them.
    rows : ndarray of shape (n_samples, n_features), default=None
        The clustered rows: the nearest cluster is the one with the nearest mean row.
    affinity : ndarray or sparse matrix of shape (n_samples, n_samples), default=None
        If there are no rows, the nearest cluster is the one with the largest mean affinity, or the largest cluster
        if every affinity is 0.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int64
    """
    stay = np.setdiff1d(np.unique(labels), surplus)
    target = np.arange(labels.max() + 1)
    if rows is not None:
        centers = cluster_means(rows, labels)
        for c in surplus:
            target[c] = stay[((centers[stay] - centers[c]) ** 2).sum(axis=1).argmin()]
    else:
        members = np.stack([labels == c for c in stay], axis=1).astype(np.float64)
        to_others = affinity @ (members / members.sum(axis=0))
        for c in surplus:
            target[c] = stay[to_others[labels == c].sum(axis=0).argmax()]
    return target[labels]


def cluster_means(rows, labels):
    """Return the mean row of each cluster in float64; rows of cluster -1 are in none.

    A block of rows is read at a time: a copy of all of them may be larger than the memory.
    """
    clusters = np.arange(labels.max() + 1)
    sums = np.zeros((len(clusters), rows.shape[1]))
    for start in range(0, len(rows), _BLOCK_OF_ROWS):
        block = slice(start, start + _BLOCK_OF_ROWS)
        sums += (labels[block] == clusters[:, None]).astype(np.float64) @ rows[block].astype(np.float64)
    return sums / np.bincount(labels[labels >= 0])[:, None]
