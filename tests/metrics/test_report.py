import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from skexmap.metrics import group_report
from skexmap.metrics._report import wilson_interval


def test_wilson_interval_solves_its_quadratic():
    # The ends are the rates p for which |rate - p| = z * sqrt(p (1 - p) / n).
    rate, n, z = np.array([0.0, 0.2, 0.5, 0.9, 1.0]), np.array([3, 10, 40, 100, 7]), 1.959963984540054
    for end in wilson_interval(rate, n):
        np.testing.assert_allclose(np.abs(rate - end), z * np.sqrt(end * (1 - end) / n), atol=1e-9)


@pytest.mark.parametrize("rate", [np.nan, 0, 0.0, 1.0])
def test_wilson_interval_of_no_sample_is_everything(rate):
    assert wilson_interval(rate, 0) == (0, 1)


def test_a_report_holds_what_the_metrics_say(predictions):
    y, predicted, group = predictions
    report = group_report(y, predicted, group_labels=group)
    accuracies = {label: (y == predicted)[group == label].mean() for label in range(4)}
    assert dict(zip(report.groups, report.accuracies, strict=True)) == pytest.approx(accuracies)
    assert report.sizes.tolist() == np.bincount(group).tolist()
    assert report.worst_group == min(accuracies, key=accuracies.get)
    assert report.worst_group_accuracy == pytest.approx(min(accuracies.values()))
    assert report.plain_mean == pytest.approx(accuracy_score(y, predicted))
    assert report.macro_mean == pytest.approx(np.mean(list(accuracies.values())))


def test_a_report_prints_an_aligned_table_with_names():
    y, predicted = [0] * 12 + [1] * 3, [0] * 12 + [1, 0, 0]
    names = ["landbird on land", "landbird on water", "waterbird on land", "waterbird on water"]
    report = group_report(y, predicted, group_labels=[0] * 11 + [1] + [2] * 3, names=names, min_group_size=2)
    assert str(report).splitlines() == [
        "group              size  accuracy  95% interval",
        "landbird on land     11     1.000  0.741 to 1.000",
        "landbird on water     1     1.000  0.207 to 1.000  too small to judge",
        "waterbird on land     3     0.333  0.061 to 0.792  <- worst",
        "",
        "worst-group accuracy  0.333",
        "macro mean            0.778",
        "plain mean            0.867",
    ]
    assert group_report(y, predicted, group_labels=["a"] * 15, names={"a": "all"}).names == ["all"]
    assert group_report(y, predicted, group_labels=[-2] * 7 + [1] * 8, names=names).names == ["-2", names[1]]


def test_samples_of_group_minus_one_are_counted_in_a_report_and_left_out():
    report = group_report([0, 0, 0, 0], [1, 1, 0, 0], group_labels=[-1, -1, 0, 1])
    assert (report.n_left_out, report.plain_mean) == (2, 1)
    assert "2 samples that belong to no group are left out" in str(report)


def test_weights_count_like_repetitions_in_a_report_but_do_not_narrow_its_intervals(predictions):
    y, predicted, group = predictions
    repeats = np.random.RandomState(1).randint(1, 4, size=len(y))
    report = group_report(y, predicted, group_labels=group, sample_weight=repeats)
    repeated = group_report(
        np.repeat(y, repeats), np.repeat(predicted, repeats), group_labels=np.repeat(group, repeats)
    )
    np.testing.assert_allclose(report.accuracies, repeated.accuracies)
    assert report.plain_mean == pytest.approx(repeated.plain_mean)
    # A repeated sample adds no evidence: the effective size must not exceed the number of samples.
    assert (report.upper - report.lower > repeated.upper - repeated.lower).all()
