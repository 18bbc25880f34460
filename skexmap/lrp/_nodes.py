"""Autograd nodes whose backward pass is a relevance rule: they take and return coefficients."""

import torch

from skexmap.lrp._rules import away_from_zero
from skexmap.lrp._tags import Tag, tag_of, tensors_in


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


class Halve(torch.autograd.Function):
    """Identity that halves the coefficient, so that both factors of a product get half of its relevance."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, coefficient):
        return coefficient / 2


class ByRule(torch.autograd.Function):
    """A weighted layer whose backward pass is its rule."""

    @staticmethod
    def forward(ctx, x, layer, rule):
        ctx.layer = layer
        ctx.rule = rule
        return layer.output.detach()

    @staticmethod
    def backward(ctx, coefficient):
        result = ctx.rule.coefficient(ctx.layer, coefficient)
        # The layer holds its input and output: free them as soon as the relevance has passed.
        ctx.layer = None
        return result, None, None


class Normalize(torch.autograd.Function):
    """Normalization whose scale is treated as a constant; centering shares relevance in proportion.

    The input is grouped as (rows, entries); `scale` multiplies the entries after normalization.
    """

    @staticmethod
    def forward(ctx, x, output, view, scale, eps, centred):
        ctx.x, ctx.view, ctx.scale, ctx.eps, ctx.centred = x.detach(), view, scale, eps, centred
        return output

    @staticmethod
    def backward(ctx, coefficient):
        rows = ctx.x.reshape(ctx.view)
        mean_square = rows.var(-1, unbiased=False) if ctx.centred else rows.square().mean(-1)
        if ctx.scale is not None:
            coefficient = coefficient * ctx.scale
        share = coefficient.reshape(ctx.view) * (mean_square + ctx.eps).rsqrt().unsqueeze(-1)
        if ctx.centred:
            share = share - share.mean(-1, keepdim=True)
        ctx_shape = ctx.x.shape
        ctx.x = None
        return share.reshape(ctx_shape), None, None, None, None, None


def apply_rule(run, call, x, layer, tag):
    """Make the layer's output a node whose backward pass is the composite's rule for the layer."""
    rule = run.rule_for(layer, call)
    output = ByRule.apply(x, layer, rule)
    if rule is not None:
        run.note(call, layer.operation, rule, output, layer)
    tag.layer = layer
    tag.source = x
    return run.tag_all(output, tag)


def pass_pixels_on(run, call):
    (x,) = (
        tensor for tensor in tensors_in((*call.args, *call.kwargs.values())) if tag_of(tensor) is not None
    )
    with torch.no_grad():
        value = call.compute()
    if value.shape != x.shape:
        return run.tag_all(call.compute(), Tag(pixels=True))
    return run.tag_all(PassOn.apply(x, value), Tag(pixels=True))
