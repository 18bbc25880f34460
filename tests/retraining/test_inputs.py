"""What the strategies read, and what they refuse."""

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skexmap._blocks import make_blocks
from skexmap.datasets import make_shortcut_features
from skexmap.exceptions import ClusteringWarning
from skexmap.retraining import DFRClassifier, DFRClassifierCV, GroupDROClassifier

X, Y, SHORTCUT = make_shortcut_features(300, agreement=0.8, random_state=0)
GROUPS = 2 * Y + SHORTCUT


def dfr(X, y=Y, group_labels=None):
    return DFRClassifier(n_retrains=2, random_state=0).fit(X, y, group_labels=group_labels)


def test_blocks_form_groups_from_class_and_cluster():
    fitted = dfr(make_blocks(embedding=X, cluster=SHORTCUT))
    np.testing.assert_array_equal(fitted.coef_, dfr(X, group_labels=GROUPS).coef_)
    assert fitted.groups_.tolist() == [0, 1, 2, 3]
    assert fitted.group_counts_.tolist() == np.bincount(GROUPS).tolist()


def test_clusters_formed_inside_each_class_are_read_from_the_column_of_the_class():
    per_class = np.full((300, 2), 7)
    per_class[np.arange(300), Y] = SHORTCUT
    fitted = dfr(make_blocks(embedding=X, cluster=per_class))
    np.testing.assert_array_equal(fitted.coef_, dfr(X, group_labels=GROUPS).coef_)


def test_group_labels_take_precedence_over_clusters():
    clusters = np.random.RandomState(0).randint(3, size=300)
    fitted = dfr(make_blocks(embedding=X, cluster=clusters), group_labels=GROUPS)
    np.testing.assert_array_equal(fitted.coef_, dfr(X, group_labels=GROUPS).coef_)


def test_on_a_plain_array_the_groups_are_the_classes():
    fitted = dfr(X)
    assert fitted.groups_.tolist() == [0, 1]
    assert fitted.group_counts_.tolist() == np.bincount(Y).tolist()


def test_samples_of_no_group_change_nothing():
    noise = np.random.RandomState(0).normal(scale=50, size=(30, X.shape[1]))
    clusters = np.concatenate([np.full(30, -1), SHORTCUT])
    padded = make_blocks(embedding=np.vstack([noise, X]), cluster=clusters)
    padded_y = np.concatenate([np.random.RandomState(1).randint(2, size=30), Y])
    with_noise = DFRClassifierCV(n_retrains=2, random_state=0).fit(padded, padded_y)
    without = DFRClassifierCV(n_retrains=2, random_state=0).fit(X, Y, group_labels=GROUPS)
    assert with_noise.group_counts_.tolist() == np.bincount(GROUPS).tolist()
    np.testing.assert_allclose(with_noise.coef_, without.coef_)
    np.testing.assert_array_equal(with_noise.cv_scores_, without.cv_scores_)


@pytest.mark.parametrize(
    "convert",
    [
        lambda groups: groups.astype(float),
        lambda groups: groups.astype(str),
        lambda groups: groups.astype(object),
        lambda groups: groups.astype(str).astype(object),
        lambda groups: np.array([-1 if group < 0 else f"({group})" for group in groups], dtype=object),
        lambda groups: groups.tolist(),
    ],
    ids=["floats", "strings", "objects", "strings as objects", "the number beside strings", "a list"],
)
def test_minus_1_means_no_group_as_a_number_and_as_a_string(convert):
    groups = np.where(np.arange(300) < 20, -1, GROUPS)
    expected, fitted = dfr(X, group_labels=groups), dfr(X, group_labels=convert(groups))
    assert len(fitted.groups_) == 4
    assert fitted.group_counts_.tolist() == np.bincount(GROUPS[20:]).tolist()
    np.testing.assert_array_equal(fitted.coef_, expected.coef_)


