"""Every function of the table of operations against its path, in every spelling that torch offers."""

import inspect
import types
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lrp_nets import Net
from operation_samples import OPERATORS, FromImage, half, passed_on, samples_of
from torch.overrides import TorchFunctionMode, get_overridable_functions

from skexmap.lrp import Composite, Epsilon, On, UnsupportedOperationError
from skexmap.lrp._calls import plain_name
from skexmap.lrp._engine import RelevanceEngine
from skexmap.lrp._operations import RULES
from skexmap.lrp._tags import tensors_in

# Deprecated functions have rules, too.
pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
EPSILON_EVERYWHERE = Composite([(On(), Epsilon(1e-12))])


# --- Every way to write a call -------------------------------------------------------------------------------------


class Spelling(NamedTuple):
    """A way to write a call: a function of the values of the arguments."""

    label: str
    call: Callable
    in_place: bool = False


def attributes_of_torch():
    """Return where torch has the functions of each name: pairs of a home and an attribute."""
    found = {}
    for home in (torch, F, torch.Tensor, torch.linalg, torch.special):
        for attribute in dir(home):
            function = getattr(home, attribute)
            is_function = callable(function) and not isinstance(function, type)
            if is_function or isinstance(function, types.GetSetDescriptorType):
                found.setdefault(plain_name(function), []).append((home, attribute))
    return found


ATTRIBUTES = attributes_of_torch()


def spellings(name, sample):
    """Yield every way in which torch may offer a call."""
    names, options = list(sample.arguments), sample.keywords
    for home, attribute in ATTRIBUTES.get(name, ()):
        if home not in (sample.homes or (home,)):
            continue
        function = getattr(home, attribute)
        label = f"{home.__name__}.{attribute}"
        if not callable(function):
            yield Spelling(label, lambda values: getattr(values[0], name))
        elif function.__name__ in (f"{name}_", "__setitem__"):
            yield Spelling(label, in_place(function, options), True)
        else:
            yield Spelling(label, positional(function, options))
            yield Spelling(f"{label}, by name", by_name(function, names, options, int(home is torch.Tensor)))
            if has_flag(function):
                flagged = in_place(function, {**options, "inplace": True})
                yield Spelling(f"{label}, inplace=True", flagged, True)
    for function in () if options else OPERATORS.get(name, ()):
        operator = function.__name__
        yield Spelling(f"operator {operator}", positional(function), operator.startswith("i"))


def positional(function, options=None):
    return lambda values: function(*values, **(options or {}))


def by_name(function, names, options, n_positional):
    def call(values):
        named = dict(zip(names[n_positional:], values[n_positional:], strict=True))
        return function(*values[:n_positional], **named, **options)

    return call


def in_place(function, options):
    """Return the call with its result ignored: the caller goes on with the tensor that was written to."""

    def call(values):
        function(*values, **options)
        return values[0]

    return call


def has_flag(function):
    try:
        return "inplace" in inspect.signature(function).parameters
    except ValueError:
        return False


# --- The map of a tiny net, and the same from the path -------------------------------------------------------------


def values_of(sample, x, path=False):
    """Return the values of the arguments for an input."""

    def value(argument):
        if isinstance(argument, FromImage):
            return (argument.path if path else argument.of)(x)
        if isinstance(argument, list):
            return [value(item) for item in argument]
        if isinstance(argument, torch.Tensor):
            # A call in place may write to it.
            return argument.to(x.dtype if argument.is_floating_point() else argument.dtype, copy=True)
        return argument

    return [value(argument) for argument in sample.arguments.values()]


def floating(outputs):
    return [output for output in tensors_in([outputs]) if output.is_floating_point()]


def logit(outputs):
    """Return the weighted sum of all values, in double precision."""
    return sum((output * weights_of(output)).sum() for output in outputs).reshape(1, 1)


def weights_of(output):
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mixing(sample):
    """Return the weights of a layer that keeps the shape, and the sign that the sample needs."""
    width = sample.x.shape[-1]
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (weight.abs() if bool((sample.x > 0).all()) else weight).bfloat16().double()


PLACES = ("image", "layer", "factor", "gate")


