"""Just train twice: upweight what a first model gets wrong, train again."""

import warnings
from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from skexmap._blocks import has_blocks
from skexmap._validation import HasMethods, Interval, StrOptions, _fit_context
from skexmap.exceptions import EmptyErrorSetWarning, FullErrorSetWarning
from skexmap.groups._diagnosis import warn_of_constant_predictions, without_constant_prediction_warnings
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._inputs import read_classes, read_embedding

__all__ = ["JTTReweighter"]


def find_errors(y, y_identified):
    """Return the indices of the samples that the identification model gets wrong.

    Parameters
    ----------
    y, y_identified : ndarray of shape (n_samples,)
        True and predicted classes.

    Returns
    -------
    error_set : ndarray of int of shape (n_errors,)
    """
    return np.flatnonzero(y != y_identified)


def fit_weighted(estimator, X, y, weight):
    """Fit by ``sample_weight``."""
    return estimator.fit(X, y, sample_weight=weight)


def fit_repeated(estimator, X, y, weight):
    """Fit on every sample repeated as often as its weight says, in the order of the samples."""
    rows = np.repeat(np.arange(len(y)), weight.astype(int))
    return estimator.fit(X[rows], y[rows])


METHODS = {"weight": fit_weighted, "repeat": fit_repeated}


def _estimator_has(method):
    def check(self):
        estimator = getattr(self, "estimator_", self.estimator)
        return hasattr(ERMClassifier if estimator is None else estimator, method)

    return check


