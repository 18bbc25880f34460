from functools import partial

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from skexmap._blocks import make_blocks
from skexmap._validation import l1_logistic_regression
from skexmap.datasets import make_shortcut_features
from skexmap.exceptions import PredictionWarning
from skexmap.retraining import DFRClassifier, DFRClassifierCV
from skexmap.retraining._balance import stratified_halves
from skexmap.retraining._dfr_cv import first_that_is_not_zero
from skexmap.retraining._l1_logistic import l1_logistic_path

shortcut_features = partial(make_shortcut_features, random_scale=True, random_state=0)


def l1(C, seed=None, **params):
    return l1_logistic_regression(C, max_iter=1000, random_state=seed, **params)


def test_the_published_tuning_curve_is_that_of_a_straight_line_script():
    X, y, shortcut = shortcut_features(1000, n_features=24)
    groups = 2 * y + shortcut
    Cs = (1.0, 0.3, 0.1, 0.03, 0.02)
    cv = DFRClassifierCV(Cs, tuning="published", n_splits=6, n_retrains=2, random_state=0).fit(
        X, y, group_labels=groups
    )

    rng = np.random.RandomState(0)
    rng.randint(np.iinfo(np.int32).max, size=2)  # the seeds of the refits
    curve = []
    for seed in rng.randint(np.iinfo(np.int32).max, size=6):
        half_rng = np.random.RandomState(seed)
        order = half_rng.permutation(1000)
        fit, held = order[500:], order[:500]
        smallest = np.bincount(groups[fit]).min()
        rows = np.concatenate(
            [fit[half_rng.permutation(np.flatnonzero(groups[fit] == g))[:smallest]] for g in range(4)]
        )
        scaler = StandardScaler().fit(X[rows])
        accuracies = []
        for C in Cs:
            model = l1(C, 0, tol=1e-10).fit(scaler.transform(X[rows]), y[rows])
            right = model.predict(scaler.transform(X[held])) == y[held]
            accuracies.append(min(right[groups[held] == g].mean() for g in range(4)))
        curve.append(accuracies)
    np.testing.assert_allclose(cv.cv_scores_, np.transpose(curve), atol=1e-12)
    np.testing.assert_allclose(cv.scores_, np.mean(curve, axis=0), atol=1e-12)
    assert Cs[np.mean(curve, axis=0).argmax()] == cv.C_


@pytest.mark.parametrize("balance", ["subsample", "reweight"])
def test_the_stratified_tuning_curve_is_that_of_a_straight_line_script(balance):
    X, y, shortcut = shortcut_features(601, n_features=24)
    groups = 2 * y + shortcut
    # A sliver that is large enough in the whole set (7 of 6), though not in a half, and one that is not.
    ordinary = np.flatnonzero(groups == 0)
    groups[ordinary[:7]], groups[ordinary[7:12]] = 4, 5
    Cs = (1.0, 0.3, 0.1, 0.03, 0.02)
    cv = DFRClassifierCV(Cs, balance=balance, n_splits=3, n_retrains=2, random_state=0)
    cv.fit(X, y, group_labels=groups)

    rng = np.random.RandomState(0)
    rng.randint(np.iinfo(np.int32).max, size=2)  # the seeds of the refits
    scaler = StandardScaler().fit(X)  # that of the refits
    right = np.zeros((3, len(Cs), 6))
    for split, seed in enumerate(rng.randint(np.iinfo(np.int32).max, size=3)):
        half_rng = np.random.RandomState(seed)
        shuffled = half_rng.permutation(601)
        rank = half_rng.permutation(6)
        # Class after class, inside it group after group in the order of their ranks, dealt out in turn.
        dealt = sorted(range(601), key=lambda i: (y[shuffled[i]], rank[groups[shuffled[i]]], i))
        halves = shuffled[dealt[::2]], shuffled[dealt[1::2]]
        for fit, held in (halves, halves[::-1]):
            rows, weight = [], []
            for g in range(6):
                members = fit[groups[fit] == g]
                if balance == "subsample":
                    members = members[half_rng.permutation(len(members))][:3]  # half of 7
                rows.extend(members)
                weight.extend([min(1, 3 / len(members))] * len(members))
            for i, C in enumerate(Cs):
                model = l1(C, 0, tol=1e-10).fit(scaler.transform(X[rows]), y[rows], sample_weight=weight)
                hit = model.predict(scaler.transform(X[held])) == y[held]
                for g in range(6):
                    right[split, i, g] += hit[groups[held] == g].sum()
    counts = np.bincount(groups)
    np.testing.assert_allclose(cv.cv_scores_, (right / counts).min(axis=2).T, atol=1e-12)
    accuracies = right.sum(axis=0) / (3 * counts)
    # As if 6 more samples of each group had the mean accuracy of the groups.
    shrunk = (counts * accuracies + 6 * accuracies.mean(axis=1, keepdims=True)) / (counts + 6)
    worst = shrunk.min(axis=1)
    np.testing.assert_allclose(cv.scores_, worst, atol=1e-12)
    assert min((-score, C) for score, C in zip(cv.scores_, Cs, strict=True))[1] == cv.C_
    assert cv.best_score_ == cv.scores_.max()


