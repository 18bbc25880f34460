"""Right answers of each group, and the accuracy of the worst."""

import numpy as np


def count_right(correct, group_codes, n_groups):
    """Return the right answers of each model in each group, and the size of each group; group -1 does not count."""
    # `correct` has shape (n_samples, n_models); the results have shapes (n_models, n_groups) and (n_groups,).
    belongs = group_codes >= 0
    codes = group_codes[belongs]
    right = [np.bincount(codes[hits], minlength=n_groups) for hits in correct[belongs].T]
    return np.array(right), np.bincount(codes, minlength=n_groups)


def worst_group_accuracies(right, counts):
    """Return the accuracy of the worst of the groups that occur; NaN if none does."""
    # `right` has shape (..., n_models, n_groups), `counts` (..., n_groups) and the result (..., n_models).
    counts = counts[..., None, :]
    accuracies = np.where(counts > 0, right / np.maximum(counts, 1), np.inf).min(axis=-1)
    return np.where(np.isinf(accuracies), np.nan, accuracies)


def shrunk_worst_group_accuracies(right, counts, weight):
    """Return the accuracy of the worst group of each model, each group shrunk toward the mean over the groups."""
    # The mean counts as `weight` samples. The accuracy of a few samples is mostly chance, so without shrinking a sliver
    # would decide the minimum. `right` has shape (n_models, n_groups) and `counts`, not all 0, (n_groups,).
    present = counts > 0
    right, counts = right[:, present], counts[present]
    mean = (right / counts).mean(axis=1, keepdims=True)
    return ((right + weight * mean) / (counts + weight)).min(axis=1)
