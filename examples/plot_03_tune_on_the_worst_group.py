"""
Tune on the worst group
=======================

A search that maximizes mean accuracy prefers the model that relies on the shortcut. This search maximizes the
accuracy of the worst *pseudo*-group instead, so it needs no group labels.
"""

import torch
from colored_digits_net import train_net
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skexmap import DFRClassifier, HeatmapTransformer, PseudoGroupLabeler
from skexmap.datasets import make_colored_digits
from skexmap.display import GroupAccuracyDisplay
from skexmap.metrics import group_report, make_worst_pseudo_group_scorer

# %%
# A network that leans on the color of the ink
# --------------------------------------------
# Nine tenths of the digits have the ink of their class.

digits = make_colored_digits(correlation=0.9, n_copies=3, random_state=0)
net = train_net(digits.train)

# %%
# Heatmaps and clusters once
# --------------------------
# Only the last layer is searched over. The blocks that the steps pass on split by rows, like any array.

y = digits.validation.target
heatmaps = HeatmapTransformer(net, size=14, return_embedding=True)
labeler = PseudoGroupLabeler()
blocks = labeler.fit_transform(heatmaps.fit_transform(digits.validation.data, y), y)

# %%
# Search
# ------
# The scorer reads the cluster of each row and crosses it with the class. The folds are stratified by pseudo-group,
# so no fold lacks one.

folds = StratifiedKFold(5, shuffle=True, random_state=0).split(blocks, labeler.group_labels_)
search = GridSearchCV(
    DFRClassifier(n_retrains=5, random_state=0),
    {"C": [1.0, 0.3, 0.1, 0.03]},
    scoring=make_worst_pseudo_group_scorer("precomputed"),
    cv=list(folds),
).fit(blocks, y)
for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    print(f"C={params['C']:<5} worst pseudo-group {score:.3f}")

# %%
# The true groups
# ---------------
# They are used only here, to see what the search was worth on test images.

test = digits.test
with torch.no_grad():
    as_trained = net(torch.as_tensor(test.data)).argmax(1).numpy()
predictions = {"as trained": as_trained, "tuned": search.predict(heatmaps.transform(test.data))}
shared = {"group_labels": test.group_labels, "names": test.group_names}
for name, predicted in predictions.items():
    print(f"\nThe network {name}:\n{group_report(test.target, predicted, **shared)}")
_ = GroupAccuracyDisplay.from_predictions(test.target, predictions, **shared)
