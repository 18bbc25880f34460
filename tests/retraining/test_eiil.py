import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.exceptions import DataConversionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from torch.nn import functional as F

from skexmap._blocks import make_blocks
from skexmap.exceptions import PredictionWarning
from skexmap.retraining import DFRClassifier, EIILLabeler, ERMClassifier
from skexmap.retraining._eiil import scale_derivatives


def test_scale_derivatives_are_the_derivatives_of_the_loss_by_the_scale_of_the_logits():
    logits = np.random.RandomState(0).normal(size=(6, 3))
    slopes = scale_derivatives(log_softmax(logits, axis=1))
    for y in range(3):
        scale = torch.ones(6, dtype=torch.float64, requires_grad=True)
        F.cross_entropy(
            scale[:, None] * torch.tensor(logits), torch.full((6,), y), reduction="sum"
        ).backward()
        np.testing.assert_allclose(slopes[:, y], scale.grad.numpy(), atol=1e-12)


def test_no_soft_assignment_violates_invariance_more_than_the_environments_of_eiil(shortcut_data):
    X, y, _ = shortcut_data(300)
    eiil = EIILLabeler(ERMClassifier(C=1e-3)).fit(X, y)
    g = scale_derivatives(np.log(eiil.reference_estimator_.predict_proba(X)))[np.arange(300), y]

    def violation(q):
        return np.mean(q * g) ** 2 + np.mean((1 - q) * g) ** 2

    best = violation(eiil.environment_labels_)
    rng = np.random.RandomState(0)
    assert all(violation(rng.uniform(size=300) ** power) < best for power in (0.1, 1, 10) for _ in range(50))


def test_eiil_finds_the_samples_against_the_shortcut_of_a_model_that_leans_on_it(shortcut_data):
    X, y, shortcut = shortcut_data(noise=0.5)
    # Most of what the net sees is the shortcut.
    X = np.hstack([X, *3 * [X[:, 2:]]])
    eiil = EIILLabeler().fit(X, y)
    assert np.mean(eiil.environment_labels_ == (shortcut != y)) > 0.99
    np.testing.assert_array_equal(eiil.group_labels_, 2 * y + eiil.environment_labels_)
    np.testing.assert_array_equal(eiil.predict_groups(X, y), eiil.group_labels_)


def test_a_pipeline_hands_the_environments_of_eiil_on_to_dfr(shortcut_data):
    X, y, shortcut = shortcut_data(noise=0.5)
    blocks = make_blocks(embedding=X, heatmap=np.zeros((2000, 1, 2, 2)))
    pipe = make_pipeline(EIILLabeler(), DFRClassifier(random_state=0)).fit(blocks, y)
    assert pipe[-1].group_counts_.sum() == 2000
    assert len(pipe[-1].groups_) == 4
    assert pipe.predict(blocks).shape == (2000,)
    against = shortcut != y
    assert pipe[-1].score(X[against], y[against]) > ERMClassifier().fit(X, y).score(X[against], y[against])


def test_eiil_refuses_a_reference_model_of_other_classes(shortcut_data):
    X, y, _ = shortcut_data(100)
    other = FrozenEstimator(ERMClassifier().fit(X, y + 5))
    with pytest.raises(ValueError, match="has the classes"):
        EIILLabeler(other).fit(X, y)


@pytest.mark.parametrize(
    "y_new, message",
    [
        ([0, 1, 0], "3 entries for 100"),
        (None, "y is None"),
        (100 * [7], r"1 class\(es\) that `fit` did not see: \[7\]"),
    ],
)
def test_eiil_refuses_to_group_samples_without_known_classes(y_new, message, shortcut_data):
    X, y, _ = shortcut_data(100)
    with pytest.raises(ValueError, match=message):
        EIILLabeler().fit(X, y).predict_groups(X, y_new)


def test_eiil_reads_a_column_of_classes_as_the_classes(shortcut_data):
    X, y, _ = shortcut_data(100)
    labeler = EIILLabeler().fit(X, y)
    with pytest.warns(DataConversionWarning):
        groups = labeler.predict_groups(X, y[:, None])
    np.testing.assert_array_equal(groups, labeler.group_labels_)


@pytest.mark.parametrize("n, share", [(100, 0.5), (100, 0.1), (1000, 0.1)])
def test_environments_of_few_samples_or_of_a_rare_class_are_not_the_classes(n, share):
    rng = np.random.RandomState(0)
    y = (rng.uniform(size=n) < share).astype(int)
    shortcut = np.where(rng.uniform(size=n) < 0.9, y, 1 - y)
    X = np.column_stack([2 * y - 1, *4 * [2 * shortcut - 1]]) + 0.5 * rng.normal(size=(n, 5))
    assert np.mean(EIILLabeler().fit(X, y).environment_labels_ == (shortcut != y)) > 0.98


def test_eiil_warns_of_a_reference_model_that_predicts_one_class(shortcut_data):
    X, y, _ = shortcut_data(100)
    y[:20] = 0
    told = r"reference model ERMClassifier predicts the same class \(0\).*Its errors are whole classes"
    with pytest.warns(PredictionWarning, match=told):
        EIILLabeler(ERMClassifier(C=1e-9)).fit(X, y)
