"""Normalization by the image's own statistics, whose scale is treated as a constant (AttnLRP)."""

import math

import torch

from skexmap.lrp._nodes import Normalize
from skexmap.lrp._tags import Tag
from skexmap.lrp._weighted import WEIGHTS_DEPEND, batch_norm


def layer_norm(run, call):
    """Layer-norm: its standard deviation is treated as a constant, as AttnLRP does (Achtibat et al. 2024)."""
    shape = call.argument(1, "normalized_shape")
    return _normalize(
        run, call, (-1, math.prod(shape)), call.argument(2, "weight", None), call.argument(4, "eps", 1e-5)
    )


def rms_norm(run, call):
    """RMS-norm: its root mean square is treated as a constant, as AttnLRP does."""
    x, shape = call.args[0], call.argument(1, "normalized_shape")
    eps = call.argument(3, "eps", None)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _normalize(run, call, (-1, math.prod(shape)), call.argument(2, "weight", None), eps, centred=False)


def group_norm(run, call):
    """Group-norm: like layer-norm, inside each group of channels."""
    x, groups = call.args[0], call.argument(1, "num_groups")
    scale = _per_channel(call.argument(2, "weight", None), x)
    return _normalize(run, call, (len(x), groups, -1), scale, call.argument(4, "eps", 1e-5))


def instance_norm(run, call):
    """Instance-norm: like layer-norm, inside each channel; with running statistics it is a batch-norm."""
    x = call.args[0]
    if not call.argument(5, "use_input_stats", True):
        return batch_norm(run, call)
    scale = _per_channel(call.argument(3, "weight", None), x)
    return _normalize(run, call, (len(x), x.shape[1], -1), scale, call.argument(7, "eps", 1e-5))


def _normalize(run, call, view, scale, eps, centred=True):
    if len(call.tags) > 1:
        return run.refuse(call, WEIGHTS_DEPEND)
    with torch.no_grad():
        value = call.compute()
    scale = None if scale is None else scale.detach()
    output = Normalize.apply(call.args[0], value, view, scale, eps, centred)
    run.note(call, "normalization", "scale is a constant, centring in proportion (AttnLRP)", output)
    return run.tag_all(output, Tag())


def _per_channel(weight, x):
    return None if weight is None else weight.reshape(1, -1, *[1] * (x.ndim - 2))
