"""Robust losses for torch, to train a whole network with: in a hand-written loop or in skorch."""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["CVaRDROLoss", "GroupDROLoss"]


def losses_per_sample(logits, targets):
    """Return the cross-entropy of each sample; a single column, or none, is the logit of class 1 of two."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.reshape(-1)
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets.long(), reduction="none")


def class_probabilities(logits):
    """Return the probability of each class, (n_samples, n_classes); a single column is the logit of class 1 of two."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return torch.softmax(logits, dim=1)


def generalized_cross_entropies(cross_entropies, q):
    """Return ``(1 - p^q) / q`` of each sample from its cross-entropy ``-log p``."""
    return -torch.expm1(-q * cross_entropies) / q


def mutual_information(p, q):
    """Return the mutual information of two heads' predictions from their probabilities on a batch."""
    joint = p.T @ q / len(p)
    return (joint * (_log(joint) - _log(p.mean(0))[:, None] - _log(q.mean(0)))).sum()


def divergence_from_prior(p, prior):
    """Return the Kullback-Leibler divergence of the mean prediction of a batch from the class shares `prior`."""
    mean = p.mean(0)
    return (mean * (_log(mean) - prior.log())).sum()


def _log(probabilities):
    # 0 log 0 is 0, with a finite gradient.
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


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
        # The column of group -1 is dropped.
        member = F.one_hot(group_labels + 1, len(self.group_weights) + 1)[:, 1:].to(losses.dtype)
        counts = member.sum(0)
        adjustments = (counts > 0) * self.adjustments.to(losses.dtype)
        group_losses = losses @ member / counts.clamp(min=1) + adjustments
        if self.training:
            self.raise_weights(group_losses.detach())
        return self.group_weights.to(losses.dtype) @ group_losses

    def raise_weights(self, group_losses):
        """Multiply each weight by ``exp(eta * loss)``, in the log domain: the exponential of a large loss overflows."""
        logs = self.group_weights.log() + self.eta * group_losses.to(self.group_weights.dtype)
        self.group_weights.copy_(torch.softmax(logs, 0))


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
