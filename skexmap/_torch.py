"""The frozen model: a private copy that runs, and a pickle that is identical for equal weights."""

import contextlib
import copy
import pickle
import types

import numpy as np
import torch
from joblib import wrap_non_picklable_objects
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

# Tensor -> its pickled form.
_STATES = WeakTensorKeyDictionary()
HALF = (torch.bfloat16, torch.float16)


def pick_device(device):
    """Return the torch device of a `device` argument; "auto" selects a GPU if there is one, else the CPU."""
    if device != "auto":
        try:
            chosen = torch.empty(0, device=device).device
        # Without a GPU, torch raises an AssertionError or a RuntimeError.
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f'device={str(device)!r} cannot be used here: {str(error).splitlines()[0]}. Pass "auto", "cpu", or '
                'the name of a device that torch has, such as "cuda" or "mps".'
            ) from error
        if chosen.type == "meta":
            raise ValueError("device='meta' holds no values: nothing can be computed there. Pass \"auto\".")
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Replica:
    """A copy of a user's model that runs in its place, in evaluation mode and channels-last format.

    Nothing that happens to the copy, even an exception or Ctrl-C, can change the user's module. Every call of `fit` or
    `transform` makes a new copy and drops it at the end. So it is always up to date, and no other thread runs it.

    Attributes
    ----------
    module : torch.nn.Module
        The copy. Compiled modules are replaced by their originals.
    dtype : torch.dtype
        Floating type of its weights.
    device : torch.device
    engine : RelevanceEngine or None
        Engine that explains the module; set by callers that need it.
    n_at_once : int or None
        Number of images that fit in the memory of a GPU; None until a batch did not.
    """

    # A copy made in a caller's inference mode could not take part in a backward pass.
    @torch.inference_mode(False)
    def __init__(self, model, device, dtype=None):
        for name in scripted_modules(model):
            which = f"Submodule {name!r}" if name else "The model"
            raise TypeError(
                f"{which} is scripted or traced: what it computes cannot be followed. Pass the original Python module."
            )
        n_without = sum(values.is_meta for values in _tensors_of(model))
        if n_without:
            raise ValueError(
                f"{n_without} tensors of the model ({type(model).__name__}) are on the device 'meta', so they have no "
                "values. Make the model on the CPU, or call `model.to_empty(device='cpu')`, and load its weights."
            )
        self.device = device
        try:
            self.module, memo = copy_of_model(model, lambda values: _copy_tensor(values, device, dtype))
            for part in self.module.modules():
                _detach_from_user(part, memo)
        except Exception as error:
            raise TypeError(
                f"The model ({type(model).__name__}) cannot be copied ({error}). Attributions run on a copy, so "
                "that yours is not changed. Remove the attribute that cannot be copied, or give it a `__deepcopy__`."
            ) from error
        self.module.eval().requires_grad_(False)
        self.dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), None)
        self.engine = self.n_at_once = None

    def prepared(self, images):
        """Return images on the device and in the type of the copy, with the channels last in memory."""
        dtype = self.dtype or (images.dtype if images.is_floating_point() else torch.float32)
        if images.is_inference():
            images = images.clone()
        images = images.to(self.device, dtype)
        return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def scripted_modules(model):
    """Return the names of the outermost submodules that are scripted or traced."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    found = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            found.append(name)
    return found


def copy_of_model(model, copy_tensor):
    """Return a deep copy with the tensors that a function makes of the model's, and the memo of `copy.deepcopy`."""
    memo = {id(values): copy_tensor(values) for values in _tensors_of(model)}
    # What a compiled module computes cannot be followed, so its original stands in for it. (A module on which
    # `compile()` was called is copied without what was compiled.)
    for module in reversed(list(model.modules())):
        if "_orig_mod" in module._modules:
            memo[id(module)] = copy.deepcopy(module._orig_mod, memo)
    return copy.deepcopy(model, memo), memo


def _containers(model):
    """Yield every dict and list of a module: parameters, buffers, and attributes with what is nested in them."""
    seen = set()
    waiting = [vars(module) for module in model.modules()]
    while waiting:
        container = waiting.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        yield container
        values = container.values() if isinstance(container, dict) else container
        waiting += [value for value in values if isinstance(value, (dict, list))]


def _tensors_of(model):
    """Yield every tensor of a module: parameters, buffers, and those in its attributes."""
    for container in _containers(model):
        values = container.values() if isinstance(container, dict) else container
        yield from (value for value in values if isinstance(value, torch.Tensor))


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


def _detach_from_user(part, memo):
    """Make the functions of a copied module refer to copies, and its hooks fit to be intercepted."""
    for name, value in vars(part).items():
        # A function without a closure stays itself: a module may compare it, as in `self.activation is F.relu`.
        if isinstance(value, types.FunctionType) and value.__closure__:
            vars(part)[name] = _copy_function(value, memo)
    for hooks in (part._forward_hooks, part._forward_pre_hooks):
        for key, hook in hooks.items():
            is_function = isinstance(hook, types.FunctionType)
            hooks[key] = _ForwardHook(_copy_function(hook, memo) if is_function else hook)
    # Remove backward hooks: they expect gradients, not relevance.
    part._backward_hooks.clear()
    part._backward_pre_hooks.clear()


def _copy_function(function, memo):
    """Return a function that uses copies of the modules of the model, and of the dicts, lists and sets."""
    # `copy.deepcopy` takes a function as it is, so it would call the user's modules and write to the user's containers.
    code, scope = function.__code__, function.__globals__
    new = types.FunctionType(
        code,
        {**scope, **{name: _copied(scope[name], memo) for name in code.co_names if name in scope}},
        function.__name__,
        tuple(_copied(value, memo) for value in function.__defaults__ or ()),
        tuple(types.CellType(_copied(cell.cell_contents, memo)) for cell in function.__closure__ or ()),
    )
    new.__kwdefaults__ = _copied(function.__kwdefaults__, memo)
    return new


