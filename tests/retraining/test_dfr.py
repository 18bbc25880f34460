from functools import partial

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skexmap._blocks import block_columns, blocks_to_columns, make_blocks
from skexmap._validation import l1_logistic_regression
from skexmap.datasets import make_shortcut_features
from skexmap.exceptions import PredictionWarning
from skexmap.retraining import DFRClassifier, DFRClassifierCV
from skexmap.retraining._balance import reweight_groups, stratified_halves, subsample_groups, subsample_size
from skexmap.retraining._dfr_cv import first_that_is_not_zero
from skexmap.retraining._group_scores import (
    count_right,
    shrunk_worst_group_accuracies,
    worst_group_accuracies,
)
from skexmap.retraining._linear import fold_scaler, one_versus_rest_probabilities, predict_codes

shortcut_features = partial(make_shortcut_features, random_scale=True, random_state=0)


def l1(C, seed=None, **params):
    return l1_logistic_regression(C, max_iter=1000, random_state=seed, **params)


# -- balancing
# ---------------------------------------------------------------------------------------------------


def test_the_smallest_group_of_at_least_min_group_size_sets_the_subsample_size():
    codes = np.repeat([0, 1, 2, 3, 5], [50, 9, 5, 6, 7])
    assert subsample_size(codes, 6) == 6
    assert subsample_size(codes, 7) == 7
    assert subsample_size(codes, 5) == 5
    # Group 4 has no sample and cannot set it.
    assert subsample_size(codes, 1) == 5
    assert subsample_size(codes, 50) == 50
    assert subsample_size(codes, 51) is None


def test_smaller_groups_stay_in_whole():
    codes = np.repeat([0, 1, 2], [50, 9, 5])
    rows, weight = subsample_groups(codes, np.random.RandomState(0), 9)
    assert np.bincount(codes[rows]).tolist() == [9, 9, 5]
    assert len(np.unique(rows)) == len(rows)
    assert weight is None


def test_without_a_size_nothing_is_cut():
    codes = np.repeat([0, 1], [4, 2])
    assert subsample_groups(codes, np.random.RandomState(0), None)[0].tolist() == list(range(6))
    assert reweight_groups(codes, np.random.RandomState(0), None)[1].tolist() == [1] * 6


def test_reweighting_weighs_each_sample_by_its_chance_of_being_drawn():
    codes = np.repeat([0, 1, 2], [20, 8, 3])
    rng = np.random.RandomState(0)
    drawn = np.zeros(len(codes))
    for _ in range(4000):
        drawn[subsample_groups(codes, rng, 8)[0]] += 1 / 4000
    rows, weight = reweight_groups(codes, rng, 8)
    assert rows.tolist() == list(range(len(codes)))
    np.testing.assert_allclose(weight, drawn, atol=0.04)
    np.testing.assert_allclose(weight, np.repeat([8 / 20, 1, 1], [20, 8, 3]))


@pytest.mark.parametrize("DFR", [DFRClassifier, DFRClassifierCV])
def test_the_subsample_size_shows_a_sliver(DFR):
    X, y, shortcut = shortcut_features(400, agreement=0.75)
    groups = 2 * y + shortcut
    groups[np.flatnonzero(groups == 0)[:7]] = 9
    sizes = np.unique(groups, return_counts=True)[1]
    fitted = DFR(n_retrains=1, random_state=0).fit(X, y, group_labels=groups)
    assert fitted.subsample_size_ == 7
    fitted = DFR(n_retrains=1, min_group_size=8, random_state=0).fit(X, y, group_labels=groups)
    assert fitted.subsample_size_ == np.sort(sizes)[1]
    # Classes as groups may all be small: nothing is cut.
    rows = np.r_[np.flatnonzero(y == 0)[:4], np.flatnonzero(y == 1)[:2]]
    assert DFR(n_retrains=1, random_state=0).fit(X[rows], y[rows]).subsample_size_ == 4


