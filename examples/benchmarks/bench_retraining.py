"""Every retraining strategy on the colored digits of the demo: which one should I use?

Run ``OMP_NUM_THREADS=1 python examples/benchmarks/bench_retraining.py --seeds 0 1 2`` (some three minutes a seed; the
number of threads changes the last bits of the net's training, and so the figures). For each seed the demo's net is
trained on colored digits, its maps of the validation split are clustered, and each strategy is fitted on the
validation embeddings; the table is the accuracy of the worst group and of the mean group on test images in every ink
(all four groups equally large), mean and standard deviation over the seeds. True groups are used for the last rows
and for scoring alone. Where a strategy has a strength to choose, it is chosen on the validation split, three folds
with no handwritten digit on both sides, by the accuracy of the worst *pseudo*-group that has more than 20 images in
the fold. With ``--json FILE`` the figures of each seed are kept, and seeds that the file holds are not run again.
"""

import argparse
import json
import sys
import time
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold

from skexmap import EmbeddingTransformer, HeatmapTransformer, PseudoGroupLabeler
from skexmap.cluster import SilhouetteKMeans
from skexmap.datasets import make_colored_digits
from skexmap.exceptions import SkexmapWarning
from skexmap.metrics import group_report, make_worst_pseudo_group_scorer, purity_score
from skexmap.retraining import (
    AFRClassifier,
    CVaRDROClassifier,
    DFRClassifierCV,
    DivDisClassifier,
    EIILLabeler,
    ERMClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import demo


def fit_strategies(seed, blocks, y, pseudo_groups, true_groups, source, net_head, unlabeled):
    """Yield the name, what it sees besides the classes, and the fitted model of every row.

    `unlabeled` are embeddings of the validation digits in random ink.
    """
    embedding = np.ascontiguousarray(blocks["embedding"])
    splits = list(GroupKFold(3).split(embedding, groups=source))
    frozen = FrozenEstimator(net_head)

    def fit(estimator, groups=None, **others):
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=seed)
        return estimator.fit(embedding, y, group_labels=groups, **others)

    def chosen(estimator, grid):
        scoring = make_worst_pseudo_group_scorer("precomputed")
        return GridSearchCV(estimator, grid, scoring=scoring, cv=splits).fit(blocks, y).best_estimator_

    shown = "nothing"
    yield "the net as trained", shown, net_head
    yield "`ERMClassifier()`", shown, fit(ERMClassifier())
    yield "`DFRClassifierCV()`, classes as groups", shown, fit(DFRClassifierCV())
    yield "`CVaRDROClassifier()`", shown, fit(CVaRDROClassifier())
    yield "`LfFClassifier()`", shown, fit(LfFClassifier())
    yield "`JTTClassifier()`, net identifies", shown, fit(JTTClassifier(reference_estimator=frozen))
    yield "`AFRClassifier()`, net as reference", shown, fit(AFRClassifier(reference_estimator=frozen))
    environments = EIILLabeler(frozen).fit_predict(embedding, y)
    yield "`EIILLabeler(net)`, then `DFRClassifierCV()`", shown, fit(DFRClassifierCV(), environments)
    george = PseudoGroupLabeler(
        SilhouetteKMeans(random_state=seed), block="embedding", scope="local", merge_alpha=None
    )
    george = george.fit_predict(blocks, y)
    name = "GEORGE: embedding clusters, then `DFRClassifierCV(min_group_size=20)`"
    yield name, shown, fit(DFRClassifierCV(min_group_size=20), george)

    shown = "pseudo-groups"
    strengths = {"upweight": [5, 20], "reference_estimator__C": [1e-5, 1e-4]}
    jtt = JTTClassifier(reference_estimator=ERMClassifier())
    yield "`JTTClassifier`, upweight and strength chosen", shown, chosen(jtt, strengths)
    afr = AFRClassifier(reference_estimator=frozen)
    yield (
        "`AFRClassifier(net)`, gamma and l2 chosen",
        shown,
        chosen(afr, {"gamma": [4, 8], "l2": [0, 0.02, 0.2]}),
    )
    cvar = CVaRDROClassifier(random_state=seed)
    yield "`CVaRDROClassifier`, alpha chosen", shown, chosen(cvar, {"alpha": [0.05, 0.2]})
    lff = LfFClassifier(random_state=seed)
    grid = {"l2": [0.003, 0.01, 0.03, 0.1, 0.3], "n_steps": [100, 1000]}
    yield "`LfFClassifier`, l2 and steps chosen", shown, chosen(lff, grid)
    for min_group_size in (6, 20):
        for balance in ("subsample", "reweight"):
            dfr = DFRClassifierCV(balance=balance, min_group_size=min_group_size)
            name = f"`DFRClassifierCV(balance={balance!r}, min_group_size={min_group_size})`"
            yield name, shown, fit(dfr, pseudo_groups)
    dfr = DFRClassifierCV(tuning="published")
    yield "`DFRClassifierCV(tuning='published')`", shown, fit(dfr, pseudo_groups)
    yield "`GroupDROClassifier()`", shown, fit(GroupDROClassifier(), pseudo_groups)
    for extra, others in (("", {}), (", unlabeled digits in random ink", {"X_unlabeled": unlabeled})):
        for min_group_size in (6, 20):
            divdis = DivDisClassifier(min_group_size=min_group_size)
            name = f"`DivDisClassifier(min_group_size={min_group_size})`"
            yield name, shown + extra, fit(divdis, pseudo_groups, **others)

    shown = "true groups"
    for balance in ("subsample", "reweight"):
        yield (
            f"`DFRClassifierCV(balance={balance!r})`",
            shown,
            fit(DFRClassifierCV(balance=balance), true_groups),
        )
    dfr = DFRClassifierCV(tuning="published")
    yield "`DFRClassifierCV(tuning='published')`", shown, fit(dfr, true_groups)
    yield "`GroupDROClassifier()`", shown, fit(GroupDROClassifier(), true_groups)


