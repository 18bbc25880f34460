"""Automatic feature reweighting: upweight the samples that a reference model doubts, and refit the last layer."""

from numbers import Real

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch.nn import functional as F

from skexmap._validation import HasMethods, Interval, _fit_context
from skexmap.groups._diagnosis import without_constant_prediction_warnings
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._inputs import read_classes, read_embedding
from skexmap.retraining._linear import LinearHead, fold_scaler, standardizer
from skexmap.retraining.losses import losses_per_sample

__all__ = ["AFRClassifier"]


def afr_weights(p_true, class_codes, gamma):
    r"""Return :math:`\mu_i \propto \exp(-\gamma \hat p_i) / n_{y_i}`, whose sum is 1."""
    weights = np.exp(-gamma * p_true) / np.bincount(class_codes)[class_codes]
    return weights / weights.sum()


def refit_head(Z, class_codes, weight, l2, coef, intercept):
    """Minimise ``sum_i weight_i CE_i + l2 / 2 ||w - coef||^2`` by L-BFGS, starting from `coef` and `intercept`."""
    Z, targets, weight, reference = map(torch.from_numpy, (Z, class_codes, weight, coef))
    w = reference.clone(memory_format=torch.contiguous_format).requires_grad_()
    b = torch.from_numpy(intercept).clone().requires_grad_()
    lbfgs = torch.optim.LBFGS(
        [w, b], max_iter=1000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def objective():
        lbfgs.zero_grad()
        losses = losses_per_sample(F.linear(Z, w, b), targets)
        value = weight @ losses + l2 / 2 * ((w - reference) ** 2).sum()
        value.backward()
        return value

    lbfgs.step(objective)
    return w.detach().numpy(), b.detach().numpy()


class AFRClassifier(LinearHead):
    r"""Automatic feature reweighting (AFR) of the last layer, without group labels.

    Samples are upweighted if an ordinarily trained model assigns low probability to their true class [1]_:

    .. math:: \mu_i \propto \beta_{y_i} e^{-\gamma \hat p_i}, \qquad
       \min_{w, b} \sum_i \mu_i \, \text{CE}(W z_i + b, y_i) + \frac{\lambda}{2} \|W - \hat W\|^2

    with :math:`\hat p_i` the model's probability of the true class, :math:`\beta_y = 1 / n_y`, and the
    model's last layer :math:`\hat W` as the starting point. (The paper writes the penalty without the 1/2.)

    Parameters
    ----------
    gamma : float, default=4.0
        How much more doubted samples weigh: a sample with :math:`\hat p = 0` weighs :math:`e^\gamma` times as much as
        one with :math:`\hat p = 1`. The paper has no single default; it tunes gamma by worst-group accuracy.
    l2 : float, default=0.0
        Lambda; for standardised embeddings. Tuned in the paper, 0 among the values tried.
    reference_estimator : classifier, default=None
        The ordinarily trained model, linear in the embedding (with ``coef_`` and ``predict_proba``); cloned.
        None is `ERMClassifier`, with probabilities out of fold (5 folds), because a model is too certain of samples
        that it was fitted on. For a model fitted on other data, for example the net's own head, use
        `sklearn.frozen.FrozenEstimator`; that is the paper's setting.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        The scaler is folded in: they apply to raw embeddings.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Likewise.
    sample_weight_ : ndarray of shape (n_samples,)
        Mu.
    reference_estimator_ : classifier
        The fitted reference model.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_features_in_ : int
        Number of features of the embedding.

    Raises
    ------
    ValueError
        From `fit`: one class only; a missing ``embedding`` block; a reference model without ``coef_`` or of
        other classes.

    Warns
    -----
    PredictionWarning
        If one class is predicted for all samples.

    See Also
    --------
    JTTReweighter : Upweights the errors, all of them equally.

    Notes
    -----
    The paper's method *is* one of the last layer, so nothing is lost if the reference model is the net.

    References
    ----------
    .. [1] Qiu, Potapczynski, Izmailov, Wilson. "Simple and fast group robustness by automatic feature reweighting".
       ICML 2023. arXiv:2306.11074.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.retraining import AFRClassifier, ERMClassifier
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=1000)
    >>> shortcut = np.where(rng.uniform(size=1000) < 0.95, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + rng.normal(size=(1000, 2))
    >>> against = shortcut != y
    >>> models = (ERMClassifier(), AFRClassifier())
    >>> [round(model.fit(X, y).score(X[against], y[against]), 1) for model in models]
    [0.4, 0.9]
    """

    _parameter_constraints: dict = {
        "gamma": [Interval(Real, 0, None, closed="left")],
        "l2": [Interval(Real, 0, None, closed="left")],
        "reference_estimator": [HasMethods(["fit", "predict_proba"]), None],
    }

    def __init__(self, gamma=4.0, *, l2=0.0, reference_estimator=None):
        self.gamma = gamma
        self.l2 = l2
        self.reference_estimator = reference_estimator

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, group_labels=None):
        """Weight the samples by the reference model's doubt, and refit the last layer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings of held-out samples.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Not used; it makes the strategies interchangeable.

        Returns
        -------
        self : object
        """
        embedding = read_embedding(self, X, reset=True)
        self.classes_, class_codes = read_classes(self, y, len(embedding))
        # A reference model that predicts one class is fine: only its probabilities are used.
        with without_constant_prediction_warnings():
            p_true = self._reference_probabilities(embedding, class_codes)
        self.sample_weight_ = afr_weights(p_true, class_codes, self.gamma)
        mean, scale = standardizer(embedding)
        # The reference layer in the space of the scaler.
        reference = self.reference_estimator_
        coef, intercept = reference.coef_ * scale, reference.intercept_ + reference.coef_ @ mean
        with torch.inference_mode(False):
            coef, intercept = refit_head(
                (embedding - mean) / scale, class_codes, self.sample_weight_, self.l2, coef, intercept
            )
        self.coef_, self.intercept_ = fold_scaler(coef, intercept, mean, scale)
        self._warn_of_constant_predictions(
            embedding,
            class_codes,
            "Lower `gamma`: few samples have nearly all the weight.",
            self.sample_weight_ > 0,
        )
        return self

    def _reference_probabilities(self, embedding, class_codes):
        y = self.classes_[class_codes]
        if self.reference_estimator is None:
            self.reference_estimator_ = ERMClassifier().fit(embedding, y)
            n_folds = min(5, np.bincount(class_codes).min())
            if n_folds >= 2:
                folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
                proba = cross_val_predict(ERMClassifier(), embedding, y, cv=folds, method="predict_proba")
            else:
                # A class of one sample cannot be held out.
                proba = self.reference_estimator_.predict_proba(embedding)
        else:
            self.reference_estimator_ = clone(self.reference_estimator).fit(embedding, y)
            self._check_reference()
            proba = self.reference_estimator_.predict_proba(embedding)
        return proba[np.arange(len(y)), class_codes]

    def _check_reference(self):
        reference, name = self.reference_estimator_, type(self.reference_estimator_).__name__
        if not hasattr(reference, "coef_"):
            raise ValueError(
                f"The reference model {name} has no `coef_`, so the last layer has nothing to start from. "
                "Use a linear classifier."
            )
        if not np.array_equal(reference.classes_, self.classes_):
            raise ValueError(
                f"The reference model {name} has the classes {list(reference.classes_)}, but y holds "
                f"{self.classes_.tolist()}. Fit it on labels of the same classes."
            )
