"""How well pseudo-groups separate the true groups."""

from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils.validation import _num_samples

from skexmap.metrics._group_metrics import membership


def purity_score(group_labels, pseudo_group_labels) -> float:
    """Share of the samples whose true group is the most frequent one of their pseudo-group.

    1 means that no pseudo-group mixes true groups. The score does not penalize many pseudo-groups: one for every sample
    is pure too. So consider their number and sizes as well [1]_.

    Parameters
    ----------
    group_labels, pseudo_group_labels : array-like of shape (n_samples,)
        True group and pseudo-group of each sample; those of group -1 are left out.

    Returns
    -------
    purity : float from 0 to 1

    Raises
    ------
    ValueError
        If the two differ in length, a label is missing, or no sample has both a group and a pseudo-group.

    See Also
    --------
    sklearn.metrics.adjusted_rand_score : Also penalizes split true groups, and is 0 for chance.

    References
    ----------
    .. [1] C. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval", chapter 16.3. Cambridge 2008.

    Examples
    --------
    One of the four samples of pseudo-group 0 belongs to another group than the others:

    >>> from skexmap.metrics import purity_score
    >>> purity_score([0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 5, 6])
    0.8333333333333334
    """
    n_samples = _num_samples(group_labels)
    true = membership(group_labels, n_samples).codes
    found = membership(pseudo_group_labels, n_samples, name="pseudo_group_labels").codes
    both = (true >= 0) & (found >= 0)
    if not both.any():
        raise ValueError(
            f"None of the {len(both)} samples has both a group and a pseudo-group: one of the two is -1 for each."
        )
    return float(contingency_matrix(true[both], found[both]).max(axis=0).sum() / both.sum())
