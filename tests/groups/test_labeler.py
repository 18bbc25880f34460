"""PseudoGroupLabeler: numbering, scopes, blocks, merging, new rows and refusals."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from skexmap._blocks import get_block, make_blocks
from skexmap.cluster import EigengapSpectralClustering
from skexmap.exceptions import (
    ClusteringWarning,
)
from skexmap.groups import PseudoGroupLabeler

KMEANS = KMeans(2, n_init=3, random_state=0)


def labeler_of(clusterer=KMEANS, **params):
    """Return a labeler that by default merges nothing."""
    return PseudoGroupLabeler(**{"clusterer": clusterer, "merge_alpha": None, **params})


@pytest.fixture
def data():
    """Return two classes x two heatmap kinds, 40 / 20 / 10 / 30 rows, well apart."""
    rng = np.random.default_rng(0)
    y = np.repeat(["bird", "ship"], [60, 40])
    kind = np.repeat([0, 1, 1, 0], [40, 20, 10, 30])
    X = 10.0 * kind[:, None] + rng.standard_normal((100, 4))
    order = rng.permutation(100)
    return X[order], y[order], kind[order]


def test_groups_are_numbered_class_major(data):
    X, y, kind = data
    labeler = labeler_of()
    groups = labeler.fit_predict(X, y)
    assert_array_equal(groups, 2 * (y == "ship") + kind)
    assert_array_equal(labeler.cluster_labels_, kind)
    assert labeler.classes_.tolist() == ["bird", "ship"]
    assert labeler.n_clusters_ == 2
    assert labeler.n_clusters_per_class_.tolist() == [2, 2]


def test_an_absent_pair_of_class_and_cluster_keeps_its_number(data):
    X, y, kind = data
    kept = ~((y == "bird") & (kind == 1))
    groups = labeler_of().fit_predict(X[kept], y[kept])
    assert sorted(set(groups)) == [0, 2, 3]


def test_local_scope_clusters_inside_each_class(data):
    X, y, kind = data
    X = X + 100 * (y == "ship")[:, None]
    labeler = labeler_of(scope="local").fit(X, y)
    # In both classes kind 0 is the larger cluster: the numbers agree with the kinds.
    assert_array_equal(labeler.group_labels_, 2 * (y == "ship") + kind)
    by_hand = KMEANS.fit(X[y == "bird"]).labels_
    own = labeler.cluster_labels_[y == "bird"]
    assert len(set(zip(by_hand, own, strict=True))) == 2


def test_local_scope_hands_on_one_cluster_per_class_and_training_rows_keep_their_own(data):
    X, y, kind = data
    X = X + 100 * (y == "ship")[:, None]
    labeler = labeler_of(scope="local")
    clusters = labeler.fit_transform(X, y)
    assert clusters.shape == (100, 2)
    assert list(labeler.get_feature_names_out()) == ["cluster_0", "cluster_1"]
    own = clusters[np.arange(100), (y == "ship").astype(int)]
    assert_array_equal(own, labeler.cluster_labels_)
    assert_array_equal(labeler.transform(X), clusters)
    # Every bird lies nearer to the ships' cluster at 100 than to that at 110.
    assert set(clusters[y == "bird", 1]) == {labeler.cluster_labels_[(y == "ship") & (kind == 0)][0]}


def test_new_rows_of_known_class_get_their_pseudo_group(data):
    X, y, _ = data
    for scope in ("global", "local"):
        labeler = labeler_of(scope=scope).fit(X, y)
        assert_array_equal(labeler.predict_groups(X, y), labeler.group_labels_)
        new = labeler.predict_groups([[0.0] * 4, [10.0] * 4], ["ship", "bird"])
        assert new.tolist() == [2, 1]


@pytest.mark.parametrize("clusterer", [AgglomerativeClustering(2), DBSCAN(eps=4)])
def test_a_clusterer_without_predict_is_served_by_the_nearest_training_row(data, clusterer):
    X, y, kind = data
    labeler = labeler_of(clusterer).fit(X, y)
    assert not hasattr(labeler.clusterers_[0], "predict")
    assert_array_equal(labeler.cluster_labels_, kind)
    assert_array_equal(labeler.transform(X)[:, 0], kind)
    assert labeler.transform([[0.3] * 4, [9.0] * 4])[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "clusterer", [make_pipeline(StandardScaler(), KMEANS), GaussianMixture(2, random_state=0)]
)
def test_pipelines_and_mixtures_serve_as_clusterers(data, clusterer):
    X, y, kind = data
    assert_array_equal(labeler_of(clusterer).fit(X, y).cluster_labels_, kind)


def test_a_row_that_belongs_to_no_cluster_belongs_to_no_group(data):
    X, y, kind = data
    X = np.vstack([X, [[1000.0] * 4]])
    y = np.append(y, "ship")
    labeler = PseudoGroupLabeler(DBSCAN(eps=4), merge_alpha=None).fit(X, y)
    assert labeler.group_labels_[-1] == -1
    assert_array_equal(labeler.group_labels_[:-1], 2 * (y[:-1] == "ship") + kind)
    assert labeler.predict_groups([[999.0] * 4], ["bird"]).tolist() == [-1]


def test_blocks_are_clustered_by_name_and_the_embedding_passes(data):
    X, y, kind = data
    noise = np.random.default_rng(1).random((100, 3))
    on_heatmap = labeler_of().fit_transform(make_blocks(embedding=noise, heatmap=X), y)
    on_embedding = PseudoGroupLabeler(KMEANS, block="embedding", merge_alpha=None).fit_transform(
        make_blocks(embedding=np.abs(X), heatmap=noise), y
    )
    for out in (on_heatmap, on_embedding):
        assert out.dtype.names == ("embedding", "cluster")
    assert_array_equal(get_block(on_heatmap, "cluster", required_by=None), kind)
    assert_array_equal(on_embedding["embedding"], np.abs(X))


def test_embedding_rows_are_divided_by_their_largest_absolute_value():
    # Two directions at very different lengths: only the direction is left after the division.
    lengths = np.array([1.0, 100.0, 3.0, 50.0, 2.0, 70.0, 0.0])
    X = lengths[:, None] * np.array(
        [[1.0, 0.2], [1.0, 0.2], [0.2, -1.0], [0.2, -1.0], [1.0, 0.2], [0.2, -1.0], [1, 1]]
    )
    labels = PseudoGroupLabeler(KMeans(3, n_init=5, random_state=0), block="embedding", merge_alpha=None).fit(
        X, [0, 1] * 3 + [0]
    )
    assert labels.cluster_labels_.tolist() == [0, 0, 1, 1, 0, 1, 2]


def test_local_blocks_become_columns_of_a_frame(data):
    pd = pytest.importorskip("pandas")
    X, y, _ = data
    blocks = make_blocks(embedding=X[:, :2], heatmap=X)
    labeler = labeler_of(scope="local").set_output(transform="pandas")
    out = labeler.fit_transform(blocks, y)
    assert isinstance(out, pd.DataFrame)
    assert list(out.columns) == ["embedding_0", "embedding_1", "cluster_0", "cluster_1"]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_single_class_gives_the_clusters_as_groups_and_a_single_cluster_the_classes(data, scope):
    X, y, kind = data
    assert_array_equal(labeler_of(scope=scope).fit_predict(X, np.zeros(100)), kind)
    assert_array_equal(labeler_of(KMeans(1, n_init=1), scope=scope).fit_predict(X, y), y == "ship")


BIRDS = np.repeat(["bird", "ship"], [2, 3])


@pytest.mark.parametrize(
    "params, X, y, message",
    [
        ({}, np.eye(5), BIRDS[1:], "y has 4 entries for 5 samples"),
        ({}, np.full((5, 2), np.nan), BIRDS, "Input X contains NaN"),
        ({}, np.eye(3), [0.5, 1.2, 0.1], "Unknown label type: continuous"),
        ({}, np.eye(5), None, "requires y to be passed"),
        ({"clusterer": "kmeans"}, np.eye(5), BIRDS, "'clusterer' parameter"),
        ({"scope": "class"}, np.eye(5), BIRDS, "'scope' parameter"),
        ({"block": "pixels"}, np.eye(5), BIRDS, "'block' parameter"),
        ({"merge_alpha": 0}, np.eye(5), BIRDS, "'merge_alpha' parameter"),
        ({"merge_alpha": 1}, np.eye(5), BIRDS, "'merge_alpha' parameter"),
        ({"n_seed_checks": -1}, np.eye(5), BIRDS, "'n_seed_checks' parameter"),
        ({"scope": "local"}, np.eye(4), BIRDS[1:], r"Clustering class 'bird' \(1 samples\) failed"),
        ({"clusterer": DBSCAN(eps=1e-3)}, np.eye(5), BIRDS, "put all 5 samples of the rows at -1"),
        ({}, make_blocks(embedding=np.eye(5)), BIRDS, "PseudoGroupLabeler needs the block 'heatmap'"),
    ],
)
def test_bad_input_is_refused_with_what_and_how_many(params, X, y, message):
    with pytest.raises(ValueError, match=message):
        labeler_of(**params).fit(X, y)


@pytest.mark.parametrize(
    "y, message",
    [
        (["cat"], r"1 class\(es\) that `fit` did not see: \['cat'\]"),
        (["bird", "ship"], "y has 2 entries for 1 samples"),
        (None, "y is None. Pass the class of each of 1 samples"),
    ],
)
def test_new_rows_need_a_known_class(data, y, message):
    X, known, _ = data
    with pytest.raises(ValueError, match=message):
        labeler_of().fit(X, known).predict_groups(X[:1], y)


NOISE, HALVES = np.random.default_rng(0).standard_normal((300, 20)), np.arange(300) % 2
# Two clusters, and how they agree after some rows were moved to the other: with 19 of 200 rows, the adjusted Rand index
# is 0.654, and with 20 it is 0.638.
TWO = np.repeat([0, 1], 100)


class Moved(KMeans):
    """A clusterer that moves rows to the other cluster unless its seed is 5."""

    n_moved = 0

    def fit_predict(self, X, y=None):
        return TWO if self.random_state == 5 else np.r_[np.ones(self.n_moved, dtype=int), TWO[self.n_moved :]]


class TestOtherSeeds:
    @pytest.mark.parametrize(
        "clusterer, scope, expected",
        [
            (KMEANS, "global", [1]),
            (KMEANS, "local", [1, 1]),
            (GaussianMixture(2, random_state=0), "global", [1]),
            (AgglomerativeClustering(2), "global", [None]),
            (None, "global", [None]),
            (EigengapSpectralClustering(neighbors=KNeighborsTransformer(n_neighbors=5)), "global", [None]),
        ],
        ids=str,
    )
    def test_clusters_that_are_there_agree_and_those_that_need_no_seed_are_not_compared(
        self, data, clusterer, scope, expected
    ):
        X, y, _ = data
        X = X + 100 * (y == "ship")[:, None]
        assert labeler_of(clusterer, scope=scope).fit(X, y).seed_agreements_ == expected

    def test_the_class_whose_clusters_barely_reproduce_is_named(self, data):
        X, y, _ = data
        X = np.where(y[:, None] == "ship", np.random.default_rng(0).standard_normal(X.shape), X)
        clusterer = make_pipeline(StandardScaler(), KMeans(4, n_init=1, random_state=0))
        labeler = labeler_of(clusterer, scope="local", n_seed_checks=2)
        words = r"class 'ship' \(40 samples\) barely reproduce: under 2 other seeds, Pipeline finds"
        with pytest.warns(ClusteringWarning, match=words):
            labeler.fit(X, y)
        assert len(labeler.seed_agreements_) == 2

    def test_the_agreement_is_the_mean_over_refits_under_other_seeds(self):
        labeler = labeler_of(KMeans(8, n_init=1, random_state=5), n_seed_checks=3)
        with pytest.warns(ClusteringWarning, match="under 3 other seeds, KMeans finds"):
            labeler.fit(NOISE, HALVES)
        seeds = np.random.RandomState(0).randint(2**31 - 1, size=3)
        own, *others = (KMeans(8, n_init=1, random_state=seed).fit_predict(NOISE) for seed in (5, *seeds))
        expected = np.mean([adjusted_rand_score(own, other) for other in others])
        assert labeler.seed_agreements_ == [pytest.approx(expected)]

    @pytest.mark.parametrize("n_moved, n_warnings", [(19, 0), (20, 1)])
    def test_the_limit_of_the_warning_is_steinleys_0_65(self, n_moved, n_warnings, monkeypatch):
        monkeypatch.setattr(Moved, "n_moved", n_moved)
        labeler = labeler_of(Moved(random_state=5))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            labeler.fit(NOISE[:200], HALVES[:200])
        assert (labeler.seed_agreements_[0] < 0.65) == len(caught) == n_warnings

    def test_it_can_be_switched_off(self):
        labeler = labeler_of(KMeans(8, n_init=1), n_seed_checks=0)
        assert labeler.fit(NOISE, HALVES).seed_agreements_ == [None]

    def test_the_eigengap_is_compared_under_the_seeds_of_its_transformer(self):
        axes = GaussianRandomProjection(5, random_state=0)
        neighbors = make_pipeline(axes, KNeighborsTransformer(n_neighbors=6))
        labeler = labeler_of(EigengapSpectralClustering(neighbors=neighbors))
        with pytest.warns(ClusteringWarning, match="EigengapSpectralClustering finds"):
            labeler.fit(NOISE, HALVES)


@pytest.fixture
def kinds():
    """Return rows of three kinds, y, the kinds, and the predictions of a model that fails on kind 2 alone."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1, 2], [90, 60, 50]))
    y = np.array(["bird", "ship"])[rng.integers(2, size=200)]
    X = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0]])[kind] + rng.normal(size=(200, 2)) / 4
    right = rng.uniform(size=200) < np.array([0.9, 0.9, 0.2])[kind]
    return X, y, kind, np.where(right, y, np.where(y == "bird", "ship", "bird"))


