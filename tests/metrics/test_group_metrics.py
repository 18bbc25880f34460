from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from skexmap.metrics import group_report, mean_accuracy, worst_group_accuracy


def accuracies_of(y, predicted, **options):
    """Return the accuracy of each group in a report, by group."""
    report = group_report(y, predicted, **options)
    return dict(zip(report.groups, report.accuracies.tolist(), strict=True))


def test_the_accuracies_of_a_report_are_those_of_each_groups_samples(predictions):
    y, predicted, group = predictions
    accuracies = accuracies_of(y, predicted, group_labels=group)
    assert list(accuracies) == [0, 1, 2, 3]
    for label, accuracy in accuracies.items():
        n_right = sum(1 for t, p, g in zip(y, predicted, group, strict=True) if g == label and t == p)
        n = sum(1 for g in group if g == label)
        assert accuracy == pytest.approx(n_right / n)


def test_strings_and_integers_as_classes_and_groups_give_the_same(predictions):
    y, predicted, group = predictions
    names = np.array(["landbird", "waterbird"])
    group_names = np.array(["a", "b", "c", "d"])
    expected = accuracies_of(y, predicted, group_labels=group)
    got = accuracies_of(names[y], names[predicted], group_labels=group_names[group])
    assert list(got) == ["a", "b", "c", "d"]
    assert list(got.values()) == list(expected.values())


def test_samples_of_group_minus_one_are_left_out(predictions):
    y, predicted, group = predictions
    labels = np.concatenate([np.full(7, -1), group])
    y_all, predicted_all = np.concatenate([y[:7], y]), np.concatenate([1 - y[:7], predicted])
    expected = accuracies_of(y, predicted, group_labels=group)
    for none in (labels, labels.astype(float), labels.astype(object)):
        assert accuracies_of(y_all, predicted_all, group_labels=none) == expected
    assert worst_group_accuracy(y_all, predicted_all, group_labels=labels) == min(expected.values())
    plain = mean_accuracy(y_all, predicted_all, group_labels=labels)
    assert plain == pytest.approx(accuracy_score(y, predicted))


@pytest.mark.parametrize(
    "none",
    [[-1, "a", "a"], ["-1", "a", "a"], [-1.0, "a", "a"], np.array([-1, "a", "a"], dtype=object)],
    ids=repr,
)
def test_minus_one_means_no_group_as_a_number_and_as_text(none):
    y, predicted = [0, 0, 1], [1, 0, 1]
    assert accuracies_of(y, predicted, group_labels=none) == {"a": 1.0}
    assert mean_accuracy(y, predicted, group_labels=none, weights=Counter(["-1", "a"])) == 1


def worst_by_report(y, predicted, **options):
    return group_report(y, predicted, **options).worst_group_accuracy


@pytest.mark.parametrize("worst", [worst_group_accuracy, worst_by_report])
def test_a_group_of_exactly_min_group_size_samples_can_be_the_worst_and_a_smaller_one_cannot(worst):
    y, predicted = [0] * 8, [1, 1, 0, 0, 0, 0, 0, 1]
    group = [0, 0, 1, 1, 1, 1, 1, 1]
    assert worst([0, 0, 0], [1, 0, 0], group_labels=[0, 1, 1]) == 0
    assert worst(y, predicted, group_labels=group, min_group_size=2) == 0
    assert worst(y, predicted, group_labels=group, min_group_size=3) == pytest.approx(5 / 6)
    # The largest group is large enough as long as it has the size itself.
    assert worst(y, predicted, group_labels=group, min_group_size=6) == pytest.approx(5 / 6)


def test_weights_of_samples_count_like_repetitions(predictions):
    y, predicted, group = predictions
    repeats = np.random.RandomState(1).randint(1, 4, size=len(y))
    weighted = {"group_labels": group, "sample_weight": repeats}
    repeated = {"group_labels": np.repeat(group, repeats)}
    y_many, predicted_many = np.repeat(y, repeats), np.repeat(predicted, repeats)
    for metric in (worst_group_accuracy, mean_accuracy):
        assert metric(y, predicted, **weighted) == pytest.approx(metric(y_many, predicted_many, **repeated))


def test_a_sample_of_weight_zero_counts_as_not_there(predictions):
    y, predicted, group = predictions
    weight = (group != 1).astype(float)
    keep = group != 1
    expected = accuracies_of(y[keep], predicted[keep], group_labels=group[keep])
    assert accuracies_of(y, predicted, group_labels=group, sample_weight=weight) == expected


def test_mean_accuracy_is_the_dot_product_of_training_shares_and_accuracies(predictions):
    y, predicted, group = predictions
    pd = pytest.importorskip("pandas")
    shares = {0: 0.73, 1: 0.04, 2: 0.01, 3: 0.22}
    training = np.repeat([-1, 0, 1, 2, 3], [5, 73, 4, 1, 22])
    accuracies = accuracies_of(y, predicted, group_labels=group)
    expected = sum(shares[g] * accuracies[g] for g in shares)
    for weights in (shares, [7300, 400, 100, 2200], Counter(training), pd.Series(training).value_counts()):
        assert mean_accuracy(y, predicted, group_labels=group, weights=weights) == pytest.approx(expected)


