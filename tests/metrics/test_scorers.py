import copy
import pickle

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline

from skexmap import ExMapClassifier, HeatmapTransformer
from skexmap._blocks import make_blocks
from skexmap.cluster import EigengapSpectralClustering
from skexmap.datasets import make_colored_digits
from skexmap.exceptions import (
    AbsentGroupWarning,
    OneClusterWarning,
    PartitionSearchWarning,
    SkexmapWarning,
)
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import (
    group_accuracies,
    make_worst_group_scorer,
    make_worst_pseudo_group_scorer,
    worst_group_accuracy,
    worst_group_accuracy_scorer,
    worst_pseudo_group_accuracy_scorer,
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
            def __call__(self, estimator, X, y, *, group_labels=None, sample_weight=None):
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

    def test_several_scores_at_once_refit_by_the_worst_group(self, routing, data):
        X, y, g = data
        splits = list(StratifiedKFold(3).split(X, g))
        search = GridSearchCV(
            clustered_pipeline(),
            {"dfr__C": CS},
            scoring=make_worst_group_scorer(several=True),
            refit="worst_group",
            cv=splits,
        ).fit(X, y, group_labels=g)
        expected = table_of_scores(clustered_pipeline(), X, y, g, splits)
        np.testing.assert_allclose(scores_of(search, 3, "worst_group"), expected)
        assert search.best_params_["dfr__C"] == CS[expected.mean(axis=1).argmax()]
        train, test = splits[0]
        fitted = clone(search.estimator).set_params(dfr__C=CS[0]).fit(X[train], y[train])
        predicted = fitted.predict(X[test])
        own = group_accuracies(y[test], predicted, group_labels=g[test])
        assert search.cv_results_["split0_test_accuracy"][0] == pytest.approx(np.mean(predicted == y[test]))
        assert search.cv_results_["split0_test_macro_group"][0] == pytest.approx(np.mean(list(own.values())))
        assert search.cv_results_["split0_test_n_groups"][0] == 4

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

    def test_sample_weight_is_passed_on_where_the_scorer_asks_for_it(self, routing, data):
        X, y, g = data
        embedding, weight = X["embedding"], np.random.RandomState(0).uniform(size=len(y))
        model = LogisticRegression().set_fit_request(sample_weight=True)
        splits = list(StratifiedKFold(3).split(embedding, y))
        for weighted in (False, True):
            got = cross_validate(
                model,
                embedding,
                y,
                scoring=make_worst_group_scorer(weighted=weighted),
                cv=splits,
                params={"group_labels": g, "sample_weight": weight},
            )["test_score"]
            for score, (train, test) in zip(got, splits, strict=True):
                predicted = model.fit(embedding[train], y[train], sample_weight=weight[train]).predict(
                    embedding[test]
                )
                own = weight[test] if weighted else None
                expected = worst_group_accuracy(y[test], predicted, group_labels=g[test], sample_weight=own)
                assert score == pytest.approx(expected)

    def test_another_metric_is_scored_greater_is_better(self, data):
        X, y, g = data
        model = LogisticRegression().fit(X["embedding"], y)

        def loss(y_true, y_prob):
            return log_loss(y_true, y_prob, labels=[0, 1])

        scorer = make_worst_group_scorer(
            metric=loss, response_method="predict_proba", greater_is_better=False
        )
        own = -np.log(model.predict_proba(X["embedding"])[np.arange(len(y)), y])
        expected = -max(own[g == group].mean() for group in range(4))
        assert scorer(model, X["embedding"], y, group_labels=g) == pytest.approx(expected)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"response_method": "transform"}, "`response_method` must be one of"),
            ({"response_method": "predict_proba"}, "needs a `metric`"),
            ({"several": True, "metric": log_loss}, "give scikit-learn a dict of scorers"),
            ({"min_group_size": 0}, "`min_group_size` must be an integer of at least 1"),
        ],
    )
    def test_options_that_do_not_go_together_are_refused(self, options, message):
        for make in (make_worst_group_scorer, make_worst_pseudo_group_scorer):
            with pytest.raises(ValueError, match=message):
                make(**options)

    def test_scorers_survive_pickle_and_deepcopy_and_show_their_options(self):
        scorer = make_worst_group_scorer(min_group_size=3, several=True)
        for copied in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer)):
            assert vars(copied) == vars(scorer)
        assert "min_group_size=3, several=True" in repr(scorer)


