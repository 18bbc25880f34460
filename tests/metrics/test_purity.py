import numpy as np
import pytest

from skexmap.metrics import purity_score


def test_the_most_frequent_group_of_each_pseudo_group_counts():
    true = np.repeat([0, 1, 2], [5, 4, 3])
    found = np.array([0, 0, 0, 1, 1] + [1, 1, 1, 1] + [2, 2, 0])
    assert purity_score(true, found) == (3 + 4 + 2) / 12


def test_names_and_numbers_of_groups_do_not_matter():
    rng = np.random.RandomState(0)
    true, found = rng.randint(3, size=50), rng.randint(5, size=50)
    names = np.array(["sea", "land", "air"])[true]
    assert purity_score(names, 7 - found) == purity_score(true, found)


def test_groups_and_pseudo_groups_of_minus_one_are_left_out():
    assert purity_score([0, 0, 1, -1, 1], [0, 0, 0, 0, -1]) == 2 / 3


@pytest.mark.parametrize(
    "true, found, message",
    [
        ([0, 1], [0, 1, 1], "`pseudo_group_labels` has 3 entries for 2 samples"),
        ([0, -1], [-1, 0], "None of the 2 samples has both"),
        ([0, 1], [-1, -1], "None of the 2 samples belongs to a group: all `pseudo_group_labels` are -1\\.$"),
        ([0, None], [0, 0], "1 of 2 `group_labels` are missing"),
        ([0, 0], [0, None], "1 of 2 `pseudo_group_labels` are missing"),
        ([0, 0], [[0], [0], [1]], "`pseudo_group_labels` "),
        ([], [], "0 samples"),
    ],
)
def test_what_has_no_purity_is_refused(true, found, message):
    with pytest.raises(ValueError, match=message):
        purity_score(true, found)
