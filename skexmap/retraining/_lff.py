"""Learning from failure: a head that is made to follow the shortcut tells another one what to learn from."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state

from skexmap._progress import reports_fit
from skexmap._validation import Interval, _fit_context
from skexmap.retraining._inputs import read_classes, read_embedding
from skexmap.retraining._linear import LinearHead
from skexmap.retraining._training import (
    cross_entropies,
    cross_entropy_slope,
    shuffled_batches,
    train_heads,
)

__all__ = ["LfFClassifier"]


def amplified_weights(log_p, class_codes, q):
    r"""Return what the generalised cross-entropy :math:`(1 - p_y^q) / q` weighs each sample: :math:`p_y^q`.

    Its slope is that of the cross-entropy times :math:`p_y^q`: easy samples pull more.

    Parameters
    ----------
    log_p : ndarray of shape (n_samples, n_classes)
        Log-probabilities of the biased head.
    class_codes : ndarray of shape (n_samples,)
        Classes.
    q : float
        0 is the cross-entropy (in the limit), 1 the absolute error.

    Returns
    -------
    weights : ndarray of shape (n_samples,)
    """
    return np.exp(-q * cross_entropies(log_p, class_codes))


def relative_difficulty(biased_loss, debiased_loss):
    r"""Return :math:`\ell_B / (\ell_B + \ell_D)`: near 1 where the biased head fails and the other does not.

    Parameters
    ----------
    biased_loss, debiased_loss : ndarray of shape (n_samples,)
        Losses of the two heads.

    Returns
    -------
    weights : ndarray of shape (n_samples,)
    """
    return biased_loss / (biased_loss + debiased_loss + 1e-8)


def scaled_by_class(running, class_codes, rows):
    """Return the running losses of a batch, each head's divided by its largest in the class.

    Parameters
    ----------
    running : ndarray of shape (2, n_samples)
        Running losses of all samples; NaN before the first visit.
    class_codes : ndarray of shape (n_samples,)
        Classes.
    rows : ndarray of int
        The batch, visited.

    Returns
    -------
    scaled : ndarray of shape (2, n_rows)
    """
    largest = np.zeros((2, class_codes.max() + 1))
    for head in range(2):
        np.fmax.at(largest[head], class_codes, running[head])
    return running[:, rows] / np.maximum(largest[:, class_codes[rows]], 1e-12)


class LfFClassifier(LinearHead):
    r"""Learning from failure (LfF) on the last layer, without group labels.

    Two heads are trained side by side [1]_. The biased one minimises the generalised cross-entropy, which
    amplifies what is easy; the debiased one minimises cross-entropy with each sample weighed by its relative
    difficulty,

    .. math:: \text{GCE} = \frac{1 - p_B(y|x)^q}{q}, \qquad
       W(x) = \frac{\text{CE}(f_B(x), y)}{\text{CE}(f_B(x), y) + \text{CE}(f_D(x), y)}.

    Parameters
    ----------
    q : float, default=0.7
        Amplification of the generalised cross-entropy (published).
    ema : float, default=0.7
        Both cross-entropies in W are running means over the visits to a sample, of this decay, each divided
        by the largest of its class (as the authors train it).
    l2 : float, default=1e-4
        Penalty on both heads.
    learning_rate : float, default=0.01
        First step size of Adam; it falls linearly to zero.
    batch_size : int, default=256
        Samples per step (published).
    n_steps : int, default=1000
        Number of steps.
    random_state : int, RandomState instance or None, default=None
        Draws the batches.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        Of the debiased head. The scaler is folded in: they apply to raw embeddings.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Likewise.
    biased_coef_, biased_intercept_ : ndarray
        Of the biased head.
    sample_weight_ : ndarray of shape (n_samples,)
        The last W of each sample: which ones go against the shortcut.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_features_in_ : int
        Number of features of the embedding.

    Raises
    ------
    ValueError
        From `fit`: one class only, or a missing ``embedding`` block.

    Notes
    -----
    The paper trains two whole networks, and its argument is about *when* features are learned. On fixed
    embeddings only the second half is left: the linear head that follows the shortcut fails on some samples,
    and these weigh more. Where the embeddings separate the training samples, both heads get everything right
    and W says little: raise `l2` or lower `n_steps`.

    References
    ----------
    .. [1] Nam, Cha, Ahn, Lee, Shin. "Learning from failure: training debiased classifier from biased classifier".
       NeurIPS 2020. arXiv:2007.02561.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.retraining import LfFClassifier
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=1000)
    >>> shortcut = np.where(rng.uniform(size=1000) < 0.95, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + 0.3 * rng.normal(size=(1000, 2))
    >>> lff = LfFClassifier(random_state=0).fit(X, y)
    >>> weight = lff.sample_weight_
    >>> bool(weight[shortcut != y].mean() > 2 * weight[shortcut == y].mean())
    True
    """

    _parameter_constraints: dict = {
        "q": [Interval(Real, 0, 1, closed="right")],
        "ema": [Interval(Real, 0, 1, closed="left")],
        "l2": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self, *, q=0.7, ema=0.7, l2=1e-4, learning_rate=0.01, batch_size=256, n_steps=1000, random_state=None
    ):
        self.q = q
        self.ema = ema
        self.l2 = l2
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_steps = n_steps
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    @reports_fit()
    def fit(self, X, y, group_labels=None):
        """Train the biased and the debiased head together.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Not used; all strategies take it, so that they can be exchanged.

        Returns
        -------
        self : object
        """
        embedding = read_embedding(self, X, reset=True)
        self.classes_, class_codes = read_classes(self, y, len(embedding))
        # Running cross-entropy of the biased and of the debiased head; NaN before the first visit.
        running = np.full((2, len(embedding)), np.nan)
        weights = np.ones(len(embedding))

        def slopes_of(rows, biased, debiased):
            codes = class_codes[rows]
            now = np.stack([cross_entropies(biased, codes), cross_entropies(debiased, codes)])
            before = np.where(np.isnan(running[:, rows]), now, running[:, rows])
            running[:, rows] = self.ema * before + (1 - self.ema) * now
            weights[rows] = relative_difficulty(*scaled_by_class(running, class_codes, rows))
            amplified = amplified_weights(biased, codes, self.q)
            return [
                cross_entropy_slope(biased, codes, amplified / len(rows)),
                cross_entropy_slope(debiased, codes, weights[rows] / len(rows)),
            ]

        biased, debiased = train_heads(
            embedding,
            len(self.classes_),
            slopes_of,
            shuffled_batches(
                len(embedding), self.batch_size, self.n_steps, check_random_state(self.random_state)
            ),
            learning_rate=self.learning_rate,
            l2=self.l2,
            n_heads=2,
        )
        self.biased_coef_, self.biased_intercept_ = biased
        self.coef_, self.intercept_ = debiased
        self.sample_weight_ = weights
        return self
