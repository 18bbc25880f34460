"""scikit-learn's own checks on every public estimator, in full: no expected failures, no skipped test, none missing."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace
from unittest import SkipTest

import joblib
import pytest
import sklearn.utils.estimator_checks
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, ClusterMixin, TransformerMixin, is_classifier
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.neighbors import KNeighborsTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_estimator,
    check_estimators_overwrite_params,
    check_global_output_transform_pandas,
    check_global_set_output_transform_polars,
    check_inplace_ensure_writeable,
    check_param_validation,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_set_output_transform_polars,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
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
from skexmap.lrp import LRP


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


class LazyDoubleNet(torch.nn.Module):
    """The same with a parameter, in double precision."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([[1.5, -0.5], [0.25, 2.0]], dtype=torch.float64))

    def forward(self, x):
        x = x.flatten(1)
        weight = torch.cos(torch.arange(2 * x.shape[1], dtype=x.dtype)).reshape(2, -1)
        return torch.nn.functional.linear(torch.nn.functional.linear(x, weight), self.scale)


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


class PlainClassifier(ClassifierMixin, BaseEstimator):
    """What scikit-learn checks in a classifier with no special tags."""

    def fit(self, X, y):
        return self


class PlainTransformer(TransformerMixin, BaseEstimator):
    """The same for a transformer."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


class PlainTransformerOfY(PlainTransformer):
    """A transformer that needs y and returns integers, whatever it is given."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags


class PlainClusterer(ClusterMixin, BaseEstimator):
    """A clusterer without further methods."""

    def fit(self, X, y=None):
        return self


class PlainClustererStep(ClusterMixin, PlainTransformer):
    """A clusterer that is a transformer as well and returns integers."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def plain_of_the_same_kind(estimator):
    if is_classifier(estimator):
        return PlainClassifier()
    if isinstance(estimator, ClusterMixin):
        return PlainClustererStep() if hasattr(estimator, "transform") else PlainClusterer()
    return PlainTransformerOfY() if get_tags(estimator).target_tags.required else PlainTransformer()


def check_names(estimator):
    """Count scikit-learn's checks of an estimator by name."""
    names = []
    for _, check in estimator_checks_generator(estimator):
        while isinstance(check, partial):
            check = check.func
        names.append(check.__name__)
    return Counter(names)


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_no_check_of_its_kind_is_missing_for(cls):
    """No tag (`_skip_test`, `two_d_array=False`, `no_validation`, `non_deterministic`) may cut the list short."""
    for estimator in CONFIGURED.get(cls, [cls()]):
        plain = check_names(plain_of_the_same_kind(estimator))
        assert plain.total() >= 44
        assert not plain - check_names(estimator)


def test_every_public_estimator_is_found():
    assert {cls.__name__ for cls in PUBLIC} >= {
        "DFRClassifier",
        "DFRClassifierCV",
        "EigengapSpectralClustering",
        "EmbeddingTransformer",
        "ExMapClassifier",
        "HeatmapTransformer",
        "PseudoGroupLabeler",
        "SilhouetteKMeans",
    }
    assert all(cls in PUBLIC for cls in CONFIGURED)
    named = {getattr(skexmap, name) for name in skexmap.__all__}
    assert {value for value in named if inspect.isclass(value) and issubclass(value, BaseEstimator)} <= set(
        PUBLIC
    )


def run(check, estimator):
    """Run a check; one that skips itself fails, but for what only another process can check (tested below)."""
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
    check_param_validation,
    check_dataframe_column_names_consistency,
    check_inplace_ensure_writeable,
]
OUTPUT_CHECKS = [
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_set_output_transform_polars,
    check_global_output_transform_pandas,
    check_global_set_output_transform_polars,
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


def canonical_hash(value):
    """Return joblib's hash of a value; of a net, that of what skexmap's estimators pickle in its place."""
    return joblib.hash(freeze_for_pickle(value) if isinstance(value, torch.nn.Module) else value)


@pytest.fixture
def hash_nets_canonically(monkeypatch):
    """A tensor's hash changes with every copy: the check would see the deep copy of any net as another."""
    monkeypatch.setattr(sklearn.utils.estimator_checks, "joblib", SimpleNamespace(hash=canonical_hash))


@pytest.mark.parametrize("cls", [HeatmapTransformer, EmbeddingTransformer], ids=lambda cls: cls.__name__)
@pytest.mark.usefixtures("hash_nets_canonically")
def test_a_net_with_double_weights_passes_every_check(cls):
    results = check_estimator(cls(LazyDoubleNet()), on_fail=None, on_skip=None)
    assert len(results) >= 44
    assert not {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}


@pytest.mark.parametrize("cls", [HeatmapTransformer, EmbeddingTransformer], ids=lambda cls: cls.__name__)
def test_only_the_hash_of_plain_copies_needs_that(cls):
    results = check_estimator(cls(LazyDoubleNet()), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert set(failed) == {"check_estimators_overwrite_params"}
    assert "the parameter model from" in failed["check_estimators_overwrite_params"]


@pytest.mark.usefixtures("hash_nets_canonically")
def test_the_check_sees_a_fit_that_changes_a_weight():
    class Meddler(HeatmapTransformer):
        def fit(self, X, y=None):
            with torch.no_grad():
                self.model.scale += 1e-9
            return super().fit(X, y)

    with pytest.raises(AssertionError, match="the parameter model from"):
        check_estimators_overwrite_params("Meddler", Meddler(LazyDoubleNet()))


def test_blocks_as_data_frames_pass_the_checks():
    """The structured arrays of `return_embedding=True` are no matrices; as data frames they are checked in full."""
    pytest.importorskip("pandas")
    estimator = HeatmapTransformer(CosineNet(), return_embedding=True).set_output(transform="pandas")
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {
        result["check_name"]: str(result["exception"]) for result in results if result["status"] == "failed"
    }
    assert len(results) >= 44
    assert not failed


def test_array_api_dispatch_changes_nothing():
    """The check that scikit-learn only runs where SCIPY_ARRAY_API was set before SciPy was imported."""
    names = {name for name in map(str, check_names(ESTIMATORS[0])) if "array_api" in name}
    if not names:
        pytest.skip("this scikit-learn has no such check")
    script = (
        "import sys, warnings; sys.path.insert(0, sys.argv[1]); import test_common as t\n"
        "warnings.simplefilter('ignore')\n"
        "ran = 0\n"
        "for estimator in t.ESTIMATORS:\n"
        "    for instance, check in t.estimator_checks_generator(estimator):\n"
        "        if 'array_api' in str(check):\n"
        "            check(instance); ran += 1\n"
        "print(ran)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(ESTIMATORS)
