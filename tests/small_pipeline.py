"""A small net, images and the asked-for pipeline around them: the same in every process that imports this."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline

from skexmap import DFRClassifier, HeatmapTransformer, PseudoGroupLabeler


def make_net():
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


def make_images(n=60):
    """Return noise, a third of it with a bright upper half in the first channel, and two classes."""
    X = np.random.default_rng(0).uniform(size=(n, 3, 10, 10)).astype(np.float32)
    X[np.arange(n) % 3 == 0, 0, :5] += 2
    return X, np.repeat(["duck", "swan"], n // 2)


def make_pipe(net, **params):
    return Pipeline(
        [
            ("heatmaps", HeatmapTransformer(net, size=4, return_embedding=True, batch_size=16)),
            ("clusterer", PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None)),
            ("dfr", DFRClassifier(n_retrains=3, min_group_size=1, random_state=0)),
        ],
        **params,
    )
