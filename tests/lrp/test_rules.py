"""Each rule against its explicit matrix form, in double precision, on every kind of layer."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
from lrp_nets import explain, norm
from torch import nn

from skexmap.lrp import AlphaBeta, Composite, Epsilon, Flat, Gamma, On, Rule, ZBox

pytestmark = pytest.mark.usefixtures("double_precision")

RULES = {
    "epsilon": (Epsilon(), by_hand.epsilon_rule),
    "large epsilon": (Epsilon(0.3), lambda *a: by_hand.epsilon_rule(*a, epsilon=0.3)),
    "gamma 4": (Gamma(4.0), by_hand.gamma_rule),
    "gamma 0.25": (Gamma(0.25, epsilon=0.1), lambda *a: by_hand.gamma_rule(*a, gamma=0.25, epsilon=0.1)),
    "z-plus": (AlphaBeta(1, 0), lambda *a: by_hand.alpha_beta_rule(*a, 1, 0)),
    "alpha-beta": (AlphaBeta(2, 1), lambda *a: by_hand.alpha_beta_rule(*a, 2, 1)),
    "alpha-beta 3 2": (AlphaBeta(3, 2, 0.1), lambda *a: by_hand.alpha_beta_rule(*a, 3, 2, 0.1)),
    "z-box": (ZBox(-4, 5), lambda *a: by_hand.z_box_rule(*a, -4, 5)),
    "flat": (Flat(), by_hand.flat_rule),
    "epsilon 0": (Epsilon(0.0), lambda *a: by_hand.epsilon_rule(*a, epsilon=0)),
}

LAYERS = {
    "dense": (lambda: nn.Linear(6, 5), (6,)),
    "dense without bias": (lambda: nn.Linear(6, 5, bias=False), (6,)),
    "conv": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 4, 5)),
    "conv without bias": (lambda: nn.Conv2d(2, 3, 2, bias=False), (2, 4, 4)),
    "strided conv": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 6)),
    "conv with stride 3 that leaves pixels out": (lambda: nn.Conv2d(1, 2, 2, stride=3), (1, 6, 7)),
    "conv with two strides": (lambda: nn.Conv2d(2, 2, 3, stride=(2, 1), padding=(1, 0)), (2, 5, 4)),
    "dilated conv": (lambda: nn.Conv2d(2, 2, 2, dilation=2, stride=2, padding=1), (2, 6, 5)),
    "grouped conv": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 3, 3)),
    "depthwise conv": (lambda: nn.Conv2d(3, 3, 3, groups=3, stride=2, padding=1), (3, 5, 5)),
    "same-padded conv": (lambda: nn.Conv2d(2, 2, (3, 5), padding="same", dilation=(2, 1)), (2, 4, 5)),
    "1-D conv": (lambda: nn.Conv1d(2, 3, 3, stride=2), (2, 9)),
    "3-D conv": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 3, 2)),
    "transposed conv": (
        lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        (2, 3, 3),
    ),
    "grouped transposed conv": (lambda: nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (4, 2, 3)),
    "1-D transposed conv": (lambda: nn.ConvTranspose1d(2, 2, 3), (2, 4)),
    "conv, norm": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), norm(3)), (2, 4, 5)),
    "strided conv, norm": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, 2, bias=False), norm(3)), (2, 5, 5)),
    "conv, norm without weights": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), norm(3, affine=False)),
        (2, 4, 4),
    ),
    "dense, norm": (lambda: nn.Sequential(nn.Linear(6, 4), norm(4, nn.BatchNorm1d)), (6,)),
    "1-D conv, norm": (lambda: nn.Sequential(nn.Conv1d(2, 3, 2), norm(3, nn.BatchNorm1d)), (2, 5)),
    "transposed conv, norm": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), norm(4)),
        (4, 2, 2),
    ),
    "conv, instance norm with running statistics": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), norm(3, nn.InstanceNorm2d)),
        (2, 4, 5),
    ),
    "norm alone": (lambda: norm(3), (3, 2, 2)),
}


def rule_matrix(model, rule, x):
    """Return what skexmap makes of relevance 1 at each output: one row per output."""
    n_outputs = model(x[None]).shape[1]
    repeated = x.expand(n_outputs, *x.shape)
    found = explain(model, repeated, torch.arange(n_outputs), Composite([(On(), rule)]))
    return found.reshape(n_outputs, -1)


def matrix_by_hand(layer, x, rule, *, rectified=False):
    W, b, _ = by_hand.matrix_of(layer, x.shape)
    x = x.flatten().numpy()
    z = W @ x + b
    rows = []
    for j in range(len(z)):
        R = by_hand.seed(z, j)
        if rectified and z[j] <= 0:
            # ReLU's output is zero: there is nothing that the relevance could belong to.
            R[j] = 0
        rows.append(rule(x, W, b, R))
    return np.array(rows)


@pytest.mark.parametrize("sign", ["signed", "non-negative"])
@pytest.mark.parametrize("rectified", [False, True], ids=["open", "rectified"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_rule_is_its_matrix_form(layer, rule, rectified, sign):
    build, shape = LAYERS[layer]
    module = build().requires_grad_(False)
    x = torch.randn(shape)
    x.flatten()[0] = 0.0
    parts = [module, nn.Flatten()]
    if sign == "non-negative":
        # A ReLU before the layer is how the engine knows; on these values it changes nothing.
        x = x.abs()
        parts = [nn.ReLU(), *parts]
    if rectified:
        parts.insert(-1, nn.ReLU())
    mine, reference = RULES[rule]
    expected = matrix_by_hand(module, x, reference, rectified=rectified)
    found = rule_matrix(nn.Sequential(*parts), mine, x)
    if rectified and not mine.proportional:
        # Started at 1 behind a ReLU, relevance at a zero output is passed to the pre-activation all the same.
        rows = (module(x[None]).flatten() > 0).numpy()
        found, expected = found[rows], expected[rows]
        assert rows.any()
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def assert_is_matrix_form(module, rule, reference, x):
    found = rule_matrix(nn.Sequential(module.requires_grad_(False), nn.Flatten()), rule, x)
    np.testing.assert_allclose(found, matrix_by_hand(module, x, reference), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rule", [name for name, (rule, _) in RULES.items() if rule.proportional])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_a_same_padded_convolution_with_an_even_kernel_is_its_matrix_form(rule):
    module = nn.Conv2d(2, 2, (4, 3), padding="same")
    assert_is_matrix_form(module, *RULES[rule], torch.randn(2, 5, 4))


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_a_strided_convolution_of_few_channels_is_its_matrix_form(kernel, stride, padding):
    # Odd and even sides, so that a last stride may not reach the edge.
    for sides in ((8, 9), (11, 7)):
        module = nn.Conv2d(1, 2, (kernel, min(kernel, 4)), stride, padding)
        assert_is_matrix_form(module, Epsilon(), by_hand.epsilon_rule, torch.randn(1, *sides))


def test_z_box_takes_one_bound_per_channel():
    low, high = [-1.0, -2.0, 0.0], [1.0, 2.0, 3.0]
    x = torch.stack([torch.empty(4, 4).uniform_(a, b) for a, b in zip(low, high, strict=True)])
    per_pixel = [np.repeat(bound, 16) for bound in (low, high)]
    module = nn.Conv2d(3, 2, 2, stride=2)
    assert_is_matrix_form(module, ZBox(low, high), lambda *a: by_hand.z_box_rule(*a, *per_pixel), x)


def test_z_box_says_how_many_images_leave_the_box():
    x = torch.rand(3, 4)
    x[1, 2] = 1.5
    with pytest.raises(ValueError, match="1 of 3 images have values outside the box"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), x, composite=Composite([(On(), ZBox(0, 1))]))


def test_a_rule_that_overrides_nothing_is_refused():
    with pytest.raises(NotImplementedError, match="Rule must override `relevance` or `coefficient`"):
        rule_matrix(nn.Sequential(nn.Linear(4, 3)), Rule(), torch.ones(4))


@pytest.mark.parametrize("alpha, beta", [(1, 1), (2, 0), (-1, -2)])
def test_alpha_and_beta_must_conserve_relevance(alpha, beta):
    with pytest.raises(ValueError, match="alpha - beta must be 1"):
        AlphaBeta(alpha, beta)


@pytest.mark.parametrize(
    "rule", [Epsilon(0.0), Gamma(4.0, 0.0), AlphaBeta(1, 0, 0.0), AlphaBeta(2, 1, 0.0)], ids=repr
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_without_epsilon_a_neuron_whose_contributions_cancel_or_vanish_passes_nothing_on(rule, dtype):
    module = nn.Linear(2, 2, bias=False)
    module.weight.data[:] = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    dead = rule_matrix(nn.Sequential(nn.ReLU(), module).to(dtype), rule, torch.zeros(2, dtype=dtype))
    assert (dead == 0).all()
    if isinstance(rule, Epsilon):
        canceled = rule_matrix(nn.Sequential(module).to(dtype), rule, torch.ones(2, dtype=dtype))
        np.testing.assert_allclose(canceled, [[0, 0], [0.5, 0.5]], rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_net_with_dead_neurons_has_finite_maps_in_float16_and_the_same_as_in_double(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    ).requires_grad_(False)
    x = torch.rand(4, 3, 12, 12)
    composite = Composite([("convolution", Gamma()), (On(), Epsilon())])
    expected = explain(net, x, composite=composite)
    found = explain(net.half(), x.half(), composite=composite)
    for one, other in zip(found, expected, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99


class Sorted(Rule):
    """Everything to the largest contribution: a rule that a user may write, in relevances."""

    def relevance(self, layer, relevance):
        winner = (layer.weight * layer.input[:, None]).argmax(2)
        return torch.zeros_like(layer.input).scatter_add_(1, winner, relevance)


class HalfGradient(Rule):
    """Half of the coefficient is lost: a rule that a user may write, in coefficients."""

    proportional = True

    def coefficient(self, layer, coefficient):
        return layer.transpose(coefficient, layer.weight) / 2


def test_a_rule_of_the_user_is_used_as_it_is():
    def sort(x, W, b, R):
        return np.bincount((W * x).argmax(1), weights=R, minlength=len(x))

    def half(*arguments):
        return by_hand.epsilon_rule(*arguments, epsilon=0) / 2

    assert_is_matrix_form(nn.Linear(6, 5), Sorted(), sort, torch.randn(6))
    assert_is_matrix_form(nn.Conv2d(2, 3, 2), HalfGradient(), half, torch.randn(2, 3, 3))


def test_rules_with_equal_settings_are_equal_and_hash_the_same():
    assert Gamma(1.0) == Gamma(1.0)
    assert hash(Gamma(1.0)) == hash(Gamma(1.0))
    assert Gamma(1.0) != Gamma(2.0)
