"""Which clusters are alike, in which order they are merged, and how the rest is numbered."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import fisher_exact

from skexmap.groups import PseudoGroupLabeler
from skexmap.groups._merging import merge_alike, p_value_alike

ALPHA = 0.01


def p_value_by_hand(a, b, classes, correct):
    """Fisher's exact test class by class on two sets of rows, times the number of classes."""
    smallest = 1.0
    for c in range(classes.max() + 1):
        own, other = a[classes[a] == c], b[classes[b] == c]
        if len(own) and len(other):
            table = [[correct[rows].sum(), (~correct[rows]).sum()] for rows in (own, other)]
            smallest = min(smallest, fisher_exact(table)[1])
    return min(1.0, smallest * (classes.max() + 1))


def merged_by_hand(labels, classes, correct, rows, alpha):
    """Join the nearest two branches, from the rows alone; return the partition, and which branches became one."""
    wholes = {(k,): np.flatnonzero(labels == k) for k in range(labels.max() + 1)}
    centers = [rows[part].mean(axis=0) for part in wholes.values()]
    branches, merges = list(wholes), []

    def distance(pair):
        return np.mean([np.linalg.norm(centers[i] - centers[j]) for i, j in itertools.product(*pair)])

    while len(branches) > 1:
        a, b = sorted(min(itertools.combinations(branches, 2), key=distance), key=min)
        branches = [branch for branch in branches if branch not in (a, b)] + [a + b]
        if a in wholes and b in wholes:
            p_value = p_value_by_hand(wholes[a], wholes[b], classes, correct)
            if p_value >= alpha:
                merges.append((min(a), min(b), p_value))
                wholes[a + b] = np.concatenate([wholes.pop(a), wholes.pop(b)])
    return list(wholes.values()), merges


