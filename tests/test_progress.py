"""Long work reports: to scikit-learn's callbacks where it has them, on the screen with `verbose`."""

import builtins
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from test_common import ESTIMATORS

from skexmap import (
    DFRClassifier,
    DFRClassifierCV,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap._estimator import EstimatorMixin
from skexmap._progress import progress

needs_callbacks = pytest.mark.skipif(
    not hasattr(EstimatorMixin, "set_callbacks"), reason="scikit-learn has callbacks from 1.9 on"
)
pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")


class Recorder:
    """A callback that writes down what it hears; the parts of a pipeline or meta-estimator inherit it."""

    max_propagation_depth = None

    def __init__(self):
        self.heard = []

    def setup(self, estimator, context):
        self.heard.append(("setup", context.estimator_name, context.task_name))

    def on_fit_task_begin(self, estimator, context):
        self.heard.append(("begin", context.estimator_name, context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.heard.append(("end", context.estimator_name, context.task_name))

    def teardown(self, estimator, context):
        self.heard.append(("teardown", context.estimator_name, context.task_name))

    def count(self, event, estimator, task):
        return self.heard.count((event, estimator.__name__, task))


class ColorNet(torch.nn.Module):
    """A net that looks at the means of the channels."""

    def __init__(self, n_logits=2):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 6, 1)
        self.head = torch.nn.Linear(6, n_logits)

    def forward(self, x):
        return self.head(torch.relu(self.features(x)).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ColorNet()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    X = rng.uniform(size=(40, 3, 6, 6)).astype(np.float32)
    X[np.arange(40) % 3 == 0, 0] += 3
    return X, y


@needs_callbacks
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_every_public_estimator_tells_callbacks_of_its_fit(estimator):
    X, y = make_classification(40, n_features=6, random_state=0)
    recorder = Recorder()
    estimator = clone(estimator).set_callbacks(recorder)
    estimator.fit(X, y)
    name = type(estimator).__name__
    assert recorder.heard[:2] == [("setup", name, "fit"), ("begin", name, "fit")]
    assert recorder.heard[-2:] == [("end", name, "fit"), ("teardown", name, "fit")]
    begun = [entry[1:] for entry in recorder.heard if entry[0] == "begin"]
    assert sorted(begun) == sorted(entry[1:] for entry in recorder.heard if entry[0] == "end")


@needs_callbacks
def test_callbacks_hear_of_every_batch_refit_and_halving_in_a_pipeline(net, images):
    recorder = Recorder()
    pipe = Pipeline(
        [
            ("heatmaps", HeatmapTransformer(net, return_embedding=True, batch_size=16)),
            ("clusterer", PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None)),
            ("dfr", DFRClassifierCV(n_retrains=4, n_splits=3, min_group_size=1, random_state=0, n_jobs=2)),
        ]
    ).set_callbacks(recorder)
    pipe.fit(*images)
    assert recorder.count("end", HeatmapTransformer, "HeatmapTransformer: one") == 3
    assert recorder.count("end", DFRClassifierCV, "halvings: one") == 3
    assert recorder.count("end", DFRClassifierCV, "refits: one") == 4
    # Whoever transforms later is not in a fit.
    heard = len(recorder.heard)
    pipe.predict(images[0])
    assert len(recorder.heard) == heard


@needs_callbacks
def test_callbacks_set_on_an_exmap_classifier_reach_its_parts(net, images):
    recorder = Recorder()
    classifier = ExMapClassifier(
        net,
        clusterer=PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None),
        strategy=DFRClassifier(n_retrains=4, min_group_size=1),
        random_state=0,
    ).set_callbacks(recorder)
    classifier.fit(*images)
    assert recorder.count("end", HeatmapTransformer, "HeatmapTransformer: one") == 1
    assert recorder.count("end", DFRClassifier, "refits: one") == 4
    classifier.fit(*images, group_labels=np.arange(40) % 4)
    assert recorder.count("end", EmbeddingTransformer, "EmbeddingTransformer: one") == 1
    assert recorder.count("end", DFRClassifier, "refits: one") == 8


@needs_callbacks
def test_candidates_of_a_grid_search_report(net, images):
    recorder = Recorder()
    X, y = images
    blocks = EmbeddingTransformer(net).fit_transform(X)
    search = GridSearchCV(DFRClassifier(n_retrains=2, random_state=0), {"C": [1.0, 0.1]}, cv=2)
    search.set_callbacks(recorder).fit(blocks, y)
    assert recorder.count("end", DFRClassifier, "refits: one") == 2 * (2 * 2 + 1)


@needs_callbacks
def test_the_progress_bar_of_scikit_learn_shows_the_batches(net, images, capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    transformer = HeatmapTransformer(net, batch_size=16).set_callbacks(ProgressBar())
    expected = HeatmapTransformer(net, batch_size=16).fit_transform(*images)
    np.testing.assert_array_equal(transformer.fit_transform(*images), expected)
    assert "HeatmapTransformer" in capsys.readouterr().out


@needs_callbacks
def test_callbacks_survive_clone_and_an_exception_in_fit(net, images):
    recorder = Recorder()
    transformer = clone(HeatmapTransformer(net).set_callbacks(recorder))
    images[0][3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        transformer.fit_transform(*images)
    assert recorder.heard[-1] == ("teardown", "HeatmapTransformer", "fit")
    assert not hasattr(transformer, "_callback_fit_ctx")


def test_verbose_shows_a_bar_of_batches_and_refits(net, images, capsys):
    pytest.importorskip("tqdm")
    X, y = images
    blocks = HeatmapTransformer(net, return_embedding=True, batch_size=16, verbose=True).fit_transform(X)
    shown = capsys.readouterr().err
    assert "HeatmapTransformer: 100%" in shown
    assert "3/3" in shown
    DFRClassifierCV(n_retrains=4, n_splits=3, random_state=0, verbose=True).fit(blocks["embedding"], y)
    shown = capsys.readouterr().err
    assert "halvings: 100%" in shown
    assert "refits: 100%" in shown


def test_nothing_is_shown_by_default(net, images, capsys):
    X, y = images
    embedding = EmbeddingTransformer(net).fit_transform(X)
    DFRClassifier(n_retrains=2, random_state=0).fit(embedding, y)
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_lines_say_how_far_the_work_is(monkeypatch, capsys):
    real_import = builtins.__import__

    def no_tqdm(name, *args, **kwargs):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tqdm)
    monkeypatch.delitem(sys.modules, "tqdm.auto", raising=False)
    assert list(progress(range(30), 30, "counting", True)) == list(range(30))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("counting: 3/30 in ")
    assert lines[-1].startswith("counting: 30/30 in ")
