"""The same function in another spelling gives the same map."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lrp_nets import EPSILON_EVERYWHERE, Net, close, epsilon_gamma, explain, norm
from torch import nn

from skexmap.lrp import COMPOSITES, Composite, Epsilon, Flat, Gamma, On

pytestmark = pytest.mark.usefixtures("double_precision")

RULES = {
    "epsilon": EPSILON_EVERYWHERE,
    "gamma": epsilon_gamma(),
    "gamma on dense layers": Composite([("dense", Gamma(2.0)), (On(), Epsilon())]),
    "flat": Composite([(On(first=True), Flat()), (On(), Epsilon())]),
}


def network(step):
    """Return a net with a step between a ReLU and a convolution; the step also takes another layer's output."""
    net = Net(
        lambda net, x: net.head(F.relu(net.last(step(net, F.relu(net.first(x)), net.other(x)))).flatten(1)),
        first=nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm(4)),
        other=nn.Conv2d(2, 4, 3, padding=1),
        mixing=nn.Parameter(torch.linspace(-2, 3, 20).sin().reshape(5, 4)),
        scale=nn.Parameter(torch.rand(4, 1, 1) + 0.5),
        shift=nn.Parameter(torch.randn(4, 1, 1)),
    )
    channels, height, width = step(net, torch.ones(1, 4, 5, 4), torch.ones(1, 4, 5, 4)).shape[1:]
    net.last = nn.Conv2d(channels, 3, 2)
    net.head = nn.Linear(3 * (height - 1) * (width - 1), 2)
    return net.requires_grad_(False)


def assert_same_map(steps, composite):
    """Compare the maps of steps that all compute the same."""
    nets = []
    for step in steps:
        torch.manual_seed(0)
        nets.append(network(step))
    x = torch.randn(3, 2, 5, 4)
    logits = nets[0](x)
    expected = explain(nets[0], x, 1, composite)
    assert abs(expected).min() > 0
    for net in nets[1:]:
        torch.testing.assert_close(net(x), logits)
        close(explain(net, x, 1, composite), expected)


def pooled_gate(z):
    return torch.sigmoid(z.mean((2, 3), keepdim=True))


def normal_cdf(z):
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def tanh_cdf(z):
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * torch.pow(z, 3))))


def grouped(z):
    return z.reshape(len(z), 2, -1)


def affine(net, z):
    return z * net.scale + net.shift


