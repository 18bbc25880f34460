import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from sklearn.exceptions import DataConversionWarning
from torch.nn import functional as F

from skexmap.exceptions import ConstantPredictionWarning
from skexmap.retraining import (
    AFRClassifier,
    CVaRDROClassifier,
    CVaRDROLoss,
    DFRClassifier,
    DFRClassifierCV,
    EIILLabeler,
    ERMClassifier,
    GroupDROClassifier,
    GroupDROLoss,
)
from skexmap.retraining._afr import afr_weights
from skexmap.retraining._dro import raised_weights, worst_share
from skexmap.retraining._eiil import scale_slopes
from skexmap.retraining._erm import fit_logistic
from skexmap.retraining._training import (
    cross_entropies,
    cross_entropy_slope,
    group_balanced_batches,
    log_probabilities,
    shuffled_batches,
)


def shortcut_data(n=2000, agreement=0.95, noise=1.0, seed=0):
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    shortcut = np.where(rng.uniform(size=n) < agreement, y, 1 - y)
    return np.column_stack([2 * y - 1, 4 * shortcut - 2]) + noise * rng.normal(size=(n, 2)), y, shortcut


def accuracy_against_the_shortcut(model):
    X, y, shortcut = shortcut_data(4000, agreement=0.5, seed=9)
    return model.score(X[shortcut != y], y[shortcut != y])


# -- the torch losses --------------------------------------------------------------------------------------------


def test_group_dro_loss_is_one_step_of_the_papers_algorithm():
    rng = np.random.RandomState(0)
    logits, y = rng.normal(size=(12, 3)), rng.randint(3, size=12)
    groups = np.array([0] * 5 + [2] * 4 + [-1] * 3)
    loss = GroupDROLoss(4, eta=0.5, adjustment=2.0, group_counts=[10, 20, 30, 40])
    value = loss(torch.tensor(logits), torch.tensor(y), torch.tensor(groups))

    ce = [-np.log(np.exp(row[c]) / np.exp(row).sum()) for row, c in zip(logits, y, strict=True)]
    adjusted = {0: np.mean(ce[:5]) + 2 / np.sqrt(10), 2: np.mean(ce[5:9]) + 2 / np.sqrt(30)}
    q = np.full(4, 0.25)
    for g, group_loss in adjusted.items():
        q[g] *= np.exp(0.5 * group_loss)
    q /= q.sum()
    np.testing.assert_allclose(loss.group_weights.numpy(), q, rtol=1e-5)
    assert float(value) == pytest.approx(q[0] * adjusted[0] + q[2] * adjusted[2], rel=1e-5)


def test_group_weights_rest_in_evaluation_mode_and_travel_in_the_state_dict():
    loss = GroupDROLoss(2, eta=1.0)
    batch = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([0, 1])
    loss.eval()(*batch)
    assert loss.group_weights.tolist() == [0.5, 0.5]
    loss.train()(*batch)
    other = GroupDROLoss(2)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.group_weights, loss.group_weights)
    assert loss.group_weights[1] > 0.8


def test_one_logit_is_read_as_the_second_of_two_classes():
    scores, y, groups = torch.tensor([[1.5], [-0.3]]), torch.tensor([1, 0]), torch.tensor([0, 1])
    two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    assert GroupDROLoss(2)(scores, y, groups) == pytest.approx(float(GroupDROLoss(2)(two, y, groups)))
    assert CVaRDROLoss(0.5)(scores[:, 0], y) == pytest.approx(float(CVaRDROLoss(0.5)(two, y)))


def test_group_dro_loss_trains_a_network_for_its_worst_group():
    X, y, shortcut = shortcut_data(600, noise=0.7)
    images, targets = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
    groups = torch.tensor(2 * y + shortcut)
    worst = {}
    for name, loss in (("erm", None), ("dro", GroupDROLoss(4, eta=0.1))):
        net = torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(net.weight)
        torch.nn.init.zeros_(net.bias)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for _ in range(200):
            value = (
                F.cross_entropy(net(images), targets) if loss is None else loss(net(images), targets, groups)
            )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        right = (net(images).argmax(1) == targets).float()
        worst[name] = min(float(right[groups == g].mean()) for g in range(4))
    assert worst["dro"] > worst["erm"] + 0.1


