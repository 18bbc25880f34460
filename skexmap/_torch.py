"""The frozen model: a private replica that runs, and a pickle that is identical for equal weights."""

import copy
import hashlib
import io
import multiprocessing
import pickle
import threading
import types
import weakref
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

# Model -> {(device, type): its Held replica}, and (content, device, type) -> replica, while it is referenced.
_REPLICAS = weakref.WeakKeyDictionary()
_SHARED = weakref.WeakValueDictionary()
# The replica that a worker process used last.
_LAST_IN_WORKER = []
# Tensor -> (fingerprint, its pickled form), and frozen copy of a model -> weak reference to the model.
_STATES = WeakTensorKeyDictionary()
_ORIGINS = weakref.WeakKeyDictionary()
_LOCK = threading.RLock()


def pick_device(device):
    """Return the torch device of a `device` argument; "auto" selects a GPU if there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


class Replica:
    """A copy of a user's model in evaluation mode that runs in its place, with its own tensors in channels-last format.

    The user's module is never called, moved or switched, so nothing that happens here, even an exception or Ctrl-C, can
    change it. All estimators with the same model, or one of equal content, share a replica. It is kept while such a
    model exists, and made again if the weights change.

    Attributes
    ----------
    module : torch.nn.Module
        The copy.
    dtype : torch.dtype
        Floating type of its weights.
    device : torch.device
    extras : dict
        Cache of objects derived from the weights (relevance engines); emptied when the weights change.
    """

    def __init__(self, model, device, dtype=None):
        self.device = device
        own = {id(values): _copy_tensor(values, device, dtype) for values in _tensors_of(model)}
        try:
            self.module = copy.deepcopy(model, dict(own))
        except Exception as error:
            raise TypeError(
                f"The model ({type(model).__name__}) cannot be copied ({error}). Attributions run on a copy, so that "
                "yours stays as it is: remove what cannot be copied from its attributes, or give it a `__deepcopy__`."
            ) from error
        self.module.eval().requires_grad_(False)
        for part in self.module.modules():
            # Remove backward hooks: they expect gradients, not relevance.
            part._backward_hooks.clear()
            part._backward_pre_hooks.clear()
        self.dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), None)
        self.extras = {}


@dataclass
class Held:
    """A model's quick fingerprint and its replica."""

    fingerprint: tuple
    replica: Replica


def replica_of(model, device, dtype=None):
    """Return the shared replica of a model on a device."""
    # Models of equal content share a replica. This helps in worker processes, where every task unpickles its own model.
    # There the last replica is kept until another one is requested, so that consecutive tasks share it too.
    with _LOCK:
        held = _REPLICAS.setdefault(model, {})
        key = (str(device), dtype)
        fingerprint = _quick_fingerprint(model)
        if key not in held or held[key].fingerprint != fingerprint:
            held[key] = Held(fingerprint, _replica_of_content(model, device, dtype))
        if multiprocessing.parent_process() is not None:
            _LAST_IN_WORKER[:] = [held[key].replica]
        return held[key].replica


def _replica_of_content(model, device, dtype):
    """Return the replica for the content of this model; make it if there is none."""
    content = content_of(model)
    if content is None:
        return Replica(model, device, dtype)
    key = (content, str(device), dtype)
    replica = _SHARED.get(key)
    if replica is None:
        replica = _SHARED[key] = Replica(model, device, dtype)
    return replica


def content_of(model):
    """Return a digest of a model's content, equal for its copies in this process; None if there is none."""
    # The digest is that of the model's pickle, with tensors replaced by digests of their values, and classes, functions
    # and modules replaced by their identity (a class that is redefined under its old name is another class). Models
    # that cannot be pickled, or that define how they are copied, have no digest.
    written = io.BytesIO()
    try:
        _ContentPickler(written).dump(model)
    except Exception:
        # Pickling runs code of the modules, which may raise anything. Such a model is simply not shared.
        return None
    return hashlib.sha256(written.getbuffer()).digest()


