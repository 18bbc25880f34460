"""Rare and common: what is left of pseudo-groups when their sizes are all that one trusts."""

import numbers

import numpy as np
from sklearn.utils import check_scalar, column_or_1d

from skexmap._group_labels import NO_GROUP, pool_by_rarity
from skexmap._validation import check_group_labels


def pool_rare_groups(group_labels, y, *, rare_share=0.1):
    """Pool the rare pseudo-groups of each class into one, and its common ones into another.

    Clusterings of heatmaps are finer than the true groups: they split the images that the shortcut serves by
    what else is in them, and leave slivers. Where all groups weigh the same, as in DFR and group DRO, a class
    with five common groups and one rare one then gives the images on which the shortcut fails a sixth instead
    of half of its weight, and a sliver of a handful of images decides how many of every other group are used.
    Neither matters to rare and common: pooled, the rare images of a class weigh as much as all the others.

    A class whose groups are all common, or all rare, stays as it is. So do groups that span classes, and group -1.

    Parameters
    ----------
    group_labels : array-like of shape (n_samples,)
        Pseudo-group of each sample, as `PseudoGroupLabeler` makes them: integers, -1 for "belongs to none".
    y : array-like of shape (n_samples,)
        Class of each sample.
    rare_share : float in (0, 0.5], default=0.1
        A group with less than this share of the samples of its class is rare.

    Returns
    -------
    pooled : ndarray of shape (n_samples,), int64
        Every pool has the number of its largest group (the first of equals).

    Raises
    ------
    ValueError
        If `group_labels` and y differ in length, a label is below -1 or no integer, or `rare_share` is out of
        range.

    See Also
    --------
    skexmap.retraining.DFRClassifier : Does this with ``rare_share=0.1``, also inside a pipeline.

    Notes
    -----
    What is lost is the difference between rare groups: with two shortcuts, images on which the one or the other
    fails are pooled.

    Examples
    --------
    Class 0 has two common groups, 0 and 1, and slivers 2 and 3; class 1 has a common one, 4, and a rare one, 5.

    >>> import numpy as np
    >>> from skexmap.groups import pool_rare_groups
    >>> groups = np.repeat([0, 1, 2, 3, 4, 5], [50, 40, 6, 4, 95, 5])
    >>> pooled = pool_rare_groups(groups, y=groups > 3)
    >>> dict(zip(*(a.tolist() for a in np.unique(pooled, return_counts=True))))
    {0: 90, 2: 10, 4: 95, 5: 5}
    """
    check_scalar(rare_share, "rare_share", numbers.Real, min_val=0, max_val=0.5, include_boundaries="right")
    y = column_or_1d(y)
    labels = check_group_labels(group_labels, len(y))
    if labels.dtype.kind not in "iu" or labels.min(initial=NO_GROUP) < NO_GROUP:
        raise ValueError(
            f"`group_labels` must be integers from -1 up, got {labels.dtype} values from "
            f"{labels.min(initial=NO_GROUP)}."
        )
    return pool_by_rarity(labels.astype(np.int64), np.unique(y, return_inverse=True)[1], rare_share)
