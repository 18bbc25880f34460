"""GEORGE needs no class of its own: embedding clusters inside each class, then any strategy that reads groups."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from skexmap import DFRClassifier, PseudoGroupLabeler
from skexmap._blocks import make_blocks
from skexmap.cluster import SilhouetteKMeans
from skexmap.datasets import make_shortcut_features
from skexmap.retraining import ERMClassifier, GroupDROClassifier


def blocks_with_a_shortcut(n=1500, agreement=0.9, seed=0):
    """Embeddings that fall apart by the shortcut, and heatmaps that show nothing."""
    X, y, shortcut = make_shortcut_features(n, n_features=4, agreement=agreement, random_state=seed)
    heatmaps = np.random.RandomState(seed).normal(size=(n, 1, 2, 2))
    return make_blocks(embedding=X, heatmap=heatmaps), y, shortcut


@pytest.mark.parametrize(
    "strategy",
    [DFRClassifier(min_group_size=20, random_state=0), GroupDROClassifier(eta=0.1, random_state=0)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_embedding_clusters_inside_each_class_make_groups_that_raise_the_worst_one(strategy):
    X, y, shortcut = blocks_with_a_shortcut()
    labeler = PseudoGroupLabeler(
        SilhouetteKMeans(n_init=2, random_state=0), block="embedding", scope="local", merge_alpha=None
    )
    george = make_pipeline(labeler, strategy).fit(X, y)
    pairs = np.stack([george[0].group_labels_, 2 * y + shortcut])
    # No pseudo-group mixes classes, and hardly an image lies in one of the other shortcut.
    purity = sum(np.bincount(pairs[1, pairs[0] == group]).max() for group in np.unique(pairs[0])) / len(y)
    assert purity > 0.97
    new, new_y, new_shortcut = blocks_with_a_shortcut(3000, agreement=0.5, seed=1)
    against = new_shortcut != new_y
    erm = ERMClassifier().fit(X, y).score(new[against], new_y[against])
    assert george.score(new[against], new_y[against]) > erm + 0.1