def test_the_only_sample_of_a_class_is_fitted_on_in_both_halves_and_scored_in_neither():
    X = np.random.RandomState(0).normal(size=(41, 3))
    y = np.r_[1, np.zeros(40, dtype=int)]
    X[0] += 10
    for fit, held, _ in stratified_halves(y, y, 1, np.random.RandomState(0)):
        assert 0 in fit
        assert 0 not in held
    cv = DFRClassifierCV((1.0, 0.1), n_retrains=1, min_group_size=1, random_state=0).fit(X, y)
    # Without any coefficient all samples are of class 0, and no other is scored; but that strength is passed over.
    assert cv.scores_[1] == 1
    assert cv.C_ == 1.0
    with pytest.raises(ValueError, match=r"None of 5 splits has a sample to score on.*Use `DFRClassifier`"):
        DFRClassifierCV().fit(X[:2], y[:2])


def test_the_chosen_strength_is_refitted_as_dfr_classifier_does():
    X, y, shortcut = shortcut_features(400)
    groups = 2 * y + shortcut
    cv = DFRClassifierCV(n_retrains=3, random_state=3).fit(X, y, group_labels=groups)
    plain = DFRClassifier(C=cv.C_, n_retrains=3, random_state=3).fit(X, y, group_labels=groups)
    np.testing.assert_array_equal(cv.coef_, plain.coef_)
    np.testing.assert_array_equal(cv.intercept_, plain.intercept_)


def separated():
    y = np.tile([0, 1], 100)
    return (2.0 * y - 1)[:, None] + np.random.RandomState(0).normal(scale=0.01, size=(200, 3)), y


def test_of_equally_good_strengths_the_strongest_penalty_wins_or_as_published_the_first():
    X, y = separated()
    for Cs in ((0.3, 1.0, 0.1), (1.0, 0.1, 0.3)):
        cv = DFRClassifierCV(Cs, n_retrains=1, random_state=0).fit(X, y)
        assert (cv.scores_ == 1).all()
        assert cv.C_ == 0.1
        assert Cs[0] == DFRClassifierCV(Cs, tuning="published", n_retrains=1, random_state=0).fit(X, y).C_
        assert Cs[0] == DFRClassifierCV(Cs, cv=3, n_retrains=1, random_state=0).fit(X, y).C_


def test_a_strength_whose_refit_is_zero_is_passed_over_for_the_next_best():
    refits = {3: np.zeros((1, 2)), 1: np.zeros((1, 2)), 0: np.eye(2)[:1], 2: np.eye(2)[:1]}
    tried = []

    def refit(i):
        tried.append(i)
        return refits[i], None

    assert first_that_is_not_zero([3, 1, 0, 2], refit)[0] == 0
    assert tried == [3, 1, 0]
    # If all are, the best is.
    assert first_that_is_not_zero([3, 1], refit)[0] == 3


