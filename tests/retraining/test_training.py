import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from skexmap.retraining._training import (
    group_balanced_batches,
    shuffled_batches,
    torch_generator,
    train_heads,
)


def test_shuffled_batches_hold_no_sample_twice_within_an_epoch():
    batches = shuffled_batches(14, 4, 7, torch_generator(0))
    assert batches.shape == (7, 4)
    for epoch in (batches[:3], batches[3:6]):
        assert np.bincount(epoch.ravel(), minlength=14).max() == 1
    assert not torch.equal(batches[:3], batches[3:6])


def test_a_batch_larger_than_the_set_is_the_whole_set():
    batches = shuffled_batches(5, 100, 3, torch_generator(0))
    assert batches.sort(dim=1).values.tolist() == 3 * [[0, 1, 2, 3, 4]]


def test_group_balanced_batches_draw_every_group_equally_often_and_group_minus_one_never():
    groups = np.array([0] * 50 + [1] * 3 + [-1] * 7)
    batches = group_balanced_batches(groups, 10, 40, torch_generator(0))
    for rows in batches:
        assert np.bincount(groups[rows]).tolist() == [5, 5]
    assert np.isin(np.arange(53), batches).mean() > 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_head_trained_on_the_mean_loss_is_logistic_regression_with_half_of_l2(n_classes, dtype):
    rng = np.random.RandomState(0)
    y = rng.randint(n_classes, size=120)
    X = (np.eye(n_classes)[y] + rng.normal(loc=5, size=(120, n_classes))).astype(dtype)
    targets = torch.tensor(y)

    def loss(rows, logits):
        if n_classes == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return F.cross_entropy(logits, targets[rows])

    batches = torch.arange(120).repeat(600, 1)
    [(coef, intercept)] = train_heads(X, n_classes, loss, batches, learning_rate=0.05, l2=0.1)
    scaler = StandardScaler().fit(X.astype(np.float64))
    # scikit-learn minimizes C sum_i CE_i + ||w||^2 / 2.
    expected = LogisticRegression(C=1 / (0.1 * 120), tol=1e-8).fit(scaler.transform(X.astype(np.float64)), y)
    np.testing.assert_allclose(coef * scaler.scale_, expected.coef_, atol=2e-4)
    probabilities = LogisticRegression.predict_proba(expected, scaler.transform(X.astype(np.float64)))
    scores = X @ coef.T + intercept
    log_odds = np.log(probabilities / probabilities[:, :1])[:, 1:]
    np.testing.assert_allclose(
        scores if n_classes == 2 else scores[:, 1:] - scores[:, :1], log_odds, atol=2e-3
    )
