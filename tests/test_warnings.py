"""Every warning of skexmap: a user meets it, can silence it and can turn it into an error by its category."""

import re
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans

from skexmap import (
    DFRClassifier,
    EigengapSpectralClustering,
    EmbeddingTransformer,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap._blocks import make_blocks
from skexmap.cluster import cluster_stability
from skexmap.exceptions import (
    ClusteringWarning,
    PredictionWarning,
    SkexmapWarning,
)
from skexmap.lrp import LRP
from skexmap.retraining import JTTReweighter

Y = np.arange(80) // 2 % 2
HALVES = np.arange(80) % 2
EMBEDDING = np.random.default_rng(0).standard_normal((80, 4))
NOISE = np.random.default_rng(0).standard_normal((300, 20))


@pytest.fixture
def blind_net(net):
    """A net that answers "swan" to every image."""
    with torch.no_grad():
        net[7].bias[1] += 100
    return net


class Answers(ClassifierMixin, BaseEstimator):
    """A classifier that returns given answers."""

    def __init__(self, answers=None):
        self.answers = answers

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.answers


def warnings_of(act, *args):
    """Return the warnings of a call, whatever filters are set."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act(*args)
    return caught


def check_warning(category, words, act, *args):
    """Check that a call warns at the line of this file, can be silenced by message or category, and can raise."""
    (caught,) = [warning for warning in warnings_of(act, *args) if re.search(words, str(warning.message))]
    assert (caught.category, caught.filename) == (category, __file__)
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", f".*{words}", category)
        act(*args)
    assert not any(re.search(words, str(warning.message)) for warning in left)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SkexmapWarning)
        act(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", category)
        with pytest.raises(category):
            act(*args)


def retrain_on(clusters):
    blocks = make_blocks(embedding=EMBEDDING, cluster=clusters)
    DFRClassifier(n_retrains=1, min_group_size=1, random_state=0).fit(blocks, Y)


def resample():
    cluster_stability(EigengapSpectralClustering(), NOISE, n_resamples=3, random_state=0)


PIECES = np.repeat(1000.0 * np.arange(13), 10)[:, None] + np.random.default_rng(0).random((130, 2))
LABELER = PseudoGroupLabeler(KMeans(8, n_init=1, random_state=0), merge_alpha=None)
RIGHT, WRONG = (JTTReweighter(reference_estimator=Answers(answers)) for answers in (Y, 1 - Y))
# Two classes, of which class 0 lies in cluster 0 but for a few rows in no cluster.
ONE_CLASS = np.where(Y == 0, np.where(np.arange(80) < 16, -1, 0), HALVES)


@pytest.mark.parametrize(
    "category, words, act, args",
    [
        (ClusteringWarning, "^All samples lie in one cluster.*Use more", retrain_on, (0 * Y,)),
        (ClusteringWarning, "^Each of 2 classes lies in one cluster", retrain_on, (Y,)),
        (ClusteringWarning, r"^1 of 2 classes \(\[0\]\) lie in one cluster.*more", retrain_on, (ONE_CLASS,)),
        (
            ClusteringWarning,
            "^The neighbor graph falls into 13 connected components.*Raise `n_neighbors`",
            EigengapSpectralClustering(n_neighbors=5).fit,
            (PIECES,),
        ),
        (
            ClusteringWarning,
            "^All 30 rows are identical",
            EigengapSpectralClustering().fit,
            (np.ones((30, 3)),),
        ),
        (ClusteringWarning, "^The clusters of.*Ask for fewer", LABELER.fit, (NOISE, np.arange(300) % 2)),
        (ClusteringWarning, "^The clusters of.*do not trust.*Ask for fewer", resample, ()),
        (PredictionWarning, "gets all 80 training samples right", RIGHT.fit, (EMBEDDING, Y)),
        (PredictionWarning, "gets all 80 training samples wrong", WRONG.fit, (EMBEDDING, Y)),
    ],
)
def test_a_warning_can_be_silenced_and_turned_into_an_error(category, words, act, args):
    check_warning(category, words, act, *args)


def test_two_clusters_in_each_class_are_not_warned_of():
    assert not warnings_of(retrain_on, HALVES)


@pytest.mark.parametrize("transformer", [HeatmapTransformer(size=4), EmbeddingTransformer()], ids=str)
def test_a_frozen_net_with_one_answer_is_warned_of(transformer, blind_net, images):
    transformer = clone(transformer).set_params(model=blind_net)
    words = (
        r"The frozen model \(Sequential\) predicts the same class \(swan\) for all 60 .*weights were loaded"
    )
    check_warning(PredictionWarning, words, transformer.fit_transform, *images)


def test_a_retrained_layer_with_one_answer_is_warned_of(exmap, images):
    strategy = DFRClassifier(C=1e-6, n_retrains=1, balance="reweight", min_group_size=1)
    y = np.r_[np.zeros(30, dtype=int), np.arange(30) % 2]
    words = "DFRClassifier predicts the same class.*Weaken the penalty"
    check_warning(PredictionWarning, words, exmap.set_params(strategy=strategy).fit, images[0], y)


class TestWhenTheFrozenNetIsWarnedOf:
    def messages(self, act, *args):
        caught = warnings_of(act, *args)
        return [str(warning.message) for warning in caught if warning.category is PredictionWarning]

    def test_a_pipeline_and_the_classifier_warn_once(self, pipe, exmap, blind_net, images):
        for model in (pipe, exmap):
            (message,) = self.messages(model.fit, *images)
            assert message.startswith("The frozen model")

    def test_images_of_one_class_may_all_get_the_same_answer(self, blind_net, images):
        X, y = images
        transformer = HeatmapTransformer(blind_net, size=4)
        assert not self.messages(transformer.fit_transform, X, np.full(60, "swan"))
        assert not self.messages(transformer.fit_transform, X)
        assert not self.messages(lambda: transformer.fit(X, y).transform(X[y == "swan"]))

    def test_one_other_answer_is_enough(self, net, images):
        X, y = images
        with torch.no_grad():
            logits = net(torch.as_tensor(X))
            margins = (logits[:, 1] - logits[:, 0]).sort().values
            # Between the two images that look most like ducks.
            net[7].bias[0] += (margins[0] + margins[1]) / 2
            assert_array_equal(np.bincount(net(torch.as_tensor(X)).argmax(1)), [1, 59])
        assert not self.messages(HeatmapTransformer(net, size=4, batch_size=7).fit_transform, X, y)

    @pytest.mark.parametrize(
        "params",
        [
            {"attribution": LRP(target=0)},
            {"attribution": LRP(target=1)},
            {"attribution": lambda model, images, targets: images},
            {"attribution": LRP(layer="4")},
        ],
        ids=["class 0", "class 1", "a callable", "a layer"],
    )
    def test_the_explained_class_and_the_attribution_do_not_matter(self, params, blind_net, images):
        transformer = HeatmapTransformer(blind_net, size=4, **params)
        assert len(self.messages(transformer.fit_transform, *images)) == 1

    def test_a_net_with_one_logit_has_two_answers(self, images):
        X, y = images
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 1))
        with torch.no_grad():
            net[1].bias -= net(torch.as_tensor(X)).median()
        assert not self.messages(EmbeddingTransformer(net).fit_transform, X, y)
        with torch.no_grad():
            net[1].bias -= 100
        (message,) = self.messages(EmbeddingTransformer(net).fit_transform, X, y)
        assert "(duck)" in message

    def test_cached_heatmaps_do_not_hide_it(self, blind_net, images, tmp_path):
        transformer = HeatmapTransformer(blind_net, size=4, cache=tmp_path)
        for _ in range(2):
            assert len(self.messages(transformer.fit_transform, *images)) == 1

    def test_the_output_of_a_named_layer_is_not_an_answer(self, blind_net, images):
        assert not self.messages(EmbeddingTransformer(blind_net, layer="3").fit_transform, *images)
