"""Small networks against straight-line scripts: sums, products, normalisations, activations, and ways to write them."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_rules import norm
from torch import nn

from skexmap.lrp import (
    Composite,
    Epsilon,
    Flat,
    Gamma,
    On,
    RelevanceEngine,
    WSquare,
    ZBox,
    ZPlus,
    epsilon_gamma,
)
from skexmap.lrp._engine import Interception

GAMMA_EVERYWHERE = Composite([(On(), Gamma(4.0))])
EPSILON_EVERYWHERE = Composite([(On(), Epsilon())])


@pytest.fixture(autouse=True)
def _double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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


def explain(model, x, target=0, composite=GAMMA_EVERYWHERE, **kwargs):
    """Return the relevance of a batch, or of one sample without a batch axis, as NumPy."""
    engine = RelevanceEngine(model.eval(), composite)
    return engine.attribute(x, lambda logits: torch.full((len(x),), target), **kwargs).relevance.numpy()


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)


# --- Sums and consumers --------------------------------------------------------------------------------------------


def residual_net(bias=True):
    return Net(
        lambda net, x: net.head((net.relu(net.bn(net.second(y := net.relu(net.first(x)))) + y)).flatten(1)),
        first=nn.Conv2d(2, 3, 3, padding=1, bias=bias),
        second=nn.Conv2d(3, 3, 3, padding=1, bias=bias),
        bn=norm(3) if bias else nn.Identity(),
        relu=nn.ReLU(),
        head=nn.Linear(48, 2, bias=bias),
    )


def test_a_residual_block_shares_by_the_value_of_its_branches():
    net = residual_net()
    x = torch.randn(2, 4, 4)
    z, back_first = by_hand.through(net.first, x.numpy(), by_hand.gamma_rule)
    y = by_hand.relu(z)
    branch, back_second = by_hand.through(nn.Sequential(net.second, net.bn), y, by_hand.gamma_rule)
    total = by_hand.relu(branch + y)
    logits, back_head = by_hand.through(net.head, total.flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 1)).reshape(total.shape)
    to_branch, to_skip = by_hand.shares(branch, y)
    # The sum behind the ReLU: where it is negative, the head has given nothing.
    expected = back_first(back_second(R * to_branch) + R * to_skip)
    composite = Composite([("dense", Epsilon()), (On(), Gamma(4.0))])
    close(explain(net, x[None], 1, composite)[0], expected)


@pytest.mark.parametrize("rule", [Epsilon(1e-12), Gamma(4.0, 1e-12), ZPlus(1e-12)], ids=repr)
def test_relevance_is_conserved_through_a_residual_block(rule):
    net = residual_net(bias=False)
    # z-plus loses the relevance of neurons without positive contributions: keep the values positive.
    for values in net.parameters():
        values.abs_()
    x = torch.rand(4, 2, 4, 4)
    total = explain(net, x, composite=Composite([(On(), rule)])).sum((1, 2, 3))
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_relevance_is_conserved_through_a_residual_block_with_values_of_both_signs():
    net = residual_net(bias=False)
    x = torch.randn(4, 2, 4, 4)
    total = explain(net, x, composite=Composite([(On(), Gamma(4.0, 1e-14))])).sum((1, 2, 3))
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_a_convolution_with_two_consumers_gets_the_relevance_of_both():
    net = Net(
        lambda net, x: net.head(torch.cat([F.relu(z := net.conv(x)), 0.5 * z], 1).flatten(1)),
        conv=nn.Conv2d(2, 2, 2),
        head=nn.Linear(36, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back = by_hand.through(net.conv, x.numpy(), by_hand.gamma_rule)
    joined = np.concatenate([by_hand.relu(z), 0.5 * z])
    logits, back_head = by_hand.through(net.head, joined.flatten(), by_hand.gamma_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(joined.shape)
    close(explain(net, x[None])[0], back(R[:2] + R[2:]))


def test_a_convolution_whose_norm_is_not_its_only_consumer_is_folded_for_the_norm_alone():
    net = Net(
        lambda net, x: net.head((net.bn(z := net.conv(x)) - z).flatten(1)),
        conv=nn.Conv2d(2, 3, 2),
        bn=norm(3),
        head=nn.Linear(27, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back = by_hand.through(net.conv, x.numpy(), by_hand.gamma_rule)
    normed, back_folded = by_hand.through(nn.Sequential(net.conv, net.bn), x.numpy(), by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, (normed - z).flatten(), by_hand.gamma_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(z.shape)
    to_normed, to_plain = by_hand.shares(normed, -z)
    close(explain(net, x[None])[0], back_folded(R * to_normed) + back(R * to_plain))


def test_a_norm_before_a_convolution_is_an_epsilon_layer_of_its_own():
    net = Net(
        lambda net, x: net.head(net.conv(F.relu(net.bn(net.stem(x).tanh()))).flatten(1)),
        stem=nn.Conv2d(2, 3, 2),
        bn=norm(3),
        conv=nn.Conv2d(3, 2, 2),
        head=nn.Linear(8, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back_stem = by_hand.through(net.stem, x.numpy(), by_hand.gamma_rule)
    normed, back_norm = by_hand.through(net.bn, np.tanh(z), by_hand.epsilon_rule)
    conv, back_conv = by_hand.through(net.conv, by_hand.relu(normed), by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, conv.flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(conv.shape)
    close(
        explain(net, x[None], composite=epsilon_gamma())[0],
        back_stem(back_norm(back_conv(R) * (normed > 0))),
    )


def test_a_relu_followed_by_a_norm_keeps_its_signs_apart():
    net = Net(
        lambda net, x: net.head(net.second(net.bn(F.relu(net.first(x)))).flatten(1)),
        first=nn.Conv2d(2, 3, 2),
        bn=norm(3),
        second=nn.Conv2d(3, 2, 2),
        head=nn.Linear(8, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back_first = by_hand.through(net.first, x.numpy(), by_hand.gamma_rule)
    normed, back_norm = by_hand.through(net.bn, by_hand.relu(z), by_hand.epsilon_rule)
    assert (normed < 0).any()
    conv, back_second = by_hand.through(net.second, normed, by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, conv.flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(conv.shape)
    close(explain(net, x[None], composite=epsilon_gamma())[0], back_first(back_norm(back_second(R))))


@pytest.mark.parametrize("activation", [F.silu, F.gelu, torch.tanh, F.elu, F.leaky_relu, F.hardswish, F.mish])
def test_a_net_with_signed_activations_follows_the_two_sided_gamma_rule(activation):
    net = Net(
        lambda net, x: net.head(activation(net.second(activation(net.first(x)))).flatten(1)),
        first=nn.Conv2d(2, 3, 2),
        second=nn.Conv2d(3, 2, 2),
        head=nn.Linear(8, 2),
    )
    x = torch.randn(2, 4, 4)

    def act(values):
        return activation(torch.from_numpy(values)).numpy()

    first, back_first = by_hand.through(net.first, x.numpy(), by_hand.gamma_rule)
    assert (act(first) < 0).any()
    second, back_second = by_hand.through(net.second, act(first), by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, act(second).flatten(), by_hand.gamma_rule)
    R = back_head(by_hand.seed(logits, 1)).reshape(second.shape)
    close(explain(net, x[None], 1)[0], back_first(back_second(R)))


@pytest.mark.parametrize(
    "activation", [torch.sigmoid, F.relu6, F.softplus, nn.Hardtanh(-0.2, 0.3), F.hardsigmoid]
)
def test_any_elementwise_activation_hands_relevance_on(activation):
    net = Net(lambda net, x: net.head(activation(net.body(x))), body=nn.Linear(4, 6), head=nn.Linear(6, 2))
    x = torch.randn(4)
    z, back = by_hand.through(net.body, x.numpy(), by_hand.gamma_rule)
    value = activation(torch.from_numpy(z)).numpy()
    logits, back_head = by_hand.through(net.head, value, by_hand.gamma_rule)
    close(explain(net, x[None])[0], back(back_head(by_hand.seed(logits, 0))))


# --- Products ------------------------------------------------------------------------------------------------------


def squeeze_excite():
    return Net(
        lambda net, x: net.head(
            (torch.sigmoid(net.gate(x.mean((2, 3), keepdim=True))) * net.conv(x)).flatten(1)
        ),
        conv=nn.Conv2d(2, 2, 1),
        gate=nn.Conv2d(2, 2, 1),
        head=nn.Linear(18, 2),
    )


def test_a_gate_is_a_constant_and_the_signal_takes_all():
    net = squeeze_excite()
    x = torch.randn(2, 3, 3)
    gate = torch.sigmoid(net.gate(x.mean((1, 2))[None, :, None, None])).numpy()[0]
    conv, back = by_hand.through(net.conv, x.numpy(), by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, (gate * conv).flatten(), by_hand.gamma_rule)
    close(explain(net, x[None])[0], back(back_head(by_hand.seed(logits, 0)).reshape(conv.shape)))


def test_two_activations_that_are_multiplied_get_half_each():
    net = Net(
        lambda net, x: net.head(net.left(x) * net.right(x)),
        left=nn.Linear(3, 4),
        right=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    )
    x = torch.randn(3)
    left, back_left = by_hand.through(net.left, x.numpy(), by_hand.epsilon_rule)
    right, back_right = by_hand.through(net.right, x.numpy(), by_hand.epsilon_rule)
    logits, back_head = by_hand.through(net.head, left * right, by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0))
    expected = back_left(R / 2) + back_right(R / 2)
    close(explain(net, x[None], composite=EPSILON_EVERYWHERE)[0], expected)


def test_a_product_of_an_activation_with_itself_keeps_all_relevance():
    net = Net(lambda net, x: net.head((y := net.body(x)) * y), body=nn.Linear(3, 4), head=nn.Linear(4, 2))
    x = torch.randn(3)
    z, back = by_hand.through(net.body, x.numpy(), by_hand.epsilon_rule)
    logits, back_head = by_hand.through(net.head, z**2, by_hand.epsilon_rule)
    close(explain(net, x[None], composite=EPSILON_EVERYWHERE)[0], back(back_head(by_hand.seed(logits, 0))))


# --- Normalisation by the image's own statistics -------------------------------------------------------------------


def normalized_by_hand(x, groups, scale, shift, eps, centred=True):
    """AttnLRP: centring is linear, the deviation a constant, scale and shift an affine layer; x has shape (n,)."""
    rows = x.reshape(groups, -1)
    mean = rows.mean(1, keepdims=True) if centred else np.zeros((groups, 1))
    deviation = np.sqrt(((rows - mean) ** 2).mean(1, keepdims=True) + eps)
    value = ((rows - mean) / deviation).flatten() * scale + shift

    def back(R):
        with np.errstate(invalid="ignore"):
            # Scale and shift: x w / (x w + b), nothing where the output is zero.
            R = (R * (value - shift) / value).reshape(rows.shape)
        n = rows.shape[1]
        result = np.zeros_like(rows)
        for g in range(groups):
            # (x_j - mean) = sum_i x_i (delta_ij - 1 / n)
            W = np.eye(n) - (1 / n if centred else 0)
            z = W @ rows[g]
            result[g] = (W * rows[g]).T @ (R[g] / z)
        return result.flatten()

    return value, back


NORMALIZATIONS = {
    "layer norm": (lambda: nn.LayerNorm([4, 3, 3]), 1, True),
    "group norm": (lambda: nn.GroupNorm(2, 4), 2, True),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), 4, True),
    "RMS norm": (lambda: nn.RMSNorm([4, 3, 3], eps=1e-5), 1, False),
}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_the_deviation_of_a_normalisation_is_a_constant(kind):
    build, groups, centred = NORMALIZATIONS[kind]
    layer = build()
    for values in layer.parameters():
        values.data.normal_()
    net = Net(
        lambda net, x: net.head(net.norm(net.conv(x)).flatten(1)),
        conv=nn.Conv2d(2, 4, 2),
        norm=layer,
        head=nn.Linear(36, 2),
    )
    x = torch.randn(2, 4, 4)
    z, back_conv = by_hand.through(net.conv, x.numpy(), by_hand.gamma_rule)

    def per_entry(values, default):
        values = torch.full((4,), default) if values is None else values
        return values.flatten().numpy() if values.numel() == 36 else np.repeat(values.numpy(), 9)

    scale, shift = per_entry(layer.weight, 1.0), per_entry(getattr(layer, "bias", None), 0.0)
    value, back_norm = normalized_by_hand(z.flatten(), groups, scale, shift, 1e-5, centred)
    np.testing.assert_allclose(value, layer(torch.from_numpy(z)[None]).detach().flatten().numpy())
    logits, back_head = by_hand.through(net.head, value, by_hand.epsilon_rule)
    R = back_norm(back_head(by_hand.seed(logits, 0)))
    close(explain(net, x[None], composite=epsilon_gamma())[0], back_conv(R.reshape(z.shape)))


def test_an_instance_norm_with_running_statistics_is_folded_like_a_batch_norm():
    def net(norm):
        return Net(
            lambda net, x: net.head(F.relu(net.norm(net.conv(x))).flatten(1)),
            conv=conv,
            norm=norm,
            head=head,
        )

    conv, head, batch_norm = nn.Conv2d(2, 3, 2), nn.Linear(27, 2), norm(3)
    instance_norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    instance_norm.load_state_dict(batch_norm.state_dict())
    x = torch.randn(3, 2, 4, 4)
    close(explain(net(instance_norm), x), explain(net(batch_norm), x))


# --- Pooling, resizing and shapes ----------------------------------------------------------------------------------

POOLS = {
    "average": nn.AvgPool2d(2),
    "padded average": nn.AvgPool2d(3, 2, padding=1),
    "adaptive average": nn.AdaptiveAvgPool2d((2, 3)),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": nn.Upsample(size=(5, 7), mode="bicubic"),
    "nearest": nn.Upsample(scale_factor=2),
    "padding": nn.ZeroPad2d(1),
    "mirror": nn.ReflectionPad2d(2),
    "pixel shuffle": nn.PixelShuffle(2),
}


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_and_resizing_share_by_contribution(pool):
    pool = POOLS[pool]
    channels, height, width = pool(torch.zeros(1, 4, 4, 6)).shape[1:]
    net = Net(
        lambda net, x: net.head(net.after(pool(F.relu(net.before(x)))).flatten(1)),
        before=nn.Conv2d(2, 4, 1),
        after=nn.Conv2d(channels, 3, 1),
        head=nn.Linear(3 * height * width, 2),
    )
    x = torch.randn(2, 4, 6)
    z, back_before = by_hand.through(net.before, x.numpy(), by_hand.gamma_rule)
    y = by_hand.relu(z)
    pooled, back_pool = by_hand.through(pool, y, lambda *a: by_hand.epsilon_rule(*a, epsilon=1e-300))
    after, back_after = by_hand.through(net.after, pooled, by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, after.flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(after.shape)
    close(explain(net, x[None], composite=epsilon_gamma())[0], back_before(back_pool(back_after(R))))


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2), lambda x: F.max_pool2d(x, 2, return_indices=True)[0]]
)
def test_max_pooling_sends_relevance_to_the_winner(pool):
    net = Net(
        lambda net, x: net.head(pool(net.conv(x)).flatten(1)), conv=nn.Conv2d(1, 2, 1), head=nn.Linear(8, 2)
    )
    x = torch.randn(1, 4, 4)
    z, back = by_hand.through(net.conv, x.numpy(), by_hand.gamma_rule)
    windows = z.reshape(2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(2, 2, 2, 4)
    logits, back_head = by_hand.through(net.head, windows.max(-1).flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(2, 2, 2)
    won = np.eye(4)[windows.argmax(-1)] * R[..., None]
    R = won.reshape(2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(z.shape)
    close(explain(net, x[None], composite=epsilon_gamma())[0], back(R))


# --- Rules that give relevance to zeros ----------------------------------------------------------------------------

AT_THE_IMAGE = {
    "flat": (Flat(), by_hand.flat_rule),
    "w-square": (WSquare(), by_hand.w_square_rule),
    "z-box": (ZBox(-1, 2), lambda *a: by_hand.z_box_rule(*a, -1, 2)),
}


@pytest.mark.parametrize("rule", AT_THE_IMAGE)
def test_black_pixels_get_relevance_where_the_rule_gives_it_them(rule):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    x = torch.rand(2, 4, 4)
    x[:, 1:3] = 0
    mine, reference = AT_THE_IMAGE[rule]
    z, back = by_hand.through(net[0], x.numpy(), reference)
    logits, back_head = by_hand.through(net[3], by_hand.relu(z).flatten(), by_hand.epsilon_rule)
    expected = back(back_head(by_hand.seed(logits, 0)).reshape(z.shape))
    assert np.abs(expected[:, 1:3]).min() > 0
    composite = Composite([(On("convolution", first=True), mine), (On(), Epsilon())])
    assert not composite.carries_zero_inputs
    close(explain(net, x[None], composite=composite)[0], expected)


@pytest.mark.parametrize("rule", [Epsilon(), Gamma(4.0)], ids=["epsilon", "gamma"])
def test_black_pixels_get_exactly_nothing_where_the_rule_shares_in_proportion(rule):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    x = torch.rand(5, 2, 4, 4)
    x[:, :, 1:3] = 0
    R = explain(net, x, composite=Composite([(On("convolution"), rule), (On(), Epsilon())]))
    # A trace instead of zero makes every product with it a subnormal number, and the search for neighbours slow.
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
def test_the_same_rules_work_behind_a_normalisation_inside_the_model(normalize):
    net = Net(
        lambda net, x: net.head(F.relu(net.conv(normalize(x))).flatten(1)),
        conv=nn.Conv2d(2, 3, 3),
        head=nn.Linear(12, 2),
    )
    x = torch.rand(2, 4, 4)
    x[0, 0, 0] = 0.5
    z, back = by_hand.through(net.conv, (x.numpy() - 0.5) / 0.25, by_hand.flat_rule)
    logits, back_head = by_hand.through(net.head, by_hand.relu(z).flatten(), by_hand.epsilon_rule)
    expected = back(back_head(by_hand.seed(logits, 0)).reshape(z.shape))
    composite = Composite([(On("convolution", first=True), Flat()), (On(), Epsilon())])
    close(explain(net, x[None], composite=composite)[0], expected)


def test_flat_inside_the_network_reaches_zeros_behind_a_relu():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2)
    ).requires_grad_(False)
    x = torch.randn(2, 4, 4)
    z, back_first = by_hand.through(net[0], x.numpy(), by_hand.w_square_rule)
    assert (z < 0).any()
    second, back_second = by_hand.through(net[2], by_hand.relu(z), by_hand.flat_rule)
    logits, back_head = by_hand.through(net[4], second.flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(second.shape)
    composite = Composite([(On(layer="0"), WSquare()), ("convolution", Flat()), ("dense", Epsilon())])
    assert composite.carries_zero_inputs
    close(explain(net, x[None], composite=composite)[0], back_first(back_second(R)))


@pytest.mark.parametrize("behind", ["a layer", "a sum"])
def test_a_relu_hands_on_what_flat_gives_to_its_zeros(behind):
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
    first, back_first = by_hand.through(net.first, x.numpy(), by_hand.gamma_rule)
    skip, back_skip = by_hand.through(net.skip, x.numpy(), by_hand.gamma_rule)
    z = first if behind == "a layer" else first + skip
    assert (z < 0).any()
    second, back_second = by_hand.through(net.second, by_hand.relu(z), by_hand.flat_rule)
    logits, back_head = by_hand.through(net.head, second.flatten(), by_hand.epsilon_rule)
    R = back_second(back_head(by_hand.seed(logits, 0)).reshape(second.shape))
    expected = back_first(R) if behind == "a layer" else back_first(R * first / z) + back_skip(R * skip / z)
    composite = Composite([(On(layer="second"), Flat()), ("convolution", Gamma(4.0)), ("dense", Epsilon())])
    close(explain(net, x[None], composite=composite)[0], expected)


# --- Ways to write the same network --------------------------------------------------------------------------------


def _written_with_modules(net, x):
    y = nn.ReLU()(net.bn(net.conv(x)))
    return net.head((net.again(y) + y).flatten(1))


def _written_with_in_place_operations(net, x):
    y = net.bn(net.conv(x))
    y.relu_()
    out = net.again(y)
    out += y
    return net.head(torch.flatten(out, 1))


def _written_with_one_in_place_module(net, x):
    relu = nn.ReLU(inplace=True)
    y = relu(net.bn(net.conv(x)))
    out = net.again(relu(y))
    return net.head(out.add_(y).view(len(x), -1))


def _written_with_functions(net, x):
    y = F.conv2d(x, net.conv.weight, bias=net.conv.bias)
    y = F.batch_norm(
        y, net.bn.running_mean, net.bn.running_var, weight=net.bn.weight, bias=net.bn.bias, training=False
    )
    y = F.relu(input=y)
    out = torch.add(input=F.conv2d(y, net.again.weight, net.again.bias), other=y)
    return F.linear(out.reshape(len(x), -1), weight=net.head.weight, bias=net.head.bias)


def _written_with_ignored_results(net, x):
    y = net.bn(net.conv(x))
    F.relu_(y)
    out = net.again(y)
    alias = out
    out.add_(y)
    return net.head(alias.flatten(1))


def _written_with_a_sum_into_zeros(net, x):
    y = torch.relu(net.bn(net.conv(x)))
    out = torch.zeros_like(y)
    out += net.again(y)
    out += y
    return net.head(F.dropout(out.flatten(1), 0.5, net.training))


def _written_with_ignored_sums_into_zeros(net, x):
    y = torch.relu(net.bn(net.conv(x)))
    out = torch.zeros_like(y)
    out.add_(net.again(y))
    torch.Tensor.add_(out, y)
    return net.head(out.flatten(1))


def _written_with_matrices(net, x):
    y = net.bn(net.conv(x)).clamp(min=0)
    out = torch.stack([net.again(y), y]).sum(0)
    return out.flatten(1) @ net.head.weight.T + net.head.bias


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
    z, back = by_hand.through(nn.Sequential(net.conv, net.bn), x.numpy(), by_hand.gamma_rule)
    y = by_hand.relu(z)
    again, back_again = by_hand.through(net.again, y, by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, (again + y).flatten(), by_hand.epsilon_rule)
    R = back_head(by_hand.seed(logits, 0)).reshape(y.shape)
    to_again, to_skip = by_hand.shares(again, y)
    RelevanceEngine(net, epsilon_gamma()).check(x[None])
    found = explain(net, x[None], composite=epsilon_gamma())[0]
    close(found, back(back_again(R * to_again) + R * to_skip))


def test_a_shared_layer_is_propagated_once_per_call():
    net = Net(
        lambda net, x: net.head(F.relu(net.body(F.relu(net.body(x))))),
        body=nn.Linear(4, 4),
        head=nn.Linear(4, 2),
    )
    x = torch.randn(4)
    first, back_first = by_hand.through(net.body, x.numpy(), by_hand.gamma_rule)
    second, back_second = by_hand.through(net.body, by_hand.relu(first), by_hand.gamma_rule)
    logits, back_head = by_hand.through(net.head, by_hand.relu(second), by_hand.gamma_rule)
    close(explain(net, x[None])[0], back_first(back_second(back_head(by_hand.seed(logits, 0)))))


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
        logits, back_head = by_hand.through(net.head, W @ x.numpy() + b, by_hand.gamma_rule)
        expected = by_hand.gamma_rule(x.numpy(), W, b, back_head(by_hand.seed(logits, 0)))
        close(engine.attribute(x[None], lambda logits: logits.argmax(1) * 0).relevance.numpy()[0], expected)


def test_only_weights_that_the_model_owns_are_known_by_their_identity():
    layer = nn.Linear(3, 2)
    run = Interception(RelevanceEngine(layer, GAMMA_EVERYWHERE))
    on_the_fly = layer.bias * 2
    for weight, bias, kept in ((layer.weight, layer.bias, True), (layer.weight, on_the_fly, False)):
        run.cache_for(weight, bias)["variant"] = 1
        assert ("variant" in run.cache_for(weight, bias)) == kept


# --- Heads and batches ---------------------------------------------------------------------------------------------


def test_a_one_logit_head_starts_at_the_predicted_side():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).requires_grad_(False)
    x = torch.randn(16, 4)
    logits = net(x)[:, 0]
    assert (logits > 0).any()
    assert (logits < 0).any()
    engine = RelevanceEngine(net, EPSILON_EVERYWHERE)
    found = engine.attribute(x, lambda z: (z[:, 0] > 0).long()).relevance.numpy()
    for row, sample in zip(found, x.numpy(), strict=True):
        z, back = by_hand.through(net[0], sample, by_hand.epsilon_rule)
        _, back_head = by_hand.through(net[2], by_hand.relu(z), by_hand.epsilon_rule)
        close(row, back(back_head(np.ones(1))))


def test_the_logit_can_be_the_relevance_to_start_with():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    x = torch.randn(5, 4)
    logits = net(x).numpy()
    ones = explain(net, x, 1)
    close(explain(net, x, 1, initial_relevance="logit"), ones * logits[:, 1:])
    one_logit = nn.Sequential(*net[:2], nn.Linear(3, 1)).requires_grad_(False)
    z = one_logit(x).numpy()
    # The logit of class 0 is minus the only one.
    close(explain(one_logit, x, 0, initial_relevance="logit"), explain(one_logit, x, 0) * -z)


@pytest.mark.parametrize(
    "wrap", [lambda z: (z, None), lambda z: [z], lambda z: {"logits": z}, lambda z: ((z, z), 1)]
)
def test_the_logits_are_the_first_of_what_a_model_returns(wrap):
    body = nn.Linear(4, 2)
    x = torch.randn(3, 4)
    close(explain(Net(lambda net, x: wrap(net.body(x)), body=body), x), explain(nn.Sequential(body), x))


def test_a_map_does_not_depend_on_the_batch():
    net = residual_net()
    x = torch.randn(6, 2, 4, 4)
    together = explain(net, x, composite=epsilon_gamma())
    alone = np.concatenate([explain(net, one[None], composite=epsilon_gamma()) for one in x])
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_the_memory_format_changes_nothing():
    net = residual_net()
    x = torch.randn(3, 2, 4, 4)
    plain = explain(net, x)
    last = explain(net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last))
    np.testing.assert_allclose(last, plain, rtol=1e-9, atol=1e-14)


def test_exactly_one_entry_of_a_composite_decides_each_layer():
    net = residual_net()
    composite = Composite(
        [
            (On(layer="second"), Flat()),
            (On("convolution", first=True), ZBox(-9, 9)),
            ("convolution", Gamma()),
            ("dense", Epsilon()),
        ]
    )
    notes = []
    run, *_ = RelevanceEngine(net, composite).forward(torch.randn(1, 2, 4, 4), notes)
    run.close()
    rules = {note["layer"].name: note["rule"] for note in notes if note["layer"] is not None}
    assert rules == {"first": ZBox(-9, 9), "second": Flat(), "head": Epsilon()}
