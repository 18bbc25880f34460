"""The table from torch function to relevance rule.

A `HANDLERS` entry takes the running `Interception` and the call, computes the value, and arranges that autograd, later,
propagates the coefficient (relevance / value) by the rule of the operation. For most operations that is their ordinary
gradient; then the handler only keeps track of what is known of the result (its `Tag`).
"""

import math

import torch
import torch.nn.functional as F

from skexmap.lrp._layers import BatchNormStatistics, WeightedLayer
from skexmap.lrp._rules import away_from_zero


class Tag:
    """What is known of a tensor that depends on the image.

    Attributes
    ----------
    nonnegative : bool
        No entry is negative.
    gate : str or None
        Name of the function (sigmoid, softmax, ...) that bounded it; kept through reshaping.
    pixels : bool
        No weighted layer lies between the image and it.
    layer : WeightedLayer or None
        The layer whose output it is, exactly.
    is_folded : bool
        Whether a later operation was folded into that layer, so that its relevance bypasses this tensor.
    source : tensor or None
        The input of that layer, as part of the graph.
    dense : tuple or None
        Input and name of the dense layer whose output it is, up to reshaping.
    version : int
        The tensor's version when it was tagged; another one means that something unseen has written to it.
    node : int or None
        Number of its node in autograd's graph; another one means that something unseen has wrapped it.
    replacement : tensor or None
        What an in-place operation has turned it into.
    """

    __slots__ = (
        "dense",
        "gate",
        "is_folded",
        "layer",
        "node",
        "nonnegative",
        "pixels",
        "replacement",
        "source",
        "version",
    )

    def __init__(self, nonnegative=False, gate=None, pixels=False, dense=None):
        self.nonnegative = nonnegative
        self.gate = gate
        self.pixels = pixels
        self.layer = None
        self.is_folded = False
        self.source = None
        self.dense = dense
        self.version = None
        self.node = None
        self.replacement = None

    def sign(self, tensor):
        """Remember the state of the tensor that is tagged."""
        self.version, self.node = tensor._version, _node_number(tensor)

    def fits(self, tensor):
        """Return whether the tensor is still in that state."""
        return self.version == tensor._version and self.node == _node_number(tensor)


def _node_number(tensor):
    return None if tensor.grad_fn is None else tensor.grad_fn._sequence_nr()


def tag_of(value):
    """Return the tag of a tensor that depends on the image, else None."""
    return getattr(value, "_relevance_tag", None) if isinstance(value, torch.Tensor) else None


