"""All groups at a glance."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from skexmap.metrics._group_metrics import check_weights, correct_predictions, large_enough, membership


def wilson_interval(accuracy, size, confidence=0.95):
    """Wilson's interval of a rate.

    Parameters
    ----------
    accuracy : array-like
        Observed rates, 0 to 1.
    size : array-like
        Numbers of samples behind them.
    confidence : float, default=0.95
        Share of such intervals that hold the true rate.

    Returns
    -------
    lower, upper : ndarray

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927)
    209-212.

    Examples
    --------
    >>> from skexmap.metrics import wilson_interval
    >>> lower, upper = wilson_interval(0.9, 10)
    >>> round(float(lower), 3), round(float(upper), 3)
    (0.596, 0.982)
    """
    accuracy, size = np.asarray(accuracy, dtype=np.float64), np.asarray(size, dtype=np.float64)
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1, got {confidence!r}.")
    z = ndtri((1 + confidence) / 2)
    centre = (accuracy + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(accuracy * (1 - accuracy) / size + z**2 / (4 * size**2))
    # At a rate of 0 or 1 rounding would leave the end an epsilon outside.
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


@dataclass(frozen=True, eq=False, repr=False)
class GroupReport:
    """What `group_report` found; prints as an aligned table.

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
        Ends of the Wilson interval.
    confidence : float
        Confidence level of the intervals.
    worst_group : int or str
        Label of the worst group among those of at least `min_group_size` samples; the first if several tie.
    worst_group_accuracy : float
        Its accuracy.
    macro_mean : float
        Mean of the groups' accuracies, every group alike.
    plain_mean : float
        Accuracy over all samples that belong to a group.
    training_weighted_mean : float or None
        Mean weighted by the shares given as `weights`; None when none were given.
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
    confidence: float
    worst_group: object
    worst_group_accuracy: float
    macro_mean: float
    plain_mean: float
    training_weighted_mean: float | None
    min_group_size: int = 1
    n_left_out: int = field(default=0)

    def __str__(self):
        header = ["group", "size", "accuracy", f"{self.confidence:.0%} interval", ""]
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
        means = {
            "worst-group accuracy": self.worst_group_accuracy,
            "macro mean": self.macro_mean,
            "plain mean": self.plain_mean,
            "training-weighted mean": self.training_weighted_mean,
        }
        lines += ["", *(f"{name:<22}  {value:.3f}" for name, value in means.items() if value is not None)]
        if self.n_left_out:
            lines.append(f"{self.n_left_out} samples that belong to no group are left out")
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _remark(self, group, size):
        if group == self.worst_group:
            return "<- worst"
        return "too small to judge" if size < self.min_group_size else ""

    def to_frame(self):
        """Return the table as a pandas DataFrame.

        Returns
        -------
        frame : pandas.DataFrame of shape (n_groups, 6)
            Indexed by group label, with columns name, size, accuracy, lower, upper, worst (bool).

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        # pandas is an optional dependency, and slow to import.
        import pandas as pd

        return pd.DataFrame(
            {
                "name": self.names,
                "size": self.sizes,
                "accuracy": self.accuracies,
                "lower": self.lower,
                "upper": self.upper,
                "worst": [group == self.worst_group for group in self.groups],
            },
            index=pd.Index(self.groups, name="group"),
        )


def group_report(
    y_true,
    y_pred,
    *,
    group_labels,
    weights=None,
    sample_weight=None,
    names=None,
    min_group_size=1,
    confidence=0.95,
):
    """Size, accuracy and confidence interval of every group, the worst marked.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes: integers or strings.
    y_pred : array-like of shape (n_samples,)
        Predicted classes.
    group_labels : array-like of shape (n_samples,)
        Group of each sample: integers or strings. Samples of group -1 ("belongs to none") are left out and
        counted.
    weights : dict or array-like of shape (n_groups,), default=None
        Shares or counts of the groups in the training set, as `mean_accuracy` takes them; for the
        training-weighted mean.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample inside its group. The interval then uses Kish's effective size, (sum w)^2 / sum
        w^2.
    names : dict or list of str, default=None
        Name of each group in the table: group label -> name, or, for groups numbered from 0, a list. Groups
        without a name show their label.
    min_group_size : int, default=1
        Smallest group that can be the worst. Groups with fewer samples are shown as too small to judge.
    confidence : float, default=0.95
        Confidence level of the Wilson intervals.

    Returns
    -------
    report : GroupReport
        Prints as an aligned table; ``report.to_frame()`` is a DataFrame.

    Raises
    ------
    ValueError
        As `worst_group_accuracy` and `mean_accuracy` do.

    Examples
    --------
    >>> from skexmap.metrics import group_report
    >>> y_true = [0] * 6 + [1] * 4
    >>> y_pred = [0] * 5 + [1] + [1] * 2 + [0] * 2
    >>> g = ["land"] * 6 + ["water"] * 4
    >>> group_report(y_true, y_pred, group_labels=g, weights={"land": 9, "water": 1})
    group  size  accuracy  95% interval
    land      6     0.833  0.436 to 0.970
    water     4     0.500  0.150 to 0.850  <- worst
    <BLANKLINE>
    worst-group accuracy    0.500
    macro mean              0.667
    plain mean              0.700
    training-weighted mean  0.800
    """
    correct = correct_predictions(y_true, y_pred)
    groups = membership(group_labels, len(correct), sample_weight)
    accuracies = groups.mean(correct)
    # Kish: unequal weights tell less than their number says.
    effective_sizes = groups.total(np.ones(len(correct))) ** 2 / groups.total(groups.sample_weight)
    lower, upper = wilson_interval(accuracies, effective_sizes, confidence)
    worst = int(np.where(large_enough(groups, min_group_size), accuracies, np.inf).argmin())
    return GroupReport(
        groups=groups.labels,
        names=[_name_of(label, names) for label in groups.labels],
        sizes=groups.sizes,
        accuracies=accuracies,
        lower=lower,
        upper=upper,
        confidence=confidence,
        worst_group=groups.labels[worst],
        worst_group_accuracy=float(accuracies[worst]),
        macro_mean=float(accuracies.mean()),
        plain_mean=float(np.average(accuracies, weights=check_weights(None, groups))),
        training_weighted_mean=(
            None if weights is None else float(np.average(accuracies, weights=check_weights(weights, groups)))
        ),
        min_group_size=min_group_size,
        n_left_out=int(np.sum(groups.codes < 0)),
    )


def _name_of(label, names):
    if hasattr(names, "keys"):
        return str(names[label]) if label in names else str(label)
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        return str(names[label])
    return str(label)