def random_clusters(seed, n_clusters=9, n_classes=3, n=900):
    """Return clusters in three regimes of accuracy, and rows around a random center each; the largest first."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(n_clusters, size=n, p=np.linspace(3, 1, n_clusters) / (2 * n_clusters)))
    sizes = np.bincount(labels, minlength=n_clusters)
    labels = np.argsort(np.argsort(-sizes, kind="stable"))[labels]
    labels[rng.uniform(size=n) < 0.02] = -1
    classes = rng.integers(n_classes, size=n)
    accuracy = rng.choice([0.3, 0.7, 0.95], size=(n_clusters, n_classes))
    accuracy[1::2] = accuracy[0]
    correct = rng.uniform(size=n) < accuracy[labels, classes]
    rows = rng.normal(size=(n_clusters, 4))[labels] * 3 + rng.normal(size=(n, 4))
    return labels, classes, correct, rows


def table(*answers):
    """Return rows of (right, wrong) answers per class as `p_value_alike` takes them."""
    return np.array(answers, dtype=np.int64)


def clusters_of(tables, centers):
    """Return the arguments of `merge_alike` for clusters with given answers: (right, wrong) per class."""
    labels, classes, correct, rows = [], [], [], []
    for cluster, (answers, center) in enumerate(zip(tables, centers, strict=True)):
        for c, (right, wrong) in enumerate(answers):
            labels += [cluster] * (right + wrong)
            classes += [c] * (right + wrong)
            correct += [True] * right + [False] * wrong
            rows += [center] * (right + wrong)
    return np.array(labels), np.array(classes), np.array(correct), np.array(rows, dtype=float)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("alpha", [ALPHA, 0.3])
def test_merges_are_those_of_a_tree_built_by_hand(seed, alpha):
    labels, classes, correct, rows = random_clusters(seed)
    parts, expected = merged_by_hand(labels, classes, correct, rows, alpha)
    becomes, merges = merge_alike(labels, classes, correct, rows, alpha)
    assert expected
    assert [(m.into, m.cluster) for m in merges] == [(a, b) for a, b, _ in expected]
    assert_allclose([m.p_value for m in merges], [p for *_, p in expected], rtol=1e-6)
    found = np.where(labels < 0, -1, becomes[labels])
    assert {tuple(np.sort(part)) for part in parts} == {
        tuple(np.flatnonzero(found == k)) for k in range(found.max() + 1)
    }


def test_the_p_value_is_the_smallest_of_the_classes_times_their_number():
    a, b = table((30, 10), (5, 25), (0, 7)), table((28, 12), (15, 15), (0, 9))
    expected = 3 * fisher_exact([[5, 25], [15, 15]])[1]
    assert 0 < expected < 0.1
    assert p_value_alike(a, b) == pytest.approx(expected)
    assert p_value_alike(b, a) == pytest.approx(expected)


def test_clusters_that_share_no_class_are_alike():
    assert p_value_alike(table((50, 0), (0, 0)), table((0, 0), (0, 50))) == 1
    becomes, merges = merge_alike(
        *clusters_of([[(50, 0), (0, 0)], [(0, 0), (0, 40)]], [[0, 0], [1, 1]]), ALPHA
    )
    assert becomes.tolist() == [0, 0]
    assert merges == [(0, 1, 1.0)]


def test_a_class_in_which_the_model_is_always_right_or_always_wrong_separates_no_clusters():
    assert p_value_alike(table((50, 0)), table((3, 0))) == 1
    assert p_value_alike(table((0, 50)), table((0, 3))) == 1
    assert p_value_alike(table((50, 0)), table((0, 50))) == pytest.approx(0, abs=1e-20)


def test_clusters_that_differ_in_one_class_alone_stay_apart():
    same, other = (40, 10), (10, 40)
    becomes, merges = merge_alike(*clusters_of([[same, same], [same, other]], [[0, 0], [0, 0]]), ALPHA)
    assert becomes.tolist() == [0, 1]
    assert merges == []
    # Over both classes at once the two clusters below are right equally often.
    becomes, _ = merge_alike(*clusters_of([[same, other], [other, same]], [[0, 0], [0, 0]]), ALPHA)
    assert becomes.tolist() == [0, 1]


def test_the_nearest_pair_merges_first_and_then_speaks_as_one():
    # 0 and 2 are the nearest; together they differ from 1, which either of them is like.
    tables = [[(45, 15)], [(35, 20)], [(38, 12)]]
    far, near = [[0.0], [10.0], [1.0]], [[0.0], [1.0], [10.0]]
    assert merge_alike(*clusters_of(tables, far), ALPHA)[1][0][:2] == (0, 2)
    assert merge_alike(*clusters_of(tables, near), ALPHA)[1][0][:2] == (0, 1)
    few = [[(52, 38)], [(35, 45)], [(58, 32)]]
    alpha = 0.05
    pairs = [p_value_alike(*np.array([few[a], few[b]])) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert [p >= alpha for p in pairs] == [True, True, False]
    assert merge_alike(*clusters_of(few, far), alpha)[0].tolist() == [0, 1, 0]
    # The other way round, the middle one goes to the second cluster.
    assert merge_alike(*clusters_of(few, near), alpha)[0].tolist() == [0, 0, 1]


def test_a_nearer_cluster_that_differs_ends_the_merging():
    alike, different = [(45, 15)], [(10, 50)]
    tables = [alike, different, alike]
    assert merge_alike(*clusters_of(tables, [[0.0], [9.0], [1.0]]), ALPHA)[1] == [(0, 2, 1.0)]
    assert merge_alike(*clusters_of(tables, [[0.0], [1.0], [9.0]]), ALPHA)[1] == []


def test_two_shortcuts_that_fail_equally_often_stay_apart():
    # Class 0 fails where the first shortcut misleads, and as often where the second does; where both do, always.
    both_lead, first_misleads, second_misleads = [(900, 0), (0, 9)], [(60, 30), (80, 10)], [(58, 32), (82, 8)]
    tables = [both_lead, first_misleads, second_misleads, both_lead[::-1]]
    assert p_value_alike(*np.array([first_misleads, second_misleads])) > 0.5
    corners = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.01], [1.0, 1.01]]
    assert merge_alike(*clusters_of(tables, corners), 0.05)[1] == []


def test_clusters_are_numbered_by_size_after_merging_and_rows_of_none_stay_so():
    # Cluster 0 is the largest; 1 and 2 are larger together.
    tables, centers = [[(0, 60)], [(45, 0)], [(40, 0)]], [[0.0], [5.0], [6.0]]
    labels, classes, correct, rows = clusters_of(tables, centers)
    labels = np.append(labels, [-1] * 30)
    classes, correct = np.append(classes, [0] * 30), np.append(correct, [False] * 30)
    rows = np.vstack([rows, np.full((30, 1), 5.0)])
    becomes, merges = merge_alike(labels, classes, correct, rows, ALPHA)
    assert becomes.tolist() == [1, 0, 0]
    assert merges == [(1, 2, 1.0)]
    labeler = PseudoGroupLabeler(Given(labels), n_seed_checks=0)
    labeler.fit(rows, classes, predicted=np.where(correct, classes, 7))
    assert labeler.cluster_labels_.tolist() == [1] * 60 + [0] * 85 + [-1] * 30
    assert labeler.group_labels_.tolist() == labeler.cluster_labels_.tolist()


class Given:
    """A clusterer that returns given clusters."""

    def __init__(self, labels):
        self.labels = labels

    def get_params(self, deep=True):
        return {"labels": self.labels}

    def set_params(self, **params):
        vars(self).update(params)
        return self

    def fit(self, X, y=None):
        return self

    def fit_predict(self, X, y=None):
        return np.asarray(self.labels)
