from functools import partial

import numpy as np
import pytest
import sklearn
import torch
from scipy.special import softmax
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from torch.nn import functional as F

from skexmap._blocks import make_blocks
from skexmap.retraining import DivDisClassifier, ERMClassifier
from skexmap.retraining._divdis import class_probabilities, class_shares
from skexmap.retraining._divdis import mutual_information as mutual_information_of_heads
from skexmap.retraining._inputs import Samples


@pytest.fixture(scope="module")
def separated_data(shortcut_data):
    return partial(shortcut_data, n=1000, noise=0.3)


def mutual_information(p, q):
    """Return the mutual information of two heads, by its definition."""
    joint = p.T @ q / len(p)
    independent = p.mean(0)[:, None] * q.mean(0)[None]
    return (joint * (joint / independent).log()).sum()


@pytest.mark.parametrize("n_heads, n_classes", [(2, 2), (3, 3)])
def test_the_heads_of_divdis_end_where_the_papers_objective_is_flat(n_heads, n_classes):
    rng = np.random.RandomState(0)
    y = rng.randint(n_classes, size=200)
    X = np.hstack([np.eye(n_classes)[y], np.eye(n_classes)[y]]) + rng.normal(size=(200, 2 * n_classes))
    unlabeled = rng.normal(size=(150, 2 * n_classes))
    options = {"diversity": 3.0, "regularization": 2.0, "l2": 0.1}
    divdis = DivDisClassifier(n_heads, **options, batch_size=200, n_steps=3000, random_state=0)
    divdis.fit(X, y, X_unlabeled=unlabeled)

    stacked = np.concatenate([X, unlabeled])
    mean, scale = stacked.mean(axis=0), stacked.std(axis=0)
    Z, U = (torch.tensor((rows - mean) / scale) for rows in (X, unlabeled))
    weights = [torch.tensor(coef * scale, requires_grad=True) for coef, _ in divdis.heads_]
    biases = [torch.tensor(b + coef @ mean, requires_grad=True) for coef, b in divdis.heads_]

    def logits(rows, w, b):
        scores = rows @ w.T + b
        return torch.cat([torch.zeros_like(scores), scores], 1) if n_classes == 2 else scores

    prior = torch.tensor(np.bincount(y) / 200)
    fit = [F.cross_entropy(logits(Z, w, b), torch.tensor(y)) for w, b in zip(weights, biases, strict=True)]
    p = [torch.softmax(logits(U, w, b), 1) for w, b in zip(weights, biases, strict=True)]
    information = [mutual_information(p[i], p[j]) for i in range(n_heads) for j in range(i)]
    divergence = [(q.mean(0) * (q.mean(0) / prior).log()).sum() for q in p]
    objective = (
        sum(fit) / n_heads + 3.0 * sum(information) / len(information) + 2.0 * sum(divergence) / n_heads
    )
    objective = objective + 0.05 * sum((w**2).sum() for w in weights)
    gradients = torch.autograd.grad(objective, [*weights, *biases])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 2e-3
    # Without one of its terms it is steep there.
    partial = torch.autograd.grad(
        sum(F.cross_entropy(logits(Z, w, b), torch.tensor(y)) for w, b in zip(weights, biases, strict=True)),
        weights,
    )
    assert max(float(gradient.abs().max()) for gradient in partial) > 2e-2


@pytest.fixture(scope="module")
def diversified(separated_data):
    """Heads fitted where class and shortcut always agree; unlabeled samples where they do in half."""
    X, y, _ = separated_data(agreement=1.0)
    target, target_y, target_shortcut = separated_data(agreement=0.5, seed=1)
    divdis = DivDisClassifier(random_state=0).fit(X, y, X_unlabeled=target)
    return divdis, X, y, target, target_y, target_shortcut


def predictions(divdis, X):
    return [(X @ coef[0] + intercept[0] > 0).astype(int) for coef, intercept in divdis.heads_]


