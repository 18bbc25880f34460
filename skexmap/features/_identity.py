"""A digest of everything that a result depends on: weights, settings, and the code of functions and classes."""

import functools
import hashlib
import sys
import sysconfig
import types
import weakref
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
# What a module holds besides what it computes: its replica is in evaluation mode and has no backward hooks.
NOT_COMPUTED = {
    "training",
    "_compiled_call_impl",
    "_is_torch_compile",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
}
CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, types.UnionType)
# What cannot change while it is referred to, so that a function that reads it computes the same.
FIXED = (*CONSTANTS, tuple, frozenset, torch.Tensor, np.ndarray, np.generic)
# What code refers to by name.
REFERRED = (types.FunctionType, type, partial, *FIXED)
BUILT_IN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.GetSetDescriptorType,
    types.ClassMethodDescriptorType,
    np.ufunc,
)


def digest(value):
    """Return the SHA-256 of a value, which is the same in every process; raise ValueError if it has none."""
    walk = _Walk()
    walk.add(value)
    # Functions and classes refer to each other, so to follow them at once could exceed the recursion limit.
    while walk.waiting:
        code = walk.waiting.popleft()
        # A default value may be an object of the model, and in a copy of the model it is not.
        walk.seen = {}
        walk.add_class(code) if isinstance(code, type) else walk.add_function(code)
    return walk.hash.digest()


@functools.cache
def library_digest():
    """Return the SHA-256 of the code of this library that computes maps and embeddings."""
    package = Path(__file__).parents[1]
    parts = ("lrp", "features", "datasets")
    files = [package / "_torch.py", *sorted(file for part in parts for file in (package / part).glob("*.py"))]
    versions = [_version(name) for name in ("torch", "numpy", "PIL")]
    return digest((versions, [(file.name, file.read_bytes()) for file in files]))


