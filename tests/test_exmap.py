"""The method on one screen: what ExMapClassifier finds, what it costs to ask, and that the other ways agree."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from small_pipeline import make_images, make_net

from skexmap import (
    DFRClassifier,
    DFRClassifierCV,
    EigengapSpectralClustering,
    EmbeddingTransformer,
    ExMapClassifier,
    HeatmapTransformer,
    PseudoGroupLabeler,
    export_model,
    make_exmap_pipeline,
)
from skexmap._blocks import make_blocks
from skexmap.exceptions import ConstantPredictionWarning, OneClusterWarning
from skexmap.metrics import group_report, make_worst_pseudo_group_scorer
from skexmap.retraining import EIILLabeler, ERMClassifier, JTTReweighter

TWO = KMeans(2, n_init=10, random_state=0)
UNMERGED = PseudoGroupLabeler(TWO, merge_alpha=None)
DFR = DFRClassifier(n_retrains=3, min_group_size=1, random_state=0)


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def images():
    return make_images()


@pytest.fixture
def exmap(net):
    return ExMapClassifier(net, heatmaps=HeatmapTransformer(size=4), clusterer=UNMERGED, strategy=DFR)


@pytest.fixture
def counts(monkeypatch):
    """Count relevance passes, and images through the replica's first layer."""
    counts = {"heatmaps": 0, "images": 0}
    attribute, forward = HeatmapTransformer._attribute, torch.nn.Conv2d.forward

    def counted_attribute(self, images, *args):
        counts["heatmaps"] += len(images)
        return attribute(self, images, *args)

    def counted_forward(self, x):
        counts["images"] += len(x) if self.in_channels == 3 else 0
        return forward(self, x)

    monkeypatch.setattr(HeatmapTransformer, "_attribute", counted_attribute)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted_forward)
    return counts


class TestThreeWays:
    def by_hand(self, net, X, y, scope):
        blocks = HeatmapTransformer(net, size=4, return_embedding=True).fit(X, y).transform(X)
        flat = blocks["heatmap"].reshape(len(X), -1)
        labeler = PseudoGroupLabeler(TWO, scope=scope, merge_alpha=None).fit(flat, y)
        dfr = DFRClassifier(n_retrains=3, min_group_size=1, random_state=0)
        dfr.fit(blocks["embedding"], y, group_labels=labeler.group_labels_)
        return labeler.group_labels_, dfr.decision_function(EmbeddingTransformer(net).fit_transform(X))

    @pytest.mark.parametrize("scope", ["global", "local"])
    def test_classifier_pipeline_and_by_hand_composition_predict_the_same(self, scope, exmap, net, images):
        X, y = images
        exmap.set_params(clusterer__scope=scope).fit(X, y)
        pipe = make_exmap_pipeline(
            net, heatmaps=HeatmapTransformer(size=4), clusterer=exmap.clusterer, strategy=DFR
        ).fit(X, y)
        groups, scores = self.by_hand(net, X, y, scope)
        assert_array_equal(exmap.group_labels_, groups)
        assert_array_equal(pipe["clusterer"].group_labels_, groups)
        assert_allclose(exmap.decision_function(X), scores, rtol=1e-5, atol=1e-6)
        assert_allclose(pipe.decision_function(X), scores, rtol=1e-5, atol=1e-6)
        assert_array_equal(exmap.predict(X), pipe.predict(X))
        assert_array_equal(exmap.predict_proba(X), pipe.predict_proba(X))

    def test_the_literal_pipeline_of_clusterer_and_head_agrees_where_nothing_is_merged(self, net, images):
        X, y = images
        clusterer = EigengapSpectralClustering(n_clusters=2, random_state=0)
        unmerged = PseudoGroupLabeler(clusterer, merge_alpha=None)
        exmap = ExMapClassifier(net, clusterer=unmerged, strategy=DFR).fit(X, y)
        literal = Pipeline(
            [
                ("heatmaps", HeatmapTransformer(net, return_embedding=True)),
                ("clusterer", clusterer),
                ("strategy", DFR),
            ]
        ).fit(X, y)
        assert_array_equal(exmap.cluster_labels_, literal["clusterer"].labels_)
        assert_allclose(exmap.strategy_.coef_, literal[-1].coef_, rtol=1e-5, atol=1e-7)


