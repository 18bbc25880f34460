"""Capture the embedding in a plain forward pass of the model."""

from collections import deque
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from skexmap._torch import HALF
from skexmap.lrp._engine import calls_of, last_call
from skexmap.lrp._logits import check_finite, find_logits, first_tensor, first_was_taken

DENSE = {"linear", "matmul", "__matmul__", "mm", "conv2d"}
# A model's last layers are among the last dense layers that run. Older calls are dropped, to free their tensors.
N_LAST_CALLS = 8
# Fewer images, or outputs that differ by less than this share of the largest, cannot show that logits follow a line.
MIN_IMAGES = 3
MIN_DEVIATION = 1e-4
# Largest distance from that line, as a share of the logits' standard deviation.
MAX_DISTANCE = 1e-2


@dataclass
class Head:
    """The dense layers whose mean output, times `scale` plus `shift` for each logit, is the logits.

    Attributes
    ----------
    names : tuple of str or None
        Names of the layers; None for a layer whose weight no module owns.
    scale, shift : ndarray of shape (n_logits,), float64
    fault : str
        Why these layers cannot get other weights; empty if they can.
    """

    names: tuple
    scale: np.ndarray
    shift: np.ndarray
    fault: str = ""

    @property
    def name(self):
        """The name of the layer; the names, if there are two."""
        return self.names if len(self.names) > 1 else self.names[0]


class _DenseCalls(TorchFunctionMode):
    """Records the last calls of dense layers, and of convolutions."""

    def __init__(self):
        super().__init__()
        self.calls = deque(maxlen=N_LAST_CALLS)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DENSE:
            self.calls.append((func, args, kwargs))
        return func(*args, **kwargs)


def find_head(module, images, head=None):
    """Return the logits, the embedding and the `Head` between them, from one forward pass; None if there is no head."""
    # With the head that was found in `fit`, the relation to the logits must be the same.
    with torch.no_grad():
        with _DenseCalls() as seen:
            logits = find_logits(module(images), len(images))
        check_finite(logits)
        readings = [reading for call in reversed(seen.calls) for reading in _readings(*call, logits.shape)]
    is_half = logits.dtype in HALF
    if head is None:
        # Half precision is too coarse to learn a scale from.
        relations = [_same] if is_half else [_same, _line]
    else:
        relations = [lambda *_: (head.scale, head.shift)]
    groups = [(reading,) for reading in readings] + list(combinations(readings[::-1], 2))
    values = logits.double().cpu().numpy()
    for relation in relations:
        for group in groups:
            outputs = np.mean([output.double().cpu().numpy() for _, _, output in group], axis=0)
            scale, shift = relation(outputs, values)
            difference = np.abs(scale * outputs + shift - values).max()
            if difference <= (0.02 if is_half else 1e-4) * np.abs(values).max():
                found = Head(tuple(_owner(module, weight) for weight, _, _ in group), scale, shift)
                embedding = _joined([entered for _, entered, _ in group])
                if head is None:
                    found.fault = _fault(module, images, found, embedding)
                return logits, embedding, found
    return logits, None, None


def _fault(module, images, head, embedding):
    """Say why a head cannot get other weights: other weights must give other logits, and change nothing else."""
    if None in head.names:
        return "There is no layer to put the retrained weights into: its weight is computed from others."
    layers = [module.get_submodule(name) for name in head.names]
    if any("weight" not in layer._parameters for layer in layers):
        return (
            "The weight of the last layer is computed from others (weight normalization, or another parametrization). "
            "Remove that first, for example with torch.nn.utils.remove_weight_norm."
        )
    if not head.scale.all():
        return (
            f"{int((head.scale == 0).sum())} of {len(head.scale)} logits of the model are the same for all images, "
            "regardless of its last layer. Remove the step after that layer that overwrites them."
        )
    rng = np.random.RandomState(0)
    values = embedding.double().cpu().numpy()
    weight = rng.normal(size=(len(head.scale), values.shape[1])) / np.maximum(
        np.abs(values).sum(1).max(), 1e-12
    )
    bias = rng.normal(size=len(weight)) if all(layer.bias is not None for layer in layers) else head.shift * 0
    before = [(layer.weight, layer.bias) for layer in layers]
    try:
        set_head_weights(module, head, weight, bias)
        with torch.no_grad():
            logits = find_logits(module(images), len(images)).double().cpu().numpy()
    finally:
        for layer, (old_weight, old_bias) in zip(layers, before, strict=True):
            layer.weight, layer.bias = old_weight, old_bias
    expected = values @ weight.T + bias
    tolerance = 0.05 if embedding.dtype in HALF else 1e-3
    if np.abs(logits - expected).max() <= tolerance * np.abs(expected).max():
        return ""
    return (
        f"The model uses the weights of its last layer ({', '.join(map(repr, dict.fromkeys(head.names)))}) more than "
        "once, or elsewhere, so it would not use the retrained weights as it uses these."
    )


def set_head_weights(model, head, weight, bias):
    """Give the layers of a head weights with which a model's logits are ``embedding @ weight.T + bias``."""
    # The logits are the output of the layers times `scale` plus `shift`.
    weight, bias = weight / head.scale[:, np.newaxis], (bias - head.shift) / head.scale
    layers = [model.get_submodule(name) for name in head.names]
    for layer, part in zip(layers, _parts_of_weight(weight, layers), strict=True):
        # Make new parameters instead of new values, because changing a tied weight would change the other layer.
        old_bias = layer.weight if layer.bias is None else layer.bias
        has_bias = layer.bias is not None or np.any(bias)
        layer.weight = _parameter_like(layer.weight, part.reshape(layer.weight.shape))
        if has_bias:
            layer.bias = _parameter_like(old_bias, bias)


