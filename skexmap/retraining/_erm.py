"""Logistic regression of the last layer: the baseline, and the second stage of reweighting methods."""

from numbers import Real

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from skexmap._validation import Interval, StrOptions, _fit_context, check_sample_weight
from skexmap.retraining._inputs import check_classes, check_embedding
from skexmap.retraining._linear import LinearHead, fold_scaler, standardizer

# Range of C times the sum of the weights, of which the solver takes the inverse.
STRENGTHS = (1e-300, 1e300)


class ERMClassifier(LinearHead):
    r"""Ordinary retraining of the last layer: logistic regression on standardized embeddings.

    This is empirical risk minimization, the baseline of the other strategies:

    .. math:: \min_{w, b} \; C \sum_i s_i \, \text{CE}(W z_i + b, y_i) + \tfrac{1}{2} \|W\|^2.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the L2 penalty.
    class_weight : dict or "balanced", default=None
        Weight of each class. ``"balanced"`` gives every class the same total weight.
    standardize : bool, default=True
        Whether to standardize the embeddings.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        Coefficients for raw embeddings; the scaler is folded in.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts for raw embeddings.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_features_in_ : int
        Number of features of the embedding.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X is a data frame without blocks and with string columns.

    Raises
    ------
    ValueError
        In `fit`: if y holds only one class or several classes per sample, if the block ``embedding`` is missing, if
        embeddings are so large that their variance overflows, or if coefficients are not finite.

    Warns
    -----
    PredictionWarning
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

        It predicts what the net predicts from its embeddings. Wrapped in `sklearn.frozen.FrozenEstimator`, the deployed
        net can be the `reference_estimator` of `JTTReweighter`, `AFRClassifier` and `EIILLabeler`.

        Parameters
        ----------
        layer : torch.nn.Linear
            The dense layer from the embedding to the logits. Its weights are copied.
        classes : array-like of shape (n_classes,)
            The class of each logit, sorted; two classes for a single logit.

        Returns
        -------
        classifier : ERMClassifier

        Raises
        ------
        ValueError
            If the numbers of logits and classes differ, or the classes are not sorted.

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
            raise ValueError(f"`classes` must be sorted and distinct, got {classes.tolist()}.")
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
            Not used; present so that the strategies are interchangeable.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample.

        Returns
        -------
        self : object
        """
        embedding = check_embedding(self, X, reset=True)
        self.classes_, class_codes = check_classes(self, y, len(embedding))
        weight = check_sample_weight(sample_weight, len(embedding))
        mean, scale = standardizer(embedding, weight / weight.max(), standardize=self.standardize)
        if self.class_weight == "balanced":
            totals = np.bincount(class_codes, weight)
            weight *= (weight.sum() / (len(totals) * np.maximum(totals, np.finfo(float).tiny)))[class_codes]
        elif self.class_weight is not None:
            with np.errstate(over="ignore"):
                weight *= compute_sample_weight(self.class_weight, self.classes_[class_codes])
            weight = check_sample_weight(weight, len(embedding))
        with np.errstate(over="ignore"):
            strength = self.C * weight.sum()
        if not STRENGTHS[0] < strength < STRENGTHS[1]:
            raise ValueError(
                f"C={self.C:g} times the sum of the weights is {strength:.3g}, which leaves the range of numbers "
                "beside the penalty. Choose another C, or scale the weights."
            )
        logistic = LogisticRegression(C=self.C, tol=1e-6, max_iter=1000)
        logistic.fit((embedding - mean) / scale, class_codes, sample_weight=weight)
        self.coef_, self.intercept_ = fold_scaler(logistic.coef_, logistic.intercept_, mean, scale)
        self._check_fit(
            embedding,
            class_codes,
            "Weaken the penalty (a larger C), or weight the classes (`class_weight='balanced'`).",
            weight > 0,
        )
        return self
