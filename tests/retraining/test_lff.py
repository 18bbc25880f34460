import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skexmap.exceptions import PredictionWarning
from skexmap.retraining import ERMClassifier, LfFClassifier
from skexmap.retraining._lff import RunningLosses, relative_difficulty


def test_running_losses_are_averaged_over_the_steps_and_divided_by_the_largest_of_the_class():
    running = RunningLosses(1, torch.tensor([0, 0, 1, 1]), decay=0.7)

    def update(rows, losses):
        return running.update(torch.tensor(rows), torch.tensor([losses]))[0]

    np.testing.assert_allclose(update([0, 1, 2], [1.0, 4.0, 3.0]), [0.25, 1, 1])
    # Sample 1: 0.7 * 4 + 0.3 * 2 = 3.4 is still the largest of class 0; sample 3 is new.
    np.testing.assert_allclose(update([1, 3], [2.0, 6.0]), [1, 1])
    # Sample 0: 0.7 * 1 + 0.3 * 11 = 4; sample 2: 0.7 * 3 + 0.3 * 3 = 3 of 6.
    np.testing.assert_allclose(update([0, 2], [11.0, 3.0]), [1, 0.5])


def test_samples_that_only_the_biased_head_gets_wrong_weigh_most():
    weights = relative_difficulty(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert weights.tolist() == [1, 0.5, 0, 0.5]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_straight_line_script_ends_at_the_same_heads_as_lff(n_classes):
    rng = np.random.RandomState(0)
    y = rng.randint(n_classes, size=80)
    X = np.hstack([np.eye(n_classes)[y], rng.normal(size=(80, 2))]) + rng.normal(size=(80, n_classes + 2))
    # A batch of everything: the order of the samples does not matter.
    lff = LfFClassifier(l2=0.02, learning_rate=0.1, batch_size=80, n_steps=40, random_state=0).fit(X, y)

    Z, targets = torch.tensor((X - X.mean(axis=0)) / X.std(axis=0)), torch.tensor(y)
    n_rows = 1 if n_classes == 2 else n_classes
    heads = [torch.zeros((n_rows, Z.shape[1] + 1), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(heads, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 40)
    averages = [None, None]
    for _ in range(40):
        logits = [Z @ w[:, :-1].T + w[:, -1] for w in heads]
        if n_classes == 2:
            logits = [torch.cat([torch.zeros_like(score), score], 1) for score in logits]
        losses = [F.cross_entropy(score, targets, reduction="none") for score in logits]
        for i, loss in enumerate(losses):
            loss = loss.detach()
            averages[i] = loss if averages[i] is None else 0.7 * averages[i] + 0.3 * loss
        largest = [torch.stack([a[targets == c].max() for c in range(n_classes)])[targets] for a in averages]
        biased, debiased = (a / top for a, top in zip(averages, largest, strict=True))
        weight = biased / (biased + debiased)
        p_true = torch.softmax(logits[0], 1)[torch.arange(80), targets]
        objective = ((1 - p_true**0.7) / 0.7).mean() + (weight * losses[1]).mean()
        objective = objective + 0.01 * sum((w[:, :-1] ** 2).sum() for w in heads)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
    scale = X.std(axis=0)
    for w, coef in zip(heads, (lff.biased_coef_, lff.coef_), strict=True):
        np.testing.assert_allclose(coef, w.detach().numpy()[:, :-1] / scale, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(lff.sample_weight_, weight.numpy(), atol=1e-4)


def test_a_step_so_large_that_one_class_is_left_is_named(shortcut_data):
    X, y, _ = shortcut_data()
    with pytest.warns(
        PredictionWarning, match=r"predicts the same class .*lower `learning_rate` \(now 5000\)"
    ):
        LfFClassifier(learning_rate=5000, random_state=0).fit(X, y)


@pytest.mark.parametrize("seed", [0, 1])
def test_lff_raises_the_accuracy_of_the_worst_group(
    seed, shortcut_data, accuracies_with_and_against_the_shortcut
):
    X, y, shortcut = shortcut_data(seed=seed)
    lff = LfFClassifier(random_state=0).fit(X, y)
    erm = ERMClassifier().fit(X, y)
    worst = [min(accuracies_with_and_against_the_shortcut(model)) for model in (erm, lff)]
    assert worst[0] < 0.5
    assert worst[1] > worst[0] + 0.1
    against = shortcut != y
    assert lff.sample_weight_[against].mean() > 2 * lff.sample_weight_[~against].mean()


def test_the_biased_head_of_lff_leans_on_the_shortcut_more_than_ordinary_training(
    shortcut_data, accuracies_with_and_against_the_shortcut
):
    X, y, _ = shortcut_data()
    lff, biased = LfFClassifier(random_state=0).fit(X, y), ERMClassifier().fit(X, y)
    leaning = accuracies_with_and_against_the_shortcut(biased)[1]
    biased.coef_, biased.intercept_ = lff.biased_coef_, lff.biased_intercept_
    assert accuracies_with_and_against_the_shortcut(biased)[1] < leaning - 0.05


def test_a_weak_penalty_turns_lff_against_the_shortcut_and_a_strong_one_lets_it_lean(
    shortcut_data, accuracies_with_and_against_the_shortcut
):
    X, y, _ = shortcut_data()
    weak, strong = (LfFClassifier(l2=l2, n_steps=2000, random_state=0).fit(X, y) for l2 in (1e-4, 0.1))
    holds, against = accuracies_with_and_against_the_shortcut(weak)
    assert against > 0.7
    assert holds < 0.1
    leaning = ERMClassifier().fit(X, y)
    assert (
        accuracies_with_and_against_the_shortcut(strong)[1]
        < accuracies_with_and_against_the_shortcut(leaning)[1] + 0.05
    )
