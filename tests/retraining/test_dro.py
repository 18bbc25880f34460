import numpy as np
import pytest
from scipy.optimize import minimize

from skexmap.retraining import CVaRDROClassifier, ERMClassifier, GroupDROClassifier


def test_group_dro_comes_near_the_smallest_possible_loss_of_the_worst_group(
    shortcut_data, accuracies_with_and_against_the_shortcut
):
    X, y, shortcut = shortcut_data()
    groups = 2 * y + shortcut
    dro = GroupDROClassifier(eta=0.1, l2=0.0, n_steps=4000, random_state=0).fit(X, y, group_labels=groups)

    def worst_loss(w):
        losses = np.logaddexp(0, -(2 * y - 1) * (X @ w[:2] + w[2]))
        return max(losses[groups == g].mean() for g in range(4))

    best = min(minimize(worst_loss, start, method="Nelder-Mead").fun for start in ([1, 0, 0], [0, 0, 0]))
    erm = ERMClassifier().fit(X, y)
    assert worst_loss(np.append(dro.coef_, dro.intercept_)) < best + 0.05
    assert worst_loss(np.append(erm.coef_, erm.intercept_)) > best + 0.5
    against = [accuracies_with_and_against_the_shortcut(model)[1] for model in (erm, dro)]
    assert against[1] > against[0] + 0.2


def test_the_adjustment_of_group_dro_makes_small_groups_count_for_more(shortcut_data):
    X, y, shortcut = shortcut_data()
    groups = 2 * y + shortcut
    plain, adjusted = (
        GroupDROClassifier(adjustment=c, random_state=0).fit(X, y, group_labels=groups) for c in (0.0, 5.0)
    )
    small = np.argsort(plain.group_counts_)[:2]
    assert adjusted.group_weights_[small].sum() > plain.group_weights_[small].sum() + 0.05


def penalised_shortcut_data(seed, agreement):
    """Return one feature of the class and four of the shortcut: a penalised model would rather use the four."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=2000)
    shortcut = np.where(rng.uniform(size=2000) < agreement, y, 1 - y)
    X = np.column_stack([2 * y - 1, *4 * [2 * shortcut - 1]]) + 0.3 * rng.normal(size=(2000, 5))
    return X, y, shortcut


def test_cvar_lowers_the_loss_of_the_worst_share_and_helps_the_samples_against_the_shortcut():
    X, y, _ = penalised_shortcut_data(0, 0.95)
    mean, cvar = (CVaRDROClassifier(alpha, l2=0.1, random_state=0).fit(X, y) for alpha in (1.0, 0.05))

    def worst_mean(model):
        losses = -np.log(model.predict_proba(X)[np.arange(len(y)), y])
        return np.sort(losses)[-len(y) // 20 :].mean()

    assert worst_mean(cvar) < 0.6 * worst_mean(mean)
    X, y, shortcut = penalised_shortcut_data(1, 0.5)
    against = shortcut != y
    assert mean.score(X[against], y[against]) < 0.3
    assert cvar.score(X[against], y[against]) > 0.95


def rare_class(share, seed, n=1000, n_features=16):
    rng = np.random.RandomState(seed)
    y = (np.arange(n) < share * n).astype(int)
    X = rng.normal(size=(n, n_features))
    X[:, 0] += 3 * y
    return X, y


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_cvar_comes_near_the_smallest_possible_loss_of_the_worst_share(share):
    X, y = rare_class(share, seed=1)
    cvar = CVaRDROClassifier(random_state=0).fit(X, y)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)

    def loss(w):
        losses = np.logaddexp(0, -(2 * y - 1) * (Z @ w[:-1] + w[-1]))
        worst = np.sort(losses)[-200:]
        return worst.mean() + 0.005 * (w[:-1] ** 2).sum()

    fitted = np.append(cvar.coef_ * X.std(axis=0), cvar.intercept_ + cvar.coef_ @ X.mean(axis=0))
    best = minimize(loss, fitted, method="Powell", options={"maxiter": 20}).fun
    assert loss(fitted) < best + 2e-3
    erm = minimize(lambda w: np.logaddexp(0, -(2 * y - 1) * (Z @ w[:-1] + w[-1])).mean(), 0 * fitted).x
    assert loss(fitted) < loss(erm)
