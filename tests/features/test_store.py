"""`cache=`: what is computed again and what is not, after changes, damage, interruptions and in other processes."""

import copy
import errno
import importlib
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
import zipfile
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from small_nets import SHOWN, CountingNet

from skexmap.exceptions import SkexmapWarning
from skexmap.features import EmbeddingTransformer, HeatmapTransformer, ImageLoader, _loading, _store
from skexmap.features._identity import digest
from skexmap.lrp import LRP, register


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def cached(images, tmp_path):
    """A transformer with a cache of the 10 images, in blocks of 4, 4 and 2."""
    transformer = cached_in(tmp_path)
    transformer.fit_transform(images)
    return transformer


def cached_in(folder, net=None, **params):
    params = {"size": 4, "return_embedding": True, "batch_size": 4, **params}
    return HeatmapTransformer(CountingNet() if net is None else net, cache=folder, **params)


def n_computed(act, *args):
    """Return how many images a call shows to a CountingNet."""
    SHOWN.clear()
    act(*args)
    return sum(SHOWN)


def blocks_in(folder):
    return sorted(Path(folder).rglob("*.npz"))


# --- What is computed ----------------------------------------------------------------------------------------------


def test_each_image_is_computed_once_whatever_the_order_the_batches_and_the_transformer(images, tmp_path):
    expected = cached_in(None).fit_transform(images)
    cached = cached_in(tmp_path).fit(images[:2])
    assert n_computed(cached.transform, images[:7]) == 7
    SHOWN.clear()
    found = cached.transform(images[::-1])
    assert sum(SHOWN) == 3
    for block in expected.dtype.names:
        np.testing.assert_allclose(found[block], expected[block][::-1], rtol=1e-4, atol=1e-5)
    other = cached_in(str(tmp_path), batch_size=3).fit(images[:2])
    assert n_computed(other.transform, torch.from_numpy(images)) == 0


def test_missing_images_are_gathered_into_full_batches(images, tmp_path):
    expected = cached_in(None).fit_transform(images)
    cached = cached_in(tmp_path).fit(images)
    cached.transform(images[::2])
    SHOWN.clear()
    found = cached.transform(images)
    assert SHOWN == [4, 1]
    np.testing.assert_allclose(found["heatmap"], expected["heatmap"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "transformer",
    [
        HeatmapTransformer(CountingNet(), size=4, batch_size=4),
        HeatmapTransformer(CountingNet(), return_embedding=True, dtype="bfloat16", batch_size=4),
        EmbeddingTransformer(CountingNet(), return_predicted=True, batch_size=4),
        EmbeddingTransformer(CountingNet(), layer="conv", batch_size=4),
    ],
    ids=["maps", "half precision", "embeddings", "a layer"],
)
def test_what_is_computed_and_what_is_read_is_bitwise_what_no_cache_gives(transformer, images, tmp_path):
    expected = transformer.fit_transform(images)
    transformer.set_params(cache=tmp_path)
    assert_array_equal(transformer.transform(images), expected)
    SHOWN.clear()
    found = transformer.transform(images)
    assert SHOWN == []
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected)
    found[:] = np.zeros_like(found)
    assert_array_equal(transformer.transform(images), expected)


def test_the_folder_holds_one_file_for_each_batch_and_no_pickle(cached, tmp_path):
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        with np.load(path, allow_pickle=False) as arrays:
            assert {name: len(arrays[name]) for name in arrays} == dict.fromkeys(arrays, len(arrays["keys"]))


def test_a_large_result_is_kept_in_a_file_and_can_be_sent_to_other_processes(
    cached, images, tmp_path, monkeypatch
):
    expected = cached.transform(images)
    monkeypatch.setattr(_store, "LARGEST_IN_MEMORY", 0)
    found = cached.transform(images)
    assert type(found) is np.ndarray
    assert not found.flags.owndata
    assert_array_equal(found, expected)
    maps = cached.set_params(return_embedding=False).fit(images).transform(images)
    assert not maps.flags.owndata
    (sums,) = joblib.Parallel(2, max_nbytes=1)([joblib.delayed(np.sum)(maps)])
    assert sums == maps.sum()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 6


