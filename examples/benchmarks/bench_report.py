"""How often is the verdict of a ShortcutReport right? Nets with a shortcut that is known, and nets without one.

    python examples/benchmarks/bench_report.py
    python examples/benchmarks/bench_report.py --page    # size and seconds of the page on 20,000 images

Pairs of classes of Fashion-MNIST, 1,500 training and 900 validation images, a net of two convolutions. 95% of each
class agree with the shortcut. Three minutes on one core; needs the Debian package dataset-fashion-mnist, or its four
files in --root.

The page is that of 20,000 generated images of 112 x 112, in 10 classes x up to 10 clusters, and an untrained net of one
convolution. Chromium loads it if it is installed.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from skexmap import DFRClassifier, ExMapClassifier, HeatmapTransformer, PseudoGroupLabeler
from skexmap.datasets._colored_mnist import _read_three_parts
from skexmap.exceptions import SkexmapWarning
from skexmap.report import ShortcutReport

PAIRS = {"pullover, coat": (2, 4), "dress, shirt": (3, 6), "sneaker, boot": (7, 9)}
N_TRAIN, N_VALIDATION = 1500, 900
# The page, and what the browser adds to it: the milliseconds until the page is loaded.
N_IMAGES, N_CLASSES, N_CLUSTERS, SIDE = 20_000, 10, 10, 112
TIMER = "<script>addEventListener('load', () => { document.title = performance.now(); });</script></body>"


def mark(images, agrees):
    """Put a white square into the bottom right corner."""
    images[agrees, :, 22:26, 22:26] = 1


def two_marks(images, agrees):
    """Put a white square into one of two corners."""
    images[agrees, :, 22:26, 22:26] = 1
    images[~agrees, :, 22:26, 2:6] = 1


def ink(images, agrees):
    """Take the red away, or the green."""
    images[agrees, 0] = 0
    images[~agrees, 1] = 0


def frame(images, agrees):
    """Put a white frame around the image."""
    for edge in (np.s_[:, :, :2], np.s_[:, :, -2:], np.s_[:, :, :, :2], np.s_[:, :, :, -2:]):
        part = images[agrees]
        part[edge] = 1
        images[agrees] = part


def nothing(images, agrees):
    """Leave the images as they are."""


# Shortcut -> what puts it in, and the words that name its place.
SHORTCUTS = {
    "mark": (mark, ("bottom right corner",)),
    "two marks": (two_marks, ("bottom right corner", "bottom left corner")),
    "ink": (ink, ("red channel", "green channel")),
    "frame": (frame, ("border",)),
    "none": (nothing, ()),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", SkexmapWarning)
    if options.page:
        measure_page()
        return
    images, labels = _read_three_parts(options.root)["train"]

    print(f"{'shortcut':10}  likely  (right place)  worth a look  nothing to see  too few")
    for name, (put_in, places) in SHORTCUTS.items():
        verdicts = Counter()
        for pair, seed in product(PAIRS.values(), options.seeds):
            report = report_on(images, labels, pair, put_in, seed)
            verdicts[report.verdict] += 1
            verdicts["right"] += report.verdict == "likely a shortcut" and report.rows[0]["place"] in places
        print(
            f"{name:10}  {verdicts['likely a shortcut']:6}  {verdicts['right']:13}  {verdicts['worth a look']:12}  "
            f"{verdicts['nothing to see here']:14}  {verdicts['not enough images to tell']:7}",
            flush=True,
        )


def report_on(images, labels, pair, put_in, seed):
    """Train a net on a pair of classes with a shortcut, and report on it."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == label))[: (N_TRAIN + N_VALIDATION) // 2] for label in pair]
    )
    rows = rng.permutation(rows)
    y = (labels[rows] == pair[1]).astype(np.int64)
    X = np.repeat(images[rows, None] / np.float32(255), 3, axis=1)
    X += rng.normal(0, 0.03, X.shape).astype(np.float32)
    put_in(X, np.where(rng.uniform(size=len(y)) < 0.95, y == 0, y == 1))
    X = X.clip(0, 1)
    net = trained_net(X[:N_TRAIN], y[:N_TRAIN], seed)
    X, y = X[N_TRAIN:], y[N_TRAIN:]
    return ShortcutReport.from_estimator(ExMapClassifier(net, random_state=0).fit(X, y), X, y)


def measure_page():
    """Print the size of a page with hundreds of images, and the seconds that it takes."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 8, stride=8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 14**2, N_CLASSES),
    )
    X, y = np.arange(N_IMAGES), np.arange(N_IMAGES) % N_CLASSES
    exmap = ExMapClassifier(
        net.eval(),
        heatmaps=HeatmapTransformer(load=generated),
        clusterer=PseudoGroupLabeler(MiniBatchKMeans(N_CLUSTERS, random_state=0), merge_alpha=None),
        strategy=DFRClassifier(balance="reweight", C=0.01, random_state=0),
        keep_heatmaps=True,
    )
    start = perf_counter()
    exmap.fit(X, y)
    print(f"fit             {perf_counter() - start:6.1f} s", flush=True)
    start = perf_counter()
    report = ShortcutReport.from_estimator(exmap, X, y)
    print(f"from_estimator  {perf_counter() - start:6.1f} s, {len(report.rows)} groups", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.html")
        start = perf_counter()
        report.save(path)
        seconds, page = perf_counter() - start, path.read_text(encoding="utf-8")
        print(
            f"save            {seconds:6.1f} s, {page.count('<figure class=')} images, {len(page) / 1e6:.1f} MB"
        )
        browser = shutil.which("chromium")
        if browser:
            path.write_text(page.replace("</body>", TIMER), encoding="utf-8")
            command = [
                browser,
                "--headless",
                "--no-sandbox",
                f"--user-data-dir={folder}/profile",
                "--dump-dom",
                path,
            ]
            dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(
                f"load            {float(re.search('<title>(.*)</title>', dom)[1]) / 1000:6.1f} s in Chromium"
            )


def generated(number):
    """Return an image of colored squares and some noise."""
    rng = np.random.default_rng(number)
    squares = rng.random((3, 14, 14), dtype=np.float32).repeat(8, axis=1).repeat(8, axis=2)
    return torch.from_numpy(0.9 * squares + 0.1 * rng.random((3, SIDE, SIDE), dtype=np.float32))


def trained_net(X, y, seed):
    """Return a small net, trained for six epochs."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 49, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    images, labels = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(6):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return net.eval()


if __name__ == "__main__":
    main()
