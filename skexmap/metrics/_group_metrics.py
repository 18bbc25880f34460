"""Accuracy of each group, and summaries over the groups."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from sklearn.utils import assert_all_finite, check_scalar
from sklearn.utils.multiclass import unique_labels

from skexmap._group_labels import large_enough
from skexmap._validation import check_group_labels, check_labels, check_sample_weight, in_a_group


def worst_group_accuracy(y_true, y_pred, *, group_labels, sample_weight=None, min_group_size=1) -> float:
    """Accuracy of the worst group.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted classes: integers or strings.
    group_labels : array-like of shape (n_samples,)
        Group of each sample: integers or strings. Samples of group -1 ("belongs to none") are left out.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample inside its group. Samples of weight 0 are left out. If None, all weights are 1.
    min_group_size : int, default=1
        Smallest group that can be the worst. Groups with fewer samples are left out.

    Returns
    -------
    accuracy : float from 0 to 1

    Raises
    ------
    ValueError
        If lengths differ, labels or weights are missing or not finite, no sample belongs to a group, or every group has
        fewer than `min_group_size` samples.

    References
    ----------
    S. Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, arXiv 1911.08731.

    Examples
    --------
    >>> from skexmap.metrics import worst_group_accuracy
    >>> worst_group_accuracy([0, 0, 1, 1], [0, 1, 1, 1], group_labels=[0, 0, 3, 3])
    0.5
    """
    correct = correct_predictions(y_true, y_pred)
    groups = membership(group_labels, len(correct), sample_weight)
    return float(groups.mean(correct)[large_groups(groups, min_group_size)].min())


def mean_accuracy(y_true, y_pred, *, group_labels, weights=None, sample_weight=None) -> float:
    """Mean accuracy, with groups weighted by given shares.

    The benchmarks of this field weight the accuracy of each test group by the group's share of the *training* set.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted classes: integers or strings.
    group_labels : array-like of shape (n_samples,)
        Group of each sample: integers or strings. Samples of group -1 ("belongs to none") are left out.
    weights : {None, "macro"}, dict or array-like of shape (n_groups,), default=None
        - a dict, group label -> share or count: usually ``Counter(training_group_labels)``;
        - an array: entry i is the share or count of group number i;
        - "macro": every group present has the same weight;
        - None: every sample has the same weight (the plain accuracy).

        Every group present needs a weight, and every group with a weight above 0 must be present.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample inside its group (and overall when `weights` is None).

    Returns
    -------
    accuracy : float from 0 to 1

    Raises
    ------
    ValueError
        As in `worst_group_accuracy`, and if groups and weights do not match.

    References
    ----------
    S. Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, section 3.

    Examples
    --------
    Group 3 has three quarters of the training set, but half of the test set:

    >>> from collections import Counter
    >>> from skexmap.metrics import mean_accuracy
    >>> y_true, y_pred, g = [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 3, 3]
    >>> mean_accuracy(y_true, y_pred, group_labels=g)
    0.75
    >>> mean_accuracy(y_true, y_pred, group_labels=g, weights=Counter([0, 3, 3, 3]))
    0.875
    """
    correct = correct_predictions(y_true, y_pred)
    groups = membership(group_labels, len(correct), sample_weight)
    return float(np.average(groups.mean(correct), weights=_weights_of(groups, weights)))


@dataclass(frozen=True)
class Membership:
    """Assignment of samples to groups: the sorted groups present, and each sample's position in them (-1 if none)."""

    labels: list
    codes: np.ndarray
    sample_weight: np.ndarray

    @property
    def sizes(self):
        """Number of samples per group, without samples of weight zero."""
        return np.bincount(self.codes[self.codes >= 0])

    def total(self, values):
        """Return the weighted sum of `values` per group."""
        inside = self.codes >= 0
        return np.bincount(self.codes[inside], (self.sample_weight * values)[inside])

    @property
    def weights(self):
        """Sum of the sample weights per group."""
        return self.total(1.0)

    def mean(self, values):
        """Return the weighted mean of `values` per group."""
        return self.total(values) / self.weights


def membership(group_labels, n_samples, sample_weight=None, *, name="group_labels"):
    """Assign the samples to groups; group -1 and samples of weight zero are left out."""
    group_labels = check_group_labels(group_labels, n_samples, name=name)
    if n_samples == 0:
        raise ValueError("There are 0 samples: no group has an accuracy.")
    or_weight = "" if sample_weight is None else " or have weight 0"
    sample_weight = check_sample_weight(sample_weight, n_samples)
    # Only the ratios matter. Scaled by a power of two, which changes no digit, no square overflows or vanishes.
    sample_weight = np.ldexp(sample_weight, -np.frexp(sample_weight.max())[1])
    inside = in_a_group(group_labels) & (sample_weight > 0)
    if not inside.any():
        raise ValueError(
            f"None of the {n_samples} samples belongs to a group: all `{name}` are -1{or_weight}."
        )
    labels, codes_inside = np.unique(group_labels[inside], return_inverse=True)
    codes = np.full(n_samples, -1)
    codes[inside] = codes_inside
    return Membership(labels.tolist(), codes, sample_weight)


def correct_predictions(y_true, y_pred):
    """Return which predictions are right, as a float array of shape (n_samples,)."""
    y_true = check_labels(y_true, name="y_true", warn=False)
    y_pred = check_labels(y_pred, name="y_pred", warn=False)
    if len(y_true) != len(y_pred):
        raise ValueError(f"`y_true` has {len(y_true)} entries, `y_pred` has {len(y_pred)}.")
    # NaN, continuous scores, and strings mixed with numbers would silently count as wrong.
    assert_all_finite(y_true, input_name="y_true")
    assert_all_finite(y_pred, input_name="y_pred")
    if len(y_true):
        unique_labels(y_true, y_pred)
    return (y_true == y_pred).astype(np.float64)


def large_groups(groups, min_group_size):
    """Return which groups have at least `min_group_size` samples; raise if no group has."""
    check_scalar(min_group_size, "min_group_size", Integral, min_val=1)
    return large_enough(groups.sizes, min_group_size)


def _weights_of(groups, weights):
    """Return one weight per group present, from the `weights` of `mean_accuracy`."""
    if weights is None:
        return groups.weights
    if isinstance(weights, str):
        if weights != "macro":
            raise ValueError(f"`weights` must be None, 'macro', a dict or an array, got {weights!r}.")
        return np.ones(len(groups.labels))
    if not hasattr(weights, "items"):
        weights = dict(enumerate(np.asarray(weights, dtype=np.float64).ravel().tolist()))
    # Use `items` instead of iteration, so that a pandas Series of shares works too.
    weights = {key: float(weight) for key, weight in weights.items() if in_a_group(key)}
    wrong = [key for key, weight in weights.items() if not 0 <= weight < np.inf]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(weights)} `weights` are negative, NaN or infinite: {wrong[:5]}."
        )
    if not any(weights.values()):
        raise ValueError(
            f"All {len(weights)} `weights` are 0. Give a group that is present a weight above 0."
        )
    unweighted = [label for label in groups.labels if label not in weights]
    if unweighted:
        raise ValueError(
            f"{len(unweighted)} of {len(groups.labels)} groups have no entry in `weights`: {unweighted[:5]}. "
            "Give them a weight (0 if the training set has no such sample)."
        )
    absent = [key for key, weight in weights.items() if weight > 0 and key not in groups.labels]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(weights)} groups in `weights` have no sample to be scored: {absent[:5]}. "
            "Their accuracy is unknown; score samples of them too, or set their weight to 0."
        )
    return np.array([weights[label] for label in groups.labels])
