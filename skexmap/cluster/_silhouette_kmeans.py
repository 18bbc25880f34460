"""k-means that chooses the number of clusters by the silhouette."""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from skexmap._blocks import detached
from skexmap._validation import Interval, _fit_context, warn
from skexmap.cluster._cluster_block import FLOATS, in_safe_range
from skexmap.cluster._cluster_labels import renumber_by_size
from skexmap.cluster._neighbors import rows_are_identical
from skexmap.exceptions import ClusteringWarning

# Largest number of rows for the silhouette, whose cost is quadratic in it.
SILHOUETTE_ROWS = 2000


class SilhouetteKMeans(ClusterMixin, BaseEstimator):
    """k-means whose number of clusters has the highest mean silhouette.

    The other clusterers in the tables of ExMap [1]_ are k-means with 2 to 15 clusters, with and without a 2-D UMAP.
    GEORGE [2]_ clusters the embeddings of each class in this way.

    Parameters
    ----------
    min_clusters : int, default=2
        Smallest number of clusters to try.
    max_clusters : int, default=15
        Largest number of clusters to try, less than the number of rows.
    n_init : int, default=10
        Number of runs of k-means, of which the best is kept.
    random_state : int, RandomState instance or None, default=None
        Seeds k-means and draws the rows (at most 2,000) for the silhouette.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int64
        Cluster of each training row. Cluster 0 is the largest; equal sizes are ordered by their first
        member.
    n_clusters_ : int
        Number of clusters.
    silhouettes_ : dict of int to float
        Mean silhouette for every number of clusters tried; empty if all rows are identical.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X was a data frame and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: for NaN, infinite or extreme values, ``min_clusters > max_clusters``, or at most `min_clusters` rows.

    Warns
    -----
    ClusteringWarning
        If all rows are identical. They form one cluster, regardless of the parameters.

    See Also
    --------
    sklearn.cluster.KMeans : For a given number of clusters.
    EigengapSpectralClustering : Reads the number of clusters off the spectrum.
    skexmap.groups.PseudoGroupLabeler : Turns clusters into pseudo-groups. With this clusterer,
        ``scope="local"`` and ``block="embedding"``, it is GEORGE.

    Notes
    -----
    To cluster a 2-D UMAP of the rows, put it before this clusterer: ``make_pipeline(UMAP(), SilhouetteKMeans())``
    (``pip install umap-learn``).

    There is no `predict`. `PseudoGroupLabeler` gives a new row the cluster of its nearest training row. This also works
    after a UMAP, whose `transform` moves even the training rows.

    References
    ----------
    .. [1] R. Chakraborty, A. Sletten, M. Kampffmeyer, "ExMap: Leveraging Explainability Heatmaps for
       Unsupervised Group Robustness to Spurious Correlations", CVPR 2024, arXiv:2403.13870.
    .. [2] N. Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained
       Classification Problems", NeurIPS 2020, arXiv:2011.12945.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skexmap.cluster import SilhouetteKMeans
    >>> X, _ = make_blobs([300, 200, 100], n_features=20, random_state=0)
    >>> clusterer = SilhouetteKMeans(max_clusters=6, random_state=0).fit(X)
    >>> clusterer.n_clusters_
    3
    """

    _parameter_constraints: dict = {
        "min_clusters": [Interval(Integral, 2, None, closed="left")],
        "max_clusters": [Interval(Integral, 2, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, min_clusters=2, max_clusters=15, *, n_init=10, random_state=None):
        self.min_clusters = min_clusters
        self.max_clusters = max_clusters
        self.n_init = n_init
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Cluster the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What to cluster.
        y : None
            Ignored.

        Returns
        -------
        self : SilhouetteKMeans
        """
        X = validate_data(self, detached(X), dtype=FLOATS, ensure_min_samples=2)
        X = in_safe_range(X, type(self).__name__)
        numbers = self._numbers_to_try(len(X))
        # Every number of clusters uses the same seed, and so the same rows for its silhouette.
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        labels, self.silhouettes_ = np.zeros(len(X), dtype=np.int64), {}
        if rows_are_identical(X):
            warn(f"All {len(X)} rows are identical: they form one cluster.", ClusteringWarning)
        else:
            found = {k: KMeans(k, n_init=self.n_init, random_state=seed).fit_predict(X) for k in numbers}
            self.silhouettes_ = {k: mean_silhouette(X, found[k], seed) for k in numbers}
            labels = found[max(self.silhouettes_, key=self.silhouettes_.get)]
        self.labels_ = renumber_by_size(labels)
        self.n_clusters_ = int(self.labels_.max()) + 1
        return self

    def _numbers_to_try(self, n_samples):
        if self.min_clusters > self.max_clusters:
            raise ValueError(
                f"min_clusters={self.min_clusters} is greater than max_clusters={self.max_clusters}. "
                "Lower `min_clusters` or raise `max_clusters`."
            )
        # A silhouette needs a cluster with at least 2 rows.
        if self.min_clusters >= n_samples:
            raise ValueError(
                f"min_clusters={self.min_clusters} is too large for {n_samples} samples. Lower it or pass more samples."
            )
        return range(self.min_clusters, min(self.max_clusters, n_samples - 1) + 1)


def mean_silhouette(X, labels, seed):
    """Return the mean silhouette of a sample of rows; -1 if it holds one cluster or only singletons."""
    rows = np.random.RandomState(seed).permutation(len(X))[:SILHOUETTE_ROWS]
    n_labels = len(np.unique(labels[rows]))
    if not 1 < n_labels < len(rows):
        return -1.0
    return float(silhouette_score(X[rows], labels[rows]))