def test_divdis_heads_fit_the_labeled_samples_and_follow_class_and_shortcut_one_each(diversified):
    divdis, X, y, target, target_y, target_shortcut = diversified
    for predicted in predictions(divdis, X):
        assert np.mean(predicted == y) > 0.99
    agreement = [
        [np.mean(predicted == label) for label in (target_y, target_shortcut)]
        for predicted in predictions(divdis, target)
    ]
    assert sorted(np.argmax(agreement, axis=1)) == [0, 1]
    assert np.max(agreement, axis=1).min() > 0.95


def test_sixteen_labels_of_disputed_samples_find_the_divdis_head_of_the_class(diversified, separated_data):
    divdis, X, y, target, target_y, target_shortcut = diversified
    disputed = np.argsort(-divdis.disagreement(target))[:16]
    assert (target_y[disputed] != target_shortcut[disputed]).all()
    new, new_y, new_shortcut = separated_data(agreement=0.5, seed=2)
    against = new_shortcut != new_y
    divdis.select_head(target[disputed], target_y[disputed])
    assert divdis.score(new[against], new_y[against]) > 0.95
    assert ERMClassifier().fit(X, y).score(new[against], new_y[against]) < 0.3
    # Labeled by the shortcut, the same samples choose the other head.
    chosen = divdis.head_
    divdis.select_head(target[disputed], target_shortcut[disputed])
    assert divdis.head_ == 1 - chosen
    assert divdis.coef_ is divdis.heads_[1 - chosen][0]
    assert divdis.score(new[against], new_y[against]) < 0.05


def test_disagreement_of_divdis_is_the_l1_distance_of_the_heads_over_all_ordered_pairs(diversified):
    divdis, _, _, target, _, _ = diversified
    p = [1 / (1 + np.exp(-(target @ coef[0] + intercept[0]))) for coef, intercept in divdis.heads_]
    # Two classes: |p - q| counts for both; two heads: (1, 2) and (2, 1).
    np.testing.assert_allclose(divdis.disagreement(target), 4 * np.abs(p[0] - p[1]), atol=1e-12)


def test_divdis_chooses_the_head_of_the_best_worst_group_and_group_minus_one_does_not_count(diversified):
    divdis, _, _, target, target_y, target_shortcut = diversified
    groups = 2 * target_y + target_shortcut
    divdis.select_head(target, target_y, group_labels=groups)
    worst = [
        min(np.mean(predicted[groups == g] == target_y[groups == g]) for g in range(4))
        for predicted in predictions(divdis, target)
    ]
    # Shrunk a little: these groups are large.
    np.testing.assert_allclose(divdis.head_scores_, worst, atol=0.02)
    assert divdis.head_ == np.argmax(worst)
    against = target_shortcut != target_y
    divdis.select_head(target, target_y, group_labels=np.where(against, -1, groups))
    assert divdis.head_scores_.min() > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_divdis_without_unlabeled_samples_uses_pseudo_groups(seed, shortcut_data):
    X, y, shortcut = shortcut_data(2000, noise=1.0, seed=seed)
    new, new_y, new_shortcut = shortcut_data(4000, agreement=0.5, noise=1.0, seed=9)
    against = new_shortcut != new_y
    divdis = DivDisClassifier(random_state=0).fit(make_blocks(embedding=X, cluster=shortcut), y)
    assert divdis.score(new[against], new_y[against]) > 0.75
    assert ERMClassifier().fit(X, y).score(new[against], new_y[against]) < 0.5
    assert divdis.score(new[~against], new_y[~against]) > 0.75


def test_a_pipeline_transforms_the_unlabeled_samples_of_divdis(separated_data):
    X, y, _ = separated_data(n=300, agreement=1.0)
    target, _, _ = separated_data(n=300, agreement=0.5, seed=1)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = Pipeline(
            [
                ("shift", FunctionTransformer(lambda X: X * [1, -1, 2, 1] + 3.0)),
                ("divdis", DivDisClassifier(random_state=0).set_fit_request(X_unlabeled=True)),
            ],
            transform_input=["X_unlabeled"],
        ).fit(X, y, X_unlabeled=target)
    shifted = [rows * [1, -1, 2, 1] + 3.0 for rows in (X, target)]
    by_hand = DivDisClassifier(random_state=0).fit(shifted[0], y, X_unlabeled=shifted[1])
    np.testing.assert_array_equal(pipe[-1].coef_, by_hand.coef_)


