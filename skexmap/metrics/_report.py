"""A table of all groups with sizes, accuracies and intervals."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from skexmap.metrics._group_metrics import correct_predictions, large_groups, membership

CONFIDENCE = 0.95


def group_report(y_true, y_pred, *, group_labels, sample_weight=None, names=None, min_group_size=1):
    """Size, accuracy and 95% confidence interval of every group, with the worst marked.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted classes: integers or strings.
    group_labels : array-like of shape (n_samples,)
        Group of each sample: integers or strings. Samples of group -1 ("belongs to none") are left out and counted.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample inside its group. The interval then uses Kish's effective size, (sum w)^2 / sum w^2.
    names : dict or list of str, default=None
        Name of each group: group label -> name, or, for groups numbered from 0, a list. Groups without a name show
        their label.
    min_group_size : int, default=1
        Smallest group that can be the worst. Groups with fewer samples are shown as too small to judge.

    Returns
    -------
    report : GroupReport
        Prints as an aligned table. Its attributes are

        ``groups``, ``names`` : list of length n_groups
            Labels of the groups present, sorted, and their names in the table.
        ``sizes`` : ndarray of shape (n_groups,), int64
            Number of samples.
        ``accuracies``, ``lower``, ``upper`` : ndarray of shape (n_groups,), float64
            Accuracy from 0 to 1, and the ends of its 95% Wilson interval.
        ``worst_group``, ``worst_group_accuracy`` : int or str, and float
            The worst group among those with at least `min_group_size` samples; in a tie, the first.
        ``macro_mean``, ``plain_mean`` : float
            Mean of the groups' accuracies with equal weights, and accuracy over all samples that belong to a group.
        ``min_group_size``, ``n_left_out`` : int
            The parameter, and the number of samples of group -1 or of weight 0.

    Raises
    ------
    ValueError
        As in `worst_group_accuracy`.

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
    # Kish's effective size: unequal weights carry less information.
    lower, upper = wilson_interval(accuracies, groups.weights**2 / groups.total(groups.sample_weight))
    large = large_groups(groups, min_group_size)
    worst = int(np.where(large, accuracies, np.inf).argmin())
    return GroupReport(
        groups=groups.labels,
        names=[name_of(label, names) for label in groups.labels],
        sizes=groups.sizes,
        accuracies=accuracies,
        lower=lower,
        upper=upper,
        worst_group=groups.labels[worst],
        worst_group_accuracy=float(accuracies[worst]),
        macro_mean=float(accuracies.mean()),
        plain_mean=float(np.average(accuracies, weights=groups.weights)),
        min_group_size=min_group_size,
        n_left_out=int(np.sum(groups.codes < 0)),
    )


def wilson_interval(rate, size):
    """Return the ends of Wilson's interval for a rate of `size` samples (JASA 22, 1927); of 0 samples, 0 and 1."""
    z2 = ndtri((1 + CONFIDENCE) / 2) ** 2
    rate = np.where(np.equal(size, 0), 0.5, rate)
    center = (rate * size + z2 / 2) / (size + z2)
    half = np.sqrt(z2 * (rate * (1 - rate) * size + z2 / 4)) / (size + z2)
    # At a rate of 0 or 1, rounding could put an end slightly outside.
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def name_of(label, names):
    """Return the name of a group, from a dict or a list of names; without a name, its label as text."""
    if names is None:
        return str(label)
    if not hasattr(names, "keys"):
        names = dict(enumerate(names))
    return str(names.get(label, label))


@dataclass(frozen=True, eq=False, repr=False)
class GroupReport:
    """Result of `group_report`; prints as an aligned table."""

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

    def __repr__(self):
        rows = [["group", "size", "accuracy", f"{CONFIDENCE:.0%} interval", ""]]
        for group, name, size, accuracy, lower, upper in zip(
            self.groups, self.names, self.sizes, self.accuracies, self.lower, self.upper, strict=True
        ):
            row = [name, str(size), f"{accuracy:.3f}", f"{lower:.3f} to {upper:.3f}"]
            rows.append([*row, self._remark(group, size)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, "<>><<", widths, strict=True))
            for row in rows
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

    def _remark(self, group, size):
        if group == self.worst_group:
            return "<- worst"
        return "too small to judge" if size < self.min_group_size else ""
