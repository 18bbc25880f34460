"""Display of the accuracy of each group, for one or several models."""

import numpy as np

from skexmap.display._base import ALARM, COLORS, INK, Display, shortened
from skexmap.metrics import group_report


class GroupAccuracyDisplay(Display):
    """Accuracy of each group with its 95% Wilson interval; the worst group of each model is marked.

    Parameters
    ----------
    reports : dict
        Name of a model -> result of `skexmap.metrics.group_report`. All reports are on the same groups.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        Where `plot` drew.

    Examples
    --------
    >>> from skexmap.display import GroupAccuracyDisplay
    >>> y_true, places = [0, 0, 1, 1], ["land", "land", "water", "water"]
    >>> y_pred = {"as trained": [0, 1, 1, 1], "repaired": [0, 0, 1, 1]}
    >>> display = GroupAccuracyDisplay.from_predictions(y_true, y_pred, group_labels=places)
    >>> {name: report.worst_group_accuracy for name, report in display.reports.items()}
    {'as trained': 0.5, 'repaired': 1.0}
    """

    def __init__(self, *, reports):
        self.reports = reports

    @classmethod
    def from_predictions(cls, y_true, y_pred, *, group_labels, names=None, ax=None):
        """Draw the accuracies of predictions; errors are those of `skexmap.metrics.group_report`.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True classes.
        y_pred : array-like of shape (n_samples,) or dict
            Predicted classes, or name of a model -> predicted classes.
        group_labels, names : as in `skexmap.metrics.group_report`
        ax : as in `plot`
        """
        predictions = y_pred if isinstance(y_pred, dict) else {"model": y_pred}
        options = {"group_labels": group_labels, "names": names}
        reports = {model: group_report(y_true, labels, **options) for model, labels in predictions.items()}
        return cls(reports=reports).plot(ax=ax)

    def _draw(self, ax):
        n_models, first = len(self.reports), next(iter(self.reports.values()))
        centers, width = np.arange(len(first.groups)), 0.8 / n_models
        for number, (model, report) in enumerate(self.reports.items()):
            at = centers + (number - (n_models - 1) / 2) * width
            color = COLORS[number % len(COLORS)]
            ax.barh(at, report.accuracies, height=0.9 * width, color=color, label=shortened(model))
            # Rounding may put an accuracy of 0 or 1 slightly outside of its interval.
            errors = np.maximum([report.accuracies - report.lower, report.upper - report.accuracies], 0)
            ax.errorbar(report.accuracies, at, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            worst = at[report.groups.index(report.worst_group)]
            text = f"worst: {report.worst_group_accuracy:.2f}"
            ax.text(1.02, worst, text, color=ALARM, fontsize="small", va="center")
        names = [f"{shortened(n)} ({size})" for n, size in zip(first.names, first.sizes, strict=True)]
        ax.set_yticks(centers, names)
        ax.set(xlim=(0, 1.2), xlabel="accuracy, with its 95% interval", ylabel="group (number of images)")
        ax.set_xticks(np.linspace(0, 1, 6))
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
        if n_models > 1:
            ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
        return 7.0, 1.2 + len(centers) * (0.15 + 0.2 * n_models)