class CountingTransformer(TransformerMixin, BaseEstimator):
    """Hands X on and counts how often it was asked to."""

    n_transforms = 0

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        type(self).n_transforms += 1
        return X


class TestWithoutGroupLabels:
    def test_the_score_is_that_of_the_pipelines_own_pseudo_groups(self, data):
        X, y, _ = data
        splits = list(StratifiedKFold(3).split(X, y))
        scorer = make_worst_pseudo_group_scorer(min_group_size=10)
        search = GridSearchCV(clustered_pipeline(), {"dfr__C": CS}, scoring=scorer, cv=splits).fit(X, y)
        got = scores_of(search, 3)
        for j, (train, test) in enumerate(splits):
            labeler = PseudoGroupLabeler(KMeans(2, n_init=3, random_state=0), merge_alpha=None).fit(
                X[train], y[train]
            )
            groups = np.full(len(y), -1)
            groups[test] = labeler.predict_groups(X[test], y[test])
            own = table_of_scores(clustered_pipeline(), X, y, groups, [(train, test)], min_group_size=10)
            np.testing.assert_allclose(got[:, [j]], own)

    def test_pseudo_groups_of_a_shown_shortcut_score_as_the_true_groups(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        X_new, y_new, g_new = shortcut_blocks(seed=1)
        assert worst_pseudo_group_accuracy_scorer(model, X_new, y_new) == pytest.approx(
            worst_group_accuracy(y_new, model.predict(X_new), group_labels=g_new)
        )

    def test_one_score_transforms_once(self, data):
        X, y, _ = data
        model = Pipeline([("count", CountingTransformer()), *clustered_pipeline().steps]).fit(X, y)
        CountingTransformer.n_transforms = 0
        worst_pseudo_group_accuracy_scorer(model, X, y)
        assert CountingTransformer.n_transforms == 1

    def test_a_fitted_search_and_a_nested_pipeline_are_looked_into(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        expected = worst_pseudo_group_accuracy_scorer(model, X, y)
        nested = Pipeline([("count", CountingTransformer()), ("rest", clustered_pipeline())]).fit(X, y)
        search = GridSearchCV(
            clustered_pipeline(), {"dfr__C": [1.0]}, scoring=worst_pseudo_group_accuracy_scorer, cv=3
        ).fit(X, y)
        for estimator in (nested, search):
            assert worst_pseudo_group_accuracy_scorer(estimator, X, y) == expected
        assert search.score(X, y) == expected

    def test_clusters_inside_each_class_are_picked_by_class(self, data):
        X, y, _ = data
        model = clustered_pipeline(scope="local").fit(X, y)
        groups = model[0].predict_groups(X, y)
        expected = worst_group_accuracy(y, model.predict(X), group_labels=groups)
        assert worst_pseudo_group_accuracy_scorer(model, X, y) == expected

    def test_a_head_is_searched_on_blocks_made_once(self, data):
        X, y, _ = data
        blocks = clustered_pipeline()[:1].fit_transform(X, y)
        groups = PseudoGroupLabeler(KMeans(2, n_init=3, random_state=0), merge_alpha=None).fit_predict(X, y)
        splits = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0).split(X, groups))
        head = Pipeline([("dfr", DFRClassifier(n_retrains=3, random_state=0))])
        search = GridSearchCV(
            head, {"dfr__C": CS}, scoring=worst_pseudo_group_accuracy_scorer, cv=splits
        ).fit(blocks, y)
        expected = table_of_scores(head, blocks, y, groups, splits, min_group_size=6)
        np.testing.assert_allclose(scores_of(search, 4), expected)

    def test_a_data_frame_of_blocks_scores_the_same(self, data):
        pd = pytest.importorskip("pandas")
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        labeler = clone(model[0]).set_output(transform="pandas").fit(X, y)
        frame = labeler.transform(X)
        assert isinstance(frame, pd.DataFrame)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(frame, y)
        score = worst_pseudo_group_accuracy_scorer(head, frame, y)
        assert score == worst_pseudo_group_accuracy_scorer(model, X, y)

    def test_spectral_clusters_serve_as_well(self):
        X, y, _ = shortcut_blocks(n=150)
        model = make_pipeline(
            EigengapSpectralClustering(random_state=0), DFRClassifier(n_retrains=2, random_state=0)
        )
        model.fit(X, y)
        clusters = model[0].predict(X)
        expected = worst_group_accuracy(
            y, model.predict(X), group_labels=y * model[0].n_clusters_ + clusters, min_group_size=6
        )
        assert worst_pseudo_group_accuracy_scorer(model, X, y) == expected

    def test_strings_as_classes_and_samples_of_no_cluster(self, data):
        X, y, _ = data
        names = np.array(["cat", "dog"])[y]
        model = make_pipeline(
            PseudoGroupLabeler(DBSCAN(eps=0.22, min_samples=5), merge_alpha=None),
            DFRClassifier(n_retrains=2, random_state=0),
        )
        model.fit(X, names)
        clusters = model[0].transform(X)["cluster"]
        assert (clusters == -1).any()
        assert clusters.max() >= 1
        inside = clusters >= 0
        predicted = model.predict(X)
        expected = worst_group_accuracy(
            names[inside],
            predicted[inside],
            group_labels=[f"{a} {b}" for a, b in zip(names[inside], clusters[inside], strict=True)],
            min_group_size=6,
        )
        assert worst_pseudo_group_accuracy_scorer(model, X, names) == expected

    def test_a_class_unseen_in_training_counts_as_wrong(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        y_new = y.copy()
        y_new[:40] = 7
        assert worst_pseudo_group_accuracy_scorer(model, X, y_new) == 0
        local = clustered_pipeline(scope="local").fit(X, y)
        with pytest.raises(ValueError, match=r"1 classes that the estimator was not trained on: \[7\]"):
            worst_pseudo_group_accuracy_scorer(local, X, y_new)
        labeler = PseudoGroupLabeler(KMeans(2, n_init=3, random_state=0), merge_alpha=None).fit(X, y)
        with pytest.raises(ValueError, match=r"1 class\(es\) that `fit` did not see: \[7\]"):
            make_worst_pseudo_group_scorer(labeler)(model, X, y_new)

    def test_slivers_do_not_decide_unless_asked_to(self, data):
        X, y, _ = data
        blocks = clustered_pipeline()[:1].fit_transform(X, y)
        head = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
        wrong = np.flatnonzero((head.predict(blocks) != y) & (y == 0))[:6]
        blocks["cluster"][wrong[:5]] = 2
        assert make_worst_pseudo_group_scorer(min_group_size=1)(head, blocks, y) == 0
        assert worst_pseudo_group_accuracy_scorer(head, blocks, y) > 0.5
        assert make_worst_group_scorer()(head, blocks, y, group_labels=3 * y + blocks["cluster"]) == 0
        # Six samples are large enough for the default of 6.
        blocks["cluster"][wrong] = 2
        assert worst_pseudo_group_accuracy_scorer(head, blocks, y) == 0

    def test_dfr_cv_chooses_the_same_strength_on_the_splits_of_a_grid_search(self, data):
        X, y, _ = data
        blocks = clustered_pipeline()[:1].fit_transform(X, y)
        groups = 2 * y + blocks["cluster"]
        splits = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=3, random_state=0).split(blocks, groups))
        dfr_cv = DFRClassifierCV(Cs=CS, cv=splits, n_retrains=3, random_state=0).fit(blocks, y)
        search = GridSearchCV(
            DFRClassifier(n_retrains=3, random_state=0),
            {"C": CS},
            scoring=make_worst_pseudo_group_scorer(min_group_size=1),
            cv=splits,
        ).fit(blocks, y)
        np.testing.assert_allclose(dfr_cv.cv_scores_, scores_of(search, 6))
        assert search.best_params_["C"] == dfr_cv.C_
        np.testing.assert_array_equal(dfr_cv.coef_, search.best_estimator_.coef_)

    @pytest.mark.parametrize("backend", ["loky", "threading"])
    def test_scores_do_not_depend_on_n_jobs(self, data, backend):
        X, y, _ = data
        searches = [
            GridSearchCV(
                clustered_pipeline(),
                {"dfr__C": CS},
                scoring=worst_pseudo_group_accuracy_scorer,
                cv=2,
                n_jobs=n_jobs,
            )
            for n_jobs in (1, 2)
        ]
        with joblib.parallel_backend(backend):
            first, second = (scores_of(search.fit(X, y), 2) for search in searches)
        np.testing.assert_array_equal(first, second)

    def test_several_scores_refit_by_the_worst_pseudo_group(self, data):
        X, y, _ = data
        search = GridSearchCV(
            clustered_pipeline(),
            {"dfr__C": CS},
            scoring=make_worst_pseudo_group_scorer(several=True),
            refit="worst_pseudo_group",
            cv=3,
        ).fit(X, y)
        table = search.cv_results_
        assert search.best_index_ == table["mean_test_worst_pseudo_group"].argmax()
        assert (table["split0_test_n_pseudo_groups"] == 4).all()
        assert (table["mean_test_macro_pseudo_group"] >= table["mean_test_worst_pseudo_group"]).all()
        assert "mean_test_accuracy" in table

    def test_it_needs_no_labels_and_takes_none_where_routing_is_on(self, routing, data):
        X, y, g = data
        search = GridSearchCV(
            clustered_pipeline(), {"dfr__C": [1.0]}, scoring=worst_pseudo_group_accuracy_scorer, cv=2
        )
        assert 0 < search.fit(X, y).best_score_ <= 1
        with pytest.raises(TypeError, match="group_labels"):
            search.fit(X, y, group_labels=g)

    def test_without_clusters_the_error_names_the_step_that_makes_them(self, data):
        X, y, _ = data
        model = LogisticRegression().fit(X["embedding"], y)
        with pytest.raises(ValueError, match=r"needs the block 'cluster'.*Put a clusterer step"):
            worst_pseudo_group_accuracy_scorer(model, X["embedding"], y)


