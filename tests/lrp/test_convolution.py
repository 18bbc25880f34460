"""The transposed convolution and its detours against autograd."""

import pytest
import torch

from skexmap.lrp import _convolution
from skexmap.lrp._convolution import convolve, transpose_convolution


def assert_transposed(x, weight, settings, *, by_phases):
    settings = {"padding": [0, 0], "dilation": [1, 1], "groups": 1, **settings}
    settings |= {"transposed": False, "output_padding": [0, 0]}
    x = x.requires_grad_()
    output = convolve(x, weight, None, settings)
    share = torch.randn_like(output)
    assert _convolution._has_few_strided_channels(weight, share, settings) == by_phases
    found = transpose_convolution(share, weight, x.detach(), settings)
    torch.testing.assert_close(found, torch.autograd.grad(output, x, share)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_the_detour_by_phases_is_the_transposed_convolution(kernel, stride, padding):
    # Odd and even sides, so that a last stride may not reach the edge.
    for sides in ((8, 9), (11, 7), (13, 16)):
        x = torch.randn(2, 3, *sides, dtype=torch.float64)
        weight = torch.randn(4, 3, kernel, min(kernel, 4), dtype=torch.float64)
        assert_transposed(x, weight, {"stride": [stride] * 2, "padding": [padding] * 2}, by_phases=True)


@pytest.mark.parametrize(
    "n_in, settings",
    [
        (3, {"stride": [1, 1], "padding": [1, 1]}),
        (3, {"stride": [2, 1]}),
        (3, {"stride": [2, 2], "dilation": [2, 2]}),
        (4, {"stride": [2, 2], "groups": 2}),
        (12, {"stride": [2, 2], "padding": [1, 1]}),
    ],
)
def test_what_the_detour_does_not_cover_goes_the_ordinary_way(n_in, settings):
    x = torch.randn(2, n_in, 9, 8, dtype=torch.float64)
    weight = torch.randn(4, n_in // settings.get("groups", 1), 3, 3, dtype=torch.float64)
    assert_transposed(x, weight, settings, by_phases=False)
