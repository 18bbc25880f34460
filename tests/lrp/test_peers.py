"""The composites against zennit, and against captum's LRP where captum is right."""

import functools

import pytest
import torch
from torch import nn

from skexmap.lrp import COMPOSITES
from skexmap.lrp._engine import RelevanceEngine


def randomize(model, seed=0, eps=1e-12):
    """Give batch-norms statistics that are not those of a fresh one; random weights, double precision."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator).mul_(0.1)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(generator=generator).mul_(0.1)
            # zennit 0.5.1 adds the eps a second time after it has folded the norm into the convolution; its logits
            # are then off by 1e-5 themselves. With a tiny eps both compute the same network.
            module.eps = eps
    return model.double().eval().requires_grad_(False)


@functools.cache
def torchvision_model(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=10)
    if name.startswith("vgg"):
        # As it comes its dense layers are 1 GB in double precision, and the rules are the same for fewer neurons.
        model.classifier = nn.Sequential(
            nn.Linear(512 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
        )
    return randomize(model)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def by_zennit(model, x, composite, architecture):
    composites = pytest.importorskip("zennit.composites")
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizer = {"vgg": VGGCanonizer, "resnet": ResNetCanonizer}.get(architecture, SequentialMergeBatchNorm)()
    options = {"stabilizer": 1e-6, "canonizers": [canonizer]}
    if composite == "epsilon_gamma":
        theirs = published_composite(**options)
    else:
        # "epsilon_plus_flat" is zennit's EpsilonPlusFlat.
        box = {"low": -3.0, "high": 3.0, "gamma": 4.0} if composite == "epsilon_gamma_box" else {}
        theirs = getattr(composites, composite.title().replace("_", ""))(epsilon=1e-6, **box, **options)
    with torch.enable_grad(), Gradient(model=model, composite=theirs) as attributor:
        logits, relevance = attributor(x, lambda z: torch.eye(z.shape[1], dtype=z.dtype)[z.argmax(1)])
    return logits.detach(), relevance.detach()


def published_composite(stabilizer, canonizers):
    """zennit's Gamma(4) on every convolution and epsilon on dense layers: the composite of the ExMap paper."""
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Epsilon, Gamma, Norm, Pass
    from zennit.types import Activation, AvgPool, Convolution, Linear

    return LayerMapComposite(
        layer_map=[
            (Activation, Pass()),
            (AvgPool, Norm(stabilizer=1e-14)),
            (Sum, Norm(stabilizer=1e-14)),
            (Convolution, Gamma(gamma=4.0, stabilizer=stabilizer)),
            (Linear, Epsilon(epsilon=1e-6)),
        ],
        canonizers=canonizers,
    )


def ours(model, x, composite):
    box = {"low": -3.0, "high": 3.0} if composite == "epsilon_gamma_box" else {}
    engine = RelevanceEngine(model, COMPOSITES[composite](**box))
    return engine.attribute(x, lambda logits: logits.argmax(1))


@pytest.mark.torchvision
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(
    "name", ["vgg11", "vgg11_bn", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_a_composite_equals_zennit(name, composite):
    pytest.importorskip("zennit")
    model = torchvision_model(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator).clamp(-3, 3)
    found = ours(model, x, composite)
    logits, expected = by_zennit(model, x, composite, name[:3] if name.startswith("vgg") else "resnet")
    assert relative_error(found.logits, logits) < 1e-8
    # zennit's named composites add 1e-6 to the denominators of sums and pools too, which ours do not; with that taken
    # out, as in `published_composite`, nothing is left between the two.
    assert relative_error(found.relevance, expected) < (1e-8 if composite == "epsilon_gamma" else 1e-4)


def test_gamma_equals_zennits_on_values_of_both_signs():
    pytest.importorskip("zennit")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    model = randomize(model)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    _, expected = by_zennit(model, x, "epsilon_gamma", "sequential")
    assert relative_error(ours(model, x, "epsilon_gamma").relevance, expected) < 1e-8