def _parts_of_weight(weight, layers):
    """Return the weight of each layer of a head; the output of the head is the mean of theirs."""
    sizes = [layer.weight[0].numel() for layer in layers]
    if all(size == weight.shape[1] for size in sizes):
        # A single layer, or layers that read the same features.
        return [weight] * len(layers)
    if sum(sizes) != weight.shape[1]:
        raise ValueError(
            f"The last step was fitted on {weight.shape[1]} features, but the model's last layer takes {sum(sizes)}. "
            "It must be fitted on the embeddings themselves (HeatmapTransformer with `return_embedding=True`, or "
            "EmbeddingTransformer)."
        )
    return np.split(weight * len(layers), np.cumsum(sizes)[:-1], axis=1)


def _parameter_like(old, values):
    """Return values as a parameter with the type, device and `requires_grad` of another."""
    return torch.nn.Parameter(
        torch.as_tensor(values).to(device=old.device, dtype=old.dtype), requires_grad=old.requires_grad
    )


def capture_embedding(module, images, head):
    """Return the logits and the embedding, by a head that was found in `fit`."""
    logits, embedding, found = find_head(module, images, head)
    if found is None:
        raise no_head(module, images)
    return logits, embedding


def refuse_features_as_logits(module, images):
    """Raise ValueError if a model returns, in a tuple, the input of its last dense layer before the output of it."""
    with torch.no_grad(), _DenseCalls() as seen:
        output = module(images)
    first = first_tensor(output)
    others = [values for values in output if isinstance(values, torch.Tensor) and values is not first]
    for func, args, kwargs in seen.calls:
        x = args[0] if args else kwargs["input"]
        if x.shape != first.shape or x.data_ptr() != first.data_ptr():
            continue
        computed = func(*args, **kwargs)
        # A layer that keeps the number of values may correct logits.
        if computed.shape != first.shape and any(
            values.shape == computed.shape and torch.equal(values, computed) for values in others
        ):
            raise ValueError(
                f"The first tensor that the model returns, of shape {tuple(first.shape)}, is the input of the dense "
                f"layer that computes another one: it is features, not logits. {first_was_taken(output)}"
            )


def _readings(func, args, kwargs, shape):
    """Yield weight, input and output of a dense layer, if its output may be the logits: at one place, or their mean."""
    x = args[0] if args else kwargs["input"]
    weight = args[1] if len(args) > 1 else kwargs["other" if "other" in kwargs else "weight"]
    n, n_logits = shape
    if len(x) != n or n_logits not in weight.shape[:2] or weight.ndim != (4 if x.ndim == 4 else 2):
        return
    # Compute the output again, because the model may have written to it since.
    output = func(*args, **kwargs)
    if func.__name__ == "conv2d":
        if weight.shape[2:] != (1, 1) or weight.shape[1] != x.shape[1] or x.shape[2:] != output.shape[2:]:
            return
        x, output = x.flatten(2).transpose(1, 2), output.flatten(2).transpose(1, 2)
    x, output = x.reshape(n, -1, x.shape[-1]), output.reshape(n, -1, output.shape[-1])
    if output.shape[2] != n_logits:
        return
    yield weight, x[:, 0], output[:, 0]
    if x.shape[1] > 1:
        yield weight, x.mean(1), output.mean(1)


def _same(outputs, logits):
    return np.ones(logits.shape[1]), np.zeros(logits.shape[1])


def _line(outputs, logits):
    """Return the scale and shift of each logit by least squares; NaN if the logits do not follow a line."""
    deviations = outputs - outputs.mean(0)
    if len(logits) < MIN_IMAGES or (deviations.std(0) < MIN_DEVIATION * np.abs(outputs).max()).any():
        return np.nan, np.nan
    scale = (deviations * logits).sum(0) / (deviations**2).sum(0)
    shift = logits.mean(0) - scale * outputs.mean(0)
    distance = np.abs(scale * outputs + shift - logits).max(0)
    # A curve looks like a line if the images differ little.
    is_line = (distance <= MAX_DISTANCE * logits.std(0) + 1e-6 * np.abs(logits).max(0)).all()
    return (scale, shift) if is_line else (np.nan, np.nan)


def _owner(module, weight):
    """Return the name of the module with this weight; the last one of those with tied weights."""
    owners = [name for name, owner in module.named_modules() if getattr(owner, "weight", None) is weight]
    return owners[-1] if owners else None


def _joined(inputs):
    """Return the inputs of the head's layers side by side, and an input that they share once."""
    different = {values.data_ptr(): values for values in inputs}
    return torch.cat(list(different.values()), 1)


def no_head(module, images):
    """Return the error for a model without a `Head`."""
    with torch.no_grad():
        reasons = [first_was_taken(module(images))]
    if len(images) < MIN_IMAGES:
        reasons.append(
            f"These are too few images ({len(images)}) to see a scale or shift: that takes {MIN_IMAGES} that differ."
        )
    layers = [
        name for name, part in module.named_modules() if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    before = f" that comes before its last layer, {layers[-1]!r}" if layers else ""
    return ValueError(
        "The model's logits are not the output of a dense layer (scaled and shifted at most), whose input would be "
        "the embedding. Use EmbeddingTransformer(model, layer=...) with the name of the module "
        f"whose output is the embedding, for example one{before}. {' '.join(reasons)}".rstrip()
    )


def capture_layer(module, images, layer):
    """Return the flattened output of a named module, or the input if that is a dense layer."""
    with calls_of(module, layer) as calls, torch.no_grad():
        module(images)
    inputs, output = last_call(calls, layer)
    takes_input = isinstance(module.get_submodule(layer), torch.nn.Linear)
    return (inputs[0] if takes_input else first_tensor(output)).flatten(1)
