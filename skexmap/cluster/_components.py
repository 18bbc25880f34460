"""More connected components than clusters: which ones join which."""

import numpy as np


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
        centers = np.stack([rows[labels == c].mean(axis=0, dtype=np.float64) for c in stay])
        for c in surplus:
            own = rows[labels == c].mean(axis=0, dtype=np.float64)
            target[c] = stay[((centers - own) ** 2).sum(axis=1).argmin()]
    else:
        members = np.stack([labels == c for c in stay], axis=1).astype(np.float64)
        to_others = affinity @ (members / members.sum(axis=0))
        for c in surplus:
            target[c] = stay[to_others[labels == c].sum(axis=0).argmax()]
    return target[labels]
