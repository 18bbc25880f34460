"""Merge the clusters on which the frozen model behaves alike."""

from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist
from scipy.stats import fisher_exact

from skexmap.cluster._cluster_labels import cluster_means, renumber_by_size


class Merge(NamedTuple):
    """Two clusters that were merged, with the numbers that the clusters had before any merge.

    A cluster that has already absorbed others keeps the smallest of their numbers.
    """

    into: int
    cluster: int
    p_value: float


def merge_alike(labels, class_codes, correct, rows, alpha):
    """Merge neighboring clusters on which the model is right equally often."""
    # In a tree over the clusters, from the leaves upward, two branches are merged if each of them is one cluster and
    # the model behaves alike on both. So a cluster is never merged past a nearer one that differs, because two
    # different shortcuts may fail equally often.
    n_clusters = int(labels.max()) + 1
    # Right and wrong answers: shape (n_clusters, n_classes, 2).
    answers = np.zeros((n_clusters, int(class_codes.max()) + 1, 2), dtype=np.int64)
    member = labels >= 0
    np.add.at(answers, (labels[member], class_codes[member], (~correct[member]).astype(int)), 1)

    into, merges = np.arange(n_clusters), []
    # The cluster of each node of the tree; None if the node holds several clusters.
    nodes = list(range(n_clusters))
    tree = linkage(pdist(cluster_means(rows, labels)), "average")[:, :2] if n_clusters > 1 else []
    for pair in np.asarray(tree, dtype=int):
        branches = [nodes[node] for node in pair]
        nodes.append(None)
        if None in branches:
            continue
        stays, gone = sorted(branches)
        p_value = p_value_alike(answers[stays], answers[gone])
        if p_value >= alpha:
            merges.append(Merge(stays, gone, p_value))
            into[into == gone] = nodes[-1] = stays
            answers[stays] += answers[gone]
    becomes = np.empty(n_clusters, dtype=np.int64)
    becomes[labels[member]] = renumber_by_size(into[labels[member]])
    return becomes, merges


def p_value_alike(answers, others):
    """Return the p-value of Fisher's exact test on right and wrong answers, Bonferroni-corrected over the classes."""
    p_values = [
        fisher_exact([own, other]).pvalue
        for own, other in zip(answers, others, strict=True)
        # Skip a class without images in one cluster, or whose answers are all right or all wrong: nothing can differ.
        if own.any() and other.any() and (own + other).all()
    ]
    return min(1.0, len(answers) * min(p_values, default=1.0))
