"""The reference model of JTT, AFR and EIIL: an ordinarily trained first model, whose errors they use."""

import numpy as np
from sklearn.base import clone

from skexmap.groups._diagnosis import warn_of_constant_predictions, without_constant_prediction_warnings


def fit_reference(estimator, default, X, y):
    """Return the fitted reference model: a clone of the one given, else the default."""
    # The strategy itself warns if its reference model predicts one class.
    with without_constant_prediction_warnings():
        return (default if estimator is None else clone(estimator)).fit(X, y)


def check_reference_classes(reference, classes):
    """Raise ValueError if the reference model, which may be frozen, was fitted on other classes than those of y."""
    if not np.array_equal(reference.classes_, classes):
        raise ValueError(
            f"The reference model {type(reference).__name__} has the classes {list(reference.classes_)}, but y holds "
            f"{classes.tolist()}. Fit it on labels of the same classes."
        )


def warn_of_constant_reference(predicted, reference, remedy):
    """Warn if the reference model predicts one class: its errors are then whole classes."""
    who = f"The reference model {type(reference).__name__}"
    warn_of_constant_predictions(predicted, who, f"Its errors are whole classes. {remedy}")
