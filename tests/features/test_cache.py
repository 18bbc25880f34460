"""Clones, pickles and hashes of the transformers."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from small_nets import SHOWN, CountingNet, SmallNet

from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.lrp import LRP

TRANSFORMERS = [HeatmapTransformer, EmbeddingTransformer]


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("Transformer", TRANSFORMERS)
def test_a_clone_shares_the_model_and_copies_the_rest(Transformer):
    original = Transformer(SmallNet(), batch_size=3).set_output(transform="pandas")
    cloned = clone(original)
    assert cloned is not original
    assert cloned.model is original.model
    assert cloned.batch_size == 3
    assert cloned._sklearn_output_config == {"transform": "pandas"}
    assert clone(Pipeline([("maps", original)])).named_steps["maps"].model is original.model


@pytest.mark.parametrize("Transformer", TRANSFORMERS)
@pytest.mark.parametrize("copy_it", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copied_transformer_gives_the_same_results(Transformer, copy_it, images):
    net = SmallNet()
    net.hidden.weight.requires_grad_(False)
    fitted = Transformer(net).fit(images)
    copied = copy_it(fitted)
    assert copied.model is not fitted.model
    assert_array_equal(copied.transform(images), fitted.transform(images))
    assert list(copied.model.state_dict()) == list(net.state_dict())
    for (name, mine), theirs in zip(net.named_parameters(), copied.model.parameters(), strict=True):
        assert isinstance(theirs, torch.nn.Parameter), name
        assert torch.equal(mine, theirs)
        assert mine.requires_grad == theirs.requires_grad


def test_tied_weights_stay_tied_in_a_pickle():
    net = SmallNet()
    net.again.weight = torch.nn.Parameter(net.again.weight.detach().clone())
    net.spare = torch.nn.Conv2d(4, 4, 3)
    net.spare.weight = net.again.weight
    copied = pickle.loads(pickle.dumps(HeatmapTransformer(net))).model
    assert copied.spare.weight is copied.again.weight


def test_a_half_precision_model_can_be_pickled():
    net = SmallNet().to(torch.bfloat16)
    copied = pickle.loads(pickle.dumps(EmbeddingTransformer(net))).model
    assert copied.conv.weight.dtype == torch.bfloat16
    assert torch.equal(copied.conv.weight, net.conv.weight)


@pytest.mark.parametrize("Transformer", TRANSFORMERS)
def test_equal_weights_have_equal_hashes(Transformer):
    first, second = Transformer(SmallNet()), Transformer(SmallNet())
    assert joblib.hash(first) == joblib.hash(second) == joblib.hash(clone(first))
    assert (
        joblib.hash(first)
        == joblib.hash(pickle.loads(pickle.dumps(first)))
        == joblib.hash(copy.deepcopy(first))
    )
    assert joblib.hash(first) != joblib.hash(Transformer(SmallNet(seed=1)))
    assert joblib.hash(first) != joblib.hash(Transformer(SmallNet(), batch_size=5))


def test_hashes_are_equal_across_processes():
    pytest.importorskip("torchvision")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import joblib\n"
        "import torchvision\n"
        "from small_nets import SmallNet\n"
        "from skexmap.features import HeatmapTransformer\n"
        "from skexmap.features._identity import digest\n"
        "print(joblib.hash(HeatmapTransformer(SmallNet(), size=4)))\n"
        "net = SmallNet()\n"
        "net.inner = torchvision.models.resnet18(weights=None).requires_grad_(False)\n"
        "for weights in net.inner.state_dict().values(): weights.zero_()\n"
        "net.again.register_forward_hook(lambda *args: args[2] if args[1] in ({1, 'a', 'b', 'c'}, 2) else None)\n"
        "print(digest((net, {'a', 'b', 'c'}, frozenset(['x', 'y']))).hex())\n"
    )
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    (text,) = found
    assert text.split()[0] == joblib.hash(HeatmapTransformer(SmallNet(), size=4))


SCRIPT = """
import copy, sys
sys.path.insert(0, {tests!r})
import joblib, numpy as np, torch
from sklearn.base import clone
from small_nets import SmallNet
from skexmap.features import HeatmapTransformer, ImageLoader

def times(image, factor=2):
    return torch.as_tensor(image) * FACTOR * factor

