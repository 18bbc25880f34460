"""Autograd nodes whose backward pass is a relevance rule: they take and return coefficients."""

import torch

from skexmap.lrp._rules import away_from_zero
from skexmap.lrp._tags import Tag, tag_of


class PassOn(torch.autograd.Function):
    """An elementwise function that passes its relevance on: the coefficient is multiplied by output / input."""

    @staticmethod
    def forward(ctx, x, output):
        ctx.x, ctx.output = x.detach(), output.detach()
        return output

    @staticmethod
    def backward(ctx, coefficient):
        result = coefficient * away_from_zero(ctx.output) / away_from_zero(ctx.x)
        ctx.x = ctx.output = None
        return result, None


class ShareEqually(torch.autograd.Function):
    """Identity that divides the coefficient by n, so that each of the n factors of a product gets its equal part."""

    @staticmethod
    def forward(ctx, x, n):
        ctx.n = n
        return x.view_as(x)

    @staticmethod
    def backward(ctx, coefficient):
        return coefficient / ctx.n, None


class ByRule(torch.autograd.Function):
    """A layer whose backward pass is its rule."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return layer.output.detach()

    @staticmethod
    def backward(ctx, coefficient):
        result = ctx.layer.rule.coefficient(ctx.layer, coefficient)
        # The layer holds its input and output: free them as soon as the relevance has passed.
        ctx.layer = None
        return result, None


def pass_pixels_on(tracer, call):
    """Pass relevance on through an elementwise operation on the pixels."""
    x = next(tensor for tensor in call.tensors() if tag_of(tensor) is not None)
    value = call.value()
    output = PassOn.apply(x, value) if value.shape == x.shape else call.compute()
    return tracer.tag_all(output, Tag(pixels=True))
