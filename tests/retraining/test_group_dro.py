import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from skexmap.retraining import ERMClassifier, GroupDROClassifier, GroupDROLoss


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


def test_group_dro_loss_trains_a_network_for_its_worst_group(shortcut_data):
    X, y, shortcut = shortcut_data(600, noise=0.7)
    images, targets = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
    groups = torch.tensor(2 * y + shortcut)
    worst = {}
    for name, loss in (("erm", None), ("dro", GroupDROLoss(4, eta=0.1))):
        net = torch.nn.Linear(4, 2)
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


def test_group_dro_loss_reads_one_logit_as_the_second_of_two_classes():
    scores, y, groups = torch.tensor([[1.5], [-0.3]]), torch.tensor([1, 0]), torch.tensor([0, 1])
    two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    assert GroupDROLoss(2)(scores, y, groups) == pytest.approx(float(GroupDROLoss(2)(two, y, groups)))


@pytest.mark.parametrize(
    "convert",
    [
        lambda g: g.int(),
        lambda g: g.numpy(),
        lambda g: g.tolist(),
        lambda g: g[:, None],
        lambda g: g.to(torch.int8),
    ],
    ids=["int32", "NumPy", "list", "column", "int8"],
)
def test_group_dro_loss_reads_group_labels_of_any_integer_type_and_a_column_of_them(convert):
    logits, y, groups = torch.randn(6, 2), torch.tensor([0, 1] * 3), torch.tensor([0, 0, 1, -1, 2, 3])
    expected = GroupDROLoss(4)(logits, y, groups)
    assert float(GroupDROLoss(4)(logits, y, convert(groups))) == float(expected)


@pytest.mark.parametrize(
    "groups, message",
    [
        ([0, 0, 4], r"1 of 3 `group_labels` are out of range \(\[4\]\) for n_groups=4\. Number .* 0 to 3"),
        ([0, -2, -3], r"2 of 3 `group_labels` are out of range \(\[-2, -3\]\)"),
        ([0, 1], r"the shape \(2,\) .* batch of 3 samples\. Pass one integer per sample"),
        ([[0, 1], [0, 1], [0, 1]], r"the shape \(3, 2\)"),
        ([0.0, 1.0, 2.0], "the type torch.float32"),
    ],
    ids=["too large", "below -1", "too few", "pairs", "fractions"],
)
def test_group_dro_loss_says_what_is_wrong_with_group_labels(groups, message):
    with pytest.raises(ValueError, match=message):
        GroupDROLoss(4)(torch.zeros(3, 2), torch.tensor([0, 1, 0]), torch.tensor(groups))


def test_group_dro_comes_near_the_smallest_possible_loss_of_the_worst_group(
    shortcut_data, accuracies_with_and_against_the_shortcut
):
    X, y, shortcut = shortcut_data()
    groups = 2 * y + shortcut
    dro = GroupDROClassifier(eta=0.1, l2=0.0, n_steps=4000, random_state=0).fit(X, y, group_labels=groups)

    def worst_loss(w):
        losses = np.logaddexp(0, -(2 * y - 1) * (X @ w[:-1] + w[-1]))
        return max(losses[groups == g].mean() for g in range(4))

    best = minimize(worst_loss, [-1, 1, 0, 0, 0], method="Nelder-Mead", options={"maxiter": 4000}).fun
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
