"""What becomes of small clusters."""

import numpy as np


def merge_into_nearest(labels, small, rows):
    """Give the rows of some clusters to the nearest of the other clusters.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        Clusters, the largest first.
    small : collection of int
        Clusters to dissolve; not all of them.
    rows : ndarray of shape (n_samples, n_features) or None
        The clustered rows: each small cluster goes, as a whole, where the mean row is nearest. None: to
        the largest cluster that stays.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int64
    """
    small = np.asarray(list(small), dtype=np.int64)
    if not small.size:
        return labels
    stay = np.setdiff1d(np.unique(labels[labels >= 0]), small)
    target = np.arange(labels.max() + 1)
    if rows is None:
        target[small] = stay[0]
    else:
        centers = np.stack([rows[labels == c].mean(axis=0, dtype=np.float64) for c in stay])
        for c in small:
            own = rows[labels == c].mean(axis=0, dtype=np.float64)
            target[c] = stay[((centers - own) ** 2).sum(axis=1).argmin()]
    return np.where(labels >= 0, target[labels], labels)
