"""The engine on the models that people use, straight from torchvision, unmodified but for their random statistics."""

import numpy as np
import pytest
import torch
from lrp_nets import epsilon_gamma, randomize
from torch import nn

from skexmap._torch import Replica
from skexmap.lrp import COMPOSITES
from skexmap.lrp._engine import RelevanceEngine

models = pytest.importorskip("torchvision.models")
pytestmark = pytest.mark.torchvision

# Name, options, side of the images.
MODELS = [
    ("alexnet", {}, 64),
    ("squeezenet1_1", {}, 40),
    ("resnet18", {}, 40),
    ("resnet50", {}, 40),
    ("densenet121", {}, 40),
    ("googlenet", {"init_weights": False}, 40),
    ("inception_v3", {"init_weights": False}, 80),
    ("mobilenet_v2", {}, 40),
    ("mobilenet_v3_small", {}, 40),
    ("efficientnet_b0", {}, 40),
    ("convnext_tiny", {}, 40),
    ("shufflenet_v2_x1_0", {}, 40),
    ("regnet_y_400mf", {}, 40),
    ("mnasnet0_5", {}, 40),
    ("vit_b_16", {"image_size": 32}, 32),
]


def build(name, options):
    """Return the model in double precision with non-trivial statistics and a head that is not zero."""
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=10, **options)
    for module in model.modules():
        # torchvision starts the head of a Vision Transformer at zero.
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)
    for parameter_name, values in model.named_parameters():
        # The layer scale of ConvNeXt starts at 1e-6: its blocks would do nothing.
        if parameter_name.endswith("layer_scale"):
            values.data.uniform_(0.2, 1)
    return randomize(model)


def relevance(model, x, composite):
    engine = RelevanceEngine(model, composite)
    engine.check(x)
    return engine.attribute(x, lambda logits: torch.arange(len(x)) % 10)


def correlation(a, b):
    return np.corrcoef(a.double().flatten().numpy(), b.double().flatten().numpy())[0, 1]


@pytest.mark.parametrize("name, options, side", MODELS)
def test_relevance_is_the_same_for_every_batch_precision_and_memory_format(name, options, side):
    single = build(name, options)
    double = Replica(single, torch.device("cpu"), torch.float64).module
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    composite = epsilon_gamma()
    expected = relevance(double, x, composite)
    found = expected.relevance
    assert torch.isfinite(found).all()
    assert (found.abs().flatten(1).amax(1) > 0).all()
    np.testing.assert_allclose(expected.logits.numpy(), double(x).numpy(), rtol=1e-9)

    alone = relevance(double, x[:1], composite).relevance
    # Sums of other batch sizes run in another order.
    assert correlation(alone, found[:1]) > 1 - 1e-9
    last = relevance(double, x.contiguous(memory_format=torch.channels_last), composite).relevance
    assert correlation(last, found) > 1 - 1e-9

    in_single = relevance(single, x.float(), composite).relevance
    for mine, reference in zip(in_single, found, strict=True):
        assert correlation(mine, reference) > 0.999


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_the_flat_rule_gives_relevance_to_black_pixels(name):
    model = build(name, {"image_size": 32} if name == "vit_b_16" else {})
    x = torch.rand(1, 3, 32, 32)
    black = torch.rand(x.shape) < 0.5
    x[black] = 0
    found = relevance(model, x, COMPOSITES["epsilon_plus_flat"]()).relevance
    assert torch.isfinite(found).all()
    # The flat rule does not depend on which pixels are black.
    assert 0.4 < found[black].abs().sum() / found.abs().sum() < 0.6


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "shufflenet_v2_x1_0"])
def test_relevance_is_conserved_without_biases(name):
    model = build(name, {}).double()
    # Every constant goes: what is left multiplies the image, so that all relevance must arrive there.
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    x = torch.randn(3, 3, 40, 40, dtype=torch.float64)
    total = relevance(model, x, epsilon_gamma(epsilon=1e-12)).relevance.sum((1, 2, 3))
    np.testing.assert_allclose(total.numpy(), 1, rtol=1e-4)
