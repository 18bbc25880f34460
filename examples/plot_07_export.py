"""
Export the repaired network
===========================

:func:`~skexmap.export_model` returns a torch module of your own class, whose last layer has the retrained weights.
It runs without skexmap.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from colored_digits_net import make_net, train_net

from skexmap import ExMapClassifier, export_model
from skexmap.datasets import make_colored_digits
from skexmap.display import HeatmapDisplay

digits = make_colored_digits(correlation=0.9, n_copies=3, random_state=0)

net = train_net(digits.train)

# %%
# Repair and export
# -----------------

exmap = ExMapClassifier(net, random_state=0).fit(digits.validation.data, digits.validation.target)
repaired = export_model(exmap).eval()
X_test = torch.as_tensor(digits.test.data)
with torch.no_grad():
    predicted = repaired(X_test).argmax(1).numpy()
print("Module and classifier agree:", np.mean(predicted == exmap.predict(digits.test.data)))

# %%
# Save the weights, and load them elsewhere
# -----------------------------------------

path = Path(tempfile.mkdtemp()) / "repaired.pt"
torch.save(repaired.state_dict(), path)
fresh = make_net().eval()
print(fresh.load_state_dict(torch.load(path, weights_only=True)))

# %%
# As a graph
# ----------
# ``torch.export`` writes a program that needs no Python class; ONNX takes the same arguments (see :doc:`/export`).

batch = torch.export.Dim("batch")
program = torch.export.export(repaired, (X_test[:4],), dynamic_shapes=({0: batch},))
with torch.no_grad():
    print("Largest difference:", float((program.module()(X_test[:9]) - repaired(X_test[:9])).abs().max()))

# %%
# Before and after
# ----------------
# What both networks look at in images of the rare groups.

rare = np.flatnonzero(digits.test.attributes != digits.test.target)[[0, 1, 300, 301]]
_ = HeatmapDisplay.from_estimator(net, digits.test.data[rare], after=repaired)