class _ContentPickler(pickle.Pickler):
    """Writes the content of a model for `content_of`; the result cannot be unpickled."""

    def __init__(self, file):
        super().__init__(file, protocol=5)
        self._tensors = {}

    def persistent_id(self, thing):
        if isinstance(thing, torch.Tensor):
            # Tied weights are one tensor; equal weights are two.
            number = self._tensors.setdefault(id(thing), len(self._tensors))
            return "tensor", number, id(type(thing)), _digest_of_tensor(thing)
        if isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
            # Replicas keep references to these objects, so that their ids are not reused.
            return "object", id(thing)
        if isinstance(thing, types.MethodType):
            # A pickle would only hold the name.
            return "method", thing.__func__, thing.__self__
        if hasattr(type(thing), "__deepcopy__") and not isinstance(thing, (np.ndarray, np.generic)):
            raise TypeError(f"{type(thing).__name__} copies itself in its own way.")
        return None


def _digest_of_tensor(values):
    """Return the type, the shape and a digest of the values of a tensor."""
    values = values.detach()
    if values.layout != torch.strided or values.is_quantized:
        raise TypeError("Only dense tensors have a digest.")
    bits = torch.view_as_real(values) if values.is_complex() else values
    bits = bits.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return str(values.dtype), tuple(values.shape), hashlib.sha256(bits).digest()


def check_model(model):
    """Raise unless model is an uncompiled torch module."""
    for name, kind, remedy in compiled_parts(model):
        which = f"Submodule {name!r}" if name else "The model"
        raise TypeError(f"{which} is {kind}: what it computes cannot be followed. {remedy}")
    return model


def compiled_parts(model):
    """Yield name, kind and remedy of every outermost submodule that is scripted, traced or compiled."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    found = []
    for name, module in model.named_modules():
        if any(not outer or name.startswith(f"{outer}.") for outer in found):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            kind, remedy = "scripted or traced", "Pass the original Python module."
        elif hasattr(module, "_orig_mod"):
            kind, remedy = "compiled", "Pass the original: `compiled._orig_mod`."
        elif getattr(module, "_compiled_call_impl", None) is not None:
            kind, remedy = "compiled in place", "Pass a module on which `.compile()` was not called."
        else:
            continue
        found.append(name)
        yield name, kind, remedy


def _tensors_of(model):
    """Yield every tensor of a module: parameters, buffers and plain attributes."""
    for module in model.modules():
        for home in (module._parameters, module._buffers, vars(module)):
            for values in home.values():
                if isinstance(values, torch.Tensor):
                    yield values


def _copy_tensor(values, device, dtype):
    """Copy a tensor to a device and type, with filters of convolutions in channels-last format."""
    with torch.no_grad():
        new = values.detach()
        new = new.to(device, dtype if new.is_floating_point() else None, copy=True)
        if new.ndim == 4:
            new = new.contiguous(memory_format=torch.channels_last)
    if isinstance(values, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=False)
    return new


def _quick_fingerprint(model):
    """Return a value that changes with the model: its structure, and each tensor's id, version and checksum."""
    tensors = tuple((id(values), *_fingerprint_of_tensor(values)) for values in _tensors_of(model))
    return _structure_of(model), tensors


def _fingerprint_of_tensor(values):
    return _version_of(values), tuple(values.shape), _checksum(values)


def _version_of(values):
    # Tensors made in inference mode have no version, so only their checksum is used.
    return None if values.is_inference() else values._version


def _structure_of(model):
    """Return the name, type and plain settings (stride, eps, p, ...) of every module, ignoring evaluation mode."""
    return tuple(
        (
            name,
            type(module),
            tuple(
                (key, value) for key, value in vars(module).items() if key != "training" and _is_plain(value)
            ),
        )
        for name, module in model.named_modules()
    )


def _is_plain(value):
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _checksum(values):
    """Return a number that changes with the values, because edits through `.data` or NumPy keep the version."""
    values = values.detach()
    if values.layout != torch.strided or values.is_meta or values.is_quantized:
        return None
    if values.is_complex():
        values = torch.view_as_real(values)
    bits = values.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])
    if bits.device.type != "cpu":
        # Multiply by the position to detect exchanged values; the overflow of integers is deterministic.
        bits = bits.flatten().long()
        return int((bits * torch.arange(1, 2 * len(bits), 2, device=bits.device)).sum())
    # A channels-last tensor is contiguous in another order of its axes.
    bits = bits.permute(sorted(range(bits.ndim), key=bits.stride, reverse=True))
    return zlib.crc32(bits.contiguous().numpy())


