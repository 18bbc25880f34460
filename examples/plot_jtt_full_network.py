"""
Just train twice, the whole network, chosen without group labels
================================================================

:class:`~skexmap.retraining.JTTClassifier` trains a network twice: the errors of a first, short training are repeated in
the second. How short, and how often repeated, decides everything; the original chooses both by the accuracy of the
worst *true* group of a validation split. Here the pseudo-groups that ExMap finds in that split take their place: true
groups appear in the printed report alone.

The networks are skorch's ``NeuralNetClassifier`` (``pip install skorch``), which takes no ``sample_weight``,
so that the errors are repeated as in the original. Run it with ``python examples/plot_jtt_full_network.py`` (about a
minute on two cores); it draws ``jtt_full_network.png``.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import sklearn
import torch
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from skorch import NeuralNetClassifier

from skexmap import HeatmapTransformer, PseudoGroupLabeler
from skexmap.datasets import make_colored_digits
from skexmap.metrics import group_report, worst_group_accuracy
from skexmap.retraining import JTTClassifier

start = time.perf_counter()

# %%
# A network that leans on the ink
# -------------------------------
# Class: is the digit above 4? 95% of the training and validation images have the ink of their class.

digits = make_colored_digits(correlation=0.95, n_copies=5, random_state=0)
train, validation, test = digits.train, digits.validation, digits.test


class Net(torch.nn.Sequential):
    """Two convolutions and two dense layers, with the same first weights every time."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Conv2d(3, 8, 5, stride=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 5, stride=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(256, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 2),
        )


network = NeuralNetClassifier(
    Net,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=1e-3,
    batch_size=64,
    iterator_train__shuffle=True,
    max_epochs=10,
    train_split=None,
    verbose=0,
)
erm = clone(network).fit(train.data, train.target)

# %%
# The pseudo-groups of the validation split
# -----------------------------------------
# Heatmaps of what the network looks at, clustered; class x cluster is a pseudo-group.

maps = HeatmapTransformer(erm.module_, return_embedding=True).fit_transform(validation.data)
pseudo_groups = PseudoGroupLabeler().fit_predict(maps, validation.target)
print("The network on the pseudo-groups of the validation images:")
print(group_report(validation.target, erm.predict(validation.data), group_labels=pseudo_groups))

# %%
# Choose by the worst pseudo-group
# --------------------------------
# Every candidate trains on the training split and is scored on the validation split. The search passes the
# pseudo-groups to the scorer, not to `fit`; groups of fewer than 20 images are too small to tell candidates apart.

images = np.concatenate([train.data, validation.data])
y = np.concatenate([train.target, validation.target])
only_validation = np.r_[np.full(len(train.target), -1), np.zeros(len(validation.target), dtype=int)]
groups = np.r_[np.full(len(train.target), -1), pseudo_groups]
jtt = JTTClassifier(network, reference_estimator=network)
grid = {"reference_estimator__max_epochs": [3, 10], "upweight": [5, 20, 50]}
with sklearn.config_context(enable_metadata_routing=True):
    search = GridSearchCV(
        jtt,
        grid,
        scoring=make_scorer(worst_group_accuracy, min_group_size=20).set_score_request(group_labels=True),
        cv=PredefinedSplit(only_validation),
        refit=False,
        error_score="raise",
    ).fit(images, y, group_labels=groups)
results = search.cv_results_
chosen = results["params"][np.argmax(results["mean_test_score"])]
best = clone(jtt).set_params(**chosen).fit(train.data, train.target)

# %%
# What it was worth
# -----------------
# From here on the true groups are used, and test images, half of them in the other ink.


def worst_and_mean(model):
    """Return the accuracy of the worst and of the mean true group of the test images."""
    report = group_report(test.target, model.predict(test.data), group_labels=test.group_labels)
    return report.worst_group_accuracy, report.macro_mean


print(f"\n{'epochs of the first network':>28}{'upweight':>10}{'worst pseudo-group, validation':>32}")
for params, score in zip(results["params"], results["mean_test_score"], strict=True):
    mark = "  <- chosen" if params == chosen else ""
    epochs = params["reference_estimator__max_epochs"]
    print(f"{epochs:>28}{params['upweight']:>10}{score:>32.3f}{mark}")
print(
    f"\nThe first network gets {len(best.error_set_)} of {len(train.target)} training images wrong; of these,"
)
against = train.group_labels[best.error_set_]
print(f"{np.mean((against == 1) | (against == 2)):.0%} have the ink of the other class.")
print(f"\n{'test images':>28}{'worst true group':>18}{'mean group':>12}")
rows = {"trained once": worst_and_mean(erm), "trained twice": worst_and_mean(best)}
for name, (worst, mean) in rows.items():
    print(f"{name:>28}{worst:>18.3f}{mean:>12.3f}")
print(f"\n{time.perf_counter() - start:.0f} s in all")

# %%
# The two choices, drawn: worst pseudo-group over upweight, one line for each length of the first training.

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for epochs in grid["reference_estimator__max_epochs"]:
    line = [
        score
        for params, score in zip(results["params"], results["mean_test_score"], strict=True)
        if params["reference_estimator__max_epochs"] == epochs
    ]
    ax.plot(
        [str(upweight) for upweight in grid["upweight"]],
        line,
        marker="o",
        label=f"{epochs} epochs of the first network",
    )
ax.set(xlabel="upweight", ylabel="worst pseudo-group accuracy (validation)", ylim=(0, 1))
ax.legend()
if "sphinx_gallery" not in sys.modules:
    figure.savefig("jtt_full_network.png", dpi=100)
