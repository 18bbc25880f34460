"""The table from torch function to relevance rule.

The rule of an operation takes the running `Tracer` and the `FunctionCall` and returns the value. It also prepares
autograd to propagate the coefficient (relevance / value). For most operations that is the ordinary gradient, and the
rule only records what is known about the result (its `Tag`). Inside ``with tracer:``, torch functions are looked up in
the table themselves, so an operation that is made of others is written out in torch.

To give another torch function a rule, add its name to a row of `TABLE`.
"""

import math
import re
from functools import partial

import torch
import torch.nn.functional as F

from skexmap.lrp._attention import multi_head_attention, scaled_dot_product_attention
from skexmap.lrp._nodes import PassOn, ShareEqually, any_ratio, pass_pixels_on, ratio_zero_at_zero
from skexmap.lrp._normalization import group_norm, instance_norm, layer_norm, rms_norm
from skexmap.lrp._tags import UNBOUNDED, Tag, tag_of
from skexmap.lrp._weighted import DECLARE, apply_composite, apply_dense, batch_norm, convolution, dense

# Functions that can change the type of values.
CASTS = ("to", "type", "type_as", "view")


def select(tracer, call, *, every_value=False):
    """Reshape, move, repeat or select values of the first argument: relevance follows them."""
    tag = tag_of(call.args[0])
    if tag is None:
        # Another argument gives no more than its shape or type, as in `constant.expand_as(x)`.
        return call.value()
    output = call.compute()
    if call.name in CASTS and not output.is_floating_point() and output.dtype != torch.bool:
        return tracer.refuse(call, "It rounds, and so it has no gradient.")
    return tracer.tag_all(output, tag.of_values(every_value))


def share(tracer, call):
    """Join, sum or average: relevance follows the values, or is shared in proportion to them."""
    return tracer.tag_all(call.compute(), _joint_tag(call))


def write(tracer, call):
    """Write values into a part of a tensor: relevance follows the values that are there afterwards."""
    x, index, values = call.args
    output = x.clone()
    output[index] = values
    return tracer.tag_all(output, _joint_tag(call))


def _joint_tag(call):
    """Return what is known of a result to which all arguments that depend on the image contribute alike."""
    return Tag(gate=all(tag.gate for tag in call.tags), pixels=all(tag.pixels for tag in call.tags))


def add(tracer, call):
    """Add, or add or multiply by a constant: in proportion to the contributions."""
    # If a rule may give relevance to zeros (flat, w-square, z-box), a shift or scaling of the pixels inside the model
    # passes relevance on. In proportion, a pixel whose shifted value is zero would get an infinite share.
    if tracer.composite.gives_to_zeros and len(call.tags) == 1 and call.tags[0].pixels:
        return pass_pixels_on(tracer, call)
    output = share(tracer, call)
    tag = tag_of(output)
    tag.base = _common_base(call, output.shape)
    tag.bounds = _bounds_of_line(call)
    # A hard sigmoid, or a sigmoid as `0.5 * tanh(x / 2) + 0.5`.
    tag.gate |= _is_unit(tag.bounds)
    return output


def _bounds_of_line(call):
    """Return the bounds of ``a * x + b`` with numbers a and b, from the bounds of x."""
    constants = [tensor for tensor in call.tensors if tag_of(tensor) is None]
    if (
        len(call.tags) > 1
        or call.tags[0].bounds == UNBOUNDED
        or any(tensor.numel() > 1 for tensor in constants)
    ):
        return UNBOUNDED
    ends = torch.tensor(call.tags[0].bounds, dtype=torch.float64)
    values = call.func(*(ends if tag_of(value) is not None else value for value in call.args), **call.kwargs)
    return tuple(sorted(values.flatten().tolist()))


def _is_unit(bounds):
    return math.isclose(bounds[0], 0, abs_tol=1e-6) and math.isclose(bounds[1], 1, rel_tol=1e-6)


