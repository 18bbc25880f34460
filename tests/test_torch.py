"""The user's model is left as it was found, whatever happens."""

import copy
import gc
import os
import pickle
import sys
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skexmap._torch import content_of, pick_device, replica_of
from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.lrp import LRP, UnsupportedOperationError, check_model

sys.path.insert(0, str(Path(__file__).parent / "features"))

from small_nets import SmallNet, WithoutReuse

IMAGES = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)


class UserNet(SmallNet):
    """A net in the middle of its user's life: hooks, gradients, frozen parts, attributes, mixed memory formats."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.epoch = 7
        self.scale = torch.tensor(2.0)
        self.train()
        self.norm.eval()
        self.conv.weight.requires_grad_(False)
        self.again.to(memory_format=torch.channels_last)
        self.hidden.weight.grad = torch.randn_like(self.hidden.weight)
        self.head.register_forward_hook(lambda module, inputs, output: None)
        self.hidden.register_full_backward_hook(lambda module, to_inputs, to_outputs: None)
        self.register_buffer("steps", torch.tensor(3), persistent=False)

    def forward(self, x):
        return super().forward(x * self.scale)


class CaptumNet(WithoutReuse, UserNet):
    pass


HOOKS = [name for name in vars(nn.Module()) if "hook" in name]


def facts_about(model):
    """Return everything about a model that must not change, by name."""
    facts = {"keys": list(model.state_dict())}
    for name, values in model.state_dict().items():
        facts[f"bytes of {name}"] = (
            values.detach().clone(memory_format=torch.contiguous_format).numpy().tobytes()
        )
    for module_name, module in model.named_modules():
        facts[f"attributes of {module_name}"] = {key: id(value) for key, value in vars(module).items()}
        facts[f"training of {module_name}"] = module.training
        for kind in HOOKS:
            hooks = getattr(module, kind)
            facts[f"{kind} of {module_name}"] = list(hooks.items()) if isinstance(hooks, dict) else hooks
        tensors = {**module._parameters, **module._buffers, **vars(module)}
        for key, values in tensors.items():
            if not isinstance(values, torch.Tensor):
                continue
            facts[f"tensor {module_name}.{key}"] = (
                id(values),
                values.data_ptr(),
                values.stride(),
                values.device,
                values.dtype,
                values.requires_grad,
                values._version,
                values.grad_fn,
                values._backward_hooks,
                dict(vars(values)),
            )
            if values.is_leaf and values.grad is not None:
                facts[f"gradient of {module_name}.{key}"] = id(values.grad), values.grad.numpy().tobytes()
    return facts


def logits_of(model):
    training = [module for module in model.modules() if module.training]
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(IMAGES)).clone()
    for module in training:
        module.training = True
    return logits


def changes(model, before):
    after = facts_about(model)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


class Failure(Exception):
    """What a model raises."""


class Interrupting(nn.Module):
    """Passes its input on, and raises at its n-th call."""

    def __init__(self):
        super().__init__()
        self.how = None

    def forward(self, x):
        if RAISE["left"] is not None:
            RAISE["left"] -= 1
            if RAISE["left"] < 0:
                raise RAISE["error"]
        return x


RAISE = {"left": None, "error": None}


@pytest.fixture(autouse=True)
def _no_failure_left():
    yield
    RAISE.update(left=None, error=None)


METHODS = [
    lambda model: HeatmapTransformer(model, size=4, batch_size=5).fit(IMAGES).transform(IMAGES),
    lambda model: HeatmapTransformer(
        model, return_embedding=True, attribution=LRP("epsilon_plus_flat")
    ).fit_transform(IMAGES),
    lambda model: EmbeddingTransformer(model, batch_size=5).fit_transform(IMAGES),
    lambda model: EmbeddingTransformer(model, layer="conv", batch_size=4).fit_transform(IMAGES),
    lambda model: check_model(model, IMAGES),
]
NAMES = ["heatmaps", "both", "embedding", "layer", "check_model"]
# These put hooks on the module that they explain.
CAPTUM = ["DeepLift", "GuidedBackprop"]


@pytest.mark.parametrize("use", METHODS, ids=NAMES)
def test_a_model_is_left_as_found_on_success(use):
    model = UserNet()
    logits, before = logits_of(model), facts_about(model)
    use(model)
    assert changes(model, before) == set()
    assert torch.equal(logits_of(model), logits)


@pytest.mark.parametrize("method", CAPTUM)
@pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks:UserWarning")
def test_a_model_is_left_as_found_by_methods_of_captum_that_put_hooks_on_it(method):
    attr = pytest.importorskip("captum.attr")

    def explain(copy_of_model, images, targets):
        return getattr(attr, method)(copy_of_model).attribute(images, target=targets)

    model = CaptumNet()
    before = facts_about(model)
    HeatmapTransformer(model, attribution=explain, size=4).fit_transform(IMAGES)
    assert changes(model, before) == set()


@pytest.mark.parametrize("error", [Failure("in forward"), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
@pytest.mark.parametrize("calls", [0, 1, 2, 3])
@pytest.mark.parametrize("use", METHODS[:4], ids=NAMES[:4])
def test_a_model_is_left_as_found_when_its_forward_fails(use, calls, error):
    model = UserNet()
    model.drop = Interrupting()
    logits, before = logits_of(model), facts_about(model)
    RAISE.update(left=calls, error=error)
    with pytest.raises(type(error)):
        use(model)
    RAISE["left"] = None
    assert changes(model, before) == set()
    assert torch.equal(logits_of(model), logits)
    # And everything works afterwards.
    use(model)


def test_a_model_is_left_as_found_when_an_operation_has_no_rule():
    class Odd(UserNet):
        def forward(self, x):
            return torch.exp(super().forward(x))

    model = Odd()
    before = facts_about(model)
    with pytest.raises(UnsupportedOperationError):
        HeatmapTransformer(model).fit(IMAGES)
    check_model(model, IMAGES)
    assert changes(model, before) == set()


def test_gradients_modes_and_random_states_are_left_alone():
    model = UserNet()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    HeatmapTransformer(model).fit_transform(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        HeatmapTransformer(model).fit_transform(IMAGES)
        assert not torch.is_grad_enabled()


def test_maps_are_the_same_under_no_grad_and_inference_mode():
    model = SmallNet()
    expected = HeatmapTransformer(model).fit_transform(IMAGES)
    with torch.no_grad():
        np.testing.assert_array_equal(HeatmapTransformer(model).fit_transform(IMAGES), expected)
    with torch.inference_mode():
        made_here = HeatmapTransformer(SmallNet())
        np.testing.assert_array_equal(made_here.fit_transform(torch.from_numpy(IMAGES) * 1), expected)
        assert check_model(SmallNet(), torch.from_numpy(IMAGES) * 1).ok
    np.testing.assert_array_equal(made_here.transform(IMAGES), expected)


LEFT_BEHIND = {
    "a forward hook": lambda model: model.conv.register_forward_hook(lambda *_: None),
    "a forward pre-hook": lambda model: model.conv.register_forward_pre_hook(lambda *_: None),
    "a backward hook": lambda model: model.conv.register_full_backward_hook(lambda *_: None),
    "a state-dict hook": lambda model: model._register_state_dict_hook(lambda *_: None),
    "a hook on a tensor": lambda model: model.head.weight.register_hook(lambda g: g),
    "a tag on a tensor": lambda model: setattr(model.head.weight, "tag", 1),
    "another mode": lambda model: model.norm.train(),
    "a changed weight": lambda model: model.head.bias.data.add_(1e-7),
    "a frozen weight": lambda model: model.head.bias.requires_grad_(False),
    "a gradient": lambda model: setattr(model.head.bias, "grad", torch.ones(2)),
    "a changed gradient": lambda model: model.hidden.weight.grad.mul_(2),
    "another memory format": lambda model: model.conv.to(memory_format=torch.channels_last),
    "another parameter": lambda model: setattr(model.head, "bias", nn.Parameter(model.head.bias.detach())),
    "an attribute": lambda model: setattr(model, "cache", {}),
    "a missing attribute": lambda model: delattr(model, "epoch"),
    "another forward": lambda model: setattr(model, "forward", lambda x: x),
    "a buffer": lambda model: model.register_buffer("extra", torch.ones(1)),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_the_check_itself_sees_what_is_left_behind(what):
    model = UserNet()
    before = facts_about(model)
    LEFT_BEHIND[what](model)
    assert changes(model, before) != set()


# --- Threads and memory --------------------------------------------------------------------------------------------


def test_two_threads_get_the_result_of_one():
    model = SmallNet()
    many = np.random.default_rng(1).normal(size=(64, 3, 8, 8)).astype(np.float32)
    maps = HeatmapTransformer(model, batch_size=4, normalize=None)
    embedding = EmbeddingTransformer(model, batch_size=4, layer="hidden").fit(many)
    expected = maps.fit_transform(many)
    expected_embedding = embedding.transform(many)
    start = threading.Barrier(4)

    def run(transformer):
        start.wait()
        return [transformer.transform(many) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(run, transformer) for transformer in (maps, embedding, maps, embedding)]
        results = [future.result() for future in futures]
    for result, reference in zip(results, [expected, expected_embedding] * 2, strict=True):
        for one in result:
            np.testing.assert_array_equal(one, reference)


def test_the_users_own_forwards_in_another_thread_are_not_disturbed():
    model = SmallNet().eval()
    x = torch.from_numpy(IMAGES)
    expected = model(x).detach().clone()
    maps = HeatmapTransformer(model, batch_size=2).fit(IMAGES)
    done = threading.Event()
    wrong = []

    def forwards():
        while not done.is_set():
            if not torch.equal(model(x).detach(), expected):
                wrong.append(1)

    thread = threading.Thread(target=forwards)
    thread.start()
    for _ in range(5):
        maps.transform(IMAGES)
    done.set()
    thread.join()
    assert not wrong


def live_tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("composite", ["epsilon_gamma", "epsilon_plus_flat"])
def test_two_hundred_batches_leave_no_tensor_behind(composite):
    maps = HeatmapTransformer(
        SmallNet(), batch_size=1, attribution=LRP(composite), return_embedding=True
    ).fit(IMAGES)
    maps.transform(IMAGES)
    gc.collect()
    # Nothing may wait for the garbage collector: a cycle would hold a batch of feature maps.
    gc.disable()
    try:
        before = live_tensors()
        for _ in range(17):
            maps.transform(IMAGES)
        assert live_tensors() == before
    finally:
        gc.enable()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_two_hundred_batches_do_not_grow_memory():
    big = np.zeros((200, 3, 64, 64), np.float32)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    maps = HeatmapTransformer(model, batch_size=1, size=2).fit(big[:2])
    maps.transform(big[:50])
    before = resident_megabytes()
    maps.transform(big)
    # One feature map of one image takes a quarter of a megabyte: 200 of them would be 50 or more.
    assert resident_megabytes() - before < 15


def test_a_refused_model_leaves_no_tensor_behind():
    class Odd(SmallNet):
        def forward(self, x):
            return torch.exp(super().forward(x))

    model = Odd()

    def refuse():
        with pytest.raises(UnsupportedOperationError):
            HeatmapTransformer(model).fit(IMAGES)

    refuse()
    gc.collect()
    before = live_tensors()
    for _ in range(5):
        refuse()
    gc.collect()
    assert live_tensors() == before


def test_replicas_die_with_their_model():
    model = SmallNet()
    replica = replica_of(model, torch.device("cpu"))
    alive = weakref.ref(replica.module)
    del replica
    assert alive() is not None
    del model
    gc.collect()
    assert alive() is None


CPU = torch.device("cpu")


def test_copies_of_a_model_share_a_replica_until_one_changes():
    model = UserNet()
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(HeatmapTransformer(SmallNet())))
    assert replica_of(copied, CPU) is replica_of(model, CPU)
    assert replica_of(pickled.model, CPU) is replica_of(pickle.loads(pickle.dumps(pickled)).model, CPU)
    assert replica_of(model, CPU, torch.float64) is not replica_of(model, CPU)
    with torch.no_grad():
        copied.head.bias.add_(1)
    assert replica_of(copied, CPU) is not replica_of(model, CPU)
    assert torch.equal(replica_of(copied, CPU).module.head.bias, model.head.bias + 1)
    with torch.no_grad():
        copied.head.bias.copy_(model.head.bias)
    assert replica_of(copied, CPU) is replica_of(model, CPU)


def test_a_shared_replica_dies_with_the_last_model():
    model = SmallNet()
    copied = copy.deepcopy(model)
    alive = weakref.ref(replica_of(model, CPU))
    assert replica_of(copied, CPU) is alive()
    del model
    gc.collect()
    assert alive() is not None
    del copied
    gc.collect()
    assert alive() is None


class WithAttribute(SmallNet):
    """Keeps what no state dict has."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept


