"""Random calls of everything public: each gives a finite answer of the right shape, or an error that says why not.

The parameters are drawn from what each estimator declares, and from just outside of it. `make fuzz` makes 10,000 calls
under a new seed; otherwise 300 calls are made, the same ones each time.
"""

import inspect
import os
import traceback
import warnings
from numbers import Integral

import joblib
import numpy as np
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.cluster import DBSCAN, KMeans
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsTransformer
from sklearn.utils._param_validation import Interval, StrOptions
from test_common import PUBLIC

import skexmap
from skexmap import DFRClassifier, EigengapSpectralClustering, HeatmapTransformer, PseudoGroupLabeler, metrics
from skexmap._blocks import make_blocks
from skexmap.cluster import SilhouetteKMeans, cluster_stability
from skexmap.exceptions import SkexmapWarning
from skexmap.lrp import COMPOSITES, LRP, UnsupportedOperationError
from skexmap.retraining import EIILLabeler, ERMClassifier, LfFClassifier

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

N_CALLS = os.environ.get("FUZZ_CALLS")
# Whoever raises an error writes its message: the package, scikit-learn, or joblib about `n_jobs`.
RAISERS = [os.path.dirname(module.__file__) for module in (skexmap, sklearn, joblib)]
VALIDATION = os.path.join(RAISERS[1], "utils")


