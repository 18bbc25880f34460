import copy
import pickle

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skexmap._blocks import make_blocks
from skexmap.datasets import make_shortcut_features
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import (
    make_worst_pseudo_group_scorer,
    worst_group_accuracy,
    worst_group_accuracy_scorer,
)
from skexmap.retraining import DFRClassifier

CS = [1.0, 0.5, 0.2, 0.1]


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def shortcut_blocks(seed=0):
    """Blocks of an imagined net: a weak true feature, a strong shortcut, heatmaps that show the shortcut."""
    embedding, y, shortcut = make_shortcut_features(400, agreement=0.85, noise=1.5, random_state=seed)
    heatmap = np.random.RandomState(seed).normal(scale=0.05, size=(400, 1, 4, 4))
    heatmap[np.arange(400), 0, 3 * shortcut, 0] += 1
    return make_blocks(embedding=embedding, heatmap=heatmap), y, 2 * y + shortcut


@pytest.fixture
def data():
    return shortcut_blocks()


def labeler_of(n_clusters=2, **parameters):
    clusterer = KMeans(n_clusters, n_init=3, random_state=0)
    return PseudoGroupLabeler(clusterer, merge_alpha=None, **parameters)


def clustered_pipeline(n_clusters=2):
    head = DFRClassifier(n_retrains=3, random_state=0)
    return Pipeline([("clusterer", labeler_of(n_clusters)), ("dfr", head)])


def table_of_scores(model, X, y, groups, splits, min_group_size=1):
    """What a search over C must find, by hand: rows are candidates, columns splits."""
    scores = np.empty((len(CS), len(splits)))
    for i, C in enumerate(CS):
        for j, (train, test) in enumerate(splits):
            predicted = clone(model).set_params(dfr__C=C).fit(X[train], y[train]).predict(X[test])
            right, group = predicted == y[test], groups[test]
            sizes = {g: np.sum(group == g) for g in set(group)}
            scores[i, j] = min(right[group == g].mean() for g, n in sizes.items() if n >= min_group_size)
    return scores


def scores_of(search, n_splits):
    return np.column_stack([search.cv_results_[f"split{i}_test_score"] for i in range(n_splits)])


class TestWithGroupLabels:
    def test_grid_search_finds_the_scores_of_a_hand_written_loop(self, routing, data):
        X, y, g = data
        splits = list(StratifiedKFold(3).split(X, g))
        search = GridSearchCV(
            clustered_pipeline(), {"dfr__C": CS}, scoring=worst_group_accuracy_scorer, cv=splits
        ).fit(X, y, group_labels=g)
        expected = table_of_scores(clustered_pipeline(), X, y, g, splits)
        np.testing.assert_allclose(scores_of(search, 3), expected)
        assert search.best_params_["dfr__C"] == CS[expected.mean(axis=1).argmax()]
        # The table must tell candidates apart, or the search proves nothing.
        assert len(set(expected.mean(axis=1))) > 1

    def test_the_labels_reach_the_scorer_and_no_fit(self, routing, data):
        X, y, g = data
        scores, states = [], []
        for labels in (g, np.random.RandomState(1).permutation(g)):
            result = cross_validate(
                clustered_pipeline(),
                X,
                y,
                scoring=worst_group_accuracy_scorer,
                cv=StratifiedKFold(3),
                params={"group_labels": labels},
                return_estimator=True,
            )
            scores.append(result["test_score"])
            states.append([vars(step) for model in result["estimator"] for _, step in model.steps])
        assert (scores[0] != scores[1]).any()
        for state, other_state in zip(*states, strict=True):
            assert state.keys() == other_state.keys()
            for name in state:
                assert joblib.hash(state[name]) == joblib.hash(other_state[name]), name

    def test_missing_labels_raise_an_error_that_names_the_remedy(self, data):
        X, y, _ = data
        model = LogisticRegression().fit(X["embedding"], y)
        with pytest.raises(ValueError, match=r"got no `group_labels`.*enable_metadata_routing=True"):
            worst_group_accuracy_scorer(model, X["embedding"], y)


