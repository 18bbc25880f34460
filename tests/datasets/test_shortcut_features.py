import numpy as np
import pytest

from skexmap.datasets import make_shortcut_features


@pytest.mark.parametrize("agreement", [0, 0.8, 1])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_shortcut_agrees_with_each_class_at_the_chosen_rate(n_classes, agreement):
    _, y, shortcut = make_shortcut_features(600, n_classes, agreement=agreement, random_state=0)
    size = 600 // n_classes
    for c in range(n_classes):
        counts = np.bincount(shortcut[y == c], minlength=n_classes)
        expected = np.full(n_classes, size * (1 - agreement) / (n_classes - 1))
        expected[c] = size * agreement
        np.testing.assert_allclose(counts, expected)


def test_without_noise_the_features_are_the_class_and_twice_as_strongly_the_shortcut():
    X, y, shortcut = make_shortcut_features(30, 3, 8, noise=0, random_state=0)
    expected = np.zeros((30, 8))
    for i in range(30):
        expected[i, y[i]] = 2
        expected[i, 3 + shortcut[i]] = 4
    np.testing.assert_array_equal(X, expected)


def test_noise_is_in_all_features():
    X, *_ = make_shortcut_features(5000, noise=0.5, random_state=0)
    signal, *_ = make_shortcut_features(5000, noise=0, random_state=0)
    np.testing.assert_allclose((X - signal).std(axis=0), 0.5, rtol=0.05)


def test_random_scales_keep_the_order_of_the_samples_in_each_feature():
    X, *_ = make_shortcut_features(50, random_state=0)
    scaled, *_ = make_shortcut_features(50, random_scale=True, random_state=0)
    np.testing.assert_array_equal(scaled.argsort(axis=0), X.argsort(axis=0))
    scales = scaled.std(axis=0) / X.std(axis=0)
    assert scales.min() >= 0.5
    assert 1.5 < scales.max() <= 4


def test_a_seed_fixes_the_features_and_another_seed_changes_them():
    first, again, other = (make_shortcut_features(random_state=seed) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"n_classes": 1}, "n_classes == 1, must be >= 2"),
        ({"n_samples": 1}, "n_samples == 1, must be >= 2"),
        ({"n_features": 3}, "n_features == 3, must be >= 4"),
        ({"agreement": 1.5}, "agreement == 1.5, must be <= 1"),
        ({"noise": -1.0}, "noise == -1.0, must be >= 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_shortcut_features(**parameters)
