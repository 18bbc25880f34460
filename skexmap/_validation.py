"""Input checks, and the only home of scikit-learn's private imports and version differences."""

import numpy as np
import sklearn
from sklearn.base import _fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import _check_feature_names_in, column_or_1d

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "_check_feature_names_in",
    "_fit_context",
    "check_group_labels",
    "codes_of_known_classes",
    "l1_logistic_regression",
    "output_container",
    "parameters_named",
    "seed_parts",
]

_SKLEARN_VERSION = parse_version(parse_version(sklearn.__version__).base_version)


def check_group_labels(group_labels, n_samples, *, name="group_labels"):
    """Check that there is one group label per sample.

    Parameters
    ----------
    group_labels : array-like of shape (n_samples,)
        One label per sample: integers or strings.
    n_samples : int
        Number of samples that they belong to.
    name : str, default="group_labels"
        What they are called in errors.

    Returns
    -------
    group_labels : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If there is not one label per sample, or a label is missing (NaN or None).
    """
    try:
        group_labels = column_or_1d(group_labels)
    except ValueError as error:
        raise ValueError(f"`{name}` must be 1-dimensional: {error}") from error
    if len(group_labels) != n_samples:
        raise ValueError(
            f"`{name}` has {len(group_labels)} entries for {n_samples} samples. "
            "Pass one group label per sample."
        )
    missing = sum(label is None or label != label for label in group_labels.tolist())
    if missing:
        raise ValueError(
            f"{missing} of {n_samples} `{name}` are missing. Give every sample a label, "
            "or -1 for 'belongs to no group'."
        )
    return group_labels


def output_container(estimator):
    """Return the container that `set_output` chose for `transform`: "default", "pandas" or "polars"."""
    return _get_output_config("transform", estimator)["dense"]


def l1_logistic_regression(C, **params):
    """Return scikit-learn's liblinear logistic regression with an L1 penalty, for two classes.

    Version differences: before 1.8 the penalty is named by ``penalty="l1"`` and ``l1_ratio=1`` would silently
    mean L2; from 1.8 on ``penalty`` is deprecated (gone in 1.10) and ``l1_ratio=1`` means L1. From 1.8 on
    liblinear also refuses more than two classes, so that one-versus-rest is the caller's business.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty.
    **params : dict
        Passed on to `sklearn.linear_model.LogisticRegression`.

    Returns
    -------
    estimator : LogisticRegression
        Unfitted.
    """
    l1 = {"l1_ratio": 1.0} if parse_version("1.8") <= _SKLEARN_VERSION else {"penalty": "l1"}
    return LogisticRegression(C=C, solver="liblinear", **l1, **params)


def codes_of_known_classes(y, classes, n_samples):
    """Return the position of each label among the classes that `fit` saw.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    classes : ndarray of shape (n_classes,)
        The sorted classes.
    n_samples : int
        Number of samples they belong to.

    Returns
    -------
    class_codes : ndarray of shape (n_samples,), int64

    Raises
    ------
    ValueError
        If the shape differs, or a label is none of the classes.
    """
    if y is None:
        raise ValueError(f"y is None. Pass the class of each of {n_samples} samples.")
    y = column_or_1d(y, warn=True)
    if len(y) != n_samples:
        raise ValueError(f"y has {len(y)} entries for {n_samples} samples. Pass one label per sample.")
    unknown = np.setdiff1d(y, classes)
    if unknown.size:
        raise ValueError(
            f"y holds {unknown.size} class(es) that `fit` did not see: {unknown[:5].tolist()}. "
            f"Known are {classes.tolist()}."
        )
    return np.searchsorted(classes, y)


def parameters_named(estimator, name):
    """Return the full names of an estimator's parameters of a name, nested ones included, sorted.

    Parameters
    ----------
    estimator : estimator
    name : str
        ``"random_state"``, say.

    Returns
    -------
    names : list of str
        ``["kmeans__random_state", "random_state"]``, say.
    """
    return sorted(full for full in estimator.get_params() if full.rpartition("__")[2] == name)


def seed_parts(random_state, *estimators):
    """Give every `random_state` parameter that is None, nested ones included, an integer drawn from a random state.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        None changes nothing.
    *estimators : estimators
        Changed in place.
    """
    if random_state is None:
        return
    rng = check_random_state(random_state)
    for estimator in estimators:
        values = estimator.get_params()
        # Sorted, so that the draws do not depend on the order of parameters.
        for name in parameters_named(estimator, "random_state"):
            if values[name] is None:
                estimator.set_params(**{name: int(rng.randint(np.iinfo(np.int32).max))})