def _common_base(call, shape):
    """Return the tensor of which all arguments are functions, entry by entry; None if there is none."""
    bases = [_base(tensor) for tensor in call.tensors if tag_of(tensor) is not None]
    return bases[0] if bases[0].shape == shape and all(base is bases[0] for base in bases) else None


def _base(tensor):
    base = tag_of(tensor).base
    return tensor if base is None else base


def multiply(tracer, call):
    """Multiply by a constant, by a gate, or by another activation."""
    # A constant scales. If exactly one factor is a gate (the output of a sigmoid, hard sigmoid or softmax, as in
    # squeeze-excite), the gate is treated as a constant and the signal takes all relevance (Arras et al. 2017).
    # Otherwise each factor gets half, which conserves it (the uniform rule of AttnLRP, Achtibat et al. 2024, eq. 13).
    left, right = call.args
    if len(call.tags) == 1:
        return add(tracer, call)
    if _common_base(call, torch.broadcast_shapes(left.shape, right.shape)) is not None:
        return elementwise(tracer, call)
    is_gate = [tag.gate for tag in call.tags]
    if is_gate[0] == is_gate[1]:
        return share_equally(tracer, call)
    output = left.detach() * right if is_gate[0] else left * right.detach()
    tracer.note(call.name, "signal takes all (the gate is a constant)", output)
    return tracer.tag_all(output, Tag())


def elementwise(tracer, call):
    """Write out an activation, as in ``x * tanh(softplus(x))``: it passes relevance on to x."""
    value = call.value()
    base = _common_base(call, value.shape)
    output = PassOn.apply(base, value, any_ratio)
    tracer.note(call.name, "pass", output)
    return tracer.tag_all(output, Tag(base=base))


def share_equally(tracer, call):
    """Multiply activations, entrywise or as matrices: each gets the same part (AttnLRP, eq. 13)."""
    output = ShareEqually.apply(call.compute(), len(call.tags))
    tracer.note(call.name, "equal halves" if len(call.tags) == 2 else "equal parts", output)
    return tracer.tag_all(output, _joint_tag(call))


def divide(tracer, call):
    """Divide by a constant, or by a value of the image (a norm, a deviation), which is treated as a constant."""
    left, right = call.args
    if call.kwargs.get("rounding_mode") is not None:
        return tracer.refuse(call, "It rounds, and so it has no gradient: divide without `rounding_mode`.")
    if tag_of(right) is None:
        return add(tracer, call)
    if tag_of(left) is None:
        with tracer:
            return torch.reciprocal(right) * left
    if _common_base(call, torch.broadcast_shapes(left.shape, right.shape)) is not None:
        return elementwise(tracer, call)
    output = torch.div(left, right.detach())
    tracer.note(call.name, "the divisor is a constant", output)
    return tracer.tag_all(output, Tag(gate=tag_of(left).gate))


def reversed_divide(tracer, call):
    """Compute ``constant / x``."""
    with tracer:
        return torch.div(call.args[1], call.args[0])


def power(tracer, call):
    """Raise to a constant power; a negative one makes a constant of products."""
    exponent = _number(call.argument(1, "exponent"))
    return activation(tracer, call, gate=isinstance(exponent, (int, float)) and exponent < 0)


def variance(tracer, call):
    """Variance: the product of a deviation with itself."""
    return tracer.tag_all(ShareEqually.apply(call.compute(), 2), _joint_tag(call))


def variance_and_mean(tracer, call):
    """Compute the variance, or the standard deviation, and the mean."""
    spread = torch.var if call.name == "var_mean" else torch.std
    x, *axes = call.args
    if len(axes) > 1:
        return tracer.refuse(call, "Pass its arguments behind `dim` by name.")
    with tracer:
        mean = x.mean(axes[0] if axes else call.kwargs.get("dim"), keepdim=call.kwargs.get("keepdim", False))
        return spread(x, *axes, **call.kwargs), mean


