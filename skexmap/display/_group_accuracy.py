"""Display of the accuracy of each group, for one or several models."""

import numpy as np

from skexmap.display._style import ALARM, COLORS, INK, axes_for, shortened
from skexmap.metrics import group_report


class GroupAccuracyDisplay:
    """Accuracy of each group with its 95% Wilson interval; the worst group of each model is marked.

    Create it with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    reports : dict
        Name of a model -> result of `skexmap.metrics.group_report`. All reports are on the same groups.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes, after `plot`.
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.

    See Also
    --------
    skexmap.metrics.group_report : The same figures as a table.

    Examples
    --------
    >>> from skexmap.display import GroupAccuracyDisplay
    >>> display = GroupAccuracyDisplay.from_predictions(
    ...     [0, 0, 1, 1],
    ...     {"before": [0, 1, 1, 1], "after": [0, 0, 1, 1]},
    ...     group_labels=["land", "land", "water", "water"],
    ... )
    >>> {name: report.worst_group_accuracy for name, report in display.reports.items()}
    {'before': 0.5, 'after': 1.0}
    """

    def __init__(self, *, reports):
        self.reports = reports

    @classmethod
    def from_estimator(cls, estimator, X, y, *, group_labels, group_names=None, min_group_size=1, ax=None):
        """Predict with one or several fitted classifiers and draw their accuracies.

        Parameters
        ----------
        estimator : classifier or dict
            Fitted classifier, or name -> fitted classifier.
        X : as for the classifiers
            Images.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels, group_names, min_group_size
            As `group_labels`, `names` and `min_group_size` of `skexmap.metrics.group_report`.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : GroupAccuracyDisplay
        """
        models = estimator if isinstance(estimator, dict) else {type(estimator).__name__: estimator}
        return cls.from_predictions(
            y,
            {name: model.predict(X) for name, model in models.items()},
            group_labels=group_labels,
            group_names=group_names,
            min_group_size=min_group_size,
            ax=ax,
        )

    @classmethod
    def from_predictions(cls, y_true, y_pred, *, group_labels, group_names=None, min_group_size=1, ax=None):
        """Draw the accuracies of predictions that are given.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True classes.
        y_pred : array-like of shape (n_samples,) or dict
            Predicted classes, or name of a model -> predicted classes.
        group_labels, group_names, min_group_size
            As `group_labels`, `names` and `min_group_size` of `skexmap.metrics.group_report`.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : GroupAccuracyDisplay

        Raises
        ------
        ValueError
            As in `skexmap.metrics.group_report`, or if there is no model.
        """
        predictions = y_pred if isinstance(y_pred, dict) else {"model": y_pred}
        if not predictions:
            raise ValueError("There is no model to show: the dict of models is empty.")
        options = {"group_labels": group_labels, "names": group_names, "min_group_size": min_group_size}
        return cls(
            reports={name: group_report(y_true, values, **options) for name, values in predictions.items()}
        ).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : GroupAccuracyDisplay
        """
        first = next(iter(self.reports.values()))
        n_groups, n_models = len(first.groups), len(self.reports)
        ax = axes_for(self, ax, 7.0, 1.2 + n_groups * (0.15 + 0.2 * n_models))
        width = 0.8 / n_models
        handles = []
        for number, report in enumerate(self.reports.values()):
            at = np.arange(n_groups) + (number - (n_models - 1) / 2) * width
            color = COLORS[number % len(COLORS)]
            handles.append(ax.barh(at, report.accuracies, height=0.9 * width, color=color))
            # Rounding may put an accuracy of 0 or 1 slightly outside of its interval.
            errors = np.maximum([report.accuracies - report.lower, report.upper - report.accuracies], 0)
            ax.errorbar(report.accuracies, at, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            worst = report.groups.index(report.worst_group)
            text = f"worst: {report.worst_group_accuracy:.2f}"
            ax.text(1.02, at[worst], text, color=ALARM, fontsize="small", va="center")
        names = [f"{shortened(n)} ({size})" for n, size in zip(first.names, first.sizes, strict=True)]
        ax.set_yticks(np.arange(n_groups), names)
        ax.set_xlim(0, 1.2)
        ax.set_xticks(np.linspace(0, 1, 6))
        ax.invert_yaxis()
        ax.set_xlabel("accuracy, with its 95% interval")
        ax.spines[["top", "right"]].set_visible(False)
        if n_models > 1:
            names = [shortened(name) for name in self.reports]
            ax.legend(handles, names, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
        return self
