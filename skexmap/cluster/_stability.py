"""How stable clusters are: on other samples, and under another seed."""

import warnings
from dataclasses import dataclass
from math import ceil
from numbers import Integral

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import _num_samples

from skexmap.exceptions import IrreproducibleClustersWarning

# Steinley's and Hennig's limits, see `cluster_stability`.
GOOD_ARI, POOR_ARI = 0.80, 0.65
GOOD_JACCARD, POOR_JACCARD = 0.75, 0.60


@dataclass(frozen=True)
class ClusterStability:
    """Result of `cluster_stability`.

    Attributes
    ----------
    adjusted_rand_indices : ndarray of shape (n_resamples,)
        Agreement of each resample's clusters with those of all rows: 1 means identical, 0 means chance.
    jaccards : ndarray of shape (n_resamples, n_clusters)
        For each cluster of all rows, its overlap (intersection over union) with the most similar cluster
        of each resample; NaN if the resample holds none of its rows.
    n_clusters : ndarray of shape (n_resamples,), int64
        Number of clusters found in each resample.
    n_clusters_of_all : int
        Number of clusters found in all rows.
    """

    adjusted_rand_indices: np.ndarray
    jaccards: np.ndarray
    n_clusters: np.ndarray
    n_clusters_of_all: int

    @property
    def mean_adjusted_rand_index(self):
        """Mean agreement with the clusters of all rows."""
        return float(self.adjusted_rand_indices.mean())

    @property
    def mean_jaccards(self):
        """Mean overlap of each cluster, ndarray of shape (n_clusters,); NaN if no resample holds any of it."""
        held = ~np.isnan(self.jaccards)
        n_held = held.sum(axis=0)
        sums = np.where(held, self.jaccards, 0.0).sum(axis=0)
        return np.divide(sums, n_held, out=np.full(len(sums), np.nan), where=n_held > 0)

    @property
    def n_clusters_agreement(self):
        """Share of the resamples in which as many clusters were found as in all rows."""
        return float((self.n_clusters == self.n_clusters_of_all).mean())

    @property
    def verdict(self):
        """One of "stable", "doubtful" and "do not trust"; the last if no resample holds a cluster."""
        weakest = np.nan_to_num(self.mean_jaccards).min()
        if self.mean_adjusted_rand_index < POOR_ARI or weakest < POOR_JACCARD:
            return "do not trust"
        if self.mean_adjusted_rand_index < GOOD_ARI or weakest < GOOD_JACCARD:
            return "doubtful"
        return "stable"

    def __str__(self):
        # `argmin` treats NaN as the smallest number.
        weakest = int(self.mean_jaccards.argmin())
        kept = self.mean_jaccards[weakest]
        overlap = "is in no resample" if np.isnan(kept) else f"keeps a Jaccard overlap of {kept:.2f}"
        return (
            f"{self.verdict}: over {len(self.n_clusters)} resamples the adjusted Rand index is "
            f"{self.mean_adjusted_rand_index:.2f} on average, the weakest cluster ({weakest}) {overlap}, and "
            f"{self.n_clusters_agreement:.0%} of the resamples have {self.n_clusters_of_all} clusters."
        )


