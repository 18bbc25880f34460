"""Just train twice: upweight what a first model gets wrong, train again."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skexmap._validation import HasMethods, Interval, StrOptions, _fit_context, warn
from skexmap.exceptions import PredictionWarning
from skexmap.groups._diagnosis import warn_of_constant_predictions, without_constant_prediction_warnings
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._inputs import check_classes, check_embedding
from skexmap.retraining._reference import fit_reference, warn_of_constant_reference


def _estimator_has(method):
    def check(self):
        estimator = getattr(self, "estimator_", self.estimator)
        return hasattr(ERMClassifier if estimator is None else estimator, method)

    return check


class JTTReweighter(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    r"""Just train twice (JTT): upweight the samples that a first model gets wrong, and train again.

    Stage one fits a reference model and collects its errors on the training samples themselves,
    :math:`E = \{i : \hat f_{id}(x_i) \ne y_i\}`. (The paper calls it the identification model.) Stage two minimizes
    [1]_

    .. math:: \lambda \sum_{i \in E} \ell(x_i, y_i; \theta) + \sum_{i \notin E} \ell(x_i, y_i; \theta).

    No group labels are used. How much JTT helps depends on the strength of stage one and on lambda. Choose both by the
    accuracy on ExMap's worst pseudo-group.

    Parameters
    ----------
    estimator : classifier, default=None
        The model of stage two; cloned. If None, `ERMClassifier`, a logistic regression.
    reference_estimator : classifier, default=None
        The model of stage one; cloned. It must be *weak*: it must err on samples against the shortcut (the paper stops
        it early). If None, a logistic regression with a strong penalty, ``ERMClassifier(C=1e-4)``. A fitted model in
        `sklearn.frozen.FrozenEstimator`, such as the deployed net, is not fitted again.
    upweight : float, default=20
        Lambda, the weight of an error. Other samples have weight 1.
    method : {"auto", "weight", "repeat"}, default="auto"
        ``"weight"`` passes ``sample_weight`` to `estimator`. ``"repeat"`` repeats the errors, as published; lambda must
        then be an integer. ``"auto"`` repeats only if `estimator` takes no weights.

    Attributes
    ----------
    estimator_ : classifier
        The fitted model of stage two.
    reference_estimator_ : classifier
        The fitted model of stage one.
    error_set_ : ndarray of int of shape (n_errors,)
        Indices of the samples that stage one gets wrong.
    sample_weight_ : ndarray of shape (n_samples,)
        Weight of each sample in stage two.
    coef_, intercept_, classes_, n_features_in_, feature_names_in_
        As in `ERMClassifier`; the coefficients are those of `estimator_`, if it has them.

    Raises
    ------
    ValueError
        In `fit`: if y holds only one class or several classes per sample, if the block ``embedding`` is missing, if
        ``method="weight"`` is set but the estimator takes no weights, or if errors are repeated but `upweight` is not
        an integer.

    Warns
    -----
    PredictionWarning
        If stage one gets all samples right or all wrong, because all samples then have the same weight; and if one of
        the two models predicts one class for all samples.

    Notes
    -----
    If X has blocks, the embedding is used. Any other X is passed to both estimators in its own shape, so a network (for
    example skorch's ``NeuralNetClassifier``) can be trained twice on images.

    References
    ----------
    .. [1] Liu et al. "Just train twice: improving group robustness without training group information". ICML 2021.
       arXiv:2107.09044.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import ERMClassifier, JTTReweighter
    >>> X, y, shortcut = make_shortcut_features(n_features=4, agreement=0.95, noise=0.5, random_state=0)
    >>> jtt = JTTReweighter(reference_estimator=ERMClassifier(C=1e-3)).fit(X, y)
    >>> float(np.mean(shortcut[jtt.error_set_] != y[jtt.error_set_]))
    1.0
    """

    __metadata_request__fit = {"group_labels": False}

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "reference_estimator": [HasMethods(["fit", "predict"]), None],
        "upweight": [Interval(Real, 0, None, closed="neither")],
        "method": [StrOptions({"auto", "weight", "repeat"})],
    }

    def __init__(self, estimator=None, *, reference_estimator=None, upweight=20, method="auto"):
        self.estimator = estimator
        self.reference_estimator = reference_estimator
        self.upweight = upweight
        self.method = method

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, group_labels=None):
        """Find the errors of a first model, and fit a second one that gives them more weight.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or blocks with ``embedding``
            Training samples.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Not used; present so that the strategies are interchangeable.

        Returns
        -------
        self : object
        """
        X = check_embedding(self, X, reset=True, allow_nd=True)
        self.classes_, class_codes = check_classes(self, y, len(X))
        y = self.classes_[class_codes]
        reference = fit_reference(self.reference_estimator, ERMClassifier(C=1e-4), X, y)
        self.reference_estimator_ = reference
        predicted = reference.predict(X)
        remedy = (
            "Strengthen `reference_estimator` (a weaker penalty, `class_weight='balanced'`, more epochs)."
        )
        warn_of_constant_reference(predicted, reference, f"JTT then upweights classes. {remedy}")
        self.error_set_ = np.flatnonzero(predicted != y)
        if len(self.error_set_) in (0, len(y)):
            answers, remedy = "wrong", "Strengthen `reference_estimator`."
            if not len(self.error_set_):
                answers, remedy = "right", "Weaken `reference_estimator` (a stronger penalty, fewer epochs)."
            warn(
                f"{type(reference).__name__} gets all {len(y)} training samples {answers}, so upweighting its errors "
                f"changes nothing. {remedy}",
                PredictionWarning,
            )
        self.sample_weight_ = np.ones(len(y))
        self.sample_weight_[self.error_set_] = self.upweight
        estimator = ERMClassifier() if self.estimator is None else clone(self.estimator)
        with without_constant_prediction_warnings():
            if self._repeats(estimator):
                rows = np.repeat(np.arange(len(y)), self.sample_weight_.astype(int))
                self.estimator_ = estimator.fit(X[rows], y[rows])
            else:
                self.estimator_ = estimator.fit(X, y, sample_weight=self.sample_weight_)
        warn_of_constant_predictions(
            self.estimator_.predict(X),
            f"The second model {type(estimator).__name__}",
            "Lower `upweight`, or check whether X separates the classes at all.",
        )
        return self

    def _repeats(self, estimator):
        """Return whether errors are repeated, not weighted; raise if `estimator` or `upweight` does not allow it."""
        takes_weights, name = has_fit_parameter(estimator, "sample_weight"), type(estimator).__name__
        if self.method == "weight" and not takes_weights:
            raise ValueError(f"{name} takes no sample_weight. Use method='repeat' (or 'auto').")
        repeats = self.method == "repeat" or not takes_weights
        if repeats and (self.upweight % 1 or self.upweight > np.iinfo(np.int32).max):
            raise ValueError(
                f"Samples cannot be repeated upweight={self.upweight} times. Use an integer below 2**31, or an "
                f"estimator that takes sample_weight ({name} {'does' if takes_weights else 'does not'})."
            )
        return repeats

    @property
    def coef_(self):
        """Coefficients of `estimator_`."""
        return self.estimator_.coef_

    @property
    def intercept_(self):
        """Intercepts of `estimator_`."""
        return self.estimator_.intercept_

    def _check_X(self, X):
        check_is_fitted(self)
        return check_embedding(self, X, reset=False, allow_nd=True)

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
        X = self._check_X(X)
        return self.estimator_.predict(X)

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
        X = self._check_X(X)
        return self.estimator_.predict_proba(X)

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
        X = self._check_X(X)
        return self.estimator_.decision_function(X)
