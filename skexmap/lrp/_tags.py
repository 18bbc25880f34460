"""Known properties of the tensors that depend on the image."""

import torch


class Tag:
    """Known properties of a tensor that depends on the image.

    Attributes
    ----------
    nonnegative : bool
        Whether no entry is negative.
    gate : str or None
        Name of the function (sigmoid, softmax, ...) that bounded it; kept through reshaping.
    pixels : bool
        Whether no weighted layer lies between the image and the tensor.
    layer : WeightedLayer or None
        The layer whose output is exactly this tensor.
    is_folded : bool
        Whether a later operation was folded into that layer, so that its relevance bypasses this tensor.
    source : tensor or None
        The input of that layer, as part of the graph.
    dense : tuple or None
        Input and name of the dense layer whose output, up to reshaping, is this tensor.
    version : int
        The tensor's version when it was tagged. If it has changed, an operation that was not intercepted wrote to it.
    node : int or None
        Number of its node in autograd's graph. If it has changed, an operation that was not intercepted wrapped it.
    replacement : tensor or None
        The tensor that an in-place operation has turned it into.
    """

    __slots__ = (
        "dense",
        "gate",
        "is_folded",
        "layer",
        "node",
        "nonnegative",
        "pixels",
        "replacement",
        "source",
        "version",
    )

    def __init__(self, nonnegative=False, gate=None, pixels=False, dense=None):
        self.nonnegative = nonnegative
        self.gate = gate
        self.pixels = pixels
        self.layer = None
        self.is_folded = False
        self.source = None
        self.dense = dense
        self.version = None
        self.node = None
        self.replacement = None

    def sign(self, tensor):
        """Record the state of the tagged tensor."""
        self.version, self.node = tensor._version, _node_number(tensor)

    def fits(self, tensor):
        """Return whether the tensor is still in the recorded state."""
        return self.version == tensor._version and self.node == _node_number(tensor)


def _node_number(tensor):
    return None if tensor.grad_fn is None else tensor.grad_fn._sequence_nr()


def tag_of(value):
    """Return the tag of a tensor that depends on the image, else None."""
    return getattr(value, "_relevance_tag", None) if isinstance(value, torch.Tensor) else None


def tensors_in(values):
    """Yield the tensors among values, including those inside a list or tuple."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, torch.Tensor):
                    yield item


def kept_by_reshaping(tag):
    return Tag(tag.nonnegative, tag.gate, tag.pixels, dense=tag.dense)
