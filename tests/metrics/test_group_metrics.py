import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, zero_one_loss

from skexmap.metrics import (
    group_accuracies,
    group_report,
    group_shares,
    mean_accuracy,
    wilson_interval,
    worst_group_accuracy,
    worst_group_score,
)


@pytest.fixture
def predictions():
    """60 samples of 4 uneven groups, predicted with errors; one group by hand."""
    rng = np.random.RandomState(0)
    y = rng.randint(2, size=60)
    group = 2 * y + (rng.uniform(size=60) < 0.2)
    predicted = np.where(rng.uniform(size=60) < 0.25, 1 - y, y)
    return y, predicted, group


def test_group_accuracies_are_the_accuracy_of_each_groups_samples(predictions):
    y, predicted, group = predictions
    accuracies = group_accuracies(y, predicted, group_labels=group)
    assert list(accuracies) == [0, 1, 2, 3]
    for label, accuracy in accuracies.items():
        n_right = sum(1 for t, p, g in zip(y, predicted, group, strict=True) if g == label and t == p)
        n = sum(1 for g in group if g == label)
        assert accuracy == pytest.approx(n_right / n)


def test_worst_group_accuracy_is_that_of_the_worst_group_by_hand():
    y = [0, 0, 0, 0, 1, 1, 1]
    predicted = [0, 0, 0, 1, 0, 0, 1]
    group = ["a", "a", "a", "a", "b", "b", "b"]
    assert worst_group_accuracy(y, predicted, group_labels=group) == pytest.approx(1 / 3)


def test_strings_and_integers_as_classes_and_groups_give_the_same(predictions):
    y, predicted, group = predictions
    names = np.array(["landbird", "waterbird"])
    group_names = np.array(["a", "b", "c", "d"])
    expected = group_accuracies(y, predicted, group_labels=group)
    got = group_accuracies(names[y], names[predicted], group_labels=group_names[group])
    assert list(got) == ["a", "b", "c", "d"]
    assert list(got.values()) == list(expected.values())


@pytest.mark.parametrize("none", [-1, "-1"])
def test_samples_of_group_minus_one_are_left_out(predictions, none):
    y, predicted, group = predictions
    wrong = 1 - y[:7]
    labels = np.concatenate([np.full(7, -1), group])
    if none == "-1":
        labels = labels.astype(str)
    y_all, predicted_all = np.concatenate([y[:7], y]), np.concatenate([wrong, predicted])
    expected = group_accuracies(y, predicted, group_labels=group)
    got = group_accuracies(y_all, predicted_all, group_labels=labels)
    assert list(got.values()) == list(expected.values())
    assert worst_group_accuracy(y_all, predicted_all, group_labels=labels) == min(expected.values())
    assert mean_accuracy(y_all, predicted_all, group_labels=labels) == pytest.approx(
        accuracy_score(y, predicted)
    )
    report = group_report(y_all, predicted_all, group_labels=labels)
    assert report.n_left_out == 7
    assert "7 samples that belong to no group are left out" in str(report)


def share_right(y_true, y_pred):
    return float(np.mean(np.asarray(y_true) == np.asarray(y_pred)))


def worst_by_report(y, predicted, **options):
    return group_report(y, predicted, **options).worst_group_accuracy


def worst_by_any_metric(y, predicted, **options):
    return worst_group_score(y, predicted, metric=share_right, **options)


@pytest.mark.parametrize("worst", [worst_group_accuracy, worst_by_any_metric, worst_by_report])
def test_a_group_of_exactly_min_group_size_samples_can_be_the_worst_and_a_smaller_one_cannot(worst):
    y, predicted = [0] * 8, [1, 1, 0, 0, 0, 0, 0, 1]
    group = [0, 0, 1, 1, 1, 1, 1, 1]
    assert worst(y, predicted, group_labels=group, min_group_size=2) == 0
    assert worst(y, predicted, group_labels=group, min_group_size=3) == pytest.approx(5 / 6)
    # The largest group is large enough as long as it has the size itself.
    assert worst(y, predicted, group_labels=group, min_group_size=6) == pytest.approx(5 / 6)


@pytest.mark.parametrize("worst", [worst_group_accuracy, worst_by_any_metric, worst_by_report])
def test_a_group_of_one_sample_counts_by_default(worst):
    assert worst([0, 0, 0], [1, 0, 0], group_labels=[0, 1, 1]) == 0


