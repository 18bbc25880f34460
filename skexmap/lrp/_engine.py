"""The relevance engine: one intercepted forward pass, one backward pass, and the relevance of every pixel.

A `torch.overrides.TorchFunctionMode` intercepts every torch function that the model calls, whether from a module, a
functional call or an operator, and passes it to its entry in `skexmap.lrp._operations.HANDLERS`. Nothing is attached to
the model. Every tensor that depends on the image carries a tag with its version. If an operation receives such a tensor
without a tag, or one that has been written to since, then code that cannot be intercepted made or changed it (a
scripted module, a custom autograd Function). The engine then raises an error immediately.
"""

import contextlib
import sys
import threading
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

from skexmap.lrp._calls import FACTS, LEAVES_TORCH, Call, plain_name
from skexmap.lrp._initial_relevance import initial_coefficient, within_range, without_residue
from skexmap.lrp._logits import check_logits, first_output, logits_differ, refuse_probabilities
from skexmap.lrp._operations import DESCRIPTIONS, HANDLERS
from skexmap.lrp._rules import away_from_zero
from skexmap.lrp._tags import Tag, tag_of, tensors_in


class UnsupportedOperationError(NotImplementedError):
    """An operation of the model has no relevance rule; the message names the operation and its location."""


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
    """Layer-wise relevance propagation through a model in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; it is never changed.
    composite : Composite
        Which rule each weighted layer gets.

    Notes
    -----
    The weight variants that the rules need are computed once and cached. They are recomputed if the version of a weight
    changes.
    """

    def __init__(self, model, composite):
        self.model = model
        self.composite = composite
        self._names = {
            id(values): module_name
            for module_name, module in model.named_modules()
            for values in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self._module_names = {
            id(module): name or type(module).__name__ for name, module in model.named_modules()
        }
        self._caches = {}
        self._versions = None

    def attribute(self, images, choose_target, initial_relevance="one", layer=None):
        """Return the relevance of every pixel, or of every entry of a layer's output, for one logit per image.

        Parameters
        ----------
        images : tensor of shape (n, ...)
        choose_target : callable
            Takes the logits, of shape (n, n_logits), and returns the index of the target class of each image.
        initial_relevance : {"one", "logit"}, default="one"
            Relevance that the target starts with: 1, or its logit.
        layer : str or None, default=None
            Name of the module at whose output the propagation stops. None propagates down to the pixels.

        Returns
        -------
        attribution : Attribution
        """
        with self._catch_output(layer) as caught:
            run, leaf, logits = self.forward(images)
        try:
            detached = logits.detach()
            with torch.no_grad():
                initial = initial_coefficient(detached, choose_target(detached), initial_relevance)
                initial, unit = within_range(initial, detached.dtype)
            end, values = leaf, run.image_values
            if layer is not None:
                end = _end_of_propagation(run, caught, layer)
                values = away_from_zero(end.detach())
            (coefficient,) = torch.autograd.grad(logits, end, initial)
            relevance = without_residue(coefficient * values, end.detach())
            if unit is not None:
                relevance = relevance.float() * unit.reshape(-1, *[1] * (relevance.ndim - 1))
            dense = tag_of(logits).dense
        finally:
            run.close()
        return Attribution(detached, relevance, None if dense is None else dense[0])

    def forward(self, images, notes=None):
        """Run the intercepted forward pass.

        Parameters
        ----------
        images : tensor of shape (n, ...)
        notes : list or None, default=None
            If a list, every operation is recorded in it (see `check_model`), and those without a rule do not raise.

        Returns
        -------
        run : Interception
        leaf : tensor
            The images, as a leaf of the graph.
        logits : tensor of shape (n, n_logits)
        """
        self._forget_outdated_weights()
        leaf = images.detach().requires_grad_()
        run = Interception(self, notes)
        with torch.enable_grad():
            run.image_values = away_from_zero(leaf.detach())
            run.tag_all(leaf, Tag(pixels=True))
            try:
                with run:
                    output = self.model(leaf)
                logits = run.resolve(first_output(output))
                run.check_seen(logits, "the model's output")
                if notes is None:
                    refuse_probabilities(logits)
            except BaseException:
                run.close()
                raise
        return run, leaf, logits

    def check(self, images):
        """Raise if the model cannot be attributed on these images; return the name of its last dense layer.

        The intercepted logits must equal those of the plain forward pass. They differ if something that the mode cannot
        intercept changes the values (an in-place write through a view, active dropout).

        Parameters
        ----------
        images : tensor of shape (n, ...)

        Returns
        -------
        dense_name : str or None
            Name of the dense layer that outputs the logits.
        """
        with torch.no_grad():
            plain = first_output(self.model(images))
        check_logits(plain, len(images))
        run, _, logits = self.forward(images)
        try:
            difference = logits_differ(logits.detach(), plain)
            if difference:
                raise UnsupportedOperationError(difference)
            dense = tag_of(logits).dense
        finally:
            run.close()
        return None if dense is None else dense[1]

    @contextlib.contextmanager
    def _catch_output(self, layer):
        """Collect the outputs of the named module in this thread."""
        caught = []
        if layer is None:
            yield caught
            return
        modules = dict(self.model.named_modules())
        if layer not in modules:
            raise ValueError(
                f"The model has no module named {layer!r}. Its top-level modules are "
                f"{[name for name, _ in self.model.named_children()]}."
            )
        thread = threading.get_ident()

        def catch(module, inputs, output):
            if threading.get_ident() == thread:
                caught.append(first_output(output))

        handle = modules[layer].register_forward_hook(catch)
        try:
            yield caught
        finally:
            handle.remove()

    def _forget_outdated_weights(self):
        tensors = (*self.model.parameters(), *self.model.buffers())
        versions = [(id(values), values.data_ptr(), values._version) for values in tensors]
        if versions != self._versions:
            self._caches = {}
            self._versions = versions


class Interception(TorchFunctionMode):
    """One intercepted forward pass."""

    def __init__(self, engine, notes=None):
        super().__init__()
        self.composite = engine.composite
        self.image_values = None
        self.notes = notes
        self._engine = engine
        self._replaced = []
        self._borrowed = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = plain_name(func)
        tensors = list(tensors_in((*args, *kwargs.values())))
        seen = any(tag_of(tensor) is not None for tensor in tensors)
        if not seen and not any(tensor.requires_grad for tensor in tensors):
            return func(*args, **kwargs)
        if name in FACTS:
            return func(*args, **kwargs)
        if not seen:
            # Only weights: any result computed from them is a constant here.
            for tensor in tensors:
                self.check_seen(tensor, "an operation")
            with torch.no_grad():
                return func(*args, **kwargs)
        # A model may run some parts without gradients (a frozen body); relevance passes through them too.
        with torch.enable_grad():
            return self._handle(Call(self, name, func, args, kwargs))

    def _handle(self, call):
        if not call.tags:
            # Only weights: any result computed from them is a constant here.
            with torch.no_grad():
                return call.func(*call.args, **call.kwargs)
        if "out" in call.kwargs and call.kwargs["out"] is not None:
            return self.refuse(call, "It writes into a given tensor (`out=`).")
        if torch.is_inference_mode_enabled():
            return self.refuse(call, "It runs in `torch.inference_mode()`: use `torch.no_grad()` there.")
        handler = HANDLERS.get(call.name)
        if handler is None:
            return self._without_handler(call)
        n_notes = None if self.notes is None else len(self.notes)
        output = handler(self, call)
        if self.notes is not None and len(self.notes) == n_notes:
            self.note(call, call.name, DESCRIPTIONS[handler], output)
        if call.writes_to is not None:
            self._replace(call.writes_to, output)
        return output

    def _replace(self, tensor, output):
        """Record that a tensor of the caller stands for `output` from now on."""
        if tag_of(tensor) is None:
            # Image-dependent values were written into a constant, as in `total = zeros(...); total += x`.
            tensor._relevance_tag = Tag()
            self._borrowed.append(tensor)
        tag_of(tensor).replacement = output
        self._replaced.append(tensor)

    def _without_handler(self, call):
        """Allow functions whose result is not a floating tensor (comparisons, sizes); refuse the others."""
        if call.name not in LEAVES_TORCH and call.writes_to is None:
            result = call.func(*call.args, **call.kwargs)
            if not any(t.is_floating_point() or t.is_complex() for t in tensors_in([result])):
                return result
        return self.refuse(call, "")

    # --- Used by the handlers ---

    def call(self, name, func, *args, **kwargs):
        """Run an operation that is part of a composed one."""
        return self._handle(Call(self, name, func, args, kwargs))

    def chunks(self, weight, n):
        """Return a weight in n parts, which are the same tensors in every batch so that their variants stay cached."""
        cache = self._engine._caches.setdefault(("chunks", id(weight)), {})
        if "parts" not in cache:
            cache["parts"] = [part.detach() for part in weight.chunk(n)]
        for part in cache["parts"]:
            self._engine._names.setdefault(id(part), self.name_of(weight))
        return cache["parts"]

    def tag_all(self, output, tag):
        """Tag the tensors in an operation's output and return it."""
        for i, tensor in enumerate(tensors_in([output])):
            if not tensor.is_floating_point():
                continue
            own = tag if i == 0 else Tag(tag.nonnegative, tag.gate, tag.pixels)
            own.sign(tensor)
            tensor._relevance_tag = own
        return output

    def rule_for(self, layer, call):
        """Return the composite's rule for a layer."""
        rule = self.composite.rule_for(layer)
        if rule is None:
            self.refuse(
                call, f"The composite '{self.composite.name}' has no entry for it ({layer.operation})."
            )
        return rule

    def name_of(self, weight):
        """Return the name of the module that owns a weight."""
        return self._engine._names.get(id(weight), "?")

    def owns(self, *values):
        """Return whether all tensors (ignoring None) live as long as the model; only then can their ids be keys."""
        return all(value is None or id(value) in self._engine._names for value in values)

    def cache_for(self, weight, bias):
        """Return the cache of a layer's weight variants; a new one for weights that no module owns."""
        if not self.owns(weight, bias):
            return {}
        return self._engine._caches.setdefault((id(weight), id(bias)), {})

    def note(self, call, operation, rule, output, layer=None):
        """Record an operation if a report was requested."""
        if self.notes is not None:
            self.notes.append(
                {"operation": operation, "rule": rule, "output": output, "layer": layer, "call": call}
            )

    def refuse(self, call, why):
        """Raise an error that names the operation and its location (or record it, for a report)."""
        where = self.where()
        message = (
            f"The operation '{call.name}' has no relevance rule{where}. {why}".rstrip() + " "
            "Rewrite that step with supported operations (skexmap.lrp.check_model lists all that are missing), or pass "
            "a gradient method to HeatmapTransformer as a callable `attribution`."
        )
        if self.notes is None or call.result_unknown:
            raise UnsupportedOperationError(message)
        self.notes.append({"operation": call.name, "rule": None, "where": where, "why": why, "call": call})
        return self.tag_all(call.compute(), Tag())

    def resolve(self, tensor):
        """Return the tensor that in-place operations have turned this tensor into."""
        tag = tag_of(tensor)
        while tag is not None and tag.replacement is not None:
            tensor = tag.replacement
            tag = tag_of(tensor)
        return tensor

    def check_seen(self, tensor, what):
        """Raise if an operation that the mode cannot intercept made or changed a tensor that depends on the image."""
        tag = tag_of(tensor)
        if tag is None:
            if not tensor.requires_grad:
                if what == "the model's output":
                    raise UnsupportedOperationError(
                        "The model's output does not depend on the images by any differentiable path."
                    )
                return
            if tensor.grad_fn is None:
                return
            made_by = tensor.grad_fn.name()
        elif not tag.fits(tensor):
            in_place = tag.version != tensor._version or tensor.grad_fn is None
            made_by = "an in-place operation" if in_place else tensor.grad_fn.name()
        else:
            return
        if self.notes is not None:
            self.notes.append(
                {"operation": made_by, "rule": None, "where": self.where(), "why": "It can't be intercepted."}
            )
            self.tag_all(tensor, Tag())
            return
        raise UnsupportedOperationError(
            f"A tensor was made by {made_by}, which can't be intercepted, before it reached {what}{self.where()}. "
            "Scripted, traced and compiled submodules and custom autograd Functions hide what they compute: use the "
            "original Python module, or pass a gradient method to HeatmapTransformer as a callable `attribution`."
        )

    def where(self):
        """Describe the line of the model's code that is running: ' in layer1.0 (resnet.py, line 102)'."""
        frame, module, line = sys._getframe(1), None, None
        while frame is not None and frame.f_code is not RelevanceEngine.forward.__code__:
            filename = frame.f_code.co_filename.replace("\\", "/")
            if module is None:
                candidate = frame.f_locals.get("self")
                module = self._engine._module_names.get(id(candidate)) if candidate is not None else None
            if line is None and "/torch/" not in filename and "/skexmap/lrp/" not in filename:
                line = f"{filename.rsplit('/', 1)[-1]}, line {frame.f_lineno}"
            frame = frame.f_back
        parts = ([f" in '{module}'"] if module else []) + ([f" ({line})"] if line else [])
        return "".join(parts)

    def close(self):
        """Cut the links from tensors to the results of in-place operations, so that memory is freed at once."""
        for tensor in self._replaced:
            tag_of(tensor).replacement = None
        for tensor in self._borrowed:
            del tensor._relevance_tag
        self._replaced, self._borrowed = [], []


def _end_of_propagation(run, caught, layer):
    """Return the tensor at which the propagation stops: the output of the named module."""
    if not caught:
        raise ValueError(f"The module {layer!r} did not run in the model's forward pass.")
    end = run.resolve(caught[-1])
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
