import numpy as np
import pytest
from sklearn.base import clone

from skexmap import retraining
from skexmap.retraining._linear import (
    fold_scaler,
    one_versus_rest_probabilities,
    predict_codes,
    standardizer,
)


def test_folding_a_scaler_keeps_every_score():
    rng = np.random.RandomState(0)
    X, coef, intercept = rng.normal(size=(20, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    mean, scale = rng.normal(size=4), rng.uniform(0.1, 3, size=4)
    folded_coef, folded_intercept = fold_scaler(coef, intercept, mean, scale)
    scores = (X - mean) / scale @ coef.T + intercept
    np.testing.assert_allclose(X @ folded_coef.T + folded_intercept, scores, atol=1e-12)


def test_one_versus_rest_probabilities_sum_to_one_even_if_every_class_is_rejected():
    scores = np.array([[0.0, 1.0, -1.0], [-800.0, -801.0, -900.0]])
    probabilities = one_versus_rest_probabilities(scores)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    odds = 1 / (1 + np.exp(-scores[0]))
    np.testing.assert_allclose(probabilities[0], odds / odds.sum())


def test_one_score_above_0_and_the_largest_of_many_are_predicted():
    assert predict_codes(np.array([[0.3], [-0.3], [0.0]])).tolist() == [1, 0, 0]
    assert predict_codes(np.array([[0.3, 0.5], [1.0, -0.3]])).tolist() == [1, 0]


@pytest.mark.parametrize("largest", [1e160, 1e200, 1e305])
def test_an_outlier_whose_variance_overflows_is_refused(largest):
    X = np.random.RandomState(0).normal(size=(30, 3))
    X[4, 1] = largest
    with pytest.raises(
        ValueError, match=r"1 of 3 features .* overflows: their largest value is 1e\+.*Remove"
    ):
        standardizer(X)


def test_the_largest_outlier_whose_variance_does_not_overflow_gives_a_scale():
    X = np.random.RandomState(0).normal(size=(30, 3))
    X[4, 1] = 1e153
    _, scale = standardizer(X)
    np.testing.assert_allclose(scale[1], 1e153 * np.sqrt(29) / 30)


@pytest.mark.parametrize(
    "classifier",
    [
        retraining.GroupDROClassifier(learning_rate=1e30),
        retraining.CVaRDROClassifier(learning_rate=1e30),
        retraining.LfFClassifier(learning_rate=1e30),
        retraining.DivDisClassifier(learning_rate=1e30),
        retraining.AFRClassifier(l2=1e300),
    ],
    ids=lambda classifier: type(classifier).__name__,
)
def test_a_fit_that_ends_at_coefficients_that_are_not_finite_is_an_error(classifier, shortcut_data):
    X, y, shortcut = shortcut_data(200)
    name = type(classifier).__name__
    message = (
        rf"(5|10) coefficients and intercepts of {name} are not finite.*learning_rate.*largest value is \d"
    )
    with pytest.raises(ValueError, match=message):
        clone(classifier).fit(X, y, group_labels=2 * y + shortcut)
