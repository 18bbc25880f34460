"""What becomes of small clusters."""

import warnings
from math import ceil
from numbers import Integral

import numpy as np

from skexmap.cluster._components import merge_into_nearest
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
