"""Every warning of skexmap: a user meets it, can silence it and can turn it into an error by its category."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.cluster import KMeans
from small_pipeline import make_images, make_net, make_pipe

import skexmap.exceptions
from skexmap import (
    DFRClassifier,
    EigengapSpectralClustering,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
)
from skexmap._blocks import make_blocks
from skexmap.cluster import cluster_stability
from skexmap.exceptions import (
    ConstantInputWarning,
    ConstantPredictionWarning,
    DisconnectedGraphWarning,
    ErrorSetWarning,
    IrreproducibleClustersWarning,
    OneClusterWarning,
    SkexmapWarning,
)
from skexmap.lrp import LRP
from skexmap.retraining import JTTReweighter

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((300, 20))
TWO_BLOBS = RNG.standard_normal((80, 4)) + 20 * (np.arange(80) % 2)[:, None]
# Each class in both blobs.
Y = np.arange(80) // 2 % 2
BLOCKS = make_blocks(embedding=TWO_BLOBS, heatmap=TWO_BLOBS.reshape(80, 1, 2, 2))
DFR = DFRClassifier(n_retrains=1, min_group_size=1, random_state=0)


class Answers:
    """A classifier that was told its answers."""

    def __init__(self, answers=None):
        self.answers = answers

    def fit(self, X, y):
        return self

    def predict(self, X):
        return self.answers

    def get_params(self, deep=True):
        return {"answers": self.answers}

    def set_params(self, **params):
        return self


def blind_net():
    """Return a net that answers "swan" to everything."""
    net = make_net()
    with torch.no_grad():
        net[7].bias[1] += 100
    return net


def fit_on_clusters(clusters, y=Y):
    DFR.fit(make_blocks(embedding=TWO_BLOBS, cluster=np.asarray(clusters)), y)


def thirteen_pieces():
    rows = np.repeat(1000.0 * np.arange(13), 10)[:, None] + np.random.default_rng(0).random((130, 2))
    EigengapSpectralClustering(n_neighbors=5).fit(rows)


def retrained_to_one_answer():
    X, _ = make_images()
    y = np.r_[np.zeros(30, dtype=int), np.arange(30) % 2]
    clusterer = PseudoGroupLabeler(EigengapSpectralClustering(2), merge_alpha=None)
    strategy = DFRClassifier(C=1e-6, n_retrains=1, balance="reweight", min_group_size=1)
    ExMapClassifier(make_net(), clusterer=clusterer, strategy=strategy).fit(X, y)


# What an ordinary user does, and the category and words with which it is answered.
MET = {
    "all rows in one cluster": (
        OneClusterWarning,
        "Ask for more",
        lambda: fit_on_clusters(np.zeros(80, dtype=int)),
    ),
    "a class in one cluster": (
        OneClusterWarning,
        r"1 of 2 classes \(\[0\]\).*Ask for more",
        lambda: fit_on_clusters(Y * (np.arange(80) % 2)),
    ),
    "a graph in pieces": (
        DisconnectedGraphWarning,
        "13 connected components.*Raise `n_neighbors`",
        thirteen_pieces,
    ),
    "k-means on noise, in a labeler": (
        IrreproducibleClustersWarning,
        "Ask for fewer",
        lambda: PseudoGroupLabeler(KMeans(8, n_init=1, random_state=0), merge_alpha=None).fit(
            NOISE, np.arange(300) % 2
        ),
    ),
    "clusters of noise, resampled": (
        IrreproducibleClustersWarning,
        "do not trust.*Ask for fewer",
        lambda: cluster_stability(EigengapSpectralClustering(), NOISE, n_resamples=3, random_state=0),
    ),
    "a frozen net with one answer": (
        ConstantPredictionWarning,
        r"The frozen model \(Sequential\) predicts the same class \(swan\) for all 60 samples.*weights were loaded",
        lambda: HeatmapTransformer(blind_net(), size=4).fit_transform(*make_images()),
    ),
    "a frozen net with one answer, embedded": (
        ConstantPredictionWarning,
        "The frozen model",
        lambda: EmbeddingTransformer(blind_net()).fit_transform(*make_images()),
    ),
    "a retrained layer with one answer": (
        ConstantPredictionWarning,
        "DFRClassifier predicts the same class.*Weaken the penalty",
        retrained_to_one_answer,
    ),
    "identical rows": (
        ConstantInputWarning,
        "All 30 rows are identical",
        lambda: EigengapSpectralClustering().fit(np.ones((30, 3))),
    ),
    "a model without errors": (
        ErrorSetWarning,
        "gets all 80 training samples right",
        lambda: JTTReweighter(reference_estimator=Answers(Y)).fit(TWO_BLOBS, Y),
    ),
    "a model without a right answer": (
        ErrorSetWarning,
        "gets all 80 training samples wrong",
        lambda: JTTReweighter(reference_estimator=Answers(1 - Y)).fit(TWO_BLOBS, Y),
    ),
}
NAMED = [getattr(skexmap.exceptions, name) for name in skexmap.exceptions.__all__]
CATEGORIES = {category for category in NAMED if issubclass(category, Warning)} - {SkexmapWarning}


def of_category(caught, category):
    return [w for w in caught if issubclass(w.category, category)]


@pytest.mark.parametrize("what", MET)
def test_a_warning_is_raised_and_says_what_to_do(what):
    category, words, act = MET[what]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    warning, *_ = of_category(caught, category)
    with pytest.warns(category, match=f"(?s){words}"):
        warnings.warn(warning.message, warning.category)


@pytest.mark.parametrize("what", MET)
def test_a_warning_can_be_silenced_by_its_category(what):
    category, _, act = MET[what]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", category)
        act()
    assert not of_category(caught, category)


@pytest.mark.parametrize("what", MET)
def test_a_warning_can_be_made_an_error_by_its_category(what):
    category, _, act = MET[what]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", category)
        with pytest.raises(category):
            act()


@pytest.mark.parametrize("what", MET)
def test_a_warning_can_be_silenced_with_all_others_of_skexmap(what):
    _, _, act = MET[what]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SkexmapWarning)
        act()


def test_every_warning_category_has_a_case_in_this_file():
    assert {category for category, _, _ in MET.values()} == CATEGORIES
    assert all(issubclass(category, SkexmapWarning) for category in CATEGORIES)


DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.skipif(not DOCS.exists(), reason="the docs are not beside the tests")
def test_every_warning_category_is_in_the_table_of_the_documentation():
    rows = [line for line in (DOCS / "sklearn.md").read_text().splitlines() if line.startswith("| `")]
    named = [row.split("`")[1] for row in rows if row.split("`")[1].endswith("Warning")]
    assert sorted(named) == sorted(category.__name__ for category in CATEGORIES)
    # What was seen, and what to do.
    assert all(len(row.split(" | ")) == 3 for row in rows if "Warning" in row.split(" | ")[0])


class TestOneAnswerOfTheFrozenNet:
    """When a net that always says the same is worth a word."""

    @pytest.fixture
    def images(self):
        return make_images()

    @pytest.fixture(autouse=True)
    def others_are_silent(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkexmapWarning)
            yield

    def warned(self, act):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            act()
        return [str(w.message) for w in of_category(caught, ConstantPredictionWarning)]

    def test_it_is_met_once_in_a_pipeline_and_in_the_classifier(self, images):
        clusterer = PseudoGroupLabeler(KMeans(2, n_init=10, random_state=0), merge_alpha=None)
        for model in (
            make_pipe(blind_net()),
            ExMapClassifier(blind_net(), clusterer=clusterer, strategy=DFR),
        ):
            told = self.warned(lambda model=model: model.fit(*images))
            assert [message.startswith("The frozen model") for message in told] == [True]

    def test_images_of_one_class_may_all_get_it(self, images):
        X, y = images
        transformer = HeatmapTransformer(blind_net(), size=4)
        assert not self.warned(lambda: transformer.fit_transform(X, np.full(60, "swan")))
        assert not self.warned(lambda: transformer.fit_transform(X))
        assert not self.warned(lambda: transformer.fit(X, y).transform(X[y == "swan"]))

    def test_one_other_answer_is_enough(self, images):
        X, y = images
        net = make_net()
        with torch.no_grad():
            logits = net(torch.as_tensor(X))
            margins = (logits[:, 1] - logits[:, 0]).sort().values
            # Between the two images that look most like ducks.
            net[7].bias[0] += (margins[0] + margins[1]) / 2
            assert_array_equal(np.bincount(net(torch.as_tensor(X)).argmax(1)), [1, 59])
        assert not self.warned(lambda: HeatmapTransformer(net, size=4, batch_size=7).fit_transform(X, y))

    def test_it_does_not_hang_on_what_is_explained_or_how(self, images):
        def pixels(model, images, targets):
            return images

        for params in (
            {"target": 0},
            {"target": 1},
            {"attribution": pixels},
            {"attribution": LRP(layer="4")},
        ):
            transformer = HeatmapTransformer(blind_net(), size=4, **params)
            assert len(self.warned(lambda transformer=transformer: transformer.fit_transform(*images))) == 1

    def test_a_net_with_one_logit_has_two_answers(self, images):
        X, y = images
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 1))
        with torch.no_grad():
            net[1].bias -= net(torch.as_tensor(X)).median()
        assert not self.warned(lambda: EmbeddingTransformer(net).fit_transform(X, y))
        with torch.no_grad():
            net[1].bias -= 100
        (told,) = self.warned(lambda: EmbeddingTransformer(net).fit_transform(X, y))
        assert "(duck)" in told

    def test_cached_heatmaps_do_not_hide_it(self, images, tmp_path):
        transformer = HeatmapTransformer(blind_net(), size=4, memory=str(tmp_path))
        for _ in range(2):
            assert len(self.warned(lambda: transformer.fit_transform(*images))) == 1

    def test_what_a_named_layer_gives_is_no_answer(self, images):
        net = blind_net()
        assert not self.warned(lambda: EmbeddingTransformer(net, layer="3").fit_transform(*images))
