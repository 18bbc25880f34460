"""What every retraining strategy reads: the embedding, the classes and the groups."""

from typing import NamedTuple

import numpy as np
from sklearn.utils.validation import validate_data

from skexmap._blocks import CLUSTER, EMBEDDING, HEATMAP, block_names, detached, get_block, has_blocks
from skexmap._group_labels import NO_GROUP, class_by_cluster, cluster_of_class
from skexmap._validation import check_group_labels, check_one_label_each, in_a_group, refuse_columns
from skexmap.groups._diagnosis import warn_of_undivided_classes

FLOATS = (np.float64, np.float32)


class Samples(NamedTuple):
    """The samples of a fit that reads groups; classes and groups are numbered, group -1 is none."""

    embedding: np.ndarray
    classes: np.ndarray
    class_codes: np.ndarray
    groups: np.ndarray
    group_codes: np.ndarray
    # Whether the classes are the groups, because nothing else is given.
    groups_are_classes: bool

    @property
    def belongs(self):
        return self.group_codes >= 0

    @property
    def group_counts(self):
        return np.bincount(self.group_codes[self.belongs], minlength=len(self.groups))

    def take(self, rows):
        parts = ("embedding", "class_codes", "group_codes")
        return self._replace(**{part: getattr(self, part)[rows] for part in parts})


def check_samples(estimator, X, y, group_labels):
    """Return the checked input of `fit` of a strategy that reads groups."""
    embedding = check_embedding(estimator, X, reset=True)
    classes, class_codes = check_classes(estimator, y, len(embedding))
    groups = check_groups(estimator, X, embedding, classes, class_codes, group_labels)
    return Samples(embedding, classes, class_codes, *groups)


def check_embedding(estimator, X, *, reset, allow_nd=False):
    """Return the embedding as a finite float array, from the block of that name or from X itself."""
    if has_blocks(X):
        X = get_block(X, EMBEDDING, required_by=estimator)
    checks = {"dtype": FLOATS, "allow_nd": allow_nd, "ensure_min_samples": 2 if reset else 1}
    return validate_data(estimator, detached(X), reset=reset, **checks)


def check_classes(estimator, y, n_samples):
    """Return the sorted classes of y and the code of each sample's class."""
    name = type(estimator).__name__
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None.")
    y = check_one_label_each(y, n_samples)
    classes, class_codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        only = classes.tolist()[0]
        raise ValueError(f"{name} needs samples of at least 2 classes, but y holds only one class: {only!r}.")
    return classes, class_codes.astype(np.int64)


def check_groups(estimator, X, embedding, classes, class_codes, group_labels):
    """Return the groups that occur, the group of each sample (-1: none), and whether they are just the classes."""
    # The groups are `group_labels` if given, else class x ``cluster`` if X has that block, else the classes.
    blocks = block_names(X)
    if group_labels is not None:
        remedy = "Two columns of numbers make one group number: `a * (b.max() + 1) + b`."
        refuse_columns("group_labels", group_labels, "group", remedy)
        labels = check_group_labels(group_labels, len(class_codes))
    elif CLUSTER in blocks or HEATMAP in blocks:
        # If there are heatmaps but no clusters, the clusterer step is missing, and `get_block` raises.
        clusters = get_block(X, CLUSTER, required_by=estimator)
        labels = class_by_cluster(clusters, classes, class_codes)
        warn_of_undivided_classes(classes, class_codes, cluster_of_class(clusters, class_codes))
    else:
        _refuse_a_lone_cluster_column(estimator, embedding)
        return classes, class_codes, True
    belongs = in_a_group(labels)
    if not belongs.any():
        raise ValueError(
            f"All {len(class_codes)} samples belong to no group (-1), so nothing can be balanced. "
            "Use a clusterer that leaves fewer samples out."
        )
    group_codes = np.full(len(labels), NO_GROUP)
    groups, group_codes[belongs] = np.unique(labels[belongs], return_inverse=True)
    return groups, group_codes, False


def refuse_lost_classes(samples, where):
    """Raise ValueError if a class has no sample in any group."""
    classes = samples.classes
    lost = np.setdiff1d(np.arange(len(classes)), samples.class_codes[samples.belongs])
    if len(lost):
        raise ValueError(
            f"No sample of {len(lost)} of {len(classes)} classes ({classes[lost].tolist()}) is left to retrain on: "
            f"all belong to {where}."
        )


def _refuse_a_lone_cluster_column(estimator, embedding):
    """Raise if X is one column of cluster numbers, the result of a pipeline without `return_embedding=True`."""
    if embedding.shape[1] == 1 and (embedding == np.round(embedding)).all():
        raise ValueError(
            f"{type(estimator).__name__} got a single column of integers: the clusters of {len(embedding)} "
            "samples, not their embeddings. Set `return_embedding=True` on the HeatmapTransformer step, so "
            "that the embedding travels along with the cluster. If the column really is a feature, pass "
            "`group_labels` (`group_labels=y` makes the classes the groups)."
        )
