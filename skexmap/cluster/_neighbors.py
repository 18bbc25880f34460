"""Nearest neighbours of heatmaps."""

import numpy as np
from sklearn.neighbors import NearestNeighbors


def nearest_rows(X, k, *, Y=None, n_jobs=None):
    """Return the k nearest rows of X for each row of Y, nearest first.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The rows to search in.
    k : int
        Number of neighbours. A row of X counts as its own neighbour.
    Y : ndarray of shape (n_queries, n_features), default=None
        The rows to search for; X itself when None.
    n_jobs : int, default=None
        Number of threads.

    Returns
    -------
    indices : ndarray of shape (n_queries, k), int64
    """
    search = NearestNeighbors(n_neighbors=k, n_jobs=n_jobs).fit(X)
    return search.kneighbors(X if Y is None else Y, return_distance=False)


def vote(labels):
    """Return the most frequent label of each row; of equally frequent ones the first.

    Parameters
    ----------
    labels : ndarray of shape (n_samples, k), int64
        Labels of the neighbours, the nearest first.

    Returns
    -------
    winners : ndarray of shape (n_samples,), int64
    """
    votes = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]


def rows_are_identical(X):
    """Return whether all rows of X are the same (stops at the first that differs)."""
    return all((row == X[0]).all() for row in X)
