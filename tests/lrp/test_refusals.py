"""What the engine refuses rather than attributes wrong, and what its messages name."""

import pytest
import torch
import torch.nn.functional as F
from test_networks import Net
from torch import nn

from skexmap.features import HeatmapTransformer
from skexmap.lrp import Composite, Epsilon, RelevanceEngine, UnsupportedOperationError, epsilon_gamma

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def net(step):
    """Return a small net with one odd step between its layers."""
    return Net(
        lambda net, x: net.head(step(net, F.relu(net.conv(x))).flatten(1)),
        conv=nn.Conv2d(2, 3, 3, padding=1),
        other=nn.Conv2d(3, 3, 1),
        head=nn.Linear(48, 2),
    )


def check(model, composite=None):
    x = torch.rand(4, 2, 4, 4)
    RelevanceEngine(model, composite or epsilon_gamma()).check(x)


class Doubled(torch.autograd.Function):
    """A custom function, invisible to interception."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


RECURRENT = nn.LSTM(4, 4)

UNSUPPORTED = {
    "exp": lambda net, x: torch.exp(x),
    "pow": lambda net, x: x**2,
    "sort": lambda net, x: x.sort(-1)[0],
    "fft_rfft": lambda net, x: torch.fft.rfft(x).real[..., :1] + x,
    "detach": lambda net, x: x.detach(),
    "numpy": lambda net, x: torch.from_numpy(x.detach().numpy()) + x,
    "setitem": lambda net, x: x.__setitem__((slice(None), 0), 0.0) or x,
    "norm": lambda net, x: x / x.norm(),
    "cdist": lambda net, x: torch.cdist(x, x),
    "lstm": lambda net, x: RECURRENT(x.flatten(1, 2))[0],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_operation_without_a_rule_is_named_with_its_place(name):
    named = "detach" if name == "numpy" else name
    with pytest.raises(
        UnsupportedOperationError, match=rf"The operation '{named}'.*test_refusals.py, line \d+"
    ):
        check(net(UNSUPPORTED[name]))


def test_the_message_names_the_module():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.exp(x)

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), Odd()), nn.Linear(3, 2))
    with pytest.raises(UnsupportedOperationError, match=r"in '1\.1' \(test_refusals\.py, line"):
        RelevanceEngine(model, epsilon_gamma()).check(torch.rand(2, 3))


def test_a_product_by_the_inverse_of_an_activation_is_refused():
    with pytest.raises(UnsupportedOperationError, match="divides by a value that depends on the image"):
        check(net(lambda net, x: x / (x + 1)))


def test_a_custom_autograd_function_is_refused():
    with pytest.raises(UnsupportedOperationError, match="made by Doubled"):
        check(net(lambda net, x: Doubled.apply(x)))


def test_a_custom_autograd_function_at_the_end_is_refused():
    body = nn.Linear(4, 2)
    with pytest.raises(UnsupportedOperationError, match=r"made by Doubled.*the model's output"):
        RelevanceEngine(Net(lambda net, x: Doubled.apply(body(x))), epsilon_gamma()).check(torch.rand(2, 4))


@pytest.mark.parametrize("how", ["script", "trace"])
def test_scripted_and_traced_submodules_are_refused(how):
    part = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval()
    part = torch.jit.script(part) if how == "script" else torch.jit.trace(part, torch.rand(1, 3, 4, 4))
    model = nn.Sequential(nn.Conv2d(2, 3, 1), part, nn.Flatten(), nn.Linear(48, 2)).eval()
    with pytest.raises(UnsupportedOperationError, match="which can't be intercepted"):
        check(model)
    with pytest.raises(TypeError, match=r"Submodule '1' is scripted or traced.*original Python module"):
        HeatmapTransformer(model).fit(torch.rand(4, 2, 4, 4))


def test_a_scripted_function_is_refused():
    @torch.jit.script
    def scale(x: torch.Tensor):
        return x * 2

    with pytest.raises(UnsupportedOperationError, match="which can't be intercepted"):
        check(net(lambda net, x: scale(x)))


def test_compiled_submodules_are_refused():
    part = torch.compile(nn.Conv2d(2, 3, 1), backend="eager")
    model = nn.Sequential(part, nn.Flatten(), nn.Linear(48, 2)).eval()
    with pytest.raises(TypeError, match=r"Submodule '0' is compiled.*`compiled\._orig_mod`"):
        HeatmapTransformer(model).fit(torch.rand(4, 2, 4, 4))
    in_place = nn.Sequential(nn.Flatten(), nn.Linear(32, 2)).eval()
    in_place.compile(backend="eager")
    with pytest.raises(TypeError, match="The model is compiled in place"):
        HeatmapTransformer(in_place).fit(torch.rand(4, 2, 4, 4))


def test_an_ignored_in_place_result_through_a_view_is_refused():
    def step(net, x):
        y = net.other(x)
        y[:, :1].add_(5.0)
        return y

    with pytest.raises(UnsupportedOperationError, match="writes in place through a view"):
        check(net(step))


def test_an_ignored_write_into_a_constant_is_refused():
    def step(net, x):
        total = torch.zeros_like(x)
        total.copy_(x)
        return total + net.other(x)

    with pytest.raises(UnsupportedOperationError, match="The operation 'copy'"):
        check(net(step))


def test_writing_into_a_given_tensor_is_refused():
    with pytest.raises(UnsupportedOperationError, match=r"writes into a given tensor \(`out=`\)"):
        check(net(lambda net, x: torch.add(x, 1.0, out=torch.empty_like(x))))


@pytest.mark.parametrize(
    "drop",
    [
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout2d(x, 0.5),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: F.alpha_dropout(x, 0.5, True),
    ],
)
def test_active_dropout_is_refused(drop):
    with pytest.raises(UnsupportedOperationError, match=r"dropout.*active in evaluation mode"):
        check(net(lambda net, x: drop(x)))


@pytest.mark.parametrize("drop", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()])
def test_dropout_modules_are_silent_in_evaluation_mode(drop):
    check(net(lambda net, x: drop.eval()(x)))


def test_attention_with_active_dropout_is_refused():
    with pytest.raises(UnsupportedOperationError, match="dropout is active"):
        check(net(lambda net, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)))


def test_noise_is_refused():
    with pytest.raises(UnsupportedOperationError, match="It is random"):
        check(net(lambda net, x: x + torch.rand_like(x)))


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        lambda: lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True),
    ],
)
def test_batch_statistics_are_refused(norm):
    norm = norm()
    with pytest.raises(UnsupportedOperationError, match=r"statistics of the batch.*companions"):
        check(net(lambda net, x: norm(x)))


def test_weights_that_depend_on_the_image_are_refused():
    with pytest.raises(UnsupportedOperationError, match="Its weights depend on the image"):
        check(net(lambda net, x: F.conv2d(x, x.mean(0, keepdim=True).expand(3, 3, 4, 4)[:, :, :1, :1])))
    with pytest.raises(UnsupportedOperationError, match="Its weights depend on the image"):
        check(net(lambda net, x: F.linear(torch.ones(4, 4), x[0, 0]) + x))
    with pytest.raises(UnsupportedOperationError, match="Its weights depend on the image"):
        check(net(lambda net, x: F.conv2d(x, net.other.weight, x.mean((0, 2, 3)))))
    with pytest.raises(UnsupportedOperationError, match="bounds or weights depend on the image"):
        check(net(lambda net, x: torch.clamp(x, x.mean())))


def test_inference_mode_inside_the_model_is_refused():
    def step(net, x):
        with torch.inference_mode():
            return net.other(x)

    with pytest.raises(UnsupportedOperationError, match="inference_mode"):
        check(net(step))


def test_a_model_that_ignores_its_images_is_refused():
    weight = torch.ones(2)
    with pytest.raises(UnsupportedOperationError, match="does not depend on the images"):
        RelevanceEngine(Net(lambda net, x: weight.expand(len(x), 2)), epsilon_gamma()).check(torch.rand(2, 4))


def test_a_layer_without_an_entry_is_refused():
    with pytest.raises(
        UnsupportedOperationError, match=r"composite 'custom' has no entry for it \(convolution\)"
    ):
        check(net(lambda net, x: x), Composite([("dense", Epsilon())]))


@pytest.mark.parametrize(
    "end, named",
    [
        (nn.Softmax(1), "softmax"),
        (nn.LogSoftmax(1), "log-softmax"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Hardsigmoid(), "sigmoid"),
        (nn.Sequential(nn.Softmax(1), nn.Flatten()), "softmax"),
    ],
)
def test_a_model_that_ends_in_probabilities_is_explained(end, named):
    model = nn.Sequential(nn.Linear(4, 2), end)
    with pytest.raises(ValueError, match=f"The model ends in a {named}: relevance must start at the logits"):
        RelevanceEngine(model, epsilon_gamma()).check(torch.rand(3, 4))


@pytest.mark.parametrize(
    "output, message",
    [
        (lambda z: z[:, 0], r"it returned \(3,\) for 3 images\. Return `logits\.unsqueeze\(1\)`"),
        (lambda z: z.sum(), r"it returned \(\) for 3 images"),
        (lambda z: z[:2], r"it returned \(2, 2\) for 3 images"),
        (lambda z: z[..., None], r"it returned \(3, 2, 1\)"),
        (lambda z: z * torch.inf, "NaN or infinite logits for 3 of 3 images"),
    ],
)
def test_logits_of_the_wrong_shape_are_explained(output, message):
    body = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=message):
        RelevanceEngine(Net(lambda net, x: output(body(x))), epsilon_gamma()).check(torch.rand(3, 4))


@pytest.mark.parametrize("output", [lambda z: None, lambda z: {"scores": z}, lambda z: ()])
def test_a_model_that_returns_no_logits_is_explained(output):
    body = nn.Linear(4, 2)
    with pytest.raises(TypeError, match="not logits: it must return a tensor of shape"):
        RelevanceEngine(Net(lambda net, x: output(body(x))), epsilon_gamma()).check(torch.rand(3, 4))


def test_comparisons_and_sizes_are_no_operations():
    def step(net, x):
        mask = (x > x.mean()) & ~torch.isnan(x)
        assert x.shape[0] == len(x) == x.size(0)
        assert bool((x.argmax(1) >= 0).all())
        return torch.where(mask, x, torch.zeros_like(x)) + x.masked_fill(mask, 0.0)

    check(net(step))


def test_a_hidden_step_is_refused_even_when_it_changes_no_value():
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * 0

    with pytest.raises(UnsupportedOperationError, match="made by Same"):
        check(net(lambda net, x: Same.apply(x)))
