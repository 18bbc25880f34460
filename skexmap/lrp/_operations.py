"""The table from torch function to relevance rule.

The rule of an operation takes the running `Tracer` and the `FunctionCall` and returns the value. It also prepares
autograd to propagate the coefficient (relevance / value). For most operations that is the ordinary gradient, and the
rule only records what is known about the result (its `Tag`). Inside ``with tracer:``, torch functions are looked up in
the table themselves, so an operation that is made of others is written out in torch.

To give another torch function a rule, add its name to a row of `TABLE`.
"""

from functools import partial

import torch

from skexmap.lrp._attention import multi_head_attention, scaled_dot_product_attention
from skexmap.lrp._nodes import PassOn, ShareEqually, pass_pixels_on
from skexmap.lrp._normalization import group_norm, instance_norm, layer_norm, rms_norm
from skexmap.lrp._tags import Tag, tag_of
from skexmap.lrp._weighted import apply_composite, apply_dense, batch_norm, convolution, dense


def select(tracer, call, *, every_value=False):
    """Reshape, move, repeat or select values of the first argument: relevance follows them."""
    tag = tag_of(call.args[0])
    if tag is None:
        # Another argument gives no more than its shape or type, as in `constant.expand_as(x)`.
        return call.value()
    return tracer.tag_all(call.compute(), tag.of_values(every_value))


def share(tracer, call):
    """Join, sum or average: relevance follows the values, or is shared in proportion to them."""
    nonnegative = all(tag.nonnegative for tag in call.tags) and not call.has_negative_constant()
    return tracer.tag_all(call.compute(), Tag(nonnegative, pixels=all(tag.pixels for tag in call.tags)))


def add(tracer, call):
    """Add or scale by a constant: in proportion to the contributions."""
    # If a rule may give relevance to zeros (flat, w-square, z-box), a shift or scaling of the pixels inside the model
    # passes relevance on. In proportion, a pixel whose shifted value is zero would get an infinite share.
    if tracer.composite.gives_to_zeros and len(call.tags) == 1 and call.tags[0].pixels:
        return pass_pixels_on(tracer, call)
    return share(tracer, call)


def signed(rule, tracer, call):
    """Apply a rule to an operation whose result may be negative even if its arguments are not."""
    output = rule(tracer, call)
    tag_of(output).nonnegative = False
    return output


def interpolate(tracer, call):
    """Resize: pixels share in proportion to their weight; only bicubic weights can be negative."""
    return signed(share, tracer, call) if call.argument(3, "mode", None) == "bicubic" else share(tracer, call)


def make_constant(tracer, call):
    """Create a tensor that takes only its shape and type from the image, so it depends on no pixel."""
    return call.value()


def leave_torch(tracer, call):
    """Refuse what takes values out of torch or out of the graph."""
    return tracer.refuse(call, "It takes values to where later operations cannot be followed.")


def drop_out(tracer, call):
    """Dropout does nothing in evaluation mode; a call that still drops values makes the model random."""
    if call.argument(1, "p", 0.5) > 0 and call.argument(2, "training", call.kwargs.get("train", False)):
        return tracer.refuse(call, "It is active in evaluation mode: pass `training=self.training`.")
    x = call.args[0]
    return tracer.tag_all(x.view_as(x), tag_of(x).of_values(every_value=True))


def multiply(tracer, call):
    """Multiply by a constant, by a gate, or by another activation."""
    # A constant scales. If exactly one factor is a gate (the output of a sigmoid, hard sigmoid or softmax, as in
    # squeeze-excite), the gate is treated as a constant and the signal takes all relevance (Arras et al. 2017).
    # Otherwise each factor gets half, which conserves it (the uniform rule of AttnLRP, Achtibat et al. 2024, eq. 13).
    if len(call.tags) == 1:
        return add(tracer, call)
    left, right = call.args
    is_gate = [tag.gate is not None for tag in call.tags]
    if is_gate[0] == is_gate[1]:
        return share_equally(tracer, call)
    output = left.detach() * right if is_gate[0] else left * right.detach()
    tracer.note(call.name, "signal takes all (the gate is a constant)", output)
    return tracer.tag_all(output, Tag(nonnegative=all(tag.nonnegative for tag in call.tags)))


def share_equally(tracer, call):
    """Multiply activations, entrywise or as matrices: each gets the same part (AttnLRP, eq. 13)."""
    output = ShareEqually.apply(call.compute(), len(call.tags))
    tracer.note(call.name, "equal halves" if len(call.tags) == 2 else "equal parts", output)
    return tracer.tag_all(output, Tag(nonnegative=all(tag.nonnegative for tag in call.tags)))


