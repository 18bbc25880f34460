"""Input checks. Private imports from scikit-learn and differences between its versions belong here."""

import functools
import sys
import warnings

import numpy as np
import sklearn
from sklearn.base import _fit_context as _sklearn_fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_params
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.fixes import parse_version
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names_in, check_array, column_or_1d

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "_check_feature_names_in",
    "_fit_context",
    "check_group_labels",
    "check_labels",
    "check_one_label_each",
    "check_sample_weight",
    "codes_of_known_classes",
    "in_a_group",
    "l1_logistic_regression",
    "output_container",
    "parameters_named",
    "refuse_columns",
    "seed_parts",
    "validate_params",
    "warn",
]

# Packages that call each other on the way from a user's line to a warning.
_CALLERS = {"contextlib", "joblib", "sklearn", "skexmap", "torch"}
_SKLEARN_VERSION = parse_version(parse_version(sklearn.__version__).base_version)


def warn(message, category):
    """Warn at the line of the user's code from which the call came."""
    level, frame = 1, sys._getframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _CALLERS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _fit_context(*, prefer_skip_nested_validation):
    """Decorate a `fit`: scikit-learn checks the parameters, and a fit that fails leaves the estimator as it was."""

    def decorate(fit):
        @functools.wraps(fit)
        def complete_or_undone(estimator, *args, **kwargs):
            before = dict(vars(estimator))
            try:
                return fit(estimator, *args, **kwargs)
            # Ctrl-C too. Otherwise, new classes could stand beside old coefficients.
            except BaseException:
                vars(estimator).clear()
                vars(estimator).update(before)
                raise

        return _sklearn_fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)(
            complete_or_undone
        )

    return decorate


def in_a_group(group_labels):
    """Return which samples belong to a group, as a mask: those whose label is not -1, as a number or as text."""
    group_labels = np.asarray(group_labels)
    if group_labels.dtype.kind in "iufb":
        return group_labels != -1
    # NumPy turns the -1 of ``[-1, "a"]`` and of ``[-1.0, "a"]`` into these.
    return ~np.isin(group_labels.astype(str), ["-1", "-1.0"])


def check_labels(labels, *, name="y", warn=True):
    """Return labels as a 1-dimensional array; raise if some are missing, or if they mix text and numbers."""
    array = column_or_1d(labels, warn=warn)
    if array.dtype.kind not in "biufcOUS":
        raise ValueError(f"{name} has the type {array.dtype}. Pass classes as integers or text.")
    _refuse_missing(array, f"labels in {name}", "Give every sample a label, or remove it.")
    _refuse_mixed(labels, array, np.ones(len(array), dtype=bool), name)
    return array


def check_one_label_each(y, n_samples):
    """Return y as a one-dimensional array; raise unless it holds one class per sample."""
    remedy = "If an image can have several labels, fit one classifier for each column."
    refuse_columns("y", y, "class", remedy)
    y = check_labels(y)
    if y.dtype.kind in "fc":
        # Check for NaN and infinity, which strings and integers cannot hold.
        check_array(y, ensure_2d=False, input_name="y")
    if len(y) != n_samples:
        raise ValueError(f"y has {len(y)} entries for {n_samples} samples. Pass one label per sample.")
    check_classification_targets(y)
    return y


def check_sample_weight(sample_weight, n_samples):
    """Return a new array of one finite, non-negative weight per sample, not all of them 0; ones for None."""
    if sample_weight is None:
        return np.ones(n_samples)
    weight = np.array(column_or_1d(sample_weight, dtype=np.float64))
    if len(weight) != n_samples:
        raise ValueError(
            f"`sample_weight` has {len(weight)} entries for {n_samples} samples. Pass one weight per sample."
        )
    n_bad = int(np.sum(~np.isfinite(weight) | (weight < 0)))
    if n_bad:
        raise ValueError(
            f"{n_bad} of {n_samples} sample weights are negative, NaN or infinite. Pass finite weights of at least 0."
        )
    if not weight.any():
        raise ValueError("Sample weights must contain at least one non-zero number: all are 0.")
    return weight


