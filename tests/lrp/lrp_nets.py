"""Small networks for the tests, and the relevance that the engine gives their inputs."""

import numpy as np
import torch
from torch import nn

from skexmap.lrp import COMPOSITES, Composite, Epsilon, Gamma, On
from skexmap.lrp._engine import RelevanceEngine

epsilon_gamma = COMPOSITES["epsilon_gamma"]
GAMMA_EVERYWHERE = Composite([(On(), Gamma(4.0))])
EPSILON_EVERYWHERE = Composite([(On(), Epsilon())])


class Net(nn.Module):
    """A network whose forward pass is a function of its layers and the images."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.run(self, x)


class Scaled(torch.autograd.Function):
    """A custom function, invisible to interception."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


def norm(n, kind=nn.BatchNorm2d, affine=True):
    """Return a batch-norm in evaluation mode whose statistics are not those of a fresh one."""
    layer = kind(n, affine=affine, track_running_stats=True)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    if affine:
        layer.weight.data.normal_()
        layer.bias.data.normal_()
        # Something must pass the ReLU behind it.
        layer.bias.data[-1] = 3.0
    return layer.eval()


def randomize(model):
    """Give the batch-norms of a model statistics that are not those of fresh ones; return it for evaluation."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_().mul_(0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_().mul_(0.1)
    return model.eval().requires_grad_(False)


def explain(model, x, target=0, composite=GAMMA_EVERYWHERE, **kwargs):
    """Return the relevance of a batch as NumPy; `target` is one class, or one for each image."""
    engine = RelevanceEngine(model.eval(), composite)
    return engine.attribute(
        x, lambda logits: torch.as_tensor(target).expand(len(x)), **kwargs
    ).relevance.numpy()


def check(model, x, composite=None):
    """Raise what the engine raises before it explains a model."""
    RelevanceEngine(model, composite or epsilon_gamma()).check(x)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)
