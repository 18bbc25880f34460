"""The user's model is left as it was found, whatever happens."""

import copy
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skexmap._torch import Replica, pick_device
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


@pytest.mark.parametrize("use", METHODS, ids=NAMES)
def test_a_model_is_left_as_found_on_success(use):
    model = UserNet()
    logits, before = logits_of(model), facts_about(model)
    use(model)
    assert changes(model, before) == set()
    assert torch.equal(logits_of(model), logits)


@pytest.mark.parametrize("error", [Failure("in forward"), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
@pytest.mark.parametrize("calls", [0, 3])
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
    # And everything works afterward.
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
    "another mode": lambda model: model.norm.train(),
    "a changed weight": lambda model: model.head.bias.data.add_(1e-7),
    "a changed gradient": lambda model: model.hidden.weight.grad.mul_(2),
    "another memory format": lambda model: model.conv.to(memory_format=torch.channels_last),
    "an attribute": lambda model: setattr(model, "cache", {}),
    "a buffer": lambda model: model.register_buffer("extra", torch.ones(1)),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_the_check_itself_sees_what_is_left_behind(what):
    model = UserNet()
    before = facts_about(model)
    LEFT_BEHIND[what](model)
    assert changes(model, before) != set()


# --- The copy of each call ---------------------------------------------------------------------------------------


class Record:
    """Hooks that keep what they see in a container of the user."""

    def __init__(self):
        self.seen = {"outputs": []}

    def by_closure(self):
        seen = self.seen
        return lambda module, inputs, output: seen["outputs"].append(output.detach().cpu().numpy())

    def by_default(self):
        def hook(module, inputs, output, seen=self.seen):
            seen["norm"] = output.norm(dim=0).numpy()

        return hook

    def by_global(self):
        SEEN.clear()
        self.seen = SEEN
        return record_globally

    def by_method(self):
        return self.method

    def method(self, module, inputs, output):
        self.seen["output"] = output


SEEN = {}


def record_globally(module, inputs, output):
    SEEN["output"] = output.cumsum(1)


@pytest.mark.parametrize("kind", ["by_closure", "by_default", "by_global", "by_method"])
def test_hooks_that_only_read_are_harmless_and_do_not_write_to_the_users_containers(kind):
    expected = HeatmapTransformer(SmallNet(), return_embedding=True).fit_transform(IMAGES)
    model, record = SmallNet(), Record()
    model.conv.register_forward_hook(getattr(record, kind)())
    before = copy.deepcopy(record.seen)
    found = HeatmapTransformer(model, return_embedding=True).fit_transform(IMAGES)
    np.testing.assert_array_equal(found, expected)
    assert record.seen == before
    assert check_model(model, IMAGES).ok


def test_hooks_that_return_or_write_a_value_act():
    mask = torch.tensor([0.0, 1, 1, 1])[:, None, None]

    class Masked(SmallNet):
        def forward(self, x):
            x = self.relu(self.norm(self.conv(x) * mask))
            x = x + self.again(x)
            return self.head(self.relu(self.hidden(self.pool(x).flatten(1))))

    expected = HeatmapTransformer(Masked()).fit_transform(IMAGES)
    assert not np.allclose(HeatmapTransformer(SmallNet()).fit_transform(IMAGES), expected)

    def write(module, inputs, output):
        output.mul_(mask)

    for hook in (lambda module, inputs, output: output * mask, write):
        model = SmallNet()
        handle = model.conv.register_forward_hook(hook)
        np.testing.assert_array_equal(HeatmapTransformer(model).fit_transform(IMAGES), expected)
        handle.remove()
        assert not np.allclose(HeatmapTransformer(model).fit_transform(IMAGES), expected)


def test_what_a_hook_records_is_followed_if_the_model_uses_it():
    class WithoutNorm(SmallNet):
        def __init__(self):
            super().__init__()
            self.norm = nn.Identity()

    class Recorded(WithoutNorm):
        def __init__(self):
            super().__init__()
            self.kept = {}
            self.conv.register_forward_hook(lambda module, inputs, output: self.kept.update(conv=output))

        def features(self, x):
            self.conv(x)
            x = self.relu(self.norm(self.kept["conv"]))
            x = x + self.again(x)
            return self.relu(self.hidden(self.pool(x).flatten(1)))

    model = Recorded()
    # The user's own forward pass leaves a tensor with a gradient in the dict.
    model(torch.from_numpy(IMAGES))
    kept = model.kept["conv"]
    expected = HeatmapTransformer(WithoutNorm()).fit_transform(IMAGES)
    np.testing.assert_allclose(
        HeatmapTransformer(model).fit_transform(IMAGES), expected, rtol=1e-5, atol=1e-6
    )
    assert model.kept["conv"] is kept


def test_a_function_that_a_model_holds_uses_the_copy_and_not_the_users_module():
    model = SmallNet().double()
    # Of the model in training mode and in double precision, dropout would be active and the types would clash.
    forward = model.forward
    model.train().forward = lambda x: 2 * forward(x)
    found = HeatmapTransformer(model, dtype="float32", normalize=None, attribution=LRP(epsilon=0.1))
    expected = HeatmapTransformer(SmallNet(), normalize=None, attribution=LRP(epsilon=0.1))
    np.testing.assert_allclose(
        found.fit_transform(IMAGES), expected.fit_transform(IMAGES), rtol=1e-4, atol=1e-6
    )


def compiled_in_place(model):
    model.compile()
    return model


def with_a_compiled_part(model):
    model.conv = torch.compile(model.conv)
    return model


@pytest.mark.parametrize("compiled", [torch.compile, compiled_in_place, with_a_compiled_part])
def test_of_a_compiled_model_the_original_runs(compiled):
    model = compiled(UserNet())
    before = facts_about(model)
    for make in (HeatmapTransformer, EmbeddingTransformer):
        np.testing.assert_array_equal(
            make(model).fit_transform(IMAGES), make(UserNet()).fit_transform(IMAGES)
        )
    assert check_model(model, IMAGES).ok
    assert changes(model, before) == set()


def test_the_copy_runs_in_evaluation_mode_on_its_own_tensors():
    model = UserNet()
    model.scales = [torch.tensor(2.0)]
    replica = Replica(model, torch.device("cpu"), torch.float64)
    assert not any(module.training for module in replica.module.modules())
    assert not any(values.requires_grad for values in replica.module.parameters())
    own = {values.data_ptr() for values in model.state_dict().values()}
    assert own.isdisjoint(values.data_ptr() for values in replica.module.state_dict().values())
    assert replica.module.conv.weight.dtype == replica.module.scales[0].dtype == torch.float64
    assert replica.module.steps.dtype == torch.int64
    assert replica.module.conv.weight.is_contiguous(memory_format=torch.channels_last)


# --- Threads and memory --------------------------------------------------------------------------------------------


class CaptumNet(WithoutReuse, UserNet):
    pass


def grad_cam(model, images, targets):
    attr = pytest.importorskip("captum.attr")
    return attr.LayerGradCam(model, model.module.again).attribute(images, target=targets)


def by_captum(name):
    def explain(model, images, targets):
        attr = pytest.importorskip("captum.attr")
        return getattr(attr, name)(model).attribute(images, target=targets)

    return explain


# The methods of captum put hooks on the module that they explain.
ATTRIBUTIONS = {
    "lrp": "lrp",
    "deep_lift": by_captum("DeepLift"),
    "guided_backprop": by_captum("GuidedBackprop"),
    "integrated_gradients": by_captum("IntegratedGradients"),
    "grad_cam": grad_cam,
}


@pytest.mark.parametrize("pair", list(combinations_with_replacement(ATTRIBUTIONS, 2)), ids=" and ".join)
@pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks:UserWarning")
def test_two_threads_get_the_maps_of_one_and_leave_the_model_as_found(pair):
    model = CaptumNet()
    before = facts_about(model)
    transformers = [
        HeatmapTransformer(model, attribution=ATTRIBUTIONS[name], batch_size=4, normalize=None).fit(IMAGES)
        for name in pair
    ]
    expected = [transformer.transform(IMAGES) for transformer in transformers]
    start = threading.Barrier(2)

    def run(transformer):
        start.wait()
        return [transformer.transform(IMAGES) for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, transformers))
    for found, reference in zip(results, expected, strict=True):
        for one in found:
            np.testing.assert_array_equal(one, reference)
    assert changes(model, before) == set()


def live_tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("composite", ["epsilon_gamma", "epsilon_plus_flat"])
def test_two_hundred_batches_leave_no_tensor_behind(composite):
    model = UserNet()
    maps = HeatmapTransformer(model, batch_size=1, attribution=LRP(composite), return_embedding=True)
    maps.fit(IMAGES).transform(IMAGES)
    gc.collect()
    # Nothing may wait for the garbage collector: a cycle would hold a batch of feature maps, or a copy of the model.
    gc.disable()
    try:
        before = live_tensors()
        for _ in range(17):
            maps.transform(IMAGES)
        assert live_tensors() == before
    finally:
        gc.enable()


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
