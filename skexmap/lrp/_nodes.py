"""Autograd nodes whose backward pass is a relevance rule: they take and return coefficients."""

import torch

from skexmap.lrp._rules import away_from_zero
from skexmap.lrp._tags import Tag, tag_of


class PassOn(torch.autograd.Function):
    """An elementwise function that passes its relevance on: `ratio` gives output / input, the coefficient's factor."""

    @staticmethod
    def forward(ctx, x, output, ratio):
        ctx.x, ctx.output, ctx.ratio = x.detach(), output.detach(), ratio
        return output

    @staticmethod
    def backward(ctx, coefficient):
        result = ctx.ratio(ctx.output, ctx.x).mul_(coefficient)
        ctx.x = ctx.output = None
        return result, None, None


class ByFunction(torch.autograd.Function):
    """A step whose backward pass is a function of the user: ``rule(inputs, output, relevance)``."""

    @staticmethod
    def forward(ctx, rule, name, output, *inputs):
        ctx.rule, ctx.name, ctx.output, ctx.inputs = rule, name, output, [x.detach() for x in inputs]
        return output

    @staticmethod
    def backward(ctx, coefficient):
        found = ctx.rule(tuple(ctx.inputs), ctx.output, coefficient * away_from_zero(ctx.output))
        found = [found] if isinstance(found, torch.Tensor) else list(found)
        shapes, expected = ([tuple(values.shape) for values in tensors] for tensors in (found, ctx.inputs))
        if shapes != expected:
            raise ValueError(
                f"The registered rule of {ctx.name} returned relevance of shapes {shapes}; its inputs that depend on "
                f"the images have {expected}."
            )
        coefficients = [part / away_from_zero(x) for part, x in zip(found, ctx.inputs, strict=True)]
        ctx.output = ctx.inputs = None
        return None, None, None, *coefficients


def any_ratio(output, x):
    """Return output / input, such that an input of zero passes its relevance on."""
    return away_from_zero(output).div_(away_from_zero(x))


def ratio_zero_at_zero(output, x):
    """Return output / input of a function that maps 0 to 0, and 0 there; half the cost of `any_ratio`."""
    # In float16, the smallest normal number is too large to be negligible.
    divisor = x + (2.0**-24 if x.dtype == torch.float16 else torch.finfo(x.dtype).tiny)
    return torch.div(output, divisor, out=divisor)


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
    x = next(tensor for tensor in call.tensors if tag_of(tensor) is not None)
    value = call.value()
    output = PassOn.apply(x, value, any_ratio) if value.shape == x.shape else call.compute()
    return tracer.tag_all(output, Tag(pixels=True))
