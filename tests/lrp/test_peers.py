"""The composites against zennit."""

import functools

import pytest
import torch
from lrp_nets import randomize
from torch import nn

from skexmap.lrp import COMPOSITES
from skexmap.lrp._engine import RelevanceEngine


def signed_net():
    """Return a net whose activations have both signs."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 14 * 14, 3),
    )


@functools.cache
def peer_model(name):
    torch.manual_seed(0)
    if name == "signed":
        model = signed_net()
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(num_classes=10)
    if name.startswith("vgg"):
        # As it comes its dense layers are 1 GB in double precision, and the rules are the same for fewer neurons.
        model.classifier = nn.Sequential(
            nn.Linear(512 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # zennit 0.5.1 adds the eps a second time after it has folded the norm into the convolution; its logits
            # are then off by 1e-5 themselves. With a tiny eps both compute the same network.
            module.eps = 1e-12
    torch.manual_seed(0)
    return randomize(model).double()


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def by_zennit(name, model, x, composite):
    composites = pytest.importorskip("zennit.composites")
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizers = {"vgg": VGGCanonizer, "res": ResNetCanonizer, "sig": SequentialMergeBatchNorm}
    options = {"stabilizer": 1e-6, "canonizers": [canonizers[name[:3]]()]}
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
    "name", ["signed", "vgg11", "vgg11_bn", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_a_composite_equals_zennit(name, composite):
    pytest.importorskip("zennit")
    model = peer_model(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator).clamp(-3, 3)
    found = ours(model, x, composite)
    logits, expected = by_zennit(name, model, x, composite)
    assert relative_error(found.logits, logits) < 1e-8
    # zennit's named composites add 1e-6 to the denominators of sums and pools too, which ours do not; with that taken
    # out, as in `published_composite`, nothing is left between the two.
    assert relative_error(found.relevance, expected) < (1e-8 if composite == "epsilon_gamma" else 1e-4)