def matrix_product(tracer, call):
    """Multiply matrices: by weights on the right, it is a dense layer."""
    if len(call.tags) > 1:
        return share_equally(tracer, call)
    left, right = call.args[:2]
    if call.name in ("matmul", "mm"):
        if tag_of(left) is not None and right.ndim == 2:
            return apply_dense(tracer, call, left, right.T, None)
        if tag_of(left) is None and left.ndim == 2 and right.ndim > 1:
            with tracer:
                return F.linear(right.mT, left).mT
    return tracer.tag_all(call.compute(), Tag())


def contract(tracer, call):
    """Einsum: without a sum it is an entrywise product, and with a matrix of weights a dense layer."""
    equation, *operands = call.args
    if isinstance(operands[0], list | tuple):
        operands = operands[0]
    found = re.fullmatch(r"(\w+),(\w+)->(\w+)", str(equation).replace(" ", ""))
    if found is None or any(len(set(axes)) < len(axes) for axes in found.groups()):
        return matrix_product(tracer, call)
    *axes, result = found.groups()
    if set(result) == set(axes[0] + axes[1]):
        with tracer:
            return _aligned(operands[0], axes[0], result) * _aligned(operands[1], axes[1], result)
    pairs = zip(operands, axes, strict=True)
    (x, own), (weight, of_weight) = sorted(pairs, key=lambda pair: tag_of(pair[0]) is None)
    summed, new = set(own) - set(result), set(of_weight) - set(own)
    is_dense = len(call.tags) == len(summed) == len(new) == 1 and new <= set(result)
    if is_dense and set(of_weight) == summed | new:
        (last,), (first,) = summed, new
        kept = own.replace(last, "")
        with tracer:
            output = F.linear(_aligned(x, own, kept + last), _aligned(weight, of_weight, first + last))
            return _aligned(output, kept + first, result)
    return matrix_product(tracer, call)


def _aligned(x, axes, result):
    """Return a tensor with its axes in the order of the result, and axes of length 1 for those that it lacks."""
    x = x.permute([axes.index(axis) for axis in result if axis in axes])
    return x[tuple(slice(None) if axis in axes else None for axis in result)]


def add_matrix_product(tracer, call):
    """Compute ``beta * bias + alpha * (left @ right)``."""
    bias, left, right = call.args[:3]
    beta, alpha = call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)
    if len(call.tags) == 1 and tag_of(left) is not None and right.ndim == 2 and beta == alpha == 1:
        return apply_dense(tracer, call, left, right.T, bias)
    with tracer:
        product = torch.matmul(left, right) * alpha
        # With beta 0, the bias may hold anything.
        return product + bias * beta if beta else product


def add_product(tracer, call):
    """Compute ``x + value * left * right``, or with a quotient."""
    x, left, right = call.args[:3]
    with tracer:
        product = left * right if call.name == "addcmul" else left / right
        return x + product * call.kwargs.get("value", 1)


def gated_linear_unit(tracer, call):
    """Multiply one half of the channels by the sigmoid of the other."""
    with tracer:
        left, right = call.args[0].chunk(2, call.argument(1, "dim", -1))
        return left * torch.sigmoid(right)


def normalize(tracer, call):
    """Divide by a norm, which is treated as a constant."""
    x, p, axis = call.args[0], call.argument(1, "p", 2.0), call.argument(2, "dim", 1)
    with tracer:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return x / norm.clamp_min(call.argument(3, "eps", 1e-12))


def extreme(tracer, call):
    """Take the largest or smallest values: relevance follows them. With a constant it is a clipping function."""
    if len(call.tags) == 1 and len(call.args) > 1 and isinstance(call.args[1], torch.Tensor):
        with tracer:
            bound = call.args[0] if tag_of(call.args[1]) is not None else call.args[1]
            x = call.args[1] if bound is call.args[0] else call.args[0]
            return torch.clamp(x, **{"min" if call.name in ("maximum", "max") else "max": bound})
    return share(tracer, call)


