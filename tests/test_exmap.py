"""ExMapClassifier: what it finds, what its calls cost, and that it agrees with its pipeline and its parts."""

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skexmap import (
    DFRClassifier,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    export_model,
    make_exmap_pipeline,
)
from skexmap._blocks import make_blocks
from skexmap.metrics import group_report, make_worst_pseudo_group_scorer
from skexmap.retraining import EIILLabeler, ERMClassifier, JTTReweighter


@pytest.fixture
def images_through_the_net(monkeypatch):
    """The number of images in each call of the first layer."""
    seen = []
    forward = torch.nn.Conv2d.forward

    def counted(self, x):
        if self.in_channels == 3:
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
    return seen


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_classifier_its_pipeline_and_its_parts_by_hand_predict_the_same(
    scope, exmap, two_clusters, dfr, images
):
    X, y = images
    blocks = HeatmapTransformer(exmap.model, size=4, return_embedding=True).fit(X, y).transform(X)
    labeler = clone(two_clusters).set_params(scope=scope).fit(blocks["heatmap"].reshape(len(X), -1), y)
    by_hand = clone(dfr).fit(blocks["embedding"], y, group_labels=labeler.group_labels_)
    scores = by_hand.decision_function(EmbeddingTransformer(exmap.model).fit_transform(X))
    exmap.set_params(scope=scope).fit(X, y)
    pipe = make_exmap_pipeline(
        exmap.model, heatmaps=HeatmapTransformer(size=4), clusterer=two_clusters, scope=scope, strategy=dfr
    ).fit(X, y)
    assert_array_equal(exmap.group_labels_, labeler.group_labels_)
    assert_array_equal(pipe["clusterer"].group_labels_, labeler.group_labels_)
    assert_allclose(exmap.decision_function(X), scores, rtol=1e-5, atol=1e-6)
    assert_allclose(pipe.decision_function(X), scores, rtol=1e-5, atol=1e-6)
    assert_array_equal(exmap.predict(X), pipe.predict(X))
    assert_array_equal(exmap.predict_proba(X), pipe.predict_proba(X))


