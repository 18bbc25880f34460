"""
Two shortcuts at once
=====================

The class goes with the color of the ink *and* with a mark in one of two corners. A repair that finds only one of
the two leaves the other in place.
"""

import demo
import matplotlib.pyplot as plt

from skexmap import ExMapClassifier
from skexmap.display import ClusterMapDisplay, GroupAccuracyDisplay
from skexmap.metrics import purity_score

# %%
# The data and the network of the demo
# ------------------------------------
# Each shortcut agrees with the class for 90% of the images, so both mislead on 1%. With fewer images than in the
# demo, the smallest group has only a handful.

demo.N_COPIES = 4
digits = demo.make_digits(0)
net = demo.train(digits.train, 0)

# %%
# ExMap, and what it is told
# --------------------------
# The images and their classes. The number of clusters comes from the eigengap.

validation, test = digits.validation, digits.test
exmap = ExMapClassifier(net, random_state=0).fit(validation.data, validation.target)
print(f"{exmap.labeler_.n_clusters_} clusters")
print(f"{purity_score(validation.groups, exmap.group_labels_):.3f} purity of the pseudo-groups")

# %%
# The heatmaps in two dimensions, by pseudo-group and by true group. The true groups are for this picture only.

figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
ClusterMapDisplay.from_estimator(exmap, validation.data, validation.target, ax=axes[0])
_ = ClusterMapDisplay.from_estimator(
    exmap, validation.data, validation.target, group_labels=validation.groups, ax=axes[1]
)

# %%
# Accuracy on test images, in which every digit has every ink and every mark
# ---------------------------------------------------------------------------

predictions = {"as trained": demo.net_predictions(net, test.data), "repaired": exmap.predict(test.data)}
_ = GroupAccuracyDisplay.from_predictions(test.target, predictions, group_labels=test.groups)
