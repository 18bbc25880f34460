"""Attribute a batch of images by relevance propagation or by a callable of the user."""

import threading

import torch

from skexmap.lrp import LRP
from skexmap.lrp._engine import Attribution, RelevanceEngine
from skexmap.lrp._logits import check_finite, find_logits

# A callable may register hooks on the replica (captum does), and several threads share a replica.
_LOCK = threading.Lock()


def as_lrp(attribution):
    """Return the LRP settings of an `attribution` parameter; None if it is a callable."""
    if isinstance(attribution, str):
        return LRP()
    return attribution if isinstance(attribution, LRP) else None


def lrp_engine(replica, composite):
    """Return the engine of a replica for a composite; built once."""
    key = ("lrp", composite)
    if key not in replica.extras:
        replica.extras[key] = RelevanceEngine(replica.module, composite)
    return replica.extras[key]


def attribute_by(method, replica, images, choose_target):
    """Attribute a batch by ``method(model, images, targets) -> relevance``; the result has no embedding."""
    # A model with one logit has only the target 0, and relevance for class 0 is its negative.
    module = replica.module
    with torch.no_grad():
        logits = find_logits(module(images), len(images))
        check_finite(logits)
        target = torch.as_tensor(choose_target(logits), device=logits.device)
    index = torch.zeros_like(target) if logits.shape[1] == 1 else target
    with _LOCK, torch.enable_grad():
        relevance = method(_FirstOutput(module).eval(), images.detach().clone().requires_grad_(), index)
    relevance = torch.as_tensor(relevance).detach()
    if relevance.ndim != images.ndim or len(relevance) != len(images):
        raise ValueError(
            f"The attribution method returned shape {tuple(relevance.shape)} for images of shape "
            f"{tuple(images.shape)}; it must return one map per image, with a channel axis."
        )
    if logits.shape[1] == 1:
        sign = torch.where(target == 1, 1.0, -1.0).to(relevance)
        relevance = relevance * sign.reshape(-1, *[1] * (relevance.ndim - 1))
    return Attribution(logits, relevance, None)


class _FirstOutput(torch.nn.Module):
    """Wraps a model that returns a tuple, so that it returns the logits only."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return find_logits(self.module(images), len(images))