@pytest.fixture(scope="module")
def digits_and_net():
    digits = make_colored_digits(random_state=0).validation
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    )
    return digits.data[:300], digits.target[:300], net


@blind_on_purpose
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.IrreproducibleClustersWarning")
class TestOnImages:
    def exmap(self, net):
        return ExMapClassifier(
            net,
            heatmaps=HeatmapTransformer(size=7),
            clusterer=PseudoGroupLabeler(KMeans(2, n_init=10, random_state=0), merge_alpha=None),
            strategy=DFRClassifier(n_retrains=1, balance="reweight", random_state=0),
        )

    def test_an_exmap_classifier_is_asked_for_its_pseudo_groups(self, digits_and_net):
        X, y, net = digits_and_net
        model = self.exmap(net).fit(X[:200], y[:200])
        groups = model.predict_groups(X[200:], y[200:])
        expected = worst_group_accuracy(
            y[200:], model.predict(X[200:]), group_labels=groups, min_group_size=6
        )
        assert worst_pseudo_group_accuracy_scorer(model, X[200:], y[200:]) == expected
        assert make_worst_pseudo_group_scorer(model)(model, X[200:], y[200:]) == expected

    def test_an_exmap_classifier_may_be_searched_over_its_head_alone(self, digits_and_net):
        X, y, net = digits_and_net
        options = {"scoring": worst_pseudo_group_accuracy_scorer, "cv": 2}
        GridSearchCV(self.exmap(net), {"strategy__C": [1.0], "heatmaps__batch_size": [32]}, **options).fit(
            X, y
        )
        with pytest.warns(PartitionSearchWarning, match="heatmaps__size"):
            GridSearchCV(self.exmap(net), {"heatmaps__size": [7]}, **options).fit(X, y)
        with pytest.warns(PartitionSearchWarning, match="scope"):
            GridSearchCV(self.exmap(net), {"scope": ["global"]}, **options).fit(X, y)