# -- one strength
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_dfr_is_the_average_of_balanced_refits_in_the_space_of_one_scaler(n_classes):
    X, y, shortcut = shortcut_features(600, n_classes, agreement=0.7)
    groups = y * n_classes + shortcut
    dfr = DFRClassifier(C=0.3, n_retrains=4, random_state=0).fit(X, y, group_labels=groups)

    scaler = StandardScaler().fit(X)
    smallest = np.bincount(groups).min()
    coefs, intercepts = [], []
    for seed in np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=4):
        rng = np.random.RandomState(seed)
        rows = np.concatenate(
            [rng.permutation(np.flatnonzero(groups == group))[:smallest] for group in range(n_classes**2)]
        )
        positives = [1] if n_classes == 2 else range(n_classes)
        models = [l1(0.3, 0, tol=1e-10).fit(scaler.transform(X[rows]), y[rows] == c) for c in positives]
        coefs.append([model.coef_[0] for model in models])
        intercepts.append([model.intercept_[0] for model in models])
    scores = scaler.transform(X) @ np.mean(coefs, axis=0).T + np.mean(intercepts, axis=0)

    # The coefficients apply to raw embeddings.
    np.testing.assert_allclose(X @ dfr.coef_.T + dfr.intercept_, scores, atol=1e-3)
    expected = (scores[:, 0] > 0) if n_classes == 2 else scores.argmax(axis=1)
    assert (dfr.predict(X) == expected).all()


