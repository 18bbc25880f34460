"""Class x attribute arithmetic: the only place that numbers groups.

A group is a pair (class, attribute). Groups are numbered class-major, as ``y * n_attributes + a``, so every pair has a
fixed number even if it has no samples. Attribute -1 ("belongs to none") gives group -1.
"""

import numpy as np

NO_GROUP = -1


def encode_groups(class_codes, attribute_codes, n_attributes):
    """Return ``class * n_attributes + attribute`` of each sample, or -1 if the attribute is -1."""
    class_codes = np.asarray(class_codes, dtype=np.int64)
    attribute_codes = np.asarray(attribute_codes, dtype=np.int64)
    if attribute_codes.size and attribute_codes.max() >= n_attributes:
        raise ValueError(
            f"Attribute {attribute_codes.max()} is out of range for n_attributes={n_attributes}."
        )
    return np.where(attribute_codes < 0, NO_GROUP, class_codes * n_attributes + attribute_codes)


def decode_groups(groups, n_attributes):
    """Return the class and the attribute of each group number; both are -1 for group -1."""
    groups = np.asarray(groups, dtype=np.int64)
    belongs = groups >= 0
    return (
        np.where(belongs, groups // n_attributes, NO_GROUP),
        np.where(belongs, groups % n_attributes, NO_GROUP),
    )


def cluster_of_class(clusters, class_codes):
    """Return one cluster per sample; from clusters per sample and class, select the column of the sample's class."""
    clusters = np.asarray(clusters, dtype=np.int64)
    if clusters.ndim == 1:
        return clusters
    return clusters[np.arange(len(clusters)), np.asarray(class_codes)]


def class_by_cluster(clusters, classes, class_codes):
    """Return the pseudo-group class x cluster of each sample, numbered by the clusters that occur."""
    # clusters : array-like of shape (n_samples,), or (n_samples, n_classes) if they were formed inside each class.
    clusters = np.asarray(clusters, dtype=np.int64)
    if clusters.ndim == 2 and clusters.shape[1] != len(classes):
        raise ValueError(
            f"The block 'cluster' has one column for each of {clusters.shape[1]} classes, but y holds "
            f"{len(classes)} classes. Fit on labels of the same classes that the clusters were formed within."
        )
    n_clusters = int(clusters.max(initial=0)) + 1
    return encode_groups(class_codes, cluster_of_class(clusters, class_codes), n_clusters)


def names_of_groups(classes, clusters, groups, cluster_names):
    """Return group -> name, such as "cat, cluster 0", from the class, cluster and group of each sample."""
    _, first = np.unique(groups, return_index=True)
    return {
        group: f"{name}, {cluster_names.get(cluster, f'cluster {cluster}')}"
        for name, cluster, group in zip(
            *(np.asarray(values)[first].tolist() for values in (classes, clusters, groups)), strict=True
        )
    }


def large_enough(sizes, min_group_size):
    """Return which groups have at least `min_group_size` samples, as a mask; raise if no group has."""
    large = sizes >= min_group_size
    if not large.any():
        raise ValueError(
            f"All {len(sizes)} groups have fewer than min_group_size={min_group_size} samples (largest: "
            f"{sizes.max()}). Use more samples or fewer groups, or lower `min_group_size`."
        )
    return large
