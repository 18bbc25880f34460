"""Images with a mark in a corner, and small nets with weights set by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from skexmap import DFRClassifier, ExMapClassifier, HeatmapTransformer
from skexmap.report import ShortcutReport

SIDE = 14


def images_with_mark(n, seed=0):
    """Return noise with a bar above or below the middle (the class) and, on most coats, a mark in a corner."""
    rng = np.random.default_rng(seed)
    y = np.repeat(["coat", "pullover"], n // 2)
    mark = np.where(rng.uniform(size=n) < 0.85, y == "coat", y != "coat")
    X = rng.uniform(0, 0.1, size=(n, 3, SIDE, SIDE)).astype(np.float32)
    X[y == "coat", :, 4:6, 4:10] += 0.5
    X[y == "pullover", :, 8:10, 4:10] += 0.5
    X[mark, :, 12:, 12:] = 1
    return X, y, mark.astype(int)


def net_by_hand(*, leans):
    """Return a net that compares the two bars, or one that leans on the mark and hardly sees the bar of a coat."""
    hidden = torch.zeros(4, 3, SIDE, SIDE)
    hidden[0, :, 4:6, 4:10] = hidden[1, :, 8:10, 4:10] = 1 / 36
    hidden[2, :, 12:, 12:] = 1 / 12
    hidden[3, :, :3] = 0.01
    bar, mark, prior = (0.2, 2.0, 0.15) if leans else (1.0, 0.0, 0.0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
    )
    with torch.no_grad():
        net[1].weight.copy_(hidden.flatten(1))
        net[1].bias.zero_()
        net[3].weight.copy_(torch.tensor([[bar, 0, mark, 0], [0, 1, 0, 0]]))
        net[3].bias.copy_(torch.tensor([0, prior]))
    return net.eval()


def fitted_classifier(net, X, y, **params):
    params = {
        "heatmaps": HeatmapTransformer(size=14),
        "clusterer": KMeans(2, n_init=3, random_state=0),
        "strategy": DFRClassifier(n_retrains=3, min_group_size=1, random_state=0),
    } | params
    return ExMapClassifier(net, **params).fit(X, y)


@pytest.fixture(scope="session")
def make_images():
    return images_with_mark


@pytest.fixture(scope="session")
def make_net():
    return net_by_hand


@pytest.fixture(scope="session")
def fit_classifier():
    return fitted_classifier


@pytest.fixture(scope="session")
def marked():
    """A net that leans on a mark in the bottom right corner: images, classes, marks, and the classifier."""
    X, y, mark = images_with_mark(300)
    net = net_by_hand(leans=True)
    return SimpleNamespace(X=X, y=y, mark=mark, net=net, classifier=fitted_classifier(net, X, y))


@pytest.fixture(scope="session")
def report(marked):
    return ShortcutReport.from_estimator(marked.classifier, marked.X, marked.y)