def tensors_in(values):
    """Yield the tensors among values, also those one list or tuple deep."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, torch.Tensor):
                    yield item


# --- Operations whose rule is their ordinary gradient ------------------------------------------------------------


def hand_on(run, call):
    """Reshape, select or average: relevance follows the values; every property of the input is kept."""
    output = call.compute()
    if len(call.tags) == 1 and call.name not in ("pad", "constant_pad_nd", "where", "masked_fill"):
        kept = _kept_by_reshaping(call.tags[0])
        if call.name not in _KEEP_EVERY_VALUE:
            kept.dense = None
        return run.tag_all(output, kept)
    nonnegative = all(tag.nonnegative for tag in call.tags) and not call.has_negative_constant()
    return run.tag_all(output, Tag(nonnegative=nonnegative, pixels=all(tag.pixels for tag in call.tags)))


def share_proportionally(run, call):
    """Sum or scale: inputs share relevance in proportion to their contribution (the rule `Norm`).

    A shift or scaling of the pixels inside the model hands relevance on where a rule may give it to zeros (flat,
    w-square, z-box): in proportion, a pixel whose shifted value is zero would get an infinite share.
    """
    if call.name in _SHIFTS and run.composite.gives_to_zeros and len(call.tags) == 1 and call.tags[0].pixels:
        return _pass_pixels_on(run, call)
    output = call.compute()
    signed = call.name in ("sub", "rsub", "neg", "negative")
    nonnegative = (
        not signed and all(tag.nonnegative for tag in call.tags) and not call.has_negative_constant()
    )
    return run.tag_all(output, Tag(nonnegative=nonnegative, pixels=all(tag.pixels for tag in call.tags)))


def _pass_pixels_on(run, call):
    (x,) = (
        tensor for tensor in tensors_in((*call.args, *call.kwargs.values())) if tag_of(tensor) is not None
    )
    with torch.no_grad():
        value = call.compute()
    if value.shape != x.shape:
        return run.tag_all(call.compute(), Tag(pixels=True))
    return run.tag_all(_PassOn.apply(x, value), Tag(pixels=True))


_SHIFTS = {"add", "sub", "rsub", "mul", "multiply", "div", "divide", "true_divide", "truediv", "batch_norm"}
_KEEP_EVERY_VALUE = {
    "flatten", "unflatten", "reshape", "reshape_as", "view", "view_as", "contiguous", "unsqueeze", "squeeze", "clone",
    "to", "float", "double", "type", "type_as", "ravel", "atleast_2d",
}  # fmt: skip


def interpolate(run, call):
    """Resize: pixels share in proportion to their weight; only bicubic weights can be negative."""
    output = call.compute()
    mode = call.argument(3, "mode", "nearest")
    nonnegative = call.tags[0].nonnegative and mode != "bicubic"
    return run.tag_all(output, Tag(nonnegative=nonnegative, pixels=call.tags[0].pixels))


def make_constant(run, call):
    """Create a tensor that takes only shape and type from the image's: it depends on no pixel."""
    with torch.no_grad():
        return call.compute()


def drop_out(run, call):
    """Dropout does nothing in evaluation mode; a call that drops all the same makes the model random."""
    if call.argument(1, "p", 0.5) > 0 and call.argument(2, "training", call.kwargs.get("train", False)):
        return run.refuse(call, "It is active in evaluation mode: pass `training=self.training`.")
    return run.tag_all(call.args[0].view_as(call.args[0]), _kept_by_reshaping(call.tags[0]))


def _kept_by_reshaping(tag):
    return Tag(tag.nonnegative, tag.gate, tag.pixels, dense=tag.dense)


# --- Products ------------------------------------------------------------------------------------------------------


