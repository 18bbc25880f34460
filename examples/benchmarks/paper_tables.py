"""The tables of the ExMap paper, rebuilt on data that is at hand.

    python examples/benchmarks/paper_tables.py
    python examples/benchmarks/paper_tables.py --data colored_fashion --seeds 5
    python examples/benchmarks/paper_tables.py --data waterbirds --root FOLDER --weights resnet50.pth

For every seed a net is trained as usual (SGD, cosine schedule, weight decay, stopped at the best mean validation
accuracy), the validation images are explained and clustered, and every method retrains the last layer on them. No
setting is chosen on test images: all are chosen on the validation images, for all methods by one rule, see
`paper/methods.py`. True groups are used by the rows that say so, and by the scores.

Nets, heatmaps and finished rows are kept in --cache: a run that was stopped goes on where it was. (After a change of
the code, delete it.) The raw figures go to ``docs/results/<data>.json`` and from there into docs/tables.md, again
with --page alone.

umap-learn and skorch are needed (`pip install -e '.[tables]'`). The colored Fashion-MNIST sets need the Debian
package dataset-fashion-mnist, or its four files in --root. Waterbirds, CelebA and UrbanCars need --root.
"""

import argparse
import functools
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
import torch
from paper import base_model, full_network, methods, report, settings
from paper.files import replaced

from skexmap import EmbeddingTransformer, HeatmapTransformer
from skexmap.exceptions import SkexmapWarning
from skexmap.metrics import group_report, mean_accuracy, shortcut_gaps
from skexmap.retraining import ERMClassifier

FIGURES = "figures.json"
OFFLINE = ("colored_fashion", "two_shortcut_fashion", "colored_digits")
RESULTS = Path(__file__).parents[2] / "docs" / "results"
# Data set -> sides of the maps in the sweep; the tables have the default of HeatmapTransformer, 28.
SWEEP = {"colored_fashion": (14, 7, 5, 3), "two_shortcut_fashion": (14, 7), "colored_digits": (14, 7, 5, 3)}
PACKAGES = ("skexmap", "torch", "scikit-learn", "numpy", "scipy", "umap-learn", "skorch")
FULL_NETWORK = "full-network JTT, chosen by ExMap's pseudo-groups"


