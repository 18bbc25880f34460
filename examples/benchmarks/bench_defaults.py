"""Do the defaults decide? Maps, neighbors, merging and the choice of C, one changed at a time.

    python examples/benchmarks/bench_defaults.py

No test image of these splits is looked at, and none of the seeds of the tables is used: a fifth of the *training*
images is kept back, the net is trained on the others, the validation images are explained, clustered and retrained on
as always, and the images kept back are scored in every ink (and with every mark), with their true groups. A quarter of
an hour on two cores; needs the Debian package dataset-fashion-mnist, or its four files in --root.
"""

import argparse
import os
import warnings
from itertools import product

import joblib
import numpy as np
import torch
from paper import base_model, report, settings
from sklearn.utils import Bunch

from skexmap import EigengapSpectralClustering, EmbeddingTransformer, HeatmapTransformer, PseudoGroupLabeler
from skexmap.datasets import load_colored_mnist, load_two_shortcut_fashion, make_colored_digits
from skexmap.exceptions import SkexmapWarning
from skexmap.metrics import worst_group_accuracy
from skexmap.retraining import DFRClassifierCV

# Data set -> correlation of each shortcut, and the images for given correlations.
DATA = {
    "colored_fashion": (
        [0.99],
        lambda root, seed, ink: load_colored_mnist(root, ink, random_state=seed),
    ),
    "two_shortcut_fashion": (
        [0.95, 0.95],
        lambda root, seed, ink, mark: load_two_shortcut_fashion(
            root, ink_correlation=ink, mark_correlation=mark, random_state=seed
        ),
    ),
    "colored_digits": (
        [0.95],
        lambda root, seed, ink: make_colored_digits(correlation=ink, n_copies=10, random_state=seed),
    ),
}
DEFAULT = "the defaults"
# Name -> what differs: parameters of the heatmaps, of the clusterer, of the labeler and of DFR.
VARIANTS = {
    DEFAULT: ({}, {}, {}, {}),
    **{f"size={side}": ({"size": side}, {}, {}, {}) for side in (14, 7, 3)},
    **{f"n_neighbors={k}": ({}, {"n_neighbors": k}, {}, {}) for k in (5, 20, 40)},
    'evidence="signed"': ({"evidence": "signed"}, {}, {}, {}),
    **{f"merge_alpha={alpha}": ({}, {}, {"merge_alpha": alpha}, {}) for alpha in (None, 0.001, 0.05)},
    'tuning="published"': ({}, {}, {}, {"tuning": "published"}),
    "DFR: min_group_size=20": ({}, {}, {}, {"min_group_size": 20}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--root", default=settings.FASHION, help="folder of the Fashion-MNIST files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds that run side by side")
    options = parser.parse_args()
    pairs = [(data, seed) for seed in options.seeds for data in DATA]
    runs = joblib.Parallel(options.jobs)(joblib.delayed(run)(*pair, options) for pair in pairs)
    found = {
        report.TITLES[data]: [
            run for run, pair in zip(runs, pairs, strict=True) if pair[0] == data and DEFAULT in run
        ]
        for data in DATA
    }
    print(
        f"\nWorst group, and the difference from the defaults in points [95%]\n\n{table(found, accuracies)}"
    )
    print(f"\nNumber of pseudo-groups, each seed, and the smallest\n\n{table(found, groupings)}")


def run(data, seed, options):
    """Return what each variant comes to: accuracy of the worst group, and the sizes of the pseudo-groups."""
    torch.set_num_threads(max(1, os.cpu_count() // options.jobs))
    # Tiny pseudo-groups are what is compared here.
    warnings.simplefilter("ignore", SkexmapWarning)
    correlations, load = DATA[data]
    splits = load(options.root, seed, *correlations)
    kept_back = choose_kept_back(splits.train, seed)
    train = Bunch(data=splits.train.data[~kept_back], target=splits.train.target[~kept_back])
    net = base_model.small_net(seed)
    setting = Bunch(train=train, validation=splits.validation, load=None)
    base_model.train(net, setting, seed, **settings.RECIPES[data])

    # Correlations of 0 and 1 give every image each shortcut once, with the noise and the shifts it had before.
    embed = EmbeddingTransformer(net).fit(splits.validation.data)
    parts = []
    for world in product([0, 1], repeat=len(correlations)):
        images = load(options.root, seed, *world).train
        columns = (images.data, images.target, images.group_labels)
        scored, *labels = (column[kept_back] for column in columns)
        parts.append((embed.transform(scored), *labels))
    X_new, y_new, groups_new = (np.concatenate(part) for part in zip(*parts, strict=True))

    X, y = splits.validation.data, splits.validation.target
    maps, found = {}, {}
    for name, (of_maps, of_clusterer, of_labeler, of_dfr) in VARIANTS.items():
        if (key := str(of_maps)) not in maps:
            transformer = HeatmapTransformer(net, return_embedding=True, **of_maps)
            maps[key] = transformer.fit_transform(X)
        clusterer = EigengapSpectralClustering(random_state=seed, **of_clusterer)
        try:
            groups = PseudoGroupLabeler(clusterer, **of_labeler).fit_predict(maps[key], y)
            embedding = np.ascontiguousarray(maps[key]["embedding"])
            dfr = DFRClassifierCV(random_state=seed, **of_dfr).fit(embedding, y, group_labels=groups)
        except ValueError as refusal:
            print(f"{data}, seed {seed}: {name} is refused: {refusal}", flush=True)
            continue
        sizes = np.unique(groups[groups >= 0], return_counts=True)[1]
        worst = worst_group_accuracy(y_new, dfr.predict(X_new), group_labels=groups_new)
        found[name] = {"worst": worst, "n_groups": len(sizes), "smallest": int(sizes.min())}
    print(f"{data}, seed {seed}: {found.get(DEFAULT)}", flush=True)
    return found


def choose_kept_back(train, seed):
    """Return the mask of a fifth of the images, all copies of a handwritten digit on the same side."""
    source = train.get("source", np.arange(len(train.target)))
    sources = np.unique(source)
    chosen = np.random.default_rng(seed).permutation(sources)[: len(sources) // 5]
    return np.isin(source, chosen)


def accuracies(runs, name):
    """Return what a variant comes to on a data set, as a text."""
    own = [run for run in runs if name in run]
    if not own:
        return "refused"
    worst = [run[name]["worst"] for run in own]
    text = report.mean_and_spread(worst)
    return text if name == DEFAULT else f"{text}; {report.paired(worst, [r[DEFAULT]['worst'] for r in own])}"


def groupings(runs, name):
    """Return how many pseudo-groups there are, and how small the smallest is, as a text."""
    return ", ".join(f"{run[name]['n_groups']} ({run[name]['smallest']})" for run in runs if name in run)


def table(found, cell):
    """Return the Markdown table of a cell for each variant and data set."""
    lines = [[name, *(cell(runs, name) for runs in found.values())] for name in VARIANTS]
    return report.table(["", *found], lines)


if __name__ == "__main__":
    main()
