"""LRP epsilon-gamma written a second time, slowly and plainly, to compare skexmap's maps with.

Nothing of skexmap is used. The pass is an ordinary forward pass in float64 in which each operation returns its own
value, but the gradient of another function: the one whose gradient times input is the layer's rule. The relevance is
then the pixel times the gradient, divided by the logit. Convolutions keep their input, so a batch-norm behind one is
computed again as the convolution with folded weights.
"""

import inspect
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# A factor of a product that is a constant.
GATES = {"sigmoid", "hardsigmoid", "softmax", "reciprocal", "rsqrt"}
# Functions of one tensor, entry by entry, that pass their relevance on.
ELEMENTWISE = {
    "relu", "relu6", "hardtanh", "hardswish", "silu", "gelu", "mish", "elu", "celu", "selu", "leaky_relu", "prelu",
    "tanh", "softplus", "clamp", "clip", "sigmoid", "hardsigmoid", "reciprocal", "rsqrt", "sqrt",
    "pow", "square", "abs",
}  # fmt: skip


def reference_map(model, images, gamma=4.0, epsilon=1e-6):
    """Return the relevance of every pixel for the predicted class.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode and float64.
    images : tensor of shape (n, channels, height, width)
    gamma, epsilon : float, default=4.0 and 1e-6

    Returns
    -------
    relevance : tensor of the shape of the images
    """
    leaf = images.detach().clone().requires_grad_()
    with Reference(gamma, epsilon):
        output = model(leaf)
    logits = (
        output
        if isinstance(output, torch.Tensor)
        else output["logits"]
        if hasattr(output, "keys")
        else output[0]
    )
    chosen = logits.max(1).values
    (gradient,) = torch.autograd.grad(chosen.sum(), leaf)
    return (images * gradient / chosen.detach().reshape(-1, 1, 1, 1)).detach()


