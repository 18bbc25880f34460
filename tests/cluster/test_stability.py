"""cluster_stability: what it measures and what it says."""

import warnings

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
from skexmap.cluster._stability import jaccards, seed_agreement
from skexmap.exceptions import IrreproducibleClustersWarning


def as_frame(affinity):
    return pytest.importorskip("pandas").DataFrame(affinity.toarray())


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
        with pytest.warns(IrreproducibleClustersWarning, match=r"on 300 rows: do not trust.*Ask for fewer"):
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
            own = set(sample[reference[sample] == c])
            found = [set(sample[labels == label]) for label in range(3)]
            assert stability.jaccards[i, c] == max(len(own & f) / len(own | f) for f in found)


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


@pytest.mark.parametrize(
    "make", [lambda A: A, lambda A: A.toarray(), as_frame], ids=["sparse", "dense", "frame"]
)
def test_matrices_between_rows_lose_rows_and_columns(make):
    X, _ = make_blobs([150, 60, 20], n_features=6, center_box=(-40, 40), random_state=0)
    plain = EigengapSpectralClustering(n_neighbors=8).fit(X)
    clusterer = EigengapSpectralClustering(affinity="precomputed")
    stability = cluster_stability(clusterer, make(plain.affinity_matrix_), n_resamples=3, random_state=0)
    assert stability.verdict == "stable"
    assert stability.n_clusters_of_all == 3


def test_nothing_but_noise_leaves_nothing_to_judge():
    with pytest.raises(ValueError, match="DBSCAN put all 5 rows at -1"):
        cluster_stability(DBSCAN(eps=1e-9), np.eye(5))


def test_noise_frames_and_lists_are_taken():
    pd = pytest.importorskip("pandas")
    X, _ = make_blobs(60, centers=2, random_state=0, center_box=(-40, 40))
    for rows in (X, X.tolist(), pd.DataFrame(X)):
        stability = cluster_stability(DBSCAN(eps=2), rows, n_resamples=3, random_state=0)
        assert stability.n_clusters_of_all == 2


def test_a_share_or_number_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"fraction=1.2 must lie between 0 and 1"):
        cluster_stability(KMeans(2), np.eye(5), fraction=1.2)
    for n_resamples in (1, 2.5):
        with pytest.raises(ValueError, match=f"n_resamples={n_resamples}"):
            cluster_stability(KMeans(2), np.eye(5), n_resamples=n_resamples)


