import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from skexmap.datasets import make_shortcut_features
from skexmap.retraining import CVaRDROClassifier, CVaRDROLoss


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.33, 1.0])
def test_cvar_loss_is_the_minimum_over_eta_of_its_definition(alpha):
    rng = np.random.RandomState(0)
    logits, y = rng.normal(scale=2, size=(37, 4)), rng.randint(4, size=37)
    losses = -log_softmax(logits, axis=1)[np.arange(37), y]
    definition = minimize_scalar(
        lambda eta: eta + np.maximum(losses - eta, 0).sum() / (alpha * 37),
        bounds=(losses.min() - 1, losses.max() + 1),
        method="bounded",
        options={"xatol": 1e-10},
    ).fun
    value = CVaRDROLoss(alpha)(torch.tensor(logits), torch.tensor(y))
    assert float(value) == pytest.approx(definition, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.5, -0.1])
def test_cvar_loss_refuses_an_alpha_that_is_not_a_share(alpha):
    with pytest.raises(ValueError, match=r"share of the samples in \(0, 1\]"):
        CVaRDROLoss(alpha)


def test_cvar_loss_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch is empty"):
        CVaRDROLoss(0.5)(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_cvar_loss_reads_one_logit_as_the_second_of_two_classes():
    scores, y = torch.tensor([[1.5], [-0.3]]), torch.tensor([1, 0])
    two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    assert CVaRDROLoss(0.5)(scores[:, 0], y) == pytest.approx(float(CVaRDROLoss(0.5)(two, y)))


def penalized_shortcut_data(seed, agreement):
    """Return features of the class and four times as many of the shortcut: a penalized model would rather use those."""
    X, y, shortcut = make_shortcut_features(2000, 2, 4, agreement=agreement, noise=0.3, random_state=seed)
    return np.hstack([X, *3 * [X[:, 2:]]]), y, shortcut


def test_cvar_lowers_the_loss_of_the_worst_share_and_helps_the_samples_against_the_shortcut():
    X, y, _ = penalized_shortcut_data(0, 0.95)
    mean, cvar = (CVaRDROClassifier(alpha, l2=0.1, random_state=0).fit(X, y) for alpha in (1.0, 0.05))

    def worst_mean(model):
        losses = -np.log(model.predict_proba(X)[np.arange(len(y)), y])
        return np.sort(losses)[-len(y) // 20 :].mean()

    assert worst_mean(cvar) < 0.6 * worst_mean(mean)
    X, y, shortcut = penalized_shortcut_data(1, 0.5)
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