class TestPredict:
    def test_one_forward_pass_per_image_and_no_heatmap(self, exmap, images, counts):
        X, y = images
        exmap.fit(X, y)
        for ask in (exmap.predict, exmap.predict_proba, exmap.decision_function):
            counts.update(heatmaps=0, images=0)
            ask(X)
            assert counts == {"heatmaps": 0, "images": 60}
        counts.update(heatmaps=0, images=0)
        exmap.score(X, y)
        assert counts == {"heatmaps": 0, "images": 60}

    def test_groups_of_new_images_are_class_times_cluster_of_their_heatmaps(self, exmap, images):
        X, y = images
        exmap.fit(X[:40], y[10:50])
        assert_array_equal(exmap.predict_groups(X[:40], y[10:50]), exmap.group_labels_)
        clusters = exmap.labeler_.clusterers_[0].predict(
            HeatmapTransformer(exmap.model, size=4).fit_transform(X[40:])
        )
        groups = exmap.predict_groups(X[40:], y[40:])
        # Same clusters, whatever they are called.
        assert len(set(zip(clusters.tolist(), (groups % 2).tolist(), strict=True))) == len(
            set(clusters.tolist())
        )
        assert_array_equal(groups // 2, (y[40:] == "swan").astype(int))

    def test_before_fit_it_says_so(self, exmap, images):
        for method in ("predict", "predict_proba", "decision_function"):
            with pytest.raises(NotFittedError):
                getattr(exmap, method)(images[0])
        with pytest.raises(NotFittedError):
            exmap.predict_groups(*images)

    def test_only_what_the_strategy_can_is_offered(self, exmap, images):
        exmap.set_params(strategy=NearestMean())
        assert not hasattr(exmap, "predict_proba")
        exmap.fit(*images)
        assert exmap.predict(images[0]).shape == (60,)
        assert not hasattr(exmap, "decision_function")


class NearestMean(ClassifierMixin, BaseEstimator):
    """A strategy of someone else's that has `predict` only."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X["embedding"][y == label].mean(axis=0) for label in self.classes_])
        return self

    def predict(self, X):
        return self.classes_[((X[:, None] - self.means_) ** 2).sum(axis=2).argmin(axis=1)]


class TestGivenGroups:
    def test_they_replace_the_heatmaps(self, exmap, images, counts):
        X, y = images
        groups = np.where(y == "duck", 0, 2) + np.arange(60) % 3 // 2
        exmap.fit(X, y, group_labels=groups)
        assert counts["heatmaps"] == 0
        expected = DFRClassifier(n_retrains=3, min_group_size=1, random_state=0).fit(
            EmbeddingTransformer(exmap.model).fit_transform(X), y, group_labels=groups
        )
        assert_allclose(exmap.strategy_.coef_, expected.coef_, rtol=1e-6)
        assert_array_equal(exmap.group_labels_, groups)
        assert not hasattr(exmap, "labeler_")
        with pytest.raises(ValueError, match="fitted on given group labels"):
            exmap.predict_groups(X, y)

    def test_their_length_is_checked(self, exmap, images):
        with pytest.raises(ValueError, match="5 entries for 60 samples"):
            exmap.fit(*images, group_labels=[0] * 5)

    def test_a_refit_without_them_finds_groups_and_the_other_way_round(self, exmap, images):
        X, y = images
        groups = np.arange(60) % 2 + 2 * (y == "swan")
        exmap.fit(X, y, group_labels=groups).fit(X, y)
        assert_array_equal(exmap.predict_groups(X, y), exmap.group_labels_)
        exmap.fit(X, y, group_labels=groups)
        assert not hasattr(exmap, "labeler_")
        assert not hasattr(exmap, "cluster_labels_")


class TestFit:
    def test_what_it_learned(self, exmap, net, images):
        X, y = images
        exmap.set_params(keep_heatmaps=True).fit(X, y)
        assert exmap.heatmaps_.shape == (60, 3, 4, 4)
        assert exmap.embeddings_.shape == (60, 24)
        assert_array_equal(exmap.group_labels_, 2 * (y == "swan") + exmap.cluster_labels_)
        assert exmap.n_features_in_ == 300
        assert_array_equal(exmap.classes_, ["duck", "swan"])
        expected = group_report(y, exmap.predict(X), group_labels=exmap.group_labels_)
        assert str(exmap.report_) == str(expected)
        assert net[0].weight is exmap.model[0].weight
        exmap.set_params(keep_heatmaps=False)
        assert not hasattr(exmap.fit(X, y), "heatmaps_")

    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
    def test_the_default_strategy_chooses_its_penalty(self, net, images):
        exmap = ExMapClassifier(
            net, clusterer=UNMERGED, strategy=DFRClassifierCV(min_group_size=1), random_state=0
        )
        exmap.fit(*images)
        assert exmap.strategy_.C_ in exmap.strategy_.Cs_
        default = ExMapClassifier(net, clusterer=UNMERGED, random_state=0).fit(*make_images(180))
        assert isinstance(default.strategy_, DFRClassifierCV)

    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
    def test_a_search_over_the_head_may_be_the_strategy(self, exmap, images):
        search = GridSearchCV(
            DFR, {"C": [1.0, 0.1]}, scoring=make_worst_pseudo_group_scorer("precomputed"), cv=2
        )
        exmap.set_params(strategy=search).fit(*images)
        assert exmap.strategy_.best_params_["C"] in (1.0, 0.1)
        assert exmap.predict(images[0]).shape == (60,)

    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
    def test_jtt_with_upweight_and_strength_chosen_by_pseudo_groups_may_be_the_strategy(self, exmap, images):
        jtt = JTTReweighter(reference_estimator=ERMClassifier())
        grid = {"upweight": [1, 10], "reference_estimator__C": [1e-4, 1e-2]}
        search = GridSearchCV(jtt, grid, scoring=make_worst_pseudo_group_scorer("precomputed"), cv=2)
        X, y = images
        exmap.set_params(strategy=search).fit(X, y)
        blocks = make_blocks(embedding=exmap.embeddings_, cluster=exmap.cluster_labels_)
        by_hand = clone(search).fit(blocks, y)
        assert exmap.strategy_.best_params_ == by_hand.best_params_
        assert_array_equal(
            exmap.strategy_.cv_results_["mean_test_score"], by_hand.cv_results_["mean_test_score"]
        )
        assert_array_equal(exmap.predict(X), by_hand.predict(exmap.embeddings_))

    def test_a_labeler_in_place_of_the_clusterer_brings_its_own_block_and_scope(self, exmap, images):
        X, y = images
        george = PseudoGroupLabeler(TWO, block="embedding", scope="local", merge_alpha=None)
        exmap.set_params(clusterer=george).fit(X, y)
        embedding = EmbeddingTransformer(exmap.model).fit_transform(X)
        assert_array_equal(exmap.group_labels_, george.fit_predict(embedding, y))

    def test_the_random_state_seeds_the_parts_that_have_none(self, net, images):
        def fit(seed, strategy):
            return ExMapClassifier(net, clusterer=UNMERGED, strategy=strategy, random_state=seed).fit(*images)

        loose = DFRClassifier(n_retrains=1, min_group_size=1)
        first, same, other = (fit(seed, loose).strategy_.coef_ for seed in (0, 0, 1))
        assert_array_equal(first, same)
        assert not np.array_equal(first, other)
        assert loose.random_state is None
        fixed = DFRClassifier(n_retrains=1, min_group_size=1, random_state=3)
        assert_array_equal(fit(0, fixed).strategy_.coef_, fit(1, fixed).strategy_.coef_)
        generator = np.random.RandomState(0)
        again = np.random.RandomState(0)
        assert_array_equal(fit(generator, loose).strategy_.coef_, fit(again, loose).strategy_.coef_)

    def test_unusable_labels_are_refused_before_any_heatmap(self, exmap, images, counts):
        X, _ = images
        for y, message in [
            (np.zeros(60), "only one class"),
            (np.arange(59) % 2, "59 entries for 60 samples"),
            (np.linspace(0, 1, 60), "Unknown label type"),
            (None, "requires y"),
        ]:
            with pytest.raises(ValueError, match=message):
                exmap.fit(X, y)
        assert counts == {"heatmaps": 0, "images": 0}

    @pytest.mark.parametrize(
        "given, what",
        [(None, "blocks embedding, cluster"), (np.arange(60) % 4, "embeddings and .group_labels.")],
    )
    def test_a_strategy_that_reads_no_blocks_is_named_with_one_that_does(self, exmap, images, given, what):
        exmap.set_params(strategy=LogisticRegression())
        with pytest.raises(
            TypeError, match=f"strategy LogisticRegression .* given (the )?{what}.* ERMClassifier is"
        ):
            exmap.fit(*images, group_labels=given)

    def test_environments_take_the_place_of_clusters_by_one_argument(self, exmap, images, net):
        X, y = images
        by_hand = EmbeddingTransformer(net).fit_transform(X)
        labeler = EIILLabeler(ERMClassifier(C=1e-2)).fit(by_hand, y)
        expected = clone(DFR).fit(by_hand, y, group_labels=labeler.group_labels_)
        exmap.set_params(clusterer=EIILLabeler(ERMClassifier(C=1e-2))).fit(X, y)
        assert_array_equal(exmap.group_labels_, labeler.group_labels_)
        assert_array_equal(exmap.cluster_labels_, labeler.environment_labels_)
        assert_array_equal(exmap.predict_groups(X, y), labeler.group_labels_)
        assert_allclose(exmap.strategy_.coef_, expected.coef_, rtol=1e-4, atol=1e-6)
        pipe = make_exmap_pipeline(
            net, heatmaps=HeatmapTransformer(size=4), clusterer=exmap.clusterer, strategy=DFR
        ).fit(X, y)
        assert_allclose(pipe[-1].coef_, expected.coef_, rtol=1e-4, atol=1e-6)
        for fitted in (exmap, pipe):
            with torch.no_grad():
                logits = export_model(fitted)(torch.as_tensor(X)).numpy()
            assert_allclose(logits[:, 1] - logits[:, 0], fitted.decision_function(X), atol=1e-5)

    @pytest.mark.parametrize(
        "labeler",
        [EIILLabeler(), PseudoGroupLabeler(TWO, block="embedding", merge_alpha=None)],
        ids=lambda labeler: type(labeler).__name__,
    )
    def test_no_heatmap_is_computed_for_a_labeler_that_looks_at_embeddings(
        self, exmap, images, counts, labeler
    ):
        X, y = images
        exmap.set_params(clusterer=labeler, strategy=DFR).fit(X, y)
        assert counts["heatmaps"] == 0
        exmap.predict_groups(X, y)
        assert counts["heatmaps"] == 0
        kept = clone(exmap).set_params(keep_heatmaps=True).fit(X, y)
        assert counts["heatmaps"] >= len(X)
        assert len(kept.heatmaps_) == len(X)
        assert_array_equal(kept.group_labels_, exmap.group_labels_)
        assert_allclose(kept.strategy_.coef_, exmap.strategy_.coef_, rtol=1e-4, atol=1e-6)

    def test_heatmaps_that_are_not_computed_must_be_rightly_set_all_the_same(self, exmap, images):
        exmap.set_params(heatmaps=HeatmapTransformer(size=-3))
        for params, groups in (({"clusterer": EIILLabeler()}, None), ({}, np.arange(60) % 4)):
            with pytest.raises(ValueError, match="'size' parameter of HeatmapTransformer"):
                clone(exmap).set_params(**params).fit(*images, group_labels=groups)

    def test_frames_asked_for_by_the_global_setting_do_not_disturb_it(self, exmap, images):
        pytest.importorskip("pandas")
        sklearn = pytest.importorskip("sklearn")
        expected = exmap.fit(*images).predict(images[0])
        with sklearn.config_context(transform_output="pandas"):
            assert_array_equal(exmap.fit(*images).predict(images[0]), expected)


class TestDiagnosis:
    def blocks(self, clusters):
        rng = np.random.RandomState(0)
        return make_blocks(embedding=rng.normal(size=(60, 3)), cluster=np.asarray(clusters))

    def test_one_cluster_only_is_named(self):
        y = np.arange(60) % 2
        with pytest.warns(OneClusterWarning, match="All samples lie in one cluster"):
            DFR.fit(self.blocks(np.zeros(60, dtype=int)), y)
        with pytest.warns(OneClusterWarning, match="Each of 2 classes lies in one cluster"):
            DFR.fit(self.blocks(y), y)

    def test_a_class_inside_one_cluster_is_named(self):
        y = np.repeat(["cat", "dog"], 30)
        clusters = np.r_[np.zeros(30, dtype=int), np.arange(30) % 2]
        with pytest.warns(OneClusterWarning, match=r"1 of 2 classes \(\['cat'\]\) lie in one cluster"):
            DFR.fit(self.blocks(clusters), y)

    def test_rows_of_no_cluster_do_not_count(self):
        y = np.repeat([0, 1], 30)
        clusters = np.r_[np.arange(30) % 2, np.zeros(29, dtype=int), -1]
        with pytest.warns(OneClusterWarning, match=r"\(\[1\]\)"):
            DFR.fit(self.blocks(clusters), y)

    @pytest.mark.filterwarnings("error")
    def test_two_clusters_in_each_class_are_no_news(self):
        DFR.fit(self.blocks(np.arange(60) % 3), np.repeat([0, 1], 30))

    def test_the_same_answer_for_every_image_is_named(self, exmap, images):
        X, _ = images
        y = np.r_[np.zeros(30, dtype=int), np.arange(30) % 2]
        exmap.set_params(strategy=DFRClassifier(C=1e-6, n_retrains=1, balance="reweight", min_group_size=1))
        with pytest.warns(ConstantPredictionWarning, match="DFRClassifier predicts the same class"):
            exmap.fit(X, y)

    def test_it_can_be_silenced_by_category(self, recwarn):
        y = np.arange(60) % 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OneClusterWarning)
            DFR.fit(self.blocks(y), y)
        assert not recwarn.list
        with warnings.catch_warnings():
            warnings.simplefilter("error", OneClusterWarning)
            with pytest.raises(OneClusterWarning):
                DFR.fit(self.blocks(y), y)