@pytest.mark.parametrize(
    "options", [{"adjustment": 1.0}, {"group_counts": [1, 2, 3]}, {"group_counts": [0, 1]}]
)
def test_group_counts_must_fit_the_groups(options):
    with pytest.raises(ValueError, match="group_counts"):
        GroupDROLoss(2, **options)


@pytest.mark.parametrize(
    "n_groups, options", [(0, {}), (2, {"eta": -1.0}), (2, {"adjustment": -1.0}), (2, {"eta": float("nan")})]
)
def test_what_is_no_setting_of_group_dro_is_refused(n_groups, options):
    with pytest.raises(
        ValueError, match="at least one group, and an `eta` and an `adjustment` of at least 0"
    ):
        GroupDROLoss(n_groups, **options)


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.33, 1.0])
def test_cvar_is_the_minimum_over_eta_of_its_definition(alpha):
    rng = np.random.RandomState(0)
    logits, y = rng.normal(scale=2, size=(37, 4)), rng.randint(4, size=37)
    losses = cross_entropies(log_probabilities(logits), y)
    bounds = (losses.min() - 1, losses.max() + 1)
    definition = minimize_scalar(
        lambda eta: eta + np.maximum(losses - eta, 0).sum() / (alpha * 37),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-10},
    ).fun
    assert float(CVaRDROLoss(alpha)(torch.tensor(logits), torch.tensor(y))) == pytest.approx(
        definition, abs=1e-6
    )
    assert worst_share(losses, alpha) @ losses == pytest.approx(definition, abs=1e-6)
    assert worst_share(losses, alpha).sum() == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.0, 1.5, -0.1])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValueError, match=r"share of the samples in \(0, 1\]"):
        CVaRDROLoss(alpha)


def test_an_empty_batch_has_no_worst_samples():
    with pytest.raises(ValueError, match="batch is empty"):
        CVaRDROLoss(0.5)(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


# -- the last layers ---------------------------------------------------------------------------------------------


def test_group_weights_are_raised_exponentially_without_overflow():
    q, losses = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, 2.0])
    expected = q * np.exp(0.7 * losses)
    np.testing.assert_allclose(raised_weights(q, losses, 0.7), expected / expected.sum())
    assert raised_weights(q, 1e6 * losses, 1.0).tolist() == [0, 0, 1]


def test_the_slope_of_the_cross_entropy_is_its_derivative():
    rng = np.random.RandomState(0)
    logits, y, weight = rng.normal(size=(5, 3)), rng.randint(3, size=5), rng.uniform(size=5)
    leaf = torch.tensor(logits, requires_grad=True)
    (torch.tensor(weight) * F.cross_entropy(leaf, torch.tensor(y), reduction="none")).sum().backward()
    np.testing.assert_allclose(cross_entropy_slope(log_probabilities(logits), y, weight), leaf.grad.numpy())


def test_batches_visit_every_sample_or_every_group_equally():
    rng = np.random.RandomState(0)
    seen = np.concatenate(list(shuffled_batches(12, 4, 6, rng)))
    assert np.bincount(seen).tolist() == [2] * 12
    groups = np.array([0] * 50 + [1] * 3 + [-1] * 7)
    for rows in group_balanced_batches(groups, 10, 4, rng):
        assert np.bincount(groups[rows]).tolist() == [5, 5]


def test_group_dro_comes_near_the_smallest_possible_loss_of_the_worst_group():
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
    assert accuracy_against_the_shortcut(dro) > accuracy_against_the_shortcut(erm) + 0.2


def test_the_adjustment_makes_small_groups_count_for_more():
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