def test_labels_and_groups_may_be_strings():
    birds, water = np.array(["land", "water"])[Y], np.array(["dry", "wet"])[SHORTCUT]
    fitted = dfr(X, birds, group_labels=np.char.add(birds, water))
    assert fitted.groups_.tolist() == ["landdry", "landwet", "waterdry", "waterwet"]
    np.testing.assert_array_equal(fitted.coef_, dfr(X, group_labels=GROUPS).coef_)
    assert set(fitted.predict(X)) == {"land", "water"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_embedding_that_is_still_in_the_graph_of_its_network_is_read(dtype):
    embedding = torch.tensor(X, dtype=dtype, requires_grad=True)
    expected = embedding.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).numpy()
    fitted = dfr(embedding, group_labels=GROUPS)
    np.testing.assert_array_equal(fitted.coef_, dfr(expected, group_labels=GROUPS).coef_)
    np.testing.assert_array_equal(fitted.predict(embedding), fitted.predict(expected))
    assert embedding.requires_grad


REFUSED = {
    "one class only": (X, 0 * Y + 1, None, r"at least 2 classes, but y holds only one class: .*1"),
    "y of another length": (X, Y[:299], None, "y has 299 entries for 300 samples"),
    "one-hot y": (X, np.eye(2)[Y], None, r"`y` .*\(300, 2\), but every image has one class.*argmax"),
    "several labels per image": (X, np.ones((300, 3), int), None, "fit one classifier for each column"),
    "pairs of class and attribute as groups": (
        X,
        Y,
        list(zip(Y.tolist(), SHORTCUT.tolist(), strict=True)),
        r"`group_labels` .*\(300, 2\), but every image has one group.*number: `a \* \(b\.max\(\) \+ 1\) \+ b`",
    ),
    "group labels of another length": (X, Y, GROUPS[:299], "299 entries for 300 samples"),
    "NaN in the embedding": (np.where(X[3, 2] == X, np.nan, X), Y, GROUPS, "NaN"),
    "heatmaps without clusters": (
        make_blocks(embedding=X, heatmap=X.reshape(300, 1, 2, 5)),
        Y,
        None,
        r"needs the block 'cluster'.*clusterer step",
    ),
    "no embedding": (make_blocks(cluster=SHORTCUT), Y, None, "return_embedding=True"),
    "all samples of no group": (
        make_blocks(embedding=X, cluster=np.full(300, -1)),
        Y,
        None,
        "All 300 samples belong to no group",
    ),
    "a class without a group": (
        X,
        Y,
        np.where(Y == 1, -1, 0),
        r"No sample of 1 of 2 classes \(\[1\]\) is left to retrain on",
    ),
    "clusters of other classes": (
        make_blocks(embedding=X, cluster=np.zeros((300, 3), dtype=int)),
        Y,
        None,
        "each of 3 classes, but y holds 2",
    ),
}


@pytest.mark.parametrize("strategy", [DFRClassifier, DFRClassifierCV, GroupDROClassifier])
@pytest.mark.parametrize("X, y, group_labels, message", REFUSED.values(), ids=REFUSED)
def test_a_strategy_that_balances_groups_refuses(X, y, group_labels, message, strategy):
    with pytest.raises(ValueError, match=message):
        strategy().fit(X, y, group_labels=group_labels)


@pytest.mark.parametrize("strategy", [DFRClassifier, DFRClassifierCV])
def test_dfr_refuses_groups_that_are_all_below_min_group_size(strategy):
    message = r"All 60 groups have fewer than min_group_size=6 samples \(largest: 5\)"
    with pytest.raises(ValueError, match=message):
        strategy().fit(X, Y, group_labels=np.arange(300) // 5)


def test_the_error_for_a_lone_cluster_column_names_the_missing_argument():
    cluster_column = FunctionTransformer(lambda X: (X[:, :1] > 1).astype(int))
    with pytest.raises(ValueError, match=r"single column of integers.*return_embedding=True"):
        make_pipeline(cluster_column, DFRClassifier()).fit(X, Y)


@pytest.mark.parametrize("strategy", [DFRClassifier, DFRClassifierCV, GroupDROClassifier])
def test_the_warning_of_undivided_classes_points_at_the_line_of_the_caller(strategy):
    with pytest.warns(ClusteringWarning, match="All samples lie in one cluster") as caught:
        strategy().fit(make_blocks(embedding=X, cluster=0 * Y), Y)
    assert caught[0].filename == __file__


def test_dfr_takes_no_sample_weight():
    with pytest.raises(TypeError, match=r"DFRClassifier\.fit\(\).*'sample_weight'"):
        DFRClassifier().fit(X, Y, sample_weight=np.ones(300))
