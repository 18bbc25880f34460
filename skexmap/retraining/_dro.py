"""Distributionally robust last layers: over the groups, and over all subpopulations of a given size."""

from numbers import Real

import numpy as np
import torch

from skexmap._validation import Interval, _fit_context
from skexmap.retraining._inputs import read_classes, read_embedding, read_groups, refuse_lost_classes
from skexmap.retraining._linear import LinearHead
from skexmap.retraining._training import (
    TRAINING_CONSTRAINTS,
    group_balanced_batches,
    shuffled_batches,
    torch_generator,
    train_heads,
)
from skexmap.retraining.losses import CVaRDROLoss, GroupDROLoss

__all__ = ["CVaRDROClassifier", "GroupDROClassifier"]


class GroupDROClassifier(LinearHead):
    r"""Group distributionally robust optimisation (group DRO) of the last layer.

    Minimises the loss of the worst group [1]_,

    .. math:: \min_\theta \max_g \Big( \mathbb{E}[\ell(\theta; x, y) \mid g] + \frac{C}{\sqrt{n_g}} \Big)
       + \frac{\lambda}{2} \|w\|^2,

    by the paper's online algorithm: batches with equally many samples of each group, group weights q that
    grow exponentially with the loss of the group (`GroupDROLoss`), and a gradient step on the weighted loss.

    Parameters
    ----------
    eta : float, default=0.01
        Step size of the group weights (published).
    adjustment : float, default=0.0
        C, the generalisation adjustment: it makes small groups count for more. The paper tries 0 to 5.
    l2 : float, default=1e-4
        Lambda, the penalty (published standard strength; the paper's strong one is 0.1 to 1).
    learning_rate : float, default=0.01
        First step size of Adam; it falls linearly to zero. (The paper trains whole networks by SGD with
        momentum.)
    batch_size : int, default=128
        Samples per step (published).
    n_steps : int, default=1000
        Number of steps.
    random_state : int, RandomState instance or None, default=None
        Draws the batches.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        The scaler is folded in: they apply to raw embeddings.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Likewise.
    group_weights_ : ndarray of shape (n_groups,)
        The final q: large for the groups with large losses.
    groups_, group_counts_, classes_, n_features_in_
        As in `DFRClassifier`, which takes its groups from the same place.

    Raises
    ------
    ValueError
        From `fit`: one class only, a missing block, or a class of which no sample belongs to a group.

    Warns
    -----
    PredictionWarning
        If one class is predicted for all samples.

    See Also
    --------
    GroupDROLoss : For whole networks.

    Notes
    -----
    The last layer keeps the objective and the algorithm, and loses what the paper gains by training the features. The
    loss is convex here. It needs no early stopping to be minimised, but it needs the penalty to generalise.

    References
    ----------
    .. [1] Sagawa, Koh, Hashimoto, Liang. "Distributionally robust neural networks for group shifts". ICLR 2020.
       arXiv:1911.08731.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.retraining import GroupDROClassifier
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=1000)
    >>> shortcut = np.where(rng.uniform(size=1000) < 0.95, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + rng.normal(size=(1000, 2))
    >>> dro = GroupDROClassifier(eta=0.1, random_state=0)
    >>> dro = dro.fit(X, y, group_labels=2 * y + shortcut)
    >>> against = shortcut != y
    >>> round(dro.score(X[against], y[against]), 1)
    0.9
    """

    _parameter_constraints: dict = {
        "eta": [Interval(Real, 0, None, closed="left")],
        "adjustment": [Interval(Real, 0, None, closed="left")],
        **TRAINING_CONSTRAINTS,
    }

    def __init__(
        self,
        *,
        eta=0.01,
        adjustment=0.0,
        l2=1e-4,
        learning_rate=0.01,
        batch_size=128,
        n_steps=1000,
        random_state=None,
    ):
        self.eta = eta
        self.adjustment = adjustment
        self.l2 = l2
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_steps = n_steps
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Train the last layer for its worst group.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding`` and ``cluster``
            Embeddings.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Their groups; -1 is "belongs to none". They take precedence over the clusters.

        Returns
        -------
        self : object
        """
        embedding = read_embedding(self, X, reset=True)
        self.classes_, class_codes = read_classes(self, y, len(embedding))
        self.groups_, group_codes, _ = read_groups(
            self, X, embedding, self.classes_, class_codes, group_labels
        )
        belongs = group_codes >= 0
        refuse_lost_classes(self.classes_, class_codes[belongs], "no group (-1)")
        self.group_counts_ = np.bincount(group_codes[belongs], minlength=len(self.groups_))
        with torch.inference_mode(False):
            with torch.device("cpu"):
                loss = GroupDROLoss(
                    len(self.groups_),
                    eta=self.eta,
                    adjustment=self.adjustment,
                    group_counts=self.group_counts_,
                ).float()
            targets, groups = torch.from_numpy(class_codes), torch.from_numpy(group_codes)
            generator = torch_generator(self.random_state)
            [(self.coef_, self.intercept_)] = train_heads(
                embedding,
                len(self.classes_),
                lambda rows, logits: loss(logits, targets[rows], groups[rows]),
                group_balanced_batches(group_codes, self.batch_size, self.n_steps, generator),
                learning_rate=self.learning_rate,
                l2=self.l2,
            )
        self.group_weights_ = loss.group_weights.numpy()
        self._warn_of_constant_predictions(
            embedding,
            class_codes,
            "Weaken the penalty (`l2`), train longer (`n_steps`) or raise `eta`.",
            belongs,
        )
        return self


class CVaRDROClassifier(LinearHead):
    r"""Distributionally robust last layer without groups: the mean loss of the worst share of the samples.

    .. math:: \min_{\theta} \; \text{CVaR}_\alpha(\ell) + \frac{\lambda}{2} \|w\|^2, \qquad
       \text{CVaR}_\alpha = \min_\eta \; \eta + \frac{1}{\alpha n} \sum_i \max(\ell_i - \eta, 0),

    the largest loss of any subpopulation of at least a share alpha [1]_, estimated on each batch
    (`CVaRDROLoss`).

    Parameters
    ----------
    alpha : float, default=0.2
        Smallest share of the samples that the worst subpopulation may have. There is no published default for this
        use; the share of the smallest group is the natural choice. With a smaller alpha, mislabelled and hard samples
        have more influence on the fit.
    l2 : float, default=0.01
        Lambda, the penalty; there is no published default for a last layer.
    learning_rate : float, default=0.1
        First step size of Adam; it falls linearly to zero.
    batch_size : int, default=1024
        Samples per step. The estimate of a batch is biased low if ``alpha * batch_size`` is small.
    n_steps : int, default=1000
        Number of steps.
    random_state : int, RandomState instance or None, default=None
        Draws the batches.

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
    PredictionWarning
        If one class is predicted for all samples.

    See Also
    --------
    CVaRDROLoss : For whole networks.

    Notes
    -----
    The last layer keeps the objective and loses the training of the features. On separable embeddings with a weak
    penalty every loss goes to zero, so the worst share does not differ from the rest: raise `l2`. If the classes of
    more than a share alpha of the samples cannot be told apart, equal probabilities minimise the worst loss, and the
    weights go to zero: raise `alpha`.

    References
    ----------
    .. [1] Levy, Carmon, Duchi, Sidford. "Large-scale methods for distributionally robust optimization". NeurIPS 2020.
       arXiv:2010.05893.

    Examples
    --------
    With one feature for the class and four for the shortcut, a penalised model would rather use the four.

    >>> import numpy as np
    >>> from skexmap.retraining import CVaRDROClassifier
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=1000)
    >>> shortcut = np.where(rng.uniform(size=1000) < 0.95, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, *4 * [2 * shortcut - 1]]) + 0.3 * rng.normal(size=(1000, 5))
    >>> against = shortcut != y
    >>> models = [CVaRDROClassifier(alpha, l2=0.1, random_state=0).fit(X, y) for alpha in (1.0, 0.05)]
    >>> [round(model.score(X[against], y[against]), 1) for model in models]
    [0.2, 1.0]
    """

    _parameter_constraints: dict = {
        "alpha": [Interval(Real, 0, 1, closed="right")],
        **TRAINING_CONSTRAINTS,
    }

    def __init__(
        self,
        alpha=0.2,
        *,
        l2=0.01,
        learning_rate=0.1,
        batch_size=1024,
        n_steps=1000,
        random_state=None,
    ):
        self.alpha = alpha
        self.l2 = l2
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_steps = n_steps
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Train the last layer for the worst share of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding``
            Embeddings.
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
        with torch.inference_mode(False):
            loss, targets = CVaRDROLoss(self.alpha), torch.from_numpy(class_codes)
            generator = torch_generator(self.random_state)
            [(self.coef_, self.intercept_)] = train_heads(
                embedding,
                len(self.classes_),
                lambda rows, logits: loss(logits, targets[rows]),
                shuffled_batches(len(embedding), self.batch_size, self.n_steps, generator),
                learning_rate=self.learning_rate,
                l2=self.l2,
            )
        self._warn_of_constant_predictions(
            embedding,
            class_codes,
            "Set `alpha` to the share of the smallest class, weaken the penalty (`l2`) or train longer (`n_steps`).",
        )
        return self
