import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import NotFittedError

from skexmap import PseudoGroupLabeler

# Four kinds of rows, of 50, 40, 30 and 20 images: clusters are numbered by size.
KIND = np.repeat([0, 1, 2, 3], [50, 40, 30, 20])
ROWS = np.column_stack([10.0 * KIND, KIND % 2])
Y = np.arange(140) % 2


@pytest.fixture(
    params=[KMeans(4, n_init=5, random_state=0), AgglomerativeClustering(4)], ids=["predicts", "does not"]
)
def labeler(request):
    return PseudoGroupLabeler(request.param, merge_alpha=None, n_seed_checks=0).fit(ROWS, Y)


def test_merged_clusters_get_the_smallest_number_and_the_others_keep_theirs(labeler):
    assert labeler.merge([3, 1]) is labeler
    expected = np.where(KIND == 3, 1, KIND)
    assert_array_equal(labeler.cluster_labels_, expected)
    assert_array_equal(labeler.group_labels_, 4 * Y + expected)
    assert_array_equal(labeler.merged_into_[0], [0, 1, 2, 1])
    assert_array_equal(labeler.transform([[30.0, 1], [10, 1], [20, 0]])[:, 0], [1, 1, 2])
    assert_array_equal(labeler.predict_groups([[30.0, 1]], [1]), [5])


def test_images_of_a_dropped_cluster_belong_to_no_group(labeler):
    labeler.drop(2)
    expected = np.where(KIND == 2, -1, KIND)
    assert_array_equal(labeler.cluster_labels_, expected)
    assert_array_equal(labeler.group_labels_, np.where(KIND == 2, -1, 4 * Y + KIND))
    assert_array_equal(labeler.predict_groups([[20.0, 0], [0, 0]], [1, 1]), [-1, 4])


def test_choices_follow_each_other(labeler):
    labeler.merge([1, 2]).drop(1).merge([0, 3])
    assert_array_equal(labeler.cluster_labels_, np.where(np.isin(KIND, [1, 2]), -1, 0))


def test_names_are_kept_until_the_next_fit(labeler):
    labeler.rename({0: "watermark"}).rename({2: "none"})
    assert labeler.cluster_names_ == {0: "watermark", 2: "none"}
    assert labeler.fit(ROWS, Y).cluster_names_ == {}


@pytest.mark.parametrize(
    "before, choices, expected",
    [
        # A cluster that is dropped, or that is merged into another, has no name of its own.
        ({0: "a", 1: "b", 2: "c"}, {"merge": [[0, 1]], "drop": [2]}, {0: "a + b"}),
        ({}, {"merge": [[0, 1]], "rename": {"0": "a", "1": "b"}}, {0: "a + b"}),
        ({}, {"merge": [[0, 1]], "rename": {"1": "b", "0": "b"}}, {0: "b"}),
        ({0: "a", 1: "b"}, {"merge": [[0, 1]], "rename": {1: "c"}}, {0: "c"}),
        ({3: "a"}, {"merge": [[1, 3]]}, {1: "a"}),
        ({1: "a"}, {"drop": [1], "rename": {1: "b"}}, {}),
    ],
)
def test_only_clusters_that_are_left_have_names(labeler, before, choices, expected):
    assert labeler.rename(before).apply_choices(choices).cluster_names_ == expected


def test_numbers_of_numpy_become_plain_integers(labeler):
    labeler.merge(np.array([1, 2])).drop(np.int64(3)).rename({np.int64(0): "a"})
    assert [type(cluster) for cluster in labeler.cluster_names_] == [int]
    assert labeler.cluster_labels_.dtype == labeler.group_labels_.dtype == np.int64
    assert_array_equal(labeler.cluster_labels_, np.array([0, 1, 1, -1])[KIND])


