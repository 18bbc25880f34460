"""
Five ways to choose the penalty by the worst group
==================================================

A small net is trained on digits in colored ink, nine tenths of which have the ink of their class. Its last layer is
retrained by :class:`~skexmap.retraining.DFRClassifier` on the pseudo-groups that its heatmaps give, and the strength
``C`` of the L1 penalty is chosen by the accuracy of the worst *pseudo*-group with five tools: ``GridSearchCV``,
``HalvingGridSearchCV``, ``cross_validate`` by hand, ``GridSearchCV`` on ``RepeatedStratifiedKFold`` over class x
pseudo-group, and ``DFRClassifierCV``. True groups are used for the last column of the table alone.

Then a simulation shows why such scores compare on one fixed partition only.

Run it with ``python examples/plot_tune_on_worst_group.py``; it draws ``tune_on_worst_group.png``.
"""

import sys
import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from colored_digits_net import train_net
from sklearn.cluster import KMeans
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    cross_validate,
)

from skexmap import HeatmapTransformer
from skexmap.datasets import make_colored_digits
from skexmap.exceptions import PredictionWarning
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import make_worst_pseudo_group_scorer, worst_group_accuracy
from skexmap.retraining import DFRClassifier, DFRClassifierCV

# %%
# A net that leans on the ink
# ---------------------------

digits = make_colored_digits(correlation=0.9, n_copies=3, random_state=0)
net = train_net(digits.train)

# %%
# Transform once
# --------------
# Only the head is searched over, so heatmaps and clusters are computed once; the blocks split by rows.

y = digits.validation.target
heatmaps = HeatmapTransformer(net, size=14, return_embedding=True)
labeler = PseudoGroupLabeler(KMeans(2, n_init=10, random_state=0))
X = labeler.fit_transform(heatmaps.fit_transform(digits.validation.data, y), y)
pseudo_groups = labeler.group_labels_
X_test = heatmaps.transform(digits.test.data)

# %%
# Choose C five times
# -------------------

Cs = [1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01]
# The strongest penalties leave no coefficient on a fold; their scores say so.
warnings.simplefilter("ignore", PredictionWarning)
head = DFRClassifier(n_retrains=5, random_state=0)
scorer = make_worst_pseudo_group_scorer("precomputed")
folds = StratifiedKFold(5, shuffle=True, random_state=0)


def grid_search():
    search = GridSearchCV(head, {"C": Cs}, scoring=scorer, cv=folds).fit(X, y)
    return search, search.cv_results_["mean_test_score"]


def halving():
    search = HalvingGridSearchCV(
        head, {"C": Cs}, scoring=scorer, cv=folds, factor=2, min_resources=len(y) // 4, random_state=0
    ).fit(X, y)
    # Of each candidate the score on the most samples that it got to.
    last = {
        params["C"]: score
        for params, score in zip(*_columns(search, "params", "mean_test_score"), strict=True)
    }
    return search, np.array([last[C] for C in Cs])


def by_hand():
    heads = [DFRClassifier(C, n_retrains=5, random_state=0) for C in Cs]
    curve = [cross_validate(head, X, y, scoring=scorer, cv=folds)["test_score"].mean() for head in heads]
    best = Cs[int(np.argmax(curve))]
    return DFRClassifier(best, n_retrains=5, random_state=0).fit(X, y), np.array(curve)


def stratified_by_pseudo_group():
    splitter = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
    search = GridSearchCV(head, {"C": Cs}, scoring=scorer, cv=list(splitter.split(X, pseudo_groups)))
    search.fit(X, y)
    return search, search.cv_results_["mean_test_score"]


def dfr_cv():
    dfr = DFRClassifierCV(Cs=Cs, n_retrains=5, random_state=0).fit(X, y)
    return dfr, dfr.scores_


def _columns(search, *names):
    return [search.cv_results_[name] for name in names]


WAYS = {
    "GridSearchCV": grid_search,
    "HalvingGridSearchCV": halving,
    "cross_validate": by_hand,
    "GridSearchCV, class x pseudo-group": stratified_by_pseudo_group,
    "DFRClassifierCV": dfr_cv,
}
curves, chosen = {}, {}
print(f"{'way':<36} {'C':>5} {'score':>6} {'test':>6} {'seconds':>8}")
for name, way in WAYS.items():
    start = perf_counter()
    model, curves[name] = way()
    seconds = perf_counter() - start
    fitted = getattr(model, "best_estimator_", model)
    chosen[name] = fitted.C_
    on_test = worst_group_accuracy(
        digits.test.target, fitted.predict(X_test), group_labels=digits.test.group_labels
    )
    score = curves[name][Cs.index(fitted.C_)]
    print(f"{name:<36} {fitted.C_:>5g} {score:>6.3f} {on_test:>6.3f} {seconds:>8.1f}")