@pytest.fixture(scope="module")
def clusters_with_slivers():
    """Eleven groups as a clustering left them, three of them slivers; and fresh data with four groups."""
    sizes = (2428, 2149, 18, 251, 244, 2766, 3, 6, 1630, 260, 245)
    groups = np.repeat(np.arange(11), sizes)
    y = (groups >= 5).astype(int)
    shortcut = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0])[groups]
    new_y, new_shortcut = np.repeat([0, 1], 1000), np.tile([0, 1], 1000)
    rng = np.random.RandomState(0)

    def embed(y, shortcut):
        X = rng.normal(size=(len(y), 128))
        X[:, :2] += 0.8 * (2 * y - 1)[:, None]
        X[:, 2:4] += 0.8 * (2 * shortcut - 1)[:, None]
        return X

    X = embed(y, shortcut)
    sliver = np.isin(groups, [2, 6, 7])
    # They are slivers because they look odd: the class does not show.
    X[sliver, :2] = rng.normal(size=(sliver.sum(), 2))
    return (X, y, groups), (embed(new_y, new_shortcut), new_y, 2 * new_y + new_shortcut)


def worst_of(dfr, X, y, groups):
    right = dfr.predict(X) == y
    return min(right[groups == group].mean() for group in np.unique(groups))


def test_published_tuning_fooled_by_a_sliver_is_reported(clusters_with_slivers):
    (X, y, groups), fresh = clusters_with_slivers
    told = r"DFRClassifierCV predicts the same class .* for all 10000 samples\. With C=0\.03, 0 of 128 .* as 6 samples"
    with pytest.warns(PredictionWarning, match=told):
        dfr = DFRClassifierCV(tuning="published", random_state=0).fit(X, y, group_labels=groups)
    assert dfr.C_ == 0.03
    assert not dfr.coef_.any()
    assert worst_of(dfr, *fresh) == 0


def test_the_same_sliver_does_not_fool_the_default_tuning(clusters_with_slivers):
    (X, y, groups), fresh = clusters_with_slivers
    dfr = DFRClassifierCV(random_state=0).fit(X, y, group_labels=groups)
    assert dfr.subsample_size_ == 6
    assert worst_of(dfr, *fresh) > 0.75


@pytest.mark.parametrize("seed", range(3))
def test_halves_are_standardized_as_the_refit_is(seed):
    # On a scaler of balanced halves no intercept is needed, and strong penalties do well that fail in the refit.
    rng = np.random.RandomState(seed)
    y = (np.arange(1000) < 100).astype(int)
    X = rng.normal(size=(1000, 16))
    X[:, 0] += 3 * y
    dfr = DFRClassifierCV(random_state=0).fit(X, y)
    assert worst_of(dfr, X, y, y) > 0.85


def test_if_every_refit_is_zero_the_best_strength_is_returned_with_a_warning():
    X, y = separated()
    with pytest.warns(PredictionWarning, match="With C=1e-07, 0 of 3 coefficients are not zero"):
        dfr = DFRClassifierCV((1e-6, 1e-7), n_retrains=1, random_state=0).fit(X, y)
    assert dfr.C_ == 1e-7


@pytest.mark.parametrize("balance", ["subsample", "reweight"])
# The strongest penalties leave nothing.
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
def test_with_the_splits_of_a_grid_search_the_same_strength_is_chosen_from_the_same_curve(balance):
    X, y, shortcut = shortcut_features(400, n_features=24)
    blocks = make_blocks(embedding=X, cluster=shortcut)
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, 2 * y + shortcut))
    Cs = [1.0, 0.1, 0.03, 0.01]

    def worst_pseudo_group(estimator, X_fold, y_fold):
        right = estimator.predict(X_fold) == y_fold
        groups = 2 * y_fold + X_fold["cluster"]
        return min(right[groups == group].mean() for group in np.unique(groups))

    dfr = DFRClassifier(n_retrains=2, balance=balance, random_state=0)
    search = GridSearchCV(dfr, {"C": Cs}, scoring=worst_pseudo_group, cv=splits).fit(blocks, y)
    cv = DFRClassifierCV(Cs, cv=splits, n_retrains=2, balance=balance, random_state=0).fit(blocks, y)
    np.testing.assert_allclose(cv.scores_, search.cv_results_["mean_test_score"])
    assert search.best_params_["C"] == cv.C_
    np.testing.assert_array_equal(cv.coef_, search.best_estimator_.coef_)


