"""cluster_stability: what it measures and what it says."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skexmap.cluster import (
    ClusterStability,
    EigengapSpectralClustering,
    OverclusteringKMeans,
    cluster_stability,
)
from skexmap.cluster._stability import jaccards


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
    for clusterer in (EigengapSpectralClustering(random_state=0), OverclusteringKMeans(6, n_init=1)):
        stability = cluster_stability(clusterer, X, n_resamples=6, random_state=0)
        assert stability.verdict == "do not trust"
        assert "do not trust" in str(stability)


def test_one_cluster_that_dissolves_spoils_the_verdict_though_the_rand_index_is_high():
    ones = np.ones(4)
    fine = ClusterStability(0.95 * ones, np.tile([0.9, 0.95], (4, 1)), np.full(4, 2), 2)
    weak = ClusterStability(0.95 * ones, np.tile([0.9, 0.7], (4, 1)), np.full(4, 2), 2)
    gone = ClusterStability(0.95 * ones, np.tile([0.9, 0.5], (4, 1)), np.full(4, 2), 2)
    low = ClusterStability(0.70 * ones, np.tile([0.9, 0.9], (4, 1)), np.full(4, 2), 2)
    assert [s.verdict for s in (fine, weak, gone, low)] == ["stable", "doubtful", "do not trust", "doubtful"]


def test_the_indices_equal_a_straight_line_script():
    X = np.random.default_rng(0).standard_normal((80, 2))
    stability = cluster_stability(KMeans(3, n_init=1, random_state=0), X, n_resamples=3, random_state=7)
    random_state = np.random.RandomState(7)
    reference = KMeans(3, n_init=1, random_state=0).fit_predict(X)
    for i in range(3):
        sample = np.sort(random_state.permutation(80)[:64])
        labels = KMeans(3, n_init=1, random_state=0).fit_predict(X[sample])
        assert stability.adjusted_rand_indices[i] == adjusted_rand_score(reference[sample], labels)
        for c in range(3):
            own = set(sample[reference[sample] == c])
            found = [set(sample[labels == label]) for label in range(3)]
            assert stability.jaccards[i, c] == max(len(own & f) / len(own | f) for f in found)


def test_a_cluster_without_a_row_in_the_sample_has_no_overlap():
    reference = np.array([0, 0, 0, 1, -1])
    overlaps = jaccards(reference, np.array([0, 1, 4]), np.array([0, 0, 1]))
    assert overlaps[0] == 1
    assert np.isnan(overlaps[1])


def test_noise_frames_and_lists_are_taken():
    pd = pytest.importorskip("pandas")
    X, _ = make_blobs(60, centers=2, random_state=0, center_box=(-40, 40))
    for rows in (X, X.tolist(), pd.DataFrame(X)):
        stability = cluster_stability(DBSCAN(eps=2), rows, n_resamples=3, random_state=0)
        assert stability.n_clusters_of_all == 2


def test_a_share_or_number_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"fraction=1.2 must lie between 0 and 1"):
        cluster_stability(KMeans(2), np.eye(5), fraction=1.2)
    with pytest.raises(ValueError, match="n_resamples=1"):
        cluster_stability(KMeans(2), np.eye(5), n_resamples=1)
