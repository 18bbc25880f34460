"""The relevance engine: one traced forward pass, one backward pass, and the relevance of every pixel."""

import contextlib
from dataclasses import dataclass

import torch

from skexmap.lrp._initial_relevance import initial_coefficient, within_range, without_residue
from skexmap.lrp._logits import check_finite, find_logits, first_tensor, logits_differ, probabilities
from skexmap.lrp._rules import away_from_zero
from skexmap.lrp._tags import tag_of
from skexmap.lrp._tracer import REMEDY, Tracer, UnsupportedOperationError
from skexmap.lrp._weight_cache import WeightCache

HIDDEN = (
    "A tensor that reached {} was computed from the images by code that is not intercepted (a scripted function, "
    "torch.vmap or an extension inside `torch.no_grad()`), so its part of the relevance would be lost. "
    + REMEDY
)


@dataclass
class Attribution:
    """Result of one pass of the engine.

    Attributes
    ----------
    logits : tensor of shape (n, n_logits)
    relevance : tensor of the shape of the images
        In the type of the logits, or in float32 for float16 logits, because float16 cannot hold it.
    embedding : tensor of shape (n, n_features) or None
        Input of the dense layer that outputs the logits; None if there is no such layer.
    """

    logits: torch.Tensor
    relevance: torch.Tensor
    embedding: torch.Tensor | None


class RelevanceEngine:
    """Layer-wise relevance propagation through a model in evaluation mode, which is never changed.

    The weight variants that the rules of the composite need are computed once and cached.
    """

    def __init__(self, model, composite):
        self.model = model
        self.composite = composite
        self._weights = WeightCache(model)

    def attribute(self, images, choose_target, initial_relevance="one", layer=None):
        """Return the `Attribution` of one logit per image, whose index `choose_target` returns for given logits."""
        # `layer` is where the propagation stops.
        watch = contextlib.nullcontext() if layer is None else calls_of(self.model, layer)
        with watch as calls, self.traced(images) as (tracer, leaf, logits):
            detached = logits.detach()
            with torch.no_grad():
                initial = initial_coefficient(detached, choose_target(detached), initial_relevance)
                initial, unit = within_range(initial, detached.dtype)
            end = leaf if layer is None else _end_of_propagation(tracer, calls, layer)
            (coefficient,) = torch.autograd.grad(logits, end, initial)
            relevance = without_residue(coefficient * away_from_zero(end.detach()), end.detach())
            if unit is not None:
                relevance = relevance.float() * unit.reshape(-1, *[1] * (relevance.ndim - 1))
            embedding = tag_of(logits).dense_input
        return Attribution(detached, relevance, embedding)

    def check(self, images):
        """Raise if the model cannot be attributed on these images."""
        with torch.no_grad():
            plain = find_logits(self.model(images), len(images))
        check_finite(plain)
        with self.traced(images, constants=[]) as (tracer, _, logits):
            if probabilities(logits):
                raise ValueError(probabilities(logits))
            # They differ if values are changed where nothing is intercepted.
            difference = logits_differ(logits.detach(), plain)
            difference = difference or self.hidden_computation(images, tracer.constants)
            if difference:
                raise UnsupportedOperationError(difference)

    def hidden_computation(self, images, constants):
        """Describe one of the constants of a pass on images that other images change; empty if there is none."""
        with self.traced(images.flip(-1), constants=[]) as (tracer, _, _):
            others = tracer.constants
        if len(constants) == len(others):
            for (where, values), (_, other) in zip(constants, others, strict=True):
                if not (values is other or _is_same(values, other)):
                    return HIDDEN.format(where)
        return ""

    @contextlib.contextmanager
    def traced(self, images, notes=None, constants=None):
        """Trace a forward pass; yield the tracer, the images as a leaf of the graph, and the logits."""
        tracer = Tracer(self.composite, self._weights, notes)
        tracer.constants = constants
        leaf = images.detach().requires_grad_()
        try:
            with torch.enable_grad():
                logits = tracer.follow(self.model, leaf)
            yield tracer, leaf, logits
        finally:
            tracer.close()


def _is_same(values, others):
    try:
        return torch.equal(values, others)
    except RuntimeError:
        # Nested tensors, and those of torch.vmap, cannot be compared. Nothing but hidden code makes them.
        return False


@contextlib.contextmanager
def calls_of(module, layer):
    """Collect the inputs and the output of each call of a named submodule."""
    modules = dict(module.named_modules())
    if layer not in modules:
        top_level = [name for name, _ in module.named_children()]
        raise ValueError(f"The model has no module named {layer!r}. Its top-level modules are {top_level}.")
    calls = []
    handle = modules[layer].register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    try:
        yield calls
    finally:
        handle.remove()


def last_call(calls, layer):
    """Return the inputs and the output of the last call that `calls_of` has collected."""
    if not calls:
        raise ValueError(f"The module {layer!r} did not run in the model's forward pass.")
    return calls[-1]


def _end_of_propagation(tracer, calls, layer):
    """Return the tensor at which the propagation stops: the output of the named module."""
    _, output = last_call(calls, layer)
    end = tracer.current(first_tensor(output))
    tag = tag_of(end)
    if tag is None:
        raise ValueError(
            f"The output of {layer!r} does not depend on the images by any path that can be followed."
        )
    if tag.is_folded:
        raise ValueError(
            f"The output of {layer!r} is folded into the batch-norm or ReLU behind it, so that relevance does not pass "
            "through it. Name that module, or the block they belong to."
        )
    return end