class JTTReweighter(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    r"""Just train twice (JTT): upweight the samples that a first model gets wrong, and train again.

    Stage one fits an identification model and collects its errors on the training samples themselves,
    :math:`E = \{i : \hat f_{id}(x_i) \ne y_i\}`. Stage two minimises [1]_

    .. math:: \lambda \sum_{i \in E} \ell(x_i, y_i; \theta) + \sum_{i \notin E} \ell(x_i, y_i; \theta).

    No group label is used. How much JTT helps depends on the strength of stage one and on lambda: choose both
    by the accuracy of the worst pseudo-group, which is ExMap's part in it.

    Parameters
    ----------
    estimator : classifier, default=None
        The model of stage two; cloned. None is `ERMClassifier`, a logistic regression.
    identification_estimator : classifier, default=None
        The model of stage one; cloned. It must be *weak*, so that it errs where the shortcut does not hold
        (the paper stops it early). None is a logistic regression with a strong penalty,
        ``ERMClassifier(C=1e-4)``. A model fitted before, wrapped in `sklearn.frozen.FrozenEstimator`, is
        taken as it is: so the deployed net can be the identification model.
    upweight : float, default=20
        Lambda, the weight of an error; others weigh 1.
    method : {"auto", "weight", "repeat"}, default="auto"
        ``"weight"`` passes ``sample_weight`` to `estimator`, ``"repeat"`` repeats the errors as the original
        does (lambda is then an integer), ``"auto"`` does the first where `estimator` can.

    Attributes
    ----------
    estimator_ : classifier
        The fitted model of stage two.
    identification_estimator_ : classifier
        The fitted model of stage one.
    error_set_ : ndarray of int of shape (n_errors,)
        Indices of the samples that stage one gets wrong.
    sample_weight_ : ndarray of shape (n_samples,)
        What the samples weigh in stage two.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    coef_, intercept_ : ndarray
        Those of `estimator_`, where it has them.
    n_features_in_ : int
        Number of features.

    Raises
    ------
    ValueError
        From `fit`: one class only; ``method="weight"`` with an estimator that takes no weights; repeats with
        an `upweight` that is not an integer; a missing ``embedding`` block.

    Warns
    -----
    EmptyErrorSetWarning
        If stage one makes no error: stage two is then ordinary training.
    FullErrorSetWarning
        If stage one gets everything wrong: all samples weigh the same.
    ConstantPredictionWarning
        If one of the two models predicts one class for all samples.

    See Also
    --------
    DFRClassifier : Balances known or found groups instead.

    Notes
    -----
    Of blocks, the embedding is read. Other X is passed to both estimators as an array of any number of
    dimensions, so that a network (skorch's ``NeuralNetClassifier`` for instance) can be trained twice on
    images.

    References
    ----------
    .. [1] Liu et al. "Just train twice: improving group robustness without training group information". ICML 2021.
       arXiv:2107.09044.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.retraining import ERMClassifier, JTTReweighter
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=1000)
    >>> shortcut = np.where(rng.uniform(size=1000) < 0.95, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + 0.5 * rng.normal(size=(1000, 2))
    >>> jtt = JTTReweighter(identification_estimator=ERMClassifier(C=1e-3)).fit(X, y)
    >>> float(np.mean(shortcut[jtt.error_set_] != y[jtt.error_set_]))
    1.0
    """

    __metadata_request__fit = {"group_labels": False}

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "identification_estimator": [HasMethods(["fit", "predict"]), None],
        "upweight": [Interval(Real, 0, None, closed="neither")],
        "method": [StrOptions({"auto", *METHODS})],
    }

    def __init__(self, estimator=None, *, identification_estimator=None, upweight=20, method="auto"):
        self.estimator = estimator
        self.identification_estimator = identification_estimator
        self.upweight = upweight
        self.method = method

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, group_labels=None):
        """Find the errors of a first model, and fit a second one that weighs them more.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or blocks with ``embedding``
            Training samples.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Not used; all strategies take it, so that they can be exchanged.

        Returns
        -------
        self : object
        """
        X = self._read(X, reset=True)
        self.classes_, class_codes = read_classes(self, y, len(X))
        y = self.classes_[class_codes]
        identification = self.identification_estimator
        identification = ERMClassifier(C=1e-4) if identification is None else clone(identification)
        with without_constant_prediction_warnings():
            self.identification_estimator_ = identification.fit(X, y)
        identified = identification.predict(X)
        warn_of_constant_predictions(
            identified,
            f"The identification model {type(identification).__name__}",
            "Its errors are whole classes, which are then upweighted, and not the samples against a shortcut. "
            "Strengthen `identification_estimator` (a weaker penalty, `class_weight='balanced'`, more epochs).",
        )
        self.error_set_ = find_errors(y, identified)
        self._warn_of_one_sided_errors(len(y))
        self.sample_weight_ = np.ones(len(y))
        self.sample_weight_[self.error_set_] = self.upweight
        estimator = ERMClassifier() if self.estimator is None else clone(self.estimator)
        with without_constant_prediction_warnings():
            self.estimator_ = METHODS[self._method_for(estimator)](estimator, X, y, self.sample_weight_)
        warn_of_constant_predictions(
            self.estimator_.predict(X),
            f"The second model {type(estimator).__name__}",
            "Lower `upweight`, or see whether X tells the classes apart at all.",
        )
        return self

    def _read(self, X, *, reset):
        if has_blocks(X):
            return read_embedding(self, X, reset=reset)
        dtype = [np.float64, np.float32]
        return validate_data(
            self, X, reset=reset, allow_nd=True, dtype=dtype, ensure_min_samples=2 if reset else 1
        )

    def _method_for(self, estimator):
        takes_weights = has_fit_parameter(estimator, "sample_weight")
        name = type(estimator).__name__
        if self.method == "weight" and not takes_weights:
            raise ValueError(f"{name} takes no sample_weight. Use method='repeat' (or 'auto').")
        method = self.method if self.method != "auto" else "weight" if takes_weights else "repeat"
        if method == "repeat" and self.upweight != int(self.upweight):
            raise ValueError(
                f"Samples cannot be repeated upweight={self.upweight} times. Use an integer, or an estimator that "
                f"takes sample_weight ({name} {'does' if takes_weights else 'does not'})."
            )
        return method

    def _warn_of_one_sided_errors(self, n_samples):
        n_errors, name = len(self.error_set_), type(self.identification_estimator_).__name__
        if n_errors == 0:
            warnings.warn(
                f"{name} gets all {n_samples} training samples right, so that there is nothing to upweight. "
                "Weaken `identification_estimator` (a stronger penalty, fewer epochs).",
                EmptyErrorSetWarning,
                stacklevel=3,
            )
        elif n_errors == n_samples:
            warnings.warn(
                f"{name} gets all {n_samples} training samples wrong, so that upweighting them changes nothing. "
                "Strengthen `identification_estimator`.",
                FullErrorSetWarning,
                stacklevel=3,
            )

    @property
    def coef_(self):
        """Coefficients of `estimator_`."""
        return self.estimator_.coef_

    @property
    def intercept_(self):
        """Intercepts of `estimator_`."""
        return self.estimator_.intercept_

    def predict(self, X):
        """Return the class of each sample, by the model of stage two.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or blocks with ``embedding``
            Samples.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        return self.estimator_.predict(self._read(X, reset=False))

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X):
        """Return the probability of each class, by the model of stage two.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or blocks with ``embedding``
            Samples.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(self._read(X, reset=False))

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X):
        """Return the scores of the model of stage two.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or blocks with ``embedding``
            Samples.

        Returns
        -------
        scores : ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.estimator_.decision_function(self._read(X, reset=False))