def test_divdis_refuses_samples_that_cannot_choose_a_head(diversified):
    divdis, _, _, target, target_y, _ = diversified
    with pytest.raises(ValueError, match=r"1 class\(es\) that `fit` did not see: \[7\]"):
        divdis.select_head(target[:2], [0, 7])
    with pytest.raises(ValueError, match="y has 3 entries for 2 samples"):
        divdis.select_head(target[:2], target_y[:3])
    with pytest.raises(ValueError, match=r"1 features, .* expecting 4"):
        divdis.fit(target, target_y, X_unlabeled=target[:, :1])


def test_slivers_do_not_choose_the_head_of_divdis(separated_data):
    X, y, shortcut = separated_data(noise=0.5)
    groups = 2 * y + shortcut
    # Four samples against the shortcut, labeled wrongly: no head that follows the class is right about one of them.
    odd = np.flatnonzero((y == 0) & (shortcut == 1))[:4]
    y[odd], groups[odd] = 1, 7
    X[odd, :2] = [5.0, -5.0]
    new, new_y, new_shortcut = separated_data(n=2000, agreement=0.5, noise=0.5, seed=2)
    against = new_shortcut != new_y
    divdis = DivDisClassifier(random_state=0).fit(X, y, group_labels=groups)
    assert divdis.score(new[against], new_y[against]) > 0.9
    assert divdis.head_scores_.max() > 0.9
    ruled = DivDisClassifier(min_group_size=1, random_state=0).fit(X, y, group_labels=groups)
    assert ruled.head_scores_.max() < 0.9
    with pytest.raises(ValueError, match=r"All 5 groups have fewer than min_group_size=2000 samples"):
        DivDisClassifier(min_group_size=2000).fit(X, y, group_labels=groups)


def test_class_shares_are_those_of_equally_frequent_groups():
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    groups = np.array([0, 0, 0, 1, 1, 2, 2, -1])
    samples = Samples(None, np.arange(3), y, np.arange(3), groups, False)
    # Group 0 holds class 0; groups 1 and 2 half of two classes each.
    np.testing.assert_allclose(class_shares(samples), [(1 + 1 / 2) / 3, (1 / 2 + 1 / 2) / 3, (1 / 2) / 3])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("share", [0.1, 0.02])
def test_divdis_does_not_give_up_a_rare_class(seed, share):
    rng = np.random.RandomState(seed)
    y = (np.arange(1000) < share * 1000).astype(int)
    X = rng.normal(size=(1000, 16))
    X[:, 0] += 3 * y
    predicted = DivDisClassifier(n_steps=500, random_state=0).fit(X, y).predict(X)
    assert min(np.mean(predicted[y == c] == c) for c in range(2)) > 0.6


def test_divdis_refuses_a_class_of_slivers_alone(separated_data):
    X, y, _ = separated_data(n=100)
    groups = np.where(y == 0, 0, 1 + np.arange(100) % 20)
    with pytest.raises(ValueError, match=r"1 of 2 classes \(\[1\]\) is left.*below `min_group_size`"):
        DivDisClassifier().fit(X, y, group_labels=groups)


@pytest.mark.parametrize("n_columns", [1, 3])
def test_class_probabilities_of_divdis_are_the_softmax(n_columns):
    logits = np.random.RandomState(0).normal(size=(7, n_columns))
    expected = softmax(logits if n_columns > 1 else np.hstack([0 * logits, logits]), axis=1)
    np.testing.assert_allclose(class_probabilities(torch.tensor(logits)), expected)


def test_heads_that_always_agree_share_all_information_and_the_gradient_is_finite():
    p = torch.eye(2, dtype=torch.float64).repeat(5, 1).requires_grad_()
    value = mutual_information_of_heads(p, p.detach())
    assert float(value.detach()) == pytest.approx(np.log(2))
    value.backward()
    assert p.grad.isfinite().all()
