from itertools import product

import numpy as np
import pytest

from skexmap.metrics import group_shares, shortcut_gaps


@pytest.fixture
def urban_cars():
    """250 images of each of the 8 kinds, a model with a known accuracy on each, biased training shares."""
    accuracy = {  # (background common, object common) -> accuracy, the same for both classes
        (True, True): 0.96,
        (False, True): 0.80,
        (True, False): 0.88,
        (False, False): 0.40,
    }
    y, background, beside, predicted, group = [], [], [], [], []
    for number, (car, bg_common, object_common) in enumerate(product([0, 1], [True, False], [True, False])):
        n_right = round(250 * accuracy[bg_common, object_common])
        y += [car] * 250
        background += [car if bg_common else 1 - car] * 250
        beside += [car if object_common else 1 - car] * 250
        predicted += [car] * n_right + [1 - car] * (250 - n_right)
        group += [number] * 250
    # Each shortcut agrees with the class in 95% of the training images.
    shares = [0.5 * b * o for _, b, o in product([0, 1], [0.95, 0.05], [0.95, 0.05])]
    data = {
        name: np.array(v) for name, v in [("y", y), ("bg", background), ("obj", beside), ("p", predicted)]
    }
    return data, np.array(group), dict(enumerate(shares)), accuracy


def test_gaps_are_relative_to_the_training_weighted_mean(urban_cars):
    data, group, shares, _ = urban_cars
    mean = 0.95**2 * 0.96 + 0.95 * 0.05 * (0.80 + 0.88) + 0.05**2 * 0.40
    gaps = shortcut_gaps(
        data["y"],
        data["p"],
        shortcuts={"background": data["bg"], "co_occurring_object": data["obj"]},
        group_labels=group,
        weights=shares,
    )
    assert list(gaps) == ["mean_accuracy", "background", "co_occurring_object", "both"]
    assert gaps["mean_accuracy"] == pytest.approx(mean)
    assert gaps["background"] == pytest.approx(0.80 - mean)
    assert gaps["co_occurring_object"] == pytest.approx(0.88 - mean)
    assert gaps["both"] == pytest.approx(0.40 - mean)


def test_names_of_classes_may_be_strings(urban_cars):
    data, group, shares, _ = urban_cars
    options = {"group_labels": group, "weights": shares}
    names = np.array(["urban", "country"])
    numbers = shortcut_gaps(data["y"], data["p"], shortcuts={"a": data["bg"], "b": data["obj"]}, **options)
    strings = shortcut_gaps(
        names[data["y"]],
        names[data["p"]],
        shortcuts={"a": names[data["bg"]], "b": names[data["obj"]]},
        **options,
    )
    assert strings == numbers


def test_classes_weigh_the_same_in_a_gap():
    # The shortcut is against 8 samples of class 0 (all right) and 2 of class 1 (all wrong).
    y = np.array([0] * 8 + [1] * 2 + [0, 1])
    shortcut = np.array([1] * 8 + [0] * 2 + [0, 1])
    predicted = np.array([0] * 8 + [0] * 2 + [0, 1])
    gaps = shortcut_gaps(y, predicted, shortcuts={"ink": shortcut})
    assert list(gaps) == ["mean_accuracy", "ink"]
    assert gaps["ink"] == pytest.approx(0.5 - 10 / 12)


def test_three_shortcuts_have_seven_gaps():
    bits = np.array(list(product([0, 1], repeat=4)))
    y = bits[:, 0]
    shortcuts = {name: bits[:, i + 1] for i, name in enumerate("abc")}
    gaps = shortcut_gaps(y, bits[:, 2], shortcuts=shortcuts)
    assert list(gaps) == ["mean_accuracy", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    # The model looks at b alone.
    assert {name for name, gap in gaps.items() if gap == -0.5} == {"b", "a+b", "b+c", "a+b+c"}


def test_sample_weight_counts_like_repetition(urban_cars):
    data, _, _, _ = urban_cars
    repeats = np.random.RandomState(0).randint(1, 4, size=len(data["y"]))
    once = shortcut_gaps(
        data["y"], data["p"], shortcuts={"a": data["bg"], "b": data["obj"]}, sample_weight=repeats
    )
    many = {name: np.repeat(values, repeats) for name, values in data.items()}
    expected = shortcut_gaps(many["y"], many["p"], shortcuts={"a": many["bg"], "b": many["obj"]})
    assert once == pytest.approx(expected)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"shortcuts": {}}, "`shortcuts` must be a dict"),
        ({"shortcuts": [[0, 1, 0, 1]]}, "`shortcuts` must be a dict"),
        ({"shortcuts": {"ink": [0, 1]}}, "Shortcut 'ink' has 2 entries for 4 samples"),
        ({"shortcuts": {"ink": ["r", "g", "r", "g"]}}, "Mix of label input types"),
        ({"shortcuts": {"ink": [1, 1, 0, 0]}}, "'ink' agrees with y_true on none of the 4 samples"),
        ({"shortcuts": {"ink": [0, 0, 1, 1]}}, "On none of the 4 samples exactly 'ink' is uncommon"),
        ({"weights": group_shares([0, 1])}, "pass `group_labels` too"),
    ],
)
def test_shortcuts_that_do_not_fit_are_refused(changed, message):
    arguments = {
        "y_true": [0, 0, 1, 1],
        "y_pred": [0, 1, 0, 1],
        "shortcuts": {"ink": [0, 1, 0, 1]},
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        shortcut_gaps(**arguments)


def test_a_combination_that_one_class_lacks_has_no_gap():
    y = np.array([0, 0, 0, 1, 1, 1])
    ink, mark = np.array([1, 0, 1, 0, 1, 1]), np.array([0, 1, 1, 1, 0, 1])
    with pytest.raises(
        ValueError, match=r"On none of the 6 samples of the class\(es\) 1 exactly 'ink' and 'mark'"
    ):
        shortcut_gaps(y, y, shortcuts={"ink": ink, "mark": mark})


def test_samples_of_weight_zero_make_no_class_and_no_combination():
    y, ink = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2])
    weighted = {"shortcuts": {"ink": ink}, "sample_weight": [1, 1, 1, 1, 0]}
    assert shortcut_gaps(y, y, **weighted) == {"mean_accuracy": 1.0, "ink": 0.0}
    with pytest.raises(ValueError, match=r"On none of the 4 samples of the class\(es\) 1 exactly 'ink'"):
        shortcut_gaps(y[:4], y[:4], shortcuts={"ink": ink[:4]}, sample_weight=[1, 1, 1, 0])
