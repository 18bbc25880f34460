"""A digest of everything that a result depends on: weights, settings, and the code of functions and classes."""

import contextlib
import dis
import enum
import functools
import hashlib
import sys
import sysconfig
import types
import weakref
from collections import deque
from functools import cached_property, partial, partialmethod
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
        scope.append(getattr(function, "__wrapped__", None))
        # What `functools.singledispatch` selects from.
        registry = getattr(function, "registry", None)
        scope += list(registry.values()) if isinstance(registry, types.MappingProxyType) else []
        if _of_library(function.__module__, function.__code__.co_filename):
            # A decorator of a library holds the function that it decorates.
            self.add(_version(function.__module__))
            scope = [value for value in scope if isinstance(value, REFERRED)]
        else:
            for name, value in _read_globals(function):
                self._referred(name, value)
        self._many("function", [function.__code__, *scope])

    def add_class(self, cls):
        """Add the functions and constants of a class and of the classes that it inherits from."""
        for part in cls.__mro__[:-1]:
            # The rest of torch changes with its version only.
            is_of_torch = part.__module__.partition(".")[0] == "torch"
            for name in ("forward",) if is_of_torch else vars(part):
                self._member(name, vars(part).get(name), _is_own_class(part))
        if issubclass(cls, enum.Enum):
            self._many("members", [(name, member.value) for name, member in cls.__members__.items()])

    def _member(self, name, value, is_own):
        """Add a function or a constant of a class; of the user's own also containers and objects."""
        value = getattr(value, "__func__", value)
        kinds = (*FIXED, type, dict, list, set) if is_own else FIXED
        for member in (value.fget, value.fset) if isinstance(value, property) else (value,):
            member = member.func if isinstance(member, cached_property) else member
            is_code = isinstance(member, (types.FunctionType, partial, partialmethod))
            is_value = isinstance(member, kinds) or (is_own and _is_own_class(type(member)))
            if is_code or (is_value and not name.startswith("__")):
                self._referred(name, member)

    def _referred(self, name, value):
        """Add what code refers to by name; of an object that holds a lock or the like, only what comes before that."""
        self._text(name)
        with contextlib.nullcontext() if isinstance(value, REFERRED) else contextlib.suppress(ValueError):
            self.add(value)

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
            is_derived = isinstance(getattr(type(module), name, None), cached_property)
            if name not in NOT_COMPUTED and not is_derived:
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
    """Return what a function reads from modules, with the names, if it is followed."""
    names, read, imported = set(), set(), set()
    for code in _codes_in(function.__code__):
        names.update(code.co_names)
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                read.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                package = function.__globals__.get("__package__")
                imported |= {
                    step.argval,
                    step.argval.partition(".")[0],
                    f"{package}.{step.argval}".rstrip("."),
                }
    scope = function.__globals__
    found = [(name, scope[name]) for name in sorted(read & scope.keys())]
    modules = [value for _, value in found] + [sys.modules.get(name) for name in sorted(imported)]
    entered = []
    # The list grows, because a package holds modules.
    for module in modules:
        if _is_own_module(module) and module not in entered:
            entered.append(module)
            inside = [(name, vars(module)[name]) for name in sorted(names & vars(module).keys())]
            found += inside
            modules += [value for _, value in inside]
    return [(name, value) for name, value in found if _is_followed(value)]


def _codes_in(code):
    """Return code and that of the functions inside it."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [code, *(part for const in inner for part in _codes_in(const))]


def _is_followed(value):
    """Return whether code that reads a global value depends on it in a way that can be compared."""
    if isinstance(value, (*REFERRED, torch.nn.Module, enum.Enum)):
        return True
    # A function with a cache around it.
    if "__wrapped__" in getattr(value, "__dict__", ()):
        return True
    is_frozen = getattr(getattr(type(value), "__dataclass_params__", None), "frozen", False)
    return (is_frozen or callable(value)) and _is_own_class(type(value))


def _is_own_class(cls):
    module = sys.modules.get(cls.__module__, sys.modules.get(cls.__module__.partition(".")[0]))
    return module is None or cls.__module__ == "__main__" or _is_own_module(module)


def _is_own_module(value):
    return isinstance(value, types.ModuleType) and not _of_library(
        value.__name__, getattr(value, "__file__", None) or LIBRARIES[0]
    )
