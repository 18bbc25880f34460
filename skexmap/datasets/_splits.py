"""What every data set shares: exact attribute assignment, inks, splits and the Bunch that a split is."""

import numpy as np
from sklearn.utils import Bunch

from skexmap._group_labels import encode_groups

# Class 0 is mostly green and class 1 mostly red, as in coloured MNIST.
INK_NAMES = ("green", "red")
INKS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=np.float32)


def aligned_attribute(y, correlation, rng):
    """Draw a binary attribute that equals the class for an exact share of each class.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Class of each sample, 0 or 1.
    correlation : float in [0, 1]
        Share of each class whose attribute equals the class, rounded to whole samples.
    rng : numpy.random.RandomState
        Chooses the exceptions.

    Returns
    -------
    attribute : ndarray of shape (n_samples,), int64
    """
    attribute = y.astype(np.int64)
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        # An exact share, not a coin per image: the smallest groups would vary most between seeds otherwise.
        n_exceptions = len(members) - round(correlation * len(members))
        attribute[rng.permutation(members)[:n_exceptions]] = 1 - c
    return attribute


def group_names(class_names, attribute_names):
    """Return the names of all groups, numbered class-major, as "class, attribute"."""
    return [f"{c}, {a}" for c in class_names for a in attribute_names]


def make_split(data, target, attributes, *, target_names, attribute_names, **extra):
    """Return one split of a data set.

    Parameters
    ----------
    data : ndarray of shape (n_samples, ...)
        Images, or paths of images.
    target : ndarray of shape (n_samples,)
        Class of each sample, 0 to ``len(target_names) - 1``.
    attributes : ndarray of shape (n_samples,) or None
        Spurious attribute of each sample, 0 to ``len(attribute_names) - 1``; None where nobody recorded it.
    target_names : sequence of str
        Names of the classes.
    attribute_names : sequence of str or None
        Names of the attribute's values.
    **extra : object
        Further entries.

    Returns
    -------
    split : Bunch
        The arguments, `group_labels` (class-major) and `group_names`; these two are None without attributes.
    """
    known = attributes is not None
    return Bunch(
        data=data,
        target=target,
        attributes=attributes,
        group_labels=encode_groups(target, attributes, len(attribute_names)) if known else None,
        target_names=list(target_names),
        attribute_names=list(attribute_names) if known else None,
        group_names=group_names(target_names, attribute_names) if known else None,
        **extra,
    )


def add_frame(split, **columns):
    """Add `frame`, the split as a pandas DataFrame with a row per sample.

    Parameters
    ----------
    split : Bunch
        As `make_split` returns it, of paths.
    **columns : ndarray of shape (n_samples,)
        Further columns.

    Returns
    -------
    split : Bunch
        The same object.
    """
    # pandas is an optional dependency, and slow to import.
    import pandas as pd

    frame = pd.DataFrame({"path": split.data, "target": split.target})
    if split.attributes is not None:
        frame["attribute"] = split.attributes
        frame["group_label"] = split.group_labels
        frame["group_name"] = np.take(split.group_names, split.group_labels)
    split.frame = frame.assign(**columns)
    return split
