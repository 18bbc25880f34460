"""`n_jobs`: batches on other cores give what one process gives, and workers may die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from small_nets import SHOWN, CountingNet, SmallNet
from torch.utils.data import Dataset

from skexmap.exceptions import SkexmapWarning
from skexmap.features import EmbeddingTransformer, HeatmapTransformer, ImageLoader, _jobs
from skexmap.lrp import register

PARAMS = {"size": 4, "return_embedding": True, "batch_size": 4}


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(38, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def paths(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 255, size=(10, 8, 8, 3), dtype=np.uint8)
    for i, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(10)]


def maps_of(X, net=None, **params):
    return HeatmapTransformer(SmallNet() if net is None else net, **{**PARAMS, **params}).fit_transform(X)


class Rows(Dataset):
    """A data set that notes which process reads."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        if multiprocessing.current_process().name == "MainProcess" and i >= 8:
            raise AssertionError("read in the parent")
        return self.images[i]


class ThreadsNet(SmallNet):
    """Raises if a worker has more than one thread."""

    def forward(self, x):
        if multiprocessing.current_process().name != "MainProcess" and torch.get_num_threads() != 1:
            raise AssertionError("not one thread")
        return super().forward(x)


# --- The same results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
@pytest.mark.parametrize("kind", ["array", "tensor", "list"])
def test_two_jobs_give_bitwise_the_blocks_of_one(backend, kind, images):
    X = {"array": np.array, "tensor": torch.from_numpy, "list": list}[kind](images)
    expected = maps_of(images)
    with joblib.parallel_config(backend, n_jobs=2):
        found = maps_of(X)
    assert_array_equal(found, expected)


def test_the_parameter_sets_the_number_of_jobs_and_one_stays_in_this_process_in_any_context(
    images, monkeypatch
):
    used = []
    compute = _jobs.Jobs.compute
    monkeypatch.setattr(
        _jobs.Jobs, "compute", lambda self, *args: (used.append(self.n_jobs), compute(self, *args))[1]
    )
    assert_array_equal(maps_of(images, n_jobs=2), maps_of(images))
    assert used == [2]
    with joblib.parallel_config("loky", n_jobs=2):
        maps_of(images, n_jobs=1)
        # One batch is not worth a worker.
        maps_of(images[:4])
    assert used == [2]


def test_embeddings_are_the_same_from_paths_that_workers_read(paths):
    expected = EmbeddingTransformer(SmallNet(), batch_size=3).fit_transform(paths)
    found = EmbeddingTransformer(SmallNet(), batch_size=3, n_jobs=2).fit_transform(paths)
    assert_array_equal(found, expected)


def test_a_data_set_is_read_by_the_workers(images):
    assert_array_equal(maps_of(Rows(images), n_jobs=2), maps_of(images))


def test_functions_and_classes_of_the_script_that_runs_reach_the_workers(images):
    class Local(SmallNet):
        def forward(self, x):
            return super().forward(2 * x)

    found = maps_of(list(images), Local(), load=lambda image: torch.as_tensor(image) / 2, n_jobs=2)
    assert_array_equal(found, maps_of(images))


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_worker_computes_on_one_thread(backend, images):
    with joblib.parallel_config(backend, n_jobs=2):
        assert len(maps_of(images, ThreadsNet())) == 38


FORKED = """
import joblib, numpy as np, torch
from skexmap.features import HeatmapTransformer

if __name__ == "__main__":
    torch.set_num_threads(2)
    # A net that is copied by several threads, if there are several.
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 2))
    images = np.ones((8, 3, 8, 8), dtype=np.float32)
    heatmaps = HeatmapTransformer(net, size=4, batch_size=4).fit(images)
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        print(heatmaps.transform(images).shape)
"""