def test_the_logistic_fit_minimises_its_objective_around_the_center():
    rng = np.random.RandomState(0)
    X, y, weight = rng.normal(size=(60, 3)), rng.randint(3, size=60), rng.uniform(size=60)
    center = rng.normal(size=(3, 3)), np.zeros(3)
    coef, intercept = fit_logistic(X, y, 3, weight, 2.0, center)

    def objective(coef, intercept):
        losses = F.cross_entropy(torch.tensor(X @ coef.T + intercept), torch.tensor(y), reduction="none")
        return float((torch.tensor(weight) * losses).sum()) + ((coef - center[0]) ** 2).sum()

    best = objective(coef, intercept)
    for _ in range(20):
        assert objective(coef + 1e-2 * rng.normal(size=(3, 3)), intercept + 1e-2 * rng.normal(size=3)) > best


def test_afr_weighs_the_doubted_samples_by_the_papers_formula():
    p, y = np.array([0.9, 0.1, 0.5, 0.5]), np.array([0, 0, 0, 1])
    expected = np.array([np.exp(-3.6) / 3, np.exp(-0.4) / 3, np.exp(-2.0) / 3, np.exp(-2.0)])
    np.testing.assert_allclose(afr_weights(p, y, 4.0), expected / expected.sum())


def test_afr_helps_the_samples_against_the_shortcut_and_a_strong_pull_keeps_the_reference():
    X, y, _ = shortcut_data()
    erm, afr = ERMClassifier().fit(X, y), AFRClassifier().fit(X, y)
    assert accuracy_against_the_shortcut(afr) > accuracy_against_the_shortcut(erm) + 0.2
    kept = AFRClassifier(l2=1e6).fit(X, y)
    np.testing.assert_allclose(kept.coef_, erm.coef_, atol=1e-4)


def test_afr_needs_a_linear_reference_of_the_same_classes():
    from sklearn.frozen import FrozenEstimator
    from sklearn.neighbors import KNeighborsClassifier

    X, y, _ = shortcut_data(100)
    with pytest.raises(ValueError, match="no `coef_`"):
        AFRClassifier(reference_estimator=KNeighborsClassifier()).fit(X, y)
    other = FrozenEstimator(ERMClassifier().fit(X, y + 5))
    with pytest.raises(ValueError, match="knows the classes"):
        AFRClassifier(reference_estimator=other).fit(X, y)
    with pytest.raises(ValueError, match="knows the classes"):
        EIILLabeler(other).fit(X, y)


# -- environment inference ---------------------------------------------------------------------------------------


def test_the_slope_by_the_scale_of_the_logits_is_its_derivative():
    logits = np.random.RandomState(0).normal(size=(6, 3))
    slopes = scale_slopes(log_probabilities(logits))
    for y in range(3):
        scale = torch.ones(6, dtype=torch.float64, requires_grad=True)
        F.cross_entropy(
            scale[:, None] * torch.tensor(logits), torch.full((6,), y), reduction="sum"
        ).backward()
        np.testing.assert_allclose(slopes[:, y], scale.grad.numpy(), atol=1e-12)


