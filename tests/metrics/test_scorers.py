import copy
import pickle

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skexmap import ExMapClassifier, HeatmapTransformer
from skexmap._blocks import make_blocks
from skexmap.datasets import make_colored_digits
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import (
    make_worst_pseudo_group_scorer,
    worst_group_accuracy,
    worst_group_accuracy_scorer,
)
from skexmap.retraining import DFRClassifier, DFRClassifierCV

CS = [1.0, 0.5, 0.2, 0.1]


# The clusters of a fit may be blind on purpose, or because the net was never trained.
blind_on_purpose = pytest.mark.filterwarnings("ignore:.* in one cluster:skexmap.exceptions.SkexmapWarning")


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def shortcut_blocks(n=400, agreement=0.85, seed=0):
    """Blocks of an imagined net: a weak true feature, a strong shortcut, heatmaps that show the shortcut."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    shortcut = np.where(rng.uniform(size=n) < agreement, y, 1 - y)
    noise = rng.normal(size=(n, 6))
    embedding = np.column_stack([2 * y - 1, 4 * shortcut - 2, noise[:, 2:]]) + rng.normal(size=(n, 6))
    heatmap = rng.normal(scale=0.05, size=(n, 1, 4, 4))
    heatmap[np.arange(n), 0, 3 * shortcut, 0] += 1
    return make_blocks(embedding=embedding, heatmap=heatmap), y, 2 * y + shortcut


@pytest.fixture
def data():
    return shortcut_blocks()


def clustered_pipeline(n_clusters=2, head=None, **labeler):
    clusterer = KMeans(n_clusters, n_init=3, random_state=0)
    head = DFRClassifier(n_retrains=3, random_state=0) if head is None else head
    return Pipeline(
        [("clusterer", PseudoGroupLabeler(clusterer, **labeler, merge_alpha=None)), ("dfr", head)]
    )


def table_of_scores(model, X, y, groups, splits, min_group_size=1):
    """What a search over C must find, by hand: rows are candidates, columns splits."""
    scores = np.empty((len(CS), len(splits)))
    for i, C in enumerate(CS):
        for j, (train, test) in enumerate(splits):
            fitted = clone(model).set_params(dfr__C=C).fit(X[train], y[train])
            predicted = fitted.predict(X[test])
            rates = []
            for group in set(groups[test]):
                rows = [r for r, t in enumerate(test) if groups[t] == group]
                if len(rows) >= min_group_size:
                    rates.append(np.mean([predicted[r] == y[test[r]] for r in rows]))
            scores[i, j] = min(rates)
    return scores


def scores_of(search, n_splits, name="score"):
    return np.column_stack([search.cv_results_[f"split{i}_test_{name}"] for i in range(n_splits)])


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

    def test_group_k_fold_keeps_its_groups(self, routing, data):
        X, y, g = data
        person = np.arange(len(y)) // 8
        search = GridSearchCV(
            clustered_pipeline(), {"dfr__C": CS}, scoring=worst_group_accuracy_scorer, cv=GroupKFold(3)
        ).fit(X, y, group_labels=g, groups=person)
        splits = list(GroupKFold(3).split(X, y, person))
        np.testing.assert_allclose(
            scores_of(search, 3), table_of_scores(clustered_pipeline(), X, y, g, splits)
        )

    def test_halving_search_passes_the_labels_of_its_subsamples(self, routing, data):
        X, y, g = data
        seen = []

        class Spy(type(worst_group_accuracy_scorer)):
            def __call__(self, estimator, X, y, *, group_labels=None):
                seen.append((X["embedding"][:, 0], group_labels))
                return super().__call__(estimator, X, y, group_labels=group_labels)

        search = HalvingGridSearchCV(
            clustered_pipeline(),
            {"dfr__C": CS},
            scoring=Spy(),
            cv=StratifiedKFold(3),
            factor=2,
            min_resources=200,
            random_state=0,
        ).fit(X, y, group_labels=g)
        assert search.n_resources_ == [200, 400]
        # The first feature of the embedding is different in every row and so tells which row it is.
        label_of = dict(zip(X["embedding"][:, 0].tolist(), g.tolist(), strict=True))
        assert len(label_of) == len(g)
        for rows, labels in seen:
            assert [label_of[row] for row in rows.tolist()] == list(labels)
        # Test and training scores of 4 candidates on 3 splits, then of the better 2.
        assert len(seen) == 2 * (4 + 2) * 3

    def test_cross_validate_passes_the_labels(self, routing, data):
        X, y, g = data
        splits = list(StratifiedKFold(3).split(X, g))
        got = cross_validate(
            clustered_pipeline().set_params(dfr__C=CS[0]),
            X,
            y,
            scoring={"worst_group": worst_group_accuracy_scorer, "accuracy": "accuracy"},
            cv=splits,
            params={"group_labels": g},
        )
        expected = table_of_scores(clustered_pipeline(), X, y, g, splits)[0]
        np.testing.assert_allclose(got["test_worst_group"], expected)

    def test_a_dict_of_scorers_refits_by_the_worst_group(self, routing, data):
        X, y, g = data
        search = GridSearchCV(
            clustered_pipeline(),
            {"dfr__C": CS},
            scoring={"worst_group": worst_group_accuracy_scorer, "accuracy": "accuracy"},
            refit="worst_group",
            cv=3,
        ).fit(X, y, group_labels=g)
        best = search.cv_results_["mean_test_worst_group"].argmax()
        assert search.best_params_ == search.cv_results_["params"][best]

    def test_the_labels_reach_no_fit(self, routing, data):
        X, y, g = data
        other = np.random.RandomState(1).permutation(g)

        def fitted_with(labels):
            result = cross_validate(
                clustered_pipeline(),
                X,
                y,
                scoring=worst_group_accuracy_scorer,
                cv=StratifiedKFold(3),
                params={"group_labels": labels},
                return_estimator=True,
            )
            search = GridSearchCV(
                clustered_pipeline(), {"dfr__C": [0.1]}, scoring=worst_group_accuracy_scorer, cv=3
            )
            models = [*result["estimator"], search.fit(X, y, group_labels=labels).best_estimator_]
            return [vars(step) for model in models for _, step in model.steps], result["test_score"]

        (states, scores), (other_states, other_scores) = fitted_with(g), fitted_with(other)
        assert any("coef_" in state for state in states)
        assert any("group_labels_" in state for state in states)
        for state, other_state in zip(states, other_states, strict=True):
            assert state.keys() == other_state.keys()
            for name in state:
                assert joblib.hash(state[name]) == joblib.hash(other_state[name]), name
        # The scorer did get them.
        assert (scores != other_scores).any()

    def test_the_firewall_opens_only_on_request(self, routing, data):
        X, y, g = data
        head = DFRClassifier(n_retrains=2, random_state=0).set_fit_request(group_labels=True)
        embedding = X["embedding"]
        search = GridSearchCV(head, {"C": [1.0]}, scoring=worst_group_accuracy_scorer, cv=3)
        search.fit(embedding, y, group_labels=g)
        direct = clone(head).fit(embedding, y, group_labels=g)
        np.testing.assert_array_equal(search.best_estimator_.coef_, direct.coef_)
        assert len(search.best_estimator_.groups_) == 4

    def test_routing_off_the_scorer_is_called_by_hand_or_looks_labels_up_by_index(self, data):
        pd = pytest.importorskip("pandas")
        X, y, g = data
        embedding = X["embedding"]
        labels = pd.Series(g, index=np.arange(1000, 1400))
        target = pd.Series(y, index=labels.index)

        def score(estimator, X, y):
            return worst_group_accuracy(y, estimator.predict(X), group_labels=labels.loc[y.index])

        search = GridSearchCV(LogisticRegression(), {"C": CS}, scoring=score, cv=3).fit(embedding, target)
        for split, (train, test) in enumerate(StratifiedKFold(3).split(embedding, y)):
            model = LogisticRegression(C=CS[0]).fit(embedding[train], y[train])
            own = worst_group_accuracy_scorer(model, embedding[test], y[test], group_labels=g[test])
            assert search.cv_results_[f"split{split}_test_score"][0] == pytest.approx(own)

    def test_missing_labels_are_asked_for_with_the_remedy(self, data):
        X, y, _ = data
        model = LogisticRegression().fit(X["embedding"], y)
        with pytest.raises(ValueError, match=r"got no `group_labels`.*enable_metadata_routing=True"):
            worst_group_accuracy_scorer(model, X["embedding"], y)

    def test_make_scorer_of_scikit_learn_takes_another_min_group_size(self, routing, data):
        X, y, g = data
        splits = list(StratifiedKFold(3).split(X, g))
        scorer = make_scorer(worst_group_accuracy, min_group_size=20).set_score_request(group_labels=True)
        search = GridSearchCV(clustered_pipeline(), {"dfr__C": CS}, scoring=scorer, cv=splits)
        search.fit(X, y, group_labels=g)
        expected = table_of_scores(clustered_pipeline(), X, y, g, splits, min_group_size=20)
        np.testing.assert_allclose(scores_of(search, 3), expected)
        assert (expected != table_of_scores(clustered_pipeline(), X, y, g, splits)).any()


def fitted_labeler(X, y, **parameters):
    return PseudoGroupLabeler(KMeans(2, n_init=3, random_state=0), merge_alpha=None, **parameters).fit(X, y)


class TestWithAFittedLabeler:
    # One cluster is blind, and three are more than the data has.
    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
    def test_candidates_with_other_clusters_are_scored_on_the_groups_of_the_labeler(self, data):
        X, y, _ = data
        labeler = fitted_labeler(X, y)
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

    def test_groups_below_min_group_size_do_not_count(self, data):
        X, y, _ = data
        labeler = fitted_labeler(X, y)
        sizes = np.bincount(labeler.group_labels_)
        model = clustered_pipeline().fit(X, y)
        for min_group_size in (1, sizes.min(), sizes.min() + 1):
            scorer = make_worst_pseudo_group_scorer(labeler, min_group_size=int(min_group_size))
            right = model.predict(X) == y
            large = np.flatnonzero(sizes >= min_group_size)
            assert scorer(model, X, y) == min(right[labeler.group_labels_ == g].mean() for g in large)

    def test_pseudo_groups_of_a_shown_shortcut_score_as_the_true_groups_of_new_data(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        X_new, y_new, g_new = shortcut_blocks(seed=1)
        scorer = make_worst_pseudo_group_scorer(fitted_labeler(X, y))
        expected = worst_group_accuracy(y_new, model.predict(X_new), group_labels=g_new)
        assert scorer(model, X_new, y_new) == pytest.approx(expected)

    def test_the_labeler_may_be_the_end_of_a_pipeline(self, data):
        X, y, g = data
        model = clustered_pipeline().fit(X, y)
        labeler = make_pipeline(FunctionTransformer(), PseudoGroupLabeler(KMeans(2), merge_alpha=None))
        scorer = make_worst_pseudo_group_scorer(labeler.fit(X, y))
        assert scorer(model, X, y) == pytest.approx(worst_group_accuracy(y, model.predict(X), group_labels=g))

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

    @pytest.mark.parametrize("bad", [0, 2.5])
    def test_a_min_group_size_that_is_not_a_count_is_refused(self, bad):
        with pytest.raises(ValueError, match="`min_group_size` must be an integer of at least 1"):
            make_worst_pseudo_group_scorer("precomputed", min_group_size=bad)

    @pytest.mark.parametrize("backend", ["loky", "threading"])
    def test_scores_do_not_depend_on_n_jobs(self, data, backend):
        X, y, _ = data
        scorer = make_worst_pseudo_group_scorer(fitted_labeler(X, y))
        searches = [
            GridSearchCV(clustered_pipeline(), {"dfr__C": CS}, scoring=scorer, cv=2, n_jobs=n_jobs)
            for n_jobs in (1, 2)
        ]
        with joblib.parallel_backend(backend):
            first, second = (scores_of(search.fit(X, y), 2) for search in searches)
        np.testing.assert_array_equal(first, second)

    def test_scorers_give_the_same_scores_after_pickle_and_deepcopy(self, data):
        X, y, g = data
        model = clustered_pipeline().fit(X, y)
        for scorer, groups in (
            (worst_group_accuracy_scorer, {"group_labels": g}),
            (make_worst_pseudo_group_scorer(fitted_labeler(X, y)), {}),
        ):
            expected = scorer(model, X, y, **groups)
            for copied in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer)):
                assert copied(model, X, y, **groups) == expected

    def test_with_routing_on_it_asks_for_no_labels_and_takes_none(self, routing, data):
        X, y, g = data
        scorer = make_worst_pseudo_group_scorer(fitted_labeler(X, y))
        search = GridSearchCV(clustered_pipeline(), {"dfr__C": [1.0]}, scoring=scorer, cv=2)
        assert 0 < search.fit(X, y).best_score_ <= 1
        with pytest.raises(TypeError, match="group_labels"):
            search.fit(X, y, group_labels=g)


class TestWithPrecomputedClusters:
    def test_a_head_is_searched_on_blocks_made_once(self, data):
        X, y, _ = data
        labeler = fitted_labeler(X, y)
        blocks, groups = labeler.transform(X), labeler.group_labels_
        splits = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0).split(X, groups))
        head = Pipeline([("dfr", DFRClassifier(n_retrains=3, random_state=0))])
        scorer = make_worst_pseudo_group_scorer("precomputed")
        search = GridSearchCV(head, {"dfr__C": CS}, scoring=scorer, cv=splits).fit(blocks, y)
        expected = table_of_scores(head, blocks, y, groups, splits, min_group_size=6)
        np.testing.assert_allclose(scores_of(search, 4), expected)

    def test_clusters_inside_each_class_are_picked_by_class(self, data):
        X, y, _ = data
        labeler = fitted_labeler(X, y, scope="local")
        blocks = labeler.transform(X)
        assert blocks["cluster"].shape == (400, 2)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
        expected = worst_group_accuracy(y, head.predict(blocks), group_labels=labeler.predict_groups(X, y))
        assert make_worst_pseudo_group_scorer("precomputed")(head, blocks, y) == expected

    def test_samples_of_cluster_minus_one_are_left_out(self, data):
        X, y, _ = data
        blocks = fitted_labeler(X, y).transform(X)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
        scorer = make_worst_pseudo_group_scorer("precomputed")
        expected = scorer(head, blocks, y)
        none = blocks[:50].copy()
        none["cluster"] = -1
        assert scorer(head, np.concatenate([blocks, none]), np.concatenate([y, 1 - y[:50]])) == expected

    def test_a_sliver_of_6_samples_can_be_the_worst_by_default_and_one_of_5_cannot(self, data):
        X, y, _ = data
        blocks = fitted_labeler(X, y).transform(X)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
        wrong = np.flatnonzero((head.predict(blocks) != y) & (y == 0))[:6]
        scorer = make_worst_pseudo_group_scorer("precomputed")
        blocks["cluster"][wrong[:5]] = 2
        assert scorer(head, blocks, y) > 0.5
        assert make_worst_pseudo_group_scorer("precomputed", min_group_size=1)(head, blocks, y) == 0
        blocks["cluster"][wrong] = 2
        assert scorer(head, blocks, y) == 0

    def test_dfr_cv_chooses_the_same_strength_on_the_splits_of_a_grid_search(self, data):
        X, y, _ = data
        blocks = fitted_labeler(X, y).transform(X)
        groups = 2 * y + blocks["cluster"]
        splits = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=3, random_state=0).split(blocks, groups))
        dfr_cv = DFRClassifierCV(Cs=CS, cv=splits, n_retrains=3, random_state=0).fit(blocks, y)
        search = GridSearchCV(
            DFRClassifier(n_retrains=3, random_state=0),
            {"C": CS},
            scoring=make_worst_pseudo_group_scorer("precomputed", min_group_size=1),
            cv=splits,
        ).fit(blocks, y)
        np.testing.assert_allclose(dfr_cv.cv_scores_, scores_of(search, 6))
        assert search.best_params_["C"] == dfr_cv.C_
        np.testing.assert_array_equal(dfr_cv.coef_, search.best_estimator_.coef_)

    def test_without_the_block_the_error_says_how_to_get_it(self, data):
        X, y, _ = data
        model = LogisticRegression().fit(X["embedding"], y)
        with pytest.raises(ValueError, match=r"block 'cluster'.*fit_transform.*or pass a fitted labeler"):
            make_worst_pseudo_group_scorer("precomputed")(model, X["embedding"], y)

    def test_a_class_that_the_estimator_was_not_trained_on_is_refused(self, data):
        X, y, _ = data
        blocks = fitted_labeler(X, y).transform(X)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
        with pytest.raises(ValueError, match=r"1 class\(es\) that `fit` did not see: \[2\]"):
            make_worst_pseudo_group_scorer("precomputed")(head, blocks, np.where(np.arange(400) < 9, 2, y))


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
def test_an_exmap_classifier_scored_on_images_may_be_its_own_labeler():
    digits = make_colored_digits(random_state=0).validation
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    )
    X, y = digits.data[:300], digits.target[:300]
    model = ExMapClassifier(
        net,
        heatmaps=HeatmapTransformer(size=7),
        clusterer=PseudoGroupLabeler(KMeans(2, n_init=10, random_state=0), merge_alpha=None),
        strategy=DFRClassifier(n_retrains=1, balance="reweight", random_state=0),
    ).fit(X[:200], y[:200])
    groups = model.predict_groups(X[200:], y[200:])
    expected = worst_group_accuracy(y[200:], model.predict(X[200:]), group_labels=groups, min_group_size=6)
    assert make_worst_pseudo_group_scorer(model)(model, X[200:], y[200:]) == expected
