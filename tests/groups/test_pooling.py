import numpy as np
import pytest

from skexmap.groups import pool_rare_groups


def sizes(groups):
    return dict(zip(*(a.tolist() for a in np.unique(groups, return_counts=True)), strict=True))


def test_rare_and_common_groups_of_a_class_become_one_each():
    groups = np.repeat([0, 1, 2, 3, 4, 5], [300, 600, 60, 40, 940, 60])
    y = np.repeat(["cat", "dog"], 1000)
    pooled = pool_rare_groups(groups, y)
    # The pools have the numbers of their largest groups.
    assert sizes(pooled) == {1: 900, 2: 100, 4: 940, 5: 60}
    assert (pooled[:900] == 1).all()
    assert (pooled[900:1000] == 2).all()


def test_a_share_is_one_of_the_class_and_not_of_all():
    groups = np.repeat([0, 1, 2, 3], [9000, 100, 90, 10])
    y = np.repeat([0, 0, 1, 1], [9000, 100, 90, 10])
    # 90 of 9,200 are few, but most of their class; 10 of its 100 are not below a tenth.
    assert sizes(pool_rare_groups(groups, y)) == {0: 9000, 1: 100, 2: 90, 3: 10}
    # Of all images every group of class 1 would be rare, and the class stay as it is.
    groups[-4:] = 4
    assert sizes(pool_rare_groups(groups, y)) == {0: 9000, 1: 100, 2: 90, 3: 10}
    assert sizes(groups)[3] == 6


@pytest.mark.parametrize("counts", [[50, 30, 20], [9] * 11 + [1]], ids=["all common", "all rare"])
def test_a_class_whose_groups_are_all_common_or_all_rare_stays(counts):
    groups = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_array_equal(pool_rare_groups(groups, np.zeros(100)), groups)


def test_group_minus_one_and_groups_that_span_classes_stay():
    groups = np.repeat([-1, 0, 1, 7, 2], [5, 80, 2, 3, 80])
    y = np.repeat([0, 0, 0, 1, 0, 1], [5, 80, 2, 1, 2, 80])
    pooled = pool_rare_groups(groups, y)
    np.testing.assert_array_equal(pooled[groups == 7], 7)
    np.testing.assert_array_equal(pooled[groups == -1], -1)
    assert sizes(pooled) == {-1: 5, 0: 80, 1: 2, 2: 80, 7: 3}


def test_what_is_no_group_label_is_refused():
    with pytest.raises(ValueError, match="must be integers from -1 up, got float64"):
        pool_rare_groups([0.5, 1.0], [0, 1])
    with pytest.raises(ValueError, match=r"int64 values from -2"):
        pool_rare_groups([-2, 1], [0, 1])
    with pytest.raises(ValueError, match="rare_share"):
        pool_rare_groups([0, 1], [0, 1], rare_share=0)
    with pytest.raises(ValueError, match="3 samples"):
        pool_rare_groups([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="1 of 2 `group_labels` are missing"):
        pool_rare_groups([0.0, float("nan")], [0, 1])
