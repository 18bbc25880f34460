"""Input checks, and the only home of scikit-learn's private imports and version differences."""

from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import column_or_1d

__all__ = ["check_group_labels", "output_container"]


def check_group_labels(group_labels, n_samples):
    """Check that there is one group label per sample.

    Parameters
    ----------
    group_labels : array-like of shape (n_samples,)
        One label per sample: integers or strings.
    n_samples : int
        Number of samples that they belong to.

    Returns
    -------
    group_labels : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If the length differs or a label is missing (NaN or None).
    """
    group_labels = column_or_1d(group_labels)
    if len(group_labels) != n_samples:
        raise ValueError(
            f"`group_labels` has {len(group_labels)} entries for {n_samples} samples. Pass one group label per sample."
        )
    missing = sum(label is None or label != label for label in group_labels.tolist())
    if missing:
        raise ValueError(
            f"{missing} of {n_samples} `group_labels` are missing. Give every sample a label, "
            "or -1 for 'belongs to no group'."
        )
    return group_labels


def output_container(estimator):
    """Return the container that `set_output` chose for `transform`: "default", "pandas" or "polars"."""
    return _get_output_config("transform", estimator)["dense"]
