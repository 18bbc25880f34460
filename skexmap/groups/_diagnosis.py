"""Warnings about implausible pseudo-groups and predictions, each with its remedy."""

import warnings
from contextlib import contextmanager

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from skexmap._validation import warn
from skexmap.exceptions import ClusteringWarning, PredictionWarning

# p-value below which a model's accuracy differs from that of the most frequent class alone.
INACCURATE = 0.001


def warn_of_undivided_classes(classes, class_codes, clusters):
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
        warn(
            f"{what}: the pseudo-groups are the classes, and a shortcut inside a class stays hidden. Use more "
            "clusters, cluster inside each class (`scope='local'`), or look at the heatmaps: there may be no shortcut.",
            ClusteringWarning,
        )
    elif len(undivided):
        warn(
            f"{len(undivided)} of {len(classes)} classes ({undivided[:5].tolist()}) lie in one cluster each: a "
            "shortcut inside them stays hidden. Use more clusters, or cluster inside each class (`scope='local'`).",
            ClusteringWarning,
        )


def warn_of_constant_predictions(predictions, who, remedy):
    """Warn if all predictions are the same."""
    if len(predictions) > 1 and (predictions == predictions[0]).all():
        warn(
            f"{who} predicts the same class ({predictions[0]!s}) for all {len(predictions)} samples. {remedy}",
            PredictionWarning,
        )


def warn_of_frozen_model(name, classes, codes, y, *, standardized=True):
    """Warn if the frozen model always predicts one class, or is less accurate than the most frequent class alone."""
    labels, y_codes = np.unique(y, return_inverse=True)
    if len(labels) < 2:
        return
    remedy = "Check that its weights were loaded, and that the images are scaled as in its training."
    if len(codes) > 1 and (codes == codes[0]).all():
        who = f"The frozen model ({name})"
        remedy = f"Its heatmaps then reveal little about the groups. {remedy}"
        warn_of_constant_predictions(classes[codes], who, remedy)
        return
    n, right, most = len(y), int(np.sum(classes[codes] == y)), int(np.bincount(y_codes).max())
    counts = np.zeros((len(classes), len(labels)), dtype=int)
    np.add.at(counts, (codes, y_codes), 1)
    numbering = better_numbering(counts, right) if len(labels) == len(classes) else None
    if numbering is None and not _differs(right, n, most, "less"):
        return
    if numbering is not None:
        _, columns, explained = numbering
        remedy = (
            f"If its logits stand for {labels[columns].tolist()}, in this order, it is right for {explained / n:.1%}: "
            "then pass that as `classes`."
        )
    elif not standardized:
        remedy += (
            " No pixel of the first images is negative. If the model was trained on standardized images, standardize"
            " these too (`ImageNetTransform` does it for ImageNet)."
        )
    warn(
        f"The frozen model ({name}) is right for {right / n:.1%} of {n} images, but the most frequent class alone "
        f"would be right for {most / n:.1%}. Its logits are taken to stand for {classes.tolist()[:10]}. {remedy}",
        PredictionWarning,
    )


def better_numbering(counts, n_right):
    """Return which predictions explain which classes, and how many images; None if they explain too few."""
    # `counts` has a row for each prediction and a column for each class. Renumbering must explain more than the most
    # frequent class, and the predictions as they are must not.
    most = int(counts.sum(axis=0).max())
    rows, columns = linear_sum_assignment(counts, maximize=True)
    n_explained = int(counts[rows, columns].sum())
    if n_right > most or not _differs(n_explained, int(counts.sum()), most, "greater"):
        return None
    return rows, columns, n_explained


def _differs(right, n, most, alternative):
    """Return whether a number of right answers is too small, or too large, for the share of the most frequent class."""
    return binomtest(right, n, most / n, alternative=alternative).pvalue < INACCURATE


@contextmanager
def without_constant_prediction_warnings():
    """Silence the warning for a part of an estimator, because the estimator itself judges constant predictions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        yield