def scaled(self, x):
    return 2 * SmallNet.forward(self, x)


def patched_forward(function, name="patched"):
    model = SmallNet()
    function = types.FunctionType(function.__code__, function.__globals__, name)
    model.forward = types.MethodType(function, model)
    return model


def tied(tie):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[3].load_state_dict(model[1].state_dict())
    if tie:
        model[3].weight = model[1].weight
    return model


def another_class_of_the_same_name():
    return type("SmallNet", (SmallNet,), {"__module__": SmallNet.__module__, "__qualname__": "SmallNet"})()


UNLIKE = {
    "a function": lambda: (WithAttribute(torch.relu), WithAttribute(torch.tanh)),
    "a lambda": lambda: (WithAttribute(lambda x: x), WithAttribute(lambda x: -x)),
    "a list": lambda: (WithAttribute([1, 2]), WithAttribute([1, 3])),
    "a tensor in a list": lambda: (WithAttribute([torch.zeros(2)]), WithAttribute([torch.ones(2)])),
    "a method of the same name": lambda: (patched_forward(scaled), patched_forward(SmallNet.forward)),
    "a class of the same name": lambda: (SmallNet(), another_class_of_the_same_name()),
    "a tie": lambda: (tied(True), tied(False)),
    "a type": lambda: (SmallNet(), SmallNet().double()),
    "a setting": lambda: (nn.Sequential(nn.Dropout(0.5)), nn.Sequential(nn.Dropout(0.25))),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_models_that_differ_in_anything_do_not_share(what):
    """The weights are equal: only what is named differs."""
    one, other = UNLIKE[what]()
    for values, others in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(values, others.to(values.dtype))
    assert content_of(one) is None or content_of(one) != content_of(other)
    assert replica_of(one, CPU) is not replica_of(other, CPU)


def test_a_class_defined_anew_under_its_old_name_is_another(monkeypatch):
    """As in a notebook, where a cell with a changed `forward` runs again: a pickle has the name only."""
    before = content_of(SmallNet())
    again = another_class_of_the_same_name()
    monkeypatch.setattr(sys.modules[SmallNet.__module__], "SmallNet", type(again))
    assert content_of(again) is not None
    assert content_of(again) != before


def test_equal_models_made_twice_share():
    assert content_of(WithAttribute([1, torch.zeros(2)])) == content_of(WithAttribute([1, torch.zeros(2)]))
    assert content_of(patched_forward(scaled)) is not None


@pytest.mark.parametrize("kind", ["no pickle", "its own copy"])
def test_a_model_whose_content_cannot_be_told_has_a_replica_of_its_own(kind):
    class OwnCopy(SmallNet):
        def __deepcopy__(self, memo):
            return SmallNet()

    one, other = (OwnCopy() if kind == "its own copy" else WithAttribute(NoPickle()) for _ in range(2))
    assert content_of(one) is None
    assert replica_of(one, CPU) is not replica_of(other, CPU)
    assert replica_of(one, CPU) is replica_of(one, CPU)


class NoPickle:
    """Can be copied but not pickled."""

    def __deepcopy__(self, memo):
        return self

    def __reduce_ex__(self, protocol):
        raise TypeError("no pickle")


def test_the_replica_runs_in_evaluation_mode_on_its_own_tensors():
    model = UserNet()
    replica = replica_of(model, torch.device("cpu"), torch.float64)
    assert not any(module.training for module in replica.module.modules())
    assert not any(values.requires_grad for values in replica.module.parameters())
    own = {values.data_ptr() for values in model.state_dict().values()}
    assert own.isdisjoint(values.data_ptr() for values in replica.module.state_dict().values())
    assert replica.module.conv.weight.dtype == torch.float64
    assert replica.module.steps.dtype == torch.int64
    assert replica.module.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_device_can_be_named():
    assert pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_maps_and_leaves_the_model_where_it_is():
    model = UserNet()
    before = facts_about(model)
    on_gpu = HeatmapTransformer(model, device="cuda").fit_transform(IMAGES)
    assert changes(model, before) == set()
    on_cpu = HeatmapTransformer(model, device="cpu").fit_transform(IMAGES)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-2, atol=1e-3)
