"""What a user writes, as README and docs do; `make lint` checks its types. Nothing here runs."""

from typing import assert_type

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from skexmap import (
    DFRClassifierCV,
    EigengapSpectralClustering,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
    export_model,
    make_exmap_pipeline,
)
from skexmap.datasets import make_colored_digits, readable_images
from skexmap.lrp import LRP
from skexmap.metrics import group_report, purity_score, worst_group_accuracy


def repair(net: torch.nn.Module) -> torch.nn.Module:
    digits = make_colored_digits(n_copies=1, random_state=0)
    X, y = digits.validation.data, digits.validation.target
    exmap = ExMapClassifier(net, heatmaps=HeatmapTransformer(size=14, cache="folder"), random_state=0).fit(
        X, y
    )
    print(group_report(y, exmap.predict(X), group_labels=exmap.group_labels_))
    assert_type(purity_score(digits.validation.group_labels, exmap.group_labels_), float)
    assert_type(worst_group_accuracy(y, exmap.predict(X), group_labels=exmap.group_labels_), float)
    return export_model(exmap)


def own_steps(net: torch.nn.Module) -> Pipeline:
    heatmaps = HeatmapTransformer(net, attribution=LRP(gamma=1.0), dtype="bfloat16")
    labeler = PseudoGroupLabeler(EigengapSpectralClustering(max_clusters=6), scope="local")
    return make_exmap_pipeline(
        net, heatmaps=heatmaps, clusterer=labeler, strategy=DFRClassifierCV(min_group_size=4), memory="folder"
    )


def readable(paths: list[str]) -> list[str]:
    mask = readable_images(paths)
    assert_type(mask, np.ndarray)
    return [path for path, is_readable in zip(paths, mask, strict=True) if is_readable]


def refused(net: torch.nn.Module) -> None:
    """Show that mistakes are found: mypy reports an ignored error that does not occur."""
    HeatmapTransformer(net, sizes=28)  # type: ignore[call-arg]
    purity_score([0, 1], [0, 1]).round()  # type: ignore[attr-defined]