def divide(tracer, call):
    """Divide by a constant; a divisor that depends on the image has no rule."""
    if tag_of(call.args[1]) is not None:
        return tracer.refuse(call, "It divides by a value that depends on the image.")
    return add(tracer, call)


def matrix_product(tracer, call):
    """Multiply matrices: by weights on the right, it is a dense layer."""
    if len(call.tags) > 1:
        return share_equally(tracer, call)
    left, right = call.args[:2]
    if call.name in ("matmul", "mm") and tag_of(left) is not None and right.ndim == 2:
        return apply_dense(tracer, call, left, right.T, None)
    return tracer.tag_all(call.compute(), Tag())


def add_matrix_product(tracer, call):
    """Compute ``beta * bias + alpha * (left @ right)``."""
    bias, left, right = call.args[:3]
    if len(call.tags) == 1 and tag_of(left) is not None and right.ndim == 2 and not call.kwargs:
        return apply_dense(tracer, call, left, right.T, bias)
    with tracer:
        return bias * call.kwargs.get("beta", 1) + torch.matmul(left, right) * call.kwargs.get("alpha", 1)


def relu(tracer, call):
    """ReLU passes relevance on; it is folded into the weighted layer before it if possible."""
    if tracer.composite.carries_zero_inputs:
        return activation(tracer, call, nonnegative=True)
    tag = tag_of(call.args[0])
    if tag.layer is None or tag.layer.rectified:
        return tracer.tag_all(call.compute(), Tag(nonnegative=True))
    tag.is_folded = True
    layer = tag.layer.rectify(call.value())
    return apply_composite(tracer, call, tag.source, layer, Tag(nonnegative=True), "pass")


def activation(tracer, call, *, nonnegative=False, gate=None):
    """Any other elementwise function passes relevance on (the rule `Pass`)."""
    x = call.args[0]
    if len(call.tags) > 1 or tag_of(x) is None:
        return tracer.refuse(call, "Its bounds or weights depend on the image.")
    return tracer.tag_all(PassOn.apply(x, call.value()), Tag(nonnegative, gate))


def gate(tracer, call):
    """A function between 0 and 1 passes relevance on, and is a constant in products with a signal."""
    return activation(tracer, call, nonnegative=True, gate=call.name)


def clip(tracer, call):
    """Clipping passes relevance on; a lower bound may show that no value is negative."""
    lower = call.argument(1, "min", call.kwargs.get("min_val"))
    return activation(tracer, call, nonnegative=isinstance(lower, (int, float)) and lower >= 0)


def softmax(tracer, call):
    """Softmax: the Taylor expansion of AttnLRP (eq. 15), which in this form is the ordinary gradient."""
    return tracer.tag_all(call.compute(), Tag(nonnegative=call.name == "softmax", gate=call.name))


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
        native_channel_shuffle amax max_pool#d max_pool#d_with_indices adaptive_max_pool#d"""),
    (share, "pass", """
        cat concat concatenate stack hstack vstack maximum max where masked_fill pad constant_pad_nd"""),
    (share, "norm", "mean sum cumsum avg_pool#d adaptive_avg_pool#d"),
    (interpolate, "norm", "interpolate upsample upsample_nearest upsample_bilinear"),
    (add, "norm", "add"),
    (partial(signed, add), "norm", "sub rsub __rsub__ neg negative"),
    (multiply, "norm (by a constant)", "mul multiply"),
    (divide, "norm (by a constant)", "div divide true_divide"),
    (matrix_product, "norm (by a constant)", "matmul mm bmm einsum"),
    (add_matrix_product, None, "addmm baddbmm"),
    (relu, "pass", "relu"),
    (gate, "pass", "sigmoid hardsigmoid"),
    (clip, "pass", "clamp clip clamp_min hardtanh"),
    (partial(activation, nonnegative=True), "pass", "relu6 softplus"),
    (activation, "pass", """
        clamp_max threshold hardswish silu gelu mish elu celu selu leaky_relu rrelu prelu tanh softsign tanhshrink
        hardshrink softshrink local_response_norm"""),
    (drop_out, "pass", """
        dropout dropout#d alpha_dropout feature_dropout feature_alpha_dropout"""),
    (softmax, "Taylor expansion (AttnLRP)", "softmax log_softmax"),
    (make_constant, "constant", """
        zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
        new_tensor"""),
    (leave_torch, None, "numpy tolist item detach data __array__ __float__ __int__ __complex__"),
]  # fmt: skip
RULES = {
    name.replace("#", n): (rule, description)
    for rule, description, names in TABLE
    for name in names.split()
    for n in "123"
}
