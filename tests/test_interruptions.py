"""Ctrl-C anywhere in a long call leaves everything as it was: parameters, what was learned, the net, random states."""

import copy
import sys
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from test_common import PUBLIC

import skexmap
from skexmap import EmbeddingTransformer, HeatmapTransformer, PseudoGroupLabeler
from skexmap._torch import freeze_for_pickle
from skexmap.cluster import cluster_stability
from skexmap.datasets import make_shortcut_features
from skexmap.retraining import DFRClassifier, DFRClassifierCV

# JTT warns of its reference model.
pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")

PACKAGE = str(Path(skexmap.__file__).parent)
FEATURES, LABELS, SHORTCUT = make_shortcut_features(120, agreement=0.8, random_state=0)
STEPS = {"n_steps": 30, "n_retrains": 2, "n_splits": 2, "random_state": 0}


def run_for(n_calls, act):
    """Act until the package has called a number of functions, then press Ctrl-C; return how many it called."""
    n_made = 0

    def count(frame, event, _):
        nonlocal n_made
        # An exception in a generator that is being closed would be lost.
        if frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_name != "<genexpr>":
            n_made += 1
            if n_made == n_calls:
                raise KeyboardInterrupt

    tracing = sys.gettrace()
    sys.settrace(count)
    try:
        act()
    finally:
        sys.settrace(tracing)
    return n_made


def state_of(*things):
    """Return a digest of estimators and nets, what they learned included, and of the global random states."""
    things = [
        (
            type(thing),
            freeze_for_pickle(thing).__dict__ if isinstance(thing, torch.nn.Module) else vars(thing),
        )
        for thing in things
    ]
    return joblib.hash(
        [
            things,
            np.random.get_state(),  # noqa: NPY002
            torch.get_rng_state().numpy(),
        ]
    )


def check_interruptions(act, *things):
    """Interrupt a call early, in the middle and late; each time, everything must be as before."""
    # A copy is called once, to count.
    n_calls = run_for(-1, copy.deepcopy(act))
    before = state_of(*things)
    for part in (0.05, 0.4, 0.7, 0.98):
        with pytest.raises(KeyboardInterrupt):
            run_for(max(2, int(part * n_calls)), act)
        assert state_of(*things) == before


def make(cls):
    """Return an estimator that is not a net's, with few steps."""
    estimator = cls()
    estimator.set_params(**{name: STEPS[name] for name in STEPS.keys() & estimator.get_params().keys()})
    if cls is PseudoGroupLabeler:
        # Without a seed, a clusterer moves the global random state, as scikit-learn documents it.
        estimator.set_params(clusterer=KMeans(2, n_init=1, random_state=0), merge_alpha=None)
    return estimator


@pytest.mark.parametrize(
    "cls", [cls for cls in PUBLIC if "model" not in cls().get_params()], ids=lambda cls: cls.__name__
)
def test_a_fit_that_is_interrupted_leaves_an_estimator_as_it_was(cls):
    first, again = slice(0, 60), slice(60, 120)
    estimator = make(cls).fit(FEATURES[first], LABELS[first])
    expected = make(cls).fit(FEATURES[again], LABELS[again])
    # Other classes, which would be left beside the old coefficients.
    check_interruptions(partial(estimator.fit, FEATURES[again], LABELS[again] + 5), estimator)
    estimator.fit(FEATURES[again], LABELS[again])
    for name in ("coef_", "intercept_", "labels_", "group_labels_"):
        if hasattr(expected, name):
            np.testing.assert_array_equal(getattr(estimator, name), getattr(expected, name))


def test_a_first_fit_that_is_interrupted_leaves_an_estimator_unfitted():
    dfr = DFRClassifier(n_retrains=2, random_state=0)
    n_calls = run_for(-1, partial(clone(dfr).fit, FEATURES, LABELS))
    with pytest.raises(KeyboardInterrupt):
        run_for(n_calls - 2, partial(dfr.fit, FEATURES, LABELS))
    assert vars(dfr) == vars(clone(dfr))


@pytest.mark.parametrize(
    "transformer",
    [HeatmapTransformer(size=4, batch_size=16), EmbeddingTransformer(batch_size=16)],
    ids=["maps", "embeddings"],
)
def test_a_transform_that_is_interrupted_leaves_the_transformer_and_the_net_as_they_were(
    transformer, net, images
):
    transformer = clone(transformer).set_params(model=net).fit(*images)
    net.train()
    check_interruptions(partial(transformer.transform, images[0]), transformer, net)
    assert net.training


def test_the_whole_method_that_is_interrupted_leaves_the_classifier_and_the_net_as_they_were(
    exmap, net, images
):
    exmap.fit(*images)
    expected = exmap.predict(images[0])
    check_interruptions(partial(clone(exmap).fit, *images), exmap, net)
    check_interruptions(partial(exmap.predict, images[0]), exmap, net)
    np.testing.assert_array_equal(exmap.predict(images[0]), expected)


def test_a_search_and_a_judgment_that_are_interrupted_leave_their_estimator_as_it_was():
    dfr = DFRClassifierCV(Cs=(1.0, 0.1), n_splits=2, n_retrains=2, random_state=0)
    search = GridSearchCV(dfr, {"balance": ["subsample", "reweight"]}, cv=2, error_score="raise")
    check_interruptions(partial(clone(search).fit, FEATURES, LABELS), dfr, search)
    labeler = make(PseudoGroupLabeler)
    judge = partial(cluster_stability, labeler, FEATURES, LABELS, n_resamples=2, random_state=0)
    check_interruptions(judge, labeler)
