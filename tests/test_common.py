"""scikit-learn's own checks on every public estimator, in full: no expected failures, no skipped test, none missing."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from functools import partial
from types import SimpleNamespace
from unittest import SkipTest

import joblib
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.neighbors import KNeighborsTransformer
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_estimators_overwrite_params,
    estimator_checks_generator,
    parametrize_with_checks,
)

import skexmap
from skexmap import (
    DFRClassifier,
    DFRClassifierCV,
    EigengapSpectralClustering,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap._torch import freeze_for_pickle
from skexmap.cluster import SilhouetteKMeans
from skexmap.exceptions import PredictionWarning
from skexmap.lrp import LRP
from skexmap.retraining import CVaRDROClassifier, DivDisClassifier, GroupDROClassifier, LfFClassifier


class CosineNet(torch.nn.Module):
    """A classifier for inputs of any width and floating type, without parameters.

    scikit-learn's checks feed data of many widths. A float32 net would fail the check that a subset of rows gets the
    same results to 1e-7, and parameters would fail the one that compares ``joblib.hash`` with a plain deep copy: so the
    weights are made on the fly, in the type of the input.
    """

    def forward(self, x):
        x = x.flatten(1)
        weight = torch.cos(torch.arange(2 * x.shape[1], dtype=x.dtype)).reshape(2, -1)
        return torch.nn.functional.linear(x, weight)


class LazyDoubleNet(CosineNet):
    """The same net followed by a parameter, in double precision."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([[1.5, -0.5], [0.25, 2.0]], dtype=torch.float64))

    def forward(self, x):
        return torch.nn.functional.linear(super().forward(x), self.scale)


# What an estimator needs besides its defaults, and variants that are worth the checks too. The data sets of the checks
# have 10 to 60 rows: the two clusters and `min_group_size=1` are for those.
TWO_CLUSTERS = KMeans(2, n_init=1, random_state=0)
CONFIGURED = {
    HeatmapTransformer: [
        HeatmapTransformer(CosineNet()),
        HeatmapTransformer(
            CosineNet(), normalize=None, attribution=LRP(initial_relevance="logit"), batch_size=7
        ),
    ],
    EmbeddingTransformer: [EmbeddingTransformer(CosineNet())],
    EigengapSpectralClustering: [
        EigengapSpectralClustering(),
        EigengapSpectralClustering(n_clusters=2, n_neighbors=4),
        EigengapSpectralClustering(neighbors=KNeighborsTransformer(n_neighbors=4, algorithm="brute")),
    ],
    SilhouetteKMeans: [SilhouetteKMeans(2, 4, n_init=1)],
    PseudoGroupLabeler: [
        PseudoGroupLabeler(merge_alpha=None),
        PseudoGroupLabeler(block="embedding", merge_alpha=None),
        PseudoGroupLabeler(TWO_CLUSTERS, scope="local", merge_alpha=None),
        PseudoGroupLabeler(AgglomerativeClustering(), merge_alpha=None),
        PseudoGroupLabeler(DBSCAN(eps=5.0, min_samples=1), merge_alpha=None),
    ],
    DFRClassifier: [DFRClassifier(), DFRClassifier(balance="reweight")],
    DFRClassifierCV: [
        DFRClassifierCV(),
        DFRClassifierCV(tuning="published"),
        DFRClassifierCV(cv=2, n_retrains=2),
    ],
    # They are trained by gradient: a tenth of the steps is enough for the checks, which fit some hundred times.
    **{
        cls: [cls(n_steps=100)]
        for cls in (CVaRDROClassifier, DivDisClassifier, GroupDROClassifier, LfFClassifier)
    },
    ExMapClassifier: [
        ExMapClassifier(
            CosineNet(),
            clusterer=PseudoGroupLabeler(TWO_CLUSTERS, merge_alpha=None),
            strategy=DFRClassifierCV(n_retrains=3, min_group_size=1),
        ),
        ExMapClassifier(
            CosineNet(),
            clusterer=PseudoGroupLabeler(TWO_CLUSTERS, block="embedding", scope="local", merge_alpha=None),
            strategy=DFRClassifier(balance="reweight", min_group_size=1),
        ),
    ],
}


def public_estimators():
    """Return every estimator class that a public module of skexmap names in its `__all__`."""
    found = set()
    names = ["skexmap", *(info.name for info in pkgutil.walk_packages(skexmap.__path__, "skexmap."))]
    for module_name in names:
        if any(part.startswith("_") for part in module_name.split(".")):
            continue
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            # LRP is settings, to be reached by a grid search, not an estimator.
            if inspect.isclass(value) and issubclass(value, BaseEstimator) and value is not LRP:
                found.add(value)
    return sorted(found, key=lambda cls: cls.__name__)


