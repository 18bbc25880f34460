import numpy as np
import pytest

from skexmap.retraining._balance import reweight_groups, stratified_halves, subsample_groups, subsample_size


@pytest.mark.parametrize("min_group_size, size", [(6, 6), (7, 7), (5, 5), (1, 5), (50, 50), (51, None)])
def test_the_smallest_group_of_at_least_min_group_size_sets_the_subsample_size(min_group_size, size):
    # Group 4 has no sample and cannot set it.
    assert subsample_size(np.repeat([0, 1, 2, 3, 5], [50, 9, 5, 6, 7]), min_group_size) == size


def test_smaller_groups_stay_in_whole():
    codes = np.repeat([0, 1, 2], [50, 9, 5])
    rows, weight = subsample_groups(codes, np.random.RandomState(0), 9)
    assert np.bincount(codes[rows]).tolist() == [9, 9, 5]
    assert len(np.unique(rows)) == len(rows)
    assert weight is None


def test_without_a_size_nothing_is_cut():
    codes = np.repeat([0, 1], [4, 2])
    assert subsample_groups(codes, np.random.RandomState(0), None)[0].tolist() == list(range(6))
    assert reweight_groups(codes, np.random.RandomState(0), None)[1].tolist() == [1] * 6


def test_reweighting_weighs_each_sample_by_its_chance_of_being_drawn():
    codes = np.repeat([0, 1, 2], [20, 8, 3])
    rng = np.random.RandomState(0)
    drawn = np.zeros(len(codes))
    for _ in range(4000):
        drawn[subsample_groups(codes, rng, 8)[0]] += 1 / 4000
    rows, weight = reweight_groups(codes, rng, 8)
    assert rows.tolist() == list(range(len(codes)))
    np.testing.assert_allclose(weight, drawn, atol=0.04)
    np.testing.assert_allclose(weight, np.repeat([8 / 20, 1, 1], [20, 8, 3]))


@pytest.mark.parametrize("seed", range(5))
def test_every_group_and_every_class_is_halved_and_both_halves_are_used(seed):
    y = np.repeat([0, 0, 0, 1, 1, 1, 1], [31, 8, 1, 3, 1, 5, 1])
    groups = np.repeat(np.arange(7), [31, 8, 1, 3, 1, 5, 1])
    away = np.arange(len(y)) == 4
    halves = list(stratified_halves(y, np.where(away, -1, groups), 6, np.random.RandomState(seed)))
    (first, second, size), (again, other, same_size) = halves
    assert sorted(np.r_[first, second]) == np.flatnonzero(~away).tolist()
    assert (again == second).all()
    assert (other == first).all()
    assert size == same_size == 4
    assert abs(len(first) - len(second)) <= 1
    for labels in (groups, y):
        one, two = (np.bincount(labels[half], minlength=7) for half in (first, second))
        assert np.abs(one - two).max() <= 1


def test_the_last_samples_of_odd_groups_are_spread_over_the_splits():
    y = np.repeat([0, 1], [21, 20])
    groups = np.r_[np.repeat([0, 1, 2], 7), np.full(20, 3)]
    rng = np.random.RandomState(0)
    larger = [np.bincount(groups[next(stratified_halves(y, groups, 6, rng))[0]])[:3] - 3 for _ in range(300)]
    # Two of three in the first half, each of them equally often.
    assert (np.sum(larger, axis=1) == 2).all()
    assert np.abs(np.mean(larger, axis=0) - 2 / 3).max() < 0.1
