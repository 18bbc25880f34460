import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skexmap._validation import l1_logistic_regression
from skexmap.retraining._l1_logistic import l1_logistic


def objective(solution, X, t, weight):
    margin = t * (X @ solution[:-1] + solution[-1])
    return weight @ np.logaddexp(0, -margin) + np.abs(solution).sum()


def problem(n, d, seed, latent=8):
    rng = np.random.RandomState(seed)
    codes = rng.normal(size=(n, latent))
    X = codes @ rng.normal(size=(latent, d)) + 0.5 * rng.normal(size=(n, d))
    t = np.where(codes[:, 0] + 0.5 * rng.normal(size=n) > 0, 1.0, -1.0)
    return (X - X.mean(axis=0)) / X.std(axis=0), t


@pytest.mark.parametrize("n, d", [(60, 300), (400, 30), (120, 120)])
@pytest.mark.parametrize("C", [0.01, 0.3, 1.0])
def test_coefficients_are_those_of_liblinear_at_a_tight_tolerance(n, d, C):
    for seed in range(3):
        X, t = problem(n, d, seed)
        ours = l1_logistic(X, t, np.full(n, C))
        model = l1_logistic_regression(C, tol=1e-9, max_iter=100_000, random_state=0).fit(X, t)
        np.testing.assert_allclose(ours, np.append(model.coef_, model.intercept_), atol=1e-3)


@pytest.mark.parametrize("C", [0.05, 1.0, 1e3])
def test_no_direction_lowers_the_objective(C):
    X, t = problem(80, 160, 0)
    weight = np.full(80, C)
    w = l1_logistic(X, t, weight)
    gradient = -(t * weight / (1 + np.exp(t * (X @ w[:-1] + w[-1])))) @ np.column_stack([X, np.ones(80)])
    on = w != 0
    np.testing.assert_allclose(gradient[on], -np.sign(w[on]), atol=1e-5)
    assert (np.abs(gradient[~on]) <= 1 + 1e-5).all()


def test_a_warm_start_changes_the_way_and_not_the_end():
    X, t = problem(100, 200, 0)
    cold = l1_logistic(X, t, np.full(100, 0.7))
    warm = l1_logistic(X, t, np.full(100, 0.7), w_init=l1_logistic(X, t, np.full(100, 0.1)))
    np.testing.assert_allclose(cold, warm, atol=1e-5)


def test_repeated_features_and_zero_features_are_supported():
    X, t = problem(60, 20, 0)
    twice = np.hstack([X, X, np.zeros((60, 1))])
    weight = np.full(60, 0.5)
    repeated, single = l1_logistic(twice, t, weight), l1_logistic(X, t, weight)
    assert objective(repeated, twice, t, weight) == pytest.approx(objective(single, X, t, weight), abs=1e-6)
    assert repeated[40] == 0


def test_features_of_very_different_scales_are_solved_too():
    X, t = problem(100, 40, 0)
    X = X * np.geomspace(1e-3, 1e3, 40)
    weight = np.full(100, 1.0)
    ours = l1_logistic(X, t, weight)
    model = l1_logistic_regression(1.0, tol=1e-9, max_iter=1_000_000, random_state=0).fit(X, t)
    theirs = np.append(model.coef_, model.intercept_)
    assert objective(ours, X, t, weight) <= objective(theirs, X, t, weight) + 1e-6


def test_the_strongest_useful_penalty_is_the_largest_slope_at_zero():
    X, t = problem(50, 30, 0)
    slope = np.abs(0.5 * t @ np.column_stack([X, np.ones(50)])).max()
    assert not l1_logistic(X, t, np.full(50, 0.999 / slope)).any()
    assert np.count_nonzero(l1_logistic(X, t, np.full(50, 1.001 / slope))) == 1


def test_a_fit_that_does_not_get_there_says_so(monkeypatch):
    monkeypatch.setattr("skexmap.retraining._l1_logistic._MAX_ROUNDS", 2)
    X, t = problem(100, 200, 0)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        l1_logistic(X, t, np.full(100, 1.0))
