"""Rules that a user declares: what the inputs of a step get, computed by hand."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
from lrp_by_hand import epsilon_rule
from lrp_nets import EPSILON_EVERYWHERE, Net, Scaled, check, close, explain
from torch import nn

from skexmap.lrp import UnsupportedOperationError, register
from skexmap.lrp._registry import declared_rules

pytestmark = pytest.mark.usefixtures("double_precision")


class Swish(torch.autograd.Function):
    """An activation whose operations are not intercepted."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * gate * (1 + x * (1 - gate))


class Sorted(nn.Module):
    """A module with an operation that has no rule."""

    def forward(self, x, other=None):
        return (x if other is None else x + other).sort(-1)[0]


class Mixed(nn.Module):
    """A linear module that returns a tuple."""

    def forward(self, x):
        return x.flip(-1).cumsum(-1) * 2, None


def exponential(x):
    return torch.exp(x)


swish = Swish.apply


def net_with(step):
    return Net(lambda net, x: net.head(step(net.body(x))), body=nn.Linear(4, 3), head=nn.Linear(3, 2))


def by_matrices(net, x, step, share):
    """Return the relevance of x for logit 0; `share` takes the step's input, output and relevance."""
    z, back = by_hand.through(net.body, x, epsilon_rule)
    R = by_hand.chain(step(z), (net.head, epsilon_rule))
    return back(share(z, step(z), R))


X = torch.linspace(-1, 2, 8, dtype=torch.float64).reshape(2, 4)
passed_on = by_hand.on_arrays(lambda z: z * torch.sigmoid(z)), lambda z, y, R: R


@pytest.mark.parametrize(
    "declared, call, by_hand_step",
    [
        (Swish, lambda z: swish(z), passed_on),
        (Swish, lambda z: Swish.apply(z), passed_on),
        (exponential, lambda z: exponential(z), (np.exp, passed_on[1])),
        (torch.exp, lambda z: z.exp(), (np.exp, passed_on[1])),
        (nn.SiLU, nn.SiLU(), passed_on),
    ],
    ids=["named in a module", "looked up", "Python function", "torch function", "module"],
)
def test_pass_keeps_relevance_at_the_same_position(declared, call, by_hand_step):
    net = net_with(call)
    with register(declared, "pass"):
        found = explain(net, X, composite=EPSILON_EVERYWHERE)
    close(found, [by_matrices(net, x, *by_hand_step) for x in X.numpy()])


def test_gradient_shares_in_proportion_through_a_linear_step():
    net = net_with(lambda z: Mixed()(z)[0])
    W = 2 * np.tril(np.ones((3, 3)))[:, ::-1]
    with register(Mixed, "gradient"):
        found = explain(net, X, composite=EPSILON_EVERYWHERE)
    expected = [
        by_matrices(net, x, lambda z: W @ z, lambda z, y, R: (W * z).T @ (R / (W @ z))) for x in X.numpy()
    ]
    close(found, expected)


def test_a_callable_says_what_each_input_gets():
    net = net_with(lambda z: Sorted()(z, other=2 * z))

    def thirds(inputs, output, relevance):
        order = inputs[0].argsort(-1)
        to_places = torch.zeros_like(relevance).scatter(-1, order, relevance)
        return to_places / 3, to_places * 2 / 3

    with register(Sorted, thirds):
        found = explain(net, X, composite=EPSILON_EVERYWHERE)

    def share(z, y, R):
        return R[np.argsort(np.argsort(z))]

    close(found, [by_matrices(net, x, lambda z: np.sort(3 * z), share) for x in X.numpy()])


def test_a_registration_lasts_until_it_is_undone():
    net = net_with(lambda z: exponential(swish(Swish.apply(z))))
    before = vars(Swish).keys(), swish, exponential, nn.SiLU.forward
    handles = [register(step, "pass") for step in (Swish, exponential, nn.SiLU)]
    check(net, X)
    z = X.clone().requires_grad_()
    torch.testing.assert_close(*(torch.autograd.grad(f(z).sum(), z) for f in (Swish.apply, nn.SiLU())))
    for handle in handles:
        handle.close()
    assert (vars(Swish).keys(), swish, exponential, nn.SiLU.forward) == before
    with pytest.raises(UnsupportedOperationError, match="autograd Function 'Swish'"):
        check(net, X)


def test_the_declared_rules_are_those_that_are_registered_now():
    assert declared_rules() == {}
    with register(torch.exp, "pass"), register(exponential, wrong_shape):
        assert declared_rules() == {"exp": "pass", f"{__name__}.exponential": wrong_shape}
    assert declared_rules() == {}


def test_an_apply_that_was_saved_before_is_named():
    saved = [Swish.apply]
    with register(Swish, "pass"), pytest.raises(UnsupportedOperationError, match="looked up before that"):
        check(net_with(saved[0]), X)


def wrong_shape(inputs, output, relevance):
    return relevance[:, :1]


@pytest.mark.parametrize(
    "step, rule, call, message",
    [
        (Sorted, "pass", lambda z: Sorted()(z, z), r'"pass" needs one input .*\[\(2, 3\), \(2, 3\)\]'),
        (Sorted, "pass", lambda z: Sorted()(z[:, :1]).expand(-1, 3).exp(), "'exp' has no relevance rule"),
        (nn.Flatten, "pass", lambda z: nn.Flatten()(z.unflatten(1, (1, 3))), "shape of the output"),
        (Sorted, wrong_shape, Sorted(), r"wrong_shape|returned relevance of shapes \[\(2, 1\)\]"),
        (nn.RNN, "pass", lambda z: nn.RNN(3, 3)(z)[0], "needs one output, not 2"),
        (nn.ReLU, "pass", nn.ReLU(inplace=True), "changes its input in place"),
        (Scaled, "gradients", None, '"pass", "gradient" or a callable'),
        (3, "pass", None, "must be a subclass"),
    ],
)
def test_a_registration_that_cannot_work_is_explained(step, rule, call, message):
    with (
        pytest.raises((UnsupportedOperationError, ValueError, TypeError), match=message),
        register(step, rule),
    ):
        explain(net_with(call), X)