def make_constant(tracer, call):
    """Create a tensor that takes only its shape and type from the image, so it depends on no pixel."""
    return call.value()


def leave_torch(tracer, call):
    """Refuse what takes values out of torch or out of the graph."""
    return tracer.refuse(call, "It takes values out of the graph: use torch functions on the tensor itself.")


def drop_out(tracer, call):
    """Dropout does nothing in evaluation mode; a call that still drops values makes the model random."""
    if call.argument(1, "p", 0.5) > 0 and call.argument(2, "training", call.kwargs.get("train", False)):
        return tracer.refuse(call, "It is active in evaluation mode: pass `training=self.training`.")
    x = call.args[0]
    return tracer.tag_all(x.view_as(x), tag_of(x).of_values(every_value=True))


def activation(tracer, call, *, gate=False, low=-math.inf, high=math.inf, bounds=UNBOUNDED, ratio=any_ratio):
    """Any elementwise function passes relevance on; a ReLU is folded into the weighted layer before it if possible."""
    # The function clips to the range from `low` to `high`, or has values in `bounds`; `ratio` gives output / input.
    x = call.args[0]
    tag = tag_of(x)
    if len(call.tags) > 1 or tag is None:
        return tracer.refuse(call, f"Its bounds or weights depend on the image. {DECLARE}")
    if (low, high) != UNBOUNDED:
        before = (max(0.0, tag.bounds[0]), tag.bounds[1]) if tag.nonnegative else tag.bounds
        bounds = tuple(min(max(end, low), high) for end in before)
    # A function of a constant is a constant.
    gate = gate or tag.gate or _is_unit(bounds)
    if tracer.composite.carries_zero_inputs:
        ratio = any_ratio
    elif low == 0 < high:
        if tag.layer is not None and not tag.layer.rectified:
            tag.is_folded = True
            layer = tag.layer.rectify(call.value(), capped=high < math.inf)
            result = Tag(gate, nonnegative=True, bounds=bounds)
            return apply_composite(tracer, call, tag.source, layer, result, "pass")
        if high == math.inf:
            # Its gradient is output / input, and needs no memory for the input.
            return tracer.tag_all(F.relu(x), Tag(gate, nonnegative=True, bounds=bounds, base=tag.base))
        ratio = ratio_zero_at_zero
    output = call.value()
    base = _common_base(call, output.shape)
    output = PassOn.apply(x, output, ratio)
    return tracer.tag_all(output, Tag(gate, bounds=bounds, base=base))


def clip(tracer, call):
    """Clip to a range, which may be open at one side."""
    bounds = call.args[1:]
    low, high = (-1.0, 1.0) if call.name == "hardtanh" else (None, None)
    if call.name == "clamp_max":
        bounds = [None, *bounds]
    low = bounds[0] if bounds else call.kwargs.get("min", call.kwargs.get("min_val", low))
    high = bounds[1] if len(bounds) > 1 else call.kwargs.get("max", call.kwargs.get("max_val", high))
    low, high = -math.inf if low is None else _number(low), math.inf if high is None else _number(high)
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        # What such a bound does to 0 differs from entry to entry.
        return activation(tracer, call)
    ratio = ratio_zero_at_zero if low <= 0 <= high else any_ratio
    return activation(tracer, call, low=low, high=high, ratio=ratio)


def _number(value):
    """Return a constant tensor of one value as a number, and anything else as it is."""
    is_number = isinstance(value, torch.Tensor) and value.numel() == 1 and tag_of(value) is None
    return float(value) if is_number else value


def softmax(tracer, call):
    """Softmax: the Taylor expansion of AttnLRP (eq. 15), which in this form is the ordinary gradient."""
    return tracer.tag_all(call.compute(), Tag(gate=call.name == "softmax"))


