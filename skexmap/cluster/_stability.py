"""How stable clusters are on other samples."""

from math import ceil
from numbers import Integral

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_array, check_random_state, get_tags
from sklearn.utils.validation import _num_samples

from skexmap._blocks import detached
from skexmap._validation import check_one_label_each, warn
from skexmap.exceptions import ClusteringWarning

# Steinley's and Hennig's limits, see `cluster_stability`.
GOOD_ARI, POOR_ARI = 0.80, 0.65
GOOD_JACCARD, POOR_JACCARD = 0.75, 0.60


def cluster_stability(estimator, X, y=None, *, n_resamples=20, fraction=0.8, random_state=None, n_jobs=None):
    """Cluster subsamples of X, and measure how well the clusters of X are found again.

    Parameters
    ----------
    estimator : clusterer, labeler, or fitted ExMapClassifier, Pipeline or search
        Anything with `fit_predict`, of which clones are fitted. Of a fitted `ExMapClassifier`, the labeler is judged;
        of a fitted pipeline that ends in a classifier, the last step but one. The steps before it transform X once. Of
        a fitted search, the best estimator is judged.
    X : array-like or structured ndarray of n_samples rows
        What to cluster, in any form that the estimator accepts. For an estimator with the tag ``pairwise``, such as
        scikit-learn's clusterers of precomputed matrices, a subsample selects both rows and columns.
    y : array-like of shape (n_samples,), default=None
        Class of each row, which labelers need. Clusters that were formed inside each class are compared as groups.
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
    stability : Bunch
        With the entries, also available as attributes,

        ``verdict`` : str
            "do not trust" if the mean adjusted Rand index is below 0.65 ("poor" by Steinley [1]_) or a cluster has a
            mean overlap below 0.6 ("should not be trusted" by Hennig [2]_) or is in no subsample; "stable" if they
            reach 0.80 ("good") and, for every cluster, 0.75 ("valid, stable"); "doubtful" in between.
        ``summary`` : str
            The verdict and its reasons. If clusters of a labeler were merged or dropped by hand, it says that those
            that the labeler finds by itself are judged.
        ``adjusted_rand_indices``, ``mean_adjusted_rand_index`` : ndarray of shape (n_resamples,), and float
            Agreement of each subsample's clusters with those of all rows: 1 means identical, 0 means chance.
        ``jaccards``, ``mean_jaccards`` : ndarrays of shape (n_resamples, n_clusters) and (n_clusters,)
            For each cluster of all rows, its overlap (intersection over union) with the most similar cluster of each
            subsample; NaN if the subsample holds none of its rows. The means leave NaN out.
        ``n_clusters``, ``n_clusters_of_all`` : ndarray of shape (n_resamples,), and int
            Number of clusters found in each subsample, and in all rows.
        ``n_clusters_agreement`` : float
            Share of the subsamples in which as many clusters were found as in all rows.

    Raises
    ------
    ValueError
        If `fraction` does not lie between 0 and 1, if `n_resamples` is not an integer of at least 2, if the estimator
        finds no cluster in X, or if a labeler is passed without y.

    Warns
    -----
    ClusteringWarning
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
    >>> cluster_stability(KMeans(2, n_init=10, random_state=0), X, n_resamples=5, random_state=0).verdict
    'stable'
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} is not a share of the rows. Pass a number between 0 and 1.")
    if not isinstance(n_resamples, Integral) or n_resamples < 2:
        raise ValueError(
            f"n_resamples={n_resamples} is not enough to compare. Pass an integer of at least 2."
        )
    random_state = check_random_state(random_state)
    clusterer, X = _clusterer_and_its_input(estimator, detached(X))
    if not hasattr(X, "shape"):
        X = check_array(X, dtype=None, ensure_2d=False, allow_nd=True, ensure_all_finite=False)
    n_samples = _num_samples(X)
    if y is not None:
        y = check_one_label_each(y, n_samples)
    size = ceil(fraction * n_samples)
    samples = [np.sort(random_state.permutation(n_samples)[:size]) for _ in range(n_resamples)]
    reference = clusters_found(clusterer, X, y)
    if reference.max() < 0:
        raise ValueError(
            f"{type(clusterer).__name__} put all {n_samples} rows at -1 ('belongs to none'), so no cluster can be "
            "judged. Change its parameters."
        )
    found = Parallel(n_jobs=n_jobs)(delayed(clusters_found)(clusterer, X, y, sample) for sample in samples)
    stability = judged(
        np.array(
            [adjusted_rand_score(reference[s], labels) for s, labels in zip(samples, found, strict=True)]
        ),
        np.array([jaccards(reference, s, labels) for s, labels in zip(samples, found, strict=True)]),
        np.array([len(np.unique(labels[labels >= 0])) for labels in found]),
        len(np.unique(reference[reference >= 0])),
    )
    if getattr(clusterer, "_changed_by_hand", False):
        stability.summary += " Clusters that were merged or dropped by hand are judged as they were found."
    if stability.verdict == "do not trust":
        warn(
            f"The clusters of {type(clusterer).__name__} on {n_samples} rows are unstable: {stability.summary} Ask for "
            "fewer clusters, look at other maps (another size or layer), or pass more images.",
            ClusteringWarning,
        )
    return stability


def _clusterer_and_its_input(estimator, X):
    """Return the clusterer in an estimator, and X as the clusterer sees it."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "labeler_"):
        return estimator.labeler_, estimator.transformer_.transform(X)
    if isinstance(estimator, Pipeline) and not hasattr(estimator, "fit_predict"):
        return estimator[-2], estimator[:-2].transform(X)
    if not hasattr(estimator, "fit_predict"):
        raise TypeError(
            f"{type(estimator).__name__} has no `fit_predict`. Pass a clusterer, a labeler, an ExMapClassifier fitted "
            "without `group_labels`, or a fitted pipeline of heatmaps, a clusterer and a classifier."
        )
    return estimator, X


