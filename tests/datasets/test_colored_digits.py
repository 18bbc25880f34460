import numpy as np
import pytest
from sklearn.datasets import load_digits

from skexmap.datasets import make_colored_digits

SPLITS = ("train", "validation", "test", "test_correlated")


@pytest.fixture(scope="module")
def digits():
    return make_colored_digits(correlation=0.98, random_state=0)


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_float32_canvases_between_zero_and_one_in_the_ink_they_name(digits, split):
    part = digits[split]
    assert part.data.dtype == np.float32
    assert part.data.shape == (len(part.target), 3, 28, 28)
    assert part.data.min() >= 0
    assert 0.9 < part.data.max() <= 1
    red, green = part.data[:, 0].sum(axis=(1, 2)), part.data[:, 1].sum(axis=(1, 2))
    expected = np.take(part.attribute_names, part.attributes)
    np.testing.assert_array_equal(np.where(red > green, "red", "green"), expected)


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_those_of_the_source_digits(digits, split):
    part = digits[split]
    truth = load_digits().target[part.source]
    np.testing.assert_array_equal(part.digit, truth)
    np.testing.assert_array_equal(part.target, [int(d) > 4 for d in truth])
    np.testing.assert_array_equal(part.group_labels, 2 * part.target + part.attributes)


def test_train_validation_and_test_share_no_handwritten_digit(digits):
    train, validation, test = (set(digits[name].source.tolist()) for name in SPLITS[:3])
    assert len(train) + len(validation) + len(test) == 1797
    assert train | validation | test == set(range(1797))


@pytest.mark.parametrize("correlation", [0.9, 0.98, 1.0])
def test_the_ink_agrees_with_the_class_at_exactly_the_chosen_rate(correlation):
    digits = make_colored_digits(correlation=correlation, n_copies=2, random_state=3)
    for split in ("train", "validation", "test_correlated"):
        for c in (0, 1):
            agrees = digits[split].attributes[digits[split].target == c] == c
            assert agrees.sum() == round(correlation * len(agrees))


def test_every_test_image_has_a_twin_that_differs_by_the_swapped_ink_alone(digits):
    test = digits.test
    n = len(test.target) // 2
    np.testing.assert_array_equal(test.data[:n, [1, 0, 2]], test.data[n:])
    np.testing.assert_array_equal(test.source[:n], test.source[n:])
    np.testing.assert_array_equal(test.attributes, np.repeat([0, 1], n))
    assert min(np.bincount(test.group_labels)) >= 200


def test_the_correlated_test_split_is_made_of_rows_of_the_full_one(digits):
    test, correlated = digits.test, digits.test_correlated
    n = len(test.target) // 2
    rows = np.arange(n) + n * correlated.attributes
    np.testing.assert_array_equal(correlated.data, test.data[rows])
    np.testing.assert_array_equal(correlated.target, test.target[rows])


def test_the_digit_itself_is_in_the_image():
    # Without shift or noise, averaged down to 4 x 4 it must look like the source digit.
    part = make_colored_digits(max_shift=0, noise=0, n_copies=1, random_state=0).train
    ink = part.data.sum(axis=1)[:, 4:24, 4:24]
    assert part.data.sum() == pytest.approx(ink.sum())
    made = ink.reshape(-1, 4, 5, 4, 5).mean(axis=(2, 4)).reshape(len(ink), -1)
    source = load_digits().images[part.source].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(len(ink), -1)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(made, source, strict=True)]
    assert np.quantile(correlations, 0.01) > 0.95


def test_the_shifts_stay_within_max_shift_and_reach_it():
    part = make_colored_digits(max_shift=1, noise=0, random_state=0).train
    columns = np.flatnonzero(part.data.any(axis=(0, 1, 2)))
    rows = np.flatnonzero(part.data.any(axis=(0, 1, 3)))
    assert 3 <= columns.min() <= columns.max() <= 24
    assert (rows.min(), rows.max()) == (3, 24)


def test_a_seed_fixes_every_image_and_another_seed_changes_them():
    first, again, other = (make_colored_digits(n_copies=1, random_state=seed) for seed in (7, 7, 8))
    for split in SPLITS:
        np.testing.assert_array_equal(first[split].data, again[split].data)
        np.testing.assert_array_equal(first[split].attributes, again[split].attributes)
    assert not np.array_equal(first.train.source, other.train.source)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"correlation": 1.5}, "correlation == 1.5, must be <= 1"),
        ({"correlation": -0.1}, "correlation == -0.1, must be >= 0"),
        ({"n_copies": 0}, "n_copies == 0, must be >= 1"),
        ({"max_shift": 5}, "max_shift == 5, must be <= 4"),
        ({"noise": -1.0}, "noise == -1.0, must be >= 0"),
        ({"test_size": 1.0}, "test_size == 1.0, must be < 1"),
        ({"validation_size": 0.6, "test_size": 0.5}, "leave no digits to train on"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_colored_digits(**parameters)