# A row has a rule, how reports describe it, and the functions that follow it. In `conv#d`, # stands for 1, 2 and 3.
# In-place forms (`relu_`, `+=`) need no entry, and most operators have the name of their function (`+` is `add`).
# Rules without a description note themselves what they do.
TABLE = [
    (dense, None, "linear"),
    (convolution, None, "conv#d conv_transpose#d"),
    (batch_norm, None, "batch_norm"),
    (instance_norm, None, "instance_norm"),
    (layer_norm, None, "layer_norm"),
    (group_norm, None, "group_norm"),
    (rms_norm, None, "rms_norm"),
    (scaled_dot_product_attention, None, "scaled_dot_product_attention"),
    (multi_head_attention, None, "multi_head_attention_forward"),
    (partial(select, every_value=True), "pass", """
        flatten unflatten ravel reshape reshape_as view view_as contiguous clone squeeze unsqueeze atleast_2d
        to type type_as float double half bfloat16 cuda cpu"""),
    (select, "pass", """
        permute transpose swapaxes swapdims movedim moveaxis t T mT roll flip expand expand_as broadcast_to repeat
        repeat_interleave tile __getitem__ narrow select index_select gather take_along_dim diagonal unfold
        chunk split split_with_sizes tensor_split unbind pixel_shuffle pixel_unshuffle channel_shuffle
        amax amin max_pool#d max_pool#d_with_indices adaptive_max_pool#d"""),
    (share, "pass", "cat concat concatenate stack hstack vstack where masked_fill pad constant_pad_nd"),
    (write, "pass", "__setitem__"),
    (extreme, "pass", "maximum minimum max min"),
    (share, "norm", """
        mean sum cumsum avg_pool#d adaptive_avg_pool#d fold interpolate std norm linalg_norm linalg_vector_norm"""),
    (variance, "equal halves", "var"),
    (variance_and_mean, None, "var_mean std_mean"),
    (add, "norm", "add sub subtract rsub __rsub__ neg negative"),
    (multiply, "norm (by a constant)", "mul multiply"),
    (divide, "norm (by a constant)", "div divide true_divide"),
    (reversed_divide, None, "__rdiv__"),
    (add_product, None, "addcmul addcdiv"),
    (normalize, None, "normalize"),
    (gated_linear_unit, None, "glu"),
    (matrix_product, "norm (by a constant)", "matmul mm bmm"),
    (contract, "norm (by a constant)", "einsum"),
    (add_matrix_product, None, "addmm baddbmm"),
    (partial(activation, low=0.0), "pass", "relu"),
    (partial(activation, low=0.0, high=6.0), "pass", "relu6"),
    (clip, "pass", "clamp clip clamp_min clamp_max hardtanh"),
    (partial(activation, gate=True), "pass", "sigmoid hardsigmoid reciprocal rsqrt"),
    (partial(activation, ratio=lambda output, x: torch.sigmoid(x)), "pass", "silu"),
    (partial(activation, ratio=lambda output, x: F.hardsigmoid(x)), "pass", "hardswish"),
    (partial(activation, ratio=ratio_zero_at_zero), "pass", """
        gelu mish elu celu selu leaky_relu rrelu prelu tanhshrink hardshrink softshrink abs square"""),
    (partial(activation, bounds=(-1.0, 1.0), ratio=ratio_zero_at_zero), "pass", "tanh softsign erf"),
    (activation, "pass", "softplus threshold _threshold sqrt local_response_norm"),
    (power, "pass", "pow"),
    (drop_out, "pass", """
        dropout dropout#d alpha_dropout feature_dropout feature_alpha_dropout"""),
    (softmax, "Taylor expansion (AttnLRP)", "softmax log_softmax"),
    (make_constant, "constant", """
        zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
        new_tensor"""),
    (leave_torch, None, """
        numpy tolist item detach data storage untyped_storage __array__ __float__ __int__ __complex__"""),
]  # fmt: skip
RULES = {
    name.replace("#", n): (rule, description)
    for rule, description, names in TABLE
    for name in names.split()
    for n in "123"
}
