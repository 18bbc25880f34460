import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from skexmap.retraining import AFRClassifier, ERMClassifier
from skexmap.retraining._afr import afr_weights


def test_afr_weighs_the_doubted_samples_by_the_papers_formula():
    p, y = np.array([0.9, 0.1, 0.5, 0.5]), np.array([0, 0, 0, 1])
    expected = np.array([np.exp(-3.6) / 3, np.exp(-0.4) / 3, np.exp(-2.0) / 3, np.exp(-2.0)])
    np.testing.assert_allclose(afr_weights(p, y, 4.0), expected / expected.sum())


def test_afr_weights_are_finite_if_every_exponential_underflows():
    p, y = np.array([0.9, 0.1, 0.1 + np.log(2) * 1e-6, 0.5]), np.array([0, 0, 0, 1])
    np.testing.assert_allclose(afr_weights(p, y, 1e6), [0, 2 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_gradient_of_the_weighted_loss_and_half_of_l2_around_the_reference_is_zero_after_afr(n_classes):
    rng = np.random.RandomState(0)
    y = rng.randint(n_classes, size=150)
    X = 2 * np.eye(n_classes)[y] + rng.normal(size=(150, n_classes))
    reference = ERMClassifier(C=1e-2).fit(X[:50], y[:50])
    afr = AFRClassifier(gamma=2.0, l2=0.3, reference_estimator=FrozenEstimator(reference)).fit(X, y)

    p_true = reference.predict_proba(X)[np.arange(150), y]
    weight = np.exp(-2.0 * p_true) / np.bincount(y)[y]
    weight /= weight.sum()
    np.testing.assert_allclose(afr.sample_weight_, weight)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    residual = weight[:, None] * (afr.predict_proba(X) - np.eye(n_classes)[y])
    residual = residual[:, 1:] if n_classes == 2 else residual
    pull = 0.3 * (afr.coef_ - reference.coef_) * scale
    np.testing.assert_allclose(residual.T @ ((X - mean) / scale) + pull, 0, atol=1e-6)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-6)
    assert abs(pull).max() > 1e-2


def test_afr_takes_the_probabilities_of_the_default_reference_out_of_fold(shortcut_data):
    X, y, _ = shortcut_data(100)
    afr = AFRClassifier().fit(X, y)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(ERMClassifier(), X, y, cv=folds, method="predict_proba")[np.arange(100), y]
    np.testing.assert_allclose(afr.sample_weight_, afr_weights(p, y, 4.0))
    # A class of one sample cannot be held out.
    alone = (np.arange(100) == 0).astype(int)
    X[0] += 20
    p = ERMClassifier().fit(X, alone).predict_proba(X)[np.arange(100), alone]
    np.testing.assert_allclose(AFRClassifier().fit(X, alone).sample_weight_, afr_weights(p, alone, 4.0))


def test_afr_helps_the_samples_against_the_shortcut_and_a_strong_pull_keeps_the_reference(
    shortcut_data, accuracies_with_and_against_the_shortcut
):
    X, y, _ = shortcut_data()
    erm, afr = ERMClassifier().fit(X, y), AFRClassifier().fit(X, y)
    against = [accuracies_with_and_against_the_shortcut(model)[1] for model in (erm, afr)]
    assert against[1] > against[0] + 0.2
    kept = AFRClassifier(l2=1e6).fit(X, y)
    np.testing.assert_allclose(kept.coef_, erm.coef_, atol=1e-4)


def test_afr_refuses_a_reference_that_is_not_linear_or_has_other_classes(shortcut_data):
    X, y, _ = shortcut_data(100)
    with pytest.raises(ValueError, match="no `coef_`"):
        AFRClassifier(reference_estimator=KNeighborsClassifier()).fit(X, y)
    other = FrozenEstimator(ERMClassifier().fit(X, y + 5))
    with pytest.raises(ValueError, match="has the classes"):
        AFRClassifier(reference_estimator=other).fit(X, y)
