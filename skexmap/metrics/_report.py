"""A table of all groups with sizes, accuracies and intervals."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from skexmap._group_labels import large_enough
from skexmap.metrics._group_metrics import check_min_group_size, correct_predictions, membership

CONFIDENCE = 0.95


def wilson_interval(rate, size):
    """Return the ends of Wilson's interval for a rate of `size` samples (JASA 22, 1927, pages 209-212)."""
    z = ndtri((1 + CONFIDENCE) / 2)
    center = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(rate * (1 - rate) / size + z**2 / (4 * size**2))
    # At a rate of 0 or 1, rounding could put an end slightly outside.
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


@dataclass(frozen=True, eq=False, repr=False)
class GroupReport:
    """Result of `group_report`; prints as an aligned table.

    Attributes
    ----------
    groups : list of length n_groups
        Labels of the groups present, sorted.
    names : list of str of length n_groups
        Their names in the table.
    sizes : ndarray of shape (n_groups,), int64
        Number of samples.
    accuracies : ndarray of shape (n_groups,), float64
        Accuracy, 0 to 1.
    lower, upper : ndarray of shape (n_groups,), float64
        Ends of the 95% Wilson interval.
    worst_group : int or str
        Label of the worst group among those with at least `min_group_size` samples; in a tie, the first.
    worst_group_accuracy : float
        Its accuracy.
    macro_mean : float
        Mean of the groups' accuracies, with equal weights.
    plain_mean : float
        Accuracy over all samples that belong to a group.
    min_group_size : int
        Smallest group that can be the worst.
    n_left_out : int
        Number of samples of group -1 or of weight 0.
    """

    groups: list
    names: list
    sizes: np.ndarray
    accuracies: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    worst_group: object
    worst_group_accuracy: float
    macro_mean: float
    plain_mean: float
    min_group_size: int
    n_left_out: int

    def __str__(self):
        header = ["group", "size", "accuracy", f"{CONFIDENCE:.0%} interval", ""]
        rows = [
            [name, str(size), f"{accuracy:.3f}", f"{lower:.3f} to {upper:.3f}", self._remark(group, size)]
            for group, name, size, accuracy, lower, upper in zip(
                self.groups, self.names, self.sizes, self.accuracies, self.lower, self.upper, strict=True
            )
        ]
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(5)]
        lines = [
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, "<>><<", widths, strict=True))
            for row in [header, *rows]
        ]
        lines += [
            "",
            f"worst-group accuracy  {self.worst_group_accuracy:.3f}",
            f"macro mean            {self.macro_mean:.3f}",
            f"plain mean            {self.plain_mean:.3f}",
        ]
        if self.n_left_out:
            lines.append(f"{self.n_left_out} samples that belong to no group are left out")
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _remark(self, group, size):
        if group == self.worst_group:
            return "<- worst"
        return "too small to judge" if size < self.min_group_size else ""


def group_report(y_true, y_pred, *, group_labels, sample_weight=None, names=None, min_group_size=1):
    """Size, accuracy and 95% confidence interval of every group, with the worst marked.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes: integers or strings.
    y_pred : array-like of shape (n_samples,)
        Predicted classes.
    group_labels : array-like of shape (n_samples,)
        Group of each sample: integers or strings. Samples of group -1 ("belongs to none") are left out and
        counted.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample inside its group. The interval then uses Kish's effective size, (sum w)^2 / sum
        w^2.
    names : dict or list of str, default=None
        Name of each group in the table: group label -> name, or, for groups numbered from 0, a list. Groups
        without a name show their label.
    min_group_size : int, default=1
        Smallest group that can be the worst. Groups with fewer samples are shown as too small to judge.

    Returns
    -------
    report : GroupReport
        Prints as an aligned table.

    Raises
    ------
    ValueError
        As in `worst_group_accuracy`.

    See Also
    --------
    mean_accuracy : Mean accuracy with the groups weighted as in the training set.

    Examples
    --------
    >>> from skexmap.metrics import group_report
    >>> y_true = [0] * 6 + [1] * 4
    >>> y_pred = [0] * 5 + [1] + [1] * 2 + [0] * 2
    >>> group_report(y_true, y_pred, group_labels=["land"] * 6 + ["water"] * 4)
    group  size  accuracy  95% interval
    land      6     0.833  0.436 to 0.970
    water     4     0.500  0.150 to 0.850  <- worst
    <BLANKLINE>
    worst-group accuracy  0.500
    macro mean            0.667
    plain mean            0.700
    """
    correct = correct_predictions(y_true, y_pred)
    groups = membership(group_labels, len(correct), sample_weight)
    accuracies = groups.mean(correct)
    weights = groups.total(np.ones(len(correct)))
    # Kish's effective size: unequal weights carry less information.
    lower, upper = wilson_interval(accuracies, weights**2 / groups.total(groups.sample_weight))
    large = large_enough(groups.sizes, check_min_group_size(min_group_size))
    worst = int(np.where(large, accuracies, np.inf).argmin())
    return GroupReport(
        groups=groups.labels,
        names=[_name_of(label, names) for label in groups.labels],
        sizes=groups.sizes,
        accuracies=accuracies,
        lower=lower,
        upper=upper,
        worst_group=groups.labels[worst],
        worst_group_accuracy=float(accuracies[worst]),
        macro_mean=float(accuracies.mean()),
        plain_mean=float(np.average(accuracies, weights=weights)),
        min_group_size=min_group_size,
        n_left_out=int(np.sum(groups.codes < 0)),
    )


def _name_of(label, names):
    if hasattr(names, "keys"):
        return str(names[label]) if label in names else str(label)
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        return str(names[label])
    return str(label)