class Times:
    def __call__(self, image):
        return times(image, 1)

def attribution(model, images, targets):
    return images.detach() * FACTOR

FACTOR = 3
images = np.arange(4 * 192, dtype=np.float32).reshape(4, 3, 8, 8)
fitted = []
for load in (times, Times(), ImageLoader(times), lambda image: times(image, 3)):
    fitted.append(HeatmapTransformer(SmallNet(), load=load, attribution=attribution, normalize=None).fit(images))
    copied = copy.deepcopy(fitted[-1])
    assert copied.attribution is clone(fitted[-1]).attribution is attribution
    assert joblib.hash(fitted[-1]) == joblib.hash(copied)
joblib.dump(fitted, {file!r})
again = joblib.load({file!r})
np.save({expected!r}, [[one.transform(images) for one in many] for many in (fitted, again)])
"""


def test_functions_of_a_script_survive_a_dump(tmp_path):
    file, expected = str(tmp_path / "dump"), str(tmp_path / "expected.npy")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), file=file, expected=expected))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = np.arange(4 * 192, dtype=np.float32).reshape(4, 3, 8, 8)
    found = [one.transform(images) for one in joblib.load(file)]
    assert_array_equal([found, found], np.load(expected))


def keep_three_channels(module, inputs, output):
    return output * torch.tensor([0.0, 1, 1, 1])[:, None, None]


class HoldingNet(SmallNet):
    """Uses what no state dict has."""

    def __init__(self):
        super().__init__()
        self.function, self.settings, self.factors = torch.sigmoid, {"scale": 1.0}, [1.0]
        self.hook = self.conv.register_forward_hook(keep_three_channels)

    def features(self, x):
        return super().features(self.function(x * self.settings["scale"]) * self.factors[0])


CHANGES = {
    "in place": lambda net: net.head.weight.data.mul_(2),
    "through NumPy": lambda net: net.head.bias.detach().numpy().__setitem__(0, 5.0),
    "by a new parameter": lambda net: setattr(net.head, "weight", torch.nn.Parameter(net.head.weight * 3)),
    "by load_state_dict": lambda net: net.load_state_dict(SmallNet(seed=3).state_dict()),
    "in a buffer": lambda net: net.norm.running_var.mul_(3),
    "by another activation": lambda net: setattr(net, "relu", torch.nn.SiLU()),
    "by a setting of a layer": lambda net: setattr(net.norm, "eps", 0.5),
    "by another function": lambda net: setattr(net, "function", torch.tanh),
    "in a dict": lambda net: net.settings.update(scale=3.0),
    "in a list": lambda net: net.factors.__setitem__(0, 5.0),
    "by another method": lambda net: setattr(net, "features", super(HoldingNet, net).features),
    "by a new hook": lambda net: net.again.register_forward_hook(keep_three_channels),
    "by a removed hook": lambda net: net.hook.remove(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_changes_the_hash_and_the_next_results(change, images):
    net = HoldingNet()
    settings = {"normalize": None, "attribution": LRP(initial_relevance="logit"), "return_embedding": True}
    transformer = HeatmapTransformer(net, **settings).fit(images)
    before, hashed = transformer.transform(images), joblib.hash(HeatmapTransformer(net))
    CHANGES[change](net)
    after = transformer.transform(images)
    expected = HeatmapTransformer(copy.deepcopy(net), **settings).fit_transform(images)
    if change != "by another method":
        assert joblib.hash(HeatmapTransformer(net)) != hashed
    for block in ("embedding", "heatmap"):
        assert_allclose(after[block], expected[block], rtol=1e-5, atol=1e-7)
    assert not np.array_equal(after["heatmap"], before["heatmap"])


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
def test_a_pipeline_with_memory_shows_the_images_once(images, tmp_path):
    y = np.arange(10) % 2
    steps = [("maps", HeatmapTransformer(CountingNet(), size=4)), ("model", LogisticRegression())]
    pipe = Pipeline(steps, memory=str(tmp_path))
    pipe.fit(images, y)
    SHOWN.clear()
    clone(pipe).set_params(model__C=0.1).fit(images, y)
    assert SHOWN == []
    clone(pipe).set_params(maps__size=2).fit(images, y)
    assert sum(SHOWN) > 0
