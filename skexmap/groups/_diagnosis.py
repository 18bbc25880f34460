"""Warnings about implausible pseudo-groups and predictions, each with its remedy."""

import warnings
from contextlib import contextmanager

import numpy as np

from skexmap.exceptions import ClassInOneClusterWarning, ConstantPredictionWarning, OneClusterWarning


def warn_of_undivided_classes(classes, class_codes, clusters, stacklevel=3):
    """Warn of classes that lie in one cluster."""
    if len(classes) < 2:
        # With one class, the clusters cannot be crossed with anything.
        return
    pairs = np.unique(np.column_stack([class_codes, clusters])[clusters >= 0], axis=0)
    undivided = classes[np.bincount(pairs[:, 0], minlength=len(classes)) == 1]
    if len(undivided) == len(classes):
        what = (
            "All samples lie in one cluster"
            if len(np.unique(pairs[:, 1])) == 1
            else f"Each of {len(classes)} classes lies in one cluster"
        )
        warnings.warn(
            f"{what}: the pseudo-groups are the classes, and a shortcut inside a class stays hidden. Ask for more "
            "clusters, cluster inside each class (`scope='local'`), or look at the heatmaps: there may be no shortcut.",
            OneClusterWarning,
            stacklevel=stacklevel,
        )
    elif len(undivided):
        warnings.warn(
            f"{len(undivided)} of {len(classes)} classes ({undivided[:5].tolist()}) lie in one cluster each: a "
            "shortcut inside them stays hidden. Ask for more clusters, or cluster inside each class (`scope='local'`).",
            ClassInOneClusterWarning,
            stacklevel=stacklevel,
        )


def warn_of_constant_predictions(predictions, who, remedy, stacklevel=3):
    """Warn if all predictions are the same."""
    if len(predictions) > 1 and (predictions == predictions[0]).all():
        warnings.warn(
            f"{who} predicts the same class ({predictions[0]!s}) for all {len(predictions)} samples. {remedy}",
            ConstantPredictionWarning,
            stacklevel=stacklevel,
        )


@contextmanager
def without_constant_prediction_warnings():
    """Silence the warning for a part of an estimator, because the estimator itself judges constant predictions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantPredictionWarning)
        yield
