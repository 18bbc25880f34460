"""An intercepted call of a torch function: its plain name, its arguments and the tensor it writes to."""

import inspect

import torch

from skexmap.lrp._tags import tag_of, tensors_in

# Arguments that torch puts first, in its order, but that may be given by name.
_FIRST_ARGUMENTS = (
    *("condition", "input", "tensor", "mat1", "batch1", "tensor1"),
    *("mat2", "batch2", "tensor2", "other"),
)


class FunctionCall:
    """An intercepted call, with an in-place variant replaced by its out-of-place function.

    `tensors` are those among the arguments, and `tags` are those of the tensors that depend on the image. `writes_to`
    is the caller's tensor that the result of an in-place variant stands for from now on, else None.
    """

    def __init__(self, tracer, func, args, kwargs):
        self.name = plain_name(func)
        self.func = func
        in_place = False
        # The name of a registered step has a dot; only functions of torch have the names of torch's arguments.
        if "." not in self.name:
            in_place = _is_in_place(func)
            if kwargs:
                kwargs = dict(kwargs)
                args = [*args, *(kwargs.pop(name) for name in _FIRST_ARGUMENTS if name in kwargs)]
                in_place = kwargs.pop("inplace", False) or in_place
        self.args = tuple(_current(tracer, value) for value in args)
        self.kwargs = {key: _current(tracer, value) for key, value in kwargs.items()}
        self.writes_to = None
        if in_place:
            self.writes_to = self.args[0]
            self.func = _out_of_place(func, self.name)
        self.tensors = tensors_in((*self.args, *self.kwargs.values()))
        self.tags = [tag for tensor in self.tensors if (tag := tag_of(tensor)) is not None]

    def compute(self):
        """Return the operation's value."""
        return self.func(*self.args, **self.kwargs)

    def value(self):
        """Return the operation's value, without a graph."""
        with torch.no_grad():
            return self.compute()

    def argument(self, position, name, *default):
        """Return an argument given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, *default) if default else self.kwargs[name]

    def bind(self, function):
        """Return all arguments of a Python function by name, including defaults."""
        bound = inspect.signature(function).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return bound.arguments


def _current(tracer, value):
    """Replace tensors by those that in-place operations have turned them into."""
    if isinstance(value, torch.Tensor):
        value = tracer.current(value)
        tracer.check_seen(value, "an operation")
    elif isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
        return type(value)(_current(tracer, item) for item in value)
    return value


def plain_name(func):
    """Return the name of a function without the mark of in-place variants, or of the attribute that it reads."""
    name = getattr(func, "__name__", None) or repr(func)
    if name in ("__get__", "__set__"):
        return getattr(getattr(func, "__self__", None), "__name__", "?")
    return name if name.startswith("__") else name.rstrip("_")


def _is_in_place(func):
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _out_of_place(func, name):
    """Return the out-of-place version of an in-place function; one with an `inplace` flag is returned as it is."""
    homes = (torch, torch.nn.functional, torch.Tensor) if _is_in_place(func) else ()
    return next((getattr(home, name) for home in homes if hasattr(home, name)), func)
