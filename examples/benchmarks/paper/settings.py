"""The data sets of the tables: what is trained on, what is explained, what is tested."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skexmap.datasets import (
    load_celeba,
    load_colored_mnist,
    load_two_shortcut_fashion,
    load_urbancars,
    load_waterbirds,
    make_colored_digits,
)


@dataclass
class Setting:
    """One data set, drawn with one seed.

    The first of the tests is the one that the tables are about; the others are further columns. ``"no shortcut"``
    holds the images of the published test with the shortcut taken out.
    """

    train: Bunch
    validation: Bunch
    tests: dict
    shortcuts: tuple = ()
    load: object = None


def in_gray(images):
    """Return images with the same total ink, spread evenly over the three channels."""
    return np.repeat(images.mean(axis=1, keepdims=True), 3, axis=1)


def dyed(splits, unmarked=None, shortcuts=()):
    """Return a set that we dyed; `unmarked` are the published test images without their other shortcut, if any."""
    published = splits.test_correlated
    gray = Bunch(**{**published, "data": in_gray(published.data if unmarked is None else unmarked)})
    tests = {"every ink": splits.test, "published": published, "no shortcut": gray}
    return Setting(splits.train, splits.validation, tests, shortcuts)


def colored_fashion(root, seed):
    return dyed(load_colored_mnist(root, correlation=0.99, random_state=seed))


def two_shortcut_fashion(root, seed):
    fashion = load_two_shortcut_fashion(root, random_state=seed)
    # The pixels under one mark are those of the twin with the mark in the other corner.
    n = len(fashion.test_correlated.target)
    unmarked = np.minimum(fashion.test.data[:n], fashion.test.data[n : 2 * n])
    return dyed(fashion, unmarked, shortcuts=("ink", "mark"))


def colored_digits(root, seed):
    return dyed(make_colored_digits(correlation=0.95, n_copies=10, random_state=seed))


def on_disk(loader, root, *, shortcuts=(), foreground=None):
    """Return a published data set as it lies on a disk; its splits do not depend on a seed."""
    splits = loader(root)
    tests = {"published": splits.test}
    # The masks are no part of the published set: they are copied beside the images from CUB.
    first = Path(splits.test.data[0])
    if foreground is not None and first.suffix.lower() != ".png" and first.with_suffix(".png").exists():
        tests["no shortcut"] = foreground(root).test
    return Setting(splits.train, splits.validation, tests, shortcuts, load=splits.train.transform)


def waterbirds(root, seed):
    return on_disk(load_waterbirds, root, foreground=lambda root: load_waterbirds(root, foreground_only=True))


def celeba(root, seed):
    return on_disk(load_celeba, root)


def urbancars(root, seed):
    return on_disk(load_urbancars, root, shortcuts=("background", "co_occurring_object"))


SETTINGS = {
    "colored_fashion": colored_fashion,
    "two_shortcut_fashion": two_shortcut_fashion,
    "colored_digits": colored_digits,
    "waterbirds": waterbirds,
    "celeba": celeba,
    "urbancars": urbancars,
}
FASHION = "/usr/share/datasets/fashion-mnist"
NEEDS_ROOT = ("waterbirds", "celeba", "urbancars")
# Data set -> how its net is trained: the settings of `base_model.train`.
RECIPES = {name: {"n_epochs": 5, "learning_rate": 0.05} for name in SETTINGS}
RECIPES["colored_digits"]["n_epochs"] = 10
for published in NEEDS_ROOT:
    RECIPES[published] = {"n_epochs": 100, "learning_rate": 1e-3, "batch_size": 32}
