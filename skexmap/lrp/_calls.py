"""An intercepted call of a torch function: its plain name, its arguments and the tensor it writes to."""

import inspect

import torch

from skexmap.lrp._tags import tag_of, tensors_in

# Attributes and methods of a tensor that compute no values.
FACTS = {
    "size", "dim", "stride", "numel", "nelement", "is_contiguous", "is_floating_point", "is_complex", "__len__",
    "__hash__", "storage_offset", "element_size", "data_ptr", "get_device", "is_same_size", "ndimension",
    "__repr__", "__format__",
    "shape.__get__", "device.__get__", "dtype.__get__", "ndim.__get__", "layout.__get__", "requires_grad.__get__",
    "is_cuda.__get__", "is_nested.__get__", "is_sparse.__get__", "is_quantized.__get__", "is_leaf.__get__",
    "is_meta.__get__", "is_mkldnn.__get__", "is_cpu.__get__", "is_mps.__get__", "is_xpu.__get__", "names.__get__",
    "grad_fn.__get__", "_version.__get__", "is_inference", "is_conj", "is_neg", "has_names",
}  # fmt: skip
# Functions that take values out of torch, where later operations cannot be traced.
LEAVES_TORCH = {
    "numpy",
    "tolist",
    "item",
    "__array__",
    "detach",
    "data.__get__",
    "__float__",
    "__complex__",
    "__int__",
}
_TAKES_VALUES = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "truediv",
    "pad",
    "constant_pad_nd",
    "where",
    "masked_fill",
}
_OPERATORS = {"__truediv__": "div", "__itruediv__": "div", "__rtruediv__": "rdiv", "__rsub__": "rsub"}


class Call:
    """An intercepted call, with in-place variants replaced by their out-of-place function."""

    def __init__(self, run, name, func, args, kwargs):
        self.name = name
        self.func = func
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: kwargs[key] for key in kwargs if key != "input"}
        for second in ("other", "mat2"):
            if len(args) == 1 and second in kwargs:
                args, kwargs = (
                    (args[0], kwargs[second]),
                    {key: kwargs[key] for key in kwargs if key != second},
                )
        self.args = tuple(self._resolve(run, value) for value in args)
        self.kwargs = {key: self._resolve(run, value) for key, value in kwargs.items()}
        self.writes_to = None
        self.result_unknown = False
        if self.kwargs.pop("inplace", False) or _is_in_place(func):
            # The caller keeps this tensor; `resolve` maps it to the result.
            self.writes_to = self.args[0]
            self.func = _out_of_place(func, name)
        self.tags = [tag for t in self._tensors() if (tag := tag_of(t)) is not None]

    def _resolve(self, run, value):
        if isinstance(value, torch.Tensor):
            value = run.resolve(value)
            run.check_seen(value, "an operation")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
            return type(value)(self._resolve(run, item) for item in value)
        return value

    def _tensors(self):
        return tensors_in((*self.args, *self.kwargs.values()))

    def compute(self):
        """Return the operation's value."""
        return self.func(*self.args, **self.kwargs)

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

    def has_negative_constant(self):
        """Return whether an argument that does not depend on the image may be negative."""
        values = (*self.args, *self.kwargs.values())
        if any(tag_of(t) is None and t.is_floating_point() for t in self._tensors()):
            return True
        # In these functions, numbers are values; in all others they are axes and sizes.
        numbers = [value for value in values if isinstance(value, (int, float))]
        return self.name in _TAKES_VALUES and any(number < 0 for number in numbers)


def plain_name(func):
    """Return a function's name without the marks of operators (``__iadd__``) and in-place variants (``relu_``)."""
    name = getattr(func, "__name__", repr(func))
    if name in ("__get__", "__set__"):
        owner = getattr(func, "__self__", None)
        owner_name = getattr(owner, "__name__", "?")
        return owner_name if owner_name in ("T", "mT") else f"{owner_name}.{name}"
    if name in _OPERATORS:
        return _OPERATORS[name]
    if name in FACTS or name in LEAVES_TORCH:
        return name
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        # __radd__, __iadd__ and so on, but not __invert__ or __index__.
        if name[0] in "ir" and name[1:] in ("add", "sub", "mul", "matmul"):
            return "rmatmul" if name == "rmatmul" else name[1:]
        return name
    return name.rstrip("_") or name


def _is_in_place(func):
    name = getattr(func, "__name__", "")
    if name.startswith("__") and name.endswith("__"):
        return name in ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__")
    return name.endswith("_") and not name.endswith("__")


def _out_of_place(func, name):
    """Return the out-of-place version of an in-place function; one with an `inplace` flag is returned as it is."""
    if not _is_in_place(func):
        return func
    for home in (torch, torch.nn.functional, torch.Tensor):
        if hasattr(home, name):
            return getattr(home, name)
    return func
