"""What becomes of small clusters."""

import warnings
from math import ceil
from numbers import Integral

import numpy as np

from skexmap.exceptions import TinyClusterWarning


def smallest_size(min_cluster_size, n_samples):
    """Return the number of rows that `min_cluster_size` (a number, a share or None) stands for."""
    if min_cluster_size is None or isinstance(min_cluster_size, Integral):
        return min_cluster_size or 1
    return ceil(min_cluster_size * n_samples)


def without_small_clusters(labels, min_size, policy, *, rows=None, affinity=None):
    """Apply the policy for small clusters.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        Clusters, the largest first; -1 belongs to none and stays.
    min_size : int
        Clusters of fewer rows are small.
    policy : {"merge", "mark", "keep"}
        Merge them into the nearest of the others, mark their rows -1, or keep them with a warning.
    rows, affinity : ndarray or sparse matrix, or None
        As for `merge_into_nearest`.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int64
        Not renumbered.
    small : ndarray of shape (n_small,), int64
        The small clusters.

    Raises
    ------
    ValueError
        If all clusters are small and the policy would leave none.

    Warns
    -----
    TinyClusterWarning
        If ``policy="keep"`` keeps a small cluster.
    """
    sizes = np.bincount(labels[labels >= 0])
    small = np.flatnonzero((sizes > 0) & (sizes < min_size))
    if not small.size:
        return labels, small
    if policy == "keep":
        warnings.warn(
            f"{len(small)} of {(sizes > 0).sum()} clusters have fewer than {min_size} rows (smallest: "
            f"{sizes[small].min()}). As pseudo-groups they would set the sample size of every group; merge or mark "
            "them with `small_clusters`.",
            TinyClusterWarning,
        )
        return labels, small
    if len(small) == (sizes > 0).sum():
        raise ValueError(
            f"All {len(small)} clusters have fewer than {min_size} rows (largest: {sizes.max()}). "
            "Lower `min_cluster_size`, ask for fewer clusters or keep them with `small_clusters='keep'`."
        )
    if policy == "mark":
        return np.where(np.isin(labels, small), -1, labels), small
    return merge_into_nearest(labels, small, rows=rows, affinity=affinity), small


def merge_into_nearest(labels, small, *, rows=None, affinity=None):
    """Give the rows of some clusters to the nearest of the other clusters, each cluster as a whole.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        Clusters, the largest first.
    small : ndarray of shape (n_small,), int64
        Clusters to dissolve; not all of them.
    rows : ndarray of shape (n_samples, n_features), default=None
        The clustered rows: the nearest cluster is the one with the nearest mean row.
    affinity : ndarray or sparse matrix of shape (n_samples, n_samples), default=None
        Where there are no rows, the nearest cluster is the one of the largest mean affinity; the largest
        cluster where every affinity is 0.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int64
    """
    stay = np.setdiff1d(np.unique(labels[labels >= 0]), small)
    target = np.arange(labels.max() + 1)
    if rows is not None:
        centers = np.stack([rows[labels == c].mean(axis=0, dtype=np.float64) for c in stay])
        for c in small:
            own = rows[labels == c].mean(axis=0, dtype=np.float64)
            target[c] = stay[((centers - own) ** 2).sum(axis=1).argmin()]
    else:
        members = np.stack([labels == c for c in stay], axis=1).astype(np.float64)
        to_others = affinity @ (members / members.sum(axis=0))
        for c in small:
            target[c] = stay[to_others[labels == c].sum(axis=0).argmax()]
    return np.where(labels >= 0, target[labels], -1)