with torch.no_grad():
    of_the_net = net(torch.as_tensor(digits.test.data)).argmax(dim=1).numpy()
on_test = worst_group_accuracy(digits.test.target, of_the_net, group_labels=digits.test.group_labels)
print(f"{'the net as trained':<36} {'':>5} {'':>6} {on_test:>6.3f}")

# %%
# Given the splits of a search, `DFRClassifierCV` chooses the same C.

splits = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0).split(X, pseudo_groups))
every_group = make_worst_pseudo_group_scorer("precomputed", min_group_size=1)
search = GridSearchCV(head, {"C": Cs}, scoring=every_group, cv=splits).fit(X, y)
same = DFRClassifierCV(Cs=Cs, cv=splits, n_retrains=5, random_state=0).fit(X, y)
print(f"\nthe same splits: GridSearchCV C = {search.best_params_['C']:g}, DFRClassifierCV C = {same.C_:g}")

# %%
# Why one fixed partition
# -----------------------
# A model that follows a shortcut agreeing with the class in 99% of the samples, and a fair one that is right in 90%
# whatever the shortcut says. Where all samples are in one cluster, the worst pseudo-group is the worst class.

rng = np.random.RandomState(0)
n = 100_000
label = rng.randint(2, size=n)
shortcut = np.where(rng.uniform(size=n) < 0.99, label, 1 - label)
fair = np.where(rng.uniform(size=n) < 0.90, label, 1 - label)
partitions = {"one cluster": np.zeros(n, dtype=int), "clusters of\nthe shortcut": shortcut}
models = {"shortcut model": shortcut, "fair model": fair}
simulated = {
    model: [worst_group_accuracy(label, predicted, group_labels=2 * label + c) for c in partitions.values()]
    for model, predicted in models.items()
}
print("\nworst pseudo-group accuracy on:      one cluster   clusters of the shortcut")
for model, scores in simulated.items():
    print(f"{model:<36} {scores[0]:>11.2f} {scores[1]:>26.2f}")

# %%
# The curves, and the simulation
# ------------------------------

COLORS = ["#1f77b4", "#e07b00", "#2a9d5c", "#7b4fb3", "#8a8a8a"]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=[2, 1], layout="constrained")
for (name, curve), color in zip(curves.items(), COLORS, strict=True):
    # By hand on the same folds the curve is that of GridSearchCV: dashes leave both to be seen.
    style = (0, (2, 2)) if name == "cross_validate" else "-"
    left.plot(
        Cs,
        curve,
        color=color,
        linestyle=style,
        marker="o",
        markersize=4,
        label=f"{name}: C = {chosen[name]:g}",
    )
    at = Cs.index(chosen[name])
    left.plot(Cs[at], curve[at], color=color, marker="o", markersize=11, fillstyle="none", markeredgewidth=2)
left.set_xscale("log")
left.set_xticks(Cs, [f"{C:g}" for C in Cs])
left.minorticks_off()
left.set_xlabel("C (smaller is sparser); the ring marks the choice")
left.set_ylabel("accuracy of the worst pseudo-group")
left.legend(frameon=False, loc="lower right")
left.set_title("Five ways to choose C", loc="left", fontsize="medium")

for (model, scores), color in zip(simulated.items(), ["#c2410c", "#1f77b4"], strict=True):
    right.plot([0, 1], scores, color=color, marker="o")
    right.text(1.05, scores[1], f"{model}\n{scores[1]:.2f}", color=color, va="center")
    right.text(-0.05, scores[0], f"{scores[0]:.2f}", color=color, va="center", ha="right")
right.set_xticks([0, 1], list(partitions))
right.set_xlim(-0.3, 1.75)
right.set_ylim(-0.05, 1.1)
right.set_title("The same two models, two partitions", loc="left", fontsize="medium")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)

if "sphinx_gallery" not in sys.modules:
    figure.savefig("tune_on_worst_group.png", dpi=120)