class _Halve(torch.autograd.Function):
    """Identity whose coefficient is halved: two factors of a product get equal halves of its relevance."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, coefficient):
        return coefficient / 2


def multiply(run, call):
    """Multiply by a constant, by a gate, or by another activation.

    A constant scales. If exactly one factor is a gate (the output of a sigmoid, hard sigmoid or softmax, as in
    squeeze-excite), the gate is treated as a constant and the signal takes all relevance (Arras et al. 2017);
    otherwise both factors get half (the uniform rule of AttnLRP, Achtibat et al. 2024, eq. 13), which conserves it.
    """
    left, right = call.args[:2]
    tags = tag_of(left), tag_of(right)
    if None in tags:
        return share_proportionally(run, call)
    nonnegative = tags[0].nonnegative and tags[1].nonnegative
    gates = [tag.gate is not None for tag in tags]
    if gates[0] != gates[1]:
        output = left.detach() * right if gates[0] else left * right.detach()
        run.note(call, "product", "signal takes all (the gate is a constant)", output)
    else:
        output = _Halve.apply(left * right)
        run.note(call, "product", "equal halves", output)
    return run.tag_all(output, Tag(nonnegative=nonnegative))


def divide(run, call):
    """Divide by a constant; a divisor that depends on the image has no rule."""
    if tag_of(call.args[1]) is not None:
        return run.refuse(call, "It divides by a value that depends on the image.")
    return share_proportionally(run, call)


def matrix_product(run, call):
    """Multiply matrices: by weights a dense layer; of two activations each gets half (AttnLRP, eq. 13)."""
    operands = list(tensors_in(call.args))
    tagged = [tag_of(operand) is not None for operand in operands]
    if all(tagged):
        output = _Halve.apply(call.compute())
        run.note(call, "product", "equal halves", output)
        return run.tag_all(output, Tag(nonnegative=all(tag.nonnegative for tag in call.tags)))
    if (
        call.name in ("matmul", "mm", "rmatmul")
        and tagged[0]
        and operands[1].ndim == 2
        and call.name != "rmatmul"
    ):
        return _dense(run, call, operands[0], operands[1].T, None)
    if call.name == "addmm" and tagged == [False, True, False] and not call.kwargs:
        return _dense(run, call, operands[1], operands[2].T, operands[0])
    return share_proportionally_signed(run, call)


def share_proportionally_signed(run, call):
    """As `share_proportionally`, with weights of unknown sign."""
    return run.tag_all(call.compute(), Tag())


# --- Layers with weights -------------------------------------------------------------------------------------------


class _ByRule(torch.autograd.Function):
    """A weighted layer whose backward pass is its rule."""

    @staticmethod
    def forward(ctx, x, layer, rule):
        ctx.layer = layer
        ctx.rule = rule
        return layer.output.detach()

    @staticmethod
    def backward(ctx, coefficient):
        result = ctx.rule.coefficient(ctx.layer, coefficient)
        # The layer holds its input and output: let them go as soon as the relevance has passed.
        ctx.layer = None
        return result, None, None


def _apply_rule(run, call, x, layer, tag):
    """Make the layer's output a node whose backward is the composite's rule for it."""
    rule = run.rule_for(layer, call)
    output = _ByRule.apply(x, layer, rule)
    if rule is not None:
        run.note(call, layer.operation, rule, output, layer)
    tag.layer = layer
    tag.source = x
    return run.tag_all(output, tag)


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


WEIGHTS_DEPEND = "Its weights depend on the image."


def dense(run, call):
    """Apply a dense layer: the composite's rule."""
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias", None)
    if len(call.tags) > 1 or tag_of(call.args[0]) is None:
        return run.refuse(call, WEIGHTS_DEPEND)
    return _dense(run, call, call.args[0], weight, bias)


def _dense(run, call, x, weight, bias):
    with torch.no_grad():
        output = call.compute()
    layer = _weighted(run, x, output, "dense", weight, bias)
    return _apply_rule(run, call, x, layer, Tag(dense=(layer.input, layer.name)))


def convolution(run, call):
    """Convolve: the composite's rule."""
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
    return _apply_rule(run, call, x, layer, Tag())