class TestOtherSeeds:
    @pytest.fixture
    def noise(self):
        return np.random.default_rng(0).standard_normal((300, 20))

    @pytest.fixture
    def three_blobs(self):
        return make_blobs([150, 60, 40], n_features=20, center_box=(-20, 20), random_state=0)[0]

    @pytest.mark.parametrize(
        "make", [OverclusteringKMeans, lambda k, **params: OverclusteringKMeans((k, k), **params)]
    )
    def test_too_many_clusters_of_noise_barely_reproduce(self, make, noise):
        with pytest.warns(
            IrreproducibleClustersWarning,
            match=r"300 rows barely reproduce: under 1 other seed, .*n_seed_checks=0",
        ):
            clusterer = make(8, random_state=0).fit(noise)
        assert -0.1 < clusterer.seed_agreement_ < 0.65

    def test_what_is_there_is_found_again(self, three_blobs):
        for clusterer in (
            OverclusteringKMeans(3, random_state=0),
            OverclusteringKMeans((2, 6), reduce="pca", random_state=0),
            EigengapSpectralClustering(n_neighbors=12, projection="pca", n_components=3, random_state=0),
        ):
            assert clusterer.fit(three_blobs).seed_agreement_ == 1

    def test_the_agreement_is_the_mean_adjusted_rand_index_of_refits_under_other_seeds(self, noise):
        clusterer = OverclusteringKMeans(4, n_init=2, random_state=0, n_seed_checks=3)
        with pytest.warns(IrreproducibleClustersWarning, match="under 3 other seeds"):
            clusterer.fit(noise)
        indices = []
        for seed in np.random.RandomState(0).randint(2**31 - 1, size=3):
            start = np.random.RandomState(seed).randint(2**31 - 1)
            other = KMeans(4, n_init=2, random_state=start).fit_predict(noise)
            indices.append(adjusted_rand_score(clusterer.labels_, other))
        assert clusterer.seed_agreement_ == pytest.approx(np.mean(indices))

    @pytest.mark.filterwarnings("error")
    def test_the_check_can_be_switched_off_and_changes_nothing_else(self, noise, three_blobs):
        assert OverclusteringKMeans(8, random_state=0, n_seed_checks=0).fit(noise).seed_agreement_ is None
        state = np.random.RandomState(0)
        checked = OverclusteringKMeans(3, random_state=state).fit(three_blobs)
        unmoved = np.random.RandomState(0)
        unchecked = OverclusteringKMeans(3, random_state=unmoved, n_seed_checks=0).fit(three_blobs)
        np.testing.assert_array_equal(checked.labels_, unchecked.labels_)
        assert state.randint(2**31 - 1) == unmoved.randint(2**31 - 1)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("n_samples", [300, 900])
    def test_exact_spectral_clusters_are_the_same_under_any_seed_and_not_computed_twice(
        self, n_samples, monkeypatch
    ):
        """On noise even, for the dense and the iterative eigensolver: so there is nothing to compare."""
        noise = np.random.default_rng(0).standard_normal((n_samples, 20))
        labels = [EigengapSpectralClustering(6, random_state=seed).fit_predict(noise) for seed in range(3)]
        assert [adjusted_rand_score(labels[0], other) for other in labels[1:]] == [1, 1]
        monkeypatch.setattr(
            EigengapSpectralClustering, "_check_seeds", lambda *_: pytest.fail("clustered again")
        )
        assert EigengapSpectralClustering(random_state=0).fit(noise).seed_agreement_ is None

    @pytest.mark.parametrize("projection", ["pca", "random"])
    def test_spectral_clusters_of_noise_in_a_projection_hang_on_the_seed(self, projection, noise):
        clusterer = EigengapSpectralClustering(projection=projection, n_components=5, random_state=0)
        with pytest.warns(IrreproducibleClustersWarning, match="EigengapSpectralClustering"):
            clusterer.fit(noise)

    @pytest.mark.filterwarnings("error")
    def test_one_cluster_reproduces(self, noise):
        assert OverclusteringKMeans(1, random_state=0).fit(noise).seed_agreement_ is None

    def test_resampling_does_not_compare_seeds(self, three_blobs, monkeypatch):
        monkeypatch.setattr(OverclusteringKMeans, "_check_seeds", lambda *_: pytest.fail("clustered again"))
        cluster_stability(OverclusteringKMeans(3, random_state=0), three_blobs, n_resamples=3, random_state=0)

    def test_the_limit_is_steinleys(self):
        """0.65 and more is not called poor: two labellings just above it and just below."""
        labels = np.repeat([0, 1], 100)
        moved = [np.r_[np.ones(n, dtype=int), labels[n:]] for n in range(40)]
        indices = np.array([adjusted_rand_score(labels, other) for other in moved])
        fine, poor = moved[np.flatnonzero(indices >= 0.65)[-1]], moved[np.flatnonzero(indices < 0.65)[0]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert seed_agreement(labels, lambda _: fine, 1, what="rows", who="somebody") >= 0.65
        with pytest.warns(IrreproducibleClustersWarning):
            seed_agreement(labels, lambda _: poor, 1, what="rows", who="somebody")

    def test_it_can_be_silenced_and_made_an_error_by_category(self, noise):
        clusterer = OverclusteringKMeans(8, random_state=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore", IrreproducibleClustersWarning)
            clusterer.fit(noise)
        assert not caught
        with warnings.catch_warnings():
            warnings.simplefilter("error", IrreproducibleClustersWarning)
            with pytest.raises(IrreproducibleClustersWarning):
                clusterer.fit(noise)
