"""Conditional value at risk (CVaR): the mean loss of the worst share of the samples, without groups."""

from numbers import Real

import torch
from torch import nn

from skexmap._validation import Interval, _fit_context
from skexmap.retraining._inputs import check_classes, check_embedding
from skexmap.retraining._training import TrainedHead, losses_per_sample, torch_defaults, torch_generator


class CVaRDROLoss(nn.Module):
    r"""The mean loss of the worst fraction alpha of a batch: conditional value at risk (CVaR).

    .. math:: \text{CVaR}_\alpha = \min_\eta \; \eta + \frac{1}{\alpha n} \sum_i \max(\ell_i - \eta, 0)

    It is the largest mean loss over all subpopulations of at least a share alpha [1]_. On a batch it is
    estimated from the batch alone, which is biased low for small ``alpha * n_samples``.

    Parameters
    ----------
    alpha : float in (0, 1]
        Share of the samples; 1 is the ordinary mean.

    Raises
    ------
    ValueError
        If alpha is not in (0, 1].

    References
    ----------
    .. [1] Levy, Carmon, Duchi, Sidford. "Large-scale methods for distributionally robust optimization". NeurIPS 2020.
       arXiv:2010.05893.

    Examples
    --------
    >>> import torch
    >>> from skexmap.retraining import CVaRDROLoss
    >>> logits, targets = torch.tensor([3.0, -1.0, 0.0, 2.0]), torch.tensor([1, 1, 1, 1])
    >>> worst_quarter, mean = CVaRDROLoss(0.25)(logits, targets), CVaRDROLoss(1.0)(logits, targets)
    >>> round(float(worst_quarter), 4), round(float(mean), 4)
    (1.3133, 0.5455)
    """

    def __init__(self, alpha):
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"`alpha` is a share of the samples in (0, 1], got {alpha!r}.")
        self.alpha = alpha

    def forward(self, logits, targets):
        """Return the loss of a batch.

        Parameters
        ----------
        logits : Tensor of shape (n_samples, n_classes), or of one column for two classes
            Output of the network.
        targets : Tensor of shape (n_samples,)
            Class of each sample.

        Returns
        -------
        loss : Tensor, scalar

        Raises
        ------
        ValueError
            If the batch is empty.
        """
        losses = losses_per_sample(logits, targets)
        if not len(losses):
            raise ValueError("The batch is empty: there are no worst samples to take the mean loss of.")
        share = self.alpha * len(losses)
        # The minimum over eta is at the loss that completes the share. This loss counts only in part.
        worst = losses.sort(descending=True).values[: int(-(-share // 1))]
        parts = torch.ones_like(worst)
        parts[-1] = share - (len(worst) - 1)
        return parts @ worst / share


class CVaRDROClassifier(TrainedHead):
    r"""Distributionally robust last layer without groups: the mean loss of the worst share of the samples.

    .. math:: \min_{\theta} \; \text{CVaR}_\alpha(\ell) + \frac{\lambda}{2} \|w\|^2,

    with the loss that `CVaRDROLoss` defines, estimated on each batch.

    Parameters
    ----------
    alpha : float, default=0.2
        Smallest share of the samples that the worst subpopulation may have. There is no published default for this
        use; the share of the smallest group is the natural choice. With a smaller alpha, mislabeled and hard samples
        have more influence on the fit.
    l2 : float, default=0.01
        Lambda, the penalty; there is no published default for a last layer.
    learning_rate : float, default=0.1
        First step size of Adam; it falls linearly to zero.
    batch_size : int, default=1024
        Samples per step. The estimate of a batch is biased low if ``alpha * batch_size`` is small.
    n_steps, random_state
        As in `GroupDROClassifier`.

    Attributes
    ----------
    coef_, intercept_, classes_, n_features_in_, feature_names_in_
        As in `ERMClassifier`, as are the errors and warnings of `fit`.

    Notes
    -----
    Only the last layer is trained, so the features do not improve. On separable embeddings with a weak penalty, every
    loss goes to zero, and the worst share does not differ from the rest. Then raise `l2`. If the classes of more than a
    share alpha of the samples cannot be separated, equal probabilities minimize the worst loss, and the weights go to
    zero. Then raise `alpha`.

    Examples
    --------
    The features hold the shortcut four times, so a penalized model prefers it to the class:

    >>> import numpy as np
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import CVaRDROClassifier
    >>> X, y, shortcut = make_shortcut_features(n_features=4, agreement=0.95, noise=0.3, random_state=0)
    >>> X, against = np.hstack([X, X[:, 2:], X[:, 2:], X[:, 2:]]), shortcut != y
    >>> models = [CVaRDROClassifier(alpha, l2=0.1, random_state=0).fit(X, y) for alpha in (1.0, 0.05)]
    >>> [round(model.score(X[against], y[against]), 1) for model in models]
    [0.2, 1.0]
    """

    _parameter_constraints: dict = {
        "alpha": [Interval(Real, 0, 1, closed="right")],
        **TrainedHead._parameter_constraints,
    }

    def __init__(
        self, alpha=0.2, *, l2=0.01, learning_rate=0.1, batch_size=1024, n_steps=1000, random_state=None
    ):
        super().__init__(l2, learning_rate, batch_size, n_steps, random_state)
        self.alpha = alpha

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Train the last layer for the worst share of the samples.

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
        with torch_defaults():
            cvar, targets = CVaRDROLoss(self.alpha), torch.from_numpy(class_codes)
            batches = self._shuffled(len(embedding), torch_generator(self.random_state))
            [head] = self._train(embedding, lambda rows, logits: cvar(logits, targets[rows]), batches)
        self.coef_, self.intercept_ = head
        remedy = "Set `alpha` to the share of the smallest class, lower `l2` or train longer (`n_steps`)."
        self._check_fit(embedding, class_codes, remedy)
        return self
