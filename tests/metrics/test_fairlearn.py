"""The recipe of the docs page, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from skexmap.metrics import group_report, worst_group_accuracy

pytest.importorskip("fairlearn")

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


def recipe():
    """Return the code block below the heading "With fairlearn"."""
    section = PAGE.read_text().split("### With fairlearn")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_fairlearns_metric_frame_finds_the_same_worst_group():
    rng = np.random.RandomState(0)
    y_true = rng.randint(2, size=300)
    y_pred = np.where(rng.uniform(size=300) < 0.2, 1 - y_true, y_true)
    group_labels = 2 * y_true + rng.randint(2, size=300)
    group_labels[:20] = -1
    names = {"y_true": y_true, "y_pred": y_pred, "group_labels": group_labels}
    exec(recipe(), names)
    assert names["worst"] == pytest.approx(worst_group_accuracy(y_true, y_pred, group_labels=group_labels))
    by_group = names["frame"].by_group
    report = group_report(y_true, y_pred, group_labels=group_labels)
    assert by_group["accuracy"].to_dict() == pytest.approx(
        dict(zip(report.groups, report.accuracies, strict=True))
    )
    assert by_group["count"].sum() == 280