SPELLINGS = {
    "gate": [
        lambda net, y, z: y * pooled_gate(z),
        lambda net, y, z: y * pooled_gate(z).expand_as(y),
        lambda net, y, z: pooled_gate(z).expand(y.shape).mul(y),
        lambda net, y, z: y * pooled_gate(z).flatten(1).view(len(y), -1, 1, 1),
        lambda net, y, z: y * pooled_gate(z).expand_as(y).clone().view_as(y),
        lambda net, y, z: y * pooled_gate(z).type_as(y),
        lambda net, y, z: y * F.interpolate(pooled_gate(z), size=y.shape[2:]),
        lambda net, y, z: y * F.interpolate(pooled_gate(z), size=y.shape[2:], mode="bilinear"),
        lambda net, y, z: (y * (2 * pooled_gate(z))) / 2,
        lambda net, y, z: y * (1 - pooled_gate(-z)),
        lambda net, y, z: y - y * pooled_gate(-z),
        lambda net, y, z: torch.addcmul(torch.zeros_like(y), y, pooled_gate(z)),
        lambda net, y, z: y / (1 / pooled_gate(z)),
        lambda net, y, z: torch.einsum("bchw,bc->bchw", y, pooled_gate(z).flatten(1)),
        lambda net, y, z: torch.einsum("bc, bhcw -> bchw", pooled_gate(z).flatten(1), y.transpose(1, 2)),
        lambda net, y, z: y * torch.maximum(pooled_gate(z), torch.tensor(0.0)).clamp(0, 1),
        lambda net, y, z: y * F.relu(pooled_gate(z).square().sqrt().abs()),
        lambda net, y, z: y * (0.5 * torch.tanh(z.mean((2, 3), keepdim=True) / 2) + 0.5),
    ],
    "hard gate": [
        lambda net, y, z: y * F.hardsigmoid(z),
        lambda net, y, z: y * (F.relu6(z + 3) / 6),
        lambda net, y, z: y * (F.relu6(z + 3) * (1 / 6)),
        lambda net, y, z: (F.hardtanh(z + 3, 0, 6) / 6) * y,
        lambda net, y, z: (z + 3).clamp(0, 6) / 6 * y,
        lambda net, y, z: torch.clamp(z / 6 + 0.5, 0, 1) * y,
        lambda net, y, z: (z.clamp(-3, 3) / 6 + 0.5) * y,
        lambda net, y, z: (F.relu6(z + 3) * torch.tensor(1 / 6)) * y,
        lambda net, y, z: (F.relu6(z + 3) / torch.tensor(6.0)) * y,
        lambda net, y, z: (F.relu6(z + 3) * np.float64(1 / 6)) * y,
        lambda net, y, z: F.relu(z / 6 + 0.5).clamp(max=1) * y,
        lambda net, y, z: torch.minimum(F.relu(z / 6 + 0.5), torch.tensor(1.0)) * y,
        lambda net, y, z: F.relu(1 - F.relu(0.5 - z / 6)) * y,
    ],
    "SiLU": [
        lambda net, y, z: F.silu(z),
        lambda net, y, z: z * torch.sigmoid(z),
        lambda net, y, z: z.sigmoid().mul_(z),
        lambda net, y, z: z * (1 - torch.sigmoid(-z)),
    ],
    "hard swish": [
        lambda net, y, z: F.hardswish(z),
        lambda net, y, z: z * F.hardsigmoid(z),
        lambda net, y, z: z * F.relu6(z + 3) / 6,
        lambda net, y, z: z * (z + 3).clamp(0, 6) / 6,
        lambda net, y, z: z * torch.clamp(F.relu(z + 3), max=6) / 6,
    ],
    "mish": [
        lambda net, y, z: F.mish(z),
        lambda net, y, z: z * torch.tanh(F.softplus(z)),
        lambda net, y, z: z.mul(F.softplus(z).tanh_()),
    ],
    "GELU": [
        lambda net, y, z: F.gelu(z),
        lambda net, y, z: z * normal_cdf(z),
        lambda net, y, z: z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))),
    ],
    "GELU by tanh": [
        lambda net, y, z: F.gelu(z, approximate="tanh"),
        lambda net, y, z: z * tanh_cdf(z),
        lambda net, y, z: 0.5 * z * (1 + torch.tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))),
    ],
    "layer norm": [
        lambda net, y, z: affine(net, F.layer_norm(z, z.shape[1:])),
        lambda net, y, z: affine(
            net,
            (z - z.mean((1, 2, 3), keepdim=True))
            * torch.rsqrt(z.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5),
        ),
        lambda net, y, z: affine(
            net,
            (z - z.mean((1, 2, 3), keepdim=True))
            / torch.sqrt(z.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5),
        ),
        lambda net, y, z: affine(
            net,
            (d := z - z.mean((1, 2, 3), keepdim=True))
            / (d.pow(2).mean((1, 2, 3), keepdim=True) + 1e-5).sqrt(),
        ),
    ],
    "group norm": [
        lambda net, y, z: F.group_norm(z, 2, net.scale.flatten(), net.shift.flatten(), 1e-5),
        lambda net, y, z: affine(
            net,
            (
                (grouped(z) - grouped(z).mean(2, keepdim=True))
                / (grouped(z).var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
            ).view_as(z),
        ),
    ],
    "division by the norm": [
        lambda net, y, z: F.normalize(z, dim=1),
        lambda net, y, z: z / z.norm(dim=1, keepdim=True).clamp_min(1e-12),
        lambda net, y, z: z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=1e-12),
        lambda net, y, z: z * z.square().sum(1, keepdim=True).rsqrt(),
        lambda net, y, z: z * z.square().sum(1, keepdim=True) ** torch.tensor(-0.5),
        lambda net, y, z: z * (1 / z.square().sum(1, keepdim=True)).sqrt().clamp(max=1e12),
        lambda net, y, z: torch.einsum("bchw,bhw->bchw", z, z.square().sum(1).rsqrt()),
    ],
    "dense layer": [
        lambda net, y, z: F.linear(y.movedim(1, -1), net.mixing).movedim(-1, 1),
        lambda net, y, z: (y.movedim(1, -1) @ net.mixing.T).movedim(-1, 1),
        lambda net, y, z: (net.mixing @ y.flatten(2)).view(len(y), -1, *y.shape[2:]),
        lambda net, y, z: torch.einsum("bchw,dc->bdhw", y, net.mixing),
        lambda net, y, z: torch.einsum("cd,bchw->bdhw", net.mixing.T, y),
        lambda net, y, z: torch.einsum("bchw,dc->bdhw", [y, net.mixing]),
    ],
    "matrix product": [
        lambda net, y, z: (y.flatten(2).mT @ z.flatten(2)).unsqueeze(1),
        lambda net, y, z: torch.einsum("bci,bcj->bij", y.flatten(2), z.flatten(2)).unsqueeze(1),
        lambda net, y, z: torch.einsum("bci,bcj->bij", [y.flatten(2), z.flatten(2)]).unsqueeze(1),
        lambda net, y, z: torch.einsum(y.flatten(2), [0, 1, 2], z.flatten(2), [0, 1, 3], [0, 2, 3]).unsqueeze(
            1
        ),
    ],
    "matrix product with an unused bias": [
        lambda net, y, z: torch.bmm(y.flatten(2).mT, z.flatten(2)).unsqueeze(1),
        lambda net, y, z: torch.baddbmm(
            torch.full((1, 1, 1), math.nan), y.flatten(2).mT, z.flatten(2), beta=0
        ).unsqueeze(1),
    ],
    "joined constants": [
        lambda net, y, z: torch.cat([y, net.shift.expand_as(y)], 1),
        lambda net, y, z: torch.cat([y, net.shift.expand_as(y).contiguous()], 1) + 0,
        lambda net, y, z: torch.stack([y, net.shift.expand_as(y)], 1).flatten(1, 2),
        lambda net, y, z: F.pad(y, (0, 0, 0, 0, 0, 4)) + F.pad(net.shift.expand_as(y), (0, 0, 0, 0, 4, 0)),
    ],
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("function", SPELLINGS)
def test_another_spelling_has_the_same_map(function, rules):
    assert_same_map(SPELLINGS[function], RULES[rules])


