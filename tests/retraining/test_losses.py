import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch.nn import functional as F

from skexmap.retraining import CVaRDROLoss, GroupDROLoss
from skexmap.retraining._divdis import class_probabilities, divergence_from_prior, mutual_information
from skexmap.retraining._lff import generalized_cross_entropies
from skexmap.retraining._training import losses_per_sample


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


def test_group_dro_loss_moves_its_weights_in_training_mode_only_and_saves_them_in_the_state_dict():
    loss = GroupDROLoss(2, eta=1.0)
    batch = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([0, 1])
    loss.eval()(*batch)
    assert loss.group_weights.tolist() == [0.5, 0.5]
    loss.train()(*batch)
    other = GroupDROLoss(2)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.group_weights, loss.group_weights)
    assert loss.group_weights[1] > 0.8


def test_group_dro_weights_do_not_overflow_at_huge_losses():
    loss = GroupDROLoss(2, eta=1.0)
    loss(torch.tensor([[1e6, 0.0], [2e6, 0.0]]), torch.tensor([1, 1]), torch.tensor([0, 1]))
    assert loss.group_weights.tolist() == [0, 1]


@pytest.mark.parametrize("group", [-2, 2])
def test_group_dro_loss_refuses_a_group_out_of_range(group):
    with pytest.raises(ValueError, match="1 of 1 `group_labels` are out of range"):
        GroupDROLoss(2)(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([group]))


def test_both_robust_losses_read_one_logit_as_the_second_of_two_classes():
    scores, y, groups = torch.tensor([[1.5], [-0.3]]), torch.tensor([1, 0]), torch.tensor([0, 1])
    two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    assert GroupDROLoss(2)(scores, y, groups) == pytest.approx(float(GroupDROLoss(2)(two, y, groups)))
    assert CVaRDROLoss(0.5)(scores[:, 0], y) == pytest.approx(float(CVaRDROLoss(0.5)(two, y)))


def test_group_dro_loss_trains_a_network_for_its_worst_group(shortcut_data):
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
def test_group_dro_loss_refuses_group_counts_that_do_not_fit_the_groups(options):
    with pytest.raises(ValueError, match="group_counts"):
        GroupDROLoss(2, **options)


@pytest.mark.parametrize(
    "n_groups, options", [(0, {}), (2, {"eta": -1.0}), (2, {"adjustment": -1.0}), (2, {"eta": float("nan")})]
)
def test_group_dro_loss_refuses_settings_out_of_range(n_groups, options):
    with pytest.raises(
        ValueError, match="at least one group, and an `eta` and an `adjustment` of at least 0"
    ):
        GroupDROLoss(n_groups, **options)


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


@pytest.mark.parametrize("n_columns", [1, 3])
def test_class_probabilities_are_the_softmax_and_agree_with_the_losses(n_columns):
    rng = np.random.RandomState(0)
    logits = rng.normal(size=(7, n_columns))
    expected = softmax(logits if n_columns > 1 else np.hstack([0 * logits, logits]), axis=1)
    np.testing.assert_allclose(class_probabilities(torch.tensor(logits)), expected)
    y = rng.randint(expected.shape[1], size=7)
    losses = losses_per_sample(torch.tensor(logits), torch.tensor(y))
    np.testing.assert_allclose(losses, -np.log(expected[np.arange(7), y]))


def test_the_gradient_of_the_generalized_cross_entropy_is_that_of_the_cross_entropy_times_p_to_the_q():
    p = np.array([0.01, 0.3, 0.9])
    losses = torch.tensor(-np.log(p), requires_grad=True)
    values = generalized_cross_entropies(losses, 0.7)
    np.testing.assert_allclose(values.detach(), (1 - p**0.7) / 0.7)
    values.sum().backward()
    np.testing.assert_allclose(losses.grad, p**0.7)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_mutual_information_is_the_sum_of_the_entropies_less_that_of_the_pair(n_classes):
    p, q = np.random.RandomState(0).dirichlet(np.ones(n_classes), size=(2, 9))
    joint = np.mean([np.outer(a, b) for a, b in zip(p, q, strict=True)], axis=0)
    expected = entropy(p.mean(0)) + entropy(q.mean(0)) - entropy(joint.ravel())
    assert float(mutual_information(torch.tensor(p), torch.tensor(q))) == pytest.approx(expected)


def test_heads_that_always_agree_share_all_information_and_the_gradient_is_finite():
    p = torch.eye(2, dtype=torch.float64).repeat(5, 1).requires_grad_()
    value = mutual_information(p, p.detach())
    assert float(value.detach()) == pytest.approx(np.log(2))
    value.backward()
    assert p.grad.isfinite().all()


def test_divergence_from_the_prior_is_the_relative_entropy_of_the_mean_prediction():
    rng = np.random.RandomState(0)
    p, prior = rng.dirichlet(np.ones(3), size=8), rng.dirichlet(np.ones(3))
    value = divergence_from_prior(torch.tensor(p), torch.tensor(prior))
    assert float(value) == pytest.approx(entropy(p.mean(0), prior))
