"""The other attribution methods: captum's against captum itself, and callables."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skexmap.attribution import METHODS, resolve_attribution
from skexmap.features import HeatmapTransformer

sys.path.insert(0, str(Path(__file__).parent / "features"))

from small_nets import SmallNet, TupleNet


class CaptumNet(SmallNet):
    """Every activation is used once and makes a new tensor, as captum's methods need it."""

    def __init__(self, n_logits=2):
        super().__init__(n_logits)
        self.relu, self.second_relu = nn.ReLU(), nn.ReLU()

    def features(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.again(x)
        return self.second_relu(self.hidden(self.drop(self.pool(x).flatten(1))))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)


def maps_of(net, images, **parameters):
    parameters = {"size": None, "normalize": None, "evidence": "signed", **parameters}
    return HeatmapTransformer(net, **parameters).fit_transform(images).reshape(len(images), -1, 8, 8)


def gradients(net, images):
    """Gradient of the predicted logit, by hand."""
    x = torch.from_numpy(images).requires_grad_()
    net = net.eval()
    logits = net(x)
    return torch.autograd.grad(logits.amax(1).sum(), x)[0].numpy(), logits.detach()


def test_saliency_is_the_signed_gradient(images):
    pytest.importorskip("captum")
    np.testing.assert_allclose(
        maps_of(CaptumNet(), images, attribution="saliency"),
        gradients(CaptumNet(), images)[0],
        rtol=1e-4,
        atol=1e-7,
    )


def test_input_x_gradient_is_the_gradient_times_the_pixels(images):
    pytest.importorskip("captum")
    expected = gradients(CaptumNet(), images)[0] * images
    np.testing.assert_allclose(
        maps_of(CaptumNet(), images, attribution="input_x_gradient"), expected, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_a_complete_method_sums_to_the_difference_from_black(images, method):
    pytest.importorskip("captum")
    net = CaptumNet().double().eval()
    images = images.astype(np.float64)
    with torch.no_grad():
        logits, black = net(torch.from_numpy(images)), net(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    chosen = logits.argmax(1)
    expected = (logits - black)[torch.arange(6), chosen].numpy()
    total = maps_of(net, images, attribution=method).sum((1, 2, 3))
    np.testing.assert_allclose(
        total, expected, rtol=0.05 if method == "integrated_gradients" else 1e-6, atol=0.02
    )


def test_grad_cam_weighs_the_last_convolution_by_its_mean_gradient(images):
    pytest.importorskip("captum")
    net = CaptumNet().eval()
    x = torch.from_numpy(images)
    y = net.relu(net.norm(net.conv(x)))
    last = net.again(y)
    logits = net.head(net.second_relu(net.hidden(net.pool(y + last).flatten(1))))
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), last)
    expected = (gradient.mean((2, 3), keepdim=True) * last).sum(1, keepdim=True).detach().numpy()
    found = maps_of(net, images, attribution="grad_cam")
    assert found.shape == (6, 1, 8, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_occlusion_is_zero_where_the_model_does_not_look(images):
    pytest.importorskip("captum")
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    weight = torch.zeros(2, 3, 8, 8)
    weight[1, :, 2:4, 2:4] = 1
    net[1].weight.data = weight.reshape(2, -1)
    found = maps_of(net, images, attribution="occlusion", target=1)
    assert np.abs(found[:, :, 2:4, 2:4]).min() > 0
    np.testing.assert_allclose(found[:, :, 6:], 0, atol=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"lrp"}))
def test_every_method_gives_finite_maps_the_same_every_time(images, method):
    pytest.importorskip("captum")
    net = CaptumNet(3)
    first = maps_of(net, images, attribution=method)
    torch.rand(1), np.random.rand(1)  # noqa: NPY002
    np.testing.assert_array_equal(maps_of(net, images, attribution=method), first)
    assert np.isfinite(first).all()
    assert np.abs(first).max() > 0


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion"])
def test_methods_follow_the_target_and_take_tuples_and_one_logit(images, method):
    pytest.importorskip("captum")
    one, two = (maps_of(CaptumNet(), images, attribution=method, target=target) for target in (0, 1))
    assert not np.allclose(one, two)
    np.testing.assert_allclose(
        maps_of(TupleNet(), images, attribution=method), maps_of(SmallNet(), images, attribution=method)
    )
    # The only logit speaks for class 1; what speaks for class 0 is its negative.
    zero, one = (maps_of(CaptumNet(1), images, attribution=method, target=target) for target in (0, 1))
    np.testing.assert_allclose(zero, -one, atol=1e-7)


def test_grad_cam_needs_a_convolution():
    pytest.importorskip("captum")
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ValueError, match="Grad-CAM needs a convolution"):
        HeatmapTransformer(net, attribution="grad_cam").fit(np.zeros((4, 3, 8, 8), np.float32))


def test_the_noise_of_gradient_shap_leaves_the_users_generators_alone(images):
    pytest.importorskip("captum")
    net = CaptumNet()
    of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    maps_of(net, images, attribution="gradient_shap")
    assert torch.equal(torch.get_rng_state(), of_torch)
    np.testing.assert_array_equal(np.random.get_state()[1], of_numpy[1])  # noqa: NPY002


def test_a_callable_is_given_the_model_the_images_and_the_targets(images):
    def brightness(model, x, targets):
        assert x.shape == (len(targets), 3, 8, 8)
        assert model(x).shape == (len(targets), 2)
        assert not model.training
        return x * targets.reshape(-1, 1, 1, 1)

    found = maps_of(TupleNet(), images, attribution=brightness)
    chosen = gradients(SmallNet(), images)[1].argmax(1).numpy()
    np.testing.assert_array_equal(found, images * chosen[:, None, None, None])


def test_a_callable_may_return_one_channel(images):
    found = maps_of(SmallNet(), images, attribution=lambda model, x, targets: x.sum(1, keepdim=True))
    np.testing.assert_allclose(found[:, 0], images.sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("result", [lambda x: x[:2], lambda x: x.sum(1), lambda x: x.sum()])
def test_a_callable_that_returns_no_map_per_image_is_refused(images, result):
    with pytest.raises(ValueError, match="must return one map per image, with a channel axis"):
        maps_of(SmallNet(), images, attribution=lambda model, x, targets: result(x))


def test_an_error_of_the_callable_is_the_callables_own(images):
    def broken(model, x, targets):
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match=r"^no such layer$"):
        maps_of(SmallNet(), images, attribution=broken)


def test_maps_that_are_not_finite_are_refused(images):
    with pytest.raises(ValueError, match="6 of 6 heatmaps of a batch contain NaN or infinity"):
        maps_of(SmallNet(), images, attribution=lambda model, x, targets: x / 0)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"Unknown attribution 'lime'.*'deep_lift'.*'saliency'.*or an? .*callable"
    ):
        resolve_attribution("lime")


def test_without_captum_lrp_works_and_the_others_say_what_to_install():
    script = (
        "import sys; sys.modules['captum'] = None\n"
        "import numpy as np, torch\n"
        "from skexmap.features import HeatmapTransformer\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))\n"
        "X = np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype('float32')\n"
        "print(HeatmapTransformer(net).fit_transform(X).shape)\n"
        "try:\n"
        "    HeatmapTransformer(net, attribution='saliency').fit(X)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(4, 48)\n")
    assert "Run `pip install captum`, or use attribution='lrp'" in done.stdout
