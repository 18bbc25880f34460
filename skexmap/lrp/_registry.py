"""Rules that a user declares for steps whose inside is not looked at."""

import contextlib
import functools
import inspect
import sys
import types
from functools import partial

import torch
from torch.overrides import handle_torch_function, has_torch_function

from skexmap.lrp._calls import plain_name
from skexmap.lrp._nodes import ByFunction, PassOn, any_ratio
from skexmap.lrp._operations import RULES
from skexmap.lrp._tags import Tag, tag_of, tensors_in


def register(step, rule):
    """Declare the relevance rule of a step of the model, in place of what happens inside it.

    Parameters
    ----------
    step : type or function
        A subclass of `torch.autograd.Function` or of `torch.nn.Module`, a torch function such as `torch.exp`, or a
        Python function that a module's namespace holds.
    rule : {"pass", "gradient"} or callable
        - "pass": each output passes its relevance on to the input at the same position, as activations do.
        - "gradient": the step's own gradient carries the relevance. This shares it in proportion to the contributions
          if the step is linear, and is its Taylor expansion if it is not.
        - ``rule(inputs, output, relevance) -> relevance of the inputs``. `inputs` is a tuple of the tensor arguments
          that depend on the images. The result is one tensor of the shape of each, or a tuple of them.

    Returns
    -------
    handle : contextlib.ExitStack
        ``handle.close()`` undoes the registration. In a ``with`` statement, it lasts until the end of the block.

    Raises
    ------
    TypeError, ValueError
        If `step` or `rule` is none of these.

    Notes
    -----
    The registration holds for all threads of this process, and for later models. It has to be made in every worker
    process. For a class of modules, ``forward`` is replaced, for autograd Functions ``apply``, and Python functions are
    replaced in the modules that hold them; outside relevance propagation, they do what they did.

    Examples
    --------
    >>> import torch
    >>> from skexmap.lrp import check_model, register
    >>> class Swish(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * torch.sigmoid(x)
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         (x,) = ctx.saved_tensors
    ...         gate = torch.sigmoid(x)
    ...         return gradient * gate * (1 + x * (1 - gate))
    >>> class Net(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body, self.head = torch.nn.Linear(6, 4), torch.nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.head(Swish.apply(self.body(x)))
    >>> check_model(Net(), torch.rand(3, 6)).ok
    False
    >>> with register(Swish, "pass"):
    ...     check_model(Net(), torch.rand(3, 6)).ok
    True
    """
    if rule not in ("pass", "gradient") and not callable(rule):
        raise ValueError(f'rule={rule!r} must be "pass", "gradient" or a callable.')
    if isinstance(step, type) and issubclass(step, torch.autograd.Function):
        places = [(step, "apply"), *_names_of(step.apply, step.forward)]
        original = step.apply
    elif isinstance(step, type) and issubclass(step, torch.nn.Module):
        places, original = [(step, "forward")], step.forward
    elif inspect.isfunction(step) and not step.__module__.startswith("torch."):
        places, original = _names_of(step, step), step
    elif callable(step) and not isinstance(step, type):
        places, original = [], None
    else:
        raise TypeError(
            f"step={step!r} must be a subclass of torch.autograd.Function or torch.nn.Module, or a function."
        )
    name = plain_name(step) if original is None else f"{step.__module__}.{step.__qualname__}".rstrip("_")
    undo = contextlib.ExitStack()
    _set(undo, RULES, name, (partial(by_declared_rule, rule=rule), _description(rule)))
    for holder, attribute in places:
        _set(undo, holder, attribute, _overridable(original, name))
    return undo


def declared_rules():
    """Return the rules that are registered now: name of the step -> rule."""
    rules = {name: rule for name, (rule, _) in RULES.items() if isinstance(rule, partial)}
    return {name: rule.keywords["rule"] for name, rule in rules.items() if rule.func is by_declared_rule}


def _overridable(original, name):
    """Return a function that torch function modes intercept under a name, as they do torch's own."""

    @functools.wraps(original)
    def call(*args, **kwargs):
        tensors = tuple(tensors_in((*args, *kwargs.values())))
        if has_torch_function(tensors):
            return handle_torch_function(call, tensors, *args, **kwargs)
        return original(*args, **kwargs)

    call.__name__ = name
    return call


def _names_of(function, written_in):
    """Return where modules hold a function under a name, as in ``swish = Swish.apply``."""
    namespaces = [vars(module) for module in list(sys.modules.values()) if module is not None]
    # Each access to `Swish.apply` makes another object, which is equal to the one before.
    methods = (types.MethodType, types.BuiltinMethodType)
    of_definition = getattr(written_in, "__globals__", {})
    namespaces += [] if any(of_definition is names for names in namespaces) else [of_definition]
    return [
        (names, name)
        for names in namespaces
        for name, value in list(names.items())
        if value is function or (type(value) in methods and value == function)
    ]


def _set(undo, holder, name, value):
    """Set an item of a dict or an attribute of a class until it is undone."""
    if isinstance(holder, dict):
        before = {name: holder[name]} if name in holder else {}
        undo.callback(lambda: (holder.pop(name), holder.update(before)))
        holder[name] = value
        return
    inherited = name not in vars(holder)
    undo.callback(
        delattr if inherited else setattr, holder, name, *([] if inherited else [vars(holder)[name]])
    )
    setattr(holder, name, value if name == "forward" else staticmethod(value))


def _description(rule):
    return f"{rule if isinstance(rule, str) else getattr(rule, '__name__', 'callable')} (registered)"


def by_declared_rule(tracer, call, rule):
    """Run a step as it is, and give its inputs what the declared rule says."""
    if rule == "gradient":
        return tracer.tag_all(call.compute(), Tag())
    inputs = [tensor for tensor in call.tensors if tag_of(tensor) is not None]
    versions = [tensor._version for tensor in inputs]
    outputs = call.value()
    floating = [tensor for tensor in tensors_in([outputs]) if tensor.is_floating_point()]
    if len(floating) != 1:
        return tracer.refuse(
            call, f"Its registered rule needs one output, not {len(floating)}: use the gradient."
        )
    if versions != [tensor._version for tensor in inputs]:
        return tracer.refuse(call, "It is registered, but changes its input in place: let it work on a copy.")
    (output,) = floating
    if rule != "pass":
        result = ByFunction.apply(rule, call.name, output, *inputs)
    elif len(inputs) != 1 or inputs[0].shape != output.shape:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        return tracer.refuse(
            call,
            f'The rule "pass" needs one input of the shape of the output, {tuple(output.shape)}; it has {shapes}. '
            "Register a callable.",
        )
    else:
        result = PassOn.apply(inputs[0], output, any_ratio)
    tracer.tag_all(result, Tag())
    if isinstance(outputs, torch.Tensor):
        return result
    return type(outputs)(result if item is output else item for item in outputs)
