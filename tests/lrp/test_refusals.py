"""What the engine refuses rather than attributes wrong, and what its messages name."""

import pytest
import torch
import torch.nn.functional as F
from lrp_nets import Net, Scaled, check
from torch import nn

from skexmap.features import HeatmapTransformer
from skexmap.lrp import Composite, Epsilon, UnsupportedOperationError, check_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
]


def net(step):
    """Return a small net with one odd step between its layers."""
    return Net(
        lambda net, x: net.head(step(net, F.relu(net.conv(x))).flatten(1)),
        conv=nn.Conv2d(2, 3, 3, padding=1),
        other=nn.Conv2d(3, 3, 1),
        head=nn.Linear(48, 2),
    )


IMAGES = torch.rand(4, 2, 4, 4)
VECTORS = torch.rand(3, 4)
RECURRENT = nn.LSTM(4, 4)

UNSUPPORTED = {
    "exp": lambda net, x: torch.exp(x),
    "int": lambda net, x: x + (100 * x).int().float(),
    "to": lambda net, x: x + (100 * x).to(torch.int32).float(),
    "view": lambda net, x: x + x.view(torch.int32).view(torch.float32),
    "bucketize": lambda net, x: x + torch.bucketize(x, torch.arange(3.0)).float(),
    "__rpow__": lambda net, x: 2**x,
    "fft_rfft": lambda net, x: torch.fft.rfft(x).real[..., :1] + x,
    "lstm": lambda net, x: RECURRENT(x.flatten(1, 2))[0],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_operation_without_a_rule_is_named_with_its_module_and_line(name):
    message = rf"The operation '{name}'.* in '1.*' \(test_refusals.py, line \d+"
    with pytest.raises(UnsupportedOperationError, match=message):
        check(nn.Sequential(nn.Identity(), net(UNSUPPORTED[name])), IMAGES)


def _through_a_view(net, x):
    y = net.other(x)
    y[:, :1].add_(5.0)
    return y


def _into_a_part_of_a_view(net, x):
    y = net.other(x)
    y[:, :1][..., 0] = 5.0
    return y


def _into_a_constant(net, x):
    total = torch.zeros_like(x)
    total.copy_(x)
    return total + net.other(x)


def _in_autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.other(x).float()


def _in_inference_mode(net, x):
    with torch.inference_mode():
        return net.other(x)


def doubled(x: torch.Tensor):
    return x * 2


REFUSED = {
    "It rounds": [lambda net, x: torch.div(x, 0.1, rounding_mode="floor")],
    "autocast.*dtype=": [_in_autocast],
    # The second changes no value.
    "by the autograd Function 'Scaled'.*skexmap.lrp.register": [
        lambda net, x: Scaled.apply(x, 2),
        lambda net, x: Scaled.apply(x, 1),
    ],
    "use the Python module": [lambda net, x: torch.jit.script(doubled)(x)],
    "writes in place through a view": [_through_a_view, _into_a_part_of_a_view],
    "The operation 'copy'": [_into_a_constant],
    "leave out `out=`": [lambda net, x: torch.add(x, 1.0, out=torch.empty_like(x))],
    "It is random": [lambda net, x: x + torch.rand_like(x)],
    "inference_mode": [_in_inference_mode],
    "dropout.*active in evaluation mode": [
        lambda net, x: F.dropout(x, 0.5),
        lambda net, x: F.dropout2d(x, 0.5),
        lambda net, x: F.alpha_dropout(x, 0.5, True),
        lambda net, x: torch.dropout(x, 0.5, True),
        lambda net, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
    ],
    "statistics of the batch.*companions": [
        lambda net, x: nn.BatchNorm2d(3, track_running_stats=False)(x),
        lambda net, x: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True),
    ],
    "Its weights depend on the image": [
        lambda net, x: F.conv2d(x, x.mean(0, keepdim=True).expand(3, 3, 4, 4)[:, :, :1, :1]),
        lambda net, x: F.conv2d(x, net.other.weight, x.mean((0, 2, 3))),
        lambda net, x: F.linear(torch.ones(4, 4), x[0, 0]) + x,
    ],
    "bounds or weights depend on the image": [lambda net, x: torch.clamp(x, x.mean())],
}


@pytest.mark.parametrize("message, step", [(m, step) for m, steps in REFUSED.items() for step in steps])
def test_a_step_that_would_make_the_map_wrong_is_refused(message, step):
    with pytest.raises(UnsupportedOperationError, match=message):
        check(net(step), IMAGES)


