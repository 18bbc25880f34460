"""Capture the embedding in a plain forward pass of the model."""

import threading

import torch
from torch.overrides import TorchFunctionMode

from skexmap.lrp._logits import check_finite, find_logits, first_tensor


class _DenseInputs(TorchFunctionMode):
    """Records the input and output of every dense layer that runs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "linear":
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.calls.append((args[0], weight, output))
        return output


def capture_embedding(module, images, layer=None):
    """Return the logits, the embedding and the name of the layer between them, from one forward pass."""
    with torch.no_grad():
        if layer is not None:
            return _capture_layer(module, images, layer)
        with _DenseInputs() as seen:
            logits = find_logits(module(images), len(images))
    check_finite(logits)
    for entered, weight, left in seen.calls:
        # With the same memory and size, this is the logits or a reshaped view of them.
        if left.data_ptr() == logits.data_ptr() and left.numel() == logits.numel():
            owners = [
                name for name, owner in module.named_modules() if getattr(owner, "weight", None) is weight
            ]
            # Among layers with tied weights, the head is the last one.
            return logits, entered.flatten(1), owners[-1] if owners else None
    raise ValueError(NO_HEAD)


NO_HEAD = (
    "The model's logits are not the output of a dense layer, so that there is no input of it to take as the embedding. "
    "Use EmbeddingTransformer(model, layer=...) with the name of the module whose output is the embedding."
)


def _capture_layer(module, images, layer):
    modules = dict(module.named_modules())
    if layer not in modules:
        near = [name for name in modules if name and layer.split(".")[-1] in name][:5]
        hint = (
            f" Did you mean one of {near}?" if near else f" Its top-level modules are {_top_level(module)}."
        )
        raise ValueError(f"The model has no module named {layer!r}.{hint}")
    caught = []
    thread = threading.get_ident()
    takes_input = isinstance(modules[layer], torch.nn.Linear)

    def catch(_, inputs, output):
        # The replica may also run in another thread.
        if threading.get_ident() == thread:
            caught.append(inputs[0] if takes_input else first_tensor(output))

    handle = modules[layer].register_forward_hook(catch)
    try:
        logits = find_logits(module(images), len(images))
    finally:
        handle.remove()
    if not caught:
        raise ValueError(f"The module {layer!r} did not run in the model's forward pass.")
    return logits, caught[-1].flatten(1), None


def _top_level(module):
    return [name for name, _ in module.named_children()]