def test_weights_of_samples_count_like_repetitions(predictions):
    y, predicted, group = predictions
    repeats = np.random.RandomState(1).randint(1, 4, size=len(y))
    weighted = {"group_labels": group, "sample_weight": repeats}
    repeated = {"group_labels": np.repeat(group, repeats)}
    y_many, predicted_many = np.repeat(y, repeats), np.repeat(predicted, repeats)
    for metric in (worst_group_accuracy, mean_accuracy):
        assert metric(y, predicted, **weighted) == pytest.approx(metric(y_many, predicted_many, **repeated))
    report = group_report(y, predicted, **weighted)
    report_many = group_report(y_many, predicted_many, **repeated)
    np.testing.assert_allclose(report.accuracies, report_many.accuracies)
    # Repeating a sample is no new evidence: the effective size must not grow beyond the number of samples.
    assert (report.upper - report.lower > report_many.upper - report_many.lower).all()


def test_a_sample_of_weight_zero_counts_as_not_there(predictions):
    y, predicted, group = predictions
    weight = (group != 1).astype(float)
    keep = group != 1
    expected = group_accuracies(y[keep], predicted[keep], group_labels=group[keep])
    assert group_accuracies(y, predicted, group_labels=group, sample_weight=weight) == expected


def test_training_weighted_mean_is_the_dot_product_of_shares_and_accuracies(predictions):
    y, predicted, group = predictions
    shares = {0: 0.73, 1: 0.04, 2: 0.01, 3: 0.22}
    accuracies = group_accuracies(y, predicted, group_labels=group)
    expected = sum(shares[g] * accuracies[g] for g in shares)
    counts = [7300, 400, 100, 2200]
    for weights in (shares, counts, {**shares, -1: 5.0}):
        assert mean_accuracy(y, predicted, group_labels=group, weights=weights) == pytest.approx(expected)
    pd = pytest.importorskip("pandas")
    weights = pd.Series(shares)
    assert mean_accuracy(y, predicted, group_labels=group, weights=weights) == pytest.approx(expected)


def test_plain_mean_is_the_accuracy_and_macro_mean_weighs_groups_alike(predictions):
    y, predicted, group = predictions
    assert mean_accuracy(y, predicted, group_labels=group) == pytest.approx(accuracy_score(y, predicted))
    macro = np.mean(list(group_accuracies(y, predicted, group_labels=group).values()))
    assert mean_accuracy(y, predicted, group_labels=group, weights="macro") == pytest.approx(macro)


def test_shares_of_the_waterbirds_training_set_are_the_published_counts():
    g = np.repeat([0, 1, 2, 3], [3498, 184, 56, 1057])
    shares = group_shares(g)
    assert shares == {0: 3498 / 4795, 1: 184 / 4795, 2: 56 / 4795, 3: 1057 / 4795}
    assert group_shares(np.concatenate([g, np.full(100, -1)])) == shares


def test_worst_group_score_takes_metrics_losses_and_values_per_sample(predictions):
    y, predicted, group = predictions
    options = {"group_labels": group}
    assert worst_group_score(y, predicted, metric=accuracy_score, **options) == pytest.approx(
        worst_group_accuracy(y, predicted, **options)
    )
    error = worst_group_score(y, predicted, metric=zero_one_loss, greater_is_better=False, **options)
    assert error == pytest.approx(1 - worst_group_accuracy(y, predicted, **options))

    def right(y_true, y_pred):
        return (y_true == y_pred).astype(float)

    weight = np.random.RandomState(2).uniform(0.1, 3, size=len(y))
    expected = worst_group_accuracy(y, predicted, sample_weight=weight, **options)
    for metric in (accuracy_score, right):
        got = worst_group_score(y, predicted, metric=metric, sample_weight=weight, **options)
        assert got == pytest.approx(expected)


def test_worst_group_score_takes_probabilities(predictions):
    y, _, group = predictions
    positive = np.random.RandomState(3).uniform(0.05, 0.95, size=len(y))
    probabilities = np.column_stack([1 - positive, positive])

    def cross_entropy(y_true, y_prob):
        return log_loss(y_true, y_prob, labels=[0, 1])

    got = worst_group_score(
        y, probabilities, metric=cross_entropy, group_labels=group, greater_is_better=False
    )
    own = -np.log(probabilities[np.arange(len(y)), y])
    assert got == pytest.approx(max(own[group == g].mean() for g in range(4)))


