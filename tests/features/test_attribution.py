"""Attribution by a callable: what it is given, what it may return, and methods of captum in it."""

import numpy as np
import pytest
import torch
from small_nets import SmallNet, TupleNet, WithoutReuse

from skexmap.features import HeatmapTransformer


class CaptumNet(WithoutReuse, SmallNet):
    pass


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


def saliency(model, images, targets):
    """Gradient of the explained logit, as a user would write it."""
    explained = model(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(explained, images)[0]


@pytest.mark.parametrize("method, rtol", [("IntegratedGradients", 0.05), ("DeepLift", 1e-6)])
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning")
def test_a_complete_method_of_captum_sums_to_the_difference_from_black(images, method, rtol):
    attr = pytest.importorskip("captum.attr")

    def explain(model, x, targets):
        return getattr(attr, method)(model).attribute(x, target=targets)

    net = CaptumNet().double().eval()
    images = images.astype(np.float64)
    with torch.no_grad():
        logits, black = net(torch.from_numpy(images)), net(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    expected = (logits - black)[torch.arange(6), logits.argmax(1)].numpy()
    total = maps_of(net, images, attribution=explain).sum((1, 2, 3))
    np.testing.assert_allclose(total, expected, rtol=rtol, atol=0.02)


def test_a_callable_is_given_the_model_the_images_and_the_targets(images):
    def brightness(model, x, targets):
        assert x.shape == (len(targets), 3, 8, 8)
        assert x.requires_grad
        assert model(x).shape == (len(targets), 2)
        assert not model.training
        return x * targets.reshape(-1, 1, 1, 1)

    found = maps_of(TupleNet(), images, attribution=brightness)
    chosen = gradients(SmallNet(), images)[1].argmax(1).numpy()
    np.testing.assert_array_equal(found, images * chosen[:, None, None, None])


def test_a_callable_explains_the_predicted_class(images):
    found = maps_of(SmallNet(), images, attribution=saliency)
    np.testing.assert_allclose(found, gradients(SmallNet(), images)[0], rtol=1e-4, atol=1e-7)


def test_with_one_logit_relevance_for_class_0_is_the_negative_of_that_for_class_1(images):
    x, net = torch.from_numpy(images).requires_grad_(), SmallNet(1).eval()
    with torch.no_grad():
        net.head.bias -= net(x).median()
    logits = net(x)
    sign = torch.where(logits[:, 0] > 0, 1.0, -1.0)
    assert len(set(sign.tolist())) == 2
    (expected,) = torch.autograd.grad((sign * logits[:, 0]).sum(), x)
    found = maps_of(net, images, attribution=saliency)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_a_callable_may_return_one_channel(images):
    found = maps_of(SmallNet(), images, attribution=lambda model, x, targets: x.sum(1, keepdim=True))
    np.testing.assert_allclose(found[:, 0], images.sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("result", [lambda x: x[:2], lambda x: x.sum(1), lambda x: x.sum()])
def test_a_callable_that_does_not_return_a_map_per_image_is_refused(images, result):
    with pytest.raises(ValueError, match="must return one map per image, with a channel axis"):
        maps_of(SmallNet(), images, attribution=lambda model, x, targets: result(x))


def test_an_error_raised_inside_a_callable_attribution_is_passed_on_unchanged(images):
    def broken(model, x, targets):
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match=r"^no such layer$"):
        maps_of(SmallNet(), images, attribution=broken)


@pytest.mark.parametrize(
    "dtype, remedy", [("float32", "larger `epsilon`"), ("float16", 'use dtype="bfloat16" or dtype="float32"')]
)
def test_maps_that_are_not_finite_are_refused_with_a_remedy(images, dtype, remedy):
    with pytest.raises(ValueError, match=f"6 of 6 heatmaps of a batch contain NaN or infinity.*{remedy}"):
        maps_of(SmallNet(), images, dtype=dtype, attribution=lambda model, x, targets: x / 0)
