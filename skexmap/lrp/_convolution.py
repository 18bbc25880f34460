"""Convolutions and their transposes, with a shortcut that makes a strided first layer cheap."""

import torch
import torch.nn.functional as F

# Below this many input channels a strided transposed convolution runs as one dense convolution per pixel phase
# (measured for 64 -> 3 channels, 7 x 7, stride 2, at 224: 36 ms as a library call, 7 ms this way).
FEW_CHANNELS = 8


def in_layout_of(weight, x):
    """Return x in channels-last if the weights are: on the CPU, convolutions of other layouts are slow."""
    last = {"memory_format": torch.channels_last}
    if x.ndim == 4 and x.device.type == "cpu" and weight.is_contiguous(**last):
        return x.contiguous(**last)
    return x


def convolve(x, weight, bias, settings):
    """Apply a (possibly transposed) convolution with the given weights."""
    if _is_dense_per_pixel(x, weight, settings):
        down, right = settings["stride"]
        result = F.linear(x[..., ::down, ::right].permute(0, 2, 3, 1), weight.flatten(1), bias)
        return result.permute(0, 3, 1, 2)
    return torch.convolution(x, weight, bias, **settings)


def transpose_convolution(share, weight, input_like, settings):
    """Apply the transpose of `convolve` (its gradient with respect to x)."""
    if _is_dense_per_pixel(share, weight, settings):
        result = (share.permute(0, 2, 3, 1) @ weight.flatten(1)).permute(0, 3, 1, 2)
        return _spread(result, input_like, settings["stride"])
    if _has_few_strided_channels(weight, share, settings):
        return _transpose_by_phases(share, weight, input_like.shape[-2:], settings)
    return torch.ops.aten.convolution_backward(
        share,
        # Only the shape and layout of the input matter here, but its channels must match the weights.
        input_like,
        weight,
        None,
        settings["stride"],
        settings["padding"],
        settings["dilation"],
        settings["transposed"],
        settings["output_padding"],
        settings["groups"],
        [True, False, False],
    )[0]


def _is_dense_per_pixel(x, weight, settings):
    """Return whether a convolution of one pixel is a matrix product, which is faster in channels-last."""
    return (
        weight.ndim == 4
        and weight.shape[2:] == (1, 1)
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and settings["groups"] == 1
        and not settings["transposed"]
        and set(settings["padding"]) == {0}
    )


def _spread(values, input_like, stride):
    """Put values at every stride-th pixel, and zeros between them."""
    if set(stride) == {1}:
        return values
    result = torch.zeros_like(input_like, memory_format=torch.channels_last)
    result[..., :: stride[0], :: stride[1]] = values
    return result


def _has_few_strided_channels(weight, share, settings):
    return (
        not settings["transposed"]
        and share.ndim == 4
        and share.device.type == "cpu"
        and weight.shape[1] <= FEW_CHANNELS
        and settings["groups"] == 1
        and settings["stride"][0] == settings["stride"][1] > 1
        and set(settings["dilation"]) == {1}
    )


def _transpose_by_phases(share, weight, size, settings):
    """Transpose a strided convolution as one stride-1 convolution, whose channels are the phases of the pixels."""
    # Pixel ``h`` with ``h + padding = stride q + r`` receives ``sum_j share[q - j] w[r + stride j]``. For each phase
    # ``r`` this is an ordinary convolution with the reversed taps ``w[r :: stride]``.
    stride = settings["stride"][0]
    n_out, n_in, *kernel = weight.shape
    taps = [-(-k // stride) for k in kernel]
    weight = F.pad(weight, (0, taps[1] * stride - kernel[1], 0, taps[0] * stride - kernel[0]))
    weight = weight.reshape(n_out, n_in, taps[0], stride, taps[1], stride).flip(2, 4)
    weight = weight.permute(3, 5, 1, 0, 2, 4).reshape(stride**2 * n_in, n_out, *taps)
    phases = F.conv2d(
        share, weight.contiguous(memory_format=torch.channels_last), padding=[taps[0] - 1, taps[1] - 1]
    )
    # With the channels last, a row of pixels of one phase row is one block: `pixel_shuffle` copies single values.
    phases = phases.permute(0, 2, 3, 1).unflatten(3, (stride, stride * n_in)).transpose(2, 3)
    result = phases.flatten(1, 2).flatten(2).unflatten(2, (-1, n_in)).permute(0, 3, 1, 2)
    top, left = settings["padding"]
    missing = [max(0, size[0] + top - result.shape[-2]), max(0, size[1] + left - result.shape[-1])]
    # No output depends on the pixels beyond the last stride, so they get no relevance.
    result = F.pad(result, (0, missing[1], 0, missing[0]))
    return result[..., top : top + size[0], left : left + size[1]]
