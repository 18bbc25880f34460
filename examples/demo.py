"""A network leans on a shortcut, and skexmap repairs it without group labels.

Run it with ``make demo``, or ``python examples/demo.py``. Class: is the handwritten digit above 4? Shortcut: the ink
colour, which agrees with the class for 95% of the training images. ``--choose`` prints the table by which the
correlation and the number of training epochs were chosen.
"""

import argparse
import os
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.model_selection import GroupKFold
from torch import nn

from skexmap import (
    DFRClassifier,
    DFRClassifierCV,
    EmbeddingTransformer,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap.datasets import make_colored_digits
from skexmap.display import EigengapDisplay, GroupHeatmapDisplay
from skexmap.metrics import group_accuracies, mean_accuracy, purity_score, worst_group_accuracy

# Chosen on the validation split: the widest gap of choose_correlation_and_epochs, over 0.95 and 0.97, 2 to 6 epochs.
CORRELATION = 0.95
N_EPOCHS = 4
# Groups of at most so many images stay in whole and do not set the size that DFR cuts all others down to: the size
# below which DFRClassifierCV warns of slivers and advises this. It holds for every row, the true groups included.
SLIVER = 20
# Ten images of every train and validation digit: also the 5% with the other ink are then well over 100 per class.
N_COPIES = 10
OUTPUT = Path("demo_output")


def make_net(seed):
    """Return an untrained net of two convolutions and two dense layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 256),
        nn.ReLU(),
        nn.Linear(256, 2),
    )


def train_epoch(net, optimizer, images, y, shuffle):
    """Train for one epoch, in batches of 64."""
    net.train()
    for rows in torch.randperm(len(images), generator=shuffle).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), y[rows]).backward()
        optimizer.step()
    net.eval()


def train(split, seed, n_epochs, after_epoch=lambda epoch, net: None):
    """Return a net trained as usual: it minimises the mean error (ERM) and knows nothing of groups."""
    net = make_net(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    shuffle = torch.Generator().manual_seed(seed)
    images, y = torch.from_numpy(split.images), torch.from_numpy(split.y)
    for epoch in range(1, n_epochs + 1):
        train_epoch(net, optimizer, images, y, shuffle)
        after_epoch(epoch, net)
    return net


@torch.no_grad()
def net_predictions(net, images):
    """Return the classes that the net itself predicts."""
    return np.concatenate([net(batch).argmax(1).numpy() for batch in torch.from_numpy(images).split(500)])


def retrained_predictions(seed, net, validation, test):
    """Retrain the last layer on the validation split in four ways, and predict the test images.

    Returns what each way predicts, and what its pseudo-groups and maps were where it made any.
    """
    y = validation.y
    blocks = HeatmapTransformer(net, return_embedding=True).fit_transform(validation.images)
    embedding = blocks["embedding"]
    found = {
        "GEORGE-style, embedding clusters": PseudoGroupLabeler(block="embedding"),
        "ExMap, heatmap clusters": PseudoGroupLabeler(),
    }
    for labeler in found.values():
        labeler.fit(blocks, y)
    groups = {
        "classes as groups": None,
        **{name: labeler.group_labels_ for name, labeler in found.items()},
        # The only row that is shown the true groups: what knowing them would be worth.
        "true groups (the ceiling)": validation.group_labels,
    }
    test_embedding = EmbeddingTransformer(net).fit_transform(test.images)
    predicted = {
        name: DFRClassifierCV(min_group_size=SLIVER, random_state=seed)
        .fit(embedding, y, group_labels=labels)
        .predict(test_embedding)
        for name, labels in groups.items()
    }
    return predicted, found, blocks["heatmap"]


def run_seed(seed):
    """Make the data, train, repair; return the figures of every row of the table."""
    digits = make_colored_digits(correlation=CORRELATION, n_copies=N_COPIES, random_state=seed)
    validation, test = digits.validation, digits.test
    start = time.perf_counter()
    net = train(digits.train, seed, N_EPOCHS)
    seconds = {"training": time.perf_counter() - start}
    start = time.perf_counter()
    retrained, found, heatmaps = retrained_predictions(seed, net, validation, test)
    seconds["explaining, clustering and retraining"] = time.perf_counter() - start

    predicted = {"ERM, the net as trained": net_predictions(net, test.images), **retrained}
    shares = dict(enumerate(np.bincount(digits.train.group_labels, minlength=4)))
    # The test images of which the correlated split is made: those in the ink that they have there.
    correlated = np.arange(len(test.y) // 2) + len(test.y) // 2 * digits.test_correlated.color
    rows = {}
    for name, p in predicted.items():
        accuracies = group_accuracies(test.y, p, group_labels=test.group_labels)
        rows[name] = [
            min(accuracies.values()),
            mean_accuracy(test.y, p, group_labels=test.group_labels, weights=shares),
            *accuracies.values(),
            np.mean(p[correlated] == test.y[correlated]),
            worst_group_accuracy(
                test.y[correlated], p[correlated], group_labels=test.group_labels[correlated]
            ),
        ]
    clusters = {
        name: (
            labeler.n_clusters_,
            np.unique(labeler.group_labels_, return_counts=True)[1].min(),
            purity_score(validation.group_labels, labeler.group_labels_),
        )
        for name, labeler in found.items()
    }
    return digits, rows, clusters, seconds, found["ExMap, heatmap clusters"], heatmaps


def save_figures(validation, labeler, heatmaps):
    """Save what the net looked at in each true group, and the eigenvalues that gave the number of clusters."""
    # No window: the demo also runs where there is no screen.
    matplotlib.use("Agg")
    OUTPUT.mkdir(exist_ok=True)
    looked_at = GroupHeatmapDisplay.from_arrays(
        validation.images,
        heatmaps,
        group_labels=validation.group_labels,
        pseudo_groups=labeler.group_labels_,
        group_names=validation.group_names,
        n_examples=2,
    )
    paths = [OUTPUT / "heatmaps.png", OUTPUT / "eigenvalues.png"]
    looked_at.figure_.savefig(paths[0], dpi=100)
    EigengapDisplay.from_estimator(labeler).figure_.savefig(paths[1], dpi=100)
    return paths


def print_table(header, rows):
    """Print aligned columns, the first to the left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        first, *others = (
            f"{cell:{'>' if column else '<'}{widths[column]}}" for column, cell in enumerate(row)
        )
        print("  ".join([first, *others]))


def show_seeds(seeds):
    """Run all seeds and print mean and spread."""
    runs = []
    for seed in seeds:
        runs.append(run_seed(seed))
        spent = ", ".join(f"{what} {value:.0f} s" for what, value in runs[-1][3].items())
        print(f"seed {seed}: {spent}", flush=True)
    digits, first_rows, _, _, labeler, heatmaps = runs[0]
    test, correlated = digits.test, digits.test_correlated

    def mean_and_spread(values):
        return f"{np.mean(values):.3f}" + (f" ±{np.std(values, ddof=1):.3f}" if len(values) > 1 else "")

    sizes = np.bincount(test.group_labels)
    smallest = min(np.bincount(run[0].test_correlated.group_labels).min() for run in runs)
    print(
        f"\nAccuracy on {len(test.y)} test images, every digit in both inks (mean ±standard deviation of "
        f"{len(seeds)} seeds).\nMean: weighted by the group shares of the training set. Last two columns: the "
        f"{len(correlated.y)} test images with the\nink that goes with the class for {CORRELATION:.0%}, "
        f"whose smallest group has {smallest} images.\n"
    )
    print_table(
        [
            "last layer fitted with",
            "worst group",
            "mean",
            *(f"{name} (n={size})" for name, size in zip(test.group_names, sizes, strict=True)),
            f"{CORRELATION:.0%} test: all",
            "worst",
        ],
        [
            [name, *(mean_and_spread(values) for values in zip(*(run[1][name] for run in runs), strict=True))]
            for name in first_rows
        ],
    )
    print("\nPseudo-groups of the validation images, per seed:")
    print_table(
        ["", "clusters", "smallest pseudo-group", "purity against the true groups"],
        [
            [
                name,
                ", ".join(str(run[2][name][0]) for run in runs),
                ", ".join(str(run[2][name][1]) for run in runs),
                ", ".join(f"{run[2][name][2]:.4f}" for run in runs),
            ]
            for name in runs[0][2]
        ],
    )
    paths = save_figures(digits.validation, labeler, heatmaps)
    print("\nFigures:", ", ".join(str(path) for path in paths))
    return runs


def choose_correlation_and_epochs(seeds, correlations=(0.95, 0.97), n_epochs=6):
    """Print, on the validation split alone, how far the net fails and how much its features still hold.

    For each correlation and number of epochs: worst-group accuracy of the net, and of its last layer retrained
    with the true groups, cross-validated so that no handwritten digit is on both sides. The demo takes the pair
    with the widest gap between the two.
    """
    gaps, rows = {}, []
    for correlation in correlations:
        found = {epoch: [] for epoch in range(2, n_epochs + 1, 2)}
        for seed in seeds:
            digits = make_colored_digits(correlation=correlation, n_copies=N_COPIES, random_state=seed)
            v = digits.validation

            def evaluate(epoch, net, v=v, found=found):
                if epoch not in found:
                    return
                embedding = EmbeddingTransformer(net).fit_transform(v.images)
                predicted = np.empty_like(v.y)
                for fit, score in GroupKFold(3).split(embedding, groups=v.source):
                    dfr = DFRClassifier(n_retrains=5, random_state=0)
                    dfr.fit(embedding[fit], v.y[fit], group_labels=v.group_labels[fit])
                    predicted[score] = dfr.predict(embedding[score])
                found[epoch].append(
                    (
                        worst_group_accuracy(
                            v.y, net_predictions(net, v.images), group_labels=v.group_labels
                        ),
                        worst_group_accuracy(v.y, predicted, group_labels=v.group_labels),
                    )
                )

            train(digits.train, seed, n_epochs, after_epoch=evaluate)
        for epoch, pairs in found.items():
            erm, retrained = np.mean(pairs, axis=0)
            gaps[correlation, epoch] = retrained - erm
            rows.append(
                [f"{correlation:.2f}", str(epoch), f"{erm:.3f}", f"{retrained:.3f}", f"{retrained - erm:.3f}"]
            )
    print_table(["correlation", "epochs", "net", "retrained with true groups", "gap"], rows)
    print("\nWidest gap: correlation {:.2f}, {} epochs".format(*max(gaps, key=gaps.get)))


def main():
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--choose", action="store_true", help="print how correlation and epochs were chosen")
    options = parser.parse_args()
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    (choose_correlation_and_epochs if options.choose else show_seeds)(options.seeds)


if __name__ == "__main__":
    main()
