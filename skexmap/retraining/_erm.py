"""Weighted logistic regression of the last layer: the baseline, and the second stage of reweighting methods."""

from numbers import Real

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.utils.class_weight import compute_sample_weight

from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.retraining._inputs import read_classes, read_embedding, read_weights
from skexmap.retraining._linear import LinearHead, fold_scaler, standardizer

__all__ = ["ERMClassifier"]


def fit_logistic(X, class_codes, n_classes, weight, l2, center=None):
    r"""Minimise ``sum_i weight_i CE(x_i, y_i) + l2 / 2 ||w - center||^2`` by L-BFGS; intercepts are free.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features of similar scale.
    class_codes : ndarray of shape (n_samples,)
        Class of each sample, 0 to ``n_classes - 1``.
    n_classes : int
        Two classes have one row of coefficients, more have the softmax of one row per class.
    weight : ndarray of shape (n_samples,)
        Weight of each sample.
    l2 : float
        Strength of the penalty.
    center : tuple of ndarray (coef, intercept), default=None
        Where the penalty pulls to, and where the search starts; zero by default.

    Returns
    -------
    coef : ndarray of shape (n_rows, n_features)
    intercept : ndarray of shape (n_rows,)
    """
    n_rows = 1 if n_classes == 2 else n_classes
    shape = (n_rows, X.shape[1] + 1)
    origin = np.zeros(shape) if center is None else np.column_stack(center)
    total = weight.sum()
    targets = (class_codes == 1)[:, None].astype(float) if n_rows == 1 else np.eye(n_classes)[class_codes]

    def objective(flat):
        w = flat.reshape(shape)
        scores = X @ w[:, :-1].T + w[:, -1]
        if n_rows == 1:
            loss = weight @ np.logaddexp(0, np.where(targets, -scores, scores))[:, 0]
            residual = expit(scores) - targets
        else:
            loss = -weight @ (log_softmax(scores, axis=1) * targets).sum(axis=1)
            residual = softmax(scores, axis=1) - targets
        residual = weight[:, None] * residual
        away = (w - origin)[:, :-1]
        gradient = np.column_stack([residual.T @ X + l2 * away, residual.sum(axis=0)])
        return (loss + l2 / 2 * (away**2).sum()) / total, gradient.ravel() / total

    result = minimize(
        objective,
        origin.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-12},
    )
    solution = result.x.reshape(shape)
    return solution[:, :-1], solution[:, -1]


class ERMClassifier(LinearHead):
    r"""Ordinary retraining of the last layer: logistic regression on standardised embeddings.

    Empirical risk minimisation, the baseline that the other strategies are compared with:

    .. math:: \min_{w, b} \; C \sum_i s_i \, \text{CE}(W z_i + b, y_i) + \tfrac{1}{2} \|W\|^2.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the L2 penalty.
    class_weight : dict or "balanced", default=None
        Weight of each class. ``"balanced"`` gives every class the same total weight.
    standardize : bool, default=True
        Whether to standardise the embeddings.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        The scaler is folded in: they apply to raw embeddings.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Likewise.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_features_in_ : int
        Number of features of the embedding.

    Raises
    ------
    ValueError
        From `fit`: one class only, or a missing ``embedding`` block.

    Warns
    -----
    ConstantPredictionWarning
        If one class is predicted for all samples.

    See Also
    --------
    DFRClassifier : Balances the groups.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.retraining import ERMClassifier
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), ["land", "land", "water", "water"]
    >>> ERMClassifier().fit(X, y).predict([[0.5], [2.5]])
    array(['land', 'water'], dtype='<U5')
    """

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "standardize": ["boolean"],
    }

    def __init__(self, C=1.0, *, class_weight=None, standardize=True):
        self.C = C
        self.class_weight = class_weight
        self.standardize = standardize

    @classmethod
    def from_layer(cls, layer, classes):
        """Return a fitted classifier with the weights of a net's last dense layer.

        It tells what the net predicts from its embeddings. In `sklearn.frozen.FrozenEstimator` it makes the
        deployed net the identification or reference model of `JTTReweighter`, `AFRClassifier` and
        `EIILLabeler`.

        Parameters
        ----------
        layer : torch.nn.Linear
            The dense layer whose input is the embedding and whose output are the logits. Its weights are
            copied.
        classes : array-like of shape (n_classes,)
            The class of each logit, sorted; two classes for a single logit.

        Returns
        -------
        classifier : ERMClassifier

        Raises
        ------
        ValueError
            If the number of logits and of classes do not agree, or the classes are not sorted.

        Examples
        --------
        >>> import torch
        >>> from skexmap.retraining import ERMClassifier
        >>> _ = torch.manual_seed(0)
        >>> head = torch.nn.Linear(5, 2)
        >>> embedding = torch.rand(4, 5)
        >>> classifier = ERMClassifier.from_layer(head, classes=[0, 1])
        >>> bool((classifier.predict(embedding.numpy()) == head(embedding).argmax(1).numpy()).all())
        True
        """
        classes = np.asarray(classes)
        weight = layer.weight.detach().cpu().double().numpy()
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu().double().numpy()
        if len(weight) != len(classes) and not (len(weight) == 1 and len(classes) == 2):
            raise ValueError(f"The layer has {len(weight)} logits, but {len(classes)} classes are given.")
        if not np.array_equal(classes, np.unique(classes)):
            raise ValueError(f"`classes` must be sorted and differ, got {classes.tolist()}.")
        if len(weight) == 2:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        head = cls()
        head.classes_, head.coef_, head.intercept_ = classes, weight.copy(), bias.copy()
        head.n_features_in_ = weight.shape[1]
        return head

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None, sample_weight=None):
        """Fit the logistic regression.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Not used; all strategies take it, so that they can be exchanged.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample.

        Returns
        -------
        self : object
        """
        embedding = read_embedding(self, X, reset=True)
        self.classes_, class_codes = read_classes(self, y, len(embedding))
        weight = read_weights(sample_weight, len(embedding))
        mean, scale = standardizer(embedding, weight, standardize=self.standardize)
        if self.class_weight == "balanced":
            totals = np.bincount(class_codes, weight)
            weight *= (weight.sum() / (len(totals) * np.maximum(totals, np.finfo(float).tiny)))[class_codes]
        elif self.class_weight is not None:
            weight *= compute_sample_weight(self.class_weight, self.classes_[class_codes])
        coef, intercept = fit_logistic(
            (embedding - mean) / scale, class_codes, len(self.classes_), self.C * weight, 1.0
        )
        self.coef_, self.intercept_ = fold_scaler(coef, intercept, mean, scale)
        self._warn_of_constant_predictions(
            embedding,
            class_codes,
            "Weaken the penalty (a larger C), or weigh the classes (`class_weight='balanced'`).",
            weight > 0,
        )
        return self