def _copied(value, memo):
    """Return the copy of what belongs to the model, a copy of another dict, list or set, and any other value itself."""
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _copied(value.__self__, memo))
    if id(value) in memo or not isinstance(value, (dict, list, set)):
        return memo.get(id(value), value)
    new = memo[id(value)] = copy.copy(value)
    if isinstance(value, dict):
        new.update({key: _copied(item, memo) for key, item in value.items()})
    elif isinstance(value, list):
        new[:] = [_copied(item, memo) for item in value]
    return new


class _ForwardHook:
    """A forward hook of a copy: if it only reads, its operations are not intercepted, so it may do anything."""

    def __init__(self, hook):
        self.hook = hook

    def __call__(self, module, *args):
        with torch._C.DisableTorchFunction():
            with torch.no_grad():
                shown = tree_map_only(torch.Tensor, torch.clone, args)
                result = self.hook(module, *shown)
            if result is None and not any(
                isinstance(value, torch.Tensor) and value._version for value in tree_leaves(shown)
            ):
                # The model may use what the hook stores, so call the hook with the original tensors too. It may fail
                # on these, because they require gradients. Then it has stored its result for the clones.
                with contextlib.suppress(RuntimeError):
                    self.hook(module, *args)
                return None
        return self.hook(module, *args)


class TensorState:
    """The pickled form of a tensor: its values as a NumPy array, so that equal tensors have equal pickles."""

    def __init__(self, values):
        detached = values.detach().cpu()
        self.is_parameter = isinstance(values, torch.nn.Parameter)
        self.requires_grad = values.requires_grad
        self.dtype = str(detached.dtype).removeprefix("torch.")
        detached = detached.contiguous()
        # NumPy has no bfloat16, so store its bits as integers.
        self.array = (detached.view(torch.int16) if detached.dtype == torch.bfloat16 else detached).numpy()

    def restore(self):
        """Return the tensor; it shares the memory of an array that may be written to."""
        if "_restored" in vars(self):
            # Tied weights share a tensor, and so do two copies of a model in one pickle.
            return self._restored
        # joblib passes large arrays to worker processes as read-only maps of one file.
        values = torch.from_numpy(self.array if self.array.flags.writeable else np.array(self.array))
        if self.dtype == "bfloat16":
            values = values.view(torch.bfloat16)
        self._restored = torch.nn.Parameter(values, self.requires_grad) if self.is_parameter else values
        return self._restored


def freeze_for_pickle(model):
    """Return a copy of a module with `TensorState` objects as tensors, whose pickle and hash are reproducible."""
    # A plain module pickles differently after every copy, because storages are numbered in the order of their creation.
    # So caches keyed by ``joblib.hash`` would never hit. The arrays share the model's memory if it is on the CPU.
    return copy_of_model(model, _state_of)[0]


def _state_of(values):
    """Return the pickled form of a tensor; the same object while the tensor stays where it is."""
    # joblib identifies arrays by their id, so it writes the weights to disk once for all its tasks, and estimators that
    # are pickled together share them.
    if values.device.type != "cpu" or not values.is_contiguous():
        return TensorState(values)
    kept = _STATES.get(values)
    place = (values.data_ptr(), values.shape, values.dtype, values.requires_grad)
    if kept is None or kept[0] != place:
        kept = _STATES[values] = place, TensorState(values)
    return kept[1]


def thaw(model):
    """Undo `freeze_for_pickle` in place."""
    for container in _containers(model):
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            if isinstance(value, TensorState):
                container[key] = value.restore()


def widened(values):
    """Return a tensor with half precision, which NumPy lacks or computes slowly, as float32."""
    return values.float() if values.dtype in HALF else values


def _portable(value):
    """Return a value; a function or callable object that others cannot import in a form that is pickled whole."""
    if not callable(value) or isinstance(value, (type, torch.nn.Module)):
        return value
    whole = wrap_non_picklable_objects(value, keep_wrapper=False)
    try:
        if b"__main__" not in pickle.dumps(value):
            return value
    # A lambda is found under no name.
    except Exception:
        return whole
    try:
        pickle.dumps(whole)
    # What refers to a lock or an open file has a name only.
    except Exception:
        return value
    return whole


class FrozenModelMixin:
    """Mixin for estimators whose parameter `model` is a torch module that they never change.

    `clone` and `copy.copy` share the module instead of copying it. Equal weights give the same pickle, and so the same
    ``joblib.hash``.
    """

    def __sklearn_clone__(self):
        # Let scikit-learn clone a stand-in without the model, to keep output settings and metadata requests.
        stand_in = copy.copy(self)
        stand_in.model = None
        new = super(FrozenModelMixin, stand_in).__sklearn_clone__()
        new.model = self.model
        return new

    def __copy__(self):
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self, memo):
        new = memo[id(self)] = object.__new__(type(self))
        new.__setstate__(copy.deepcopy(self._frozen_state(), memo))
        return new

    def _frozen_state(self):
        state = dict(super().__getstate__())
        if isinstance(state.get("model"), torch.nn.Module):
            state["model"] = freeze_for_pickle(state["model"])
        return state

    def __getstate__(self):
        return {name: _portable(value) for name, value in self._frozen_state().items()}

    def __setstate__(self, state):
        if isinstance(state.get("model"), torch.nn.Module):
            thaw(state["model"])
        super().__setstate__(state)