THREE = KMeans(3, n_init=5, random_state=0)


class TestMerging:
    @pytest.mark.parametrize(
        "clusterer",
        [THREE, AgglomerativeClustering(3), make_pipeline(StandardScaler(), THREE), DBSCAN(eps=1.5)],
        ids=lambda clusterer: type(clusterer).__name__,
    )
    def test_kinds_on_which_the_model_behaves_alike_become_one_cluster(self, kinds, clusterer):
        X, y, kind, predicted = kinds
        labeler = PseudoGroupLabeler(clusterer)
        groups = labeler.fit_predict(X, y, predicted=predicted)
        assert_array_equal(labeler.cluster_labels_, kind == 2)
        assert_array_equal(groups, 2 * (y == "ship") + (kind == 2))
        assert labeler.n_clusters_ == 2
        assert labeler.n_clusters_per_class_.tolist() == [2, 2]
        assert labeler.merged_into_[0].tolist() == [0, 0, 1]
        ((merge,),) = labeler.merges_
        assert (merge.into, merge.cluster) == (0, 1)
        assert merge.p_value >= 0.01

    @pytest.mark.parametrize("clusterer", [THREE, AgglomerativeClustering(3)], ids=["predict", "nearest row"])
    @pytest.mark.parametrize("scope", ["global", "local"])
    def test_new_rows_get_the_merged_cluster(self, kinds, clusterer, scope):
        X, y, _, predicted = kinds
        labeler = PseudoGroupLabeler(clusterer, scope=scope)
        handed_on = labeler.fit_transform(X, y, predicted=predicted)
        assert_array_equal(labeler.predict_groups(X, y), labeler.group_labels_)
        assert_array_equal(labeler.transform(X), handed_on)
        assert handed_on.shape == (200, 2 if scope == "local" else 1)
        new = [[4.0, 0.2], [0.2, 8.0]]
        assert labeler.transform(new).tolist() == [[0] * handed_on.shape[1], [1] * handed_on.shape[1]]
        assert labeler.predict_groups(new, ["ship", "bird"]).tolist() == [2, 1]

    def test_inside_each_class_only_its_own_answers_count(self, kinds):
        X, y, kind, predicted = kinds
        # Of the birds the model knows kinds 0 and 1 alike, of the ships none like another.
        rng = np.random.default_rng(1)
        accuracy = np.array([[0.9, 0.9, 0.1], [0.95, 0.5, 0.05]])[(y == "ship").astype(int), kind]
        right = rng.uniform(size=200) < accuracy
        predicted = np.where(right, y, np.where(y == "bird", "ship", "bird"))
        labeler = PseudoGroupLabeler(THREE, scope="local").fit(X, y, predicted=predicted)
        assert labeler.n_clusters_per_class_.tolist() == [2, 3]
        assert labeler.n_clusters_ == 3
        assert [len(merges) for merges in labeler.merges_] == [1, 0]
        own = [tuple(set(kind[(y == "bird") & (labeler.cluster_labels_ == c)])) for c in (0, 1)]
        assert sorted(own) == [(0, 1), (2,)]
        for name, code in (("bird", 0), ("ship", 1)):
            part = y == name
            alone = PseudoGroupLabeler(THREE).fit(X[part], y[part], predicted=predicted[part])
            assert_array_equal(labeler.cluster_labels_[part], alone.cluster_labels_)
            assert labeler.merges_[code] == alone.merges_[0]
            assert_array_equal(labeler.group_labels_[part], 3 * code + alone.cluster_labels_)
        # Over all classes at once, every kind differs from every other in one of them.
        assert PseudoGroupLabeler(THREE).fit(X, y, predicted=predicted).n_clusters_ == 3

    def test_merged_embeddings_are_compared_as_they_were_clustered(self, kinds):
        X, y, kind, predicted = kinds
        # Directions are the kinds; the lengths are nobody's business.
        lengths = np.random.default_rng(3).uniform(0.1, 100, size=(200, 1))
        directions = np.array([[1.0, 0.1, 0.0], [1.0, 0.9, 0.0], [0.0, 0.1, 1.0]])[kind]
        labeler = PseudoGroupLabeler(THREE, block="embedding")
        blocks = make_blocks(embedding=lengths * directions, heatmap=X, predicted=(predicted == "ship") * 1)
        assert_array_equal(labeler.fit(blocks, y).cluster_labels_, kind == 2)
        assert_array_equal(labeler.predict_groups(blocks, y), labeler.group_labels_)

    @pytest.mark.parametrize(
        "classes",
        [[-1, 1], [0, 2], [0.0, 1.0], [False, True], ["bird", "ship"], [5, 3, 9]],
        ids=str,
    )
    def test_the_block_and_the_argument_say_the_same(self, classes):
        rng = np.random.default_rng(0)
        names = np.unique(classes)
        code, kind = rng.integers(len(names), size=300), np.arange(300) % 3
        right = rng.uniform(size=300) < np.array([0.9, 0.9, 0.2])[kind]
        guess = np.where(right, code, (code + 1) % len(names))
        X = np.array([[0.0], [3.0], [9.0]])[kind] + rng.normal(size=(300, 1)) / 10
        block = names[guess].astype(np.int64) if names.dtype.kind in "iufb" else guess
        blocks = make_blocks(heatmap=X, predicted=block)
        by_block = PseudoGroupLabeler(THREE).fit(blocks, names[code])
        by_argument = PseudoGroupLabeler(THREE).fit(X, names[code], predicted=names[guess])
        assert_array_equal(by_block.cluster_labels_, kind == 2)
        assert_array_equal(by_argument.group_labels_, by_block.group_labels_)
        assert by_argument.merges_ == by_block.merges_
        # The argument wins over the block.
        wrong = make_blocks(heatmap=X, predicted=np.roll(block, 1))
        assert (
            PseudoGroupLabeler(THREE).fit(wrong, names[code], predicted=names[guess]).merges_
            == by_block.merges_
        )

    def test_a_predicted_class_that_y_lacks_is_a_wrong_answer(self, kinds):
        X, y, _, predicted = kinds
        other = np.where(predicted == y, predicted, "truck")
        expected = PseudoGroupLabeler(THREE).fit(X, y, predicted=predicted)
        assert PseudoGroupLabeler(THREE).fit(X, y, predicted=other).merges_ == expected.merges_
        numbers = 2 * (y == "ship")
        blocks = make_blocks(heatmap=X, predicted=np.where(predicted == y, numbers, 1))
        assert PseudoGroupLabeler(THREE).fit(blocks, numbers).merges_ == expected.merges_

    def test_without_an_alpha_nothing_is_merged_and_no_prediction_is_needed(self, kinds):
        X, y, kind, predicted = kinds
        labeler = PseudoGroupLabeler(THREE, merge_alpha=None).fit(X, y)
        assert_array_equal(labeler.cluster_labels_, kind)
        assert labeler.merges_ == [[]]
        assert labeler.merged_into_[0].tolist() == [0, 1, 2]
        assert_array_equal(
            labeler.group_labels_, labeler.fit(X, y, predicted=predicted).group_labels_, strict=True
        )

    @pytest.mark.parametrize(
        "block, argument, classes, message",
        [
            (None, None, None, r"return_embedding=True.*pass `predicted` to `fit`.*`merge_alpha=None`"),
            # No prediction is known.
            (np.full(200, -1), None, None, "logits do not belong to the 2 classes in y"),
            # Logits by number, and labels that are other numbers.
            (np.ones(200, int), None, [20, 10], "logits do not belong to the 2 classes in y"),
            (
                None,
                np.array(["1"] * 200),
                None,
                "None of the 200 entries of `predicted` is one of the 2 classes",
            ),
            (None, ["bird"] * 199, None, "`predicted` has 199 entries for 200 samples"),
        ],
    )
    def test_predictions_that_are_missing_or_unusable_are_refused(
        self, kinds, block, argument, classes, message
    ):
        X, y, _, _ = kinds
        blocks = make_blocks(embedding=X, heatmap=X, **({} if block is None else {"predicted": block}))
        y = y if classes is None else np.array(classes)[(y == "ship").astype(int)]
        with pytest.raises(ValueError, match=message):
            PseudoGroupLabeler(THREE).fit(blocks, y, predicted=argument)

    def test_a_model_that_always_answers_minus_one_is_taken_at_its_word(self, kinds):
        X, y, _, _ = kinds
        blocks = make_blocks(heatmap=X, predicted=np.full(200, -1))
        # It is right about one class and wrong about the other, whatever the cluster.
        assert PseudoGroupLabeler(THREE).fit(blocks, np.where(y == "bird", -1, 1)).n_clusters_ == 1