class NearestMean(ClassifierMixin, BaseEstimator):
    """A strategy of another library that has `predict` only."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X["embedding"][y == label].mean(axis=0) for label in self.classes_])
        return self

    def predict(self, X):
        return self.classes_[((X[:, None] - self.means_) ** 2).sum(axis=2).argmin(axis=1)]


class TestPredict:
    @pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function", "score"])
    def test_a_prediction_costs_one_forward_pass_per_image_and_no_heatmap(
        self, method, exmap, images, passes, images_through_the_net
    ):
        exmap.fit(*images)
        passes.clear()
        images_through_the_net.clear()
        getattr(exmap, method)(*images[: 2 if method == "score" else 1])
        assert passes == []
        assert sum(images_through_the_net) == 60

    def test_groups_of_new_images_are_class_times_cluster_of_their_heatmaps(self, exmap, images):
        X, y = images
        exmap.fit(X[:40], y[10:50])
        assert_array_equal(exmap.predict_groups(X[:40], y[10:50]), exmap.group_labels_)
        heatmaps = HeatmapTransformer(exmap.model, size=4).fit_transform(X[40:])
        clusters = exmap.labeler_.clusterers_[0].predict(heatmaps)
        groups = exmap.predict_groups(X[40:], y[40:])
        assert_array_equal(groups // 2, y[40:] == "swan")
        # The same clusters, whatever their numbers.
        assert len(np.unique([clusters, groups % 2], axis=1).T) == len(np.unique(clusters)) == 2

    def test_groups_before_fit_are_refused(self, exmap, images):
        with pytest.raises(NotFittedError):
            exmap.predict_groups(*images)

    def test_the_classifier_has_the_methods_of_its_strategy(self, exmap, images):
        exmap.set_params(strategy=NearestMean())
        assert not hasattr(exmap, "predict_proba")
        assert exmap.fit(*images).predict(images[0]).shape == (60,)
        assert not hasattr(exmap, "decision_function")


class TestGivenGroups:
    @pytest.fixture
    def groups(self, images):
        return 2 * (images[1] == "swan") + np.arange(60) % 3 // 2

    def test_given_groups_replace_the_heatmaps(self, exmap, dfr, images, groups, passes):
        X, y = images
        exmap.fit(X, y, group_labels=groups)
        assert passes == []
        expected = dfr.fit(EmbeddingTransformer(exmap.model).fit_transform(X), y, group_labels=groups)
        assert_allclose(exmap.strategy_.coef_, expected.coef_, rtol=1e-6)
        assert_array_equal(exmap.group_labels_, groups)
        with pytest.raises(ValueError, match="fitted on given group labels"):
            exmap.predict_groups(X, y)

    def test_given_groups_of_another_length_are_refused(self, exmap, images):
        with pytest.raises(ValueError, match="5 entries for 60 samples"):
            exmap.fit(*images, group_labels=[0] * 5)

    def test_a_refit_without_given_groups_finds_groups_and_a_refit_with_them_drops_the_labeler(
        self, exmap, images, groups
    ):
        exmap.fit(*images, group_labels=groups).fit(*images)
        assert_array_equal(exmap.predict_groups(*images), exmap.group_labels_)
        exmap.fit(*images, group_labels=groups)
        assert not hasattr(exmap, "labeler_")
        assert not hasattr(exmap, "cluster_labels_")

    def test_clones_remember_whether_a_search_passes_group_labels_to_fit(self, exmap):
        with sklearn.config_context(enable_metadata_routing=True):
            assert clone(exmap).get_metadata_routing().fit.requests == {"group_labels": False}
            exmap.set_fit_request(group_labels=True)
            assert clone(exmap).get_metadata_routing().fit.requests == {"group_labels": True}


class TestFit:
    def test_a_fit_learns_groups_embeddings_classes_and_a_report(self, exmap, images):
        X, y = images
        exmap.set_params(keep_heatmaps=True).fit(X, y)
        assert exmap.heatmaps_.shape == (60, 3, 4, 4)
        assert exmap.embeddings_.shape == (60, 24)
        assert_array_equal(exmap.group_labels_, 2 * (y == "swan") + exmap.cluster_labels_)
        assert exmap.n_features_in_ == 300
        assert_array_equal(exmap.classes_, ["duck", "swan"])
        numbers = np.unique(exmap.group_labels_)
        names = {
            group: f"{'duck' if group < 2 else 'swan'}, cluster {group % 2}" for group in numbers.tolist()
        }
        expected = group_report(y, exmap.predict(X), group_labels=exmap.group_labels_, names=names)
        assert str(exmap.report_) == str(expected)

    def test_true_groups_keep_their_own_names_in_the_report(self, exmap, images):
        X, y = images
        groups = np.where(np.arange(60) % 2, "land", "water")
        assert exmap.fit(X, y, group_labels=groups).report_.names == ["land", "water"]

    def test_heatmaps_that_are_not_kept_leave_the_memory(self, exmap, images):
        exmap.set_params(keep_heatmaps=True).fit(*images).set_params(keep_heatmaps=False).fit(*images)
        assert not hasattr(exmap, "heatmaps_")
        assert exmap.embeddings_.base is None

    def test_the_random_state_seeds_the_parts_that_have_none(self, exmap, images):
        def coefficients(seed, strategy):
            return exmap.set_params(strategy=strategy, random_state=seed).fit(*images).strategy_.coef_

        loose = DFRClassifier(n_retrains=1, min_group_size=1)
        assert_array_equal(coefficients(0, loose), coefficients(0, loose))
        assert not np.array_equal(coefficients(0, loose), coefficients(1, loose))
        assert loose.random_state is None
        generators = np.random.RandomState(0), np.random.RandomState(0)
        assert_array_equal(*(coefficients(generator, loose) for generator in generators))
        fixed = DFRClassifier(n_retrains=1, min_group_size=1, random_state=3)
        assert_array_equal(coefficients(0, fixed), coefficients(1, fixed))

    @pytest.mark.parametrize(
        "y, message",
        [
            (np.zeros(60), "only one class"),
            (np.arange(59) % 2, "59 entries for 60 samples"),
            (np.linspace(0, 1, 60), "Unknown label type"),
            (None, "requires y"),
        ],
    )
    def test_unusable_labels_are_refused_before_the_net_runs(
        self, y, message, exmap, images, images_through_the_net
    ):
        with pytest.raises(ValueError, match=message):
            exmap.fit(images[0], y)
        assert images_through_the_net == []

    @pytest.mark.parametrize("clusterer, groups", [(EIILLabeler(), None), (None, np.arange(60) % 4)])
    def test_settings_of_heatmaps_are_checked_even_if_none_is_computed(
        self, clusterer, groups, exmap, images
    ):
        exmap.set_params(heatmaps__size=-3, clusterer=clusterer)
        with pytest.raises(ValueError, match="'size' parameter of HeatmapTransformer"):
            exmap.fit(*images, group_labels=groups)

    def test_a_global_request_for_data_frames_changes_nothing(self, exmap, images):
        pytest.importorskip("pandas")
        expected = exmap.fit(*images).predict(images[0])
        with sklearn.config_context(transform_output="pandas"):
            assert_array_equal(exmap.fit(*images).predict(images[0]), expected)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
class TestSteps:
    def test_a_grid_reaches_the_steps_that_are_none(self, net, make_images):
        X, y = make_images(180)
        grid = {
            "heatmaps__size": [4],
            "clusterer__clusterer__n_clusters": [2],
            "clusterer__merge_alpha": [None],
            "strategy__Cs": [(1.0,), (0.1,)],
        }
        search = GridSearchCV(ExMapClassifier(net, random_state=0), grid, cv=2, error_score="raise").fit(X, y)
        best = search.best_estimator_
        assert best.transformer_.size == 4
        assert best.labeler_.n_clusters_ == 2
        assert search.best_params_["strategy__Cs"] == (best.strategy_.C_,)
        assert search.estimator.strategy is None

    def test_set_params_takes_none_and_a_parameter_of_the_default_step_together(self, exmap):
        exmap.set_params(strategy=None, strategy__n_retrains=2)
        assert repr(exmap.strategy) == "DFRClassifierCV(n_retrains=2)"
        with pytest.raises(ValueError, match="Invalid parameter 'C' for estimator DFRClassifierCV"):
            exmap.set_params(strategy=None, strategy__C=1.0)

    def test_environments_have_no_scope(self, exmap, images):
        with pytest.raises(ValueError, match="Invalid parameter 'scope' for estimator EIILLabeler"):
            exmap.set_params(clusterer=EIILLabeler(), scope="local").fit(*images)

    @pytest.mark.parametrize(
        "strategy, grid",
        [
            (DFRClassifier(min_group_size=1, random_state=0), {"C": [1.0, 0.1]}),
            (
                JTTReweighter(reference_estimator=ERMClassifier()),
                {"upweight": [1, 10], "reference_estimator__C": [1e-4, 1e-2]},
            ),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_search_by_the_worst_pseudo_group_may_be_the_strategy(self, strategy, grid, exmap, images):
        X, y = images
        search = GridSearchCV(strategy, grid, scoring=make_worst_pseudo_group_scorer("precomputed"), cv=2)
        exmap.set_params(strategy=search).fit(X, y)
        blocks = make_blocks(embedding=exmap.embeddings_, cluster=exmap.cluster_labels_)
        by_hand = clone(search).fit(blocks, y)
        scores = by_hand.cv_results_["mean_test_score"]
        assert_array_equal(exmap.strategy_.cv_results_["mean_test_score"], scores)
        assert_array_equal(exmap.predict(X), by_hand.predict(exmap.embeddings_))

    @pytest.mark.parametrize(
        "given, what",
        [(None, "blocks embedding, cluster"), (np.arange(60) % 4, "embeddings and .group_labels.")],
    )
    def test_a_strategy_that_reads_no_blocks_is_named_with_one_that_does(self, exmap, images, given, what):
        exmap.set_params(strategy=LogisticRegression())
        message = f"strategy LogisticRegression .* must accept (the )?{what}.* ERMClassifier is"
        with pytest.raises(TypeError, match=message):
            exmap.fit(*images, group_labels=given)

    def test_environments_take_the_place_of_clusters(self, exmap, dfr, images):
        X, y = images
        embeddings = EmbeddingTransformer(exmap.model).fit_transform(X)
        labeler = EIILLabeler(ERMClassifier(C=1e-2))
        expected = clone(labeler).fit(embeddings, y)
        head = clone(dfr).fit(embeddings, y, group_labels=expected.group_labels_)
        exmap.set_params(clusterer=labeler).fit(X, y)
        assert_array_equal(exmap.group_labels_, expected.group_labels_)
        assert_array_equal(exmap.cluster_labels_, expected.environment_labels_)
        assert_array_equal(exmap.predict_groups(X, y), expected.group_labels_)
        pipe = make_exmap_pipeline(
            exmap.model, heatmaps=HeatmapTransformer(size=4), clusterer=labeler, strategy=dfr
        ).fit(X, y)
        for fitted, coef in ((exmap, exmap.strategy_.coef_), (pipe, pipe[-1].coef_)):
            assert_allclose(coef, head.coef_, rtol=1e-4, atol=1e-6)
            with torch.no_grad():
                logits = export_model(fitted)(torch.as_tensor(X)).numpy()
            assert_allclose(logits[:, 1] - logits[:, 0], fitted.decision_function(X), atol=1e-5)

    @pytest.mark.parametrize("labeler", [EIILLabeler(), "clusters of embeddings"], ids=["EIIL", "clusters"])
    def test_a_labeler_that_reads_embeddings_costs_no_heatmap(
        self, labeler, exmap, two_clusters, images, passes
    ):
        if labeler == "clusters of embeddings":
            labeler = two_clusters.set_params(block="embedding", scope="local")
        exmap.set_params(clusterer=labeler).fit(*images).predict_groups(*images)
        assert passes == []
        embeddings = EmbeddingTransformer(exmap.model).fit_transform(images[0])
        assert_array_equal(exmap.group_labels_, clone(labeler).fit_predict(embeddings, images[1]))
        kept = clone(exmap).set_params(keep_heatmaps=True).fit(*images)
        assert len(kept.heatmaps_) == 60
        assert_array_equal(kept.group_labels_, exmap.group_labels_)
        assert_allclose(kept.strategy_.coef_, exmap.strategy_.coef_, rtol=1e-4, atol=1e-6)


class Centered(torch.nn.Module):
    """Subtracts the mean of the batch before a net."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x - x.mean(0))


def test_a_net_that_mixes_the_images_of_a_batch_is_refused_although_groups_are_given(exmap, images):
    X, y = images
    exmap.set_params(model=Centered(exmap.model))
    with pytest.raises(NotImplementedError, match="depend on the images beside it"):
        exmap.fit(X, y, group_labels=y)


def test_a_search_reaches_the_settings_of_the_default_attribution(exmap, images):
    X, y = images
    search = GridSearchCV(exmap, {"heatmaps__attribution__gamma": [0.5]}, cv=2).fit(X, y)
    assert search.best_estimator_.transformer_.attribution.gamma == 0.5
    default = ExMapClassifier(exmap.model).set_params(heatmaps__attribution__gamma=0.5)
    assert default.heatmaps.attribution.gamma == 0.5
