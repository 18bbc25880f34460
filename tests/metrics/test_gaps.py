from itertools import product

import numpy as np
import pytest

from skexmap.metrics import shortcut_gaps


@pytest.fixture
def urban_cars():
    """100 images of each of the 8 kinds, a model with a known accuracy on each, biased training shares."""
    accuracy = {  # (background common, object common) -> accuracy, the same for both classes
        (True, True): 0.96,
        (False, True): 0.80,
        (True, False): 0.88,
        (False, False): 0.40,
    }
    rows, shares = [], {}
    for group, (car, bg_common, object_common) in enumerate(product([0, 1], [True, False], [True, False])):
        background, thing = (car if common else 1 - car for common in (bg_common, object_common))
        n_right = round(100 * accuracy[bg_common, object_common])
        rows += [(car, background, thing, car if i < n_right else 1 - car, group) for i in range(100)]
        # Each shortcut agrees with the class in 95% of the training images.
        shares[group] = 0.5 * (0.95 if bg_common else 0.05) * (0.95 if object_common else 0.05)
    return np.array(rows).T, shares


@pytest.mark.parametrize("names", [[0, 1], ["urban", "country"]])
def test_gaps_are_relative_to_the_training_weighted_mean(urban_cars, names):
    (*columns, group), shares = urban_cars
    y, background, thing, predicted = np.array(names)[np.array(columns)]
    mean = 0.95**2 * 0.96 + 0.95 * 0.05 * (0.80 + 0.88) + 0.05**2 * 0.40
    gaps = shortcut_gaps(
        y,
        predicted,
        shortcuts={"background": background, "co_occurring_object": thing},
        group_labels=group,
        weights=shares,
    )
    assert list(gaps) == ["mean_accuracy", "background", "co_occurring_object", "both"]
    assert list(gaps.values()) == pytest.approx([mean, 0.80 - mean, 0.88 - mean, 0.40 - mean])


def test_classes_weigh_the_same_in_a_gap():
    # The shortcut is against 8 samples of class -1 (all right) and 2 of class 1 (all wrong).
    y = np.array([-1] * 8 + [1] * 2 + [-1, 1])
    shortcut = np.array([1] * 8 + [-1] * 2 + [-1, 1])
    predicted = np.array([-1] * 8 + [-1] * 2 + [-1, 1])
    gaps = shortcut_gaps(y, predicted, shortcuts={"ink": shortcut})
    assert gaps == pytest.approx({"mean_accuracy": 10 / 12, "ink": 0.5 - 10 / 12})


def test_three_shortcuts_have_seven_gaps():
    bits = np.array(list(product([0, 1], repeat=4)))
    y = bits[:, 0]
    shortcuts = {name: bits[:, i + 1] for i, name in enumerate("abc")}
    gaps = shortcut_gaps(y, bits[:, 2], shortcuts=shortcuts)
    assert list(gaps) == ["mean_accuracy", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    # The model looks at b alone.
    assert {name for name, gap in gaps.items() if gap == -0.5} == {"b", "a+b", "b+c", "a+b+c"}


def test_sample_weight_counts_like_repetition_in_a_gap(urban_cars):
    columns, _ = urban_cars
    repeats = np.random.RandomState(0).randint(1, 4, size=800)
    y, background, thing, predicted, _ = columns
    once = shortcut_gaps(y, predicted, shortcuts={"a": background, "b": thing}, sample_weight=repeats)
    y, background, thing, predicted, _ = np.repeat(columns, repeats, axis=1)
    assert once == pytest.approx(shortcut_gaps(y, predicted, shortcuts={"a": background, "b": thing}))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"shortcuts": {}}, "`shortcuts` must be a dict"),
        ({"shortcuts": [[0, 1, 0, 1]]}, "`shortcuts` must be a dict"),
        ({"shortcuts": {"ink": [0, 1]}}, "Shortcut 'ink' has 2 entries for 4 samples"),
        ({"shortcuts": {"ink": ["r", "g", "r", "g"]}}, "Mix of label input types"),
        (
            {"shortcuts": {"ink": [1, 1, 0, 0]}},
            r"'ink' agrees with y_true on none of the 4 .* \(such as 0, here 1\)",
        ),
        (
            {"shortcuts": {"ink": [0, 0, 1, 1]}},
            r"Exactly 'ink' is uncommon on no sample of 2 class.*, \[0, 1\]",
        ),
        ({"sample_weight": [1, 1, 0, 1]}, r"Exactly 'ink' is uncommon on no sample of 1 class\(es\), \[1\]"),
        (
            {
                "y_true": [0, 0, 0, 1, 1, 1],
                "y_pred": [0, 0, 0, 1, 1, 1],
                "shortcuts": {"ink": [1, 0, 1, 0, 1, 1], "mark": [0, 1, 1, 1, 0, 1]},
            },
            r"Exactly 'ink' and 'mark' is uncommon on no sample of 1 .*, \[1\]",
        ),
        ({"weights": {0: 1.0}}, "pass `group_labels` too"),
        ({"y_true": [], "y_pred": [], "shortcuts": {"ink": []}, "group_labels": []}, "There are 0 samples"),
        ({"y_true": [], "y_pred": [], "shortcuts": {"ink": []}}, "There are 0 samples"),
    ],
)
def test_shortcuts_that_have_no_gap_are_refused(changed, message):
    arguments = {
        "y_true": [0, 0, 1, 1],
        "y_pred": [0, 1, 0, 1],
        "shortcuts": {"ink": [0, 1, 0, 1]},
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        shortcut_gaps(**arguments)


def test_a_class_of_weight_zero_is_missed_in_no_gap():
    y, ink = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2])
    gaps = shortcut_gaps(y, y, shortcuts={"ink": ink}, sample_weight=[1, 1, 1, 1, 0])
    assert gaps == {"mean_accuracy": 1.0, "ink": 0.0}