class Reference(TorchFunctionMode):
    """Replaces the gradient of each operation by that of its rule."""

    def __init__(self, gamma, epsilon):
        super().__init__()
        self.gamma, self.epsilon = gamma, epsilon

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        tensors = [tensor for tensor in tensors if tensor.requires_grad]
        if not tensors:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        output = self.apply(name, func, args, kwargs)
        # What is computed from gates alone is one; the second argument of these gives only its shape or type.
        tensors = tensors[:1] if name in ("expand_as", "view_as", "reshape_as", "type_as") else tensors
        if isinstance(output, torch.Tensor) and (name in GATES or all(is_gate(tensor) for tensor in tensors)):
            output.is_gate = True
        return output

    def apply(self, name, func, args, kwargs):
        """Return the value of a function, with the gradient of its rule."""
        rule = getattr(self, f"rule_{name}", None)
        if rule is not None:
            return rule(func, args, kwargs)
        if name in ELEMENTWISE:
            x = args[0]
            with torch.no_grad():
                settings = {**kwargs, "inplace": False} if "inplace" in kwargs else kwargs
                value = func(x.clone(), *args[1:], **settings)
                ratio = torch.where(x == 0, 0.0, value / torch.where(x == 0, 1.0, x))
            return with_gradient_of(value, x * ratio)
        factors = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.requires_grad]
        if name == "mul" and len(factors) == 2 and is_gate(factors[0]) != is_gate(factors[1]):
            return func(*(x.detach() if is_gate(x) else x for x in args), **kwargs)
        if name in ("mul", "matmul", "bmm", "einsum", "multiply") and len(factors) == 2:
            value = func(*args, **kwargs)
            return with_gradient_of(value, value / 2)
        return func(*args, **kwargs)

    def rule_div(self, func, args, kwargs):
        """Division: a divisor is a constant."""
        dividend, divisor = args
        return func(dividend, divisor.detach() if isinstance(divisor, torch.Tensor) else divisor, **kwargs)

    rule_truediv = rule_div

    def stabilized(self, z):
        """Return a layer's output, with the gradient of LRP-epsilon."""
        return with_gradient_of(z, z * (z / (z + torch.where(z < 0, -self.epsilon, self.epsilon))).detach())

    def rule_linear(self, func, args, kwargs):
        """Dense layers: epsilon."""
        return self.stabilized(func(*args, **kwargs))

    def rule_conv1d(self, func, args, kwargs):
        """Convolutions of sequences: sign-symmetric gamma."""
        return self.convolution(F.conv1d, args, kwargs)

    def rule_conv2d(self, func, args, kwargs):
        """Convolutions of images: sign-symmetric gamma."""
        return self.convolution(F.conv2d, args, kwargs)

    def rule_conv_transpose2d(self, func, args, kwargs):
        """Transposed convolutions: sign-symmetric gamma; a batch-norm behind one is not folded."""
        names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
        given = {"bias": None, **dict(zip(names, args, strict=False)), **kwargs}
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias")
        return self.gamma_convolution(partial(F.conv_transpose2d, **given), x, weight, bias)

    def convolution(self, convolve, args, kwargs):
        """Keep the input and the weights for a batch-norm behind it."""
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        convolve = partial(convolve, **given)
        output = self.gamma_convolution(convolve, x, weight, bias)
        output.convolution = (convolve, x, weight, bias, output._version)
        return output

    def gamma_convolution(self, convolve, x, weight, bias):
        """Split the contributions by sign; the larger side gets the weight 1 + gamma."""
        up, down = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
        positive_x, negative_x = x.clamp(min=0), x.clamp(max=0)
        positive_w, negative_w = weight.clamp(min=0), weight.clamp(max=0)
        z = convolve(x, weight, bias)
        P = convolve(positive_x, positive_w, up) + convolve(negative_x, negative_w)
        N = convolve(positive_x, negative_w, down) + convolve(negative_x, positive_w)
        path = z + self.gamma * torch.where(z >= 0, P, N)
        share = z / (path + torch.where(z >= 0, self.epsilon, -self.epsilon))
        return with_gradient_of(z, path * share.detach())

    def rule_batch_norm(self, func, args, kwargs):
        """Batch-norm in evaluation mode: folded into the convolution before it, or else epsilon."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = {"weight": None, "bias": None, "eps": 1e-5, **dict(zip(names, args, strict=False)), **kwargs}
        x, mean, scale = given["input"], given["running_mean"], (given["running_var"] + given["eps"]).rsqrt()
        scale = scale if given["weight"] is None else scale * given["weight"]
        shift = -mean * scale if given["bias"] is None else given["bias"] - mean * scale
        before = getattr(x, "convolution", None)
        if before is None or before[-1] != x._version:
            return self.stabilized(func(*args, **kwargs))
        convolve, x, weight, bias, _ = before
        bias = shift if bias is None else bias * scale + shift
        return self.gamma_convolution(convolve, x, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias)

    def rule_layer_norm(self, func, args, kwargs):
        """Layer-norm: the deviation and the bias are constants (AttnLRP)."""
        names = ("input", "normalized_shape", "weight", "bias", "eps")
        given = {"weight": None, "bias": None, "eps": 1e-5, **dict(zip(names, args, strict=False)), **kwargs}
        axes = tuple(range(-len(given["normalized_shape"]), 0))
        centered = given["input"] - given["input"].mean(axes, keepdim=True)
        return self.affine(
            centered, centered.square().mean(axes, keepdim=True), given, given["weight"], given["bias"]
        )

    def rule_rms_norm(self, func, args, kwargs):
        """RMS-norm: like layer-norm, without centering."""
        names = ("input", "normalized_shape", "weight", "eps")
        given = {"weight": None, "eps": None, **dict(zip(names, args, strict=False)), **kwargs}
        x = given["input"]
        given["eps"] = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
        axes = tuple(range(-len(given["normalized_shape"]), 0))
        return self.affine(x, x.square().mean(axes, keepdim=True), given, given["weight"], None)

    def rule_group_norm(self, func, args, kwargs):
        """Group-norm: like layer-norm, inside each group of channels."""
        names = ("input", "num_groups", "weight", "bias", "eps")
        given = {"weight": None, "bias": None, "eps": 1e-5, **dict(zip(names, args, strict=False)), **kwargs}
        x = given["input"]
        rows = x.reshape(len(x), given["num_groups"], -1)
        centered = rows - rows.mean(-1, keepdim=True)
        scale = (centered.square().mean(-1, keepdim=True) + given["eps"]).rsqrt().detach()
        result = (centered * scale).reshape(x.shape)
        per_channel = (1, -1, *[1] * (x.ndim - 2))
        result = result if given["weight"] is None else result * given["weight"].reshape(per_channel)
        return result if given["bias"] is None else result + given["bias"].reshape(per_channel)

    def affine(self, centered, mean_square, given, weight, bias):
        """Divide by a deviation that is a constant, then scale and shift."""
        result = centered * (mean_square + given["eps"]).rsqrt().detach()
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    def rule_scaled_dot_product_attention(self, func, args, kwargs):
        """Attention from its parts: both factors of a product get half, the softmax its gradient (AttnLRP)."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query, key, value, mask = given["query"], given["key"], given["value"], given.get("attn_mask")
        scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
        scores = torch.matmul(query, key.transpose(-2, -1)) * scale
        scores = with_gradient_of(scores, scores / 2)
        scores = scores if mask is None else scores + mask
        attended = torch.matmul(torch.softmax(scores, -1), value)
        return with_gradient_of(attended, attended / 2)

    def rule_multi_head_attention_forward(self, func, args, kwargs):
        """Attention with its projections, which are dense layers; without masks."""
        given = inspect.signature(func).bind(*args, **kwargs).arguments
        n_heads, weight, bias = given["num_heads"], given["in_proj_weight"], given["in_proj_bias"]
        heads = []
        for i, name in enumerate(("query", "key", "value")):
            part = slice(i * len(weight) // 3, (i + 1) * len(weight) // 3)
            projected = self.rule_linear(F.linear, (given[name], weight[part], bias[part]), {})
            length, batch, width = projected.shape
            heads.append(projected.reshape(length, batch * n_heads, width // n_heads).transpose(0, 1))
        attended = self.rule_scaled_dot_product_attention(None, heads, {})
        joined = attended.transpose(0, 1).reshape(attended.shape[1], batch, width)
        return self.rule_linear(
            F.linear, (joined, given["out_proj_weight"], given["out_proj_bias"]), {}
        ), None

    def rule_normalize(self, func, args, kwargs):
        """Division by a norm, which is a constant."""
        value = func(*args, **kwargs)
        with torch.no_grad():
            factor = value / torch.where(args[0] == 0, 1.0, args[0])
        return with_gradient_of(value, args[0] * factor)


def with_gradient_of(value, path):
    """Return a value that is differentiated as if it were another."""
    return path + (value - path).detach()


def is_gate(value):
    """Return whether a value is a gate, or computed from gates."""
    return getattr(value, "is_gate", False)