def test_wilson_interval_solves_its_quadratic():
    # The ends are the rates p for which |rate - p| = z * sqrt(p (1 - p) / n).
    rate, n, z = np.array([0.0, 0.2, 0.5, 0.9, 1.0]), np.array([3, 10, 40, 100, 7]), 1.959963984540054
    for end in wilson_interval(rate, n):
        np.testing.assert_allclose(np.abs(rate - end), z * np.sqrt(end * (1 - end) / n), atol=1e-9)


def test_report_holds_what_the_metrics_say_and_marks_the_worst(predictions):
    y, predicted, group = predictions
    shares = {0: 0.73, 1: 0.04, 2: 0.01, 3: 0.22}
    report = group_report(y, predicted, group_labels=group, weights=shares)
    accuracies = group_accuracies(y, predicted, group_labels=group)
    assert dict(zip(report.groups, report.accuracies.tolist(), strict=True)) == accuracies
    assert report.worst_group == min(accuracies, key=accuracies.get)
    assert report.worst_group_accuracy == min(accuracies.values())
    assert report.plain_mean == pytest.approx(accuracy_score(y, predicted))
    assert report.macro_mean == pytest.approx(np.mean(list(accuracies.values())))
    expected = mean_accuracy(y, predicted, group_labels=group, weights=shares)
    assert report.training_weighted_mean == pytest.approx(expected)
    assert group_report(y, predicted, group_labels=group).training_weighted_mean is None
    marked = [line for line in str(report).splitlines() if line.endswith("<- worst")]
    assert len(marked) == 1
    assert marked[0].startswith(str(report.worst_group))


def test_report_prints_aligned_with_names():
    y, predicted = [0] * 12 + [1] * 3, [0] * 12 + [1, 0, 0]
    names = ["landbird on land", "landbird on water", "waterbird on land", "waterbird on water"]
    report = group_report(y, predicted, group_labels=[0] * 11 + [1] + [2] * 3, names=names, min_group_size=2)
    assert str(report).splitlines() == [
        "group              size  accuracy  95% interval",
        "landbird on land     11     1.000  0.741 to 1.000",
        "landbird on water     1     1.000  0.207 to 1.000  too small to judge",
        "waterbird on land     3     0.333  0.061 to 0.792  <- worst",
        "",
        "worst-group accuracy    0.333",
        "macro mean              0.778",
        "plain mean              0.867",
    ]
    assert group_report(y, predicted, group_labels=["a"] * 15, names={"a": "all"}).names == ["all"]
    assert group_report(y, predicted, group_labels=[-2] * 7 + [1] * 8, names=names).names == ["-2", names[1]]


def test_a_group_of_exactly_min_group_size_samples_is_not_too_small_to_judge():
    y, predicted, group = [0] * 5, [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]
    assert "too small" not in str(group_report(y, predicted, group_labels=group, min_group_size=2))
    assert "too small" in str(group_report(y, predicted, group_labels=group, min_group_size=3))


def test_report_converts_to_a_frame(predictions):
    pytest.importorskip("pandas")
    y, predicted, group = predictions
    report = group_report(y, predicted, group_labels=group)
    frame = report.to_frame()
    assert list(frame.columns) == ["name", "size", "accuracy", "lower", "upper", "worst"]
    assert frame.index.tolist() == report.groups
    assert frame["size"].sum() == len(y)
    assert frame.index[frame["worst"]].tolist() == [report.worst_group]


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
        ({"y_pred": [0.1, 0.7, 0.2, 0.9]}, "continuous"),
        ({"y_pred": ["0", "1", "0", "1"]}, "Mix of label input types"),
        ({"y_pred": [[0, 1], [1, 0], [0, 1], [1, 1]]}, "1d array"),
        ({"sample_weight": [1, 1]}, "`sample_weight` has 2 entries for 4 samples"),
        ({"sample_weight": [1, -1, np.nan, 1]}, "2 of 4 sample weights are negative, NaN or infinite"),
        ({"sample_weight": [0, 0, 0, 0]}, "None of the 4 samples belongs to a group"),
    ],
)
@pytest.mark.parametrize("metric", [group_accuracies, worst_group_accuracy, mean_accuracy, group_report])
def test_bad_input_is_refused_by_every_metric(metric, changed, message):
    arguments = {"y_true": [0, 0, 1, 1], "y_pred": [0, 1, 0, 1], "group_labels": [0, 0, 3, 3], **changed}
    with pytest.raises(ValueError, match=message):
        metric(**arguments)