def cluster_stability(estimator, X, *, n_resamples=20, fraction=0.8, random_state=None, n_jobs=None):
    """Cluster subsamples of X, and measure how well the clusters of X are found again.

    Parameters
    ----------
    estimator : clusterer
        Anything with `fit_predict`; clones of it are fitted.
    X : array-like or structured ndarray of n_samples rows
        What to cluster, in any form that the estimator accepts. For an estimator with the tag ``pairwise``, such as
        scikit-learn's clusterers of precomputed matrices, a subsample selects both rows and columns.
    n_resamples : int, default=20
        Number of subsamples.
    fraction : float, default=0.8
        Share of the rows in a subsample. Rows are drawn without replacement, because copies of a row would be each
        other's neighbors.
    random_state : int, RandomState instance or None, default=None
        Draws the subsamples.
    n_jobs : int, default=None
        Number of subsamples that are clustered in parallel.

    Returns
    -------
    stability : ClusterStability
        ``print`` it for a summary. Its `verdict` is

        - "do not trust" if the mean adjusted Rand index is below 0.65 ("poor" by Steinley [1]_) or a
          cluster has a mean overlap below 0.6 ("should not be trusted" by Hennig [2]_),
        - "stable" if they reach 0.80 ("good") and, for every cluster, 0.75 ("valid, stable"),
        - "doubtful" in between.

    Raises
    ------
    ValueError
        If `fraction` does not lie between 0 and 1, if `n_resamples` is not an integer of at least 2, or if the
        estimator finds no cluster in X.

    Warns
    -----
    IrreproducibleClustersWarning
        If the verdict is "do not trust".

    Notes
    -----
    Stable clusters need not be meaningful: an algorithm may split rows without any clusters at the same
    place each time. Unstable clusters are not meaningful. The clusters are judged one by one, because the smallest one,
    the group that matters, hardly changes the adjusted Rand index.

    Rows marked -1 count as one more cluster in the adjusted Rand index, and have no Jaccard overlap.

    References
    ----------
    .. [1] D. Steinley, "Properties of the Hubert-Arabie adjusted Rand index", Psychological Methods 9(3),
       2004.
    .. [2] C. Hennig, "Cluster-wise assessment of cluster stability", Computational Statistics & Data
       Analysis 52(1), 2007, and the documentation of ``clusterboot`` in his R package fpc.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn.cluster import KMeans
    >>> from skexmap.cluster import cluster_stability
    >>> X, _ = make_blobs([60, 40], n_features=5, random_state=0)
    >>> two, nine = (KMeans(k, n_init=10, random_state=0) for k in (2, 9))
    >>> cluster_stability(two, X, n_resamples=5, random_state=0).verdict
    'stable'
    >>> import warnings
    >>> from skexmap.exceptions import IrreproducibleClustersWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", IrreproducibleClustersWarning)
    ...     cluster_stability(nine, X, n_resamples=5, random_state=0).verdict
    'do not trust'
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} is not a share of the rows. Pass a number between 0 and 1.")
    if not isinstance(n_resamples, Integral) or n_resamples < 2:
        raise ValueError(
            f"n_resamples={n_resamples} is not enough to compare. Pass an integer of at least 2."
        )
    random_state = check_random_state(random_state)
    n_samples = _num_samples(X)
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    size = ceil(fraction * n_samples)
    samples = [np.sort(random_state.permutation(n_samples)[:size]) for _ in range(n_resamples)]
    reference = np.asarray(clone(estimator).fit_predict(X))
    if reference.max() < 0:
        raise ValueError(
            f"{type(estimator).__name__} put all {n_samples} rows at -1 ('belongs to none'), so no cluster can be "
            "judged. Change its parameters."
        )
    found = Parallel(n_jobs=n_jobs)(
        delayed(labels_of_sample)(clone(estimator), X, sample) for sample in samples
    )
    stability = ClusterStability(
        np.array(
            [adjusted_rand_score(reference[s], labels) for s, labels in zip(samples, found, strict=True)]
        ),
        np.array([jaccards(reference, s, labels) for s, labels in zip(samples, found, strict=True)]),
        np.array([len(np.unique(labels[labels >= 0])) for labels in found]),
        len(np.unique(reference[reference >= 0])),
    )
    if stability.verdict == "do not trust":
        warnings.warn(
            f"The clusters of {type(estimator).__name__} on {n_samples} rows are unstable: {stability} Ask for fewer "
            "clusters, look at other maps (another size or layer), or pass more images.",
            IrreproducibleClustersWarning,
            stacklevel=2,
        )
    return stability


def labels_of_sample(estimator, X, sample):
    """Return the clusters that an estimator finds in some rows of X."""
    rows = X.iloc[sample] if hasattr(X, "iloc") else X[sample]
    if get_tags(estimator).input_tags.pairwise:
        rows = rows.iloc[:, sample] if hasattr(rows, "iloc") else rows[:, sample]
    return np.asarray(estimator.fit_predict(rows))


def jaccards(reference, sample, labels):
    """Return, for each reference cluster, its largest Jaccard overlap with a cluster of the sample."""
    # The value is NaN for a cluster without rows in the sample. `labels` are the clusters of the rows `sample`.
    overlaps = []
    for cluster in np.unique(reference[reference >= 0]):
        members = reference[sample] == cluster
        others = [labels == label for label in np.unique(labels[labels >= 0])]
        best = max(((members & other).sum() / (members | other).sum() for other in others), default=0.0)
        overlaps.append(best if members.any() else np.nan)
    return np.array(overlaps)


def seed_agreement(labels, cluster_again, n_seeds, *, rows_name, clusterer_name):
    """Return the mean adjusted Rand index of labels with the clusters under other seeds; warn if it is poor."""
    # `cluster_again` maps a seed to the clusters found with it.
    # Use fixed seeds: fits stay reproducible and the user's random state is untouched.
    seeds = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=n_seeds).tolist()
    agreement = float(np.mean([adjusted_rand_score(labels, cluster_again(seed)) for seed in seeds]))
    if agreement < POOR_ARI:
        warnings.warn(
            f"The clusters of {rows_name} barely reproduce: under {n_seeds} other seed{'s' * (n_seeds > 1)}, "
            f"{clusterer_name} finds clusters with an adjusted Rand index of {agreement:.2f} to these (1 is the same, "
            f"0 is chance, less than {POOR_ARI} is poor). So the pseudo-groups depend on the seed. Ask for fewer "
            "clusters or more starts (`n_init`), use EigengapSpectralClustering with exact neighbors, or see "
            "`skexmap.cluster.cluster_stability`. `n_seed_checks=0` skips this check.",
            IrreproducibleClustersWarning,
        )
    return agreement