@pytest.mark.parametrize(
    "context, n_jobs, n_threads",
    [
        ({}, None, 1),
        ({"backend": "loky"}, None, 1),
        ({"backend": "loky", "n_jobs": 2}, None, 1),
        ({"backend": "threading", "n_jobs": 2}, None, 2),
        ({"backend": "loky"}, 2, 2),
    ],
)
def test_refits_run_in_threads_whatever_the_backend_with_the_same_result(
    context, n_jobs, n_threads, monkeypatch
):
    X, y, shortcut = shortcut_features(300)
    expected = DFRClassifierCV(n_retrains=2, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    backends = []

    class Spy(joblib.Parallel):
        def __call__(self, tasks):
            backends.append((type(self._backend).__name__, self.n_jobs))
            return super().__call__(tasks)

    monkeypatch.setattr("skexmap.retraining._dfr.Parallel", Spy)
    with joblib.parallel_config(**context):
        dfr = DFRClassifierCV(n_retrains=2, random_state=0, n_jobs=n_jobs)
        dfr.fit(X, y, group_labels=2 * y + shortcut)
    assert {n for _, n in backends} == {n_threads}
    assert {name for name, _ in backends} <= {"ThreadingBackend", "SequentialBackend"}
    np.testing.assert_array_equal(dfr.coef_, expected.coef_)
    np.testing.assert_array_equal(dfr.cv_scores_, expected.cv_scores_)


def test_refits_run_on_one_thread_of_blas_each(monkeypatch):
    X, y, shortcut = shortcut_features(300)
    seen = []

    def spied(*args):
        seen.extend(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")
        return l1_logistic_path(*args)

    monkeypatch.setattr("skexmap.retraining._dfr.l1_logistic_path", spied)
    with threadpool_limits(2, "blas"):
        DFRClassifier(n_retrains=2, n_jobs=2, random_state=0).fit(X, y, 2 * y + shortcut)
        assert 1 not in [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
    assert set(seen) == {1}


def test_verbose_dfr_shows_a_bar_of_its_halvings_and_one_of_its_refits(capsys):
    X, y, shortcut = shortcut_features(300)
    DFRClassifierCV(n_retrains=4, n_splits=3, random_state=0, verbose=True).fit(X, y, 2 * y + shortcut)
    shown = capsys.readouterr().err
    assert "halvings: 100%" in shown
    assert "3/3" in shown
    assert "refits: 100%" in shown
    assert "4/4" in shown
    DFRClassifierCV(n_retrains=4, n_splits=3, random_state=0).fit(X, y, 2 * y + shortcut)
    assert capsys.readouterr() == ("", "")


def test_a_published_half_without_a_class_still_scores():
    # One sample of class 1 in a half is enough to land on either side.
    X = np.random.RandomState(0).normal(size=(30, 3))
    y = np.r_[1, np.zeros(29, dtype=int)]
    X[0] += 10
    cv = DFRClassifierCV(
        (1.0, 0.1), tuning="published", n_splits=8, n_retrains=1, min_group_size=1, random_state=0
    )
    scores = cv.fit(X, y).cv_scores_
    assert np.isfinite(scores).all()
    assert (scores[:, (scores == 0).all(axis=0)] == 0).all()


def test_a_split_without_any_group_to_score_on_does_not_count():
    X, y, shortcut = shortcut_features(300)
    groups = np.where(np.arange(300) < 200, 2 * y + shortcut, -1)
    first, second, third = np.split(np.arange(300), 3)
    halves = [(first, second), (second, first)]
    dfr = DFRClassifierCV(cv=halves, n_retrains=2, min_group_size=1, random_state=0)
    expected = dfr.fit(X, y, group_labels=groups).scores_
    with_empty = clone(dfr).set_params(cv=[(first, third), *halves]).fit(X, y, group_labels=groups)
    assert np.isnan(with_empty.cv_scores_[:, 0]).all()
    np.testing.assert_array_equal(with_empty.scores_, expected)
    with pytest.raises(ValueError, match="None of 1 splits has a sample to score on"):
        clone(dfr).set_params(cv=[(first, third)]).fit(X, y, group_labels=groups)


@pytest.mark.parametrize("Cs", [(), (1.0, 0.0), (1.0, -2.0), (np.nan,)])
def test_strengths_must_be_positive(Cs):
    X, y, _ = shortcut_features(50)
    with pytest.raises(ValueError, match="non-empty sequence of positive numbers"):
        DFRClassifierCV(Cs).fit(X, y)