def _per_axis(value, n):
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def _pad_to_same(run, x, weight, dilation):
    """Pad as padding="same" does, so that the convolution itself needs none where the two sides differ."""
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, [total // 2 for total in totals]
    amounts = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    tag = tag_of(x)
    return run.tag_all(F.pad(x, amounts), _kept_by_reshaping(tag)), [0] * len(totals)


def batch_norm(run, call):
    """Normalise by running statistics: folded into the layer before it, else an affine layer of its own."""
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
        return _apply_rule(run, call, tag.source, layer, Tag())
    layer = _weighted(run, x, output, "batch_norm", mean, None).folded(statistics, output)
    if tag.pixels and run.composite.gives_to_zeros and run.rule_for(layer, call).proportional:
        return _pass_pixels_on(run, call)
    return _apply_rule(run, call, x, layer, Tag(pixels=tag.pixels))


# --- Normalisation by the image's own statistics -------------------------------------------------------------------


class _Normalize(torch.autograd.Function):
    """Normalisation whose scale is treated as a constant; centring shares relevance in proportion.

    The input is grouped as (rows, entries); `scale` multiplies the entries after normalisation.
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


def _normalize(run, call, view, scale, eps, centred=True):
    if len(call.tags) > 1:
        return run.refuse(call, WEIGHTS_DEPEND)
    with torch.no_grad():
        value = call.compute()
    scale = None if scale is None else scale.detach()
    output = _Normalize.apply(call.args[0], value, view, scale, eps, centred)
    run.note(call, "normalization", "scale is a constant, centring in proportion (AttnLRP)", output)
    return run.tag_all(output, Tag())


def layer_norm(run, call):
    """Layer-norm: its standard deviation is treated as a constant, as AttnLRP does (Achtibat et al. 2024)."""
    shape = call.argument(1, "normalized_shape")
    return _normalize(
        run, call, (-1, math.prod(shape)), call.argument(2, "weight", None), call.argument(4, "eps", 1e-5)
    )


def rms_norm(run, call):
    """RMS-norm: its root mean square is treated as a constant, as AttnLRP does."""
    x, shape = call.args[0], call.argument(1, "normalized_shape")
    eps = call.argument(3, "eps", None)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _normalize(run, call, (-1, math.prod(shape)), call.argument(2, "weight", None), eps, centred=False)


def group_norm(run, call):
    """Group-norm: as layer-norm, inside each group of channels."""
    x, groups = call.args[0], call.argument(1, "num_groups")
    scale = _per_channel(call.argument(2, "weight", None), x)
    return _normalize(run, call, (len(x), groups, -1), scale, call.argument(4, "eps", 1e-5))


def instance_norm(run, call):
    """Instance-norm: as layer-norm, inside each channel; with running statistics it is a batch-norm."""
    x = call.args[0]
    if not call.argument(5, "use_input_stats", True):
        return batch_norm(run, call)
    scale = _per_channel(call.argument(3, "weight", None), x)
    return _normalize(run, call, (len(x), x.shape[1], -1), scale, call.argument(7, "eps", 1e-5))


def _per_channel(weight, x):
    return None if weight is None else weight.reshape(1, -1, *[1] * (x.ndim - 2))


# --- Activations ---------------------------------------------------------------------------------------------------


class _PassOn(torch.autograd.Function):
    """An elementwise function that hands its relevance on: the coefficient is multiplied by output / input."""

    @staticmethod
    def forward(ctx, x, output):
        ctx.x, ctx.output = x.detach(), output.detach()
        return output

    @staticmethod
    def backward(ctx, coefficient):
        result = coefficient * away_from_zero(ctx.output) / away_from_zero(ctx.x)
        ctx.x = ctx.output = None
        return result, None


def relu(run, call):
    """ReLU hands relevance on; it is folded into the weighted layer before it where that is possible."""
    x = call.args[0]
    if run.composite.carries_zero_inputs:
        return activation(run, call)
    tag = tag_of(x)
    if tag.layer is not None and not tag.layer.rectified:
        with torch.no_grad():
            output = call.compute()
        layer = tag.layer.rectify(output)
        tag.is_folded = True
        return _apply_rule(run, call, tag.source, layer, Tag(nonnegative=True))
    return run.tag_all(call.compute(), Tag(nonnegative=True))


def activation(run, call):
    """Any other elementwise function hands relevance on (the rule `Pass`)."""
    x = call.args[0]
    if len(call.tags) > 1 or tag_of(x) is None:
        return run.refuse(call, "Its bounds or weights depend on the image.")
    with torch.no_grad():
        value = call.compute()
    output = _PassOn.apply(x, value)
    nonnegative = call.name in NONNEGATIVE_ACTIVATIONS or _lower_bound(call) >= 0
    gate = call.name if call.name in GATES else None
    return run.tag_all(output, Tag(nonnegative=nonnegative, gate=gate))


def _lower_bound(call):
    """Return the lower bound of a clipping function, -inf for any other."""
    if call.name == "hardtanh":
        return call.argument(1, "min_val", -1.0)
    if call.name in ("clamp", "clip", "clamp_min"):
        bound = call.argument(1, "min", None)
        return bound if isinstance(bound, (int, float)) else -math.inf
    return -math.inf


NONNEGATIVE_ACTIVATIONS = {"relu", "relu6", "sigmoid", "hardsigmoid", "softplus"}
GATES = {"sigmoid", "hardsigmoid", "softmax"}


def softmax(run, call):
    """Softmax: the Taylor expansion of AttnLRP (eq. 15), which in this form is the ordinary gradient."""
    output = call.compute()
    return run.tag_all(output, Tag(nonnegative=call.name == "softmax", gate=call.name))


# --- Attention -----------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(run, call):
    """Attention from its parts, each with its rule (AttnLRP)."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if call.argument(4, "dropout_p", 0.0) > 0:
        return run.refuse(call, "Its dropout is active in evaluation mode: pass `dropout_p=0`.")
    mask = call.argument(3, "attn_mask", None)
    causal = call.argument(5, "is_causal", False)
    scale = call.argument(6, "scale", None) or 1 / math.sqrt(query.shape[-1])
    if call.kwargs.get("enable_gqa"):
        repeat = query.shape[-3] // key.shape[-3]
        key, value = (
            run.call("repeat_interleave", torch.repeat_interleave, t, repeat, -3) for t in (key, value)
        )
    key = run.call("transpose", torch.transpose, key, -2, -1)
    query = run.call("mul", torch.mul, query, scale)
    scores = run.call("matmul", torch.matmul, query, key)
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = run.call("masked_fill", torch.masked_fill, scores, ~allowed, -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = run.call("masked_fill", torch.masked_fill, scores, ~mask, -math.inf)
        else:
            scores = run.call("add", torch.add, scores, mask)
    weights = run.call("softmax", torch.softmax, scores, -1)
    return run.call("matmul", torch.matmul, weights, value)


def multi_head_attention(run, call):
    """nn.MultiheadAttention from its parts, each with its rule (AttnLRP)."""
    a = call.bind(F.multi_head_attention_forward)
    if (
        a["bias_k"] is not None
        or a["add_zero_attn"]
        or a["static_k"] is not None
        or a["static_v"] is not None
    ):
        return run.refuse(call, "Its options bias_k, add_zero_attn, static_k and static_v have no rule.")
    query, key, value = a["query"], a["key"], a["value"]
    batched = query.ndim == 3
    if not batched:
        query, key, value = (run.call("unsqueeze", torch.unsqueeze, t, 1) for t in (query, key, value))
    if a["use_separate_proj_weight"]:
        weights = [a[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = run.chunks(a["in_proj_weight"], 3)
    biases = [None] * 3 if a["in_proj_bias"] is None else run.chunks(a["in_proj_bias"], 3)
    n_heads = a["num_heads"]

    def heads(x, weight, bias):
        projected = run.call("linear", F.linear, x, weight, bias)
        length, batch, width = projected.shape
        split = run.call("reshape", torch.reshape, projected, (length, batch, n_heads, width // n_heads))
        return run.call("permute", torch.permute, split, (1, 2, 0, 3))

    query, key, value = (heads(*parts) for parts in zip((query, key, value), weights, biases, strict=True))
    mask = _joint_mask(a, query, key)
    scores = run.call("mul", torch.mul, query, 1 / math.sqrt(query.shape[-1]))
    scores = run.call("matmul", torch.matmul, scores, run.call("transpose", torch.transpose, key, -2, -1))
    if mask is not None:
        scores = run.call("add", torch.add, scores, mask)
    attention = run.call("softmax", torch.softmax, scores, -1)
    mixed = run.call("matmul", torch.matmul, attention, value)
    mixed = run.call("permute", torch.permute, mixed, (2, 0, 1, 3))
    mixed = run.call("flatten", torch.flatten, mixed, 2)
    output = run.call("linear", F.linear, mixed, a["out_proj_weight"], a["out_proj_bias"])
    returned = None
    if a["need_weights"]:
        returned = run.call("mean", torch.mean, attention, 1) if a["average_attn_weights"] else attention
    if not batched:
        output = run.call("squeeze", torch.squeeze, output, 1)
        returned = None if returned is None else run.call("squeeze", torch.squeeze, returned, 0)
    return output, returned


def _joint_mask(a, query, key):
    """Join the attention mask and the key padding mask to one additive mask of shape (batch, heads, L, S)."""
    batch, n_heads, n_queries, _ = query.shape
    n_keys = key.shape[2]
    joint = None
    for mask, shape in (
        (
            a["attn_mask"],
            (
                -1,
                n_heads if a["attn_mask"] is not None and a["attn_mask"].ndim == 3 else 1,
                n_queries,
                n_keys,
            ),
        ),
        (a["key_padding_mask"], (batch, 1, 1, n_keys)),
    ):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, -math.inf)
        mask = mask.reshape(shape).to(query.dtype)
        joint = mask if joint is None else joint + mask
    return joint


# --- The table -----------------------------------------------------------------------------------------------------

_HAND_ON = [
    "flatten", "unflatten", "reshape", "reshape_as", "view", "view_as", "permute", "transpose", "swapaxes",
    "swapdims", "movedim", "moveaxis", "t", "T", "mT", "roll", "flip", "expand", "expand_as", "broadcast_to",
    "contiguous", "unsqueeze", "squeeze", "getitem", "narrow", "select", "index_select", "gather",
    "take_along_dim", "chunk", "split", "tensor_split", "split_with_sizes", "unbind", "repeat",
    "repeat_interleave", "tile", "clone", "to", "float", "double", "half", "bfloat16", "type", "type_as",
    "cuda", "cpu", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "pad", "constant_pad_nd", "max_pool1d",
    "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "amax",
    "max", "maximum", "where", "masked_fill", "unfold", "diagonal", "atleast_2d", "ravel",
]  # fmt: skip
_PROPORTIONAL = [
    "add", "sub", "rsub", "neg", "negative", "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "cumsum",
]  # fmt: skip
_CONSTANT = [
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "new_tensor", "argmax", "argmin", "argsort",
]  # fmt: skip
_DROPOUT = [
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout",
]  # fmt: skip
_ACTIVATIONS = [
    "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "mish", "elu", "celu", "selu",
    "leaky_relu", "rrelu", "prelu", "sigmoid", "tanh", "softplus", "softsign", "clamp", "clip", "clamp_min",
    "clamp_max", "threshold", "local_response_norm", "tanhshrink", "hardshrink", "softshrink",
]  # fmt: skip

HANDLERS = {
    **dict.fromkeys(_HAND_ON, hand_on),
    **dict.fromkeys(_PROPORTIONAL, share_proportionally),
    **dict.fromkeys(_CONSTANT, make_constant),
    **dict.fromkeys(_DROPOUT, drop_out),
    **dict.fromkeys(_ACTIVATIONS, activation),
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], convolution),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], convolution),
    **dict.fromkeys(["interpolate", "upsample", "upsample_nearest", "upsample_bilinear"], interpolate),
    **dict.fromkeys(["mul", "multiply"], multiply),
    **dict.fromkeys(["div", "divide", "true_divide", "truediv"], divide),
    **dict.fromkeys(["matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm", "einsum"], matrix_product),
    **dict.fromkeys(["softmax", "log_softmax"], softmax),
    "relu": relu,
    "linear": dense,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
}

# What a report says of the operations that have no rule from the composite.
DESCRIPTIONS = {
    **dict.fromkeys(set(HANDLERS.values()), "made of its parts"),
    hand_on: "pass",
    drop_out: "pass",
    relu: "pass",
    activation: "pass",
    make_constant: "constant",
    share_proportionally: "norm",
    interpolate: "norm",
    multiply: "norm (by a constant)",
    divide: "norm (by a constant)",
    matrix_product: "norm (by a constant)",
    softmax: "Taylor expansion (AttnLRP)",
}