def sees_nothing_and_sees_the_shortcut(n=10_000):
    """A model that follows a 99% shortcut, a fair one that is right in 90%, and two partitions."""
    rng = np.random.RandomState(0)
    y = rng.randint(2, size=n)
    shortcut = np.where(rng.uniform(size=n) < 0.99, y, 1 - y)
    fair = np.where(rng.uniform(size=n) < 0.90, y, 1 - y)
    return y, {"shortcut": shortcut, "fair": fair}, {"one cluster": np.zeros(n, dtype=int), "two": shortcut}


class Predicts(BaseEstimator):
    """A classifier that reads its prediction from a column of the embedding."""

    def __init__(self, column):
        self.column = column

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return X["embedding"][:, self.column].astype(int)


class TestPartition:
    def test_one_cluster_rewards_the_shortcut_and_the_right_two_the_fair_model(self):
        y, models, partitions = sees_nothing_and_sees_the_shortcut()
        embedding = np.column_stack([models["shortcut"], models["fair"]])
        heads = [Predicts(column).fit(None, y) for column in (0, 1)]
        blind = make_blocks(embedding=embedding, cluster=partitions["one cluster"])
        with pytest.warns(OneClusterWarning, match="Each of the 2 classes lies in one cluster"):
            shortcut, fair = (worst_pseudo_group_accuracy_scorer(head, blind, y) for head in heads)
        assert shortcut == pytest.approx(0.99, abs=0.005)
        assert fair == pytest.approx(0.90, abs=0.01)
        seeing = make_blocks(embedding=embedding, cluster=partitions["two"])
        shortcut, fair = (worst_pseudo_group_accuracy_scorer(head, seeing, y) for head in heads)
        assert shortcut == 0
        assert fair == pytest.approx(0.85, abs=0.06)

    @pytest.mark.parametrize(
        "grid",
        [
            {"clusterer__clusterer__n_init": [1, 2]},
            {"clusterer__scope": ["global", "local"], "dfr__C": [1.0]},
            {"clusterer": [PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None)]},
        ],
    )
    def test_a_search_over_the_partition_is_warned_of(self, data, grid):
        X, y, _ = data
        for Search in (GridSearchCV, RandomizedSearchCV):
            options = {"scoring": worst_pseudo_group_accuracy_scorer, "cv": 2}
            if Search is RandomizedSearchCV:
                options["n_iter"] = 1
            search = Search(clustered_pipeline(), grid, **options)
            name = next(iter(grid))
            with pytest.warns(PartitionSearchWarning, match=rf"varies \['{name}'\].*scorer\(labeler\)"):
                search.fit(X, y)

    @pytest.mark.parametrize("wrap", [lambda model: model, lambda model: Pipeline([("inner", model)])])
    def test_a_search_over_the_head_or_over_speed_alone_is_not_warned_of(self, data, wrap):
        X, y, _ = data
        model = wrap(
            Pipeline(
                [
                    ("clusterer", EigengapSpectralClustering(n_clusters=2, random_state=0)),
                    ("dfr", DFRClassifier(n_retrains=2, random_state=0)),
                ]
            )
        )
        prefix = "" if "dfr" in dict(model.steps) else "inner__"
        grid = {f"{prefix}dfr__C": [1.0, 0.1]}
        grid[f"{prefix}clusterer__n_jobs"] = [1]
        GridSearchCV(model, grid, scoring=worst_pseudo_group_accuracy_scorer, cv=2).fit(X, y)
        grid = {f"{prefix}clusterer__n_clusters": [2]}
        with pytest.warns(PartitionSearchWarning):
            GridSearchCV(model, grid, scoring=worst_pseudo_group_accuracy_scorer, cv=2).fit(X, y)

    @blind_on_purpose
    def test_a_search_inside_cross_validation_is_judged_by_its_own_candidates(self, data):
        X, y, _ = data
        scorer = make_worst_pseudo_group_scorer(
            PseudoGroupLabeler(KMeans(2, random_state=0), merge_alpha=None).fit(X, y)
        )
        inner = GridSearchCV(
            clustered_pipeline(), {"clusterer__clusterer__n_clusters": [1, 2]}, scoring=scorer, cv=2
        )
        scores = cross_validate(inner, X, y, scoring=worst_pseudo_group_accuracy_scorer, cv=2)["test_score"]
        assert np.isfinite(scores).all()

    @blind_on_purpose
    # Three clusters are more than the data has.
    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.IrreproducibleClustersWarning")
    def test_a_fitted_labeler_keeps_the_partition_while_clusters_are_searched(self, data):
        X, y, _ = data
        labeler = PseudoGroupLabeler(KMeans(2, n_init=3, random_state=0), merge_alpha=None).fit(X, y)
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
        # On one fixed partition the pipeline that sees nothing loses.
        assert search.cv_results_["mean_test_score"].argmin() == 0

    def test_a_plain_clusterer_and_a_pipeline_may_be_the_labeler(self, data):
        X, y, g = data
        model = clustered_pipeline().fit(X, y)
        expected = worst_group_accuracy(y, model.predict(X), group_labels=g)
        clusterer = EigengapSpectralClustering(n_clusters=2, random_state=0).fit(X)
        chained = make_pipeline(
            CountingTransformer(), PseudoGroupLabeler(KMeans(2, random_state=0), merge_alpha=None)
        ).fit(X, y)
        for labeler in (clusterer, chained):
            assert make_worst_pseudo_group_scorer(labeler)(model, X, y) == pytest.approx(expected)

    def test_a_labeler_that_cannot_label_is_refused(self, data):
        X, y, _ = data
        with pytest.raises(NotFittedError):
            make_worst_pseudo_group_scorer(PseudoGroupLabeler(merge_alpha=None))
        with pytest.raises(TypeError, match="DBSCAN has neither"):
            make_worst_pseudo_group_scorer(DBSCAN().fit(X["embedding"]))
        labeler = PseudoGroupLabeler(KMeans(2, random_state=0), merge_alpha=None).fit(X, y)
        model = LogisticRegression().fit(X["embedding"], y)
        with pytest.raises(ValueError, match="features") as caught:
            make_worst_pseudo_group_scorer(labeler)(model, X["embedding"], y)
        assert "gets the same X as the scored estimator" in caught.value.__notes__[0]


