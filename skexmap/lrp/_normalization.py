"""Normalization by the image's own statistics, whose scale is treated as a constant (AttnLRP)."""

import math
from dataclasses import dataclass

import torch

from skexmap.lrp._nodes import ByRule
from skexmap.lrp._rules import Rule
from skexmap.lrp._tags import Tag
from skexmap.lrp._weighted import WEIGHTS_DEPEND, batch_norm, statistics_and_weights


class ScaleIsConstant(Rule):
    """The deviation is a constant; centering shares relevance in proportion (Achtibat et al. 2024)."""

    proportional = True

    def coefficient(self, layer, coefficient):
        rows = layer.input.reshape(layer.grouped)
        mean_square = rows.var(-1, unbiased=False) if layer.centered else rows.square().mean(-1)
        if layer.scale is not None:
            coefficient = coefficient * layer.scale
        share = coefficient.reshape(layer.grouped) * (mean_square + layer.eps).rsqrt().unsqueeze(-1)
        if layer.centered:
            share = share - share.mean(-1, keepdim=True)
        return share.reshape(layer.input.shape)

    def __repr__(self):
        return "scale is a constant, centering in proportion (AttnLRP)"


@dataclass
class Normalization:
    """One call of a normalization.

    `grouped` is the shape (..., entries) in which the last axis has one mean and deviation. `scale` multiplies the
    entries after normalization.
    """

    name: str
    input: torch.Tensor
    output: torch.Tensor
    grouped: tuple
    scale: torch.Tensor | None
    eps: float
    centered: bool
    operation = "normalization"
    rule = ScaleIsConstant()


def layer_norm(tracer, call):
    """Layer-norm: its standard deviation is treated as a constant, as AttnLRP does (Achtibat et al. 2024)."""
    grouped = (-1, math.prod(call.argument(1, "normalized_shape")))
    return _normalize(tracer, call, grouped, call.argument(2, "weight", None), call.argument(4, "eps", 1e-5))


def rms_norm(tracer, call):
    """RMS-norm: its root mean square is treated as a constant, as AttnLRP does."""
    grouped = (-1, math.prod(call.argument(1, "normalized_shape")))
    eps = call.argument(3, "eps", None)
    eps = torch.finfo(call.args[0].dtype).eps if eps is None else eps
    return _normalize(tracer, call, grouped, call.argument(2, "weight", None), eps, centered=False)


def group_norm(tracer, call):
    """Group-norm: like layer-norm, inside each group of channels."""
    x = call.args[0]
    scale = _per_channel(call.argument(2, "weight", None), x)
    grouped = (len(x), call.argument(1, "num_groups"), -1)
    return _normalize(tracer, call, grouped, scale, call.argument(4, "eps", 1e-5))


def instance_norm(tracer, call):
    """Instance-norm: like layer-norm, inside each channel; with running statistics it is a batch-norm."""
    x = call.args[0]
    if not call.argument(5, "use_input_stats", True):
        return batch_norm(tracer, call)
    scale = _per_channel(statistics_and_weights(call)[2], x)
    return _normalize(tracer, call, (len(x), x.shape[1], -1), scale, call.argument(7, "eps", 1e-5))


def _normalize(tracer, call, grouped, scale, eps, centered=True):
    if len(call.tags) > 1:
        return tracer.refuse(call, WEIGHTS_DEPEND)
    x = call.args[0]
    scale = None if scale is None else scale.detach()
    name = tracer.weights.name_of(*call.tensors)
    layer = Normalization(name, x.detach(), call.value(), grouped, scale, eps, centered)
    output = ByRule.apply(x, layer)
    tracer.note(call.name, layer.rule, output, layer)
    return tracer.tag_all(output, Tag())


def _per_channel(weight, x):
    return None if weight is None else weight.reshape(1, -1, *[1] * (x.ndim - 2))
