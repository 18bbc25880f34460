"""Group distributionally robust optimization (group DRO): the loss of the worst group."""

from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

from skexmap._validation import Interval, _fit_context
from skexmap.retraining._inputs import check_samples, refuse_lost_classes
from skexmap.retraining._training import TrainedHead, losses_per_sample, torch_defaults, torch_generator


class GroupDROLoss(nn.Module):
    r"""The loss of group distributionally robust optimization (group DRO), with its exponentiated group weights.

    This is algorithm 1 of [1]_, with the mean loss :math:`\ell_g` of each group in the batch and its adjustment
    :math:`C / \sqrt{n_g}`:

    .. math:: q_g \leftarrow q_g \exp\big(\eta (\ell_g + C / \sqrt{n_g})\big), \quad
       q \leftarrow q / \textstyle\sum_g q_g, \quad \text{loss} = \sum_g q_g (\ell_g + C / \sqrt{n_g}).

    A group that is absent from the batch keeps its weight before normalization and adds nothing to the loss. The
    weights q are a buffer: they are saved in the `state_dict`, and change only in training mode.

    Parameters
    ----------
    n_groups : int
        Number of groups, at least 1.
    eta : float, default=0.01
        Step size of the group weights; 0 keeps them equal.
    adjustment : float, default=0.0
        C, the generalization adjustment, at least 0. If it is above 0, `group_counts` is required.
    group_counts : sequence of int of length n_groups, default=None
        Number of training samples of each group.

    Attributes
    ----------
    group_weights : Tensor of shape (n_groups,)
        The weights q, whose sum is 1.

    Raises
    ------
    ValueError
        If `n_groups` is below 1, if `eta` or `adjustment` is negative, if `adjustment` is given without `group_counts`,
        or if these have another length or are not positive.

    References
    ----------
    .. [1] Sagawa, Koh, Hashimoto, Liang. "Distributionally robust neural networks for group shifts". ICLR 2020.
       arXiv:1911.08731.

    Examples
    --------
    The group with the larger loss gains weight:

    >>> import torch
    >>> from skexmap.retraining import GroupDROLoss
    >>> loss = GroupDROLoss(2, eta=1.0)
    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]], requires_grad=True)
    >>> loss(logits, torch.tensor([0, 1]), torch.tensor([0, 1])).backward()
    >>> loss.group_weights
    tensor([0.1192, 0.8808])
    """

    def __init__(self, n_groups, *, eta=0.01, adjustment=0.0, group_counts=None):
        super().__init__()
        if n_groups < 1 or not eta >= 0 or not adjustment >= 0:
            raise ValueError(
                "Group DRO needs at least one group, and an `eta` and an `adjustment` of at least 0, got "
                f"n_groups={n_groups!r}, eta={eta!r}, adjustment={adjustment!r}."
            )
        if adjustment and group_counts is None:
            raise ValueError("`adjustment` needs `group_counts`: the adjustment of a group is C / sqrt(n_g).")
        counts = torch.ones(n_groups) if group_counts is None else torch.as_tensor(group_counts).float()
        if len(counts) != n_groups or (counts <= 0).any():
            raise ValueError(f"`group_counts` must be {n_groups} positive numbers, got {group_counts!r}.")
        self.eta = eta
        self.register_buffer("group_weights", torch.full((n_groups,), 1.0 / n_groups))
        self.register_buffer("adjustments", adjustment / counts.sqrt())

    def forward(self, logits, targets, group_labels):
        """Return the loss of a batch; in training mode, update the group weights first.

        Parameters
        ----------
        logits : Tensor of shape (n_samples, n_classes), or of one column for two classes
            Output of the network.
        targets : Tensor of shape (n_samples,)
            Class of each sample.
        group_labels : Tensor or array-like of int of shape (n_samples,) or (n_samples, 1)
            Group of each sample, 0 to ``n_groups - 1``; samples of group -1 do not count.

        Returns
        -------
        loss : Tensor, scalar

        Raises
        ------
        ValueError
            If there is not one group per sample, or a group is not an integer from -1 to ``n_groups - 1``.
        """
        losses, n_groups = losses_per_sample(logits, targets), len(self.group_weights)
        groups = check_batch_groups(group_labels, n_groups, losses)
        # The column of group -1 is dropped.
        member = F.one_hot(groups + 1, n_groups + 1)[:, 1:].to(losses.dtype)
        counts = member.sum(0)
        adjustments = (counts > 0) * self.adjustments.to(losses.dtype)
        group_losses = losses @ member / counts.clamp(min=1) + adjustments
        if self.training:
            self.raise_weights(group_losses.detach())
        return self.group_weights.to(losses.dtype) @ group_losses

    def raise_weights(self, group_losses):
        """Multiply each weight by ``exp(eta * loss)``, in the log domain because a large exponential overflows."""
        logs = self.group_weights.log() + self.eta * group_losses.to(self.group_weights.dtype)
        self.group_weights.copy_(torch.softmax(logs, 0))


