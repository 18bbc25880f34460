"""The accuracy lost when each of several shortcuts points to the wrong class."""

from itertools import combinations

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import _num_samples

from skexmap._validation import check_labels, check_sample_weight
from skexmap.metrics._group_metrics import mean_accuracy


def shortcut_gaps(y_true, y_pred, *, shortcuts, group_labels=None, weights=None, sample_weight=None):
    """Accuracy lost on samples with uncommon shortcuts, relative to the mean accuracy.

    A sample's shortcut is *common* if it points to the sample's own class, else *uncommon*. A gap is the accuracy on
    the samples for which exactly the named shortcuts are uncommon, minus the mean accuracy.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted classes: integers or strings.
    shortcuts : dict of str to array-like of shape (n_samples,)
        Name of each shortcut -> the class that it points to in each sample, written as in `y_true`.
    group_labels : array-like of shape (n_samples,), default=None
        Groups for the mean accuracy; required if `weights` refers to them.
    weights : {None, "macro"}, dict or array-like of shape (n_groups,), default=None
        How the mean accuracy weights the groups, as in `mean_accuracy`: usually by their numbers of training samples,
        ``Counter(training_group_labels)``. None weights every sample equally.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample.

    Returns
    -------
    gaps : dict of str to float
        ``"mean_accuracy"``; then the name of every single shortcut; then the combinations: ``"both"`` for two
        shortcuts, else their names joined by ``"+"``. In a gap, every class has the same weight.

    Raises
    ------
    ValueError
        If `shortcuts` is empty or does not match y_true, a class has no sample for which exactly the named shortcuts
        are uncommon, or as in `mean_accuracy`.

    References
    ----------
    Z. Li et al., "A Whac-A-Mole Dilemma: Shortcuts Come in Multiples Where Mitigating One Amplifies Others",
    CVPR 2023, section 3, arXiv 2212.04825.

    Examples
    --------
    A model that only uses the background, on one sample of each kind and class:

    >>> from skexmap.metrics import shortcut_gaps
    >>> car = ["urban"] * 4 + ["country"] * 4
    >>> background = ["urban", "urban", "country", "country"] + ["country", "country", "urban", "urban"]
    >>> beside = ["urban", "country"] * 2 + ["country", "urban"] * 2
    >>> shortcut_gaps(car, background, shortcuts={"background": background, "co_occurring_object": beside})
    {'mean_accuracy': 0.5, 'background': -0.5, 'co_occurring_object': 0.5, 'both': -0.5}
    """
    n_samples = _num_samples(y_true)
    if group_labels is None:
        if weights is not None:
            raise ValueError("`weights` refer to groups, so pass `group_labels` too.")
        group_labels = np.zeros(n_samples, dtype=int)
    sample_weight = check_sample_weight(sample_weight, n_samples)
    mean = mean_accuracy(
        y_true, y_pred, group_labels=group_labels, weights=weights, sample_weight=sample_weight
    )
    y_true, y_pred = column_or_1d(y_true), column_or_1d(y_pred)
    uncommon = _uncommon(y_true, shortcuts)
    class_codes = np.unique(y_true, return_inverse=True)[1]
    gaps = {"mean_accuracy": mean}
    for size in range(1, len(shortcuts) + 1):
        for names in combinations(shortcuts, size):
            rows = np.all([mask == (name in names) for name, mask in uncommon.items()], axis=0)
            _require_every_class(y_true, sample_weight > 0, rows, names)
            # The classes are the groups here, so that large and small classes have the same weight.
            accuracy = mean_accuracy(
                y_true[rows],
                y_pred[rows],
                group_labels=class_codes[rows],
                weights="macro",
                sample_weight=sample_weight[rows],
            )
            gaps["both" if size == len(shortcuts) == 2 else "+".join(names)] = accuracy - mean
    return gaps


def _uncommon(y_true, shortcuts):
    """Return, for each shortcut, the mask of the samples for which it points to another class than y_true."""
    if not hasattr(shortcuts, "items") or not shortcuts:
        raise ValueError("`shortcuts` must be a dict, name -> class that the shortcut points to, not empty.")
    uncommon = {}
    for name, pointed in shortcuts.items():
        pointed = check_labels(pointed, name=f"shortcut {name!r}", warn=False)
        if len(pointed) != len(y_true):
            raise ValueError(f"Shortcut {name!r} has {len(pointed)} entries for {len(y_true)} samples.")
        unique_labels(y_true, pointed)
        uncommon[name] = pointed != y_true
        if uncommon[name].all():
            raise ValueError(
                f"Shortcut {name!r} agrees with y_true on none of the {len(y_true)} samples. Give the class "
                f"that it points to, written as in y_true (such as {y_true.tolist()[0]!r}, here "
                f"{pointed.tolist()[0]!r})."
            )
    return uncommon


def _require_every_class(y_true, counts, rows, names):
    """Raise ValueError if a class has no sample among the rows for which exactly these shortcuts are uncommon."""
    # Without a class, the difference to the mean over all classes would not be due to the shortcuts alone.
    absent = np.setdiff1d(y_true[counts], y_true[counts & rows])
    if absent.size:
        raise ValueError(
            f"Exactly {' and '.join(map(repr, names))} is uncommon on no sample of {absent.size} class(es), "
            f"{absent[:5].tolist()}: the gap is unknown. Score a test set that holds every combination in every class."
        )
