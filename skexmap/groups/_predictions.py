"""The frozen model's predictions as codes of the classes in y."""

import numpy as np
from sklearn.metrics.cluster import contingency_matrix

from skexmap.groups._diagnosis import better_numbering

# What to do if the block ``predicted`` does not hold the labels of y.
NAME_THE_LOGITS = (
    "pass the label of each logit as `classes` to the HeatmapTransformer (or ExMapClassifier), or pass y to its `fit`. "
    "PseudoGroupLabeler(merge_alpha=None) needs no predictions."
)


def codes_of_labels(labels, classes):
    """Return the position of each label among the sorted classes; -1 for unknown labels."""
    # A dict can look up text among numbers; a sorted array cannot.
    codes = {label: code for code, label in enumerate(classes.tolist())}
    return np.array([codes.get(label, -1) for label in np.asarray(labels).tolist()], dtype=np.int64)


def codes_in_block(predicted, classes):
    """Return the codes in a block ``predicted``: labels that are numbers are looked up, others are codes already."""
    if classes.dtype.kind in "iufb":
        return codes_of_labels(predicted, classes)
    return np.where(np.asarray(predicted) < len(classes), predicted, -1)


def refuse_unknown(predicted, codes, classes, class_codes, remedy):
    """Raise ValueError if the model predicts none of the classes, or if its predictions are numbered differently."""
    n, n_unknown = len(codes), int(np.sum(codes < 0))
    if n_unknown == n:
        raise ValueError(
            f"None of the model's {n} predictions is one of the {len(classes)} classes in y ({classes.tolist()[:5]}). "
            f"If its logits stand for other labels than assumed, {remedy}"
        )
    n_right = int(np.sum(codes == class_codes))
    numbering = better_numbering(contingency_matrix(predicted, class_codes), n_right) if n_unknown else None
    if numbering is not None:
        rows, columns, n_explained = numbering
        values = np.unique(predicted)
        raise ValueError(
            f"{n_unknown} of the model's {n} predictions are not among the {len(classes)} classes in y "
            f"({classes.tolist()[:5]}). If {values[rows].tolist()[:5]} stand for {classes[columns].tolist()[:5]}, it "
            f"is right for {n_explained / n:.1%}, and for {n_right / n:.1%} as they are now: then {remedy}"
        )