def fit_on_training_images(seed, net, train):
    """Yield the same for DFR on the images that the net itself was trained on."""
    maps = HeatmapTransformer(net, return_embedding=True).fit_transform(train.data)
    embedding = np.ascontiguousarray(maps["embedding"])
    groups = {
        "pseudo-groups": PseudoGroupLabeler().fit_predict(maps, train.target),
        "true groups": train.group_labels,
    }
    for shown, labels in groups.items():
        dfr = DFRClassifierCV(min_group_size=20, random_state=seed).fit(
            embedding, train.target, group_labels=labels
        )
        yield "training images: `DFRClassifierCV(min_group_size=20)`", shown, dfr


def run_seed(seed):
    """Return the worst and the mean group accuracy of every row, and what the pseudo-groups are like."""
    start = time.perf_counter()
    options = {"n_copies": 10, "random_state": seed}
    digits = make_colored_digits(correlation=0.95, **options)
    # The same handwritten digits as in the validation split, whose ink says nothing about the class.
    random_ink = make_colored_digits(correlation=0.5, **options).validation.data
    net = demo.train(digits.train, seed)
    validation, test = digits.validation, digits.test
    maps = HeatmapTransformer(net, return_embedding=True).fit_transform(validation.data)
    labeler = PseudoGroupLabeler()
    blocks = labeler.fit_transform(maps, validation.target)
    embed = EmbeddingTransformer(net).fit(test.data)
    test_embedding = embed.transform(test.data)
    rows = {}
    strategies = fit_strategies(
        seed,
        blocks,
        validation.target,
        labeler.group_labels_,
        validation.group_labels,
        validation.source,
        ERMClassifier.from_layer(net[-1], classes=np.unique(validation.target)),
        embed.transform(random_ink),
    )
    for name, shown, model in chain(strategies, fit_on_training_images(seed, net, digits.train)):
        report = group_report(test.target, model.predict(test_embedding), group_labels=test.group_labels)
        rows[f"{name} | {shown}"] = [report.worst_group_accuracy, report.macro_mean]
        seconds = time.perf_counter() - start
        print(
            f"seed {seed}, {seconds:.0f} s: {name}, {shown}: {report.worst_group_accuracy:.3f}",
            file=sys.stderr,
            flush=True,
        )
    sizes = np.unique(labeler.group_labels_, return_counts=True)[1].tolist()
    purity = purity_score(validation.group_labels, labeler.group_labels_)
    return {"rows": rows, "pseudo_group_sizes": sorted(sizes), "purity": purity}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="keeps the figures of every seed, and gives those it has")
    options = parser.parse_args()
    # An empty error set is a result here: its row shows what it costs.
    warnings.simplefilter("ignore", SkexmapWarning)
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for seed in options.seeds:
        if str(seed) not in kept:
            kept[str(seed)] = run_seed(seed)
            if options.json:
                options.json.write_text(json.dumps(kept, indent=1))
    runs = [kept[str(seed)] for seed in options.seeds]
    print("| strategy | sees, besides the classes | worst group | mean group |")
    print("|---|---|---|---|")
    for row in runs[0]["rows"]:
        figures = np.array([run["rows"][row] for run in runs])
        worst, mean = figures.mean(axis=0)
        spread = f" ± {figures[:, 0].std(ddof=1):.3f}" if len(runs) > 1 else ""
        print(f"| {row} | {worst:.3f}{spread} | {mean:.3f} |")
    for seed, run in zip(options.seeds, runs, strict=True):
        print(f"seed {seed}: pseudo-groups of {run['pseudo_group_sizes']} images, purity {run['purity']:.4f}")


if __name__ == "__main__":
    main()
