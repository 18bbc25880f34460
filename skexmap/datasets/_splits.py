"""Code that all data sets share: exact attribute assignment, inks and splits."""

import numpy as np
from sklearn.utils import Bunch

from skexmap._group_labels import encode_groups

# Class 0 is mostly green and class 1 mostly red, as in colored MNIST.
INK_NAMES = ("green", "red")
INKS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=np.float32)


def aligned_attribute(y, agreement, rng, n_values=2):
    """Draw an attribute that equals the class for an exact share of each class; the rest is spread evenly."""
    attribute = y.astype(np.int64)
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        # Use an exact share: with a draw per sample, the smallest groups would vary most between seeds.
        n_exceptions = len(members) - round(agreement * len(members))
        steps = 1 + np.arange(n_exceptions) % (n_values - 1)
        attribute[rng.permutation(members)[:n_exceptions]] = (c + steps) % n_values
    return attribute


def make_split(data, target, attributes, *, target_names, attribute_names, **extra):
    """Return a split as a Bunch of the arguments, `group_labels` (class-major) and `group_names`; None if unknown."""
    known = attributes is not None
    return Bunch(
        data=data,
        target=target,
        attributes=attributes,
        group_labels=encode_groups(target, attributes, len(attribute_names)) if known else None,
        target_names=list(target_names),
        attribute_names=list(attribute_names) if known else None,
        group_names=[f"{c}, {a}" for c in target_names for a in attribute_names] if known else None,
        **extra,
    )
