"""A small net, images and the method around them, for the tests of the whole method."""

import os

# Before the libraries are imported: workers of pytest already fill the cores, and PyTorch waits forever in a fork of a
# process that has used several threads.
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline

from skexmap import DFRClassifier, ExMapClassifier, HeatmapTransformer, PseudoGroupLabeler


@pytest.fixture
def net():
    # Under this seed both classes are predicted, and no image is near the boundary.
    torch.manual_seed(22)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 2),
    ).eval()


@pytest.fixture
def make_images():
    """A function that returns noise, a third of it with a bright upper half in the first channel, and two classes."""

    def make(n):
        X = np.random.default_rng(0).uniform(size=(n, 3, 10, 10)).astype(np.float32)
        X[np.arange(n) % 3 == 0, 0, :5] += 2
        return X, np.repeat(["duck", "swan"], n // 2)

    return make


@pytest.fixture
def images(make_images):
    return make_images(60)


@pytest.fixture
def two_clusters():
    return PseudoGroupLabeler(KMeans(2, n_init=10, random_state=0), merge_alpha=None)


@pytest.fixture
def dfr():
    return DFRClassifier(n_retrains=3, min_group_size=1, random_state=0)


@pytest.fixture
def exmap(net, two_clusters, dfr):
    return ExMapClassifier(net, heatmaps=HeatmapTransformer(size=4), clusterer=two_clusters, strategy=dfr)


@pytest.fixture
def pipe(net, two_clusters, dfr):
    heatmaps = HeatmapTransformer(net, size=4, return_embedding=True, batch_size=16)
    return Pipeline([("heatmaps", heatmaps), ("clusterer", two_clusters), ("dfr", dfr)])


@pytest.fixture
def passes(monkeypatch):
    """The number of images in each call of the relevance pass, and of the trial in `fit`."""
    seen = []
    attribute = HeatmapTransformer._attribute

    def counted(self, images, *args):
        seen.append(len(images))
        return attribute(self, images, *args)

    monkeypatch.setattr(HeatmapTransformer, "_attribute", counted)
    return seen
