"""Known properties of the tensors that depend on the image."""

import math
from dataclasses import dataclass
from typing import Any

import torch

UNBOUNDED = (-math.inf, math.inf)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Tag:
    """Known properties of a tensor that depends on the image."""

    # Whether it is a constant in products with a signal: a sigmoid, softmax or reciprocal, or made of such alone.
    gate: bool = False
    # Whether no weighted layer lies between the image and the tensor.
    pixels: bool = False
    # Whether an operation has just clipped all values to start at 0.
    nonnegative: bool = False
    # Smallest and largest value that a clipping or saturating function has left possible.
    bounds: tuple = UNBOUNDED
    # The tensor of which this one is a function, entry by entry.
    base: torch.Tensor | None = None
    # Input of the dense layer whose output, up to reshaping, is this tensor.
    dense_input: torch.Tensor | None = None
    # The `WeightedLayer` whose output is exactly this tensor, and its input as part of the graph.
    layer: Any = None
    source: torch.Tensor | None = None
    # Whether a later operation was folded into that layer, so that its relevance bypasses this tensor.
    is_folded: bool = False
    # The tensor that an in-place operation has turned it into.
    replacement: torch.Tensor | None = None
    # State of the tensor when it was tagged: its version and the number of its node in autograd's graph.
    state: tuple | None = None

    def of_values(self, every_value=False):
        """Return the properties that some of the values keep, or every value in another shape."""
        embedding = self.dense_input if every_value else None
        return Tag(self.gate, self.pixels, self.nonnegative, self.bounds, dense_input=embedding)

    def sign(self, tensor):
        """Record the state of the tagged tensor."""
        self.state = _state(tensor)

    def fits(self, tensor):
        """Return whether the tensor is still in the recorded state."""
        return self.state == _state(tensor)

    def written_to(self, tensor):
        """Return whether the tensor was written to since it was tagged."""
        return self.state[0] != tensor._version


def _state(tensor):
    return tensor._version, None if tensor.grad_fn is None else tensor.grad_fn._sequence_nr()


def tag_of(value):
    """Return the tag of a tensor that depends on the image, else None."""
    return getattr(value, "_relevance_tag", None) if isinstance(value, torch.Tensor) else None


def tensors_in(values):
    """Return the tensors among values, including those inside a list or tuple."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, torch.Tensor)]
    return found
