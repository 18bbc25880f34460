"""The tracer intercepts every torch function of one forward pass and looks up its rule.

A `torch.overrides.TorchFunctionMode` intercepts every torch function that the model calls, whether from a module, a
functional call or an operator, and passes it to its rule in `skexmap.lrp._operations.RULES`. Nothing is attached to the
model. Every tensor that depends on the image carries a tag with its version. If an operation receives such a tensor
without a tag, or one that has been written to since, then code that cannot be intercepted made or changed it (a
scripted module, a custom autograd Function). The tracer then raises an error immediately.
"""

import sys
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from skexmap.lrp._calls import FunctionCall, plain_name
from skexmap.lrp._logits import find_logits, logits_in
from skexmap.lrp._operations import RULES
from skexmap.lrp._tags import Tag, tag_of, tensors_in

_REWRITE = "Rewrite that step with supported operations (skexmap.lrp.check_model lists all that are missing)."
REMEDY = (
    "If that is not possible, declare a rule for it with skexmap.lrp.register, or pass a gradient method to "
    "HeatmapTransformer as a callable `attribution`."
)
# How to do without custom autograd Functions of well-known libraries.
_WITHOUT = {
    "SwishImplementation": "call `model.set_swish(memory_efficient=False)` on an EfficientNet first.",
    "CheckpointFunction": "pass `use_reentrant=False` to torch.utils.checkpoint.",
}


# Functions and attributes that depend on no value.
ABOUT_TENSORS = (
    *("shape", "size", "dim", "ndim", "ndimension", "__len__", "numel", "nelement", "stride", "is_contiguous"),
    *("dtype", "device", "layout", "get_device", "is_cuda", "is_floating_point", "is_complex"),
)  # fmt: skip
# Functions whose integers are positions or numbers of entries. Any other integers are rounded values.
POSITIONS = ("argmax", "argmin", "argsort", "argwhere", "nonzero", "count_nonzero")


class UnsupportedOperationError(NotImplementedError):
    """An operation of the model has no relevance rule; the message names the operation and its location."""


@dataclass
class Note:
    """What the tracer records of an operation for a report; `rule` is None if it has none."""

    operation: str
    rule: Any = None
    output: Any = None
    layer: Any = None
    where: str = ""
    why: str = ""