PUBLIC = public_estimators()
ESTIMATORS = [estimator for cls in PUBLIC for estimator in CONFIGURED.get(cls, [cls()])]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_no_tag_excuses_an_estimator_from_a_check(estimator):
    tags = get_tags(estimator)
    assert tags.requires_fit
    assert tags.input_tags.two_d_array
    assert tags.classifier_tags is None or tags.classifier_tags.multi_class
    excuses = [
        tags._skip_test,
        tags.no_validation,
        tags.non_deterministic,
        tags.input_tags.allow_nan,
        tags.input_tags.pairwise,
        tags.input_tags.positive_only,
        tags.classifier_tags is not None and tags.classifier_tags.poor_score,
    ]
    assert not any(excuses)
    assert len(list(estimator_checks_generator(estimator))) >= 44


def test_every_configured_and_every_top_level_estimator_is_checked():
    assert set(CONFIGURED) <= set(PUBLIC)
    top_level = {getattr(skexmap, name) for name in skexmap.__all__}
    assert {cls for cls in top_level if inspect.isclass(cls) and issubclass(cls, BaseEstimator)} <= set(
        PUBLIC
    )


def run(check, estimator):
    """Run a check. If it skips itself it fails, unless a package is missing or only another process can run it."""
    try:
        check(estimator)
    except SkipTest as skipped:
        if "pandas is not installed" in str(skipped):
            pytest.importorskip("pandas")
        if "SCIPY_ARRAY_API" not in str(skipped):
            raise AssertionError(f"The check skipped itself: {skipped}") from skipped
        pytest.skip(f"{skipped}; done by test_array_api_dispatch_changes_nothing")


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
def test_scikit_learns_checks_pass(estimator, check):
    run(check, estimator)


# Checks that scikit-learn runs on its own estimators only.
FURTHER_CHECKS = [
    estimator_checks.check_param_validation,
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_inplace_ensure_writeable,
]
OUTPUT_CHECKS = [
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
]
NEEDED = {"pandas": "pandas", "dataframe": "pandas", "polars": "polars"}


@pytest.mark.parametrize(
    "estimator, check",
    [
        pytest.param(estimator, check, id=f"{estimator}-{check.__name__}")
        for estimator in ESTIMATORS
        for check in FURTHER_CHECKS + (OUTPUT_CHECKS if hasattr(estimator, "transform") else [])
    ],
)
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
# Some fit on a frame and transform its values, or the other way round.
@pytest.mark.filterwarnings("ignore:X (has feature names|does not have valid feature names):UserWarning")
def test_the_checks_of_scikit_learns_own_estimators_pass(estimator, check):
    for word, package in NEEDED.items():
        if word in check.__name__:
            pytest.importorskip(package)
    run(partial(check, type(estimator).__name__), estimator)


@pytest.fixture
def hash_nets_canonically(monkeypatch):
    """A function that makes the checks hash a net as skexmap's estimators pickle it.

    joblib's own hash of a net changes with every copy.
    """

    def canonical_hash(value):
        return joblib.hash(freeze_for_pickle(value) if isinstance(value, torch.nn.Module) else value)

    def start():
        monkeypatch.setattr(estimator_checks, "joblib", SimpleNamespace(hash=canonical_hash))

    return start


def failed_checks(estimator):
    """Run all checks of an estimator, and return the names and messages of those that fail."""
    with warnings.catch_warnings():
        # The nets are not trained on the labels of the checks.
        warnings.simplefilter("ignore", PredictionWarning)
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert len(results) >= 44
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}
    return {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}


@pytest.mark.parametrize("cls", [HeatmapTransformer, EmbeddingTransformer], ids=lambda cls: cls.__name__)
def test_with_weights_only_the_check_that_hashes_copies_of_the_net_needs_a_canonical_hash(
    cls, hash_nets_canonically
):
    failed = failed_checks(cls(LazyDoubleNet()))
    assert set(failed) == {"check_estimators_overwrite_params"}
    assert "the parameter model from" in failed["check_estimators_overwrite_params"]
    hash_nets_canonically()
    check_estimators_overwrite_params(cls.__name__, cls(LazyDoubleNet()))


def test_blocks_as_data_frames_pass_the_checks():
    """The structured arrays of `return_embedding=True` are not matrices; as data frames they are checked in full."""
    pytest.importorskip("pandas")
    estimator = HeatmapTransformer(CosineNet(), return_embedding=True).set_output(transform="pandas")
    assert failed_checks(estimator) == {}


def test_array_api_dispatch_changes_nothing():
    """scikit-learn runs `check_array_api_input` only if SCIPY_ARRAY_API was set before SciPy was imported."""
    if not any("array_api" in str(check) for _, check in estimator_checks_generator(ESTIMATORS[0])):
        pytest.skip("this scikit-learn has no such check")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "array_api_input", __file__]
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout
    assert re.search(r"= (\d+) passed, \d+ deselected in", done.stdout)[1] == str(len(ESTIMATORS))
