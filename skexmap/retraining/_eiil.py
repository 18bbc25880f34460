"""Environment inference: split each class where a reference model is most unfair."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap._validation import HasMethods, _fit_context, codes_of_known_classes
from skexmap.cluster._cluster_block import ClusterBlockMixin, columns_with_cluster
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._inputs import check_classes, check_embedding
from skexmap.retraining._reference import check_reference_classes, fit_reference, warn_of_constant_reference


def scale_derivatives(log_p):
    r"""Return :math:`\frac{d}{ds} \text{CE}(s f, y) |_{s=1} = \sum_k p_k \log p_k - \log p_y` for every y."""
    # The logits f are log p up to a constant per sample, which cancels.
    return (np.exp(log_p) * log_p).sum(axis=1, keepdims=True) - log_p


class EIILLabeler(ClusterBlockMixin, BaseEstimator):
    r"""Pseudo-groups by environment inference for invariant learning (EIIL).

    Splits the samples into the two environments between which a reference model violates invariance most [1]_:

    .. math:: \max_{q \in [0, 1]^n} \Big(\frac{1}{n} \sum_i q_i g_i\Big)^2
       + \Big(\frac{1}{n} \sum_i (1 - q_i) g_i\Big)^2,
       \qquad g_i = \frac{d}{ds} \ell(s f(x_i), y_i) \Big|_{s=1}.

    The objective is a convex function of :math:`\sum_i q_i g_i`, so its maximum is at an end of the range of that sum:
    one environment holds the samples with :math:`g_i > 0`, the other those with :math:`g_i \le 0`. This solution is
    computed directly; the paper approaches it by Adam from a random start. For two classes, :math:`g_i > 0` means that
    the reference model gets the sample wrong.

    Parameters
    ----------
    reference_estimator : classifier, default=None
        The model whose unfairness is measured, with ``predict_proba`` and all classes of y; cloned. If None, a logistic
        regression with a strong penalty, ``ERMClassifier(C=1e-4, class_weight="balanced")``. (A model that gets
        everything right separates nothing. A model that predicts the largest class for all samples separates only the
        classes.) Wrap a fitted model in `sklearn.frozen.FrozenEstimator`.

    Attributes
    ----------
    environment_labels_ : ndarray of shape (n_samples,), int64
        1 if :math:`g_i > 0`, else 0.
    group_labels_ : ndarray of shape (n_samples,), int64
        ``2 * class + environment``.
    reference_estimator_ : classifier
        The fitted reference model.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_features_in_ : int
        Number of features of the embedding.

    Raises
    ------
    ValueError
        In `fit`: if y holds only one class or several classes per sample, if the block ``embedding`` is missing, or if
        the reference model has other classes.

    Warns
    -----
    PredictionWarning
        If the reference model predicts one class for all samples.

    Notes
    -----
    In a pipeline, the block ``heatmap``, if there is one, is replaced by ``cluster``: the environment for each class
    that the sample might have. The next step selects the entry of the sample's class. The paper passes the environments
    to invariant risk minimization, but any strategy can follow.

    References
    ----------
    .. [1] Creager, Jacobsen, Zemel. "Environment inference for invariant learning". ICML 2021. arXiv:2010.07249.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import EIILLabeler
    >>> X, y, shortcut = make_shortcut_features(n_features=4, agreement=0.95, noise=0.3, random_state=0)
    >>> eiil = EIILLabeler().fit(X, y)
    >>> round(float(np.mean((shortcut != y) == eiil.environment_labels_)), 2)
    1.0
    """

    _parameter_constraints: dict = {"reference_estimator": [HasMethods(["fit", "predict_proba"]), None]}

    def __init__(self, reference_estimator=None):
        self.reference_estimator = reference_estimator

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Fit the reference model and split every class by it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings.
        y : array-like of shape (n_samples,)
            Their classes.

        Returns
        -------
        self : object
        """
        embedding = check_embedding(self, X, reset=True)
        self.classes_, class_codes = check_classes(self, y, len(embedding))
        default, y = ERMClassifier(C=1e-4, class_weight="balanced"), self.classes_[class_codes]
        self.reference_estimator_ = fit_reference(self.reference_estimator, default, embedding, y)
        check_reference_classes(self.reference_estimator_, self.classes_)
        remedy = "Weaken its penalty, weight the classes, or pass a model that leans on the shortcut."
        predicted = self.reference_estimator_.predict(embedding)
        warn_of_constant_reference(predicted, self.reference_estimator_, remedy)
        environments = self._environments_of(embedding)
        self.environment_labels_ = cluster_of_class(environments, class_codes)
        self.group_labels_ = encode_groups(class_codes, self.environment_labels_, 2)
        self._columns_out = columns_with_cluster(X, environments)
        return self

    def fit_predict(self, X, y):
        """Fit, and return the pseudo-groups.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        group_labels : ndarray of shape (n_samples,), int64
            ``2 * class + environment``.
        """
        return self.fit(X, y).group_labels_

    def predict_groups(self, X, y):
        """Return the pseudo-groups of new samples whose class is known.

        Parameters
        ----------
        X, y
            As in `fit`.

        Returns
        -------
        group_labels : ndarray of shape (n_samples,), int64

        Raises
        ------
        ValueError
            If y holds a class that `fit` did not see, or is of another length.
        """
        check_is_fitted(self)
        environments = self._clusters_of(X)
        class_codes = codes_of_known_classes(y, self.classes_, len(environments))
        return encode_groups(class_codes, cluster_of_class(environments, class_codes), 2)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _clusters_of(self, X):
        return self._environments_of(check_embedding(self, X, reset=False))

    def _environments_of(self, embedding):
        """Return the environment of each sample for each class: shape (n_samples, n_classes)."""
        probabilities = self.reference_estimator_.predict_proba(embedding)
        log_p = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        return (scale_derivatives(log_p) > 0).astype(np.int64)
