"""How often is the verdict of a ShortcutReport right? Nets with a shortcut that is known, and nets without one.

    python examples/benchmarks/bench_report.py

Pairs of classes of Fashion-MNIST, 1,500 training and 900 validation images, a net of two convolutions. 95% of each
class agree with the shortcut. Three minutes on one core; needs the Debian package dataset-fashion-mnist, or its four
files in --root.
"""

import argparse
import warnings
from collections import Counter
from itertools import product

import numpy as np
import torch

from skexmap import ExMapClassifier
from skexmap.datasets._colored_mnist import read_mnist
from skexmap.exceptions import SkexmapWarning
from skexmap.report import ShortcutReport

PAIRS = {"pullover, coat": (2, 4), "dress, shirt": (3, 6), "sneaker, boot": (7, 9)}
N_TRAIN, N_VALIDATION = 1500, 900


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
    options = parser.parse_args()
    warnings.simplefilter("ignore", SkexmapWarning)
    images, labels = read_mnist(options.root)["train"]

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
