"""Stopping at a layer and computing in another floating type."""

import numpy as np
import pytest
import torch
from torch import nn

from skexmap.features import HeatmapTransformer
from skexmap.lrp import LRP


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Blocks().eval()


@pytest.fixture
def images():
    return torch.rand(12, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def test_a_map_of_a_layer_is_the_map_of_the_net_above_it_on_the_layers_output(net, images):
    at_stem = HeatmapTransformer(net, attribution=LRP(layer="stem"), size=None, normalize=None)
    above = nn.Sequential(net.body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head)
    with torch.no_grad():
        features = net.stem(images)
    expected = HeatmapTransformer(above, size=None, normalize=None).fit_transform(features)
    summed = expected.reshape(12, 4, -1).sum(1)
    np.testing.assert_allclose(at_stem.fit_transform(images), summed, rtol=1e-4, atol=1e-6)


def test_small_maps_of_a_layer_are_not_enlarged(net, images):
    transformer = HeatmapTransformer(net, attribution=LRP(layer="body"), size=28).fit(images)
    assert transformer.heatmap_shape_ == (1, 4, 4)


def test_an_unknown_layer_is_refused_with_the_names_there_are(net, images):
    with pytest.raises(ValueError, match=r"no module named 'tail'.*\['stem', 'body', 'head'\]"):
        HeatmapTransformer(net, attribution=LRP(layer="tail")).fit(images)


def test_a_layer_whose_output_is_folded_into_the_next_is_refused(net, images):
    with pytest.raises(ValueError, match=r"output of 'stem\.0' is folded"):
        HeatmapTransformer(net, attribution=LRP(layer="stem.0")).fit(images)


def test_bfloat16_maps_come_out_as_float16_and_point_the_same_way(net, images):
    exact = HeatmapTransformer(net, return_embedding=True).fit_transform(images)
    half = HeatmapTransformer(net, return_embedding=True, dtype="bfloat16").fit_transform(images)
    assert half["heatmap"].dtype == np.float16
    assert half["embedding"].dtype == np.float32
    correlation = np.corrcoef(exact["heatmap"].ravel(), half["heatmap"].ravel())[0, 1]
    assert 0.98 < correlation < 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_maps_without_normalization_come_out_as_float32(net, images, dtype):
    # Their values may lie outside the range of float16.
    maps = HeatmapTransformer(net, normalize=None, dtype=dtype).fit_transform(images)
    assert maps.dtype == np.float32


def test_normalized_bfloat16_maps_lose_nothing_in_float16(net, images):
    shared = {"dtype": "bfloat16", "size": None}
    wide = HeatmapTransformer(net, normalize=None, **shared).fit_transform(images)
    half = HeatmapTransformer(net, **shared).fit_transform(images)
    expected = torch.from_numpy(wide).bfloat16()
    expected = (expected / expected.abs().amax(1, keepdim=True)).float().numpy()
    # float16 holds multiples of 6e-8.
    np.testing.assert_allclose(half.astype(np.float32), expected, rtol=0, atol=3e-8)


@pytest.mark.parametrize("logit, brightness", [(1e-4, 1), (1.0, 1), (1.0, 255)])
def test_float16_maps_of_many_pixels_do_not_vanish(logit, brightness):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2, bias=False),
    ).eval()  # fmt: skip
    images = brightness * torch.rand(4, 3, 160, 160)
    with torch.no_grad():
        # Relevance does not depend on the size of the logit, but the coefficient it starts with does.
        net[-1].weight.mul_(logit / net(images).abs().max())
    exact, half = (
        HeatmapTransformer(net, dtype=dtype, size=None).fit_transform(images)
        for dtype in ("float32", "float16")
    )
    assert half.dtype == np.float16
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(exact, half, strict=True)]
    assert min(correlations) > 0.97


def test_float16_is_refused_where_relevance_leaves_its_range():
    torch.manual_seed(0)
    # Each of 40 blocks halves the coefficients: after them, nothing is left that float16 could hold.
    body = [layer for _ in range(40) for layer in (nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        for layer in body[::2]:
            layer.weight.copy_(torch.eye(3)[:, :, None, None] * 0.5 + torch.rand(3, 3, 1, 1) * 0.01)
    images = 1000 * torch.rand(4, 3, 64, 64)
    HeatmapTransformer(net, dtype="bfloat16").fit(images)
    with pytest.raises(ValueError, match=r"In float16 the heatmaps of 4 of 4 images differ .*bfloat16"):
        HeatmapTransformer(net, dtype="float16").fit(images)


def test_float64_sharpens_a_float32_model(net, images):
    single = HeatmapTransformer(net).fit_transform(images)
    double = HeatmapTransformer(net, dtype="float64").fit_transform(images)
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=1e-4)
