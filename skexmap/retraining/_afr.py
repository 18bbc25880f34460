"""Automatic feature reweighting: upweight the samples that a reference model doubts, and refit the last layer."""

from numbers import Real

import numpy as np
import torch
from scipy.special import softmax
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch.nn import functional as F

from skexmap._validation import HasMethods, Interval, _fit_context
from skexmap.groups._diagnosis import without_constant_prediction_warnings
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._inputs import check_classes, check_embedding
from skexmap.retraining._linear import LinearHead, fold_scaler, standardizer
from skexmap.retraining._reference import check_reference_classes, fit_reference
from skexmap.retraining._training import losses_per_sample, torch_defaults


def afr_weights(p_true, class_codes, gamma):
    r"""Return :math:`\mu_i \propto \exp(-\gamma \hat p_i) / n_{y_i}`, whose sum is 1."""
    # In the log domain, because all exponentials may underflow.
    return softmax(-gamma * p_true - np.log(np.bincount(class_codes))[class_codes])


def out_of_fold_probabilities(embedding, y, n_folds):
    """Return the probabilities of an `ERMClassifier` that was not fitted on the sample itself."""
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    # A reference model that predicts one class is fine: only its probabilities are used.
    with without_constant_prediction_warnings():
        return cross_val_predict(ERMClassifier(), embedding, y, cv=folds, method="predict_proba")


def refit_head(Z, class_codes, weight, l2, coef, intercept):
    """Minimize ``sum_i weight_i CE_i + l2 / 2 ||w - coef||^2`` by L-BFGS, starting from `coef` and `intercept`."""
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
        How strongly doubted samples are upweighted: a sample with :math:`\hat p = 0` weighs :math:`e^\gamma` times as
        much as one with :math:`\hat p = 1`. The paper has no single default; it tunes gamma by worst-group accuracy.
    l2 : float, default=0.0
        Lambda, for standardized embeddings. The paper tunes it; 0 is among the values tried.
    reference_estimator : classifier, default=None
        The ordinarily trained model, linear in the embedding (with ``coef_`` and ``predict_proba``); cloned.
        If None, `ERMClassifier` with out-of-fold probabilities (5 folds), because a model is overconfident about
        samples that it was fitted on. Wrap a model fitted on other data, such as the net's own head, in
        `sklearn.frozen.FrozenEstimator`; this is the paper's setting.

    Attributes
    ----------
    sample_weight_ : ndarray of shape (n_samples,)
        The weights :math:`\mu_i`.
    reference_estimator_ : classifier
        The fitted reference model.
    coef_, intercept_, classes_, n_features_in_, feature_names_in_
        As in `ERMClassifier`.

    Raises
    ------
    ValueError
        In `fit`: as in `ERMClassifier` (whose warning it shares), and if the reference model has no ``coef_`` or
        other classes than y.

    Notes
    -----
    The paper also retrains only the last layer, so nothing is lost if the reference model is the net.

    References
    ----------
    .. [1] Qiu, Potapczynski, Izmailov, Wilson. "Simple and fast group robustness by automatic feature reweighting".
       ICML 2023. arXiv:2306.11074.

    Examples
    --------
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import AFRClassifier, ERMClassifier
    >>> X, y, shortcut = make_shortcut_features(agreement=0.95, random_state=0)
    >>> against = shortcut != y
    >>> models = (ERMClassifier(), AFRClassifier())
    >>> [round(model.fit(X, y).score(X[against], y[against]), 1) for model in models]
    [0.6, 0.9]
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
        X, y, group_labels
            As in `ERMClassifier.fit`; `group_labels` is not used.

        Returns
        -------
        self : object
        """
        embedding = check_embedding(self, X, reset=True)
        self.classes_, class_codes = check_classes(self, y, len(embedding))
        y = self.classes_[class_codes]
        reference = fit_reference(self.reference_estimator, ERMClassifier(), embedding, y)
        self.reference_estimator_ = reference
        check_reference_classes(reference, self.classes_)
        if not hasattr(reference, "coef_"):
            raise ValueError(
                f"The reference model {type(reference).__name__} has no `coef_`, so the last layer has nothing to "
                "start from. Use a linear classifier."
            )
        # A class of one sample cannot be held out.
        n_folds = min(5, np.bincount(class_codes).min())
        if self.reference_estimator is None and n_folds > 1:
            proba = out_of_fold_probabilities(embedding, y, n_folds)
        else:
            proba = reference.predict_proba(embedding)
        self.sample_weight_ = afr_weights(proba[np.arange(len(y)), class_codes], class_codes, self.gamma)
        mean, scale = standardizer(embedding)
        # The reference layer in the space of the scaler.
        reference_head = reference.coef_ * scale, reference.intercept_ + reference.coef_ @ mean
        with torch_defaults():
            Z = (embedding - mean) / scale
            coef, intercept = refit_head(Z, class_codes, self.sample_weight_, self.l2, *reference_head)
        self.coef_, self.intercept_ = fold_scaler(coef, intercept, mean, scale)
        remedy = "Lower `gamma`: few samples have nearly all the weight."
        self._check_fit(embedding, class_codes, remedy, self.sample_weight_ > 0)
        return self
