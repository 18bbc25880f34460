"""How likely each cluster is a shortcut, and what is said of each class x cluster."""

import numpy as np
from scipy.stats import fisher_exact

from skexmap.metrics._report import wilson_interval

LIKELY, LOOK, NOTHING, TOO_FEW = VERDICTS = (
    "likely a shortcut",
    "worth a look",
    "nothing to see here",
    "not enough images to tell",
)
# Level of the tests, after the correction for their number, and the smallest gap in accuracy that matters.
ALPHA, SMALLEST_GAP = 0.01, 0.1
# Scores from which a cluster is called these.
LIKELY_SCORE, LOOK_SCORE = 0.2, 0.1
# "Nothing to see" needs an interval of the gap that stays within this distance from 0.
LARGEST_HIDDEN_GAP = 0.3


def compare(correct, inside, of_class):
    """Return accuracies and the p-value of a cluster against the rest of one class."""
    inner, outer = correct[inside & of_class], correct[~inside & of_class]
    right, right_outside = int(inner.sum()), int(outer.sum())
    table = [[right, len(inner) - right], [right_outside, len(outer) - right_outside]]
    accuracy = right / len(inner)
    lower, upper = wilson_interval(accuracy, len(inner))
    outside = right_outside / len(outer) if len(outer) else np.nan
    return {
        "size": len(inner),
        "net_accuracy": accuracy,
        "net_lower": float(lower),
        "net_upper": float(upper),
        "size_outside": len(outer),
        "net_accuracy_outside": outside,
        "net_gap": accuracy - outside,
        "p_value": float(fisher_exact(table).pvalue) if len(outer) else np.nan,
    }


def correct_for_number(rows):
    """Multiply the p-values by the number of tests (Bonferroni)."""
    n_tests = sum(row["size_outside"] > 0 for row in rows)
    for row in rows:
        row["p_value"] = float(np.minimum(1, n_tests * row["p_value"]))


def matters(row):
    """Return whether the accuracy differs from the rest of the class, by chance hardly and by enough."""
    return row["p_value"] < ALPHA and abs(row["net_gap"]) >= SMALLEST_GAP


def dependence(rows):
    """Return how much the accuracy depends on a cluster: half the span of its gaps that matter, 0 included."""
    gaps = [0.0, *(row["net_gap"] for row in rows if matters(row))]
    return (max(gaps) - min(gaps)) / 2


def enough_images(row):
    """Return whether a gap larger than `LARGEST_HIDDEN_GAP` would be seen."""
    accuracy, size = row["net_accuracy"], row["size"]
    outside, size_outside = row["net_accuracy_outside"], row["size_outside"]
    if size_outside == 0:
        # All of the class is in one cluster: ask the same of two halves of it.
        outside, size, size_outside = accuracy, size / 2, size / 2
    lower, upper = gap_interval(accuracy, size, outside, size_outside)
    return max(-lower, upper) <= LARGEST_HIDDEN_GAP


def gap_interval(accuracy, size, outside, size_outside):
    """Return Newcombe's interval of a difference of two rates (Statistics in Medicine 17, 1998, method 10)."""
    lower, upper = wilson_interval(accuracy, size)
    lower_outside, upper_outside = wilson_interval(outside, size_outside)
    gap = accuracy - outside
    return (
        gap - np.hypot(accuracy - lower, upper_outside - outside),
        gap + np.hypot(upper - accuracy, outside - lower_outside),
    )


def verdict_of(row):
    """Return the verdict on a row with its `score`."""
    if matters(row):
        if row["score"] >= LIKELY_SCORE:
            return LIKELY
        return LOOK if row["score"] >= LOOK_SCORE else NOTHING
    return NOTHING if enough_images(row) else TOO_FEW


def verdict_of_all(rows):
    """Return the verdict on all rows: the most alarming, or that most images are in groups too small to tell."""
    verdicts = [row["verdict"] for row in rows]
    for verdict in (LIKELY, LOOK):
        if verdict in verdicts:
            return verdict
    n_untold = sum(row["size"] for row in rows if row["verdict"] == TOO_FEW)
    return TOO_FEW if 2 * n_untold > sum(row["size"] for row in rows) else NOTHING


def ranked(rows):
    """Return rows with the likeliest shortcut first; those of one cluster stay together."""
    best_p = {}
    for row in rows:
        p_value = np.nan_to_num(row["p_value"], nan=1.0)
        best_p[row["key"]] = min(best_p.get(row["key"], 1.0), p_value)
    return sorted(
        rows,
        key=lambda row: (
            -row["score"],
            best_p[row["key"]],
            row["key"],
            not matters(row),
            -abs(np.nan_to_num(row["net_gap"])),
        ),
    )