def refuse_columns(name, values, what, remedy):
    """Raise ValueError if values have several columns."""
    try:
        shape = np.asarray(values).shape
    except ValueError as error:
        raise ValueError(
            f"The rows of `{name}` differ in length, but every image has one {what}. {remedy}"
        ) from error
    if len(shape) > 1 and shape[1:] != (1,):
        raise ValueError(
            f"`{name}` has the shape {shape}, but every image has one {what}. If the rows are one-hot, pass "
            f"`{name}.argmax(axis=1)`. {remedy}"
        )


def check_group_labels(group_labels, n_samples, *, name="group_labels"):
    """Return the group labels as an array; raise if some are missing or mixed, or there is not one per sample."""
    try:
        array = column_or_1d(group_labels)
    except ValueError as error:
        raise ValueError(f"`{name}` must be 1-dimensional: {error}") from error
    if len(array) != n_samples:
        raise ValueError(
            f"`{name}` has {len(array)} entries for {n_samples} samples. Pass one group label per sample."
        )
    _refuse_missing(array, f"`{name}`", "Give every sample a label, or -1 for 'belongs to no group'.")
    _refuse_mixed(group_labels, array, in_a_group(array), name)
    return array


def _refuse_missing(array, what, remedy):
    missing = sum(map(_is_missing, array.tolist())) if array.dtype.kind in "fOM" else 0
    if missing:
        raise ValueError(f"{missing} of {len(array)} {what} are missing (None, NaN or NA). {remedy}")


def _is_missing(label):
    # Comparing pandas' NA gives NA, which is neither true nor false.
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True


def _refuse_mixed(given, array, counts, name):
    """Raise ValueError if the labels that count are text and numbers; in a list, NumPy would turn all into text."""
    if not isinstance(given, list | tuple):
        given = array
    if getattr(given, "dtype", None) is not None and given.dtype.kind != "O":
        return
    kinds = {type(label) for label, is_one in zip(given, counts, strict=True) if is_one}
    are_text = {issubclass(kind, str) for kind in kinds}
    if len(are_text) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"`{name}` mix {names}. Use one type for all labels.")


def output_container(estimator):
    """Return the container that `set_output` selects for `transform`: "default", "pandas" or "polars"."""
    return _get_output_config("transform", estimator)["dense"]


def l1_logistic_regression(C, **params):
    """Return scikit-learn's liblinear logistic regression for two classes, unfitted, with an L1 penalty."""
    # Before 1.8 the penalty is ``penalty="l1"``, and ``l1_ratio=1`` would silently mean L2. From 1.8 on `penalty` is
    # deprecated, ``l1_ratio=1`` means L1, and liblinear refuses more than two classes.
    l1 = {"l1_ratio": 1.0} if parse_version("1.8") <= _SKLEARN_VERSION else {"penalty": "l1"}
    return LogisticRegression(C=C, solver="liblinear", **l1, **params)


def codes_of_known_classes(y, classes, n_samples):
    """Return the position of each label among the sorted classes of `fit`; raise for unknown labels."""
    if y is None:
        raise ValueError(f"y is None. Pass the class of each of {n_samples} samples.")
    y = check_one_label_each(y, n_samples)
    known = set(classes.tolist())
    unknown = [label for label in np.unique(y).tolist() if label not in known]
    if unknown:
        raise ValueError(
            f"y holds {len(unknown)} class(es) that `fit` did not see: {unknown[:5]}. "
            f"Known are {classes.tolist()}."
        )
    return np.searchsorted(classes, y)


def parameters_named(estimator, name):
    """Return the sorted full names of an estimator's parameters with a name, including nested ones."""
    # For "random_state", this can be ``["kmeans__random_state", "random_state"]``.
    return sorted(full for full in estimator.get_params() if full.rpartition("__")[2] == name)


def seed_parts(random_state, *estimators):
    """Replace every `random_state` that is None, including nested ones, by an integer drawn from `random_state`."""
    # The estimators are changed in place. If `random_state` is None, nothing changes.
    if random_state is None:
        return
    rng = check_random_state(random_state)
    for estimator in estimators:
        values = estimator.get_params()
        # Sort them, so that the draws do not depend on the order of parameters.
        for name in parameters_named(estimator, "random_state"):
            if values[name] is None:
                estimator.set_params(**{name: int(rng.randint(np.iinfo(np.int32).max))})
