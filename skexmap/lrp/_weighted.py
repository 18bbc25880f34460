"""Layers with weights, which get the rule of the composite."""

import torch
import torch.nn.functional as F

from skexmap.lrp._convolution import convolve, in_layout_of
from skexmap.lrp._layers import BatchNorm, WeightedLayer
from skexmap.lrp._nodes import ByRule, pass_pixels_on
from skexmap.lrp._tags import Tag, tag_of

DECLARE = "Declare a rule for the module or function that calls it with skexmap.lrp.register."
WEIGHTS_DEPEND = f"Its weights depend on the image. {DECLARE}"


def apply_composite(tracer, call, x, layer, tag, description=None):
    """Make the layer's output a node whose backward pass is the composite's rule for the layer."""
    layer.rule = tracer.composite.rule_for(layer)
    if layer.rule is None:
        tracer.refuse(call, f"The composite has no entry for it ({layer.operation}): end with (On(), rule).")
    output = ByRule.apply(x, layer)
    if layer.rule is not None:
        tracer.note(call.name, description or layer.rule, output, layer)
    tag.layer, tag.source = layer, x
    return tracer.tag_all(output, tag)


def dense(tracer, call):
    """Apply a dense layer, by the composite's rule."""
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias", None)
    if len(call.tags) > 1 or tag_of(call.args[0]) is None:
        return tracer.refuse(call, WEIGHTS_DEPEND)
    return apply_dense(tracer, call, call.args[0], weight, bias)


def apply_dense(tracer, call, x, weight, bias):
    """Apply the dense layer that a call computes, whatever its function."""
    layer = _weighted(tracer, x, call.value(), "dense", weight, bias)
    return apply_composite(tracer, call, x, layer, Tag(dense_input=layer.input))


def convolution(tracer, call):
    """Apply a convolution, by the composite's rule."""
    x, weight, bias = call.args[0], call.argument(1, "weight"), call.argument(2, "bias", None)
    if len(call.tags) > 1 or tag_of(x) is None:
        return tracer.refuse(call, WEIGHTS_DEPEND)
    if x.ndim != weight.ndim:
        return tracer.refuse(call, "It is given a single image: keep the batch dimension.")
    transposed = "transpose" in call.name
    names = ("stride", "padding", "dilation", "groups")
    if transposed:
        names = ("stride", "padding", "output_padding", "groups", "dilation")
    given = {
        name: call.argument(i, name, int("padding" not in name)) for i, name in enumerate(names, start=3)
    }
    if given["padding"] == "same":
        x, given["padding"] = _pad_to_same(tracer, x, weight, given["dilation"])
    elif given["padding"] == "valid":
        given["padding"] = 0
    settings = {"output_padding": 0, **given, "transposed": transposed}
    for name in ("stride", "padding", "dilation", "output_padding"):
        settings[name] = _per_axis(settings[name], weight.ndim - 2)
    with torch.no_grad():
        values = in_layout_of(weight, x)
        output = convolve(values, weight, bias, settings)
    layer = _weighted(tracer, x, output, "convolution", weight, bias, settings)
    layer.input = values.detach()
    return apply_composite(tracer, call, x, layer, Tag())


def _per_axis(value, n):
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def _pad_to_same(tracer, x, weight, dilation):
    """Return x and the padding that padding="same" stands for; pad x itself if its two sides differ."""
    kernel = weight.shape[2:]
    totals = [d * (k - 1) for d, k in zip(_per_axis(dilation, len(kernel)), kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, [total // 2 for total in totals]
    amounts = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    with tracer:
        return F.pad(x, amounts), 0


def batch_norm(tracer, call):
    """Normalize by running statistics: folded into the layer before it, or else a separate affine layer."""
    x = call.args[0]
    norm = BatchNorm(*statistics_and_weights(call), call.argument(7, "eps", 1e-5))
    # For an instance-norm this argument is `use_input_stats`.
    if norm.mean is None or norm.variance is None or call.argument(5, "training", False):
        return tracer.refuse(
            call,
            "It uses the statistics of the batch, so that an image's map would depend on its companions. Use running "
            "statistics, and pass `training=self.training`.",
        )
    if len(call.tags) > 1:
        return tracer.refuse(call, WEIGHTS_DEPEND)
    with torch.no_grad():
        output = norm.apply(x)
    owned = tracer.weights.owns(norm.mean, norm.variance, norm.weight, norm.bias)
    tag = tag_of(x)
    # Behind a dense layer of tokens, axis 1 is that of the tokens.
    same_axis = tag.layer is not None and (tag.layer.operation != "dense" or x.ndim == 2)
    if same_axis and tag.layer.can_fold:
        tag.is_folded = True
        layer = tag.layer.folded(norm, output, cached=owned)
        return apply_composite(tracer, call, tag.source, layer, Tag(), "folded into the layer before it")
    layer = _weighted(tracer, x, output, "batch_norm", norm.mean, None).folded(norm, output, cached=owned)
    rule = tracer.composite.rule_for(layer)
    if tag.pixels and tracer.composite.gives_to_zeros and rule is not None and rule.proportional:
        return pass_pixels_on(tracer, call)
    return apply_composite(tracer, call, x, layer, Tag(pixels=tag.pixels))


def statistics_and_weights(call):
    """Return the running mean and variance, the weight and the bias of a batch- or instance-norm."""
    # torch.batch_norm takes them in another order than torch.nn.functional.batch_norm.
    in_torch = call.func in (torch.batch_norm, torch.instance_norm)
    positions = (3, 4, 1, 2) if in_torch else (1, 2, 3, 4)
    names = ("running_mean", "running_var", "weight", "bias")
    return [call.argument(i, name, None) for i, name in zip(positions, names, strict=True)]


def _weighted(tracer, x, output, operation, weight, bias, settings=None):
    tag = tag_of(x)
    return WeightedLayer(
        tracer.weights.name_of(weight),
        operation,
        x.detach(),
        output,
        weight,
        bias,
        settings=settings,
        variants=tracer.weights.variants(weight, bias, bool(settings and settings["transposed"])),
        first=tag.pixels and operation != "batch_norm",
        input_nonnegative=tag.nonnegative,
    )
