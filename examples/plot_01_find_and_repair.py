"""
Find and repair a shortcut
==========================

A small network tells low digits from high ones. Nine tenths of its training images of high digits carry a
watermark, and nobody wrote that down. This example finds the watermark in what the network looks at, and refits the
last layer so that it matters less. It starts from a folder of JPEG files and ends with a repaired torch module.
"""

import tempfile

import numpy as np
import torch
from watermarked_photos import CLASSES, files_of, train_net, write_photos

from skexmap import ExMapClassifier, export_model
from skexmap.display import GroupAccuracyDisplay, GroupGalleryDisplay
from skexmap.features import ImageLoader

# %%
# The images and the network
# --------------------------
# The folder has one subfolder for each split, and in it one for each class. You would start with your own folder and
# your own network.

folder = write_photos(tempfile.mkdtemp())
load = ImageLoader()
paths, y = files_of(folder, "train")
images = torch.stack([load(path) for path in paths])
net = train_net(images, torch.tensor([CLASSES.index(label) for label in y]))

# %%
# Fit on held-out images
# ----------------------
# The network gets almost all of its own training images right, so they can't show where it fails. ExMap needs images
# that the network has not seen. It gets their paths and their classes, and nothing about watermarks.

X, y = files_of(folder, "heldout")
exmap = ExMapClassifier(net, random_state=0).fit(X, y)
print(f"The network is right about {exmap.transformer_.model_accuracy_:.0%} of the held-out images.")
print(f"ExMap finds {exmap.labeler_.n_clusters_} clusters, so {len(np.unique(exmap.group_labels_))} groups.")

# %%
# What the clusters are
# ---------------------
# Each row is a group: a class and a cluster. The images of one cluster have something in common that the network
# looks at. Here it is the watermark.

_ = GroupGalleryDisplay.from_estimator(exmap, X, y, n_images=3)

# %%
# Was it worth it?
# ----------------
# The names of the test files tell whether there is a watermark. Nothing above has read them. In the test images,
# half of each class is marked.

X_test, y_test = files_of(folder, "test")
marked = np.array(["_marked" in path for path in X_test])
groups = np.array([f"{label}, {'marked' if m else 'plain'}" for label, m in zip(y_test, marked, strict=True)])
with torch.no_grad():
    by_net = np.array(CLASSES)[net(torch.stack([load(path) for path in X_test])).argmax(1)]

predictions = {"as trained": by_net, "repaired": exmap.predict(X_test)}
_ = GroupAccuracyDisplay.from_predictions(y_test, predictions, group_labels=groups)

# %%
# Take the module home
# --------------------
# The repaired network is a torch module like the one you started with.

repaired = export_model(exmap)
with torch.no_grad():
    logits = repaired(torch.stack([load(path) for path in X_test]))
print(type(repaired).__name__, np.mean(np.array(CLASSES)[logits.argmax(1)] == predictions["repaired"]))
