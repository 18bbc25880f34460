"""Merge the clusters on which the frozen model behaves alike."""

from typing import NamedTuple

import numpy as np
from scipy.stats import fisher_exact

from skexmap.cluster._components import cluster_means
from skexmap.cluster._spectrum import renumber_by_size


class Merge(NamedTuple):
    """Two clusters that became one, by the numbers that the clusterer's clusters had before any merge.

    A cluster that absorbed others before keeps its number.
    """

    into: int
    cluster: int
    p_value: float


def merge_alike(labels, class_codes, correct, rows, alpha):
    """Merge, nearest first, the pairs of clusters on which the model is right equally often.

    Two clusters are told apart if, in some class, the model's right and wrong answers on the one differ from those on
    the other: Fisher's exact test, times the number of classes (Bonferroni).

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        Clusters; -1 belongs to none.
    class_codes : ndarray of shape (n_samples,)
        Class of each row.
    correct : ndarray of bool of shape (n_samples,)
        Whether the model is right about each row.
    rows : ndarray of shape (n_samples, n_features)
        What was clustered: the nearest pair has the nearest mean rows.
    alpha : float
        Pairs with a p-value of at least this are not told apart.

    Returns
    -------
    becomes : ndarray of shape (n_clusters,), int64
        New number of each cluster: the largest is 0, equal sizes are ordered by their first member.
    merges : list of Merge
        In their order.
    """
    n_clusters = int(labels.max()) + 1
    # Right and wrong answers: shape (n_clusters, n_classes, 2).
    answers = np.zeros((n_clusters, int(class_codes.max()) + 1, 2), dtype=np.int64)
    member = labels >= 0
    np.add.at(answers, (labels[member], class_codes[member], (~correct[member]).astype(int)), 1)
    sizes = answers.sum(axis=(1, 2))
    centers = cluster_means(rows, labels)
    p_values = np.zeros((n_clusters, n_clusters))
    for a in range(n_clusters):
        p_values[a, :a] = p_values[:a, a] = [p_value_alike(answers[a], answers[b]) for b in range(a)]

    into, merges = np.arange(n_clusters), []
    while (p_values >= alpha).any():
        alike = np.argwhere(np.tril(p_values >= alpha))
        distances = ((centers[alike[:, 0]] - centers[alike[:, 1]]) ** 2).sum(axis=1)
        gone, stays = alike[distances.argmin()]
        merges.append(Merge(int(stays), int(gone), float(p_values[gone, stays])))
        into[into == gone] = stays
        share = sizes[gone] / (sizes[gone] + sizes[stays])
        centers[stays] += share * (centers[gone] - centers[stays])
        answers[stays] += answers[gone]
        sizes[stays] += sizes[gone]
        p_values[gone] = p_values[:, gone] = 0
        for other in np.setdiff1d(into, stays):
            p_values[stays, other] = p_values[other, stays] = p_value_alike(answers[stays], answers[other])
    becomes = np.empty(n_clusters, dtype=np.int64)
    becomes[labels[member]] = renumber_by_size(into[labels[member]])
    return becomes, merges


def p_value_alike(answers, others):
    """Return how likely answers would differ at least so much if the model behaved alike on both clusters.

    Parameters
    ----------
    answers, others : ndarray of shape (n_classes, 2)
        Number of right and of wrong answers on each cluster, class by class.

    Returns
    -------
    p_value : float
        1 if no class tells the clusters apart, or has images in both.
    """
    p_values = [
        fisher_exact([own, other]).pvalue
        for own, other in zip(answers, others, strict=True)
        # Without an image in both clusters, or with equal answers on all, there is nothing to compare.
        if own.any() and other.any() and (own + other).all()
    ]
    return min(1.0, len(answers) * min(p_values, default=1.0))