@pytest.mark.parametrize("metric", [group_accuracies, worst_group_accuracy, mean_accuracy, group_report])
def test_no_samples_at_all_are_refused(metric):
    with pytest.raises(ValueError, match="There are 0 samples"):
        metric([], [], group_labels=[])


def test_no_group_above_the_floor_is_refused_with_the_largest_size():
    with pytest.raises(
        ValueError, match=r"All 2 groups have fewer than min_group_size=4 samples \(largest: 3\)"
    ):
        worst_group_accuracy([0] * 5, [0] * 5, group_labels=[0, 0, 1, 1, 1], min_group_size=4)


@pytest.mark.parametrize("bad", [-1, 0, 1.5, "5", True])
def test_a_floor_that_is_no_count_is_refused(bad):
    with pytest.raises(ValueError, match="`min_group_size` must be an integer of at least 1"):
        worst_group_accuracy([0, 1], [0, 1], group_labels=[0, 1], min_group_size=bad)


@pytest.mark.parametrize(
    "weights, message",
    [
        ({0: 1.0}, r"1 of 2 groups have no entry in `weights`: \[3\]"),
        ({0: 1, 1: 2, 3: 4}, r"1 of 3 groups in `weights` have no sample to be scored: \[1\]"),
        ({0: 1, 3: np.nan}, r"1 of 2 `weights` are negative, NaN or infinite: those of \[3\]"),
        ({0: 1, 3: -2}, "negative"),
        ({0: 0, 3: 0}, "`weights` of all 2 groups present are 0"),
        ([1, 0], r"no entry in `weights`: \[3\]"),
        ("training", "must be None, 'macro', a dict or an array"),
    ],
)
def test_weights_that_do_not_match_the_groups_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        mean_accuracy([0, 0, 1, 1], [0, 1, 0, 1], group_labels=[0, 0, 3, 3], weights=weights)


def test_an_absent_group_of_weight_zero_is_allowed():
    weights = {0: 1, 1: 0, 3: 3}
    value = mean_accuracy([0, 0, 1, 1], [0, 1, 1, 1], group_labels=[0, 0, 3, 3], weights=weights)
    assert value == pytest.approx(0.25 * 0.5 + 0.75)


def test_worst_group_score_refuses_a_metric_it_cannot_use():
    data = {"y_true": [0, 0, 1, 1], "y_pred": [0, 1, 0, 1], "group_labels": [0, 0, 3, 3]}
    with pytest.raises(ValueError, match=r"array of shape \(3,\) for the 2 samples of group 0"):
        worst_group_score(**data, metric=lambda y_true, y_pred: np.zeros(3))
    with pytest.raises(ValueError, match=r"undefined \(NaN\) on the 2 samples of group 0"):
        worst_group_score(**data, metric=lambda y_true, y_pred: np.nan)
    with pytest.raises(ValueError, match="takes no `sample_weight`"):
        worst_group_score(**data, metric=lambda y_true, y_pred: 1.0, sample_weight=[1, 1, 1, 1])
    with pytest.raises(ValueError, match="NaN"):
        worst_group_score([0, 0, 1, 1], [0.1, np.nan, 0.2, 0.4], metric=f1_score, group_labels=[0, 0, 3, 3])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        worst_group_score([0, 1], [0, 1, 1], metric=f1_score, group_labels=[0, 0])


def test_a_missing_label_of_a_nullable_column_is_counted():
    pd = pytest.importorskip("pandas")
    labels = pd.Series([1, None, 2, 2], dtype="Int64")
    with pytest.raises(ValueError, match="1 of 4 `group_labels` are missing"):
        group_accuracies([0, 1, 0, 1], [0, 1, 0, 1], group_labels=labels)
