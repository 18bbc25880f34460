"""A network leans on two shortcuts at once, and skexmap repairs it without group labels.

Run it with ``make demo``, or ``python examples/demo.py``. Class: is the handwritten digit above 4? Shortcuts: the
color of the ink, and a small white mark in one of two corners. Each goes with the class for 90% of the training
images.
"""

import argparse
import os
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.utils import Bunch
from torch import nn

from skexmap import ExMapClassifier, PseudoGroupLabeler
from skexmap.datasets import make_colored_digits
from skexmap.display import EigengapDisplay, GroupGalleryDisplay
from skexmap.metrics import purity_score, worst_group_accuracy

CORRELATION = 0.9
N_EPOCHS = 4
# Ten images of every handwritten digit: the 1% on which both shortcuts mislead are then some 25 a class.
N_COPIES = 10
MARK_SIDE = 3
OUTPUT = Path("demo_output")
NET, EXMAP, CEILING = "the net as trained", "ExMap", "true groups (the ceiling)"


def make_digits(seed):
    """Return train and validation images, and a test in which every digit has every ink and every mark."""
    digits = make_colored_digits(correlation=CORRELATION, n_copies=N_COPIES, random_state=seed)
    rng = np.random.default_rng(seed)

    def split(part, mark):
        images = part.data.copy()
        images[mark == 0, :, :MARK_SIDE, :MARK_SIDE] = 1
        images[mark == 1, :, -MARK_SIDE:, -MARK_SIDE:] = 1
        misleads = np.column_stack([part.attributes != part.target, mark != part.target])
        return Bunch(
            data=images, target=part.target, misleads=misleads, groups=4 * part.target + misleads @ [2, 1]
        )

    def aligned(part):
        return np.where(rng.uniform(size=len(part.target)) < CORRELATION, part.target, 1 - part.target)

    tests = [split(digits.test, np.full(len(digits.test.target), mark)) for mark in (0, 1)]
    test = Bunch(**{name: np.concatenate([part[name] for part in tests]) for name in tests[0]})
    train, validation = (split(part, aligned(part)) for part in (digits.train, digits.validation))
    return Bunch(train=train, validation=validation, test=test)


def train(split, seed):
    """Return a net trained as usual: it minimizes the mean error, and no group enters."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 256), nn.ReLU(), nn.Linear(256, 2)),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    shuffle = torch.Generator().manual_seed(seed)
    images, y = torch.from_numpy(split.data), torch.from_numpy(split.target)
    for _ in range(N_EPOCHS):
        for rows in torch.randperm(len(images), generator=shuffle).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def net_predictions(net, images):
    """Return the classes that the net itself predicts."""
    return np.concatenate([net(batch).argmax(1).numpy() for batch in torch.from_numpy(images).split(500)])


def repaired(net, validation, seed):
    """Return the last layer refitted on the validation images with different ideas of what the groups are."""
    X, y = validation.data, validation.target
    on_embeddings = PseudoGroupLabeler(block="embedding", merge_alpha=None)
    return {
        "classes as groups": ExMapClassifier(net, random_state=seed).fit(X, y, group_labels=y),
        "GEORGE, clusters of embeddings": ExMapClassifier(
            net, clusterer=on_embeddings, random_state=seed
        ).fit(X, y),
        "ExMap as published": ExMapClassifier(net, recipe="published", random_state=seed).fit(X, y),
        EXMAP: ExMapClassifier(net, random_state=seed).fit(X, y),
        # The only row that is told the true groups: what knowing them would be worth.
        CEILING: ExMapClassifier(net, random_state=seed).fit(X, y, group_labels=validation.groups),
    }


def figures(test, predicted):
    """Return the accuracy of the worst of the eight groups, of all, and where each shortcut misleads, or both do."""
    right = predicted == test.target
    ink, mark = test.misleads.T
    worst = worst_group_accuracy(test.target, predicted, group_labels=test.groups)
    return [worst, right.mean(), right[ink].mean(), right[mark].mean(), right[ink & mark].mean()]


def run_seed(seed):
    """Make the data, train, repair; return the figures of every row."""
    start = time.perf_counter()
    digits = make_digits(seed)
    net = train(digits.train, seed)
    trained = time.perf_counter()
    models = repaired(net, digits.validation, seed)
    predicted = {NET: net_predictions(net, digits.test.data)}
    predicted |= {name: model.predict(digits.test.data) for name, model in models.items()}
    rows = {name: figures(digits.test, p) for name, p in predicted.items()}
    groups = {
        name: (
            len(np.unique(model.group_labels_)),
            np.unique(model.group_labels_, return_counts=True)[1].min(),
            purity_score(digits.validation.groups, model.group_labels_),
        )
        for name, model in models.items()
        if hasattr(model, "labeler_")
    }
    end = time.perf_counter()
    print(f"seed {seed}: training {trained - start:.0f} s, five repairs {end - trained:.0f} s", flush=True)
    return rows, groups, (digits.validation, net, models[EXMAP])


def save_figures(validation, net, exmap):
    """Save what the net looked at in each true group, and the eigenvalues that gave the number of clusters."""
    # No window: the demo also runs where there is no screen.
    matplotlib.use("Agg")
    OUTPUT.mkdir(exist_ok=True)
    kinds = ("nothing misleads", "mark misleads", "ink misleads", "both mislead")
    names = np.array([f"{digit}, {kind}" for digit in ("0 to 4", "5 to 9") for kind in kinds])
    looked_at = GroupGalleryDisplay.from_estimator(
        net,
        validation.data,
        validation.target,
        group_labels=names[validation.groups],
        class_names=["0 to 4", "5 to 9"],
        n_images=2,
    )
    paths = [OUTPUT / "heatmaps.png", OUTPUT / "eigenvalues.png"]
    looked_at.figure_.savefig(paths[0], dpi=70)
    EigengapDisplay.from_estimator(exmap.labeler_).figure_.savefig(paths[1], dpi=100)
    return paths


def print_table(header, rows):
    """Print aligned columns, the first to the left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        first, *others = (f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row))
        print("  ".join([first, *others]))


def show_seeds(seeds):
    """Run all seeds and print mean and spread."""
    runs = [run_seed(seed) for seed in seeds]

    def mean_and_spread(values):
        return f"{np.mean(values):.3f}" + (f" ±{np.std(values, ddof=1):.3f}" if len(values) > 1 else "")

    print(
        "\nAccuracy on test images, every digit in both inks with both marks: mean ±standard deviation of "
        f"{len(seeds)} seeds.\nWorst group: of the 8, class x ink x mark. Misled: images on which the shortcut "
        "points to the other class.\n"
    )
    print_table(
        ["groups for the last layer", "worst group", "mean", "misled by ink", "by mark", "by both"],
        [
            [name, *(mean_and_spread(values) for values in zip(*(run[0][name] for run in runs), strict=True))]
            for name in runs[0][0]
        ],
    )
    print("\nPseudo-groups of the validation images, each seed:\n")
    print_table(
        ["", "groups", "smallest", "purity against the 8 true groups"],
        [
            [
                name,
                *(
                    ", ".join(f"{run[1][name][i]:{form}}" for run in runs)
                    for i, form in enumerate(["d", "d", ".3f"])
                ),
            ]
            for name in runs[0][1]
        ],
    )
    print("\nDigits differ a little between machines and versions of PyTorch.")
    print("Figures:", ", ".join(str(path) for path in save_figures(*runs[0][2])))


def main():
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    show_seeds(parser.parse_args().seeds)


if __name__ == "__main__":
    main()
