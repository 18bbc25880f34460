"""The table from torch function to relevance rule.

A `HANDLERS` entry takes the running `Interception` and the call and computes the value. It also prepares autograd to
propagate the coefficient (relevance / value) by the rule of the operation. For most operations the rule is the ordinary
gradient, and the handler only records what is known about the result (its `Tag`). To give another torch function a
rule, add an entry here.
"""

import math

import torch

from skexmap.lrp._attention import multi_head_attention, scaled_dot_product_attention
from skexmap.lrp._nodes import Halve, PassOn, apply_rule, pass_pixels_on
from skexmap.lrp._normalization import group_norm, instance_norm, layer_norm, rms_norm
from skexmap.lrp._tags import Tag, kept_by_reshaping, tag_of, tensors_in
from skexmap.lrp._weighted import apply_dense, batch_norm, convolution, dense

NONNEGATIVE_ACTIVATIONS = {"relu", "relu6", "sigmoid", "hardsigmoid", "softplus"}
GATES = {"sigmoid", "hardsigmoid", "softmax"}
_SHIFTS = {"add", "sub", "rsub", "mul", "multiply", "div", "divide", "true_divide", "truediv", "batch_norm"}
_KEEP_EVERY_VALUE = {
    "flatten", "unflatten", "reshape", "reshape_as", "view", "view_as", "contiguous", "unsqueeze", "squeeze", "clone",
    "to", "float", "double", "type", "type_as", "ravel", "atleast_2d",
}  # fmt: skip


def pass_through(run, call):
    """Reshape, select or average: relevance follows the values, and every property of the input is kept."""
    output = call.compute()
    if len(call.tags) == 1 and call.name not in ("pad", "constant_pad_nd", "where", "masked_fill"):
        kept = kept_by_reshaping(call.tags[0])
        if call.name not in _KEEP_EVERY_VALUE:
            kept.dense = None
        return run.tag_all(output, kept)
    nonnegative = all(tag.nonnegative for tag in call.tags) and not call.has_negative_constant()
    return run.tag_all(output, Tag(nonnegative=nonnegative, pixels=all(tag.pixels for tag in call.tags)))


def share_proportionally(run, call):
    """Sum or scale: inputs share relevance in proportion to their contributions (the rule `Norm`)."""
    # If a rule may give relevance to zeros (flat, w-square, z-box), a shift or scaling of the pixels inside the model
    # passes relevance on. In proportion, a pixel whose shifted value is zero would get an infinite share.
    if call.name in _SHIFTS and run.composite.gives_to_zeros and len(call.tags) == 1 and call.tags[0].pixels:
        return pass_pixels_on(run, call)
    output = call.compute()
    signed = call.name in ("sub", "rsub", "neg", "negative")
    nonnegative = (
        not signed and all(tag.nonnegative for tag in call.tags) and not call.has_negative_constant()
    )
    return run.tag_all(output, Tag(nonnegative=nonnegative, pixels=all(tag.pixels for tag in call.tags)))


def interpolate(run, call):
    """Resize: pixels share in proportion to their weight; only bicubic weights can be negative."""
    output = call.compute()
    mode = call.argument(3, "mode", "nearest")
    nonnegative = call.tags[0].nonnegative and mode != "bicubic"
    return run.tag_all(output, Tag(nonnegative=nonnegative, pixels=call.tags[0].pixels))


def make_constant(run, call):
    """Create a tensor that takes only its shape and type from the image, so it depends on no pixel."""
    with torch.no_grad():
        return call.compute()


def drop_out(run, call):
    """Dropout does nothing in evaluation mode; a call that still drops values makes the model random."""
    if call.argument(1, "p", 0.5) > 0 and call.argument(2, "training", call.kwargs.get("train", False)):
        return run.refuse(call, "It is active in evaluation mode: pass `training=self.training`.")
    return run.tag_all(call.args[0].view_as(call.args[0]), kept_by_reshaping(call.tags[0]))


