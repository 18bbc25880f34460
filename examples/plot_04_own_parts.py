"""
Your own attribution, clusterer and strategy
============================================

Each of the three stages takes parts that follow scikit-learn's conventions: any function that attributes, any
clusterer, and any classifier as the last layer.
"""

import numpy as np
import torch
from colored_digits_net import train_net
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from skexmap import ExMapClassifier, HeatmapTransformer
from skexmap.datasets import make_colored_digits
from skexmap.display import GroupGalleryDisplay
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import group_report
from skexmap.retraining import JTTReweighter

digits = make_colored_digits(correlation=0.9, n_copies=3, random_state=0)
net = train_net(digits.train)

# %%
# An attribution is a function
# ----------------------------
# It gets the network, a batch and the class to explain for each image, and returns relevance in the shape of the
# batch. This one is gradient x input; Captum's methods fit in the same way.


def gradient_times_input(model, images, target):
    """Return the gradient of the target logits, times the pixels."""
    images = images.requires_grad_()
    logits = model(images).gather(1, target[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    return (gradient * images).detach()


# %%
# A clusterer has `fit_predict`
# -----------------------------
# :class:`~skexmap.groups.PseudoGroupLabeler` makes pseudo-groups of any clusters, and merges those that the network
# treats alike.

labeler = PseudoGroupLabeler(KMeans(4, n_init=10, random_state=0))

# %%
# A strategy is a classifier on embeddings
# ----------------------------------------
# Those of :mod:`skexmap.retraining` read the groups. Others work inside :class:`~skexmap.retraining.JTTReweighter`,
# which needs nothing but `sample_weight`.

strategy = JTTReweighter(LogisticRegression(max_iter=1000))

exmap = ExMapClassifier(
    net,
    heatmaps=HeatmapTransformer(attribution=gradient_times_input, size=14),
    clusterer=labeler,
    strategy=strategy,
).fit(digits.validation.data, digits.validation.target)
test = digits.test
report = group_report(
    test.target, exmap.predict(test.data), group_labels=test.group_labels, names=test.group_names
)
print(report)
print("Sizes of the pseudo-groups:", np.bincount(exmap.group_labels_))

# %%
# What the parts found
# --------------------
# Each row is a pseudo-group: its mean map, its most and least typical images, and those that the network gets wrong.

_ = GroupGalleryDisplay.from_estimator(exmap, digits.validation.data, digits.validation.target)
