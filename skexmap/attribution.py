"""Attribution methods: one table from name to function; captum stands behind all but LRP and is imported late."""

import threading
import warnings

import numpy as np
import torch

from skexmap.lrp import LRP, Attribution, RelevanceEngine
from skexmap.lrp._engine import check_logits, first_output

_CAPTUM_LOCK = threading.Lock()


def lrp_engine(replica, composite):
    """Return the engine of a replica for a composite; built once."""
    key = ("lrp", composite)
    if key not in replica.extras:
        replica.extras[key] = RelevanceEngine(replica.module, composite)
    return replica.extras[key]


def _captum_method(explain):
    """Turn ``explain(captum.attr, module, images, target) -> relevance`` into an attribution method."""

    def attribute(replica, images, choose_target, **_):
        try:
            import captum.attr
        except ImportError as error:
            raise ImportError(
                "This attribution method comes from captum, which is not installed. Run `pip install captum`, or use "
                "attribution='lrp'."
            ) from error
        return explain_targets(
            replica, images, choose_target, lambda module, x, target: explain(captum.attr, module, x, target)
        )

    return attribute


def explain_targets(replica, images, choose_target, method):
    """Attribute with ``method(model, images, targets) -> relevance``.

    Parameters
    ----------
    replica : skexmap._torch.Replica
    images : tensor of shape (n, ...)
    choose_target : callable
        From logits to target classes.
    method : callable
        ``targets`` are logit indices; a one-logit model has only logit 0, and relevance for class 0 is its negative.

    Returns
    -------
    attribution : Attribution
        Without the embedding.
    """
    module = replica.module
    with torch.no_grad():
        logits = first_output(module(images))
        check_logits(logits, len(images))
        target = torch.as_tensor(choose_target(logits), device=logits.device)
    index = torch.zeros_like(target) if logits.shape[1] == 1 else target
    # Some of captum's methods hang hooks on the replica while they run, which several threads may share.
    with _CAPTUM_LOCK, torch.enable_grad(), warnings.catch_warnings():
        # It announces these hooks, and that it asks for gradients: of a copy, that is nobody's concern.
        warnings.filterwarnings(
            "ignore", "Setting (forward, )?backward hooks|Input Tensor .* did not already require"
        )
        relevance = method(_FirstOutput(module).eval(), images.detach().clone(), index)
    relevance = torch.as_tensor(relevance).detach()
    if relevance.ndim != images.ndim or len(relevance) != len(images):
        raise ValueError(
            f"The attribution method returned shape {tuple(relevance.shape)} for images of shape "
            f"{tuple(images.shape)}; it must return one map per image, with a channel axis."
        )
    if logits.shape[1] == 1:
        sign = torch.where(target == 1, 1.0, -1.0).to(relevance)
        relevance = relevance * sign.reshape(-1, *[1] * (relevance.ndim - 1))
    return Attribution(logits, relevance, None)


class _FirstOutput(torch.nn.Module):
    """Makes a model that returns a tuple return its logits, as captum expects."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return first_output(self.module(images))


def _integrated_gradients(attr, model, images, target):
    return attr.IntegratedGradients(model).attribute(images, target=target, internal_batch_size=len(images))


def _saliency(attr, model, images, target):
    return attr.Saliency(model).attribute(images.requires_grad_(), target=target, abs=False)


def _input_x_gradient(attr, model, images, target):
    return attr.InputXGradient(model).attribute(images.requires_grad_(), target=target)


def _deep_lift(attr, model, images, target):
    return attr.DeepLift(model).attribute(images.requires_grad_(), target=target)


def _guided_backprop(attr, model, images, target):
    return attr.GuidedBackprop(model).attribute(images.requires_grad_(), target=target)


def _gradient_shap(attr, model, images, target):
    # Its noise comes from the global generators of torch and NumPy: the same draw every time, and the user's states
    # left alone.
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            baselines = torch.zeros_like(images[:1])
            return attr.GradientShap(model).attribute(
                images, baselines=baselines, target=target, n_samples=20
            )
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _occlusion(attr, model, images, target):
    window = [max(1, side // 8) for side in images.shape[2:]]
    stride = [max(1, side // 2) for side in window]
    channels = images.shape[1]
    return attr.Occlusion(model).attribute(images, (channels, *window), (channels, *stride), target=target)


def _grad_cam(attr, model, images, target):
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    if not layers:
        raise ValueError(
            "Grad-CAM needs a convolution, and the model has no torch.nn.Conv2d. Use attribution='lrp'."
        )
    maps = attr.LayerGradCam(model, layers[-1]).attribute(images, target=target)
    return attr.LayerAttribution.interpolate(maps, tuple(images.shape[2:]), "bilinear")


# Name -> method, besides "lrp".
METHODS = {
    "integrated_gradients": _captum_method(_integrated_gradients),
    "grad_cam": _captum_method(_grad_cam),
    "saliency": _captum_method(_saliency),
    "input_x_gradient": _captum_method(_input_x_gradient),
    "deep_lift": _captum_method(_deep_lift),
    "gradient_shap": _captum_method(_gradient_shap),
    "guided_backprop": _captum_method(_guided_backprop),
    "occlusion": _captum_method(_occlusion),
}


def as_lrp(attribution):
    """Return the LRP settings that an `attribution` parameter stands for; None if it is another method."""
    if isinstance(attribution, str) and attribution == "lrp":
        return LRP()
    return attribution if isinstance(attribution, LRP) else None


def resolve_attribution(attribution):
    """Return ``(replica, images, choose_target) -> Attribution`` for an `attribution` parameter."""
    lrp = as_lrp(attribution)
    if lrp is not None:
        composite = lrp.resolved()
        return lambda replica, images, choose: lrp_engine(replica, composite).attribute(
            images, choose, lrp.start, lrp.layer
        )
    if callable(attribution):
        return lambda replica, images, choose: explain_targets(replica, images, choose, attribution)
    if attribution not in METHODS:
        raise ValueError(
            f"Unknown attribution {attribution!r}. Choose from {sorted(['lrp', *METHODS])}, or pass an LRP(...) or a "
            "callable `(model, images, targets) -> relevance`."
        )
    return METHODS[attribution]