class TensorState:
    """The pickled form of a tensor: its values as a NumPy array, so that equal tensors have equal pickles."""

    def __init__(self, values):
        detached = values.detach().cpu()
        self.is_parameter = isinstance(values, torch.nn.Parameter)
        self.requires_grad = values.requires_grad
        self.dtype = str(detached.dtype).removeprefix("torch.")
        self.channels_last = detached.ndim == 4 and not detached.is_contiguous()
        detached = detached.contiguous()
        # NumPy has no bfloat16, so store its bits as integers.
        self.array = (detached.view(torch.int16) if detached.dtype == torch.bfloat16 else detached).numpy()

    def restore(self):
        """Return the tensor; it shares the array's memory if that is writable or mapped from a file."""
        if "_restored" in vars(self):
            # Tied weights share a tensor, and so do two copies of a model in one pickle.
            return self._restored
        array = writable(self.array)
        values = torch.from_numpy(array)
        if self.dtype == "bfloat16":
            values = values.view(torch.bfloat16)
        if self.channels_last:
            values = values.contiguous(memory_format=torch.channels_last)
        self._restored = torch.nn.Parameter(values, self.requires_grad) if self.is_parameter else values
        return self._restored


def writable(array):
    """Return an array that may be written to: itself, a private mapping of its file, or a copy."""
    # joblib passes large arrays to worker processes as read-only maps of one file. Map the file again, copy-on-write:
    # all workers then share the weights in memory, and writes to them do not reach the file.
    if array.flags.writeable:
        return array
    if isinstance(array, np.memmap) and array.filename is not None and array.mode == "r":
        order = "F" if array.flags.fnc else "C"
        try:
            return np.memmap(array.filename, array.dtype, "c", array.offset, array.shape, order)
        except OSError:
            # The file was removed, but the mapped memory is still readable.
            return np.array(array)
    return np.array(array)


def freeze_for_pickle(model):
    """Return a copy of a module with `TensorState` objects as tensors, whose pickle and hash are reproducible."""
    # A plain module pickles differently after every copy, because storages are numbered in the order of their creation.
    # So caches keyed by ``joblib.hash`` would never hit. The arrays share the model's memory if it is on the CPU.
    frozen = copy.deepcopy(model, {id(values): _state_of(values) for values in _tensors_of(model)})
    _ORIGINS[frozen] = weakref.ref(model)
    return frozen


def _state_of(values):
    """Return the pickled form of a tensor; the same object until the values change."""
    # joblib identifies arrays by their id, so it writes the weights to disk once for all its tasks, and estimators that
    # are pickled together share them.
    if values.device.type != "cpu" or not values.is_contiguous():
        return TensorState(values)
    with _LOCK:
        fingerprint = (*_fingerprint_of_tensor(values), values.requires_grad)
        kept = _STATES.get(values)
        if kept is None or kept[0] != fingerprint:
            kept = _STATES[values] = fingerprint, TensorState(values)
        return kept[1]


def thaw(model):
    """Undo `freeze_for_pickle`, and return the module."""
    # A frozen copy that never left this process (as in ``copy.copy``) is replaced by its original model. Any other copy
    # is restored in place.
    origin = _ORIGINS.get(model, lambda: None)()
    if origin is not None:
        return origin
    for module in model.modules():
        for home in (module._parameters, module._buffers, vars(module)):
            for name, values in home.items():
                if isinstance(values, TensorState):
                    home[name] = values.restore()
    return model


class FrozenModelMixin:
    """Mixin for estimators whose parameter `model` is a torch module that they never change.

    `clone` shares the module instead of copying it. Equal weights give the same pickle, and so the same
    ``joblib.hash``.
    """

    def __sklearn_clone__(self):
        # Let scikit-learn clone a stand-in without the model, to keep output settings and metadata requests.
        stand_in = object.__new__(type(self))
        vars(stand_in).update(vars(self), model=None)
        new = super(FrozenModelMixin, stand_in).__sklearn_clone__()
        new.model = self.model
        return new

    def __getstate__(self):
        state = super().__getstate__()
        state = dict(state if state is not self.__dict__ else self.__dict__)
        if isinstance(state.get("model"), torch.nn.Module):
            state["model"] = freeze_for_pickle(state["model"])
        return state

    def __setstate__(self, state):
        state = dict(state)
        if isinstance(state.get("model"), torch.nn.Module):
            state["model"] = thaw(state["model"])
        super().__setstate__(state)