def multiply(run, call):
    """Multiply by a constant, by a gate, or by another activation."""
    # A constant scales. If exactly one factor is a gate (the output of a sigmoid, hard sigmoid or softmax, as in
    # squeeze-excite), the gate is treated as a constant and the signal takes all relevance (Arras et al. 2017).
    # Otherwise each factor gets half, which conserves it (the uniform rule of AttnLRP, Achtibat et al. 2024, eq. 13).
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
        output = Halve.apply(left * right)
        run.note(call, "product", "equal halves", output)
    return run.tag_all(output, Tag(nonnegative=nonnegative))


def divide(run, call):
    """Divide by a constant; a divisor that depends on the image has no rule."""
    if tag_of(call.args[1]) is not None:
        return run.refuse(call, "It divides by a value that depends on the image.")
    return share_proportionally(run, call)


def matrix_product(run, call):
    """Multiply matrices: by weights it is a dense layer; of two activations each gets half (AttnLRP, eq. 13)."""
    operands = list(tensors_in(call.args))
    tagged = [tag_of(operand) is not None for operand in operands]
    if all(tagged):
        output = Halve.apply(call.compute())
        run.note(call, "product", "equal halves", output)
        return run.tag_all(output, Tag(nonnegative=all(tag.nonnegative for tag in call.tags)))
    if (
        call.name in ("matmul", "mm", "rmatmul")
        and tagged[0]
        and operands[1].ndim == 2
        and call.name != "rmatmul"
    ):
        return apply_dense(run, call, operands[0], operands[1].T, None)
    if call.name == "addmm" and tagged == [False, True, False] and not call.kwargs:
        return apply_dense(run, call, operands[1], operands[2].T, operands[0])
    return share_proportionally_signed(run, call)


def share_proportionally_signed(run, call):
    """Like `share_proportionally`, with weights of unknown sign."""
    return run.tag_all(call.compute(), Tag())


def relu(run, call):
    """ReLU passes relevance on; it is folded into the weighted layer before it if possible."""
    x = call.args[0]
    if run.composite.carries_zero_inputs:
        return activation(run, call)
    tag = tag_of(x)
    if tag.layer is not None and not tag.layer.rectified:
        with torch.no_grad():
            output = call.compute()
        layer = tag.layer.rectify(output)
        tag.is_folded = True
        return apply_rule(run, call, tag.source, layer, Tag(nonnegative=True))
    return run.tag_all(call.compute(), Tag(nonnegative=True))


def activation(run, call):
    """Any other elementwise function passes relevance on (the rule `Pass`)."""
    x = call.args[0]
    if len(call.tags) > 1 or tag_of(x) is None:
        return run.refuse(call, "Its bounds or weights depend on the image.")
    with torch.no_grad():
        value = call.compute()
    output = PassOn.apply(x, value)
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


def softmax(run, call):
    """Softmax: the Taylor expansion of AttnLRP (eq. 15), which in this form is the ordinary gradient."""
    output = call.compute()
    return run.tag_all(output, Tag(nonnegative=call.name == "softmax", gate=call.name))


_PASS_THROUGH = [
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
]  # fmt: skip  # fmt: skip
_PROPORTIONAL = [
    "add", "sub", "rsub", "neg", "negative", "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "cumsum",
]  # fmt: skip  # fmt: skip
_CONSTANT = [
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "new_tensor", "argmax", "argmin", "argsort",
]  # fmt: skip  # fmt: skip
_DROPOUT = [
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout",
]  # fmt: skip  # fmt: skip
_ACTIVATIONS = [
    "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "mish", "elu", "celu", "selu",
    "leaky_relu", "rrelu", "prelu", "sigmoid", "tanh", "softplus", "softsign", "clamp", "clip", "clamp_min",
    "clamp_max", "threshold", "local_response_norm", "tanhshrink", "hardshrink", "softshrink",
]  # fmt: skip  # fmt: skip


HANDLERS = {
    **dict.fromkeys(_PASS_THROUGH, pass_through),
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


# How reports describe the operations whose rule does not come from the composite.
DESCRIPTIONS = {
    **dict.fromkeys(set(HANDLERS.values()), "made of its parts"),
    pass_through: "pass",
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