def test_no_soft_assignment_violates_invariance_more_than_the_environments():
    X, y, _ = shortcut_data(300)
    eiil = EIILLabeler(ERMClassifier(C=1e-3)).fit(X, y)
    g = scale_slopes(np.log(eiil.reference_estimator_.predict_proba(X)))[np.arange(300), y]

    def violation(q):
        return np.mean(q * g) ** 2 + np.mean((1 - q) * g) ** 2

    best = violation(eiil.environment_labels_)
    rng = np.random.RandomState(0)
    assert all(violation(rng.uniform(size=300) ** power) < best for power in (0.1, 1, 10) for _ in range(50))
    # Climbing from random starts, as the paper does, ends no higher.
    for _ in range(3):
        logits = torch.tensor(rng.normal(size=300), requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(300):
            q = logits.sigmoid()
            value = (q * torch.tensor(g)).mean() ** 2 + ((1 - q) * torch.tensor(g)).mean() ** 2
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()
        assert value.item() <= best + 1e-12


def test_environments_of_a_model_that_leans_on_the_shortcut_find_the_samples_against_it():
    X, y, shortcut = shortcut_data(noise=0.5)
    # Most of what the net sees is the shortcut.
    X = np.hstack([X, np.repeat(X[:, 1:], 3, axis=1)])
    eiil = EIILLabeler().fit(X, y)
    assert np.mean(eiil.environment_labels_ == (shortcut != y)) > 0.99
    np.testing.assert_array_equal(eiil.group_labels_, 2 * y + eiil.environment_labels_)
    np.testing.assert_array_equal(eiil.predict_groups(X, y), eiil.group_labels_)


def test_as_a_step_it_gives_the_next_one_the_environment_of_every_class():
    from sklearn.pipeline import make_pipeline

    from skexmap._blocks import make_blocks
    from skexmap.retraining import DFRClassifier

    X, y, shortcut = shortcut_data(noise=0.5)
    blocks = make_blocks(embedding=X, heatmap=np.zeros((2000, 1, 2, 2)))
    pipe = make_pipeline(EIILLabeler(), DFRClassifier(random_state=0)).fit(blocks, y)
    assert pipe[-1].group_counts_.sum() == 2000
    assert len(pipe[-1].groups_) == 4
    assert pipe.predict(blocks).shape == (2000,)
    against = shortcut != y
    assert pipe[-1].score(X[against], y[against]) > ERMClassifier().fit(X, y).score(X[against], y[against])


def test_unknown_classes_are_refused():
    X, y, _ = shortcut_data(100)
    with pytest.raises(ValueError, match=r"1 class\(es\) that `fit` did not see: \[7\]"):
        EIILLabeler().fit(X, y).predict_groups(X, np.full(100, 7))


@pytest.mark.parametrize("y_new, message", [([0, 1, 0], "3 entries for 100"), (None, "y is None")])
def test_groups_need_the_class_of_every_sample(y_new, message):
    X, y, _ = shortcut_data(100)
    with pytest.raises(ValueError, match=message):
        EIILLabeler().fit(X, y).predict_groups(X, y_new)


def test_a_column_of_classes_is_read_as_the_classes():
    X, y, _ = shortcut_data(100)
    labeler = EIILLabeler().fit(X, y)
    with pytest.warns(DataConversionWarning):
        groups = labeler.predict_groups(X, y[:, None])
    np.testing.assert_array_equal(groups, labeler.group_labels_)


@pytest.mark.parametrize("strategy", [DFRClassifier(), DFRClassifierCV(), GroupDROClassifier()])
def test_a_class_without_a_group_is_refused_by_name(strategy):
    X, y, _ = shortcut_data(100)
    with pytest.raises(ValueError, match=r"No sample of 1 of 2 classes \(\[1\]\) is left to retrain on"):
        strategy.fit(X, y, group_labels=np.where(y == 1, -1, 0))


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


@pytest.mark.parametrize("n, share", [(100, 0.5), (100, 0.1), (1000, 0.1)])
def test_environments_of_few_samples_or_of_a_rare_class_are_not_the_classes(n, share):
    rng = np.random.RandomState(0)
    y = (rng.uniform(size=n) < share).astype(int)
    shortcut = np.where(rng.uniform(size=n) < 0.9, y, 1 - y)
    X = np.column_stack([2 * y - 1, *4 * [2 * shortcut - 1]]) + 0.5 * rng.normal(size=(n, 5))
    assert np.mean(EIILLabeler().fit(X, y).environment_labels_ == (shortcut != y)) > 0.98


def test_a_reference_model_that_predicts_one_class_is_named():
    X, y, _ = shortcut_data(100)
    y[:20] = 0
    told = r"reference model ERMClassifier predicts the same class \(0\).*Its errors are whole classes"
    with pytest.warns(ConstantPredictionWarning, match=told):
        EIILLabeler(ERMClassifier(C=1e-9)).fit(X, y)