def main():
    """Parse the options, run what is not there yet, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=OFFLINE, choices=settings.SETTINGS)
    parser.add_argument("--seeds", type=int, default=5, help="how many; 0, 1, ...")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument(
        "--weights", help="ImageNet weights of torchvision's ResNet-50 for the real data sets"
    )
    parser.add_argument("--epochs", type=int, help="instead of those of the recipe")
    parser.add_argument(
        "--cache", type=Path, default="paper_cache", help="keeps nets, maps and finished rows"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument(
        "--page", action="store_true", help="write docs/tables.md from the JSON files, run nothing"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds that run side by side")
    options = parser.parse_args()
    refuse_early(parser, options)
    if not options.page:
        start = time.perf_counter()
        # By seed and then by data set, so that a run that is stopped has a little of each.
        pairs = [(data, seed) for seed in range(options.seeds) for data in options.data]
        in_one_go = not any((folder_of(options, *pair) / FIGURES).exists() for pair in pairs)
        runs = joblib.Parallel(options.jobs)(joblib.delayed(run_seed)(*pair, options) for pair in pairs)
        minutes = (time.perf_counter() - start) / 60
        print(f"All of it took {minutes:.0f} minutes", flush=True)
        for data in options.data:
            own = [run for run, pair in zip(runs, pairs, strict=True) if pair[0] == data]
            write_json(data, own, options, minutes if in_one_go else None)
    # Figures that are kept elsewhere are nobody's but the user's: the page stays.
    if options.out.resolve() == RESULTS.resolve():
        report.write_page(options.out)


def refuse_early(parser, options):
    """End with an error what would fail only after work was done."""
    if options.page and options.out.resolve() != RESULTS.resolve():
        parser.error(f"--page writes the page from {RESULTS}; it does not go with --out.")
    if options.page:
        return
    if options.root is None and (named := sorted(set(settings.NEEDS_ROOT) & set(options.data))):
        parser.error(f"{', '.join(named)}: --root must name the folder of the images.")
    of_fashion = {"colored_fashion", "two_shortcut_fashion"} & set(options.data)
    if of_fashion and not Path(options.root or settings.FASHION).is_dir():
        parser.error(
            f"There is no folder {options.root or settings.FASHION}. Install the Debian package "
            "dataset-fashion-mnist (apt-get install dataset-fashion-mnist), or give the folder of its files as --root."
        )
    if options.weights is None and set(settings.NEEDS_ROOT) & set(options.data):
        print("No --weights: the ResNet-50 starts from random weights, not from ImageNet's.", file=sys.stderr)
    versions()


def versions():
    """Return the versions of what the figures depend on."""
    return {name: version(name) for name in PACKAGES}


def folder_of(options, data, seed):
    return options.cache / data / str(seed)


def run_seed(data, seed, options):
    """Return the figures of one seed; each step is kept in the cache."""
    torch.set_num_threads(max(1, os.cpu_count() // options.jobs))
    # A tiny pseudo-group or an empty error set is a result here: its row shows what it costs.
    warnings.simplefilter("ignore", SkexmapWarning)
    # One image of no judged group may be alone of its class.
    warnings.filterwarnings("ignore", message="The least populated class")
    # UMAP says that a seed makes it run on one thread, and scikit-learn renames what UMAP calls.
    warnings.filterwarnings("ignore", module="umap")
    warnings.filterwarnings("ignore", message=".*force_all_finite.*")
    folder = folder_of(options, data, seed)
    folder.mkdir(parents=True, exist_ok=True)
    made_with = {"versions": versions()}
    made_with |= {name: getattr(options, name) for name in ("root", "weights", "epochs")}
    record = Record(folder / FIGURES, made_with)
    setting = settings.SETTINGS[data](options.root or settings.FASHION, seed)
    net = trained_net(data, setting, seed, folder, record, options)
    v, tests, labels = features(setting, net, seed, folder, record)
    shares = Counter(setting.train.group_labels)

    def score(predict):
        return {name: figures(predict(tests[name]), split, shares, setting) for name, split in labels.items()}

    record.once("rows", "ERM, the net as trained", lambda: {"tests": score(v.head.predict)})
    for name, row in methods.rows().items():
        record.once("rows", name, lambda row=row: scored(*methods.run_row(row, v), score))
    for name in [*methods.LABELERS, "true groups", "classes", "EIIL"]:
        record.once("groupings", name, lambda name=name: methods.describe_grouping(v, name))
    for side in SWEEP.get(data, ()):
        # The maps of a side are made once, by whoever comes first.
        smaller = functools.cache(lambda side=side: heatmaps(setting, net, side))
        for how, labeler in (("spectral", methods.spectral), ("k-means", methods.kmeans)):
            record.once(
                "sweep",
                f"{how}, {side}",
                lambda labeler=labeler, smaller=smaller: sweep(labeler, v, smaller(), score),
            )
    if seed == 0 and data == "colored_fashion":
        record.once(
            "rows",
            FULL_NETWORK,
            lambda: full_network.jtt(setting, v, seed, settings.RECIPES[data], score_net(setting, shares)),
        )
    # The cache may hold rows that are no more.
    known = [report.ERM, *methods.rows(), FULL_NETWORK]
    rows = {name: row for name, row in record["rows"].items() if name in known}
    return {name: part for name, part in record.content.items() if name != "made_with"} | {"rows": rows}


class Record:
    """Figures in a JSON file; what stands there is not computed again."""

    def __init__(self, path, made_with):
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {"made_with": made_with}
        if self.content.get("made_with") != made_with:
            raise ValueError(
                f"{path} was made with {self.content.get('made_with')}, and this run has {made_with}. Delete that "
                "folder, or give another --cache."
            )

    def __getitem__(self, section):
        return self.content.setdefault(section, {})

    def once(self, section, name, compute):
        """Keep what `compute` returns, if nothing is kept yet; return it."""
        if name not in self[section]:
            start = time.perf_counter()
            self[section][name] = compute()
            self["seconds"][f"{section}: {name}"] = round(time.perf_counter() - start, 1)
            with replaced(self.path) as path:
                path.write_text(json.dumps(self.content))
            print(f"{self.path.parent}: {name}, {time.perf_counter() - start:.0f} s", flush=True)
        return self[section][name]


def trained_net(data, setting, seed, folder, record, options):
    """Return the trained net, from the cache where it is."""
    net = (
        base_model.resnet50(seed, options.weights)
        if data in settings.NEEDS_ROOT
        else base_model.small_net(seed)
    )
    path = folder / "net.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    recipe = settings.RECIPES[data] | ({"n_epochs": options.epochs} if options.epochs else {})
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def train():
        accuracies = base_model.train(net, setting, seed, device=device, **recipe)
        with replaced(path) as part:
            torch.save(net.state_dict(), part)
        return {**recipe, "validation_accuracy": accuracies}

    record.once("base", "net", train)
    return net.eval()


def batch_size(setting):
    """Return how many images are explained at once: photographs take far more memory."""
    return 256 if setting.load is None else 16


def heatmaps(setting, net, side=28, evidence="magnitude"):
    """Return the blocks of the validation images, the maps of a side."""
    transformer = HeatmapTransformer(
        net,
        size=side,
        evidence=evidence,
        return_embedding=True,
        load=setting.load,
        batch_size=batch_size(setting),
    )
    return transformer.fit_transform(setting.validation.data, setting.validation.target)


def features(setting, net, seed, folder, record):
    """Return what the methods see, the embeddings of the tests, and the tests without their images."""
    path = folder / "features.npz"

    def compute():
        start = time.perf_counter()
        kept = {"blocks": heatmaps(setting, net), "signed": heatmaps(setting, net, evidence="signed")}
        seconds = time.perf_counter() - start
        for name, split in setting.tests.items():
            # A test without the shortcut may be loaded in its own way.
            embed = EmbeddingTransformer(
                net, load=split.get("transform", setting.load), batch_size=batch_size(setting)
            )
            kept[f"test {name}"] = embed.fit(split.data).transform(split.data)
        with replaced(path) as part:
            np.savez(part, **kept)
        return {"seconds": seconds, "n": len(setting.validation.target)}

    record.once("base", "heatmaps", compute)
    kept = np.load(path)
    validation = setting.validation
    dense = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)][-1]
    head = ERMClassifier.from_layer(dense, classes=np.unique(validation.target))
    v = methods.Validation(
        *(kept["blocks"], kept["signed"]),
        *(validation.target, validation.group_labels, head, seed, folder),
    )
    return v, {name: kept[f"test {name}"] for name in setting.tests}, setting.tests


def figures(predicted, split, shares, setting):
    """Return the accuracies of a test."""
    y, groups = split.target, split.group_labels
    report = group_report(y, predicted, group_labels=groups)
    result = {
        "groups": {
            str(g): [float(accuracy), int(size)]
            for g, accuracy, size in zip(report.groups, report.accuracies, report.sizes, strict=True)
        },
        "worst": report.worst_group_accuracy,
        "mean": float(mean_accuracy(y, predicted, group_labels=groups, weights=shares)),
    }
    if setting.shortcuts:
        shortcuts = {name: split[name] for name in setting.shortcuts}
        # On a small test a combination may not occur: then there is no gap to tell.
        if len(np.unique(groups)) == 2 * 2 ** len(shortcuts):
            result["gaps"] = {
                name: float(gap)
                for name, gap in shortcut_gaps(
                    y, predicted, shortcuts=shortcuts, group_labels=groups, weights=shares
                ).items()
            }
    return result


def scored(model, how, score):
    return {**how, "tests": score(model.predict)}


def sweep(labeler, v, smaller, score):
    """Return what DFR reaches on the pseudo-groups of smaller maps, settings chosen as everywhere."""
    name = "sweep"
    start = time.perf_counter()
    v.groupings[name] = labeler(v).fit(smaller, v.y).group_labels_, time.perf_counter() - start
    result = methods.describe_grouping(v, name)
    row = methods.Row("DFR", methods.dfr_candidates, name, name)
    return {**result, **scored(*methods.run_row(row, v), score)}


def score_net(setting, shares):
    """Return the scorer of a whole net, on the images of the tests."""
    return lambda predict: {
        name: figures(predict(split.data), split, shares, setting) for name, split in setting.tests.items()
    }


def write_json(data, runs, options, minutes):
    """Write the raw figures of all seeds, and what they were computed with.

    `minutes` are those of the whole run, all data sets together; None where some of it came from the cache.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "data": data,
        "seeds": list(range(options.seeds)),
        "command": shlex.join(["python", "examples/benchmarks/paper_tables.py", *sys.argv[1:]]),
        "minutes_in_one_go": minutes,
        "machine": {
            "seeds_side_by_side": options.jobs,
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
        "python": platform.python_version(),
        "versions": versions(),
        "runs": runs,
    }
    (options.out / f"{data}.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