def is_documented(error):
    """Return whether an error was raised on purpose: a ValueError or TypeError that a `raise` of a RAISER raised."""
    if not isinstance(error, ValueError | TypeError | UnsupportedOperationError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    on_purpose = last.filename.startswith(tuple(RAISERS)) and last.line.startswith("raise")
    return not isinstance(error, np.linalg.LinAlgError) and (
        on_purpose or last.filename.startswith(VALIDATION)
    )


def answer_of(act, *args, **kwargs):
    """Return the answer of a call; None if it raises a documented error. Warnings of NumPy and torch are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category in (SkexmapWarning, ConvergenceWarning, DataConversionWarning):
            warnings.simplefilter("ignore", category)
        # Of scikit-learn.
        warnings.filterwarnings("ignore", "The (number of unique classes|least populated class)", UserWarning)
        try:
            return act(*args, **kwargs)
        except Exception as error:
            if is_documented(error):
                return None
            raise


# Parameters -----------------------------------------------------------------------------------------------------------

# What a parameter that is an object or a function may be, and values that keep a call cheap.
OBJECTS = {
    "neighbors": [
        KNeighborsTransformer(n_neighbors=3, mode="distance"),
        KNeighborsTransformer(metric="cosine"),
    ],
    "clusterer": [
        KMeans(2, n_init=1, random_state=0),
        DBSCAN(),
        SilhouetteKMeans(),
        EigengapSpectralClustering(),
    ],
    "reference_estimator": [ERMClassifier(C=1e-4), LogisticRegression(), LfFClassifier(n_steps=5)],
    "estimator": [ERMClassifier(), LogisticRegression(), DFRClassifier(n_retrains=2)],
    "strategy": [DFRClassifier(n_retrains=2, min_group_size=1), ERMClassifier(), LogisticRegression()],
    "heatmaps": [
        HeatmapTransformer(size=2),
        HeatmapTransformer(evidence="signed", normalize=None, batch_size=5),
    ],
    "attribution": [LRP(composite) for composite in COMPOSITES]
    + [lambda model, images, targets: images * 1e30],
    "Cs": [(1.0,), (0.01, 1.0), (), (-1.0, 1.0), (np.nan,), (1e300, 1e-300)],
    "cv": [2, 3, 1, 100],
    "classes": [[0, 1], ["a", "b"], [1, 0], [0, 1, 2], [0, 0]],
    "class_weight": ["balanced", {}, {0: 2.0}, {0: 0.0}, {0: -1.0}, {0: 1e300}, {"a": 3}],
    "layer": [None, "0", "4", "nonsense"],
    "cache": [None],
    "device": ["cpu", "nonsense"],
    "n_jobs": [None, 1, 2, 0],
    "load": [None, torch.as_tensor],
}
OF_A_LABELER = [
    PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None),
    PseudoGroupLabeler(block="embedding", scope="local"),
    EIILLabeler(),
    SilhouetteKMeans(),
]
CHEAP = {"n_steps": 20, "n_retrains": 2, "n_splits": 2, "n_init": 1, "random_state": 0}


def values_near(constraint):
    """Return values that satisfy a constraint of a parameter, and some that just do not."""
    if isinstance(constraint, Interval):
        ends = [end for end in (constraint.left, constraint.right) if end is not None]
        if constraint.type is Integral:
            return [end + step for end in ends for step in (-1, 0, 1, 2, 5)]
        return [end + step for end in ends for step in (-0.5, 0, 0.5)] + [
            1e-300,
            1e-3,
            1.0,
            50.0,
            1e5,
            1e300,
            np.nan,
        ]
    if isinstance(constraint, StrOptions):
        return [*sorted(constraint.options), "nonsense"]
    return {"boolean": [True, False], "random_state": [0, 1, -1], None: [None], "verbose": [False]}.get(
        constraint, []
    )


def draw_parameters(draw, cls):
    """Draw the parameters of an estimator; most keep their default or a cheap value."""
    params = {}
    for name, constraints in cls._parameter_constraints.items():
        if name == "model" or draw(st.integers(0, 3)):
            params |= {name: CHEAP[name]} if name in CHEAP else {}
            continue
        objects = (
            OF_A_LABELER if (cls.__name__, name) == ("ExMapClassifier", "clusterer") else OBJECTS.get(name)
        )
        near = [value for constraint in constraints for value in values_near(constraint)]
        params[name] = draw(st.sampled_from(objects or near))
    return params


# Data -----------------------------------------------------------------------------------------------------------------


def one_outlier(value):
    """Return a function that sets one value of an array."""

    def put(X):
        X = X.astype(np.float64)
        X.flat[-1] = value
        return X

    return put


ROWS = {
    "plain": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "constant": np.ones_like,
    "zero": np.zeros_like,
    "duplicated": lambda X: X[np.arange(len(X)) // 2],
    "one constant column": lambda X: np.concatenate([X[:, :1] * 0 + 3, X[:, 1:]], axis=1),
    "huge": lambda X: X * 1e150,
    "largest": lambda X: X * 1e307,
    "huge float32": lambda X: (X * 1e30).astype(np.float32),
    "tiny": lambda X: X * 1e-200,
    "subnormal": lambda X: X * 1e-310,
    "tiny float32": lambda X: (X * 1e-30).astype(np.float32),
    "far away": lambda X: X + 1e12,
    "outlier 1e160": one_outlier(1e160),
    "outlier 1e200": one_outlier(1e200),
    "outlier 1e20": one_outlier(1e20),
    "NaN": one_outlier(np.nan),
    "infinite": one_outlier(-np.inf),
    "integers": lambda X: np.round(3 * X).astype(np.int64),
    "booleans": lambda X: X > 0,
    "objects": lambda X: X.astype(object),
    "text": lambda X: X.astype(str),
    "longdouble": lambda X: X.astype(np.longdouble),
    "half": lambda X: X.astype(np.float16),
    "complex": lambda X: X + 1j,
    "dates": lambda X: np.round(X).astype("datetime64[D]"),
    "reversed": lambda X: X[::-1],
    "list": lambda X: X.tolist(),
    "ragged": lambda X: [row[: 1 + i % 2] for i, row in enumerate(X.tolist())],
    "tensor": lambda X: torch.tensor(X, requires_grad=True),
    "one row": lambda X: X[:1],
    "two rows": lambda X: X[:2],
    "empty": lambda X: X[:0],
    "flat": np.ravel,
    "no columns": lambda X: X[:, :0],
    "sparse": lambda X: scipy.sparse.csr_array(X.reshape(len(X), -1)),
    "None": lambda X: None,
}
LABELS = {
    "two": lambda i: i % 2,
    "three": lambda i: i % 3,
    "rare": lambda i: (i == 1).astype(int),
    "text": lambda i: np.where(i % 2, "duck", "swan"),
    "one": lambda i: 0 * i,
    "as many as rows": lambda i: i,
    "negative": lambda i: i % 3 - 1,
    "large": lambda i: (i % 2) * 2**62,
    "floats": lambda i: (i % 2).astype(float),
    "continuous": lambda i: i / 7,
    "NaN": lambda i: np.where(i == 1, np.nan, i % 2),
    "short": lambda i: i[1:] % 2,
    "column": lambda i: i[:, None] % 2,
    "one-hot": lambda i: np.eye(2)[i % 2],
    "multilabel": lambda i: np.ones((len(i), 3), dtype=int) * (i[:, None] % 2),
    "none": lambda i: None,
    "booleans": lambda i: i % 2 == 0,
    "objects": lambda i: np.where(i % 2, "duck", "swan").astype(object),
    "mixed": lambda i: [0 if k % 2 else "swan" for k in i],
    "None among text": lambda i: [None if k % 4 == 0 else "swan" for k in i],
    "dates": lambda i: (i % 2).astype("datetime64[D]"),
    "ragged": lambda i: [[0] * (1 + k % 2) for k in i],
    "all -1": lambda i: 0 * i - 1,
    "-1 as text": lambda i: np.where(i % 3 == 0, "-1", "left"),
    "scalar": lambda i: 3,
}
WEIGHTS = {
    "ones": lambda i: i * 0.0 + 1,
    "zeros": lambda i: i * 0.0,
    "some": lambda i: i % 3 + 0.5,
    "zero for a class": lambda i: (i % 2).astype(float),
    "negative": lambda i: i - 1.0,
    "huge": lambda i: 1e300 * (i + 1.0),
    "tiny": lambda i: 1e-320 * (i + 1.0),
    "NaN": lambda i: np.where(i == 0, np.nan, 1.0),
    "short": lambda i: i[1:] + 1.0,
    "columns": lambda i: np.ones((len(i), 2)),
    "text": lambda i: i.astype(str),
}

GROUP_WEIGHTS = [
    None,
    "macro",
    "nonsense",
    {0: 1, 1: 2.0},
    {"swan": 1, "duck": 0},
    {},
    [1, 2],
    [-1, 1],
    [np.nan],
    3,
]


def draw_kind(draw, kinds, first, n):
    """Draw one kind of data, two times of three among the harmless `first` ones, for n rows."""
    names = list(kinds)[:first] if draw(st.integers(0, 2)) else list(kinds)
    return kinds[draw(st.sampled_from(names))](np.arange(n))


def draw_rows(draw, shape):
    """Draw rows (or images) of a shape."""
    X = np.random.default_rng(draw(st.integers(0, 9))).normal(size=shape)
    return draw_kind(draw, {name: lambda _, change=change: change(X) for name, change in ROWS.items()}, 2, 0)


def draw_labels(draw, n):
    return draw_kind(draw, LABELS, 4, n)


def as_blocks(draw, X):
    """Return rows as named blocks, if they can be."""
    clusters = np.arange(len(X)) % draw(st.integers(1, 4)) - draw(st.integers(0, 1))
    return make_blocks(embedding=X, heatmap=X[:, None, None], predicted=clusters % 2, cluster=clusters)


def tiny_net(seed, scale):
    """Return a net of two or three classes for images of 3 x 6 x 6."""
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten()
    net = torch.nn.Sequential(*layers, torch.nn.Linear(16, 2 + seed % 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in net.parameters():
            values.copy_(scale * torch.randn(values.shape, generator=generator))
    return net


# Calls ----------------------------------------------------------------------------------------------------------------


def check_learned(estimator):
    """Check that no number that `fit` learned is NaN or infinite; unknown scores of splits may be."""
    for name in ("coef_", "intercept_", *vars(estimator)):
        values = getattr(estimator, name, None)
        if name.endswith("_") and name != "cv_scores_" and isinstance(values, np.ndarray):
            assert values.dtype.kind != "f" or np.isfinite(values).all(), name


def check_answers(estimator, X, y):
    """Check the answers of all methods of a fitted estimator, on rows that it may not have seen."""
    for name in ("predict", "predict_proba", "decision_function", "transform", "predict_groups"):
        if not hasattr(estimator, name):
            continue
        found = answer_of(getattr(estimator, name), *((X, y) if name == "predict_groups" else (X,)))
        if found is None:
            continue
        assert len(found) == len(X)
        if found.dtype.names is None and found.dtype.kind == "f":
            assert np.isfinite(found).all(), name
        if name == "predict" and hasattr(estimator, "classes_"):
            assert set(found.tolist()) <= set(np.asarray(estimator.classes_).tolist())
        if name == "predict_proba":
            assert found.shape == (len(X), len(estimator.classes_))
            np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def call_estimator(draw, cls):
    """Fit an estimator, and ask for its answers on the same rows and on others."""
    estimator = cls(**draw_parameters(draw, cls))
    is_net = hasattr(estimator, "model")
    n = draw(st.sampled_from([4, 12, 30]))
    shape = (n, 3, 6, 6) if is_net else (n, draw(st.sampled_from([1, 2, 6])))
    X, y = draw_rows(draw, shape), draw_labels(draw, n)
    if is_net:
        scale = draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, 1e-20, 1e8, 1e30]))
        estimator.set_params(model=tiny_net(draw(st.integers(0, 3)), scale))
    elif draw(st.integers(0, 3)) == 0 and isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1]:
        X = as_blocks(draw, X)
    given = {}
    for name, kinds in [("group_labels", LABELS), ("sample_weight", WEIGHTS), ("predicted", LABELS)]:
        if name in inspect.signature(cls.fit).parameters and draw(st.booleans()):
            given[name] = draw_kind(draw, kinds, 4, n)
    if answer_of(estimator.fit, X, y, **given) is None:
        return
    check_learned(estimator)
    check_answers(estimator, X, y)
    check_answers(estimator, draw_rows(draw, shape), draw_labels(draw, n))


def call_metric(draw, name):
    """Call a metric on random labels; a rate is between 0 and 1, a gap between -1 and 1."""
    n = draw(st.sampled_from([0, 1, 4, 12]))
    y_true, y_pred, groups = draw_labels(draw, n), draw_labels(draw, n), draw_labels(draw, n)
    if name == "purity_score":
        found = answer_of(metrics.purity_score, y_true, groups)
        assert found is None or 0 <= found <= 1
        return
    given = {"group_labels": groups}
    if draw(st.booleans()):
        given["sample_weight"] = draw_kind(draw, WEIGHTS, 3, n)
    if name in ("worst_group_accuracy", "group_report") and draw(st.booleans()):
        given["min_group_size"] = draw(st.sampled_from([-1, 0, 1, 2, 100, 1.5, "1"]))
    if name in ("mean_accuracy", "shortcut_gaps") and draw(st.booleans()):
        given["weights"] = draw(st.sampled_from(GROUP_WEIGHTS))
    if name == "shortcut_gaps":
        names = draw(st.sampled_from([(), ("ink",), ("ink", "mark")]))
        given["shortcuts"] = {name: draw_labels(draw, n) for name in names}
    found = answer_of(getattr(metrics, name), y_true, y_pred, **given)
    if name == "group_report" and found is not None:
        assert str(found)
        assert ((found.lower <= found.accuracies + 1e-12) & (found.accuracies <= found.upper + 1e-12)).all()
        found = found.worst_group_accuracy
    assert found is None or all(
        -1 <= value <= 1 for value in (found.values() if isinstance(found, dict) else [found])
    )


def call_stability(draw, _):
    """Judge the clusters of random rows."""
    clusterer = draw(st.sampled_from([EigengapSpectralClustering(), *OF_A_LABELER]))
    n = draw(st.sampled_from([4, 12, 30]))
    X, y = draw_rows(draw, (n, 2)), draw_labels(draw, n)
    given = {"n_resamples": draw(st.sampled_from([2, 3, 1])), "random_state": 0}
    given["fraction"] = draw(st.sampled_from([0.8, 0.3, 0.0, 1.5, np.nan]))
    found = answer_of(cluster_stability, clusterer, X, y, **given)
    assert found is None or -1 <= found.mean_adjusted_rand_index <= 1


TARGETS = {cls.__name__: (call_estimator, cls) for cls in PUBLIC}
TARGETS |= {name: (call_metric, name) for name in metrics.__all__ if "scorer" not in name}
TARGETS["cluster_stability"] = (call_stability, None)


@pytest.mark.parametrize("target", TARGETS)
def test_a_random_call_gives_an_answer_or_a_documented_error(target):
    call, what = TARGETS[target]

    @hypothesis.settings(
        max_examples=-(-int(N_CALLS or 300) // len(TARGETS)),
        derandomize=N_CALLS is None,
        database=None,
        deadline=None,
        # What was drawn is printed with names, so shrinking it would only take time.
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def run(data):
        call(data.draw, what)

    run()
