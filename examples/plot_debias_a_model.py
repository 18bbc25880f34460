"""Model in, shortcut found, strategy chosen without group labels, model out.

Run it with ``python examples/plot_debias_a_model.py`` (about two minutes on two cores). It trains the demo's net on
colored digits, shows on which pseudo-group it fails, chooses among retraining strategies by cross-validated worst
*pseudo*-group accuracy, exports the debiased torch module, and saves heatmaps of the model before and after. True
groups appear in the last table only.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from demo import train
from sklearn.model_selection import StratifiedKFold, cross_val_score

from skexmap import DFRClassifierCV, ExMapClassifier, HeatmapTransformer, PseudoGroupLabeler, export_model
from skexmap.datasets import make_colored_digits
from skexmap.metrics import group_report, make_worst_pseudo_group_scorer
from skexmap.retraining import GroupDROClassifier, JTTClassifier

OUTPUT = Path("demo_output")
STRATEGIES = {
    "DFR": DFRClassifierCV(random_state=0),
    "JTT": JTTClassifier(),
    "Group-DRO": GroupDROClassifier(random_state=0),
}


@torch.no_grad()
def predictions(model, images):
    """Return the classes that a torch module predicts."""
    return model(torch.from_numpy(images)).argmax(1).numpy()


def choose_strategy(blocks, pseudo_groups, y):
    """Return the strategy with the best cross-validated worst pseudo-group accuracy, and print all scores."""
    # Folds that hold every pseudo-group; no true group is involved.
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(blocks, pseudo_groups))
    scorer = make_worst_pseudo_group_scorer("precomputed")
    scores = {
        name: cross_val_score(strategy, blocks, y, cv=folds, scoring=scorer, error_score="raise")
        for name, strategy in STRATEGIES.items()
    }
    print("\nWorst pseudo-group accuracy, mean of 5 folds:")
    for name, values in scores.items():
        print(f"  {name:10} {np.mean(values):.3f}")
    return max(scores, key=lambda name: np.mean(scores[name]))


def save_before_and_after(before, after, images, y):
    """Save one row per image: the image, its heatmap under the original and under the debiased model."""
    import matplotlib.pyplot as plt

    def transformer(model):
        # The sign is for the eye: red speaks for the predicted class, blue against it.
        return HeatmapTransformer(model, evidence="signed")

    maps = [
        transformer(model).fit_transform(images).reshape(-1, 3, 28, 28).sum(axis=1)
        for model in (before, after)
    ]
    figure, axes = plt.subplots(3, len(images), figsize=(1.6 * len(images), 5), layout="constrained")
    for column, (image, label) in enumerate(zip(images, y, strict=True)):
        axes[0, column].imshow(np.clip(image.transpose(1, 2, 0), 0, 1))
        axes[0, column].set_title("digit > 4" if label else "digit <= 4", fontsize=9)
        for row, values in enumerate(maps, 1):
            axes[row, column].imshow(values[column], cmap="RdBu_r", vmin=-1, vmax=1)
    for row, name in enumerate(["image", "before", "after"]):
        axes[row, 0].set_ylabel(name)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    path = OUTPUT / "before_and_after.png"
    figure.savefig(path, dpi=100)
    return path


def main():
    """Run the example."""
    matplotlib.use("Agg")
    OUTPUT.mkdir(exist_ok=True)
    digits = make_colored_digits(correlation=0.95, n_copies=10, random_state=0)
    validation, test = digits.validation, digits.test
    net = train(digits.train, 0)

    blocks = HeatmapTransformer(net, return_embedding=True).fit_transform(validation.data)
    labeler = PseudoGroupLabeler().fit(blocks, validation.target)
    print("The net on the pseudo-groups of the validation images:")
    print(
        group_report(validation.target, predictions(net, validation.data), group_labels=labeler.group_labels_)
    )

    clustered = PseudoGroupLabeler().fit_transform(blocks, validation.target)
    chosen = choose_strategy(clustered, labeler.group_labels_, validation.target)
    print(f"Chosen: {chosen}")

    classifier = ExMapClassifier(net, strategy=STRATEGIES[chosen]).fit(validation.data, validation.target)
    debiased = export_model(classifier)
    agree = np.mean(predictions(debiased, test.data) == classifier.predict(test.data))
    print(
        f"\nExported a {type(debiased).__name__}; it agrees with the classifier on {agree:.1%} of the test images."
    )

    for name, model in (("original", net), ("debiased", debiased)):
        print(f"\nThe {name} model on the true groups of the test images:")
        print(group_report(test.target, predictions(model, test.data), group_labels=test.group_labels))
    one_of_each = [np.flatnonzero(test.group_labels == group)[i] for group in range(4) for i in (0, 7)]
    path = save_before_and_after(net, debiased, test.data[one_of_each], test.target[one_of_each])
    print(f"\nFigure: {path}")


if __name__ == "__main__":
    main()