def check_batch_groups(group_labels, n_groups, losses):
    """Return the groups of a batch as int64, one for each of its losses; raise ValueError if they are not."""
    groups = torch.as_tensor(group_labels, device=losses.device)
    if groups.ndim == 2 and groups.shape[1] == 1:
        groups = groups[:, 0]
    if groups.shape != losses.shape or groups.is_floating_point():
        raise ValueError(
            f"`group_labels` has the shape {tuple(groups.shape)} and the type {groups.dtype} for a batch of "
            f"{len(losses)} samples. Pass one integer per sample."
        )
    groups = groups.long()
    wrong = groups[(groups < -1) | (groups >= n_groups)]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(groups)} `group_labels` are out of range ({wrong[:5].tolist()}) for "
            f"n_groups={n_groups}. Number the groups from 0 to {n_groups - 1}; -1 means 'belongs to no group'."
        )
    return groups


class GroupDROClassifier(TrainedHead):
    r"""Group distributionally robust optimization (group DRO) of the last layer.

    Minimizes the loss of the worst group,

    .. math:: \min_\theta \max_g \Big( \mathbb{E}[\ell(\theta; x, y) \mid g] + \frac{C}{\sqrt{n_g}} \Big)
       + \frac{\lambda}{2} \|w\|^2,

    by the online algorithm of `GroupDROLoss`, which cites the paper. Batches hold equally many samples of each group,
    the group weights q grow exponentially with the loss of the group, and each step follows the gradient of the
    weighted loss.

    Parameters
    ----------
    eta : float, default=0.01
        Step size of the group weights (published).
    adjustment : float, default=0.0
        C, the generalization adjustment, which gives small groups more weight. The paper tries 0 to 5.
    l2 : float, default=1e-4
        Lambda, the penalty. This is the paper's standard strength; its strong penalty is 0.1 to 1.
    learning_rate : float, default=0.01
        First step size of Adam; it falls linearly to zero. (The paper trains whole networks by SGD with momentum.)
    batch_size : int, default=128
        Samples per step (published).
    n_steps : int, default=1000
        Number of steps.
    random_state : int, RandomState instance or None, default=None
        Draws the batches.

    Attributes
    ----------
    group_weights_ : ndarray of shape (n_groups,)
        The final q, which is large for groups with large losses.
    coef_, intercept_, classes_, groups_, group_counts_, n_features_in_, feature_names_in_
        As in `DFRClassifier`, which finds its groups in the same way.

    Raises
    ------
    ValueError
        In `fit`: as in `ERMClassifier` (whose warning it shares), and if no sample of a class belongs to a group.

    Notes
    -----
    Only the last layer is trained, so the features do not improve as they do in the paper. The loss is convex, so no
    early stopping is needed to minimize it, but the penalty is needed to generalize.

    Examples
    --------
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import ERMClassifier, GroupDROClassifier
    >>> X, y, shortcut = make_shortcut_features(agreement=0.95, random_state=0)
    >>> models = ERMClassifier(), GroupDROClassifier(eta=0.1, random_state=0)
    >>> against = shortcut != y
    >>> for model in models:
    ...     print(round(model.fit(X, y, group_labels=2 * y + shortcut).score(X[against], y[against]), 1))
    0.6
    0.9
    """

    _parameter_constraints: dict = {
        "eta": [Interval(Real, 0, None, closed="left")],
        "adjustment": [Interval(Real, 0, None, closed="left")],
        **TrainedHead._parameter_constraints,
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
        super().__init__(l2, learning_rate, batch_size, n_steps, random_state)
        self.eta = eta
        self.adjustment = adjustment

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Train the last layer for its worst group.

        Parameters
        ----------
        X, y, group_labels
            As in `DFRClassifier.fit`.

        Returns
        -------
        self : object
        """
        samples = check_samples(self, X, y, group_labels)
        refuse_lost_classes(samples, "no group (-1)")
        self.classes_, self.groups_, self.group_counts_ = (
            samples.classes,
            samples.groups,
            samples.group_counts,
        )
        with torch_defaults():
            options = {"eta": self.eta, "adjustment": self.adjustment, "group_counts": self.group_counts_}
            dro = GroupDROLoss(len(self.groups_), **options).float()
            targets, groups = torch.from_numpy(samples.class_codes), torch.from_numpy(samples.group_codes)

            def loss(rows, logits):
                return dro(logits, targets[rows], groups[rows])

            batches = self._balanced(samples.group_codes, torch_generator(self.random_state))
            [(self.coef_, self.intercept_)] = self._train(samples.embedding, loss, batches)
        self.group_weights_ = dro.group_weights.numpy()
        remedy = "Weaken the penalty (`l2`), train longer (`n_steps`) or raise `eta`."
        self._check_fit(samples.embedding, samples.class_codes, remedy, samples.belongs)
        return self