def test_mean_accuracy_is_the_plain_accuracy_and_with_macro_weights_the_mean_over_groups(predictions):
    y, predicted, group = predictions
    assert mean_accuracy(y, predicted, group_labels=group) == pytest.approx(accuracy_score(y, predicted))
    macro = np.mean(list(accuracies_of(y, predicted, group_labels=group).values()))
    assert mean_accuracy(y, predicted, group_labels=group, weights="macro") == pytest.approx(macro)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"y_pred": [0, 1]}, "`y_true` has 4 entries, `y_pred` has 2"),
        ({"group_labels": [0, 1]}, "`group_labels` has 2 entries for 4 samples"),
        ({"group_labels": [[0, 1]] * 4}, "`group_labels` must be 1-dimensional"),
        ({"group_labels": [0.0, np.nan, 1.0, 1.0]}, "1 of 4 `group_labels` are missing"),
        ({"group_labels": [None, "a", "a", None]}, "2 of 4 `group_labels` are missing"),
        ({"group_labels": np.array([1, "a", "b", 1], dtype=object)}, "`group_labels` mix int and str"),
        ({"group_labels": [-1] * 4}, "None of the 4 samples belongs to a group"),
        ({"y_true": [0, np.nan, 1, 1]}, "NaN"),
        ({"y_true": ["a", None, "a", None]}, "2 of 4 labels in y_true are missing"),
        ({"y_pred": np.array(["a", 1, 1, 1], dtype=object)}, "`y_pred` mix int and str"),
        ({"group_labels": [0, "a", "b", 1]}, "`group_labels` mix int and str"),
        ({"y_pred": [0.1, 0.7, 0.2, 0.9]}, "continuous"),
        ({"y_pred": ["0", "1", "0", "1"]}, "Mix of label input types"),
        ({"y_pred": [[0, 1], [1, 0], [0, 1], [1, 1]]}, "1d array"),
        ({"sample_weight": [1, 1]}, "`sample_weight` has 2 entries for 4 samples"),
        ({"sample_weight": [1, -1, np.nan, 1]}, "2 of 4 sample weights are negative, NaN or infinite"),
        ({"sample_weight": [0, 0, 0, 0]}, "all are 0"),
        ({"y_true": [], "y_pred": [], "group_labels": []}, "There are 0 samples"),
    ],
)
@pytest.mark.parametrize("metric", [worst_group_accuracy, mean_accuracy, group_report])
def test_bad_input_is_refused_by_every_metric(metric, changed, message):
    arguments = {"y_true": [0, 0, 1, 1], "y_pred": [0, 1, 0, 1], "group_labels": [0, 0, 3, 3], **changed}
    with pytest.raises(ValueError, match=message):
        metric(**arguments)


def test_groups_that_are_all_below_min_group_size_are_refused_with_the_largest_size():
    with pytest.raises(
        ValueError, match=r"All 2 groups have fewer than min_group_size=4 samples \(largest: 3\)"
    ):
        worst_group_accuracy([0] * 5, [0] * 5, group_labels=[0, 0, 1, 1, 1], min_group_size=4)


@pytest.mark.parametrize("bad, error", [(0, ValueError), (1.5, TypeError), ("5", TypeError)])
def test_a_min_group_size_that_is_not_a_count_is_refused(bad, error):
    with pytest.raises(error, match="min_group_size"):
        worst_group_accuracy([0, 1], [0, 1], group_labels=[0, 1], min_group_size=bad)


@pytest.mark.parametrize(
    "weights, message",
    [
        ({0: 1.0}, r"1 of 2 groups have no entry in `weights`: \[3\]"),
        ({0: 1, 1: 2, 3: 4}, r"1 of 3 groups in `weights` have no sample to be scored: \[1\]"),
        ([1, 0], r"no entry in `weights`: \[3\]"),
        ({0: -1.0, 3: 1}, r"1 of 2 `weights` are negative, NaN or infinite: \[0\]"),
        ("training", "must be None, 'macro', a dict or an array"),
        ([0, 0, 0, 0], "All 4 `weights` are 0"),
    ],
)
def test_weights_that_do_not_match_the_groups_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        mean_accuracy([0, 0, 1, 1], [0, 1, 0, 1], group_labels=[0, 0, 3, 3], weights=weights)


def test_an_absent_group_of_weight_zero_is_allowed():
    weights = {0: 1, 1: 0, 3: 3}
    value = mean_accuracy([0, 0, 1, 1], [0, 1, 1, 1], group_labels=[0, 0, 3, 3], weights=weights)
    assert value == pytest.approx(0.25 * 0.5 + 0.75)


@pytest.mark.parametrize("scale", [1e-200, 1e-310, 1e200, 1e307])
def test_the_scale_of_the_weights_changes_nothing(predictions, scale):
    y, predicted, group = predictions
    weight = np.arange(1.0, 61)
    expected = group_report(y, predicted, group_labels=group, sample_weight=weight)
    report = group_report(y, predicted, group_labels=group, sample_weight=scale * (weight / 60))
    np.testing.assert_allclose(report.lower, expected.lower)
    assert report.plain_mean == pytest.approx(expected.plain_mean)
    mean = mean_accuracy(y, predicted, group_labels=group, sample_weight=scale * (weight / 60))
    assert mean == pytest.approx(expected.plain_mean)