@pytest.mark.slow
def test_a_forked_worker_does_not_wait_for_threads_that_it_lacks(tmp_path):
    (tmp_path / "forked.py").write_text(FORKED)
    command = [sys.executable, str(tmp_path / "forked.py")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.stdout.split("\n")[0] == "(8, 48)", found.stderr


def test_the_number_of_threads_is_restored_after_jobs_in_threads(images):
    n_before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with joblib.parallel_config("threading", n_jobs=2):
            maps_of(images)
            maps_of(images)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as new_thread:
            assert new_thread.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(n_before)


def test_a_list_of_rows_of_one_tensor_travels_without_the_other_rows(images, monkeypatch):
    sizes = []
    pack = _jobs.Jobs._packed
    monkeypatch.setattr(
        _jobs.Jobs, "_packed", lambda *args: sizes.append(len(result := pack(*args))) or result
    )
    many = list(torch.from_numpy(np.concatenate([images] * 10)))
    with joblib.parallel_config("threading", n_jobs=2):
        found = maps_of(many)
    # These rows are in equal batches.
    assert_array_equal(found[:36], maps_of(images)[:36])
    assert max(sizes) < len(images) * images[0].nbytes


def test_the_net_is_unpickled_once_in_each_worker(images, monkeypatch):
    unpacked, unpack = [], _jobs._unpacked
    monkeypatch.setattr(
        _jobs, "_unpacked", lambda parcel: (unpacked.append(threading.get_ident()), unpack(parcel))[1]
    )
    with joblib.parallel_config("threading", n_jobs=2):
        maps_of(np.concatenate([images] * 3))
    assert len(unpacked) == len(set(unpacked)) <= 2


# --- The cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_paths", [False, True])
def test_jobs_fill_the_cache_that_one_process_reads(as_paths, images, paths, tmp_path):
    X = paths if as_paths else images
    expected = maps_of(X)
    assert_array_equal(
        maps_of(X, CountingNet(), cache=tmp_path / "cache", n_jobs=2), maps_of(X, CountingNet())
    )
    cached = HeatmapTransformer(CountingNet(), cache=tmp_path / "cache", **PARAMS).fit(X)
    SHOWN.clear()
    found = cached.transform(X)
    assert sum(SHOWN) == 0
    assert_array_equal(found, expected)


# --- Errors -----------------------------------------------------------------------------------------------------


def test_an_error_in_a_worker_names_the_image(images):
    def load(image):
        if image[0, 0, 0] > 1e5:
            raise OSError("no")
        return torch.as_tensor(image)

    X = list(images)
    X[30] = images[30] + 1e6
    with pytest.raises(ValueError, match=r"Could not load image 30 .*OSError: no"):
        maps_of(X, load=load, n_jobs=2)
    images[31, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="first: index 31"):
        maps_of(images, n_jobs=2)


class Lock:
    """May be copied, but not pickled."""

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("cannot pickle a lock")


def test_what_cannot_be_pickled_is_said_with_the_remedy(images):
    net = SmallNet()
    net.lock = Lock()
    with pytest.raises(TypeError, match=r"cannot be pickled.*cannot pickle a lock.*n_jobs=1"):
        maps_of(images, net, n_jobs=2)


def test_a_registered_rule_that_a_worker_lacks_is_an_error_not_another_map(images):
    with (
        register(torch.nn.MaxPool2d, "gradient"),
        pytest.raises(RuntimeError, match=r"1 registered .*MaxPool2d"),
    ):
        maps_of(images, n_jobs=2)


# --- Workers that die -------------------------------------------------------------------------------------------


class KillsItsProcess:
    """A transform that kills the process that opens a file of these pixels, once for each file in a folder."""

    def __init__(self, folder, n, path):
        self.folder = Path(folder)
        self.pixels = as_pixels(ImageLoader()(path))
        for i in range(n):
            (self.folder / f"{i}.kill").touch()

    def __call__(self, picture):
        image = torch.from_numpy(np.array(picture).transpose(2, 0, 1) / np.float32(255))
        files = sorted(self.folder.glob("*.kill"))
        if as_pixels(image) == self.pixels and files:
            files[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return image


def as_pixels(image):
    return (image * 255).round().to(torch.uint8).flatten().tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")
def test_batches_of_a_killed_worker_are_computed_again(paths, tmp_path):
    expected = maps_of(paths)
    load = ImageLoader(KillsItsProcess(tmp_path, 1, paths[8]))
    assert_array_equal(maps_of(paths, load=load, n_jobs=2), expected)
    assert not list(tmp_path.glob("*.kill"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")
def test_after_two_deaths_the_error_says_what_is_done_and_the_next_call_continues(
    paths, tmp_path, monkeypatch
):
    monkeypatch.setattr(_jobs, "BATCHES_PER_ROUND", 1)
    expected = maps_of(paths)
    load = ImageLoader(KillsItsProcess(tmp_path, 2, paths[8]))
    with pytest.raises(RuntimeError, match=r"died twice .*; 8 of 10 images .* in the cache"):
        maps_of(paths, CountingNet(), load=load, cache=tmp_path / "cache", n_jobs=2)
    cached = HeatmapTransformer(CountingNet(), load=load, cache=tmp_path / "cache", **PARAMS).fit(paths)
    SHOWN.clear()
    found = cached.transform(paths)
    assert sum(SHOWN) == 2
    assert_array_equal(found, expected)


# --- Memory of a GPU --------------------------------------------------------------------------------------------


class SmallMemoryNet(SmallNet):
    """Runs out of memory, as on a GPU, if it is shown more than some images at once."""

    def __init__(self, largest):
        super().__init__()
        self.largest = largest

    def forward(self, x):
        if len(x) > self.largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("transformer", [HeatmapTransformer, EmbeddingTransformer])
def test_a_batch_that_does_not_fit_is_halved_with_one_warning(images, transformer):
    expected = transformer(SmallNet(), batch_size=8).fit_transform(images)
    with pytest.warns(SkexmapWarning, match="16 images at once do not fit.*Pass batch_size=8") as caught:
        found = transformer(SmallMemoryNet(8), batch_size=16).fit_transform(images)
    assert len(caught) == 1
    assert_array_equal(found, expected)


def test_a_half_that_does_not_fit_either_is_an_error(images):
    with (
        pytest.warns(SkexmapWarning, match="32 images"),
        pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of memory"),
    ):
        EmbeddingTransformer(SmallMemoryNet(8), batch_size=32).fit_transform(images)