class TestWithAFittedLabeler:
    # One cluster is blind, and three are more than the data has.
    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
    def test_candidates_with_other_clusters_are_scored_on_the_groups_of_the_labeler(self, data):
        X, y, _ = data
        labeler = labeler_of().fit(X, y)
        splits = list(StratifiedKFold(2).split(X, labeler.group_labels_))
        search = GridSearchCV(
            clustered_pipeline(),
            {"clusterer__clusterer__n_clusters": [1, 2, 3]},
            scoring=make_worst_pseudo_group_scorer(labeler),
            cv=splits,
        ).fit(X, y)
        for i, n_clusters in enumerate([1, 2, 3]):
            for j, (train, test) in enumerate(splits):
                model = clustered_pipeline(n_clusters).fit(X[train], y[train])
                expected = worst_group_accuracy(
                    y[test], model.predict(X[test]), group_labels=labeler.group_labels_[test]
                )
                assert search.cv_results_[f"split{j}_test_score"][i] == pytest.approx(expected)
        # The pipeline that sees nothing loses.
        assert search.cv_results_["mean_test_score"].argmin() == 0

    def test_pseudo_groups_of_a_shown_shortcut_score_as_the_true_groups_of_new_data(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        X_new, y_new, g_new = shortcut_blocks(seed=1)
        expected = worst_group_accuracy(y_new, model.predict(X_new), group_labels=g_new)
        for labeler in (labeler_of(), make_pipeline(FunctionTransformer(), labeler_of())):
            scorer = make_worst_pseudo_group_scorer(labeler.fit(X, y))
            assert scorer(model, X_new, y_new) == pytest.approx(expected)

    def test_a_labeler_that_cannot_label_is_refused(self, data):
        X = data[0]
        with pytest.raises(NotFittedError):
            make_worst_pseudo_group_scorer(PseudoGroupLabeler())
        with pytest.raises(NotFittedError):
            make_worst_pseudo_group_scorer(make_pipeline(FunctionTransformer(), PseudoGroupLabeler()))
        with pytest.raises(TypeError, match=r"DBSCAN has no `predict_groups`.*PseudoGroupLabeler"):
            make_worst_pseudo_group_scorer(DBSCAN().fit(X["embedding"]))
        with pytest.raises(TypeError, match="'precomputed'"):
            make_worst_pseudo_group_scorer("clusters")

    def test_a_min_group_size_that_is_not_a_count_is_refused(self):
        with pytest.raises(ValueError, match="min_group_size == 0, must be >= 1"):
            make_worst_pseudo_group_scorer("precomputed", min_group_size=0)

    def test_scorers_give_the_same_scores_after_pickle_and_deepcopy(self, data):
        X, y, g = data
        model = clustered_pipeline().fit(X, y)
        for scorer, groups in (
            (worst_group_accuracy_scorer, {"group_labels": g}),
            (make_worst_pseudo_group_scorer(labeler_of().fit(X, y)), {}),
        ):
            expected = scorer(model, X, y, **groups)
            for copied in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer)):
                assert copied(model, X, y, **groups) == expected


class TestWithPrecomputedClusters:
    @pytest.fixture
    def blocks_head(self, data):
        X, y, _ = data
        blocks = labeler_of().fit(X, y).transform(X)
        return blocks, y, DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)

    def test_a_head_is_searched_on_blocks_made_once(self, blocks_head):
        blocks, y, dfr = blocks_head
        groups = 2 * y + blocks["cluster"]
        splits = list(StratifiedKFold(4).split(blocks, groups))
        head = Pipeline([("dfr", dfr)])
        scorer = make_worst_pseudo_group_scorer("precomputed")
        search = GridSearchCV(head, {"dfr__C": CS}, scoring=scorer, cv=splits).fit(blocks, y)
        expected = table_of_scores(head, blocks, y, groups, splits, min_group_size=6)
        np.testing.assert_allclose(scores_of(search, 4), expected)

    def test_clusters_inside_each_class_are_picked_by_class(self, data):
        X, y, _ = data
        labeler = labeler_of(scope="local").fit(X, y)
        blocks = labeler.transform(X)
        assert blocks["cluster"].shape == (400, 2)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
        expected = worst_group_accuracy(y, head.predict(blocks), group_labels=labeler.predict_groups(X, y))
        assert make_worst_pseudo_group_scorer("precomputed")(head, blocks, y) == expected

    def test_samples_of_cluster_minus_one_are_left_out(self, blocks_head):
        blocks, y, head = blocks_head
        scorer = make_worst_pseudo_group_scorer("precomputed")
        expected = scorer(head, blocks, y)
        none = blocks[:50].copy()
        none["cluster"] = -1
        assert scorer(head, np.concatenate([blocks, none]), np.concatenate([y, 1 - y[:50]])) == expected

    def test_a_sliver_of_6_samples_can_be_the_worst_by_default_and_one_of_5_cannot(self, blocks_head):
        blocks, y, head = blocks_head
        wrong = np.flatnonzero((head.predict(blocks) != y) & (y == 0))[:6]
        scorer = make_worst_pseudo_group_scorer("precomputed")
        blocks["cluster"][wrong[:5]] = 2
        assert scorer(head, blocks, y) > 0.5
        assert make_worst_pseudo_group_scorer("precomputed", min_group_size=1)(head, blocks, y) == 0
        blocks["cluster"][wrong] = 2
        assert scorer(head, blocks, y) == 0

    def test_without_the_block_the_error_says_how_to_get_it(self, data):
        X, y, _ = data
        model = LogisticRegression().fit(X["embedding"], y)
        with pytest.raises(ValueError, match=r"block 'cluster'.*fit_transform.*or pass a fitted labeler"):
            make_worst_pseudo_group_scorer("precomputed")(model, X["embedding"], y)

    def test_a_class_that_the_estimator_was_not_trained_on_is_refused(self, blocks_head):
        blocks, y, head = blocks_head
        with pytest.raises(ValueError, match=r"1 class\(es\) that `fit` did not see: \[2\]"):
            make_worst_pseudo_group_scorer("precomputed")(head, blocks, np.where(np.arange(400) < 9, 2, y))
