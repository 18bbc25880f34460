"""
Which images show it?
=====================

:class:`~skexmap.report.ShortcutReport` puts the finding into words. It names the cluster that is likely a shortcut,
the place where the network looks in its images, and the images to look at.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from watermarked_photos import CLASSES, files_of, train_net, write_photos

from skexmap import ExMapClassifier
from skexmap.display import HeatmapDisplay
from skexmap.features import ImageLoader
from skexmap.report import ShortcutReport

folder = write_photos(tempfile.mkdtemp())
paths, y = files_of(folder, "train")
images = torch.stack([ImageLoader()(path) for path in paths])
net = train_net(images, torch.tensor([CLASSES.index(label) for label in y]))

# %%
# The report in words
# -------------------
# The first line is the answer. The table has one row for each class and cluster.

X, y = files_of(folder, "heldout")
exmap = ExMapClassifier(net, random_state=0).fit(X, y)
report = ShortcutReport.from_estimator(exmap, X, y)
print(report)

# %%
# The report as a page
# --------------------
# In a notebook, the report shows itself with its images. ``report.save("report.html")`` writes the same as one file
# that needs no network.

report.save(Path(tempfile.mkdtemp()) / "report.html")
report

# %%
# The images
# ----------
# Images of the first cluster in both classes: the network looks at the corner, and predicts the high digits.

found = exmap.cluster_labels_ == report.rows[0]["cluster"]
rows = [row for label in CLASSES for row in np.flatnonzero(found & (np.array(y) == label))[:2]]
_ = HeatmapDisplay.from_estimator(exmap, [X[row] for row in rows], [y[row] for row in rows])

# %%
# Choose by hand
# --------------
# Give a cluster the name of what you see in it. If two clusters show the same, merge them; if one should not be
# balanced, drop it. Then only the last layer is fitted again.

exmap.labeler_.rename({report.to_frame().iloc[0]["cluster"]: "watermark"})
exmap.refit_strategy(y)
print(exmap.labeler_.cluster_names_)
