"""Memory and time of each step of the method, for more and more images, with the maps in a file and in memory.

    python examples/benchmarks/bench_memory.py [--images 20000 50000 100000] [--size 28] [--dtype bfloat16]

``cache`` is `HeatmapTransformer(cache=folder)`, whose result is in a file if it is large; ``memory`` is the same
without a cache. Every run is a process of its own. Images of 3 x 64 x 64 are generated one by one from their index, so
that they need no memory. The net is small, and trained before the clock starts.

`anon` is the largest anonymous memory during a step, in MB: what a process holds and the system cannot take back. It is
read 50 times a second, without what the process held before the first step (Python, torch, the net). `all` is the
largest resident size (VmHWM), with all of that and with the pages of files, which the system drops if others need room.

Steps
    explain      HeatmapTransformer.fit_transform
    read again   HeatmapTransformer.transform of the same images
    group        PseudoGroupLabeler(EigengapSpectralClustering()).fit_transform
    retrain      DFRClassifier.fit
    new images   transform and predict, of the first tenth of the images, by all three
    save         joblib.dump of the labeler, which holds the maps
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import torch

from skexmap import DFRClassifier, HeatmapTransformer, PseudoGroupLabeler

SIDE = 64


class MadeFromIndex:
    """Images of two classes, which differ in a soft blob, and mostly in the color of a corner: the shortcut."""

    def __init__(self, n, seed=0):
        rng = np.random.default_rng(seed)
        self.y = rng.integers(0, 2, n)
        self.mark = np.where(rng.random(n) < 0.9, self.y, 1 - self.y)
        self.place = rng.integers(20, 44, (n, 2))

    def __getitem__(self, i):
        image = np.random.default_rng(i).integers(0, 80, (3, SIDE, SIDE), dtype=np.uint8)
        row, column = self.place[i]
        # An upright or a flat bar is the class.
        height, width = (8, 3) if self.y[i] else (3, 8)
        image[:, row - height : row + height, column - width : column + width] += 120
        image[0 if self.mark[i] else 2, 2:14, 2:14] = 255
        return image


def trained_net(images, steps=150):
    """Return a small net that leans on the shortcut."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 5, stride=3),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(steps):
        rows = np.arange(64 * step, 64 * step + 64) % len(images.y)
        batch = torch.from_numpy(np.stack([images[i] for i in rows])).float() / 255
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(batch), torch.from_numpy(images.y[rows])).backward()
        optimizer.step()
    return net


def status(*fields):
    """Return the sum of some fields of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields)) / 1e3


class Meter:
    """Seconds and memory of each step."""

    def __init__(self):
        self.before = status("RssAnon", "RssShmem")
        self.steps = {}

    def __call__(self, name, act, *args):
        """Call a function, and keep what it took under a name."""
        # Let the kernel forget the largest resident size so far.
        Path("/proc/self/clear_refs").write_text("5")
        peak, done = [0.0], threading.Event()

        def watch():
            while not done.wait(0.02):
                peak[0] = max(peak[0], status("RssAnon", "RssShmem"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        start, start_cpu = time.perf_counter(), time.process_time()
        result = act(*args)
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        done.set()
        watcher.join()
        anon = max(peak[0], status("RssAnon", "RssShmem")) - self.before
        self.steps[name] = {"seconds": seconds, "cpu": cpu, "anon": anon, "all": status("VmHWM")}
        print(name, self.steps[name], file=sys.stderr, flush=True)
        return result


def run_one(mode, n, size, dtype, folder):
    """Run all steps on n images, and print a line of JSON."""
    images = MadeFromIndex(n)
    cache = os.path.join(folder, "cache") if mode == "cache" else None
    net, X, y = trained_net(images), np.arange(n), images.y
    maps = HeatmapTransformer(net, load=images, size=size, dtype=dtype, return_embedding=True, cache=cache)
    labeler, strategy = PseudoGroupLabeler(), DFRClassifier(random_state=0)
    # Imports are paid before the clock starts.
    few = maps.fit_transform(X[:300], y[:300])
    strategy.fit(labeler.fit_transform(few, y[:300]), y[:300])
    meter = Meter()
    blocks = meter("explain", maps.fit_transform, X, y)
    if cache:
        # The second result takes the place of the first, as in a later process.
        del blocks
        blocks = meter("read again", maps.transform, X)
    clusters = meter("group", labeler.fit_transform, blocks, y)
    meter("retrain", strategy.fit, clusters, y)
    new = X[: n // 10]
    predicted = meter("new images", lambda: strategy.predict(labeler.transform(maps.transform(new))))
    meter("save", joblib.dump, labeler, os.path.join(folder, "labeler.joblib"))
    accuracy = float((predicted == y[: len(new)]).mean())
    print(json.dumps({"steps": meter.steps, "clusters": labeler.n_clusters_, "accuracy": accuracy}))


def run(mode, n, arguments):
    """Run all steps in a process of its own; return its result, or None if it fails."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        dtype = ["--dtype", arguments.dtype] if arguments.dtype else []
        options = ["--size", str(arguments.size), *dtype, "--folder", folder]
        command = [sys.executable, __file__, *options, "--run", mode, str(n)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{mode}, {n:,} images: it ended with {done.returncode}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Run the benchmark, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 50_000, 100_000])
    parser.add_argument("--size", type=int, default=28, help="side of the maps")
    parser.add_argument("--dtype", help="as in HeatmapTransformer")
    parser.add_argument("--modes", nargs="+", default=["cache", "memory"], choices=["cache", "memory"])
    parser.add_argument("--folder", help="where to make temporary folders")
    parser.add_argument("--run", nargs=2, metavar=("MODE", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        mode, n = arguments.run
        return run_one(mode, int(n), arguments.size, arguments.dtype, arguments.folder)
    print(
        "| images | maps | step | seconds | CPU s | anon, MB | all, MB |\n|---:|---|---|---:|---:|---:|---:|"
    )
    for n in arguments.images:
        for mode in arguments.modes:
            result = run(mode, n, arguments)
            for name, step in (result["steps"] if result else {}).items():
                figures = " | ".join(f"{step[key]:,.0f}" for key in ("seconds", "cpu", "anon", "all"))
                print(f"| {n:,} | {mode} | {name} | {figures} |", flush=True)
            if result:
                print(f"{result['clusters']} clusters, accuracy {result['accuracy']:.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