class Tracer(TorchFunctionMode):
    """One intercepted forward pass. With a list of `notes`, operations without a rule are noted and do not raise."""

    def __init__(self, composite, weights, notes=None):
        super().__init__()
        self.composite = composite
        self.weights = weights
        self.notes = notes
        # In a check: the constants that no intercepted function has returned, and where they came in.
        self.constants = None
        self._returned = WeakTensorKeyDictionary()
        self._replaced = weakref.WeakSet()
        self._borrowed = []

    def follow(self, model, images):
        """Return the model's logits for images that are a leaf of the graph."""
        self.tag_all(images, Tag(pixels=True))
        with self:
            output = model(images)
        logits = self.current(logits_in(output))
        if tag_of(logits) is None and logits.grad_fn is None:
            raise UnsupportedOperationError(
                "The model's output does not depend on the images by any differentiable path."
            )
        self.check_seen(logits, "the model's output")
        with self:
            return find_logits(logits, len(images))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if plain_name(func) in ABOUT_TENSORS:
            return func(*map(self.current, args), **kwargs)
        tensors = tensors_in((*args, *kwargs.values()))
        if self.constants is None:
            return self._run(func, args, kwargs, tensors)
        self._collect_constants(func, tensors)
        output = self._run(func, args, kwargs, tensors)
        self._returned.update(dict.fromkeys(tensors_in([output])))
        return output

    def _collect_constants(self, func, tensors):
        for tensor in tensors:
            is_known = self.weights.owns(tensor) or tensor in self._returned
            if tag_of(tensor) is None and tensor.is_floating_point() and not is_known:
                self.constants.append((f"'{plain_name(func)}'{self.where()}", tensor))

    def _run(self, func, args, kwargs, tensors):
        if all(tag_of(tensor) is None for tensor in tensors):
            if not any(tensor.requires_grad for tensor in tensors):
                return func(*args, **kwargs)
            # Only weights: any result computed from them is a constant here.
            for tensor in tensors:
                self.check_seen(tensor, "an operation")
            with torch.no_grad():
                return func(*args, **kwargs)
        # A model may run some parts without gradients (a frozen body); relevance passes through them too.
        with torch.enable_grad():
            return self._apply_rule(FunctionCall(self, func, args, kwargs))

    def _apply_rule(self, call):
        if not call.tags:
            return call.value()
        if call.name not in RULES:
            return self._without_rule(call)
        if call.kwargs.get("out") is not None:
            return self.refuse(call, "It writes into a given tensor: leave out `out=`.")
        if torch.is_autocast_enabled(call.tensors[0].device.type):
            why = 'It runs under `torch.autocast`: remove that, and pass `dtype="bfloat16"` to HeatmapTransformer.'
            return self.refuse(call, why)
        if torch.is_inference_mode_enabled():
            return self.refuse(call, "It runs in `torch.inference_mode()`: use `torch.no_grad()` there.")
        rule, description = RULES[call.name]
        n_notes = len(self.notes or ())
        output = rule(self, call)
        if len(self.notes or ()) == n_notes:
            self.note(call.name, description, output)
        if call.writes_to is not None:
            self._replace(call.writes_to, output)
        return output

    def _without_rule(self, call):
        """Allow functions that return no numbers (comparisons, sizes) or positions; refuse the others."""
        if call.writes_to is None:
            result = call.value()
            types = {tensor.dtype for tensor in tensors_in([result])}
            if types <= {torch.bool} or (
                call.name in POSITIONS and not any(t.is_floating_point for t in types)
            ):
                return result
        return self.refuse(call)

    def _replace(self, tensor, output):
        """Record that a tensor of the caller stands for `output` from now on."""
        if tag_of(tensor) is None:
            # Image-dependent values were written into a constant, as in `total = zeros(...); total += x`.
            tensor._relevance_tag = Tag()
            self._borrowed.append(tensor)
        tag_of(tensor).replacement = output
        # What nothing else refers to is freed during the pass.
        self._replaced.add(tag_of(tensor))

    def current(self, tensor):
        """Return the tensor that in-place operations have turned this tensor into."""
        tag = tag_of(tensor)
        while tag is not None and tag.replacement is not None:
            tensor = tag.replacement
            tag = tag_of(tensor)
        return tensor

    def close(self):
        """Cut the links from tensors to the results of in-place operations, so that memory is freed at once."""
        for tag in self._replaced:
            tag.replacement = None
        for tensor in self._borrowed:
            del tensor._relevance_tag
        self._replaced.clear()
        self._borrowed = []

    # --- Used by the rules of operations ---

    def tag_all(self, output, tag):
        """Tag the tensors in an operation's output and return it."""
        for i, tensor in enumerate(tensors_in([output])):
            if tensor.is_floating_point():
                tensor._relevance_tag = tag if i == 0 else tag.of_values()
                tensor._relevance_tag.sign(tensor)
        return output

    def note(self, operation, rule, output, layer=None):
        """Record an operation if a report was requested."""
        if self.notes is not None:
            rule = rule if rule is None or isinstance(rule, str) else repr(rule)
            self.notes.append(Note(operation, rule, output, layer))

    def refuse(self, call, why=""):
        """Raise an error that names the operation and its location (or record it, for a report)."""
        where = self.where()
        if self.notes is None:
            what = (
                f"cannot be followed{where}. {why}"
                if why
                else f"has no relevance rule{where}. {_REWRITE} {REMEDY}"
            )
            raise UnsupportedOperationError(f"The operation '{call.name}' {what}")
        self.notes.append(Note(call.name, where=where, why=why))
        return self.tag_all(call.compute(), Tag())

    def check_seen(self, tensor, reached):
        """Raise if an operation that the mode cannot intercept made or changed a tensor that depends on the image."""
        tag = tag_of(tensor)
        if tensor.grad_fn is None if tag is None else tag.fits(tensor):
            return
        name, why = _hidden_maker(tensor, tag)
        if self.notes is None:
            raise UnsupportedOperationError(
                f"A tensor was made or changed by {name}, before it reached {reached}{self.where()}. {why} {REMEDY}"
            )
        self.notes.append(Note(name, where=self.where(), why=why))
        self.tag_all(tensor, Tag())

    def where(self):
        """Describe the line of the model's code that is running: ' in layer1.0 (resnet.py, line 102)'."""
        frame, module, line = sys._getframe(1), "", ""
        while frame is not None and frame.f_code is not Tracer.follow.__code__:
            filename = frame.f_code.co_filename.replace("\\", "/")
            name = self.weights.module_names.get(id(frame.f_locals.get("self")))
            if name and not module:
                module = f" in '{name}'"
            if not line and "/torch/" not in filename and "/skexmap/lrp/" not in filename:
                line = f" ({filename.rsplit('/', 1)[-1]}, line {frame.f_lineno})"
            frame = frame.f_back
        return module + line


def _hidden_maker(tensor, tag):
    """Return what made or changed a tensor unseen, and what to do about it."""
    if tag is not None and (tag.written_to(tensor) or tensor.grad_fn is None):
        return "an in-place operation that is not intercepted", "Write that step without it."
    function = getattr(tensor.grad_fn, "_forward_cls", None)
    if function is None:
        why = "Scripted, traced and compiled modules hide what they compute: use the Python module."
        return f"code that is not intercepted ({tensor.grad_fn.name()})", why
    name = f"the autograd Function '{function.__name__}'"
    if f"{function.__module__}.{function.__qualname__}" in RULES:
        return name, "It is registered, but its `apply` was looked up before that: look it up in `forward`."
    remedy = _WITHOUT.get(function.__name__, "write it with torch functions.")
    return name, f"It hides what it computes: {remedy}"