def test_dfr_raises_the_accuracy_of_the_group_against_the_shortcut():
    X, y, shortcut = shortcut_features(2000, agreement=0.98)
    X_new, y_new, shortcut_new = shortcut_features(2000, agreement=0.5, random_state=1)
    against = shortcut_new != y_new
    by_class = DFRClassifier(random_state=0).fit(X, y)
    by_group = DFRClassifier(random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    assert by_class.score(X_new[against], y_new[against]) < 0.6
    assert by_group.score(X_new[against], y_new[against]) > 0.8


def test_reweighting_agrees_with_many_averaged_subsamples_on_predictions():
    X, y, shortcut = shortcut_features(1000)
    groups = 2 * y + shortcut
    subsampled = DFRClassifier(C=0.1, n_retrains=50, random_state=0).fit(X, y, group_labels=groups)
    reweighted = DFRClassifier(C=0.1, balance="reweight").fit(X, y, group_labels=groups)
    assert (subsampled.predict(X) == reweighted.predict(X)).mean() > 0.97


def test_reweighting_is_one_weighted_logistic_regression():
    X, y, shortcut = shortcut_features(500)
    groups = 2 * y + shortcut
    dfr = DFRClassifier(C=0.2, balance="reweight").fit(X, y, group_labels=groups)
    counts = np.bincount(groups)
    Z = StandardScaler().fit_transform(X)
    model = l1(0.2, 0, tol=1e-10).fit(Z, y, sample_weight=(counts.min() / counts)[groups])
    np.testing.assert_allclose(dfr.decision_function(X), model.decision_function(Z), atol=1e-3)


def test_a_constant_feature_gets_finite_coefficients():
    X, y, shortcut = shortcut_features(300)
    X[:, 5] = 7.0
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    assert np.isfinite(dfr.coef_).all()
    assert dfr.coef_[0, 5] == 0


def test_folding_a_scaler_keeps_every_score():
    rng = np.random.RandomState(0)
    X, coef, intercept = rng.normal(size=(20, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    mean, scale = rng.normal(size=4), rng.uniform(0.1, 3, size=4)
    folded_coef, folded_intercept = fold_scaler(coef, intercept, mean, scale)
    np.testing.assert_allclose(
        X @ folded_coef.T + folded_intercept, (X - mean) / scale @ coef.T + intercept, atol=1e-12
    )


def test_without_standardising_the_weights_are_those_of_the_raw_features():
    X, y, shortcut = shortcut_features(400)
    groups = 2 * y + shortcut
    dfr = DFRClassifier(C=0.5, balance="reweight", standardize=False).fit(X, y, group_labels=groups)
    counts = np.bincount(groups)
    model = l1(0.5, 0, tol=1e-10).fit(X, y, sample_weight=(counts.min() / counts)[groups])
    np.testing.assert_allclose(dfr.coef_, model.coef_, atol=1e-3)


def test_probabilities_of_two_classes_are_the_sigmoid_of_the_score():
    X, y, _ = shortcut_features(300)
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(X, y)
    np.testing.assert_allclose(dfr.predict_proba(X)[:, 1], 1 / (1 + np.exp(-dfr.decision_function(X))))


def test_one_versus_rest_probabilities_sum_to_one_even_where_every_class_is_rejected():
    scores = np.array([[0.0, 1.0, -1.0], [-800.0, -801.0, -900.0]])
    probabilities = one_versus_rest_probabilities(scores)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    odds = 1 / (1 + np.exp(-scores[0]))
    np.testing.assert_allclose(probabilities[0], odds / odds.sum())


# -- where the groups come from
# ----------------------------------------------------------------------------------


def test_blocks_form_groups_from_class_and_cluster():
    X, y, shortcut = shortcut_features(400)
    blocks = make_blocks(embedding=X, cluster=shortcut)
    from_blocks = DFRClassifier(n_retrains=3, random_state=0).fit(blocks, y)
    by_hand = DFRClassifier(n_retrains=3, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    np.testing.assert_array_equal(from_blocks.coef_, by_hand.coef_)
    assert from_blocks.groups_.tolist() == [0, 1, 2, 3]
    assert from_blocks.group_counts_.tolist() == np.bincount(2 * y + shortcut).tolist()


def test_clusters_formed_inside_each_class_are_read_from_the_column_of_the_class():
    X, y, shortcut = shortcut_features(400)
    per_class = np.full((400, 2), 7)
    per_class[np.arange(400), y] = shortcut
    local = DFRClassifier(n_retrains=2, random_state=0).fit(make_blocks(embedding=X, cluster=per_class), y)
    flat = DFRClassifier(n_retrains=2, random_state=0).fit(make_blocks(embedding=X, cluster=shortcut), y)
    np.testing.assert_array_equal(local.coef_, flat.coef_)


def test_group_labels_go_before_clusters():
    X, y, shortcut = shortcut_features(400)
    blocks = make_blocks(embedding=X, cluster=np.random.RandomState(0).randint(3, size=400))
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(blocks, y, group_labels=2 * y + shortcut)
    plain = DFRClassifier(n_retrains=2, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    np.testing.assert_array_equal(dfr.coef_, plain.coef_)


def test_block_columns_of_a_data_frame_are_read_like_the_structured_array():
    pd = pytest.importorskip("pandas")
    X, y, shortcut = shortcut_features(300)
    blocks = make_blocks(embedding=X, cluster=shortcut)
    frame = pd.DataFrame(blocks_to_columns(blocks), columns=block_columns(blocks))
    by_frame = DFRClassifier(n_retrains=2, random_state=0).fit(frame, y)
    by_array = DFRClassifier(n_retrains=2, random_state=0).fit(blocks, y)
    np.testing.assert_allclose(by_frame.coef_, by_array.coef_, atol=1e-9)
    np.testing.assert_array_equal(by_frame.predict(frame), by_array.predict(blocks))


def test_on_a_plain_array_the_groups_are_the_classes():
    X, y, _ = shortcut_features(300)
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(X, y)
    assert dfr.groups_.tolist() == [0, 1]
    assert dfr.group_counts_.tolist() == np.bincount(y).tolist()


def test_samples_of_no_group_change_nothing():
    X, y, shortcut = shortcut_features(400)
    groups = 2 * y + shortcut
    noise = np.random.RandomState(0).normal(scale=50, size=(30, X.shape[1]))
    padded = make_blocks(embedding=np.vstack([noise, X]), cluster=np.concatenate([np.full(30, -1), shortcut]))
    padded_y = np.concatenate([np.random.RandomState(1).randint(2, size=30), y])
    with_noise = DFRClassifierCV(n_retrains=2, random_state=0).fit(padded, padded_y)
    without = DFRClassifierCV(n_retrains=2, random_state=0).fit(make_blocks(embedding=X, cluster=shortcut), y)
    assert with_noise.group_counts_.tolist() == np.bincount(groups).tolist()
    np.testing.assert_allclose(with_noise.coef_, without.coef_)
    np.testing.assert_array_equal(with_noise.cv_scores_, without.cv_scores_)


def test_the_number_minus_1_means_no_group_in_an_object_array_too():
    X, y, shortcut = shortcut_features(300)
    groups = (2 * y + shortcut).astype(object)
    groups[:20] = -1
    dfr = DFRClassifier(n_retrains=1, random_state=0).fit(X, y, group_labels=groups)
    assert dfr.groups_.tolist() == [0, 1, 2, 3]
    assert dfr.group_counts_.sum() == 280


def test_labels_and_groups_may_be_strings():
    X, y, shortcut = shortcut_features(300)
    birds, water = np.array(["land", "water"])[y], np.array(["dry", "wet"])[shortcut]
    groups = np.char.add(birds, water)
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(X, birds, group_labels=groups)
    numbered = DFRClassifier(n_retrains=2, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    assert dfr.groups_.tolist() == ["landdry", "landwet", "waterdry", "waterwet"]
    np.testing.assert_array_equal(dfr.coef_, numbered.coef_)
    assert set(dfr.predict(X)) == {"land", "water"}


def test_predict_reads_only_the_embedding():
    X, y, shortcut = shortcut_features(300)
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(make_blocks(embedding=X, cluster=shortcut), y)
    np.testing.assert_array_equal(dfr.predict(X), dfr.predict(make_blocks(embedding=X)))


# -- choosing the strength
# ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", range(20))
def test_every_group_and_every_class_is_halved_and_both_halves_are_used(seed):
    y = np.repeat([0, 0, 0, 1, 1, 1, 1], [31, 8, 1, 3, 1, 5, 1])
    groups = np.repeat(np.arange(7), [31, 8, 1, 3, 1, 5, 1])
    away = np.arange(len(y)) == 4
    halves = list(stratified_halves(y, np.where(away, -1, groups), 6, np.random.RandomState(seed)))
    (first, second, size), (again, other, same_size) = halves
    assert sorted(np.r_[first, second]) == np.flatnonzero(~away).tolist()
    assert (again == second).all()
    assert (other == first).all()
    assert size == same_size == 4
    assert abs(len(first) - len(second)) <= 1
    for labels in (groups, y):
        one, two = (np.bincount(labels[half], minlength=7) for half in (first, second))
        assert np.abs(one - two).max() <= 1


def test_the_last_samples_of_odd_groups_are_spread_over_the_splits():
    y = groups = np.repeat([0, 1], [21, 20])
    groups = np.r_[np.repeat([0, 1, 2], 7), np.full(20, 3)]
    rng = np.random.RandomState(0)
    larger = [np.bincount(groups[next(stratified_halves(y, groups, 6, rng))[0]])[:3] - 3 for _ in range(300)]
    # Two of three in the first half, each of them equally often.
    assert (np.sum(larger, axis=1) == 2).all()
    assert np.abs(np.mean(larger, axis=0) - 2 / 3).max() < 0.1


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


def test_a_group_that_no_strength_serves_leaves_the_choice_to_the_mean_over_the_groups():
    counts = np.array([10, 100, 0, 4])
    hopeless = np.array([[9, 40, 0, 0], [9, 80, 0, 0], [8, 93, 0, 0]])
    scores = shrunk_worst_group_accuracies(hopeless, counts, 6)
    np.testing.assert_allclose(scores, 6 / (4 + 6) * np.array([1.3, 1.7, 1.73]) / 3)


def test_one_right_answer_in_a_sliver_does_not_outweigh_a_large_group():
    counts = np.array([500, 500, 2])
    right = np.array([[450, 450, 1], [300, 300, 2]])
    assert shrunk_worst_group_accuracies(right, counts, 6).argmax() == 0
    assert shrunk_worst_group_accuracies(right, counts, 0).argmax() == 1


def test_a_strength_whose_refit_is_zero_is_passed_over_for_the_next_best():
    refits = {3: np.zeros((1, 2)), 1: np.zeros((1, 2)), 0: np.eye(2)[:1], 2: np.eye(2)[:1]}
    tried = []

    def refit(i):
        tried.append(i)
        return refits[i], i

    assert first_that_is_not_zero([3, 1, 0, 2], refit)[::2] == (0, 0)
    assert tried == [3, 1, 0]
    # If all are, the best is.
    assert first_that_is_not_zero([3, 1], refit)[::2] == (3, 3)


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
def test_halves_are_standardised_as_the_refit_is(seed):
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


def test_the_result_does_not_depend_on_the_number_of_threads():
    X, y, shortcut = shortcut_features(300)
    one = DFRClassifierCV(n_retrains=4, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    two = DFRClassifierCV(n_retrains=4, random_state=0, n_jobs=2).fit(X, y, group_labels=2 * y + shortcut)
    np.testing.assert_array_equal(one.coef_, two.coef_)
    np.testing.assert_array_equal(one.cv_scores_, two.cv_scores_)


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


def test_small_and_absent_groups_in_the_score():
    correct = np.array([[True, False], [True, True], [False, True], [False, True]])

    def worst(*codes):
        return worst_group_accuracies(*count_right(correct, np.array(codes), 4)).tolist()

    assert worst(0, 0, 2, 2) == [0.0, 0.5]
    assert worst(0, 0, -1, -1) == [1.0, 0.5]
    assert np.isnan(worst(-1, -1, -1, -1)).all()


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


def test_codes_of_one_score_and_of_many():
    assert predict_codes(np.array([[0.3], [-0.3], [0.0]])).tolist() == [1, 0, 0]
    assert predict_codes(np.array([[0.3, 0.5], [1.0, -0.3]])).tolist() == [1, 0]


# -- metadata routing
# --------------------------------------------------------------------------------------------


def test_group_labels_given_to_a_search_do_not_reach_fit_unless_asked_for():
    X, y, shortcut = shortcut_features(300)
    groups = 2 * y + shortcut
    seen = []

    def worst(y_true, y_pred, *, group_labels):
        seen.append(len(group_labels))
        return min((y_true == y_pred)[group_labels == g].mean() for g in np.unique(group_labels))

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(worst).set_score_request(group_labels=True)
        dfr = DFRClassifier(n_retrains=2, random_state=0)
        search = GridSearchCV(dfr, {"C": [1.0, 0.1]}, scoring=scorer, cv=3).fit(X, y, group_labels=groups)
        assert seen
        assert search.best_estimator_.groups_.tolist() == [0, 1]
        asked = clone(dfr).set_fit_request(group_labels=True)
        search = GridSearchCV(asked, {"C": [1.0, 0.1]}, scoring=scorer, cv=3).fit(X, y, group_labels=groups)
        assert search.best_estimator_.groups_.tolist() == [0, 1, 2, 3]


# -- bad input
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("DFR", [DFRClassifier, DFRClassifierCV])
class TestBadInput:
    def test_one_class_only(self, DFR):
        with pytest.raises(ValueError, match=r"at least 2 classes, but y holds only one class: .*1"):
            DFR().fit(np.ones((20, 3)), np.ones(20, dtype=int))

    def test_y_of_another_length(self, DFR):
        with pytest.raises(ValueError, match="y has 19 entries for 20 samples"):
            DFR().fit(np.ones((20, 3)), np.tile([0, 1], 10)[:19])

    def test_group_labels_of_another_length(self, DFR):
        X, y, _ = shortcut_features(50)
        with pytest.raises(ValueError, match="49 entries for 50 samples"):
            DFR().fit(X, y, group_labels=np.zeros(49))

    def test_no_group_of_min_group_size(self, DFR):
        X, y, _ = shortcut_features(50)
        with pytest.raises(
            ValueError, match=r"All 10 groups have fewer than min_group_size=6 samples \(largest: 5\)"
        ):
            DFR().fit(X, y, group_labels=np.arange(50) % 10)

    def test_nan_in_the_embedding(self, DFR):
        X, y, _ = shortcut_features(50)
        X[3, 2] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            DFR().fit(make_blocks(embedding=X, cluster=y), y)

    def test_heatmaps_without_clusters(self, DFR):
        X, y, _ = shortcut_features(50)
        blocks = make_blocks(embedding=X, heatmap=X.reshape(50, 1, 2, 5))
        with pytest.raises(ValueError, match=r"needs the block 'cluster'.*clusterer step"):
            DFR().fit(blocks, y)

    def test_clusters_without_embedding_name_the_argument(self, DFR):
        _, y, shortcut = shortcut_features(50)
        with pytest.raises(ValueError, match="return_embedding=True"):
            DFR().fit(make_blocks(cluster=shortcut), y)

    def test_a_pipeline_that_delivers_only_the_cluster_column_names_the_argument(self, DFR):
        X, y, _ = shortcut_features(50)
        cluster_column = FunctionTransformer(lambda X: (X[:, :1] > 5).astype(int))
        with pytest.raises(ValueError, match=r"single column of integers.*return_embedding=True"):
            make_pipeline(cluster_column, DFR()).fit(X, y)

    def test_all_samples_belong_to_no_group(self, DFR):
        X, y, _ = shortcut_features(50)
        with pytest.raises(ValueError, match=r"All 50 samples belong to no group"):
            DFR().fit(make_blocks(embedding=X, cluster=np.full(50, -1)), y)

    def test_a_class_without_a_group(self, DFR):
        X, y, _ = shortcut_features(50)
        with pytest.raises(ValueError, match=r"No sample of 1 of 2 classes \(\[1\]\) is left"):
            DFR().fit(X, y, group_labels=np.where(y == 1, -1, 0))

    def test_local_clusters_of_other_classes(self, DFR):
        X, y, _ = shortcut_features(50)
        with pytest.raises(ValueError, match=r"each of 3 classes, but y holds 2"):
            DFR().fit(make_blocks(embedding=X, cluster=np.zeros((50, 3), dtype=int)), y)


@pytest.mark.parametrize("Cs", [(), (1.0, 0.0), (1.0, -2.0), (np.nan,)])
def test_strengths_must_be_positive(Cs):
    X, y, _ = shortcut_features(50)
    with pytest.raises(ValueError, match="non-empty sequence of positive numbers"):
        DFRClassifierCV(Cs).fit(X, y)


def test_the_l1_model_of_every_scikit_learn_is_sparse_and_minimises_the_l1_objective():
    X, y, _ = shortcut_features(200, n_features=34)
    X = StandardScaler().fit_transform(X)
    model = l1(0.05, 0, tol=1e-8).fit(X, y)
    ridge = LogisticRegression(C=0.05).fit(X, y)
    assert (model.coef_ == 0).mean() > 0.3

    def objective(coef, intercept):
        loss = np.logaddexp(0, -(2 * y - 1) * (X @ coef.ravel() + intercept)).sum()
        return np.abs(coef).sum() + np.abs(intercept).sum() + 0.05 * loss

    assert objective(model.coef_, model.intercept_) < objective(ridge.coef_, ridge.intercept_)
