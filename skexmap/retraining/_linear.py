"""The base class of linear heads on embeddings, and the arithmetic of their scores."""

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from skexmap.groups._diagnosis import warn_of_constant_predictions
from skexmap.retraining._inputs import check_embedding


class LinearHead(ClassifierMixin, BaseEstimator):
    """Base class of linear classifiers on embeddings, which predict by ``coef_``, ``intercept_`` and ``classes_``.

    There is one row of coefficients for two classes, else one per class. `fit` of a subclass sets the attributes.
    """

    # Group labels that are passed to a search go to its scorer, not to `fit`, unless the user requests it.
    __metadata_request__fit = {"group_labels": False}

    def decision_function(self, X):
        """Return the score of each sample for the second of two classes, else for every class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with the field ``embedding``
            Only the embedding is read.

        Returns
        -------
        scores : ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes)
        """
        check_is_fitted(self)
        embedding = check_embedding(self, X, reset=False)
        scores = self._scores(embedding)
        return scores.ravel() if len(self.classes_) == 2 else scores

    def predict(self, X):
        """Return the class of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with the field ``embedding``
            Only the embedding is read.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
        """
        scores = self.decision_function(X)
        return self.classes_[predict_codes(scores.reshape(len(scores), -1))]

    def predict_proba(self, X):
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with the field ``embedding``
            Only the embedding is read.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            The columns follow ``classes_``; each row sums to 1.
        """
        scores = self.decision_function(X)
        return softmax_probabilities(scores[:, None]) if scores.ndim == 1 else self._probabilities(scores)

    def _scores(self, embedding):
        """Return the scores, (n_samples, n_rows); raise if some overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            scores = embedding @ self.coef_.T + self.intercept_
        n_wrong = np.sum(~np.isfinite(scores).all(axis=1))
        if n_wrong:
            raise ValueError(
                f"The scores of {n_wrong} of {len(scores)} samples overflow: the largest value of the embedding is "
                f"{np.abs(embedding).max():.3g}, that of the coefficients {np.abs(self.coef_).max():.3g}. Scale the "
                "embeddings as those of `fit`, or remove the outliers."
            )
        return scores

    def _probabilities(self, scores):
        return softmax_probabilities(scores)

    def _check_fit(self, embedding, class_codes, remedy, fitted=slice(None)):
        """Raise if the coefficients are not finite; warn if one class is predicted for all samples fitted on."""
        name, parts = type(self).__name__, ("coef_", "intercept_")
        # Of LfF, also those of the biased head.
        n_wrong = sum(
            np.sum(~np.isfinite(values)) for key, values in vars(self).items() if key.endswith(parts)
        )
        if n_wrong:
            raise ValueError(
                f"{n_wrong} coefficients and intercepts of {name} are not finite after the fit. Lower the step or the "
                "penalty (`learning_rate`, `l2`), or scale the embeddings, whose largest value is "
                f"{np.abs(embedding).max():.3g}."
            )
        if len(np.unique(class_codes[fitted])) > 1:
            scores = self._scores(embedding[fitted])
            warn_of_constant_predictions(self.classes_[predict_codes(scores)], name, remedy)


def predict_codes(scores):
    """Return the class codes, (n_samples, ...), from scores (n_samples, ..., n_rows): one for two classes."""
    return (scores[..., 0] > 0).astype(int) if scores.shape[-1] == 1 else scores.argmax(axis=-1)


def softmax_probabilities(scores):
    """Return the probability of each class, (n_samples, n_classes); a single score is that of the second of two."""
    return np.hstack([expit(-scores), expit(scores)]) if scores.shape[1] == 1 else softmax(scores, axis=1)


def one_versus_rest_probabilities(scores):
    """Return normalized one-versus-rest probabilities, as liblinear gives them; they are not the softmax."""
    probabilities = expit(scores)
    totals = probabilities.sum(axis=1, keepdims=True)
    # If all probabilities are rounded to 0, use the softmax, which is the limit of the ratio.
    return np.where(totals > 0, probabilities / np.where(totals > 0, totals, 1.0), softmax(scores, axis=1))


def standardizer(X, sample_weight=None, *, standardize=True):
    """Return mean and scale of the features, 1 for a constant one; 0 and 1 if `standardize` is false."""
    with np.errstate(over="ignore", invalid="ignore"):
        if standardize:
            scaler = StandardScaler().fit(X, sample_weight=sample_weight)
            mean, scale, squares = scaler.mean_, scaler.scale_, scaler.var_
        else:
            mean, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
            squares = np.square(X, dtype=np.float64).sum(axis=0)
    overflowed = ~np.isfinite(squares)
    if overflowed.any():
        raise ValueError(
            f"The {'variance' if standardize else 'square'} of {overflowed.sum()} of {X.shape[1]} features of the "
            f"embedding overflows: their largest value is {np.abs(X[:, overflowed]).max():.3g}. Remove the outliers, "
            "or scale the embeddings."
        )
    return mean, scale


def fold_scaler(coef, intercept, mean, scale):
    """Return coefficients and intercepts for raw features that score as these do on ``(x - mean) / scale``."""
    # w . (x - mu) / sigma + b = (w / sigma) . x + (b - (w / sigma) . mu)
    folded = coef / scale
    # If a fit went astray, `inf - inf` is NaN, which the caller refuses.
    with np.errstate(invalid="ignore"):
        return folded, intercept - folded @ mean
