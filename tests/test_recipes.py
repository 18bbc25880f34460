"""The two recipes: what they set and where, that both front doors follow them, and what the published one gives."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from small_pipeline import make_images, make_net

from skexmap import (
    DFRClassifier,
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
DFR = DFRClassifier(n_retrains=2, min_group_size=1, random_state=0)


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def failing(net):
    """Return images, labels that the net gets wrong where the image is bright, and what it predicts."""
    X, _ = make_images(180)
    with torch.no_grad():
        predicted = net(torch.as_tensor(X)).argmax(1).numpy()
    bright = np.arange(180) % 3 == 0
    wrong = bright | (np.random.default_rng(2).uniform(size=180) < 0.1)
    return X, np.array(["duck", "swan"])[np.where(wrong, 1 - predicted, predicted)], predicted


def small(**params):
    return HeatmapTransformer(size=4, **params)


def front_doors(net, **params):
    return ExMapClassifier(net, **params), make_exmap_pipeline(net, **params)


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
        for ours, published in zip(
            steps_of(make_exmap_pipeline(net)),
            steps_of(make_exmap_pipeline(net, recipe="published")),
            strict=True,
        ):
            changed = {
                name: value
                for name, value in published.get_params().items()
                if name not in ("model", "clusterer") and value != ours.get_params()[name]
            }
            expected = {
                HeatmapTransformer: {"evidence": "signed"},
                PseudoGroupLabeler: {"merge_alpha": None},
                DFRClassifierCV: {"tuning": "published"},
            }
            assert changed == expected[type(ours)]

    def test_it_reaches_given_steps_and_what_is_nested_in_them_but_changes_no_argument(self, net, failing):
        X, y, _ = failing
        heatmaps = small(evidence="magnitude")
        labeler = PseudoGroupLabeler(FIVE, merge_alpha=0.05)
        head = DFRClassifierCV(Cs=(1.0,), n_retrains=1, n_splits=2, min_group_size=1, random_state=0)
        search = GridSearchCV(head, {"n_retrains": [1]}, cv=2)
        for model in front_doors(
            net, heatmaps=heatmaps, clusterer=labeler, strategy=search, recipe="published", random_state=0
        ):
            transformer, fitted, strategy = steps_of(model.fit(X, y))
            assert transformer.evidence == "signed"
            assert fitted.merge_alpha is None
            assert fitted.n_clusters_ == 5
            assert strategy.estimator.tuning == strategy.best_estimator_.tuning == "published"
        assert (heatmaps.evidence, labeler.merge_alpha, head.tuning) == ("magnitude", 0.05, "stratified")

    def test_steps_without_the_parameters_are_left_alone(self, net, failing):
        X, y, _ = failing
        for model in front_doors(
            net, heatmaps=small(), clusterer=EIILLabeler(), strategy=ERMClassifier(), recipe="published"
        ):
            assert model.fit(X, y).predict(X).shape == (180,)

    @pytest.mark.parametrize("recipe", ["paper", None, "Default"])
    def test_an_unknown_recipe_is_refused_by_both_front_doors(self, net, failing, recipe):
        X, y, _ = failing
        with pytest.raises(ValueError, match=r"`recipe` must be one of \['default', 'published'\]"):
            make_exmap_pipeline(net, recipe=recipe)
        with pytest.raises(ValueError, match="'recipe' parameter of ExMapClassifier"):
            ExMapClassifier(net, recipe=recipe).fit(X, y)

    def test_an_unknown_scope_is_refused_by_both_front_doors(self, net, failing):
        X, y, _ = failing
        with pytest.raises(ValueError, match="`scope` must be one of"):
            make_exmap_pipeline(net, scope="class")
        with pytest.raises(ValueError, match="'scope' parameter of ExMapClassifier"):
            ExMapClassifier(net, scope="class").fit(X, y)


class TestBothFrontDoors:
    @pytest.mark.parametrize("recipe", ["default", "published"])
    @pytest.mark.parametrize("scope", ["global", "local"])
    def test_they_find_the_same_groups_and_coefficients(self, net, failing, recipe, scope):
        X, y, _ = failing
        strategy = DFRClassifierCV(Cs=(1.0, 0.3), n_retrains=2, n_splits=3, min_group_size=1)
        classifier, pipe = front_doors(
            net,
            heatmaps=small(),
            clusterer=KMeans(8, n_init=3),
            scope=scope,
            strategy=strategy,
            recipe=recipe,
            random_state=0,
        )
        classifier.fit(X, y)
        pipe.fit(X, y)
        assert_array_equal(pipe["clusterer"].group_labels_, classifier.group_labels_)
        assert (
            len(pipe["clusterer"].merges_)
            == len(classifier.labeler_.merges_)
            == (2 if scope == "local" else 1)
        )
        assert any(pipe["clusterer"].merges_) == (recipe == "default")
        assert pipe["clusterer"].merges_ == classifier.labeler_.merges_
        assert pipe["strategy"].C_ == classifier.strategy_.C_
        assert_allclose(pipe["strategy"].coef_, classifier.strategy_.coef_, rtol=1e-5, atol=1e-7)
        assert_allclose(pipe.decision_function(X), classifier.decision_function(X), rtol=1e-4, atol=1e-5)

    def test_clusters_on_which_the_net_behaves_alike_are_merged(self, net, failing):
        X, y, predicted = failing
        for model in front_doors(net, heatmaps=small(evidence="signed"), clusterer=FIVE, strategy=DFR):
            transformer, labeler, _ = steps_of(model.fit(X, y))
            # Signed maps differ most by the class that they explain; within it the net behaves alike.
            assert_array_equal(labeler.cluster_labels_, predicted)
            assert len(labeler.merges_[0]) == 3
            blocks = transformer.transform(X)
            assert_array_equal(labeler.predict_groups(blocks, y), labeler.group_labels_)
            assert_array_equal(labeler.transform(blocks)["cluster"], labeler.cluster_labels_)
            assert_array_equal(blocks["predicted"], predicted)

    @pytest.mark.parametrize("names", [(3, 8), (-1, 1), ("duck", "swan")])
    def test_what_the_labels_are_called_changes_nothing(self, net, failing, names):
        X, y, _ = failing
        y = np.array(names)[(y == "swan").astype(int)]
        for model in front_doors(net, heatmaps=small(evidence="signed"), clusterer=FIVE, strategy=DFR):
            labeler = steps_of(model.fit(X, y))[1]
            assert_array_equal(np.bincount(labeler.group_labels_), [34, 7, 64, 75])

    def test_embeddings_are_merged_without_a_heatmap(self, net, failing, monkeypatch):
        X, y, _ = failing
        labeler = PseudoGroupLabeler(FIVE, block="embedding")
        pipe = make_exmap_pipeline(net, heatmaps=small(), clusterer=labeler, strategy=DFR).fit(X, y)

        def refuse(*args):
            raise AssertionError("a heatmap was computed")

        monkeypatch.setattr(HeatmapTransformer, "_attribute", refuse)
        classifier = ExMapClassifier(net, heatmaps=small(), clusterer=labeler, strategy=DFR).fit(X, y)
        assert classifier.labeler_.merges_ == pipe["clusterer"].merges_ != [[]]
        assert_array_equal(classifier.group_labels_, pipe["clusterer"].group_labels_)
        assert_array_equal(classifier.predict_groups(X, y), classifier.group_labels_)

    def test_strings_of_fewer_classes_than_logits_are_refused_with_the_way_out(self, failing):
        X, y, _ = failing
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(300, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )
        for model in front_doors(net, heatmaps=small(), clusterer=FIVE, strategy=DFR):
            with pytest.raises(
                ValueError, match=r"logits do not belong to the 2 classes in y.*merge_alpha=None"
            ):
                model.fit(X, y)
        # Numbers are taken for the logits' own.
        classifier, pipe = front_doors(net, heatmaps=small(), clusterer=FIVE, strategy=DFR)
        numbers = np.where(y == "swan", 2, 0)
        assert_array_equal(
            classifier.fit(X, numbers).group_labels_, pipe.fit(X, numbers)["clusterer"].group_labels_
        )

    @pytest.mark.parametrize("container", ["pandas", "polars"])
    # Columns are float32, which does not tell these dates apart.
    @pytest.mark.parametrize("names", [("duck", "swan"), (20261125, 20261126)])
    def test_data_frames_give_the_same_groups(self, net, failing, container, names):
        pytest.importorskip(container)
        X, y, _ = failing
        y = np.array(names)[(y == "swan").astype(int)]
        pipe = make_exmap_pipeline(net, heatmaps=small(), clusterer=FIVE, strategy=DFR)
        expected = clone(pipe).fit(X, y)
        pipe.set_output(transform=container).fit(X, y)
        assert expected["clusterer"].merges_ != [[]]
        assert pipe["clusterer"].merges_ == expected["clusterer"].merges_
        assert_array_equal(pipe["clusterer"].group_labels_, expected["clusterer"].group_labels_)
        assert_array_equal(pipe.predict(X), expected.predict(X))

    def test_a_search_over_alpha_reaches_the_labeler(self, net, failing):
        X, y, _ = failing
        pipe = make_exmap_pipeline(net, heatmaps=small(), clusterer=FIVE, strategy=DFR)
        search = GridSearchCV(pipe, {"clusterer__merge_alpha": [None, 0.01]}, cv=2, error_score="raise").fit(
            X, y
        )
        assert len(search.cv_results_["mean_test_score"]) == 2


class TestThreeLiteralSteps:
    def literal(self, net, clusterer):
        return Pipeline(
            [
                ("heatmaps", HeatmapTransformer(net, size=4, return_embedding=True)),
                ("clusterer", clusterer),
                ("strategy", DFR),
            ]
        )

    def test_a_clusterer_alone_merges_nothing_and_a_labeler_does(self, net, failing):
        X, y, _ = failing
        plain = self.literal(net, EigengapSpectralClustering()).fit(X, y)
        merged = self.literal(net, PseudoGroupLabeler()).fit(X, y)
        labels, labeler = plain["clusterer"].labels_, merged["clusterer"]
        assert labels.max() + 1 == len(labeler.merged_into_[0]) > labeler.n_clusters_
        assert_array_equal(labeler.cluster_labels_, labeler.merged_into_[0][labels])
        assert plain.predict(X).shape == merged.predict(X).shape == (180,)
        made = make_exmap_pipeline(net, heatmaps=small(), strategy=DFR).fit(X, y)
        assert_array_equal(made["clusterer"].group_labels_, labeler.group_labels_)
        assert_allclose(made["strategy"].coef_, merged["strategy"].coef_, rtol=1e-5, atol=1e-7)

    def test_a_labeler_after_heatmaps_without_embedding_asks_for_it(self, net, failing):
        X, y, _ = failing
        pipe = self.literal(net, PseudoGroupLabeler()).set_params(heatmaps__return_embedding=False)
        with pytest.raises(ValueError, match="return_embedding=True"):
            pipe.fit(X, y)


# What ExMapClassifier gave before there were recipes, on the images of `published`, with size=4 and random_state=0.
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


class TestPublishedRecipe:
    @pytest.mark.parametrize("door", ["classifier", "pipeline"])
    def test_it_gives_what_the_code_before_the_recipes_gave(self, net, door):
        X, _ = make_images(240)
        y = np.where(np.random.default_rng(1).uniform(size=240) < 0.5, "duck", "swan")
        classifier, pipe = front_doors(net, heatmaps=small(), recipe="published", random_state=0)
        model = (classifier if door == "classifier" else pipe).fit(X, y)
        _, labeler, strategy = steps_of(model)
        assert np.bincount(labeler.group_labels_).tolist() == GROUP_SIZES
        assert "".join(map(str, labeler.group_labels_)) == GROUPS
        assert strategy.C_ == 1
        assert_allclose(strategy.scores_, SCORES, rtol=1e-6)
        assert_allclose(strategy.coef_[0, :8], COEF, rtol=1e-3)
        assert_allclose(strategy.intercept_, INTERCEPT, rtol=1e-3)
        assert_allclose(model.decision_function(X[:8]), DECISIONS, rtol=1e-3)