class _Walk:
    """Walks through a value and all that it refers to, and feeds what it finds to one hash."""

    def __init__(self):
        self.hash = hashlib.sha256()
        # Keeps what it has seen alive, because an id may be used again.
        self.seen, self.codes = {}, {}
        self.waiting = deque()

    def add(self, value):
        """Add a value; one that was added before counts by its place among them."""
        if isinstance(value, torch.nn.Module):
            # A compiled module computes what its original computes.
            value = value._modules.get("_orig_mod", value)
        if isinstance(value, CONSTANTS):
            self._text(f"{type(value).__name__} {value!r}")
            return
        is_code = isinstance(value, (types.FunctionType, type))
        seen = self.codes if is_code else self.seen
        # Equal constants of code may be one object in one process and two in another.
        if not isinstance(value, (tuple, types.CodeType)):
            if id(value) in seen:
                self._text(f"seen {seen[id(value)][0]}")
                return
            seen[id(value)] = len(seen), value
        if is_code:
            self.waiting.append(value)
            self._text(f"{type(value).__name__} {value.__module__}.{value.__qualname__}")
            return
        for kinds, method in WALKS.items():
            if isinstance(value, kinds):
                method(self, value)
                return
        self._object(value)

    def _text(self, text):
        data = text.encode("utf-8", "surrogatepass")
        self.hash.update(b"%d:" % len(data))
        self.hash.update(data)

    def _many(self, kind, values):
        values = list(values)
        self._text(f"{kind} {len(values)}")
        for value in values:
            self.add(value)

    def _dict(self, value):
        self._many("dict", [part for item in value.items() for part in item])

    def _set(self, value):
        self._many("set", sorted(digest(item) for item in value))

    def _array(self, value):
        if value.dtype.hasobject:
            self._many("objects", [value.shape, *value.ravel().tolist()])
            return
        self._text(f"array {value.dtype.descr} {value.shape}")
        self.hash.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))

    def _tensor(self, value):
        value = value.detach().cpu()
        self._text(f"tensor {value.dtype} {tuple(value.shape)}")
        value = value.resolve_conj().resolve_neg().contiguous().flatten()
        # NumPy has no bfloat16, so take the bytes.
        self.hash.update(value.view(torch.uint8).numpy())

    def _code(self, code):
        self._text(f"code {code.co_name} {code.co_argcount} {code.co_kwonlyargcount} {code.co_flags}")
        self._many(
            "names", [code.co_code, code.co_names, code.co_varnames, code.co_freevars, *code.co_consts]
        )

    def add_function(self, function):
        """Add the code of a function and what it refers to."""
        scope = [function.__defaults__, function.__kwdefaults__]
        scope += [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        if _of_library(function.__module__, function.__code__.co_filename):
            # A decorator of a library holds the function that it decorates.
            self.add(_version(function.__module__))
            scope = [value for value in scope if isinstance(value, REFERRED)]
        else:
            self._many("globals", _read_globals(function))
        self._many("function", [function.__code__, *scope])

    def add_class(self, cls):
        """Add the functions and constants of a class and of the classes that it inherits from."""
        for part in cls.__mro__[:-1]:
            # The rest of torch changes with its version only.
            is_of_torch = part.__module__.partition(".")[0] == "torch"
            for name in ("forward",) if is_of_torch else vars(part):
                self._member(name, vars(part).get(name))

    def _member(self, name, value):
        """Add a function or a constant of a class."""
        value = getattr(value, "__func__", value)
        for member in (value.fget, value.fset) if isinstance(value, property) else (value,):
            is_code = isinstance(member, (types.FunctionType, partial))
            if is_code or (isinstance(member, FIXED) and not name.startswith("__")):
                self._text(name)
                self.add(member)

    def _method(self, method):
        self._many("method", [method.__func__, method.__self__])

    def _built_in(self, function):
        owner = getattr(function, "__self__", None)
        self._text(f"built-in {getattr(function, '__module__', None)} {function.__name__}")
        if not isinstance(owner, types.ModuleType):
            self.add(owner)

    def _named(self, value):
        self._text(f"{type(value).__name__} {getattr(value, '__name__', '')}")

    def _net(self, module):
        self.add(type(module))
        for name, value in vars(module).items():
            if name not in NOT_COMPUTED:
                self._text(name)
                # The keys of hooks are numbers of this process.
                hooks = name.startswith("_forward") and isinstance(value, dict)
                self.add(list(value.values()) if hooks else value)

    def _object(self, value):
        """Add the class of any other object and what a pickle of it would hold."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            if not hasattr(value, "__dict__"):
                raise ValueError(
                    "`cache` finds results by the content of the model, the `attribution` and the transform of files, "
                    f"but a {type(value).__name__} in them cannot be compared. Replace it, or pass cache=None."
                ) from None
            reduced = (type(value), vars(value))
        if isinstance(reduced, str):
            # The name of something global, such as a function with a cache around it.
            reduced = (type(value).__module__, reduced)
        parts = [list(part) if hasattr(part, "__next__") else part for part in reduced]
        self._many("object", [*parts, getattr(value, "__wrapped__", None)])


WALKS = {
    torch.nn.Module: _Walk._net,
    torch.Tensor: _Walk._tensor,
    np.ndarray: _Walk._array,
    (list, tuple): lambda walk, value: (walk.add(type(value).__name__), walk._many("items", value)),
    dict: _Walk._dict,
    (set, frozenset): _Walk._set,
    types.CodeType: _Walk._code,
    types.MethodType: _Walk._method,
    BUILT_IN: _Walk._built_in,
    (types.ModuleType, RemovableHandle, weakref.ref): _Walk._named,
}


def _is_empty(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _version(module):
    """Return the version of the library that a module belongs to; None if it names none or is not loaded."""
    return getattr(sys.modules.get(str(module).partition(".")[0]), "__version__", None)


@functools.cache
def _of_library(module, file):
    """Return whether code belongs to an installed library, whose helpers change with its version only."""
    is_installed = "site-packages" in file or "dist-packages" in file or file.startswith(LIBRARIES)
    return is_installed or str(module).partition(".")[0] in ("torch", "skexmap")


def _read_globals(function):
    """Return the functions, classes and constants that a function reads from modules, with their names."""
    names = _names_in(function.__code__)
    spaces = [function.__globals__]
    spaces += [vars(spaces[0][name]) for name in names if _is_own_module(spaces[0].get(name))]
    return [
        (name, space[name])
        for space in spaces
        for name in names
        if isinstance(space.get(name, ...), REFERRED)
    ]


def _names_in(code):
    """Return the names that code reads, and those in the functions inside it."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return sorted({*code.co_names, *(name for part in inner for name in _names_in(part))})


def _is_own_module(value):
    return isinstance(value, types.ModuleType) and not _of_library(
        value.__name__, getattr(value, "__file__", None) or LIBRARIES[0]
    )