@pytest.mark.parametrize(
    "method, argument, message",
    [
        ("merge", [1.0, 2.0], r"2 of 2 clusters of `merge` are not integers: \[1.0, 2.0\]"),
        ("merge", 0, r"`merge` takes a list of clusters, such as \[0, 1\], got 0"),
        ("merge", "01", "`merge` takes a list of clusters, .* got '01'"),
        ("drop", True, r"1 of 1 clusters of `drop` are not integers: \[True\]"),
        (
            "drop",
            [0, 1],
            r"1 of 1 clusters of `drop` are not integers: \[\[0, 1\]\]. Each must be a number",
        ),
        ("rename", ["a"], r"`rename` takes a dict, cluster -> name, .* got \['a'\]"),
        ("rename", {"zero": "a", 1: "b"}, r"1 of 2 clusters of `rename` are not integers: \['zero'\]"),
        ("rename", {0.5: "a"}, r"1 of 1 clusters of `rename` are not integers: \[0.5\]"),
        ("apply_choices", {"merge": [0, 1]}, r"`merge` takes a list of lists of clusters, .* got 0"),
        ("apply_choices", {"drop": 0}, r"`drop` takes a list of clusters, such as \[2\], got 0"),
        ("apply_choices", [[0, 1]], r"Choices must be a dict with the keys .* got \[\[0, 1\]\]"),
    ],
)
def test_choices_of_another_form_are_refused_and_change_nothing(labeler, method, argument, message):
    with pytest.raises(TypeError, match=message):
        getattr(labeler, method)(argument)
    assert_array_equal(labeler.cluster_labels_, KIND, strict=True)
    assert labeler.cluster_names_ == {}


def test_a_json_file_and_a_dict_say_the_same_as_the_methods(labeler, tmp_path):
    choices = {"merge": [[1, 3]], "drop": [2], "rename": {"0": "watermark", "3": "sky"}}
    path = tmp_path / "choices.json"
    path.write_text(json.dumps(choices))
    labeler.apply_choices(path)
    assert_array_equal(labeler.cluster_labels_, np.array([0, 1, -1, 1])[KIND])
    # Cluster 3 is now part of cluster 1.
    assert labeler.cluster_names_ == {0: "watermark", 1: "sky"}
    again = labeler.fit(ROWS, Y).apply_choices(choices)
    assert_array_equal(again.cluster_labels_, np.array([0, 1, -1, 1])[KIND])
    assert labeler.apply_choices({}) is labeler


@pytest.mark.parametrize(
    "choices, message",
    [
        (
            {"merge": [[1, 7]]},
            r"1 of 2 clusters have no images: \[7\]. Clusters with images are \[0, 1, 2, 3\]",
        ),
        ({"drop": [-1]}, "1 of 1 clusters have no images"),
        ({"rename": {"9": "x"}}, "1 of 1 clusters have no images"),
        ({"merge": [[1, 2]], "drop": [2]}, r"Clusters \[2\] are both merged and dropped"),
        ({"merge": [[0, 1], [1, 2]]}, r"Clusters \[1\] are both .*, or merged twice"),
        ({"drop": [0, 1, 2, 3]}, "All clusters are dropped"),
        ({"delete": [1]}, r"Choices may have the keys .*, but also have \['delete'\]"),
        ({"merge": [[2]]}, "`merge` needs at least two clusters"),
    ],
)
def test_choices_that_cannot_be_made_are_refused_and_change_nothing(labeler, choices, message):
    with pytest.raises(ValueError, match=message):
        labeler.apply_choices(choices)
    assert_array_equal(labeler.cluster_labels_, KIND)


def test_the_last_cluster_cannot_be_dropped(labeler):
    labeler.merge([0, 1, 2, 3])
    with pytest.raises(ValueError, match="All clusters are dropped: no group would be left"):
        labeler.drop(0)


def test_clusters_inside_each_class_cannot_be_chosen_by_number():
    labeler = PseudoGroupLabeler(KMeans(2, random_state=0), scope="local", merge_alpha=None).fit(ROWS, Y)
    with pytest.raises(ValueError, match=r"a number means another cluster in every class.*scope='global'"):
        labeler.merge([0, 1])


def test_choices_need_a_fitted_labeler():
    with pytest.raises(NotFittedError):
        PseudoGroupLabeler().drop(0)
