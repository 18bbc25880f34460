"""The frozen model's predictions as codes of the classes in y."""

import numpy as np


def codes_of_labels(labels, classes):
    """Return the position of each label among the sorted classes; -1 for unknown labels."""
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[codes] == labels, codes, -1)


def codes_in_block(predicted, classes):
    """Return the codes in a block ``predicted``: labels that are numbers are looked up, others are codes already."""
    return codes_of_labels(predicted, classes) if classes.dtype.kind in "iufb" else np.asarray(predicted)


def refuse_unknown(codes, classes, remedy):
    """Raise ValueError if the model predicts none of the classes."""
    if (codes < 0).all():
        raise ValueError(
            f"The model's logits do not belong to the {len(classes)} classes in y, so its predictions are not "
            f"known. {remedy}"
        )
