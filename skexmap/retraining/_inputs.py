"""What every retraining strategy reads: the embedding, the classes and the groups."""

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d, validate_data

from skexmap._blocks import (
    CLUSTER,
    EMBEDDING,
    HEATMAP,
    block_names,
    get_block,
    has_blocks,
)
from skexmap._group_labels import NO_GROUP, class_by_cluster, cluster_of_class
from skexmap._validation import check_group_labels
from skexmap.groups._diagnosis import warn_of_undivided_classes

FLOATS = (np.float64, np.float32)


def read_embedding(estimator, X, *, reset):
    """Return the embedding as a finite 2-D float array, from the block of that name or from plain 2-D X."""
    if has_blocks(X):
        X = get_block(X, EMBEDDING, required_by=estimator)
    return validate_data(estimator, X, reset=reset, dtype=FLOATS, ensure_min_samples=2 if reset else 1)


def read_classes(estimator, y, n_samples):
    """Return the sorted classes of y and the code of each sample's class."""
    name = type(estimator).__name__
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None.")
    y = column_or_1d(y, warn=True)
    if y.dtype.kind in "fc":
        # Checks for NaN and infinity; strings and integers cannot hold them.
        check_array(y, ensure_2d=False, input_name="y")
    if len(y) != n_samples:
        raise ValueError(f"y has {len(y)} entries for {n_samples} samples. Pass one label per sample.")
    check_classification_targets(y)
    classes, class_codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs samples of at least 2 classes, but y holds only one class: {classes.tolist()[0]!r}."
        )
    return classes, class_codes.astype(np.int64)


def read_groups(estimator, X, embedding, classes, class_codes, group_labels):
    """Return the group of each sample, or -1 if it belongs to none."""
    # In this order: `group_labels` as given are the groups; else class x ``cluster`` where X carries that block; else
    # the classes.
    blocks = block_names(X)
    if group_labels is not None:
        labels, origin = check_group_labels(group_labels, len(class_codes)), "group_labels"
    elif CLUSTER in blocks or HEATMAP in blocks:
        # Heatmaps without clusters are a forgotten clusterer step: get_block says so.
        clusters = get_block(X, CLUSTER, required_by=estimator)
        labels, origin = class_by_cluster(clusters, classes, class_codes), "clusters"
        warn_of_undivided_classes(classes, class_codes, cluster_of_class(clusters, class_codes))
    else:
        _refuse_a_lone_cluster_column(estimator, embedding)
        return classes, class_codes, "classes"
    groups, group_codes = np.unique(labels, return_inverse=True)
    if groups.dtype.kind in "iufO" and groups[0] == NO_GROUP:
        groups, group_codes = groups[1:], group_codes - 1
    if not len(groups):
        raise ValueError(
            f"All {len(class_codes)} samples belong to no group (-1), so nothing can be balanced. "
            "Use a clusterer that leaves fewer samples out."
        )
    return groups, group_codes.astype(np.int64), origin


def refuse_lost_classes(classes, codes_left, where):
    """Raise ValueError if a class has no sample left to retrain on."""
    lost = np.setdiff1d(np.arange(len(classes)), codes_left)
    if len(lost):
        raise ValueError(
            f"No sample of {len(lost)} of {len(classes)} classes ({classes[lost].tolist()}) is left to retrain on: "
            f"all belong to {where}."
        )


def _refuse_a_lone_cluster_column(estimator, embedding):
    """Recognise what a pipeline without `return_embedding=True` delivers: one column of cluster numbers."""
    if embedding.shape[1] == 1 and (embedding == np.round(embedding)).all():
        raise ValueError(
            f"{type(estimator).__name__} got a single column of integers: the clusters of {len(embedding)} "
            "samples, not their embeddings. Set `return_embedding=True` on the HeatmapTransformer step, so "
            "that the embedding travels along with the cluster. If the column really is a feature, pass "
            "`group_labels` (`group_labels=y` makes the classes the groups)."
        )


def read_weights(sample_weight, n_samples):
    """Return one finite, non-negative weight per sample; ones for None."""
    if sample_weight is None:
        return np.ones(n_samples)
    weight = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, copy=True, input_name="sample_weight"
    )
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight has the shape {weight.shape} for {n_samples} samples. Pass one weight per sample."
        )
    if (weight < 0).any():
        raise ValueError(
            f"{int((weight < 0).sum())} of {n_samples} sample weights are negative. Pass weights of at "
            "least 0."
        )
    if not weight.any():
        raise ValueError("Sample weights must contain at least one non-zero number: all are 0.")
    return weight