def clusters_found(estimator, X, y=None, sample=None):
    """Return the clusters that a clone finds in some rows of X; a labeler's clusters inside each class as groups."""
    estimator = clone(estimator)
    if sample is not None:
        y = None if y is None else y[sample]
        X = X.iloc[sample] if hasattr(X, "iloc") else X[sample]
        if get_tags(estimator).input_tags.pairwise:
            X = X.iloc[:, sample] if hasattr(X, "iloc") else X[:, sample]
    if not get_tags(estimator).target_tags.required:
        return np.asarray(estimator.fit_predict(X))
    if y is None:
        raise ValueError(f"{type(estimator).__name__} needs the class of each row. Pass y.")
    if "n_seed_checks" in estimator.get_params():
        estimator.set_params(n_seed_checks=0)
    estimator.fit(X, y)
    return (
        estimator.cluster_labels_ if getattr(estimator, "scope", "") == "global" else estimator.group_labels_
    )


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


def mean_jaccards(overlaps):
    """Return the mean overlap of each cluster over the samples that hold it; NaN if none does."""
    held = ~np.isnan(overlaps)
    n_held = held.sum(axis=0)
    sums = np.where(held, overlaps, 0.0).sum(axis=0)
    return np.divide(sums, n_held, out=np.full(len(sums), np.nan), where=n_held > 0)


def judged(adjusted_rand_indices, overlaps, n_clusters, n_clusters_of_all):
    """Return the result of `cluster_stability`: its arguments, their means, and the verdict."""
    index, kept = float(adjusted_rand_indices.mean()), mean_jaccards(overlaps)
    agreement = float((n_clusters == n_clusters_of_all).mean())
    # `argmin` treats NaN as the smallest number.
    weakest = int(kept.argmin())
    smallest = np.nan_to_num(kept[weakest])
    verdict = "doubtful"
    if index < POOR_ARI or smallest < POOR_JACCARD:
        verdict = "do not trust"
    elif index >= GOOD_ARI and smallest >= GOOD_JACCARD:
        verdict = "stable"
    overlap = f"keeps a Jaccard overlap of {smallest:.2f}"
    if np.isnan(kept[weakest]):
        overlap = "is in no resample"
    return Bunch(
        verdict=verdict,
        summary=f"{verdict}: over {len(n_clusters)} resamples the adjusted Rand index is {index:.2f} on average, the "
        f"weakest cluster ({weakest}) {overlap}, and {agreement:.0%} of the resamples have {n_clusters_of_all} "
        "clusters.",
        adjusted_rand_indices=adjusted_rand_indices,
        mean_adjusted_rand_index=index,
        jaccards=overlaps,
        mean_jaccards=kept,
        n_clusters=n_clusters,
        n_clusters_of_all=n_clusters_of_all,
        n_clusters_agreement=agreement,
    )
