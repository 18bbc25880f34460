"""The weighted layer that a rule works on: its input and output, its (folded) weights and its linear map."""

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from skexmap.lrp._convolution import FEW_CHANNELS, convolve, transpose_convolution


class BatchNorm(NamedTuple):
    """A batch-norm in evaluation mode."""

    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float

    def apply(self, x):
        """Return the normalized x."""
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=self.eps)

    def affine(self):
        """Return the scale and shift of each channel: the batch-norm is ``scale * z + shift``."""
        scale = (self.variance.detach() + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.detach()
        shift = -self.mean.detach() * scale
        return scale, shift if self.bias is None else shift + self.bias.detach()


class WeightedLayer:
    """One call of a convolution, a dense layer or a batch-norm.

    Attributes
    ----------
    name : str
        Name of the module that owns the weights, ``"?"`` if none does.
    operation : {"convolution", "dense", "batch_norm"}
    input, output : tensor
        Values at its input and output. The output follows the folded batch-norm, and the ReLU if `rectified`.
    rectified : bool
        Whether a ReLU, capped or not, follows directly. Then `output` is non-negative, and no relevance arrives where
        it is zero.
    preactivation : tensor
        Values before that ReLU, correct wherever they are positive; `output` if there is none.
    input_nonnegative : bool
        Whether no entry of the input is negative.
    first : bool
        Whether no other weighted layer lies between the image and this one.
    rule : Rule or None
        The composite's rule for it.
    """

    def __init__(
        self, name, operation, x, output, weight, bias, *, settings, variants, first, input_nonnegative
    ):
        self.name = name
        self.operation = operation
        self.input = x
        self.output = self.preactivation = output
        self.rectified = False
        self.first = first
        self.rule = None
        if input_nonnegative:
            self.input_nonnegative = True
        self._parameters = (weight, bias)
        self._settings = settings
        self._fold = None
        self._variants = variants

    def folded(self, batch_norm, output, *, cached):
        """Return this layer with a `BatchNorm` folded into its weights; `cached` if the model owns the batch-norm."""
        layer = self._with_output(output)
        layer._fold = batch_norm
        key = (*map(id, batch_norm[:4]), batch_norm.eps)
        layer._variants = self._variants.setdefault(key, {}) if cached else {}
        return layer

    def rectify(self, output, *, capped):
        """Return this layer with a ReLU folded into its output; `capped` if it changes large values, too."""
        layer = self._with_output(output)
        layer.rectified = True
        if capped:
            layer.preactivation = self.output
        return layer

    def _with_output(self, output):
        layer = copy.copy(self)
        layer.output = layer.preactivation = output
        return layer

    @functools.cached_property
    def input_nonnegative(self):
        # Looked up in the values unless the operation before it guarantees it: more than that could be incomplete.
        return bool(self.input.amin() >= 0)

    @property
    def can_fold(self):
        """Whether a batch-norm that follows directly can be folded into the weights."""
        return self.operation != "batch_norm" and self._fold is None and not self.rectified

    @property
    def weight(self):
        """The weights, including the folded batch-norm."""
        return self.weights("unchanged")[0]

    @property
    def bias(self):
        """The bias, including the folded batch-norm; None if there is none."""
        return self.weights("unchanged")[1]

    def weights(self, variant, *factors, shift=0.0):
        """Return a variant of the weights and bias, computed once for all batches."""
        key = (variant, factors, shift)
        if key not in self._variants:
            weight, bias = self._fold_weights()
            vary = VARIANTS[variant]
            bias = None if bias is None else vary(bias, *factors)
            if shift:
                n_outputs = self.output.shape[-1 if self.operation == "dense" else 1]
                bias = shift + (weight.new_zeros(n_outputs) if bias is None else bias)
            self._variants[key] = (_same_layout(vary(weight, *factors), weight), bias)
        return self._variants[key]

    def _fold_weights(self):
        weight, bias = (None if values is None else values.detach() for values in self._parameters)
        if self._fold is None:
            return weight, bias
        scale, shift = self._fold.affine()
        if self.operation == "batch_norm":
            return scale, shift
        bias = shift if bias is None else bias * scale + shift
        return _same_layout(_scale_outputs(weight, scale, self._settings), weight), bias

    def apply(self, x, weight, bias):
        """Apply the layer's linear map to x with other weights."""
        if self.operation == "convolution":
            return convolve(x, weight, bias, self._settings)
        if self.operation == "dense":
            return F.linear(x, weight, bias)
        shape = (1, -1, *[1] * (x.ndim - 2))
        result = x * weight.reshape(shape)
        return result if bias is None else result.add_(bias.reshape(shape))

    def transpose(self, share, weight):
        """Apply the transposed linear map with other weights."""
        if self.operation == "convolution":
            return transpose_convolution(share, weight, self.input, self._settings)
        if self.operation == "dense":
            return share @ weight
        return share * weight.reshape(1, -1, *[1] * (share.ndim - 2))

    def transpose_two(self, share, weight, other_weight):
        """Return ``transpose(share, weight)`` and ``transpose(share, other_weight)``."""
        n = self.input.shape[1]
        if self._is_plain and (2 * n <= FEW_CHANNELS or weight.shape[2:] == (1, 1)):
            # Few channels leave vector lanes idle, and a matrix product reads the share once for both results.
            both = torch.cat([weight, other_weight], dim=1)
            like = self.input.new_empty(1).expand(len(self.input), 2 * n, *self.input.shape[2:])
            result = transpose_convolution(share, both, like, self._settings)
            return result[:, :n], result[:, n:]
        return self.transpose(share, weight), self.transpose(share, other_weight)

    def transpose_sum(self, shares, weights):
        """Return the sum of ``transpose(share, weight)`` over the pairs."""
        if self._is_plain and weights[0].shape[1] >= weights[0].shape[0]:
            # One convolution with more channels writes the large result once.
            return self.transpose(torch.cat(shares, dim=1), torch.cat(weights, dim=0))
        first, second = map(self.transpose, shares, weights)
        return first.add_(second)

    @property
    def _is_plain(self):
        """Whether all its inputs reach all its outputs by a convolution."""
        plain = self.operation == "convolution" and not self._settings["transposed"]
        return plain and self._settings["groups"] == 1


VARIANTS: dict[str, Callable[..., torch.Tensor]] = {
    "unchanged": lambda w: w,
    "positive": lambda w: w.clamp(min=0),
    "negative": lambda w: w.clamp(max=0),
    "absolute": lambda w, a=1.0: w.abs().mul_(a),
    "plus": lambda w, a=1.0, b=1.0: (a * w).add_(w.clamp(min=0), alpha=b) if b else a * w,
}


def _scale_outputs(weight, scale, settings):
    """Multiply the weights of every output channel by its scale."""
    if settings is None or not settings["transposed"]:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # In a transposed convolution, the output channels are on the second axis, group by group.
    groups = settings["groups"]
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    grouped = grouped * scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return grouped.reshape(weight.shape)


def _same_layout(values, like):
    """Give values the strides of `like` (channels-last weights stay channels-last)."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return values.contiguous(memory_format=torch.channels_last)
    return values.contiguous()
