"""cluster_stability: what it measures and what it says."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import DBSCAN, KMeans, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import rbf_kernel

from skexmap.cluster import ClusterStability, EigengapSpectralClustering, cluster_stability
from skexmap.cluster._stability import jaccards, seed_agreement
from skexmap.exceptions import IrreproducibleClustersWarning


def as_frame(affinity):
    return pytest.importorskip("pandas").DataFrame(affinity)


def test_separated_blobs_are_stable():
    X, _ = make_blobs([150, 60, 20], n_features=6, center_box=(-40, 40), random_state=0)
    stability = cluster_stability(EigengapSpectralClustering(n_neighbors=8), X, n_resamples=6, random_state=0)
    assert stability.verdict == "stable"
    assert stability.mean_adjusted_rand_index == 1
    assert stability.mean_jaccards.tolist() == [1, 1, 1]
    assert stability.n_clusters_agreement == 1
    assert str(stability).startswith("stable: over 6 resamples the adjusted Rand index is 1.00")


def test_structureless_rows_are_not_to_be_trusted():
    X = np.random.default_rng(0).standard_normal((300, 10))
    for clusterer in (EigengapSpectralClustering(), KMeans(6, n_init=1)):
        with pytest.warns(
            IrreproducibleClustersWarning, match=r"on 300 rows are unstable: do not trust.*Ask for fewer"
        ):
            stability = cluster_stability(clusterer, X, n_resamples=6, random_state=0)
        assert stability.verdict == "do not trust"
        assert "do not trust" in str(stability)


def test_one_cluster_that_dissolves_spoils_the_verdict_although_the_rand_index_is_high():
    ones = np.ones(4)
    fine = ClusterStability(0.95 * ones, np.tile([0.9, 0.95], (4, 1)), np.full(4, 2), 2)
    weak = ClusterStability(0.95 * ones, np.tile([0.9, 0.7], (4, 1)), np.full(4, 2), 2)
    gone = ClusterStability(0.95 * ones, np.tile([0.9, 0.5], (4, 1)), np.full(4, 2), 2)
    low = ClusterStability(0.70 * ones, np.tile([0.9, 0.9], (4, 1)), np.full(4, 2), 2)
    assert [s.verdict for s in (fine, weak, gone, low)] == ["stable", "doubtful", "do not trust", "doubtful"]


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


def test_a_cluster_that_no_resample_held_is_not_trusted():
    seen = np.array([[0.9, np.nan, 1.0], [1.0, np.nan, np.nan]])
    stability = ClusterStability(np.ones(2), seen, np.full(2, 3), 3)
    np.testing.assert_array_equal(stability.mean_jaccards, [0.95, np.nan, 1.0])
    assert stability.verdict == "do not trust"
    assert "the weakest cluster (1) is in no resample" in str(stability)


@pytest.mark.parametrize("make", [sparse.csr_array, np.asarray, as_frame], ids=["sparse", "dense", "frame"])
def test_matrices_between_rows_lose_rows_and_columns(make):
    X, _ = make_blobs([150, 60, 20], n_features=6, center_box=(-40, 40), random_state=0)
    affinity = rbf_kernel(X, gamma=0.01)
    clusterer = SpectralClustering(3, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    stability = cluster_stability(clusterer, make(affinity), n_resamples=3, random_state=0)
    assert stability.verdict == "stable"
    assert stability.n_clusters_of_all == 3


def test_a_clusterer_that_finds_no_cluster_is_refused():
    with pytest.raises(ValueError, match="DBSCAN put all 5 rows at -1"):
        cluster_stability(DBSCAN(eps=1e-9), np.eye(5))


def test_frames_and_lists_are_resampled_too():
    pd = pytest.importorskip("pandas")
    X, _ = make_blobs(60, centers=2, random_state=0, center_box=(-40, 40))
    for rows in (X, X.tolist(), pd.DataFrame(X)):
        stability = cluster_stability(DBSCAN(eps=2), rows, n_resamples=3, random_state=0)
        assert stability.n_clusters_of_all == 2


def test_a_fraction_above_1_and_a_single_resample_are_refused():
    with pytest.raises(ValueError, match=r"fraction=1.2 is not a share of the rows"):
        cluster_stability(KMeans(2), np.eye(5), fraction=1.2)
    for n_resamples in (1, 2.5):
        with pytest.raises(ValueError, match=f"n_resamples={n_resamples}"):
            cluster_stability(KMeans(2), np.eye(5), n_resamples=n_resamples)


class TestSeedAgreement:
    def test_it_is_the_mean_adjusted_rand_index_with_the_clusters_under_other_seeds(self):
        noise = np.random.default_rng(0).standard_normal((300, 20))

        def cluster(seed):
            return KMeans(4, n_init=2, random_state=seed).fit_predict(noise)

        labels = cluster(0)
        with pytest.warns(IrreproducibleClustersWarning, match="under 3 other seeds, KMeans finds"):
            found = seed_agreement(labels, cluster, 3, rows_name="noise", clusterer_name="KMeans")
        seeds = np.random.RandomState(0).randint(2**31 - 1, size=3)
        assert found == pytest.approx(np.mean([adjusted_rand_score(labels, cluster(s)) for s in seeds]))

    def test_the_limit_of_the_warning_is_steinleys_0_65(self):
        labels = np.repeat([0, 1], 100)
        moved = [np.r_[np.ones(n, dtype=int), labels[n:]] for n in range(40)]
        indices = np.array([adjusted_rand_score(labels, other) for other in moved])
        fine, poor = moved[np.flatnonzero(indices >= 0.65)[-1]], moved[np.flatnonzero(indices < 0.65)[0]]
        names = {"rows_name": "rows", "clusterer_name": "KMeans"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert seed_agreement(labels, lambda _: fine, 1, **names) >= 0.65
        with pytest.warns(IrreproducibleClustersWarning, match="rows barely reproduce: under 1 other seed,"):
            seed_agreement(labels, lambda _: poor, 1, **names)
