"""Small networks against straight-line scripts: sums, zeros, heads, and ways to write the same network."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lrp_by_hand import epsilon_rule, gamma_rule
from lrp_nets import EPSILON_EVERYWHERE, GAMMA_EVERYWHERE, Net, check, close, epsilon_gamma, explain, norm
from torch import nn

from skexmap.lrp import Composite, Epsilon, Flat, Gamma, On
from skexmap.lrp._engine import RelevanceEngine

pytestmark = pytest.mark.usefixtures("double_precision")


# --- Sums and consumers --------------------------------------------------------------------------------------------


def test_a_convolution_with_two_consumers_gets_the_relevance_of_both():
    net = Net(
        lambda net, x: net.head(torch.cat([F.relu(z := net.conv(x)), 0.5 * z], 1).flatten(1)),
        conv=nn.Conv2d(2, 2, 2),
        head=nn.Linear(36, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back = by_hand.through(net.conv, x.numpy(), gamma_rule)
    R = by_hand.chain(np.concatenate([by_hand.relu(z), 0.5 * z]), (net.head, gamma_rule))
    close(explain(net, x[None])[0], back(R[:2] + R[2:]))


def test_a_convolution_whose_norm_is_not_its_only_consumer_is_folded_for_the_norm_alone():
    net = Net(
        lambda net, x: net.head((net.bn(z := net.conv(x)) - z).flatten(1)),
        conv=nn.Conv2d(2, 3, 2),
        bn=norm(3),
        head=nn.Linear(27, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back = by_hand.through(net.conv, x.numpy(), gamma_rule)
    normed, back_folded = by_hand.through(nn.Sequential(net.conv, net.bn), x.numpy(), gamma_rule)
    R = by_hand.chain(normed - z, (net.head, gamma_rule))
    to_normed, to_plain = by_hand.shares(normed, -z)
    close(explain(net, x[None])[0], back_folded(R * to_normed) + back(R * to_plain))


@pytest.mark.parametrize(
    "before, behind",
    [(torch.tanh, F.relu), (F.relu, nn.Identity())],
    ids=["before a convolution", "behind a ReLU"],
)
def test_a_norm_that_is_not_folded_is_an_epsilon_layer_of_its_own(before, behind):
    net = Net(
        lambda net, x: net.head(net.second(behind(net.bn(before(net.first(x))))).flatten(1)),
        first=nn.Conv2d(2, 3, 2),
        bn=norm(3),
        second=nn.Conv2d(3, 2, 2),
        head=nn.Linear(8, 2),
    )
    x = torch.randn(2, 4, 4)
    expected = by_hand.chain(
        x.numpy(),
        (net.first, gamma_rule),
        by_hand.on_arrays(before),
        (net.bn, epsilon_rule),
        by_hand.on_arrays(behind),
        (net.second, gamma_rule),
        (net.head, epsilon_rule),
    )
    close(explain(net, x[None], composite=epsilon_gamma())[0], expected)


def test_values_joined_with_negative_constants_are_signed():
    net = Net(
        lambda net, x: net.head(net.second(torch.cat([F.relu(net.first(x)), net.token], 2)).flatten(1)),
        first=nn.Conv1d(1, 2, 2),
        token=nn.Parameter(-torch.rand(1, 2, 3)),
        second=nn.Conv1d(2, 2, 3),
        head=nn.Linear(8, 2),
    )
    x = torch.randn(1, 4)
    z, back = by_hand.through(net.first, x.numpy(), gamma_rule)
    joined = np.concatenate([by_hand.relu(z), net.token[0].numpy()], 1)
    R = by_hand.chain(joined, (net.second, gamma_rule), (net.head, gamma_rule))
    close(explain(net, x[None])[0], back(R[:, :3]))


# --- Rules that give relevance to zeros ----------------------------------------------------------------------------


def small_net():
    return Net(
        lambda net, x: net.head(F.relu(net.conv(x)).flatten(1)),
        conv=nn.Conv2d(2, 3, 3),
        head=nn.Linear(12, 2),
    )


@pytest.mark.parametrize("rule", [Epsilon(), Gamma(4.0)], ids=["epsilon", "gamma"])
def test_black_pixels_get_exactly_nothing_if_the_rule_shares_in_proportion(rule):
    x = torch.rand(5, 2, 4, 4)
    x[:, :, 1:3] = 0
    R = explain(small_net(), x, composite=Composite([(On("convolution"), rule), (On(), Epsilon())]))
    # A trace instead of zero makes every product with it a subnormal number, and the search for neighbors slow.
    assert (R[:, :, 1:3] == 0).all()
    assert (R[:, :, [0, 3]] != 0).any()


@pytest.mark.parametrize(
    "normalize",
    [
        lambda x: (x - 0.5) / 0.25,
        lambda x: x.sub(torch.tensor([0.5, 0.5]).reshape(2, 1, 1)) * 4,
        lambda x: F.batch_norm(x, torch.full((2,), 0.5), torch.full((2,), 0.0625), eps=0.0),
    ],
    ids=["numbers", "tensors", "batch-norm"],
)
def test_the_same_rules_work_behind_a_normalization_inside_the_model(normalize):
    net = small_net()
    x = torch.rand(2, 4, 4)
    x[0, 0, 0] = 0.5
    steps = (net.conv, by_hand.flat_rule), by_hand.relu, (net.head, epsilon_rule)
    expected = by_hand.chain((x.numpy() - 0.5) / 0.25, *steps)
    net.run = lambda net, x: net.head(F.relu(net.conv(normalize(x))).flatten(1))
    composite = Composite([(On("convolution", first=True), Flat()), (On(), Epsilon())])
    close(explain(net, x[None], composite=composite)[0], expected)


@pytest.mark.parametrize("behind", ["a layer", "a sum"])
def test_a_relu_passes_on_what_flat_gives_to_its_zeros(behind):
    net = Net(
        lambda net, x: net.head(net.second(F.relu(net.first(x) + net.skip(x))).flatten(1)),
        first=nn.Conv2d(2, 3, 2),
        skip=nn.Conv2d(2, 3, 2),
        second=nn.Conv2d(3, 2, 2),
        head=nn.Linear(8, 2),
    )
    if behind == "a layer":
        net.run = lambda net, x: net.head(net.second(F.relu(net.first(x))).flatten(1))
    x = torch.randn(2, 4, 4)
    first, back_first = by_hand.through(net.first, x.numpy(), gamma_rule)
    skip, back_skip = by_hand.through(net.skip, x.numpy(), gamma_rule)
    z = first if behind == "a layer" else first + skip
    assert (z < 0).any()
    R = by_hand.chain(by_hand.relu(z), (net.second, by_hand.flat_rule), (net.head, epsilon_rule))
    expected = back_first(R) if behind == "a layer" else back_first(R * first / z) + back_skip(R * skip / z)
    composite = Composite([(On(layer="second"), Flat()), ("convolution", Gamma(4.0)), ("dense", Epsilon())])
    close(explain(net, x[None], composite=composite)[0], expected)


# --- Ways to write the same network --------------------------------------------------------------------------------


def _written_with_ignored_results(net, x):
    y = net.bn(net.conv(x))
    F.relu_(y)
    out = net.again(y)
    alias = out
    out.add_(y)
    return net.head(alias.flatten(1))


def _written_with_sums_into_zeros(net, x):
    y = torch.relu(net.bn(net.conv(x)))
    out = torch.zeros_like(y)
    out += net.again(y)
    torch.Tensor.add_(out, y)
    return net.head(F.dropout(out.flatten(1), 0.5, net.training))


def _written_under_no_grad(net, x):
    with torch.no_grad():
        y = torch.relu(net.bn(net.conv(x)))
    return net.head((net.again(y) + y).flatten(1))


WAYS = [value for name, value in list(globals().items()) if name.startswith("_written")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__[1:])
def test_the_same_network_gets_the_same_relevance_however_it_is_written(way):
    net = Net(way, conv=nn.Conv2d(2, 3, 2), bn=norm(3), again=nn.Conv2d(3, 3, 1), head=nn.Linear(27, 2))
    # The head has no bias, so that `x @ W + b` and `linear` are one rule.
    net.head.bias.zero_()
    x = torch.randn(2, 4, 4)
    z, back = by_hand.through(nn.Sequential(net.conv, net.bn), x.numpy(), gamma_rule)
    y = by_hand.relu(z)
    again, back_again = by_hand.through(net.again, y, gamma_rule)
    R = by_hand.chain(again + y, (net.head, epsilon_rule))
    to_again, to_skip = by_hand.shares(again, y)
    check(net, x[None])
    found = explain(net, x[None], composite=epsilon_gamma())[0]
    close(found, back(back_again(R * to_again) + R * to_skip))


def test_a_shared_layer_is_propagated_once_per_call():
    net = Net(
        lambda net, x: net.head(F.relu(net.body(F.relu(net.body(x))))),
        body=nn.Linear(4, 4),
        head=nn.Linear(4, 2),
    )
    x = torch.randn(4)
    body = (net.body, gamma_rule), by_hand.relu
    close(explain(net, x[None])[0], by_hand.chain(x.numpy(), *body, *body, (net.head, gamma_rule)))


def test_weights_made_on_the_fly_are_not_mistaken_for_others():
    # Their memory, and so their identity, is soon that of the next ones.
    net = Net(
        lambda net, x: net.head(
            F.batch_norm(
                F.linear(x, net.body.weight, net.body.bias * net.factor), net.mean * net.factor, net.variance
            )
        ),
        body=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
        mean=nn.Parameter(torch.randn(4)),
        variance=nn.Parameter(torch.rand(4)),
    )
    engine = RelevanceEngine(net, GAMMA_EVERYWHERE)
    x = torch.randn(3)
    for net.factor in range(1, 30):
        scale = (net.variance.numpy() + 1e-5) ** -0.5
        W = net.body.weight.numpy() * scale[:, None]
        b = (net.body.bias - net.mean).numpy() * net.factor * scale
        R = by_hand.chain(W @ x.numpy() + b, (net.head, gamma_rule))
        found = engine.attribute(x[None], lambda logits: logits.argmax(1) * 0).relevance.numpy()[0]
        close(found, gamma_rule(x.numpy(), W, b, R))


# --- Heads ---------------------------------------------------------------------------------------------------------


def test_a_one_logit_head_starts_at_the_predicted_side():
    net = Net(lambda net, x: net.head(F.relu(net.body(x))), body=nn.Linear(4, 3), head=nn.Linear(3, 1))
    x = torch.randn(16, 4)
    predicted = (net(x)[:, 0] > 0).long()
    assert 0 < predicted.sum() < 16
    steps = (net.body, epsilon_rule), by_hand.relu, (net.head, epsilon_rule)
    expected = np.stack([by_hand.chain(sample, *steps) for sample in x.numpy()])
    close(explain(net, x, predicted, EPSILON_EVERYWHERE), expected)


def test_a_one_logit_head_can_start_at_its_logit():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).requires_grad_(False)
    x = torch.randn(5, 4)
    # The logit of class 0 is minus the only one.
    for target, sign in ((0, -1), (1, 1)):
        expected = explain(net, x, target) * sign * net(x).numpy()
        close(explain(net, x, target, initial_relevance="logit"), expected)
