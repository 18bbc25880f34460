"""Cost of `HeatmapTransformer(cache=...)`: to fill, to read and to clear, against one joblib entry per image.

    python examples/benchmarks/bench_cache.py [--images 2000 20000] [--size 28]
    python examples/benchmarks/bench_cache.py --pipeline        # what Pipeline(memory=...) costs, below

The model is one dense layer and the attribution costs next to nothing. The time to fill is the difference to a run
without a cache; the time to read is that of the whole call. The peer is `joblib.Memory` around a function of one image,
with a hash of the pixels as the key. Both keep the same arrays: a map of shape (3, size, size), an embedding of 512
values, and the prediction. Times are in milliseconds per image, those to read are the best of three, and clearing is in
seconds for all images.

`Pipeline(memory=...)` keeps a printout of the arguments of a step. ``--pipeline`` times the first fit of a step that
does nothing, on blocks of an embedding of 512 values and a map, as it is and under ``np.printoptions(threshold=0)``.
"""

import argparse
import os
import shutil
import tempfile
import time

import joblib
import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from skexmap import HeatmapTransformer


def gradient_times_input(model, images, targets):
    """Return the cheapest attribution that there is."""
    return images.detach()


def keep(key, entry):
    """Return an entry, which joblib stores."""
    return entry


def seconds(act, *args):
    """Return the time of one call, with nothing left to write from the calls before."""
    os.sync()
    start = time.perf_counter()
    act(*args)
    return time.perf_counter() - start


def peer(images, folder):
    """Return the seconds to fill, read and clear a joblib.Memory with one entry per image."""
    cached = joblib.Memory(folder, verbose=0).cache(keep, ignore=["entry"])
    embedding = np.zeros(512, dtype=np.float32)

    def call(image, entry):
        key = joblib.hash(image)
        return cached(key, entry) if cached.check_call_in_cache(key, None) or entry is not None else None

    def fill():
        for image in images:
            call(image, {"embedding": embedding, "heatmap": image, "predicted": np.int64(0)})

    def read():
        for image in images:
            call(image, None)

    return seconds(fill), min(seconds(read) for _ in range(3)), seconds(shutil.rmtree, folder)


def ours(images, folder):
    """Return the seconds that the cache adds to fill and to read, and those to clear it."""
    size = images.shape[-1]
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * size**2, 512), torch.nn.ReLU(), torch.nn.Linear(512, 2)
    )
    plain = HeatmapTransformer(net, attribution=gradient_times_input, return_embedding=True, size=size)
    plain.fit(images)
    cached = HeatmapTransformer(
        net, attribution=gradient_times_input, return_embedding=True, size=size, cache=folder
    ).fit(images)
    plain.transform(images[:200])
    fill = seconds(cached.transform, images) - seconds(plain.transform, images)
    read = min(seconds(cached.transform, images) for _ in range(3))
    return fill, read, seconds(shutil.rmtree, folder)


def first_fit(blocks, **printing):
    """Return the seconds of the first fit of a pipeline with an empty cache, one step of which does nothing."""
    steps = [("nothing", FunctionTransformer()), ("last", DummyClassifier())]
    with tempfile.TemporaryDirectory() as folder, np.printoptions(**printing):
        pipe = Pipeline(steps, memory=folder)
        return seconds(pipe.fit, blocks, np.arange(len(blocks)) % 2)


def print_pipeline(size):
    """Print what `Pipeline(memory=...)` costs."""
    print(f"{'images':>8}{'as it is, s':>14}{'threshold=0, s':>17}")
    for n in (60, 1000, 1001):
        blocks = np.zeros(n, dtype=[("embedding", "f4", (512,)), ("heatmap", "f4", (3, size, size))])
        blocks["heatmap"] = np.random.default_rng(0).random((n, 3, size, size))
        print(f"{n:>8}{first_fit(blocks):>14.2f}{first_fit(blocks, threshold=0):>17.2f}", flush=True)


def main():
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument(
        "--pipeline", action="store_true", help="time Pipeline(memory=...) in place of the cache"
    )
    arguments = parser.parse_args()
    if arguments.pipeline:
        print_pipeline(arguments.size)
        return
    print(f"{'images':>8} {'':14}{'fill, ms':>10}{'read, ms':>10}{'clear, s':>10}")
    for n in arguments.images:
        rng = np.random.default_rng(0)
        images = rng.random((n, 3, arguments.size, arguments.size), dtype=np.float32)
        rows = {
            "joblib.Memory": peer(images, tempfile.mkdtemp()),
            "skexmap": ours(images, tempfile.mkdtemp()),
        }
        for name, (fill, read, clear) in rows.items():
            print(f"{n:>8} {name:14}{1e3 * fill / n:>10.4f}{1e3 * read / n:>10.4f}{clear:>10.2f}")
        ratios = [theirs / mine for theirs, mine in zip(*rows.values(), strict=True)]
        print(f"{n:>8} {'ratio':14}" + "".join(f"{ratio:>10.1f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
