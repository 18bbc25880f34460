"""Class x attribute arithmetic: the only place that numbers groups.

A group is a pair (class, attribute). Groups are numbered class-major: group ``y * n_attributes + a``, so that every
pair has a fixed number whether or not a sample of it exists. Attribute -1 ("belongs to none") makes group -1.
"""

import numpy as np

NO_GROUP = -1


def encode_groups(class_codes, attribute_codes, n_attributes):
    """Return ``class * n_attributes + attribute`` for each sample, or -1 where the attribute is -1 (none)."""
    class_codes = np.asarray(class_codes, dtype=np.int64)
    attribute_codes = np.asarray(attribute_codes, dtype=np.int64)
    if attribute_codes.size and attribute_codes.max() >= n_attributes:
        raise ValueError(
            f"Attribute {attribute_codes.max()} is out of range for n_attributes={n_attributes}."
        )
    return np.where(attribute_codes < 0, NO_GROUP, class_codes * n_attributes + attribute_codes)


def decode_groups(groups, n_attributes):
    """Return the class and the attribute of each group number (both -1 for group -1)."""
    groups = np.asarray(groups, dtype=np.int64)
    belongs = groups >= 0
    return (
        np.where(belongs, groups // n_attributes, NO_GROUP),
        np.where(belongs, groups % n_attributes, NO_GROUP),
    )


def cluster_of_class(clusters, class_codes):
    """Return one cluster per sample; `clusters` has one, or one per class, of which the sample's class picks."""
    clusters = np.asarray(clusters, dtype=np.int64)
    if clusters.ndim == 1:
        return clusters
    return clusters[np.arange(len(clusters)), np.asarray(class_codes)]
