"""The transposed convolution and its detours against autograd."""

import itertools

import pytest
import torch

from skexmap.lrp import _convolution
from skexmap.lrp._convolution import convolve, transpose_convolution


def settings(stride=1, padding=0, dilation=1, groups=1, n=2):
    def per_axis(value):
        return list(value) if isinstance(value, tuple) else [value] * n

    return {
        "stride": per_axis(stride),
        "padding": per_axis(padding),
        "dilation": per_axis(dilation),
        "transposed": False,
        "output_padding": [0] * n,
        "groups": groups,
    }


def by_autograd(share, weight, x, how):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(convolve(x, weight, None, how), x, share)[0]


# Kernel, stride, padding; odd and even sides, so that a last stride may not reach the edge.
PHASES = list(itertools.product([1, 2, 3, 5, 7], [2, 3, 4], [0, 1, 3]))


@pytest.mark.parametrize("kernel, stride, padding", PHASES)
def test_the_detour_by_phases_is_the_transposed_convolution(kernel, stride, padding):
    torch.manual_seed(0)
    for height, width in ((8, 9), (11, 7), (13, 16)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        weight = torch.randn(4, 3, kernel, min(kernel, 4), dtype=torch.float64)
        how = settings(stride, padding)
        share = torch.randn_like(convolve(x, weight, None, how))
        assert _convolution._has_few_strided_channels(weight, share, how)
        found = transpose_convolution(share, weight, x, how)
        torch.testing.assert_close(found, by_autograd(share, weight, x, how), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "n_in, how",
    [
        (3, settings(stride=1, padding=1)),
        (3, settings(stride=(2, 1))),
        (3, settings(stride=2, dilation=2)),
        (4, settings(stride=2, groups=2)),
        (12, settings(stride=2, padding=1)),
    ],
)
def test_what_the_detour_does_not_cover_goes_the_ordinary_way(n_in, how):
    torch.manual_seed(0)
    x = torch.randn(2, n_in, 9, 8, dtype=torch.float64)
    weight = torch.randn(4, n_in // how["groups"], 3, 3, dtype=torch.float64)
    share = torch.randn_like(convolve(x, weight, None, how))
    assert not _convolution._has_few_strided_channels(weight, share, how)
    found = transpose_convolution(share, weight, x, how)
    torch.testing.assert_close(found, by_autograd(share, weight, x, how), rtol=1e-10, atol=1e-12)
