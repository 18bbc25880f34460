"""Every retraining strategy on the coloured digits of the demo: which one should I use?

Run ``python examples/benchmarks/bench_retraining.py`` (some four minutes a seed on two cores). For each seed
the demo's net is trained on coloured digits, its maps of the validation split are clustered, and each
strategy is fitted on the validation embeddings; the table is the accuracy of the worst group and of the mean
group on test images in every ink (all four groups equally large). True groups are used for the last row and
for scoring alone. Where a strategy has a strength to choose, it is chosen on the validation split by the
accuracy of the worst *pseudo*-group, three folds, no handwritten digit on both sides.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold

from skexmap import EmbeddingTransformer, HeatmapTransformer, PseudoGroupLabeler
from skexmap.datasets import make_colored_digits
from skexmap.exceptions import SkexmapWarning
from skexmap.metrics import group_accuracies, worst_pseudo_group_accuracy_scorer
from skexmap.retraining import (
    AFRClassifier,
    CVaRDROClassifier,
    DFRClassifierCV,
    EIILLabeler,
    ERMClassifier,
    GroupDROClassifier,
    JTTReweighter,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import demo


def fit_strategies(seed, blocks, y, pseudo_groups, true_groups, source, net_head):
    """Yield the name, what it is shown beside the classes, and the fitted model of every row."""
    embedding = np.ascontiguousarray(blocks["embedding"])
    splits = list(GroupKFold(3).split(embedding, groups=source))

    def chosen(estimator, grid):
        search = GridSearchCV(estimator, grid, scoring=worst_pseudo_group_accuracy_scorer, cv=splits).fit(
            blocks, y
        )
        return search.best_estimator_

    yield "the net as trained", "nothing", net_head
    yield "ERMClassifier()", "nothing", ERMClassifier().fit(embedding, y)
    yield (
        "DFRClassifierCV(), classes as groups",
        "nothing",
        DFRClassifierCV(random_state=seed).fit(embedding, y),
    )
    yield "CVaRDROClassifier()", "nothing", CVaRDROClassifier(random_state=seed).fit(embedding, y)
    frozen = FrozenEstimator(net_head)
    yield (
        "JTTReweighter(), net identifies",
        "nothing",
        (JTTReweighter(identification_estimator=frozen).fit(embedding, y)),
    )
    yield (
        "AFRClassifier(), net as reference",
        "nothing",
        AFRClassifier(reference_estimator=frozen).fit(embedding, y),
    )
    environments = EIILLabeler(frozen).fit_predict(embedding, y)
    yield (
        "EIILLabeler(net), then DFRClassifierCV()",
        "nothing",
        (DFRClassifierCV(random_state=seed).fit(embedding, y, group_labels=environments)),
    )

    yield (
        "JTTReweighter, upweight and strength chosen",
        "pseudo-groups",
        chosen(
            JTTReweighter(identification_estimator=ERMClassifier()),
            {"upweight": [5, 20], "identification_estimator__C": [1e-5, 1e-4]},
        ),
    )
    yield (
        "AFRClassifier(net), gamma chosen",
        "pseudo-groups",
        chosen(AFRClassifier(reference_estimator=frozen), {"gamma": [4, 8], "l2": [0.01, 0.1]}),
    )
    yield (
        "CVaRDROClassifier, alpha chosen",
        "pseudo-groups",
        chosen(CVaRDROClassifier(random_state=seed), {"alpha": [0.05, 0.2]}),
    )
    for balance in ("subsample", "reweight"):
        dfr = DFRClassifierCV(balance=balance, random_state=seed)
        name = f"DFRClassifierCV(balance={balance!r})"
        yield name, "pseudo-groups", dfr.fit(embedding, y, group_labels=pseudo_groups)
    dro = GroupDROClassifier(random_state=seed)
    yield "GroupDROClassifier()", "pseudo-groups", dro.fit(embedding, y, group_labels=pseudo_groups)

    for balance in ("subsample", "reweight"):
        dfr = DFRClassifierCV(balance=balance, random_state=seed)
        name = f"DFRClassifierCV(balance={balance!r})"
        yield name, "true groups", dfr.fit(embedding, y, group_labels=true_groups)
    dro = GroupDROClassifier(random_state=seed)
    yield "GroupDROClassifier()", "true groups", dro.fit(embedding, y, group_labels=true_groups)


def run_seed(seed):
    """Return the worst and the mean group accuracy of every row."""
    start = time.perf_counter()
    digits = make_colored_digits(correlation=demo.CORRELATION, n_copies=demo.N_COPIES, random_state=seed)
    net = demo.train(digits.train, seed, demo.N_EPOCHS)
    validation, test = digits.validation, digits.test
    maps = HeatmapTransformer(net, return_embedding=True).fit_transform(validation.images)
    labeler = PseudoGroupLabeler()
    blocks = labeler.fit_transform(maps, validation.y)
    test_embedding = EmbeddingTransformer(net).fit_transform(test.images)
    net_head = ERMClassifier.from_layer(net[-1], classes=np.unique(validation.y))
    rows = {}
    for name, shown, model in fit_strategies(
        seed,
        blocks,
        validation.y,
        labeler.group_labels_,
        validation.group_labels,
        validation.source,
        net_head,
    ):
        accuracies = group_accuracies(test.y, model.predict(test_embedding), group_labels=test.group_labels)
        accuracies = list(accuracies.values())
        rows[f"{name} | {shown}"] = [min(accuracies), float(np.mean(accuracies))]
        seconds = time.perf_counter() - start
        print(
            f"seed {seed}, {seconds:.0f} s: {name}, {shown}: {min(accuracies):.3f}",
            file=sys.stderr,
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    # An empty error set is a result here: its row shows what it costs.
    warnings.simplefilter("ignore", SkexmapWarning)
    runs = [run_seed(seed) for seed in range(options.seeds)]
    print("| strategy | is shown, beside the classes | worst group | mean group |")
    print("|---|---|---|---|")
    for row in runs[0]:
        figures = np.array([run[row] for run in runs])
        worst, mean = figures.mean(axis=0)
        spread = f" ± {figures[:, 0].std(ddof=1):.3f}" if len(runs) > 1 else ""
        print(f"| {row} | {worst:.3f}{spread} | {mean:.3f} |")
    if options.json:
        Path(options.json).write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
