"""Attribute a batch of images by a callable of the user."""

import torch

from skexmap.lrp import LRP
from skexmap.lrp._engine import Attribution
from skexmap.lrp._logits import check_finite, find_logits
from skexmap.lrp._method import predicted_classes


def as_lrp(attribution):
    """Return the LRP settings of an `attribution` parameter; None if it is a callable."""
    if isinstance(attribution, str):
        return LRP()
    return attribution if isinstance(attribution, LRP) else None


def attribute_by(method, module, images):
    """Attribute a batch by ``method(model, images, targets) -> relevance``; the result has no embedding."""
    with torch.no_grad():
        logits = find_logits(module(images), len(images))
        check_finite(logits)
        target = predicted_classes(logits)
    # A model with one logit has only the target 0, and relevance for class 0 is its negative.
    index = torch.zeros_like(target) if logits.shape[1] == 1 else target
    with torch.enable_grad():
        relevance = method(_LogitsOnly(module).eval(), images.detach().clone().requires_grad_(), index)
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


class _LogitsOnly(torch.nn.Module):
    """Wraps a model so that it returns the logits only."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return find_logits(self.module(images), len(images))
