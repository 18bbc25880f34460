"""Layers with weights, which get the rule of the composite."""

import torch
import torch.nn.functional as F

from skexmap.lrp._layers import BatchNormStatistics, WeightedLayer
from skexmap.lrp._nodes import apply_rule, pass_pixels_on
from skexmap.lrp._tags import Tag, kept_by_reshaping, tag_of

WEIGHTS_DEPEND = "Its weights depend on the image."


def dense(run, call):
    """Apply a dense layer, by the composite's rule."""
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias", None)
    if len(call.tags) > 1 or tag_of(call.args[0]) is None:
        return run.refuse(call, WEIGHTS_DEPEND)
    return apply_dense(run, call, call.args[0], weight, bias)


def apply_dense(run, call, x, weight, bias):
    with torch.no_grad():
        output = call.compute()
    layer = _weighted(run, x, output, "dense", weight, bias)
    return apply_rule(run, call, x, layer, Tag(dense=(layer.input, layer.name)))


def convolution(run, call):
    """Apply a convolution, by the composite's rule."""
    x, weight = call.args[0], call.argument(1, "weight")
    if len(call.tags) > 1 or tag_of(x) is None:
        return run.refuse(call, WEIGHTS_DEPEND)
    transposed = "transpose" in call.name
    spatial = weight.ndim - 2
    if x.ndim != weight.ndim:
        return run.refuse(call, "It is given a single image without a batch dimension.")
    if transposed:
        stride, padding, output_padding, groups, dilation = (
            call.argument(3 + i, name, default)
            for i, (name, default) in enumerate(
                [("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1)]
            )
        )
    else:
        stride, padding, dilation, groups = (
            call.argument(3 + i, name, default)
            for i, (name, default) in enumerate(
                [("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)]
            )
        )
        output_padding = 0
    dilation = _per_axis(dilation, spatial)
    if padding == "same":
        x, padding = _pad_to_same(run, x, weight, dilation)
    padding = [0] * spatial if padding == "valid" else padding
    settings = {
        "stride": _per_axis(stride, spatial),
        "padding": _per_axis(padding, spatial),
        "dilation": dilation,
        "transposed": transposed,
        "output_padding": _per_axis(output_padding, spatial),
        "groups": groups,
    }
    bias = call.argument(2, "bias", None)
    with torch.no_grad():
        output = torch.convolution(x, weight, bias, **settings)
    layer = _weighted(run, x, output, "convolution", weight, bias, settings)
    return apply_rule(run, call, x, layer, Tag())


def _per_axis(value, n):
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def _pad_to_same(run, x, weight, dilation):
    """Return x and the padding that padding="same" stands for; pad x itself if its two sides differ."""
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, [total // 2 for total in totals]
    amounts = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    tag = tag_of(x)
    return run.tag_all(F.pad(x, amounts), kept_by_reshaping(tag)), [0] * len(totals)


def batch_norm(run, call):
    """Normalize by running statistics: folded into the layer before it, or else a separate affine layer."""
    x = call.args[0]
    mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
    weight, bias = call.argument(3, "weight", None), call.argument(4, "bias", None)
    eps = call.argument(7, "eps", 1e-5)
    if mean is None or variance is None or call.argument(5, "training", False):
        return run.refuse(
            call,
            "It uses the statistics of the batch, so that an image's map would depend on its companions.",
        )
    if len(call.tags) > 1:
        return run.refuse(call, WEIGHTS_DEPEND)
    with torch.no_grad():
        output = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
    owned = run.owns(mean, variance, weight, bias)
    statistics = BatchNormStatistics(mean, variance, weight, bias, eps, owned=owned)
    tag = tag_of(x)
    if tag.layer is not None and tag.layer.can_fold:
        layer = tag.layer.folded(statistics, output)
        tag.is_folded = True
        return apply_rule(run, call, tag.source, layer, Tag())
    layer = _weighted(run, x, output, "batch_norm", mean, None).folded(statistics, output)
    if tag.pixels and run.composite.gives_to_zeros and run.rule_for(layer, call).proportional:
        return pass_pixels_on(run, call)
    return apply_rule(run, call, x, layer, Tag(pixels=tag.pixels))


def _weighted(run, x, output, operation, weight, bias, settings=None):
    tag = tag_of(x)
    return WeightedLayer(
        run.name_of(weight),
        operation,
        x.detach(),
        output,
        weight,
        bias,
        settings=settings,
        cache=run.cache_for(weight, bias),
        nonnegative=tag.nonnegative,
        first=tag.pixels and operation != "batch_norm",
    )