class TestFiles:
    @pytest.fixture
    def paths(self, images, tmp_path):
        image_module = pytest.importorskip("PIL.Image")
        paths = [tmp_path / f"{i}.png" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            pixels = np.uint8(255 * (image > 0)).transpose(1, 2, 0)
            image_module.fromarray(pixels).save(path)
        return np.array([str(path) for path in paths])

    def test_known_files_are_not_opened_and_changed_ones_are(self, paths, tmp_path, monkeypatch):
        cached = cached_in(tmp_path / "cache", load=ImageLoader())
        before = cached.fit_transform(paths)
        monkeypatch.chdir(tmp_path)
        names = [os.path.basename(path) for path in paths]
        with monkeypatch.context() as patch:
            patch.setattr(_loading, "open_image", None)
            assert_array_equal(cached.transform(names), before)
        shutil.copy(paths[4], paths[3])
        SHOWN.clear()
        after = cached.transform(paths)
        assert sum(SHOWN) == 1
        assert np.flatnonzero(after != before).tolist() == [3]

    def test_another_transform_of_the_files_is_noticed(self, paths, tmp_path):
        cached_in(tmp_path / "cache", load=ImageLoader(scaled_by(2.0))).fit_transform(paths)
        for scale, n_shown in [(2.0, 0), (3.0, 10)]:
            other = cached_in(tmp_path / "cache", load=ImageLoader(scaled_by(scale))).fit(paths)
            assert n_computed(other.transform, paths) == n_shown

    def test_what_another_function_loads_is_known_by_its_pixels(self, images, tmp_path):
        cached = cached_in(tmp_path, load=images).fit(np.arange(10))
        assert n_computed(cached.transform, np.arange(10)) == 10
        assert n_computed(cached_in(tmp_path).fit(images).transform, images) == 0


def scaled_by(scale):
    return lambda image: torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255 * scale


# --- What a result depends on --------------------------------------------------------------------------------------

SOURCE = """
import torch
from small_nets import CountingNet

FACTOR = 2.0

def scale(x):
    return x * FACTOR

class Net(CountingNet):
    power = 1

    @staticmethod
    def shift(x):
        return x + 1

    def forward(self, x):
        return super().forward(self.shift(scale(x)) ** self.power)

def attribution(model, images, targets):
    return images.detach() * 3
"""

EDITS = {
    "the method forward": ("scale(x)) **", "-scale(x)) **"),
    "a function that it calls": ("x * FACTOR", "x / FACTOR"),
    "a constant that this function reads": ("FACTOR = 2.0", "FACTOR = 4.0"),
    "a static method": ("x + 1", "x + 2"),
    "a constant of the class": ("power = 1", "power = 3"),
}


def module_of(source):
    module = types.ModuleType("of_the_user")
    exec(compile(source, "/home/of_the_user.py", "exec"), vars(module))
    return module


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_model_is_noticed_although_its_name_and_weights_are_the_same(edit, images, tmp_path):
    cached_in(tmp_path, module_of(SOURCE).Net()).fit_transform(images)
    again = cached_in(tmp_path, module_of("# A comment.\n" + SOURCE).Net()).fit(images)
    assert n_computed(again.transform, images) == 0
    edited = SOURCE.replace(*EDITS[edit])
    assert edited != SOURCE
    other = cached_in(tmp_path, module_of(edited).Net()).fit(images)
    assert n_computed(other.transform, images) == 10


HELPERS = """
import dataclasses, enum, functools, threading
from torch import nn

FACTOR = 2.0

def f(x):
    return x * FACTOR

@functools.lru_cache
def cached():
    return FACTOR

@functools.singledispatch
def dispatched(x):
    return x * FACTOR

class Callable:
    def __init__(self, factor):
        self.factor, self.lock = factor, threading.Lock()

    def __call__(self, x):
        return x * self.factor

class Layer(nn.Module):
    def forward(self, x):
        return x * FACTOR

@dataclasses.dataclass(frozen=True)
class Config:
    factor: float

class Kind(enum.Enum):
    A = FACTOR

class Holder:
    table, thing = {"a": FACTOR}, Callable(FACTOR)

    class Inner:
        factor = FACTOR

    def times(self, x, factor):
        return x * factor

    partial = functools.partialmethod(times, factor=FACTOR)

instance, layer, config = Callable(FACTOR), Layer(), Config(FACTOR)
"""
NET = """
import torch
import of_the_user.helpers
from of_the_user.helpers import *

class Net(torch.nn.Module):
    @functools.cached_property
    def factor(self):
        return FACTOR

    def imported(self, x):
        from .helpers import f as g
        return g(x)

    def forward(self, x):
        return READ
"""
READS = [
    "of_the_user.helpers.f(x)",
    "x * of_the_user.helpers.FACTOR",
    "self.imported(x)",
    "x * self.factor",
    "x * cached()",
    "dispatched(x)",
    "instance(x)",
    "layer(x)",
    "x * config.factor",
    "x * Kind.A.value",
    "x * Holder.table['a']",
    "x * Holder.thing.factor",
    "x * Holder.Inner.factor",
    "Holder().partial(x)",
]


@pytest.mark.parametrize("read", READS)
def test_an_edit_of_what_a_package_of_the_user_holds_is_noticed(read, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "of_the_user").mkdir()
    (tmp_path / "of_the_user" / "__init__.py").touch()
    (tmp_path / "of_the_user" / "net.py").write_text(NET.replace("READ", read))
    digests, outputs = [], []
    for factor in ("2.0", "3.0", "2.0"):
        (tmp_path / "of_the_user" / "helpers.py").write_text(HELPERS.replace("= 2.0", f"= {factor}"))
        for name in [name for name in sys.modules if name.startswith("of_the_user")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        net = importlib.import_module("of_the_user.net").Net()
        before = digest(net)
        outputs.append(float(net(torch.ones(1))))
        digests.append(digest(net))
        assert before == digests[-1]
    assert outputs == [2, 3, 2]
    assert digests[0] == digests[2] != digests[1]


def test_an_edit_of_the_attribution_is_noticed(images, tmp_path):
    for factor, n_shown in [("3", 10), ("3", 0), ("4", 10)]:
        attribution = module_of(SOURCE.replace("detach() * 3", f"detach() * {factor}")).attribution
        cached = cached_in(tmp_path, attribution=attribution).fit(images)
        assert (n_computed(cached.transform, images) > 0) == (n_shown > 0)


class Doubling(torch.nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    "change",
    [
        lambda cached: cached.model.head.weight.data.mul_(-1),
        lambda cached: setattr(cached.model, "relu", torch.nn.SiLU()),
        lambda cached: setattr(cached.model.norm, "eps", 0.5),
        lambda cached: cached.model.again.register_forward_hook(lambda *args: None),
        lambda cached: cached.set_params(attribution=LRP(gamma=1.0)),
        lambda cached: cached.set_params(size=2),
        lambda cached: cached.set_params(dtype="float64"),
        lambda cached: cached.set_params(return_embedding=False),
    ],
    ids=["weights", "activation", "epsilon", "hook", "gamma", "size", "dtype", "blocks"],
)
def test_a_change_of_the_model_or_the_settings_is_noticed(change, cached, images):
    assert n_computed(cached.transform, images) == 0
    change(cached)
    cached.fit(images)
    assert n_computed(cached.transform, images) == 10
    assert n_computed(cached.transform, images) == 0


def test_a_registered_rule_is_noticed(images, tmp_path):
    net = CountingNet()
    net.relu = torch.nn.Sequential(torch.nn.ReLU(), Doubling())
    cached = cached_in(tmp_path, net).fit(images)
    cached.transform(images)
    for rule in ("gradient", lambda inputs, output, relevance: 3 * relevance):
        with register(Doubling, rule):
            assert n_computed(cached.transform, images) == 10
    assert n_computed(cached.transform, images) == 0


def test_a_change_of_the_library_is_noticed(cached, images, monkeypatch):
    monkeypatch.setattr("skexmap.features._base.library_digest", lambda: b"another version")
    assert n_computed(cached.transform, images) == 10


def test_functions_that_cannot_be_pickled_are_told_apart_by_what_they_do():
    def times(factor):
        return lambda x: x * factor

    assert digest(times(2)) == digest(times(2)) != digest(times(3))
    assert digest(lambda x: x + 1) != digest(lambda x: x - 1)
    assert digest([None, 1]) != digest([1, None])
    assert digest(partial(print, 1)) != digest(partial(print, 2))
    cyclic = [1]
    cyclic.append(cyclic)
    assert digest(cyclic) != digest([1, [1]])


NORM = partial(torch.nn.LayerNorm, eps=1e-6)


class WithDefault(CountingNet):
    """Holds the object that is the default of an argument, which a copy of the net does not."""

    def __init__(self, make_layer=NORM):
        super().__init__()
        self.make_layer, self.norm = make_layer, make_layer((4, 8, 8))


# Old versions of torch warn of any pickled tensor.
@pytest.mark.filterwarnings("ignore:You are using .torch.load:FutureWarning")
@pytest.mark.parametrize(
    "copied_by", [copy.deepcopy, torch.compile, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_a_copied_and_a_compiled_model_have_the_digest_of_the_original(copied_by):
    net = WithDefault()
    expected = digest(net)
    assert digest(copied_by(net)) == digest(net) == expected


def test_what_cannot_be_compared_is_refused(images, tmp_path):
    attribution = partial(module_of(SOURCE).attribution, threading.Lock())
    with pytest.raises(
        ValueError, match=r"a lock in them cannot be compared. Replace it, or pass cache=None"
    ):
        cached_in(tmp_path, attribution=lambda *args: attribution.func(*args)).fit_transform(images)


# --- Damage --------------------------------------------------------------------------------------------------------

PICKLED = io.BytesIO()
np.savez(PICKLED, keys=np.array([{}], dtype=object))


def archive(keys, shape, kind="<f4"):
    """Return a file of a few bytes that claims to hold arrays of these shapes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, claimed, descr in [("keys", keys, "|u1"), ("heatmap", shape, kind)]:
            array = io.BytesIO()
            header = {"descr": descr, "fortran_order": False, "shape": claimed}
            np.lib.format.write_array_header_1_0(array, header)
            file.writestr(f"{name}.npy", array.getvalue())
    return content.getvalue()


DAMAGES = {
    "more bytes than there are": lambda data: archive((10**12, 32), (10**12, 3, 4, 4)),
    "keys without bytes": lambda data: archive((10**12, 0), (4, 3, 4, 4)),
    "emptied": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "a text": lambda data: b"not a block",
    "an array": lambda data: b"\x93NUMPY" + data[:100],
    "a pickle": lambda data: PICKLED.getvalue(),
    "one bit is another": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_block_is_computed_again_with_one_warning(damage, cached, images, tmp_path):
    expected = cached.transform(images)
    damaged = [path for path in blocks_in(tmp_path) if len(np.load(path)["keys"]) == 4]
    for path in damaged:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    SHOWN.clear()
    with pytest.warns(SkexmapWarning, match="^2 files of the cache in .* were damaged") as record:
        found = cached.transform(images)
    assert [warning.filename for warning in record] == [__file__]
    assert SHOWN == [4, 4]
    assert_array_equal(found, expected)
    assert n_computed(cached.transform, images) == 0


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere")])
def test_what_is_not_a_file_is_passed_over(make, cached, images, tmp_path):
    expected = cached.transform(images)
    block = blocks_in(tmp_path)[0]
    block.unlink()
    make(block)
    make(block.with_name("other.npz"))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert_array_equal(cached.transform(images), expected)
        twice = np.concatenate([images, images])
        assert_array_equal(cached.transform(twice), np.concatenate([expected, expected]))
    assert block.is_dir() or n_computed(cached.transform, images) == 0


def test_no_flipped_bit_changes_a_map(cached, images, tmp_path):
    expected = cached.transform(images)
    path = blocks_in(tmp_path)[0]
    data = path.read_bytes()
    n_noticed = 0
    for place in range(0, len(data), 13):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            assert_array_equal(cached.transform(images), expected)
        n_noticed += len(record)
    # Some bits are those of a date.
    assert n_noticed > 0.8 * len(range(0, len(data), 13))


def test_a_block_of_another_model_or_of_another_program_is_not_served(images, cached, tmp_path):
    expected = cached.transform(images)
    other = cached_in(tmp_path / "other", CountingNet(seed=1))
    other.fit_transform(images)
    (folder,) = {path.parent for path in blocks_in(tmp_path) if "other" not in path.parts}
    shutil.rmtree(folder)
    shutil.copytree(blocks_in(tmp_path / "other")[0].parent, folder)
    (folder / "notes.txt").write_text("mine")
    SHOWN.clear()
    assert_array_equal(cached.transform(images), expected)
    assert sum(SHOWN) == 10
    assert (folder / "notes.txt").read_text() == "mine"


# --- Interruptions, full disks and other processes -------------------------------------------------------------------


def test_a_full_disk_is_named_and_what_was_kept_is_complete(images, tmp_path, monkeypatch):
    cached = cached_in(tmp_path).fit(images)
    save, n_saved = np.savez, []

    def fail_at_third(file, **arrays):
        n_saved.append(1)
        if len(n_saved) == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail_at_third)
        # Two images with a map of 3 x 4 x 4 and 5 values of 4 bytes, a prediction of 8, and a key of 32.
        with pytest.raises(OSError, match=rf"no room for {2 * (53 * 4 + 8 + 32)} more bytes in .*{tmp_path}"):
            cached.transform(images)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
    assert n_computed(cached.transform, images) == 2


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np
from small_nets import SHOWN, CountingNet
from skexmap.features import HeatmapTransformer

# A shell that runs jobs in the background lets them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Mortal(CountingNet):
    def forward(self, x):
        if sum(SHOWN) >= int(os.environ.get("IMAGES_TO_LIVE", 1000)):
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        time.sleep(float(sys.argv[3]))
        return super().forward(x)

images = np.load({images!r})
cached = HeatmapTransformer(Mortal(), size=4, return_embedding=True, batch_size=4, cache={folder!r}).fit(images)
SHOWN.clear()
os.environ["IMAGES_TO_LIVE"] = sys.argv[2]
Path(sys.argv[1] + ".ready").touch()
end = time.monotonic() + 300
while len(list(Path(sys.argv[1]).parent.glob("*.ready"))) < int(sys.argv[4]):
    assert time.monotonic() < end, "The other process did not start."
    time.sleep(0.02)
blocks = cached.transform(images)
np.save(sys.argv[1], blocks)
print(sum(SHOWN))
"""


def started(images, tmp_path, out, images_to_live=1000, number=signal.SIGKILL, delay=0, n_waiting=1):
    """Start a process that fills the cache in a folder once others are ready, and kills itself after some images."""
    np.save(tmp_path / "images.npy", images)
    places = {
        "tests": str(Path(__file__).parent),
        "images": str(tmp_path / "images.npy"),
        "folder": str(tmp_path / "cache"),
    }
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(**places))
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / out), *map(str, (images_to_live, delay, n_waiting))],
        env={**os.environ, "SIGNAL": str(int(number))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_signal_the_next_run_computes_the_rest_and_bitwise_the_same(number, images, tmp_path):
    images = np.concatenate([images, -images])
    process = started(images, tmp_path, "first.npy", 12, number)
    process.communicate()
    assert process.returncode != 0
    n_blocks = len(blocks_in(tmp_path))
    assert 0 < n_blocks < 5
    process = started(images, tmp_path, "second.npy")
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert int(out) == 20 - 4 * n_blocks
    assert_array_equal(np.load(tmp_path / "second.npy"), cached_in(None).fit_transform(images))


def test_two_processes_share_the_work_in_one_folder(images, tmp_path):
    images = np.concatenate([images * scale for scale in range(1, 21)])
    processes = [started(images, tmp_path, f"{i}.npy", delay=0.05, n_waiting=2) for i in range(2)]
    expected = cached_in(None).fit_transform(images)
    n_shown = 0
    for i, process in enumerate(processes):
        out, error = process.communicate()
        assert process.returncode == 0, error
        assert_array_equal(np.load(tmp_path / f"{i}.npy"), expected)
        n_shown += int(out)
    assert 200 <= n_shown < 250
    assert len(list((tmp_path / "cache").rglob("*.*"))) == 50


@pytest.mark.parametrize("kind", ["pixels", "files"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_batch_that_a_killed_process_has_claimed_is_computed_last(images, tmp_path, kind, n_jobs):
    X = images
    if kind == "files":
        image_module = pytest.importorskip("PIL.Image")
        X = [str(tmp_path / f"{i}.png") for i in range(len(images))]
        for path, image in zip(X, images, strict=True):
            image_module.fromarray(np.uint8(255 * (image > 0)).transpose(1, 2, 0)).save(path)
    cached = cached_in(tmp_path / "cache", n_jobs=n_jobs)
    expected = cached.fit_transform(X)
    blocks = sorted(blocks_in(tmp_path), key=lambda path: path.stat().st_mtime_ns)
    claim = blocks[0].with_suffix(".claim")
    # The claim on the second batch is so old that it is removed when the cache is opened.
    for path in [claim, blocks[1].with_suffix(".claim"), claim.with_suffix(".1-1.tmp")]:
        path.touch()
        if path != claim:
            os.utime(path, (time.time() - 4000,) * 2)
    for block in blocks:
        block.unlink()
    kept, keep = [], _store.BlockStore.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _store.BlockStore,
            "keep",
            lambda self, *batch: kept.append(self.path_of(batch[0])) or keep(self, *batch),
        )
        assert_array_equal(cached.transform(X), expected)
    assert kept == [*blocks[1:], blocks[0]]
    assert sorted((tmp_path / "cache").rglob("*.*")) == sorted(blocks)
