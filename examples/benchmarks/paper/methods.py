"""The rows of the tables: which pseudo-groups, which strategy, and the one rule that chooses the settings."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from paper.files import replaced
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

from skexmap import PseudoGroupLabeler
from skexmap.cluster import EigengapSpectralClustering, SilhouetteKMeans
from skexmap.metrics import purity_score, worst_group_accuracy
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

# The paper's recipe: signed maps, clusters as they are found, DFR tuned as published. The other rows are the default's.
PUBLISHED = "ExMap as published"
# Groups of fewer images in the scored half do not judge: the size from which a group counts in DFR.
MIN_GROUP_SIZE = 6


@dataclass
class Validation:
    """What the methods see of the validation images; the true groups are for the rows that say so."""

    blocks: np.ndarray
    signed_blocks: np.ndarray
    y: np.ndarray
    true_groups: np.ndarray
    head: ERMClassifier
    seed: int
    folder: Path
    groupings: dict = field(default_factory=dict)

    def __post_init__(self):
        self.embedding = np.ascontiguousarray(self.blocks["embedding"])


def spectral(v, **params):
    return PseudoGroupLabeler(EigengapSpectralClustering(random_state=v.seed), **params)


def kmeans(v, *, umap=False, **params):
    # Three starts instead of ten, and no second seed: 14 numbers of clusters are tried on 10,000 maps of 2,352 values.
    clusterer = SilhouetteKMeans(n_init=3, random_state=v.seed)
    if umap:
        from umap import UMAP

        # With a seed UMAP runs on one thread, and warns if it was not told so.
        clusterer = make_pipeline(UMAP(random_state=v.seed, n_jobs=1), clusterer)
    return PseudoGroupLabeler(clusterer, n_seed_checks=0, **params)


# Name of a grouping -> the labeler that makes it. The number of clusters is read off the eigengap, or is the one
# from 2 to 15 with the best silhouette.
LABELERS = {
    "ExMap, spectral, global": spectral,
    PUBLISHED: lambda v: spectral(v, merge_alpha=None),
    "ExMap, spectral, local": lambda v: spectral(v, scope="local"),
    "ExMap, k-means, global": kmeans,
    "ExMap, k-means, local": lambda v: kmeans(v, scope="local"),
    "ExMap, UMAP + k-means, global": lambda v: kmeans(v, umap=True),
    "ExMap, UMAP + k-means, local": lambda v: kmeans(v, umap=True, scope="local"),
    "GEORGE, spectral, global": lambda v: spectral(v, block="embedding", merge_alpha=None),
    "GEORGE, spectral, global, merged": lambda v: spectral(v, block="embedding"),
    "GEORGE, UMAP + k-means, local": lambda v: kmeans(
        v, umap=True, block="embedding", scope="local", merge_alpha=None
    ),
}


def dfr_candidates(v):
    """DFR with its defaults, which chooses its C itself."""
    return {"defaults": DFRClassifierCV(random_state=v.seed)}


def published_dfr(v):
    """DFR as published."""
    return {'tuning="published"': DFRClassifierCV(tuning="published", random_state=v.seed)}


def group_dro_candidates(v):
    return {
        f"adjustment={adjustment}": GroupDROClassifier(adjustment=adjustment, random_state=v.seed)
        for adjustment in (0.0, 2.0)
    }


def jtt_candidates(v):
    """JTT on the last layer; the errors are those of the net itself or of a strongly penalized refit."""
    identify = {"the net": FrozenEstimator(v.head), "C=1e-4": ERMClassifier(C=1e-4)}
    return {
        f"{name} identifies, upweight={weight}": JTTClassifier(reference_estimator=model, upweight=weight)
        for name, model in identify.items()
        for weight in (5, 20, 100)
    }


def afr_candidates(v):
    head = FrozenEstimator(v.head)
    return {
        f"gamma={gamma}": AFRClassifier(gamma=gamma, reference_estimator=head) for gamma in (4.0, 8.0, 16.0)
    }


def cvar_candidates(v):
    return {
        f"alpha={alpha}": CVaRDROClassifier(alpha=alpha, random_state=v.seed) for alpha in (0.01, 0.05, 0.2)
    }


def lff_candidates(v):
    return {f"l2={l2}": LfFClassifier(l2=l2, random_state=v.seed) for l2 in (0.003, 0.03, 0.3)}


def divdis_candidates(v):
    """DivDis; the unlabeled images are the validation images, equally many of every group."""
    return {
        f"diversity={diversity}": DivDisClassifier(diversity=diversity, random_state=v.seed)
        for diversity in (1.0, 10.0)
    }


def eiil_groups(v):
    return EIILLabeler(FrozenEstimator(v.head)).fit_predict(v.embedding, v.y)


@dataclass(frozen=True)
class Row:
    """One row: the candidates, the grouping that fit is given, and the grouping by which a candidate is chosen."""

    strategy: str
    candidates: object
    groups: str = "none"
    judged_by: str = "ExMap, spectral, global"


def rows():
    """Return all rows, name -> Row."""
    table = {
        "DFR, classes as groups": Row("DFR", dfr_candidates, "classes"),
        "CVaR-DRO": Row("CVaR-DRO", cvar_candidates),
        "AFR": Row("AFR", afr_candidates),
        "LfF": Row("LfF", lff_candidates),
        "EIIL + DFR": Row("DFR", dfr_candidates, "EIIL", "EIIL"),
    }
    for name in LABELERS:
        if name.startswith("ExMap"):
            # JTT makes its own groups; those of ExMap choose its settings, as in the paper.
            table[f"{name} + JTT"] = Row("JTT", jtt_candidates, "none", name)
        candidates = published_dfr if name == PUBLISHED else dfr_candidates
        table[f"{name} + DFR"] = Row("DFR", candidates, name, name)
    for name in (
        "GEORGE, spectral, global",
        "GEORGE, UMAP + k-means, local",
        "ExMap, spectral, global",
    ):
        table[f"{name} + Group-DRO"] = Row("Group-DRO", group_dro_candidates, name, name)
    name = "ExMap, spectral, global"
    table[f"{name} + DivDis"] = Row("DivDis", divdis_candidates, name, name)
    true = "true groups"
    table["true groups + JTT"] = Row("JTT", jtt_candidates, "none", true)
    table["true groups + AFR"] = Row("AFR", afr_candidates, "none", true)
    table["true groups + DFR"] = Row("DFR", dfr_candidates, true, true)
    table["true groups + Group-DRO"] = Row("Group-DRO", group_dro_candidates, true, true)
    return table


def group_labels_of(v, name):
    """Return the group of every validation image under a grouping, None where there is none.

    What a labeler found is kept in the folder of the seed.
    """
    if name == "none":
        return None
    if name in v.groupings:
        return v.groupings[name][0]
    path = v.folder / f"{name}.npz"
    if path.exists():
        kept = np.load(path)
        v.groupings[name] = kept["labels"], float(kept["seconds"])
        return kept["labels"]
    start = time.perf_counter()
    if name in LABELERS:
        blocks = v.signed_blocks if name == PUBLISHED else v.blocks
        labels = LABELERS[name](v).fit(blocks, v.y).group_labels_
        with replaced(path) as part:
            np.savez(part, labels=labels, seconds=time.perf_counter() - start)
    else:
        labels = {
            "classes": lambda: v.y,
            "true groups": lambda: v.true_groups,
            "EIIL": lambda: eiil_groups(v),
        }[name]()
    v.groupings[name] = labels, time.perf_counter() - start
    return labels


def fit(estimator, X, y, groups):
    return clone(estimator).fit(X, y) if groups is None else clone(estimator).fit(X, y, group_labels=groups)


def judged(y, predicted, judges):
    """Return the accuracy of the worst group that is large enough; where none is, of the worst of the largest."""
    largest = np.unique(judges[judges >= 0], return_counts=True)[1].max()
    return worst_group_accuracy(
        y, predicted, group_labels=judges, min_group_size=int(min(MIN_GROUP_SIZE, largest))
    )


def choose(row, v):
    """Return the candidate with the best worst group of the validation set, and the score of each.

    The one rule for all rows: fitted on one half and scored on the other, both ways, halves stratified by the groups
    that judge. Those are the row's own pseudo-groups; for a method without any, ExMap's; the true groups only where
    the row is named so. The first of equals is taken.
    """
    groups, judges = group_labels_of(v, row.groups), group_labels_of(v, row.judged_by)
    candidates = row.candidates(v)
    halves = StratifiedKFold(2, shuffle=True, random_state=v.seed)
    scores = {name: [] for name in candidates}
    # A group that cannot be on both sides, and images of no group, go with their class.
    sizes = {g: n for g, n in zip(*np.unique(judges, return_counts=True), strict=True) if g >= 0 and n > 1}
    strata = np.where(np.isin(judges, list(sizes)), judges, -1 - v.y)
    refusals = {}
    for half, other in halves.split(v.embedding, strata):
        for name, estimator in candidates.items():
            try:
                model = fit(estimator, v.embedding[half], v.y[half], None if groups is None else groups[half])
            except ValueError as refusal:
                # DFR refuses groups that are all small: a candidate that does so on a half is out.
                refusals[name] = refusal
                continue
            scores[name].append(judged(v.y[other], model.predict(v.embedding[other]), judges[other]))
    if len(refusals) == len(candidates):
        raise next(iter(refusals.values()))
    means = {name: float(np.mean(pair)) for name, pair in scores.items() if name not in refusals}
    best = max(means, key=means.get)
    return candidates[best], best, means


def run_row(row, v):
    """Return the fitted model of a row and how it came about."""
    groups = group_labels_of(v, row.groups)
    start = time.perf_counter()
    estimator, chosen, scores = choose(row, v)
    model = fit(estimator, v.embedding, v.y, groups)
    return model, {"chosen": chosen, "scores": scores, "seconds": time.perf_counter() - start}


def describe_grouping(v, name):
    """Return how many pseudo-groups there are, how small the smallest is, and how pure they are."""
    groups, seconds = group_labels_of(v, name), v.groupings[name][1]
    names, sizes = np.unique(groups[groups >= 0], return_counts=True)
    return {
        "n_groups": len(names),
        "sizes": sizes.tolist(),
        "purity": purity_score(v.true_groups, groups),
        "seconds": seconds,
    }
