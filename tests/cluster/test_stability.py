"""cluster_stability: its indices, its verdict, and what it takes."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import DBSCAN, KMeans, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline

from skexmap import PseudoGroupLabeler
from skexmap.cluster import EigengapSpectralClustering, cluster_stability
from skexmap.cluster._stability import jaccards, judged
from skexmap.exceptions import ClusteringWarning
from skexmap.retraining import EIILLabeler


def as_frame(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


@pytest.fixture
def blobs():
    return make_blobs([150, 60, 20], n_features=6, center_box=(-40, 40), random_state=0)[0]


def test_separated_blobs_are_stable(blobs):
    stability = cluster_stability(
        EigengapSpectralClustering(n_neighbors=8), blobs, n_resamples=6, random_state=0
    )
    assert stability.verdict == "stable"
    assert stability.mean_adjusted_rand_index == 1
    assert stability.mean_jaccards.tolist() == [1, 1, 1]
    assert stability.n_clusters_agreement == 1
    assert stability.summary.startswith("stable: over 6 resamples the adjusted Rand index is 1.00")


def test_structureless_rows_are_not_to_be_trusted():
    X = np.random.default_rng(0).standard_normal((300, 10))
    for clusterer in (EigengapSpectralClustering(), KMeans(6, n_init=1)):
        words = r"on 300 rows are unstable: do not trust.*Ask for fewer"
        with pytest.warns(ClusteringWarning, match=words):
            stability = cluster_stability(clusterer, X, n_resamples=6, random_state=0)
        assert stability.verdict == "do not trust"


@pytest.mark.parametrize(
    "index, overlaps, verdict",
    [
        (0.95, [0.9, 0.95], "stable"),
        (0.95, [0.9, 0.7], "doubtful"),
        (0.95, [0.9, 0.5], "do not trust"),
        (0.70, [0.9, 0.9], "doubtful"),
        (0.60, [0.9, 0.9], "do not trust"),
        (0.95, [0.9, np.nan], "do not trust"),
    ],
)
def test_one_cluster_that_dissolves_spoils_the_verdict_although_the_rand_index_is_high(
    index, overlaps, verdict
):
    stability = judged(np.full(4, index), np.tile(overlaps, (4, 1)), np.full(4, 2), 2)
    assert stability.verdict == verdict
    assert ("is in no resample" in stability.summary) == (np.nan in overlaps)


def test_the_mean_overlap_is_that_of_the_resamples_that_hold_the_cluster():
    seen = np.array([[0.9, np.nan, 1.0], [1.0, np.nan, np.nan]])
    stability = judged(np.ones(2), seen, np.full(2, 3), 3)
    np.testing.assert_array_equal(stability.mean_jaccards, [0.95, np.nan, 1.0])


def test_the_indices_equal_a_straight_line_script():
    X = np.random.default_rng(0).standard_normal((80, 2))
    X[:30] += 6
    X[30:45] -= 6
    stability = cluster_stability(KMeans(3, n_init=1, random_state=0), X, n_resamples=3, random_state=7)
    random_state = np.random.RandomState(7)
    reference = KMeans(3, n_init=1, random_state=0).fit_predict(X)
    for i in range(3):
        sample = np.sort(random_state.permutation(80)[:64])
        labels = KMeans(3, n_init=1, random_state=0).fit_predict(X[sample])
        assert stability.adjusted_rand_indices[i] == adjusted_rand_score(reference[sample], labels)
        for c in range(3):
            members = set(sample[reference[sample] == c])
            found = [set(sample[labels == label]) for label in range(3)]
            assert stability.jaccards[i, c] == max(len(members & f) / len(members | f) for f in found)


def test_a_cluster_without_a_row_in_the_sample_has_no_overlap():
    reference = np.array([0, 0, 0, 1, -1])
    overlaps = jaccards(reference, np.array([0, 1, 4]), np.array([0, 0, 1]))
    assert overlaps[0] == 1
    assert np.isnan(overlaps[1])


@pytest.mark.parametrize("make", [sparse.csr_array, np.asarray, as_frame], ids=["sparse", "dense", "frame"])
def test_matrices_between_rows_lose_rows_and_columns(make, blobs):
    clusterer = SpectralClustering(3, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    affinity = make(rbf_kernel(blobs, gamma=0.01))
    stability = cluster_stability(clusterer, affinity, n_resamples=3, random_state=0)
    assert (stability.verdict, stability.n_clusters_of_all) == ("stable", 3)


@pytest.mark.parametrize("make", [np.ndarray.tolist, as_frame], ids=["list", "frame"])
def test_frames_and_lists_are_resampled_too(make, blobs):
    stability = cluster_stability(DBSCAN(eps=8), make(blobs), n_resamples=3, random_state=0)
    assert stability.n_clusters_of_all == 3


class TestTheWholeMethod:
    def expected(self, labeler, blocks, y, name):
        """Return the adjusted Rand indices over two subsamples, by a straight-line script."""
        random_state, indices = np.random.RandomState(3), []
        reference = getattr(clone(labeler).fit(blocks, y), name)
        for _ in range(2):
            rows = np.sort(random_state.permutation(60)[:48])
            found = getattr(clone(labeler).fit(blocks[rows], y[rows]), name)
            indices.append(adjusted_rand_score(reference[rows], found))
        return indices

    @pytest.mark.parametrize(
        "params, name",
        [
            ({}, "cluster_labels_"),
            ({"clusterer__scope": "local"}, "group_labels_"),
            ({"clusterer": EIILLabeler()}, "group_labels_"),
        ],
        ids=["global", "local", "EIIL"],
    )
    @pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
    def test_a_fitted_pipeline_the_classifier_and_the_labeler_on_blocks_have_the_same_stability(
        self, params, name, exmap, pipe, images
    ):
        X, y = images
        pipe.set_params(heatmaps__size=4, **params).fit(X, y)
        exmap.set_params(**params).fit(X, y)
        blocks = pipe[:-2].transform(X)
        expected = self.expected(pipe[-2], blocks, y, name)
        search = SimpleNamespace(best_estimator_=exmap)
        for estimator, rows in ((pipe, X), (exmap, X), (search, X), (pipe[-2], blocks)):
            stability = cluster_stability(estimator, rows, y, n_resamples=2, random_state=3)
            assert stability.adjusted_rand_indices.tolist() == expected

    def test_clusters_changed_by_hand_are_judged_as_they_were_found(self, blobs):
        y = np.arange(len(blobs)) % 2
        labeler = PseudoGroupLabeler(KMeans(3, n_init=3, random_state=0), merge_alpha=None).fit(blobs, y)
        found = cluster_stability(labeler, blobs, y, n_resamples=3, random_state=0)
        changed = cluster_stability(labeler.merge([0, 1]), blobs, y, n_resamples=3, random_state=0)
        assert changed.summary.removeprefix(found.summary) == (
            " Clusters that were merged or dropped by hand are judged as they were found."
        )

    def test_a_labeler_needs_the_classes(self, pipe, images):
        with pytest.raises(ValueError, match=r"PseudoGroupLabeler needs the class of each row. Pass y"):
            cluster_stability(PseudoGroupLabeler(), images[0].reshape(60, -1))

    def test_an_estimator_without_clusters_is_refused(self, exmap):
        with pytest.raises(TypeError, match=r"ExMapClassifier has no `fit_predict`. Pass .* fitted"):
            cluster_stability(exmap, np.eye(5))

    def test_a_pipeline_that_ends_in_a_clusterer_is_fitted_as_a_whole(self, blobs):
        pipeline = make_pipeline(clone(KMeans(3)), KMeans(3, n_init=2, random_state=0))
        assert cluster_stability(pipeline, blobs, n_resamples=2, random_state=0).verdict == "stable"


@pytest.mark.parametrize(
    "clusterer, params, message",
    [
        (DBSCAN(eps=1e-9), {}, "DBSCAN put all 5 rows at -1"),
        (KMeans(2), {"fraction": 1.2}, "fraction=1.2 is not a share of the rows"),
        (KMeans(2), {"n_resamples": 1}, "n_resamples=1 is not enough"),
        (KMeans(2), {"n_resamples": 2.5}, "n_resamples=2.5 is not enough"),
    ],
)
def test_what_cannot_be_judged_is_refused(clusterer, params, message):
    with pytest.raises(ValueError, match=message):
        cluster_stability(clusterer, np.eye(5), **params)


def test_rows_of_several_lengths_are_refused():
    with pytest.raises(ValueError, match="inhomogeneous"):
        cluster_stability(KMeans(2), [[1, 2], [3]])
    with pytest.raises(ValueError, match="rows of `y` differ in length"):
        cluster_stability(KMeans(2), np.eye(2), y=[[1, 2], [3]])
    with pytest.raises(ValueError, match="y has 2 entries for 3 samples"):
        cluster_stability(KMeans(2), np.eye(3), y=[0, 1])