def network(sample, call, place):
    """Return the net with a call on the image, behind a layer, as a factor of a signal, or on a gate that is one."""

    def forward(net, images):
        x = images[0]
        signal = x.mean()
        if place == "layer":
            x = F.linear(x, net.mixing.to(x.dtype))
        if place == "gate":
            x = torch.sigmoid(x)
        outputs = floating(call(values_of(sample, x)))
        net.types = {output.dtype for output in outputs}
        return logit([output * signal for output in outputs] if place in ("factor", "gate") else outputs)

    return Net(forward, mixing=mixing(sample))


def reference(sample, call, place):
    """Return the logit and the map from the sample's path, by plain autograd in double precision."""

    def function(*arguments, **options):
        return call(list(arguments))

    leaf = sample.x.clone().requires_grad_()
    x, signal = leaf, leaf.mean()
    if place == "layer":
        x = F.linear(x, mixing(sample))
    if place == "gate":
        x = passed_on(torch.sigmoid, x)
    outputs = floating(sample.path(function, *values_of(sample, x, path=True), **sample.keywords))
    if place in ("factor", "gate"):
        is_constant = sample.gate == "made" or (sample.gate == "kept" and place == "gate")
        outputs = [output.detach() * signal if is_constant else half(output * signal) for output in outputs]
    value = logit(outputs)
    return value.detach(), leaf.detach() * torch.autograd.grad(value.sum(), leaf)[0]


def explain(net, x):
    """Return the logit and the map that starts with it."""
    engine = RelevanceEngine(net, EPSILON_EVERYWHERE)
    found = engine.attribute(x[None], lambda logits: torch.ones(1), "logit")
    return found.logits, found.relevance[0]


def is_offered(sample, spelling, dtype=torch.float64):
    """Return whether torch offers a spelling for values of a type."""
    try:
        spelling.call(values_of(sample, sample.x.to(dtype, copy=True)))
    except (TypeError, AttributeError):
        return False
    except (RuntimeError, NotImplementedError) as error:
        # In place, the values may not fit.
        if spelling.in_place or "not implemented for" in str(error):
            return False
        raise
    return True


def distance(found, expected, scale):
    return float((found.double() - expected).abs().sum() / scale.abs().sum().clamp(min=1e-12))


def places(sample, dtype):
    """Return where a sample is tried in a type."""
    if dtype != torch.float64:
        return ("layer",) if dtype == torch.float32 else ("image",)
    return {"kept": PLACES, "unknown": PLACES[:2]}.get(sample.gate, PLACES[:3])


def faults(name, sample):
    """Yield a description of what is wrong, or "", for every spelling of a sample that torch offers."""
    found = [spelling for spelling in spellings(name, sample) if is_offered(sample, spelling)]
    plain = next((spelling.call for spelling in found if not spelling.in_place), None)
    expected = {place: reference(sample, plain, place) for place in PLACES} if found else {}
    for spelling in found:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for place in places(sample, dtype) if is_offered(sample, spelling, dtype) else ():
                yield fault(sample, spelling, place, dtype, expected[place])


def fault(sample, spelling, place, dtype, expected):
    net = network(sample, spelling.call, place)
    what = f"{spelling.label}, {place}, {dtype}"
    try:
        value, found = explain(net, sample.x.to(dtype))
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error}"
    # A logit may vanish where its terms cancel: measure both by the terms, which the map holds.
    errors = [distance(value, expected[0], expected[1]), distance(found, expected[1], expected[1])]
    tolerance = max(TOLERANCE[t] for t in (dtype, *net.types))
    return "" if max(errors) < tolerance else f"{what}: the logit and the map are off by {errors}"


def samples_by_name():
    found = {}
    for seed in (0, 1):
        for sample in samples_of(seed):
            for name in sample.names:
                found.setdefault(name, []).append(sample)
    return found


SAMPLES = samples_by_name()


def names_with(path):
    return [name for name, samples in SAMPLES.items() if samples[0].path == path]


def test_every_function_of_the_table_has_a_sample():
    assert SAMPLES.keys() == RULES.keys()


