"""Equal groups: how many samples of each are drawn, and how the retraining set is halved to choose a strength.

In all functions, `group_codes` holds the group of each sample, or -1 for none. Groups with fewer than `min_group_size`
samples do not set the size that other groups are cut down to. If the size is None, nothing is cut.
"""

import numpy as np


def subsample_size(group_codes, min_group_size):
    """Return the number of samples of the smallest group that is large enough; None if none is."""
    counts = np.bincount(group_codes)
    setting = counts[counts >= min_group_size]
    return int(setting.min()) if setting.size else None


def subsample_groups(group_codes, rng, size):
    """Draw `size` samples of every group, all of a smaller one; return their rows, and None for equal weights."""
    if size is None:
        return np.arange(len(group_codes)), None
    members = [np.flatnonzero(group_codes == group) for group in np.unique(group_codes)]
    return np.concatenate([rng.permutation(rows)[:size] for rows in members]), None


def reweight_groups(group_codes, rng, size):
    """Return all rows, each weighted by its chance of being drawn by `subsample_groups`."""
    # The weights ``min(1, size / n_g)`` keep the penalty as strong, relative to the loss, as in a subsample.
    rows = np.arange(len(group_codes))
    if size is None:
        return rows, np.ones(len(rows))
    return rows, np.minimum(1.0, size / np.bincount(group_codes)[group_codes])


BALANCES = {"subsample": subsample_groups, "reweight": reweight_groups}


def published_halves(class_codes, group_codes, min_group_size, rng):
    """Yield two random halves, as published: rows to fit on, rows to score on, and the size in the first half."""
    order = rng.permutation(np.flatnonzero(group_codes >= 0))
    fit, held = order[len(order) // 2 :], order[: len(order) // 2]
    yield fit, held, subsample_size(group_codes[fit], min_group_size)


def stratified_halves(class_codes, group_codes, min_group_size, rng):
    """Halve every group at random and yield each half once to fit on, with the other to score on and the size."""
    # The groups that set the size of the whole set also set it here, and the size is halved. So a strength has the same
    # effect on a half as on the whole set. The only sample of a class is in both halves, because a fit without the
    # class would be a different task. It is scored in neither.
    member = rng.permutation(np.flatnonzero(group_codes >= 0))
    size = subsample_size(group_codes[member], min_group_size)
    half_size = None if size is None else max(size // 2, 1)
    lonely = np.flatnonzero(np.bincount(class_codes[member]) == 1)
    alone = np.isin(class_codes[member], lonely)
    member, alone = member[~alone], member[alone]
    # Deal the samples out in turn, group by group within each class. After a group of odd size, the next one begins in
    # the other half. The order of the groups is random, so that no group always has the extra sample.
    rank = rng.permutation(group_codes.max() + 1)[group_codes[member]]
    order = member[np.lexsort((rank, class_codes[member]))]
    for fit, held in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        yield np.concatenate([fit, alone]), held, half_size


TUNINGS = {"stratified": stratified_halves, "published": published_halves}