@pytest.mark.parametrize(
    "end, message",
    [
        (lambda z: Scaled.apply(z, 2), "Function 'Scaled', before it reached the model's output"),
        (lambda z: torch.ones(len(z), 2), "does not depend on the images"),
    ],
)
def test_an_end_that_cannot_be_followed_is_refused(end, message):
    body = nn.Linear(4, 2)
    with pytest.raises(UnsupportedOperationError, match=message):
        check(Net(lambda net, x: end(body(x))), VECTORS)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_scripted_and_traced_submodules_are_refused(how):
    part = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval()
    part = torch.jit.script(part) if how == "script" else torch.jit.trace(part, torch.rand(1, 3, 4, 4))
    model = nn.Sequential(nn.Conv2d(2, 3, 1), part, nn.Flatten(), nn.Linear(48, 2)).eval()
    with pytest.raises(UnsupportedOperationError, match="use the Python module"):
        check(model, IMAGES)
    with pytest.raises(TypeError, match=r"Submodule '1' is scripted or traced.*original Python module"):
        HeatmapTransformer(model).fit(IMAGES)


def scripted_double(x):
    return torch.jit.script(doubled)(x)


def without_gradients(function, x):
    with torch.no_grad():
        return function(x)


@pytest.mark.parametrize("function", [scripted_double, torch.vmap(doubled)], ids=["scripted", "vmap"])
def test_what_hidden_code_computes_without_gradients_is_noticed(function):
    model = net(lambda net, x: x + without_gradients(function, x))
    message = (
        "A tensor that reached '(add|mul)' .*was computed from the images by code that is not intercepted"
    )
    with pytest.raises(UnsupportedOperationError, match=message):
        check(model, IMAGES)
    report = check_model(model, IMAGES)
    assert not report.ok
    assert "not intercepted" in report.missing[0].why


def test_what_hidden_code_computes_from_constants_is_a_constant():
    check(net(lambda net, x: x * without_gradients(scripted_double, torch.ones_like(x))), IMAGES)


def test_a_layer_without_an_entry_is_refused():
    with pytest.raises(UnsupportedOperationError, match=r"has no entry for it \(convolution\)"):
        check(net(lambda net, x: x), IMAGES, Composite([("dense", Epsilon())]))


@pytest.mark.parametrize(
    "entries, error, message",
    [
        ([], ValueError, "needs at least one entry"),
        ([("dense", "epsilon")], TypeError, "The rule for 'dense' must be a skexmap.lrp.Rule, got 'epsilon'"),
        ([("pooling", Epsilon())], ValueError, "Unknown operation 'pooling'"),
    ],
)
def test_a_composite_that_cannot_work_is_refused(entries, error, message):
    with pytest.raises(error, match=message):
        Composite(entries)


@pytest.mark.parametrize(
    "end",
    [
        lambda z: z.softmax(1),
        lambda z: z.log_softmax(1),
        lambda z: z.softmax(1).clamp(1e-6, 1),
        lambda z: z.softmax(1) * 1.0,
        lambda z: z[:, :1].sigmoid(),
        lambda z: F.hardsigmoid(z[:, :1]).flatten(1),
        lambda z: torch.cat([1 - z[:, :1].sigmoid(), z[:, :1].sigmoid()], 1),
    ],
)
def test_a_model_that_returns_probabilities_is_explained(end):
    with pytest.raises(
        ValueError, match=r"The model returns probabilities.*relevance must start at the logits"
    ):
        check(Net(lambda net, x: end(net.head(x)), head=nn.Linear(4, 2)), VECTORS)


def test_a_single_logit_between_0_and_1_is_not_a_probability():
    head = nn.Linear(4, 1)
    nn.init.constant_(head.bias, 0.5)
    nn.init.constant_(head.weight, 0.01)
    check(nn.Sequential(head), VECTORS)


def test_comparisons_and_sizes_are_not_operations():
    def step(net, x):
        mask = (x > x.mean()) & ~torch.isnan(x)
        assert x.shape[0] == len(x) == x.size(0)
        assert bool((x.argmax(1) >= 0).all())
        return torch.where(mask, x, torch.zeros_like(x)) + x.masked_fill(mask, 0.0)

    check(net(step), IMAGES)
