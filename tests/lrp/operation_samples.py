"""Arguments for every function in the table of operations, and its path: what relevance takes through it.

A path computes the same value with everything detached that a rule treats as a constant. Relevance is then the input
times the ordinary gradient of the path. It is written from the definition of the rule in the documentation.
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F


@dataclass
class FromImage:
    """An argument that is a function of the image, and the path of that function."""

    of: Any
    path: Any = None

    def __post_init__(self):
        self.path = self.path or self.of


@dataclass
class Sample:
    """A call: the input x, arguments by name in the order of their positions, and those that have only names.

    `path` takes the function and the arguments. `gate` says whether the result of a call is a constant in products:
    "made" if it always is, "kept" if it is for an input that is one.
    """

    names: tuple
    x: torch.Tensor
    arguments: dict
    keywords: dict
    path: Any
    gate: str | None
    homes: tuple
    options: dict = field(default_factory=dict)


# --- Paths ---------------------------------------------------------------------------------------------------------


def gradient(function, *arguments, **keywords):
    """Values that move, are selected, summed or weighted by constants: the ordinary gradient."""
    return function(*arguments, **keywords)


def passed_on(function, x, *arguments, **keywords):
    """Elementwise functions: each value passes its relevance on."""
    return x * (function(x, *arguments, **keywords) / x).detach()


def half(value):
    """Products of two: each factor gets half."""
    return value / 2 + (value / 2).detach()


def halves(function, *arguments, **keywords):
    return half(function(*arguments, **keywords))


def first_is_gate(function, gate, signal):
    return function(gate.detach(), signal)


def second_is_constant(function, signal, constant):
    return function(signal, constant.detach())


def reciprocal(x):
    return passed_on(torch.reciprocal, x)


def constant_deviation(x, axes, eps, centered=True):
    """Centering is linear, the deviation a constant."""
    x = x - x.mean(axes, keepdim=True) if centered else x
    return x / (x.square().mean(axes, keepdim=True) + eps).sqrt().detach()


def attention(query, key, value, mask, scale):
    """Softmax is the gradient; both matrix products give halves."""
    weights = torch.softmax(half(query @ key.transpose(-2, -1)) * scale + mask, -1)
    return half(weights @ value), weights


def masked_attention(function, query, key, value, *options):
    length = query.shape[-2]
    mask = torch.full((length, length), -torch.inf, dtype=query.dtype).triu(1)
    return attention(query, key, value, mask, query.shape[-1] ** -0.5)[0]


def multi_head_attention(function, query, key, value, width, n_heads, in_weight, in_bias, *options, **named):
    """Return the output and the weights, averaged over the heads; without a mask."""
    out_weight, out_bias = options[4:6]
    heads = []
    for x, weight, bias in zip((query, key, value), in_weight.chunk(3), in_bias.chunk(3), strict=True):
        length, batch, _ = x.shape
        heads.append(F.linear(x, weight, bias).reshape(length, batch, n_heads, -1).permute(1, 2, 0, 3))
    mixed, weights = attention(*heads, 0, (width // n_heads) ** -0.5)
    output = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias)
    return output, weights.mean(1)


# --- Samples -------------------------------------------------------------------------------------------------------

X = FromImage(lambda x: x)
Y = FromImage(lambda x: x.flip(-1) * 0.75)
Z = FromImage(lambda x: x.flip(0) - 0.125)
POSITIVE_Y = FromImage(lambda x: x.flip(-1).square() + 1, lambda x: passed_on(torch.square, x.flip(-1)) + 1)
GATE = FromImage(lambda x: x.flip(-1).sigmoid(), lambda x: passed_on(torch.sigmoid, x.flip(-1)))
OTHER_GATE = FromImage(lambda x: x.flip(0).sigmoid(), lambda x: passed_on(torch.sigmoid, x.flip(0)))
TANH = FromImage(torch.tanh, lambda x: passed_on(torch.tanh, x))

# Operators whose name is not that of the function that is intercepted.
OPERATORS = {
    "add": (operator.add, operator.iadd),
    "sub": (operator.sub, operator.isub),
    "mul": (operator.mul, operator.imul),
    "div": (operator.truediv, operator.itruediv),
    "matmul": (operator.matmul,),
}


def samples_of(seed):
    """Return samples for every function, with shapes and values drawn by a seed."""
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w = (int(size) for size in torch.randint(2, 5, (4,), generator=generator))
    found = []

    def draw(*shape):
        # Away from zero, and exact in every floating type.
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (values + 0.125 * values.sign()).bfloat16().double()

    def positive(*shape):
        return draw(*shape).abs()

    def add(names, x, path=gradient, /, *, gate=None, homes=(), options=None, **arguments):
        if path is gradient and gate is None:
            gate = "kept"
        keywords = options or {}
        found.append(Sample(tuple(names.split()), x, arguments, keywords, path, gate, homes))

    rows, image, volume = draw(n, w), draw(n, 2 * c, h + 3, w + 3), draw(n, c, 4, 4, 4)
    by_dimensions = {1: draw(n, 2 * c, 7), 2: image, 3: draw(n, 2 * c, 4, 5, 4)}

    # Layers with weights: a bias absorbs its part.
    add("linear", rows, gate="lost", input=X, weight=draw(3, w), bias=draw(3))
    add("linear", image, gate="lost", input=X, weight=draw(3, w + 3))
    for d, x in by_dimensions.items():
        weight, bias = draw(4, c, *[3] * d), draw(4)
        strides = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2}
        add(f"conv{d}d", x, gate="lost", input=X, weight=weight, bias=bias, **strides)
        weight, same = draw(2, 2 * c, *[3] * d), {"padding": "same"}
        add(f"conv{d}d", x, gate="lost", input=X, weight=weight, options=same)
        weight, bias = draw(2 * c, 2, *[3] * d), draw(4)
        strides = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 1}
        add(f"conv_transpose{d}d", x, gate="lost", input=X, weight=weight, bias=bias, **strides)

    # Normalizations.
    mean, variance, scale, shift = draw(2 * c), positive(2 * c), draw(2 * c), draw(2 * c)
    statistics = {"running_mean": mean, "running_var": variance}
    affine = {"weight": scale, "bias": shift}
    settings = {"momentum": 0.1, "eps": 0.25}
    batch = {"training": False, **settings}
    # torch has its arguments in another order than torch.nn.functional.
    add("batch_norm", image, gate="lost", input=X, **statistics, **affine, **batch)
    add("batch_norm", image, gate="lost", input=X, **affine, **statistics, **batch, cudnn_enabled=False)
    running = {"use_input_stats": False, **settings}
    add("instance_norm", image, gate="lost", input=X, **statistics, **affine, **running)
    add("instance_norm", image, gate="lost", input=X, **affine, **statistics, **running, cudnn_enabled=False)

    def per_channel(values):
        return values.reshape(-1, 1, 1)

    def instance_norm(function, x, *options):
        scale, shift = [values for values in options if isinstance(values, torch.Tensor)][-2:]
        return constant_deviation(x, (2, 3), 0.25) * per_channel(scale) + per_channel(shift)

    own = {"use_input_stats": True, **settings}
    add("instance_norm", image, instance_norm, input=X, running_mean=None, running_var=None, **affine, **own)
    none = {"running_mean": None, "running_var": None}
    add("instance_norm", image, instance_norm, input=X, **affine, **none, **own, cudnn_enabled=False)

    def group_norm(function, x, n_groups, scale, shift, eps):
        value = constant_deviation(x.unflatten(1, (n_groups, -1)), (2, 3, 4), eps).flatten(1, 2)
        return value * per_channel(scale) + per_channel(shift)

    def layer_norm(function, x, shape, scale, shift, eps):
        return constant_deviation(x, (-2, -1), eps) * scale + shift

    def rms_norm(function, x, shape, scale, eps):
        return constant_deviation(x, -1, eps, centered=False) * scale

    add("group_norm", image, group_norm, input=X, num_groups=2, **affine, eps=0.25)
    shape = image.shape[2:]
    entries = {"normalized_shape": tuple(shape), "weight": draw(*shape), "bias": draw(*shape), "eps": 0.25}
    add("layer_norm", image, layer_norm, input=X, **entries)
    entries = {"normalized_shape": (w,), "weight": draw(w), "eps": 0.25}
    add("rms_norm", rows, rms_norm, input=X, **entries)

    def normalize(function, x, p, dim, eps):
        return x / x.norm(p, dim, keepdim=True).detach()

    add("normalize", image, normalize, gate="kept", input=X, p=2.0, dim=1, eps=1e-12)
    add("normalize", image, normalize, gate="kept", input=X, p=3.0, dim=2, eps=1e-12)
    lrn = {"size": 3, "alpha": 0.5, "beta": 0.75, "k": 1.0}
    add("local_response_norm", image, passed_on, input=X, **lrn)

    # Attention.
    tokens = draw(n, 2, h, 3)
    qkv = {"query": X, "key": Y, "value": Z}
    options = {"attn_mask": None, "dropout_p": 0.0, "is_causal": True}
    add("scaled_dot_product_attention", tokens, masked_attention, **qkv, **options)
    heads = {"embed_dim_to_check": 4, "num_heads": 2}
    weights = {"in_proj_weight": draw(12, 4), "in_proj_bias": draw(12)}
    off = {"bias_k": None, "bias_v": None, "add_zero_attn": False, "dropout_p": 0.0}
    out = {"out_proj_weight": draw(4, 4), "out_proj_bias": draw(4)}
    given = {**qkv, **heads, **weights, **off, **out, "options": {"training": False}}
    add("multi_head_attention_forward", draw(h, n, 4), multi_head_attention, gate="unknown", **given)

    # Shapes and types.
    add("flatten", image, input=X, start_dim=1, end_dim=2)
    add("unflatten", image, input=X, dim=1, sizes=(2, c))
    add("ravel contiguous clone cpu double", image, input=X)
    add("float half bfloat16", image, input=X)
    add("cuda", image, input=X)
    add("reshape", image, input=X, shape=(n, -1))
    add("view", image, input=X, size=(n, -1))
    add("reshape_as view_as", image, input=X, other=draw(n, 2 * c, (h + 3) * (w + 3)))
    add("squeeze", image[:, :1], input=X, dim=1)
    add("squeeze", image[:, :1], input=X)
    add("unsqueeze", image, input=X, dim=1)
    add("atleast_2d", draw(w), input=X)
    add("to", image, input=X, dtype=torch.float64)
    add("to", image, input=X, device="cpu", dtype=torch.float64)
    add("to type_as", image, input=X, other=draw(1))
    add("type", image, input=X, dtype=torch.float64)

    # Values that move, are repeated or selected.
    add("permute", image, input=X, dims=(0, 2, 3, 1))
    add("transpose swapdims", image, input=X, dim0=1, dim1=-1)
    add("swapaxes", image, input=X, axis0=1, axis1=-1)
    add("movedim moveaxis", image, input=X, source=1, destination=-1)
    add("t T", rows, input=X)
    add("mT", image, input=X)
    add("roll", image, input=X, shifts=(1, 2), dims=(2, 3))
    add("flip", image, input=X, dims=(2, 3))
    add("expand", image[:, :1], input=X, size=(-1, c, -1, -1))
    add("expand_as", image[:, :1], input=X, other=image)
    add("broadcast_to", image[:, :1], input=X, size=image.shape)
    add("repeat", image, input=X, repeats=(1, 2, 1, 1))
    add("repeat_interleave", image, input=X, repeats=2, dim=1)
    add("tile", image, input=X, dims=(1, 2, 1, 1))
    for index in ((slice(None), 1), (Ellipsis, slice(0, None, 2)), (slice(None), [1, 0]), (image > 0,)):
        add("__getitem__", image, input=X, index=index)

    def written(function, x, index, values):
        output = x.clone()
        output[index] = values
        return output

    for values in (2.0, draw(n, h + 3, w + 3)):
        add("__setitem__", image, written, gate="kept", input=X, index=(slice(None), 1), value=values)
    part = FromImage(lambda x: x[:, 0] * 0.75)
    add("__setitem__", image, written, gate="kept", input=X, index=(slice(None), 1), value=part)
    add("__setitem__", image, written, gate="kept", input=X, index=image > 0, value=0.5)
    add("__setitem__", image, written, gate="kept", input=draw(*image.shape), index=Ellipsis, value=X)
    add("narrow", image, input=X, dim=1, start=1, length=2)
    add("select", image, input=X, dim=1, index=-1)
    add("index_select", image, input=X, dim=1, index=torch.tensor([1, 0, 1]))
    places = torch.randint(0, w, (n, 3), generator=generator)
    add("gather", rows, input=X, dim=1, index=places)
    add("take_along_dim", rows, input=X, indices=places, dim=1)
    add("diagonal", image, input=X, offset=1, dim1=-2, dim2=-1)
    add("unfold", image, homes=(F,), input=X, kernel_size=2, dilation=1, padding=1, stride=2)
    add("unfold", image, homes=(torch.Tensor,), input=X, dimension=2, size=2, step=1)
    add("chunk", image, input=X, chunks=2, dim=1)
    add("split", image, tensor=X, split_size_or_sections=c, dim=1)
    add("split", image, tensor=X, split_size=c, dim=1)
    add("split split_with_sizes", image, input=X, split_sizes=[1, 2 * c - 1], dim=1)
    add("tensor_split", image, input=X, sections=2, dim=1)
    add("unbind", image, input=X, dim=1)
    add("pixel_shuffle", draw(n, 4, h, w), input=X, upscale_factor=2)
    add("pixel_unshuffle", draw(n, c, 4, 6), input=X, downscale_factor=2)
    add("channel_shuffle", image, input=X, groups=2)
    add("amax amin", image, input=X, dim=(2, 3), keepdim=True)
    for d, x in by_dimensions.items():
        window = {"kernel_size": 2, "stride": 1, "padding": 1}
        add(f"max_pool{d}d max_pool{d}d_with_indices avg_pool{d}d", x, input=X, **window)
        add(f"adaptive_max_pool{d}d adaptive_avg_pool{d}d", x, input=X, output_size=2)
    add("max min", image, input=X)
    add("max min", image, input=X, dim=1, keepdim=True)

    # Values that are joined, summed or resized.
    for arguments in ([X, draw(*image.shape), Y], [X, Y, Z]):
        add("cat concat concatenate", image, tensors=arguments, dim=1)
        add("stack", image, tensors=arguments, dim=-1)
        add("hstack vstack", image, tensors=arguments)
    mask = draw(*image.shape) > 0
    for other in (Y, draw(*image.shape)):
        add("where", image, homes=(torch,), condition=mask, input=X, other=other)
        add("where", image, homes=(torch.Tensor,), input=X, condition=mask, other=other)
    add("masked_fill", image, input=X, mask=mask, value=0.5)
    add("pad", image, input=X, pad=(1, 0, 2, 1), mode="constant", value=0.5)
    add("pad", image, input=X, pad=(1, 1, 1, 1), mode="reflect")
    add("constant_pad_nd", image, input=X, pad=(1, 0, 2, 1), value=0.5)
    add("mean sum", image, input=X)
    add("mean sum std", image, input=X, dim=(2, 3), keepdim=True)
    add("cumsum", image, input=X, dim=1)
    add("fold", draw(n, 4 * c, 20), input=X, output_size=(5, 6), kernel_size=2)
    for mode in ("nearest", "bilinear", "bicubic"):
        add("interpolate", image, input=X, size=(5, 9), scale_factor=None, mode=mode)
    for p in (1.0, 2.0, 3.0):
        add("norm", image, input=X, p=p, dim=1, keepdim=True)
        add("linalg_norm", image, A=X, ord=p, dim=1)
        add("linalg_vector_norm", image, x=X, ord=p, dim=(1, 2))

    def half_variance(function, x, *axes, **options):
        value = function(x, *axes, **options)
        return (half(value[0]), value[1]) if isinstance(value, tuple) else half(value)

    for options in ({"unbiased": False}, {"correction": 1}):
        add("var", image, half_variance, gate="kept", input=X, dim=(2, 3), options=options)
        add("var_mean", image, half_variance, gate="kept", input=X, dim=(2, 3), options=options)
        add("std std_mean", image, input=X, dim=1, options={**options, "keepdim": True})

    # Sums and products with constants.
    number, numbers = 1.5, draw(2 * c, 1, 1)
    for arguments in ((X, number), (X, numbers), (numbers, X), (number, X), (X, X)):
        left, right = arguments
        add("add sub subtract", image, input=left, other=right)
        add("add sub subtract rsub", image, input=left, other=right, options={"alpha": 2})
        if arguments != (X, X):
            add("mul multiply", image, input=left, other=right)
    for other in (-number, numbers):
        add("div divide true_divide", image, input=X, other=other)
        add("rsub __rsub__", image, input=X, other=other)
    add("add sub subtract rsub", image, input=X, other=Y)
    add("neg negative", image, input=X)

    # Products and quotients of what depends on the image.
    products = "mul multiply"
    add(products, image, halves, input=X, other=Y)
    add(products, image, first_is_gate, input=GATE, other=X)
    add(products, image, second_is_constant, input=X, other=GATE)
    add(products, image, halves, gate="made", input=GATE, other=OTHER_GATE)
    add(products, image, lambda function, x, y: x * x.detach(), input=X, other=X)
    add(products, image, lambda function, x, y: x * torch.tanh(x).detach(), input=X, other=TANH)
    quotients = "div divide true_divide"
    add(quotients, image, second_is_constant, gate="kept", input=X, other=Y)
    add(quotients, image, lambda function, a, x: a * reciprocal(x), gate="made", input=number, other=X)
    add(quotients, image, lambda function, a, x: a * reciprocal(x), gate="made", input=numbers, other=X)
    add("__rdiv__", image, lambda function, x, a: a * reciprocal(x), gate="made", input=X, other=number)

    def add_product(function, x, left, right, **options):
        both = isinstance(left, torch.Tensor) and left.requires_grad and right.requires_grad
        product = left * right * options.get("value", 1)
        return x + (half(product) if both else product)

    def add_quotient(function, x, left, right, **options):
        return x + left / right.detach() * options.get("value", 1)

    for options in ({}, {"value": 0.5}):
        for name, path, other in (("addcmul", add_product, Z), ("addcdiv", add_quotient, POSITIVE_Y)):
            for first, left, right in (
                (X, Y, other),
                (numbers, X, other),
                (X, numbers, numbers),
                (X, Y, numbers),
            ):
                add(name, image, path, input=first, tensor1=left, tensor2=right, options=options)

    def gated_linear_unit(function, x, dim):
        left, right = x.chunk(2, dim)
        return left * torch.sigmoid(right).detach()

    add("glu", image, gated_linear_unit, input=X, dim=1)

    # Matrix products.
    transposed = FromImage(lambda x: x.transpose(-2, -1) + 0.5)
    batch = image[0]
    for x, names in ((rows, "matmul mm"), (batch, "matmul bmm"), (image, "matmul")):
        second = "mat2" if "mm" in names else "other"
        right = draw(*x.shape[:-2], x.shape[-1], 3)
        left = draw(*x.shape[:-2], 3, x.shape[-2])
        for name, second in ((name, "mat2" if name != "matmul" else "other") for name in names.split()):
            add(name, x, gate="lost", input=X, **{second: right})
            add(name, x, gate="lost", input=left, **{second: X})
            add(name, x, halves, input=X, **{second: transposed})
        add("einsum", x, gate="lost", equation="...ij,...jk->...ik", operands=X, other=right)
        add("einsum", x, halves, equation="...ij,...jk->...ik", operands=X, other=transposed)
    add("matmul", image, gate="lost", input=X, other=draw(w + 3, 2))
    third = FromImage(lambda x: x + 0.5)

    def thirds(function, *arguments):
        value = function(*arguments)
        return value / 3 + (value * 2 / 3).detach()

    add("einsum", image, thirds, equation="nchw,nchw,nchw->nc", operands=X, other=Y, last=third)
    add("einsum", image, halves, equation="nchw,nchw->nhc", operands=X, other=X)
    add("einsum", image, gate="lost", equation="nchw->nwc", operands=X)

    def add_matrix_product(function, bias, left, right, beta=1, alpha=1):
        both = isinstance(left, torch.Tensor) and left.requires_grad and right.requires_grad
        product = left @ right
        return beta * bias + alpha * (half(product) if both else product)

    for name, x in (("addmm", rows), ("baddbmm", batch)):
        names = ("mat1", "mat2") if name == "addmm" else ("batch1", "batch2")
        rest = x.shape[:-2]
        length, width = x.shape[-2:]
        square = draw(*rest, width, width)
        for options in ({}, {"beta": 0.5, "alpha": 2}):
            for bias, left, right in (
                (draw(*rest, length, 3), X, draw(*rest, width, 3)),
                (draw(*rest, 3, width), draw(*rest, 3, length), X),
                (draw(*rest, length, length), X, transposed),
                (X, X, square),
                (X, draw(*rest, length, 2), draw(*rest, 2, width)),
            ):
                arguments = dict(zip(names, (left, right), strict=True))
                add(name, x, add_matrix_product, input=bias, **arguments, options=options)
    add("addmm", rows, add_matrix_product, input=draw(3), mat1=X, mat2=draw(w, 3))

    # Elementwise functions.
    plain = "relu relu6 silu hardswish gelu mish selu tanh softsign tanhshrink erf abs square"
    add(plain, image, passed_on, input=X)
    add("sigmoid hardsigmoid reciprocal", image, passed_on, gate="made", input=X)
    add("sqrt", positive(n, w), passed_on, input=X)
    add("rsqrt", positive(n, w), passed_on, gate="made", input=X)
    add("gelu", image, passed_on, input=X, options={"approximate": "tanh"})
    add("elu celu", image, passed_on, input=X, alpha=0.5)
    add("leaky_relu", image, passed_on, input=X, negative_slope=0.25)
    add("rrelu", image, passed_on, input=X, lower=0.25, upper=0.5, training=False)
    add("prelu", image, passed_on, input=X, weight=positive(2 * c))
    add("hardshrink softshrink", image, passed_on, input=X, lambd=0.25)
    add("softplus", image, passed_on, input=X, beta=2.0, threshold=20.0)
    add("threshold _threshold", image, passed_on, input=X, threshold=0.25, value=-0.5)
    for low, high in ((-0.5, 1.0), (0.0, 2.0), (0.25, 2.0), (-2.0, -0.5)):
        add("clamp clip", image, passed_on, input=X, min=low, max=high)
        add("hardtanh", image, passed_on, input=X, min_val=low, max_val=high)
    add("hardtanh", image, passed_on, input=X)
    add("clamp clip", image, passed_on, gate="made", input=X, min=0.0, max=1.0)
    for bound in (0.0, -0.5, 0.5, numbers):
        add("clamp clip clamp_min", image, passed_on, input=X, min=bound)
        add("clamp_max", image, passed_on, input=X, max=bound)
        add("clamp clip", image, passed_on, input=X, options={"max": bound})

    def constant_first(function, constant, x):
        return passed_on(lambda x: function(constant, x), x)

    extremes = "maximum minimum max min"
    add(extremes, image, input=X, other=Y)
    add(extremes, image, passed_on, input=X, other=numbers)
    add(extremes, image, constant_first, input=numbers.expand(image.shape), other=X)
    for exponent in (2, 3, -1, -2):
        gate = "made" if exponent < 0 else None
        add("pow", image, passed_on, gate=gate, input=X, exponent=exponent)
    for exponent in (0.5, 1.5, -0.5):
        gate = "made" if exponent < 0 else None
        add("pow", positive(n, w), passed_on, gate=gate, input=X, exponent=exponent)
    add("softmax", image, gate="made", input=X, dim=1)
    add("log_softmax", image, gate="lost", input=X, dim=1)

    # What does nothing.
    for flag in ("training", "train"):
        names = "dropout alpha_dropout feature_alpha_dropout"
        add(f"{names} feature_dropout dropout1d dropout2d", draw(n, c, h), input=X, p=0.5, **{flag: False})
    add("dropout2d", image, input=X, p=0.5, training=False)
    add("dropout3d", volume, input=X, p=0.5, training=False)

    # What depends on no pixel, and what leaves torch.
    add("zeros_like ones_like empty_like rand_like randn_like", image, "constant", input=X)
    add("full_like", image, "constant", input=X, fill_value=2.0)
    add("new_zeros new_ones new_empty", image, "constant", input=X, size=(n, c))
    add("new_full", image, "constant", input=X, size=(n, c), fill_value=2.0)
    add("new_tensor", image, "constant", input=X, data=[1.0, 2.0])
    add("numpy tolist item detach data storage untyped_storage", draw(1), "refused", input=X)
    add("__array__ __float__ __int__ __complex__", draw(1), "refused", input=X)
    return found
