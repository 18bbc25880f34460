"""The two recipes: what they set, and that ExMapClassifier and make_exmap_pipeline find the same with them."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skexmap import (
    DFRClassifierCV,
    EigengapSpectralClustering,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
    make_exmap_pipeline,
)
from skexmap.retraining import EIILLabeler, ERMClassifier

pytestmark = pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")

FIVE = KMeans(5, n_init=5, random_state=0)


@pytest.fixture
def failing(net, make_images):
    """Return images, labels that the net gets wrong if the image is bright, and what it predicts."""
    X, _ = make_images(180)
    with torch.no_grad():
        predicted = net(torch.as_tensor(X)).argmax(1).numpy()
    bright = np.arange(180) % 3 == 0
    wrong = bright | (np.random.default_rng(2).uniform(size=180) < 0.1)
    return X, np.array(["duck", "swan"])[np.where(wrong, 1 - predicted, predicted)], predicted


@pytest.fixture(params=[ExMapClassifier, make_exmap_pipeline], ids=lambda make: make.__name__)
def make_model(request):
    """ExMapClassifier or make_exmap_pipeline, with small heatmaps."""

    def make(net, **params):
        return request.param(net, **{"heatmaps": HeatmapTransformer(size=4), **params})

    return make


def steps_of(fitted):
    """Return the fitted heatmaps, labeler and strategy of a pipeline or a classifier."""
    if isinstance(fitted, Pipeline):
        return [fitted[name] for name in ("heatmaps", "clusterer", "strategy")]
    return [fitted.transformer_, fitted.labeler_, fitted.strategy_]


class TestWhatARecipeSets:
    def test_the_default_recipe_is_the_defaults_of_the_steps(self, net):
        heatmaps, labeler, strategy = steps_of(make_exmap_pipeline(net))
        assert repr(heatmaps.set_params(model=None)) == "HeatmapTransformer(return_embedding=True)"
        assert repr(labeler) == "PseudoGroupLabeler(clusterer=EigengapSpectralClustering())"
        assert repr(strategy) == "DFRClassifierCV()"
        assert (heatmaps.evidence, labeler.merge_alpha, strategy.tuning) == ("magnitude", 0.05, "stratified")

    def test_the_published_recipe_sets_three_parameters_and_no_other(self, net):
        heatmaps, labeler, strategy = steps_of(make_exmap_pipeline(net, recipe="published"))
        expected = "HeatmapTransformer(evidence='signed', return_embedding=True)"
        assert repr(heatmaps.set_params(model=None)) == expected
        expected = "PseudoGroupLabeler(clusterer=EigengapSpectralClustering(), merge_alpha=None)"
        assert " ".join(repr(labeler).split()) == expected
        assert repr(strategy) == "DFRClassifierCV(tuning='published')"

    def test_a_recipe_reaches_given_steps_and_what_is_nested_in_them_but_changes_no_argument(
        self, make_model, net, failing
    ):
        X, y, _ = failing
        heatmaps = HeatmapTransformer(size=4, evidence="magnitude")
        labeler = PseudoGroupLabeler(FIVE, merge_alpha=0.05)
        head = DFRClassifierCV(Cs=(1.0,), n_retrains=1, n_splits=2, min_group_size=1, random_state=0)
        search = GridSearchCV(head, {"n_retrains": [1]}, cv=2)
        model = make_model(net, heatmaps=heatmaps, clusterer=labeler, strategy=search, recipe="published")
        transformer, fitted, strategy = steps_of(model.fit(X, y))
        assert transformer.evidence == "signed"
        assert fitted.merge_alpha is None
        assert fitted.n_clusters_ == 5
        assert strategy.estimator.tuning == strategy.best_estimator_.tuning == "published"
        assert (heatmaps.evidence, labeler.merge_alpha, head.tuning) == ("magnitude", 0.05, "stratified")

    def test_a_recipe_leaves_steps_without_its_parameters_alone(self, make_model, net, failing):
        X, y, _ = failing
        model = make_model(net, clusterer=EIILLabeler(), strategy=ERMClassifier(), recipe="published")
        assert model.fit(X, y).predict(X).shape == (180,)

    @pytest.mark.parametrize(
        "params",
        [{"recipe": "paper"}, {"recipe": None}, {"scope": "class"}, {"clusterer": 3}, {"heatmaps": KMeans()}],
        ids=str,
    )
    def test_the_classifier_and_the_pipeline_refuse_unusable_parameters(
        self, make_model, net, failing, params
    ):
        with pytest.raises(
            ValueError, match=rf"'{next(iter(params))}' parameter of (ExMapC|make_exmap_p)\w+ must"
        ):
            make_model(net, **params).fit(*failing[:2])


class TestMerging:
    @pytest.mark.parametrize("recipe", ["default", "published"])
    @pytest.mark.parametrize("scope, n_labelings", [("global", 1), ("local", 2)])
    def test_the_classifier_and_the_pipeline_find_the_same_groups_and_coefficients(
        self, net, failing, recipe, scope, n_labelings
    ):
        X, y, _ = failing
        params = {
            "heatmaps": HeatmapTransformer(size=4),
            "clusterer": KMeans(8, n_init=3),
            "scope": scope,
            "strategy": DFRClassifierCV(Cs=(1.0, 0.3), n_retrains=2, n_splits=3, min_group_size=1),
            "recipe": recipe,
            "random_state": 0,
        }
        classifier = ExMapClassifier(net, **params).fit(X, y)
        pipe = make_exmap_pipeline(net, **params).fit(X, y)
        _, labeler, strategy = steps_of(pipe)
        assert_array_equal(labeler.group_labels_, classifier.group_labels_)
        assert labeler.merges_ == classifier.labeler_.merges_
        assert len(labeler.merges_) == n_labelings
        assert any(labeler.merges_) == (recipe == "default")
        assert strategy.C_ == classifier.strategy_.C_
        assert_allclose(strategy.coef_, classifier.strategy_.coef_, rtol=1e-5, atol=1e-7)
        assert_allclose(pipe.decision_function(X), classifier.decision_function(X), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("names", [("duck", "swan"), (3, 8), (-1, 1)])
    def test_clusters_on_which_the_net_behaves_alike_are_merged_whatever_the_classes_are_called(
        self, names, make_model, net, dfr, failing
    ):
        X, y, predicted = failing
        y = np.array(names)[(y == "swan").astype(int)]
        heatmaps = HeatmapTransformer(size=4, evidence="signed")
        model = make_model(net, heatmaps=heatmaps, clusterer=FIVE, strategy=dfr)
        transformer, labeler, _ = steps_of(model.fit(X, y))
        # Signed maps differ most by the class that they explain; within it the net behaves alike.
        assert_array_equal(labeler.cluster_labels_, predicted)
        assert len(labeler.merges_[0]) == 3
        assert_array_equal(np.bincount(labeler.group_labels_), [34, 7, 64, 75])
        blocks = transformer.transform(X)
        assert_array_equal(labeler.predict_groups(blocks, y), labeler.group_labels_)
        assert_array_equal(labeler.transform(blocks)["cluster"], labeler.cluster_labels_)

    def test_the_classifier_merges_clusters_of_embeddings_without_a_heatmap(self, net, dfr, failing, passes):
        X, y, _ = failing
        params = {"clusterer": PseudoGroupLabeler(FIVE, block="embedding"), "strategy": dfr}
        classifier = ExMapClassifier(net, **params).fit(X, y)
        assert passes == []
        labeler = make_exmap_pipeline(net, **params).fit(X, y)["clusterer"]
        assert classifier.labeler_.merges_ == labeler.merges_ != [[]]
        assert_array_equal(classifier.group_labels_, labeler.group_labels_)
        assert_array_equal(classifier.predict_groups(X, y), classifier.group_labels_)

    def test_labels_of_fewer_classes_than_logits_must_be_the_numbers_of_the_logits(
        self, make_model, dfr, failing
    ):
        X, y, _ = failing
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(300, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )
        model = make_model(net, clusterer=FIVE, strategy=dfr)
        with pytest.raises(
            ValueError, match=r"2 classes in y.*`classes` .*ExMapClassifier.*merge_alpha=None"
        ):
            model.fit(X, y)
        labeler = steps_of(model.fit(X, np.where(y == "swan", 2, 0)))[1]
        assert_array_equal(labeler.classes_, [0, 2])

    @pytest.mark.parametrize("container", ["pandas", "polars"])
    # Columns are float32, which does not tell these dates apart.
    @pytest.mark.parametrize("names", [("duck", "swan"), (20261125, 20261126)])
    def test_data_frames_between_the_steps_change_nothing(self, net, dfr, failing, container, names):
        frames = pytest.importorskip(container)
        X, y, _ = failing
        y = np.array(names)[(y == "swan").astype(int)]
        pipe = make_exmap_pipeline(net, heatmaps=HeatmapTransformer(size=4), clusterer=FIVE, strategy=dfr)
        expected = clone(pipe).fit(X, y)
        pipe.set_output(transform=container).fit(X, y)
        assert expected["clusterer"].merges_ != [[]]
        assert pipe["clusterer"].merges_ == expected["clusterer"].merges_
        assert_array_equal(pipe["clusterer"].group_labels_, expected["clusterer"].group_labels_)
        assert_array_equal(pipe.predict(X), expected.predict(X))
        assert_allclose(pipe["strategy"].coef_, expected["strategy"].coef_, rtol=1e-5)
        blocks = pipe[:-1].transform(X)
        assert isinstance(blocks, frames.DataFrame)
        names = [*[f"embedding_{i}" for i in range(24)], "predicted_0", "cluster_0"]
        assert list(blocks.columns) == list(expected[:-1].get_feature_names_out()) == names

    def test_a_clusterer_alone_merges_nothing_and_a_labeler_does(self, net, dfr, failing):
        X, y, _ = failing

        def fitted(clusterer):
            heatmaps = HeatmapTransformer(net, size=4, return_embedding=True)
            steps = [("heatmaps", heatmaps), ("clusterer", clusterer), ("strategy", clone(dfr))]
            return Pipeline(steps).fit(X, y)

        plain, merged = fitted(EigengapSpectralClustering()), fitted(PseudoGroupLabeler())
        labels, labeler = plain["clusterer"].labels_, merged["clusterer"]
        assert labels.max() + 1 == len(labeler.merged_into_[0]) > labeler.n_clusters_
        assert_array_equal(labeler.cluster_labels_, labeler.merged_into_[0][labels])
        params = {"heatmaps": HeatmapTransformer(size=4), "strategy": dfr}
        coef = make_exmap_pipeline(net, **params).fit(X, y)["strategy"].coef_
        assert_allclose(coef, merged["strategy"].coef_, rtol=1e-5, atol=1e-7)
        params["clusterer"] = PseudoGroupLabeler(merge_alpha=None)
        coef = make_exmap_pipeline(net, **params).fit(X, y)["strategy"].coef_
        assert_allclose(coef, plain["strategy"].coef_, rtol=1e-5, atol=1e-7)


# What ExMapClassifier gave before there were recipes, with size=4 and random_state=0.
GROUP_SIZES = [55, 39, 22, 54, 41, 29]
GROUPS = (
    "450400403133150120123103455103403433150153403433135423103430103430155400405153435132403100402100"
    "130430433152402125402130453100120105453453432120430450420403122405433103135130130152420400403455"
    "132100105133453130155433103423132400100423435432"
)
SCORES = [0.35190476, 0.32190476, 0.30761905, 0, 0, 0, 0]
DECISIONS = [
    *(-0.38958159, 1.27718975, -0.75972425, 0.42955676),
    *(-0.93515712, 0.05919489, 0.71573177, 0.41085114),
]
COEF = [11.2323047, -0.222759416, -15.3347826, 1.29314812, -20.6421852, -153.337084, 90.3018448, -65.3773004]
INTERCEPT = 0.40137513


def test_the_published_recipe_gives_what_the_code_before_the_recipes_gave(make_model, net, make_images):
    X, _ = make_images(240)
    y = np.where(np.random.default_rng(1).uniform(size=240) < 0.5, "duck", "swan")
    model = make_model(net, recipe="published", random_state=0).fit(X, y)
    _, labeler, strategy = steps_of(model)
    assert np.bincount(labeler.group_labels_).tolist() == GROUP_SIZES
    assert "".join(map(str, labeler.group_labels_)) == GROUPS
    assert strategy.C_ == 1
    assert_allclose(strategy.scores_, SCORES, rtol=1e-6)
    assert_allclose(strategy.coef_[0, :8], COEF, rtol=1e-3)
    assert_allclose(strategy.intercept_, INTERCEPT, rtol=1e-3)
    assert_allclose(model.decision_function(X[:8]), DECISIONS, rtol=1e-3)
