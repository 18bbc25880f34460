"""Group metrics, reports and scorers."""

from skexmap.metrics._gaps import shortcut_gaps
from skexmap.metrics._group_metrics import mean_accuracy, worst_group_accuracy
from skexmap.metrics._purity import purity_score
from skexmap.metrics._report import group_report
from skexmap.metrics._scorers import make_worst_pseudo_group_scorer, worst_group_accuracy_scorer

__all__ = [
    "group_report",
    "make_worst_pseudo_group_scorer",
    "mean_accuracy",
    "purity_score",
    "shortcut_gaps",
    "worst_group_accuracy",
    "worst_group_accuracy_scorer",
]