@pytest.mark.parametrize("name", [name for name in SAMPLES if callable(SAMPLES[name][0].path)])
def test_the_map_of_a_function_is_that_of_its_path_in_every_spelling(name):
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    try:
        found = [fault for sample in SAMPLES[name] for fault in faults(name, sample)]
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        pytest.skip("this version of torch cannot differentiate it")
    assert found, "torch offers no spelling of any sample"
    assert not any(found), "\n".join(filter(None, found))


@pytest.mark.parametrize("name", names_with(passed_on))
def test_an_elementwise_function_passes_relevance_on_where_its_input_is_zero(name):
    for sample in SAMPLES[name]:
        call = next(
            (spelling.call for spelling in spellings(name, sample) if is_offered(sample, spelling)), None
        )
        x = sample.x.clone()
        x.flatten()[::3] = 0
        output = None if call is None or sample.path != passed_on else call(values_of(sample, x))
        # A negative power of zero is infinite.
        if output is not None and output.isfinite().all():
            _, found = explain(network(sample, call, "image"), x)
            torch.testing.assert_close(found, output * weights_of(output))


def refusals(name):
    """Yield the message that refuses each spelling of a function, or None."""
    for sample in SAMPLES[name]:
        for spelling in spellings(name, sample):
            if is_offered(sample, spelling):
                try:
                    explain(network(sample, spelling.call, "image"), sample.x)
                except UnsupportedOperationError as error:
                    yield str(error)
                else:
                    yield None


@pytest.mark.parametrize("name", names_with("constant") + names_with("refused"))
def test_a_function_that_makes_a_constant_or_leaves_torch_ends_the_path(name):
    found = list(refusals(name))
    assert found
    constant = name in names_with("constant")
    expected = "does not depend on the images" if constant else f"The operation '{name}'"
    assert all(expected in message for message in found)


class Recorder(TorchFunctionMode):
    """Collects the names of all functions that it intercepts."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(plain_name(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SAMPLES)
def test_torch_calls_a_function_by_its_name_in_the_table(name):
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    recorder = Recorder()
    for sample in SAMPLES[name]:
        for spelling in spellings(name, sample):
            with recorder:
                is_offered(sample, spelling)
    assert name in recorder.names


# --- Functions that are not in the table ---------------------------------------------------------------------------

IMAGE = object()
OTHER = torch.linspace(0.1, 1, 24, dtype=torch.float64).reshape(4, 6).sin()
CALLS = [
    (IMAGE,),
    *((IMAGE, other) for other in (1, 2.0, (4, 6), torch.float64, torch.tensor([0, 1]), OTHER > 0.5)),
    *((IMAGE, 0, 1), (IMAGE, 1, torch.tensor([0, 1])), (IMAGE, 1, 0, 2)),
    *((IMAGE, OTHER), (OTHER, IMAGE), (IMAGE, IMAGE), (IMAGE, OTHER, OTHER), (OTHER, IMAGE, OTHER)),
    *(([IMAGE, OTHER],), ([OTHER, IMAGE], 1)),
]


def with_image(arguments, x):
    """Return the arguments with the image in its places."""
    return [
        x if argument is IMAGE else with_image(argument, x) if isinstance(argument, list) else argument
        for argument in arguments
    ]


def outcomes(function):
    """Yield, for every call that a function takes, the names that are intercepted and what the engine makes of it."""
    for call in CALLS:

        def outputs(x, call=call):
            return function(*with_image(call, x))

        recorder = Recorder()
        try:
            with recorder:
                result = outputs(OTHER.clone())
        except Exception:
            continue
        if result is not NotImplemented:
            yield recorder.names, outcome(outputs)


def outcome(outputs):
    """Return the error that a network with a call raises, or whether its result is floating."""

    def forward(net, images):
        net.found = floating(outputs(images[0] * 1.0))
        return logit(net.found or [images])

    net = Net(forward, found=None)
    try:
        explain(net, OTHER)
    except Exception as error:
        return type(error)
    return "floating" if net.found else "not floating"


def test_no_floating_result_of_a_function_without_a_rule_is_used():
    refused = set()
    for function in {function for home in get_overridable_functions().values() for function in home}:
        for names, result in outcomes(function):
            assert result != "floating" or names & RULES.keys(), names
            if result is UnsupportedOperationError:
                refused |= names
    assert refused >= {"exp", "sort", "prod", "copy"}