class TestWarnings:
    def test_a_pseudo_group_absent_from_the_scored_data_is_named(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        groups = model[0].group_labels_
        present = groups != 1
        with pytest.warns(
            AbsentGroupWarning, match=r"1 of 4 pseudo-groups .* no sample among the \d+ scored: \[1\]"
        ):
            score = worst_pseudo_group_accuracy_scorer(model, X[present], y[present])
        assert score == worst_group_accuracy(
            y[present], model.predict(X[present]), group_labels=groups[present]
        )
        spectral = make_pipeline(
            EigengapSpectralClustering(n_clusters=2, random_state=0),
            DFRClassifier(n_retrains=2, random_state=0),
        ).fit(X, y)
        present = (2 * y + spectral[0].labels_) != 1
        with pytest.warns(AbsentGroupWarning, match=r"\[1\]"):
            worst_pseudo_group_accuracy_scorer(spectral, X[present], y[present])
        scorer = make_worst_pseudo_group_scorer(model[0])
        with pytest.warns(AbsentGroupWarning, match=r"\[1\]"):
            scorer(model, X[groups != 1], y[groups != 1])

    def test_an_absent_pseudo_group_is_named_if_its_training_samples_were_enough_to_be_the_worst(self, data):
        X, y, _ = data
        model = clustered_pipeline().fit(X, y)
        groups = model[0].group_labels_
        present = groups != 1
        size = int((~present).sum())
        with pytest.warns(AbsentGroupWarning, match=r"\[1\]"):
            make_worst_pseudo_group_scorer(min_group_size=size)(model, X[present], y[present])
        # Warnings are errors here.
        make_worst_pseudo_group_scorer(min_group_size=size + 1)(model, X[present], y[present])

    def test_a_fold_of_one_class_in_one_cluster_is_not_called_blind(self, data):
        X, y, g = data
        model = clustered_pipeline().fit(X, y)
        scorer = make_worst_pseudo_group_scorer(min_group_size=400)
        own = g == 3
        with pytest.warns(AbsentGroupWarning):
            score = worst_pseudo_group_accuracy_scorer(model, X[own], y[own])
        assert score == np.mean(model.predict(X[own]) == 1)
        with pytest.raises(ValueError, match="All 1 groups have fewer than min_group_size=400"):
            scorer(model, X[own], y[own])

    @pytest.mark.parametrize(
        "category",
        [AbsentGroupWarning, OneClusterWarning, PartitionSearchWarning],
    )
    def test_warnings_can_be_silenced_together(self, category):
        assert issubclass(category, SkexmapWarning)