def test_a_batch_norm_over_the_tokens_of_a_dense_layer_scales_them():
    net = Net(
        lambda net, x: net.head(F.relu(net.norm(net.dense(x))).flatten(1)),
        dense=nn.Linear(4, 5),
        norm=norm(3, nn.BatchNorm1d),
        head=nn.Linear(15, 2),
    )
    x = torch.randn(6, 3, 4)
    composite = Composite([("batch_norm", Epsilon(1e-12)), ("dense", Gamma(4.0))])
    found = explain(net, x, composite=composite)
    scale = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).unsqueeze(1)
    shift = net.norm.bias.unsqueeze(1) - net.norm.running_mean.unsqueeze(1) * scale
    net.run = lambda net, x: net.head(F.relu(net.dense(x) * scale + shift).flatten(1))
    close(found, explain(net, x, composite=composite))


def test_a_convolution_may_share_its_weight_with_its_transpose():
    def build(weight_of_transpose):
        return Net(
            lambda net, x: net.head(
                F.relu(F.conv_transpose2d(F.relu(F.conv2d(x, net.kernel)), weight_of_transpose(net))).flatten(
                    1
                )
            ),
            kernel=nn.Parameter(torch.linspace(-2, 3, 54).sin().reshape(3, 2, 3, 3)),
            head=nn.Linear(40, 2),
        ).requires_grad_(False)

    torch.manual_seed(0)
    tied = build(lambda net: net.kernel)
    torch.manual_seed(0)
    apart = build(lambda net: net.kernel.clone())
    # With no negative pixel, both layers need the same variant of the weight.
    x = torch.rand(3, 2, 5, 4)
    close(explain(tied, x, 1, epsilon_gamma()), explain(apart, x, 1, epsilon_gamma()))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardswish()], ids=str)
@pytest.mark.parametrize("composite", ["epsilon_gamma", "epsilon_plus", "epsilon_alpha2_beta1"])
def test_an_image_that_turns_every_activation_off_has_no_relevance(composite, activation):
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), activation, nn.Flatten(), nn.Linear(12, 2))
    nn.init.constant_(net[1].bias, -20)
    x = torch.rand(2, 2, 3, 3)
    x[1] *= 100
    found = explain(net.requires_grad_(False), x, composite=COMPOSITES[composite]())
    assert (found[0] == 0).all()
    assert (found[1] != 0).any()
