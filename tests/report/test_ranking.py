import numpy as np
import pytest
from numpy.testing import assert_allclose

from skexmap.report._ranking import (
    dependence,
    enough_images,
    gap_interval,
    ranked,
    verdict_of,
    verdict_of_all,
)
from skexmap.report._text import findings_of

DIFFERS = {"p_value": 1e-6, "net_gap": -0.5}
ALIKE = {"p_value": 0.4, "net_gap": 0.0}
LARGE = {"size": 500, "net_accuracy": 0.9, "size_outside": 500, "net_accuracy_outside": 0.9}
SMALL = {"size": 4, "net_accuracy": 1.0, "size_outside": 9, "net_accuracy_outside": 1.0}


@pytest.mark.parametrize(
    "row, verdict",
    [
        ({**DIFFERS, **LARGE, "score": 0.2}, "likely a shortcut"),
        ({**DIFFERS, **LARGE, "score": 0.19}, "worth a look"),
        ({**DIFFERS, **LARGE, "score": 0.09}, "nothing to see here"),
        ({**ALIKE, **LARGE, "score": 0.9}, "nothing to see here"),
        ({**ALIKE, **SMALL, "score": 0.9}, "not enough images to tell"),
        ({**LARGE, "score": 0.9, "p_value": 1e-9, "net_gap": 0.09}, "nothing to see here"),
        ({**ALIKE, **LARGE, "score": 0, "size_outside": 0, "net_gap": np.nan}, "nothing to see here"),
        ({**ALIKE, **SMALL, "score": 0, "size_outside": 0, "net_gap": np.nan}, "not enough images to tell"),
    ],
)
def test_a_verdict_needs_a_gap_that_matters_a_score_and_images(row, verdict):
    assert verdict_of(row) == verdict


def test_dependence_is_half_the_span_of_the_gaps_that_matter():
    helped, hurt = {"p_value": 0.001, "net_gap": 0.4}, {"p_value": 0.001, "net_gap": -0.9}
    by_chance = {"p_value": 0.5, "net_gap": -1.0}
    assert_allclose(dependence([helped, hurt, by_chance]), 0.65)
    assert_allclose(dependence([hurt]), 0.45)
    assert dependence([by_chance]) == 0


def test_the_interval_of_a_gap_is_newcombes_example():
    # Newcombe 1998, table II (b): 9/10 against 3/10.
    assert_allclose(gap_interval(0.9, 10, 0.3, 10), (0.1705, 0.8090), atol=5e-5)


def test_a_class_in_one_cluster_is_judged_as_two_halves():
    whole = {"size": 60, "net_accuracy": 0.9, "size_outside": 0, "net_accuracy_outside": np.nan}
    halves = {"size": 30, "net_accuracy": 0.9, "size_outside": 30, "net_accuracy_outside": 0.9}
    assert enough_images(whole)
    assert enough_images(halves)
    assert not enough_images({**whole, "size": 20})


def test_the_worst_verdict_stands_for_all_and_too_few_images_need_a_majority():
    nothing = {"verdict": "nothing to see here", "size": 10}
    few = {"verdict": "not enough images to tell", "size": 10}
    look = {"verdict": "worth a look", "size": 1}
    assert verdict_of_all([nothing, look, few]) == "worth a look"
    assert verdict_of_all([nothing, few]) == "nothing to see here"
    assert verdict_of_all([nothing, few, few]) == "not enough images to tell"


def test_rows_of_a_cluster_stay_together_behind_the_higher_score():
    rows = [
        {"key": 0, "score": 0.1, **DIFFERS},
        {"key": 1, "score": 0.5, **ALIKE},
        {"key": 0, "score": 0.1, **ALIKE},
        {"key": 1, "score": 0.5, **DIFFERS},
    ]
    assert [row["key"] for row in ranked(rows)] == [1, 1, 0, 0]
    assert [row["net_gap"] for row in ranked(rows)] == [-0.5, 0.0, -0.5, 0.0]


def test_gaps_that_no_place_explains_are_reported_but_not_called_a_shortcut():
    rows = [
        {
            **DIFFERS,
            **LARGE,
            "class": "hat",
            "cluster_name": "cluster 3",
            "verdict": "nothing to see here",
            "key": 3,
        }
    ]
    (finding,) = findings_of(rows, "nothing to see here")
    assert finding.startswith("Nothing to see here: no cluster is a likely shortcut.\n1 of 1 groups differ")
    assert "most: 'hat' in cluster 3, 90% against 90%" in finding
