"""Robust losses for torch, to train a whole network with: in a hand-written loop or in skorch."""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["CVaRDROLoss", "GroupDROLoss"]


def losses_per_sample(logits, targets):
    """Return the cross-entropy of each sample; of the two classes of one logit where there is only one.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes), (n_samples, 1) or (n_samples,)
        One column, or none: the logit of class 1 of two.
    targets : Tensor of shape (n_samples,)
        Class of each sample, 0 to ``n_classes - 1``.

    Returns
    -------
    losses : Tensor of shape (n_samples,)
    """
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.reshape(-1)
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets.long(), reduction="none")


class GroupDROLoss(nn.Module):
    r"""The loss of group distributionally robust optimisation (group DRO), with its exponentiated group weights.

    Algorithm 1 of [1]_: with the mean loss :math:`\ell_g` of each group in the batch and its adjustment
    :math:`C / \sqrt{n_g}`,

    .. math:: q_g \leftarrow q_g \exp\big(\eta (\ell_g + C / \sqrt{n_g})\big), \quad
       q \leftarrow q / \textstyle\sum_g q_g, \quad \text{loss} = \sum_g q_g (\ell_g + C / \sqrt{n_g}).

    A group that the batch lacks keeps its weight before normalisation and adds nothing to the loss. The
    weights q are a buffer: they are saved in the `state_dict`, and move only while the module is in training
    mode.

    Parameters
    ----------
    n_groups : int
        Number of groups, at least 1.
    eta : float, default=0.01
        Step size of the group weights; 0 keeps them equal.
    adjustment : float, default=0.0
        C, the generalisation adjustment, at least 0; above 0 it needs `group_counts`.
    group_counts : sequence of int of length n_groups, default=None
        Number of training samples of each group.

    Attributes
    ----------
    group_weights : Tensor of shape (n_groups,)
        q; it sums to 1.

    Raises
    ------
    ValueError
        If `n_groups` is below 1, `eta` or `adjustment` is negative, or `adjustment` is given without `group_counts`,
        or these have another length or are not positive.

    References
    ----------
    .. [1] Sagawa, Koh, Hashimoto, Liang. "Distributionally robust neural networks for group shifts". ICLR 2020.
       arXiv:1911.08731.

    Examples
    --------
    The group with the larger loss gains weight.

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
        group_labels : Tensor of shape (n_samples,), int64
            Group of each sample, 0 to ``n_groups - 1``; samples of group -1 do not count.

        Returns
        -------
        loss : Tensor, scalar
        """
        losses = losses_per_sample(logits, targets)
        n_groups = len(self.group_weights)
        member = F.one_hot(group_labels.clamp(min=0), n_groups) * (group_labels >= 0)[:, None]
        counts = member.sum(0)
        present = counts > 0
        group_losses = losses @ member.to(losses.dtype) / counts.clamp(min=1)
        group_losses = torch.where(present, group_losses + self.adjustments.to(losses.dtype), 0.0)
        if self.training:
            with torch.no_grad():
                # A log-domain step: the exponential of a large loss would overflow.
                logs = self.group_weights.log() + self.eta * group_losses.to(self.group_weights.dtype)
                self.group_weights.copy_(torch.softmax(logs, 0))
        return self.group_weights.to(losses.dtype) @ group_losses


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
            If the batch is empty: it has no worst samples.
        """
        losses = losses_per_sample(logits, targets)
        if not len(losses):
            raise ValueError("The batch is empty: there are no worst samples to take the mean loss of.")
        share = self.alpha * len(losses)
        # The minimum over eta is attained at the loss that completes the share; it counts with what is left
        # of it.
        worst = losses.sort(descending=True).values[: int(-(-share // 1))]
        parts = torch.ones_like(worst)
        parts[-1] = share - (len(worst) - 1)
        return parts @ worst / share
