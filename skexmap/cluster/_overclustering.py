"""k-means with more clusters than there are groups, on the rows or on few coordinates of them."""

import warnings
from numbers import Integral

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import HEATMAP, gives_missing_no_cluster, leaves_out_missing
from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.cluster._base import ClustererStep
from skexmap.cluster._neighbors import rows_are_identical
from skexmap.cluster._spectrum import renumber_by_size
from skexmap.exceptions import ConstantInputWarning


class OverclusteringKMeans(ClustererStep):
    """k-means with a fixed, or a silhouette-chosen, number of clusters, optionally after a reduction.

    The other clusterers of ExMap's tables [1]_ are k-means, and k-means on a 2-D UMAP, with 2 to 15
    clusters: more than there are groups, so that no group is torn together. GEORGE [2]_ does so with the
    embeddings of each class and chooses the number by the silhouette.

    Parameters
    ----------
    n_clusters : int or tuple of (int, int), default=(2, 15)
        Number of clusters; of a range (both ends included) the number with the highest mean silhouette is
        taken.
    reduce : {"pca", "umap"} or None, default=None
        What to cluster: the rows, their first principal components, or their UMAP (needs umap-learn:
        ``pip install umap-learn``).
    n_components : int, default=2
        Number of coordinates that `reduce` leaves; rows that have no more are clustered as they are.
    batch_size : int or None, default=None
        None: scikit-learn's `KMeans`. A number: `MiniBatchKMeans` with batches of that size.
    n_init : int, default=10
        Number of starts of k-means, of which the best is kept.
    silhouette_size : int, default=2000
        Rows that the silhouette is computed on, at most; it takes their number squared.
    random_state : int, RandomState instance or None, default=None
        Starts k-means and UMAP, and draws the rows for the silhouette.
    n_seed_checks : int, default=1
        How many other seeds the clusters are compared with, at the cost of one more fit each. 0 saves the time.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int64
        Cluster of each training row. Cluster 0 is the largest; equal sizes are ordered by their first
        member.
    n_clusters_ : int
        Number of clusters.
    silhouettes_ : dict of int to float
        Mean silhouette of every number of clusters tried; empty for an integer `n_clusters`.
    seed_agreement_ : float or None
        Mean adjusted Rand index of the clusters with those under the other seeds: 1 is the same, 0 is chance. None
        if there was nothing to compare.
    kmeans_ : KMeans or MiniBatchKMeans
        The fitted k-means, with its own numbering.
    reducer_ : PCA, umap.UMAP or None
        The fitted reduction.
    n_features_in_ : int
        Number of features (of one flattened heatmap).
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, when X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: for NaN or infinite values, a range that is empty or not of integers, or more clusters than rows.
    ImportError
        In `fit`: if ``reduce="umap"`` and umap-learn is not installed.

    Warns
    -----
    ConstantInputWarning
        If all rows are identical: there is one cluster then, whatever was asked for.
    IrreproducibleClustersWarning
        If `seed_agreement_` is below 0.65, which Steinley calls poor (see `cluster_stability`).

    See Also
    --------
    EigengapSpectralClustering : Reads the number of clusters off the spectrum.
    skexmap.groups.PseudoGroupLabeler : Turns clusters into pseudo-groups; around this one, with ``reduce="umap"``,
        ``scope="local"`` and ``block="embedding"``, it is GEORGE.

    Notes
    -----
    UMAP places new rows by an optimisation of its own: `predict` returns the labels of `fit` for rows of
    the training set, but another row may go elsewhere than it would have in `fit`.

    References
    ----------
    .. [1] R. Chakraborty, A. Sletten, M. Kampffmeyer, "ExMap: Leveraging Explainability Heatmaps for
       Unsupervised Group Robustness to Spurious Correlations", CVPR 2024, arXiv:2403.13870.
    .. [2] N. Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained
       Classification Problems", NeurIPS 2020, arXiv:2011.12945.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skexmap.cluster import OverclusteringKMeans
    >>> X, _ = make_blobs([300, 200, 100], n_features=20, random_state=0)
    >>> clusterer = OverclusteringKMeans(n_clusters=(2, 6), random_state=0).fit(X)
    >>> clusterer.n_clusters_
    3
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "reduce": [StrOptions({"pca", "umap"}), None],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "silhouette_size": [Interval(Integral, 10, None, closed="left")],
        "random_state": ["random_state"],
        "n_seed_checks": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters=(2, 15),
        *,
        reduce=None,
        n_components=2,
        batch_size=None,
        n_init=10,
        silhouette_size=2000,
        random_state=None,
        n_seed_checks=1,
    ):
        self.n_clusters = n_clusters
        self.reduce = reduce
        self.n_components = n_components
        self.batch_size = batch_size
        self.n_init = n_init
        self.silhouette_size = silhouette_size
        self.random_state = random_state
        self.n_seed_checks = n_seed_checks

    @_fit_context(prefer_skip_nested_validation=True)
    @leaves_out_missing(HEATMAP, fill={"labels_": -1})
    def fit(self, X, y=None):
        """Cluster the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with the block \
                ``heatmap``
            What to cluster.
        y : None
            Ignored.

        Returns
        -------
        self : OverclusteringKMeans
        """
        rows = self._read_rows(X, reset=True)
        fewest, most = self._range(len(rows))
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        points = self._fit_reducer(rows, seed)
        self.silhouettes_ = {}
        if rows_are_identical(rows):
            warnings.warn(f"All {len(rows)} rows are identical: they form one cluster.", ConstantInputWarning)
            fewest = most = 1
        candidates = [self._kmeans(k, seed).fit(points) for k in range(fewest, most + 1)]
        if len(candidates) > 1:
            self.silhouettes_ = {
                kmeans.n_clusters: mean_silhouette(points, kmeans.labels_, self.silhouette_size, seed)
                for kmeans in candidates
            }
            best = max(self.silhouettes_, key=self.silhouettes_.get)
            candidates = [kmeans for kmeans in candidates if kmeans.n_clusters == best]
        self.kmeans_ = candidates[0]
        self.labels_ = self._labels_of_rows = renumber_by_size(self.kmeans_.labels_)
        self.n_clusters_ = int(self.labels_.max()) + 1
        compare = self.n_seed_checks and most > 1
        self.seed_agreement_ = self._check_seeds(rows, self.labels_) if compare else None
        # k-means' number -> ours; a cluster that no training row fell into belongs to none.
        self._numbers = np.full(self.kmeans_.n_clusters, -1, dtype=np.int64)
        self._numbers[self.kmeans_.labels_] = self.labels_
        self._places = {} if self.reduce != "umap" else {row.tobytes(): i for i, row in enumerate(rows)}
        self._learn_output(X)
        return self

    @gives_missing_no_cluster(HEATMAP)
    def predict(self, X):
        """Return the cluster of each row of X: that of the nearest centre.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with the block \
                ``heatmap``
            New rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int64
        """
        check_is_fitted(self)
        rows = self._read_rows(X, reset=False)
        labels = np.empty(len(rows), dtype=np.int64)
        known = np.full(len(rows), -1, dtype=np.int64)
        if self._places:
            known = np.array([self._places.get(row.tobytes(), -1) for row in rows], dtype=np.int64)
        labels[known >= 0] = self._labels_of_rows[known[known >= 0]]
        if (known < 0).any():
            new = rows[known < 0]
            points = new if self.reducer_ is None else self.reducer_.transform(new)
            labels[known < 0] = self._numbers[self.kmeans_.predict(points.astype(self._dtype, copy=False))]
        return labels

    def _range(self, n_samples):
        if isinstance(self.n_clusters, Integral):
            fewest = most = self.n_clusters
        elif len(self.n_clusters) == 2 and all(isinstance(end, Integral) for end in self.n_clusters):
            fewest, most = self.n_clusters
        else:
            raise ValueError(f"n_clusters={self.n_clusters} is no range. Pass (fewest, most), or one number.")
        if not 1 <= fewest <= most:
            raise ValueError(
                f"n_clusters={self.n_clusters} is an empty range. Pass (fewest, most), or one number."
            )
        if fewest > n_samples:
            raise ValueError(
                f"n_clusters={self.n_clusters} is too many for {n_samples} samples. Lower it or pass more."
            )
        if fewest < most:
            # A silhouette needs at least 2 clusters, and a cluster with 2 rows.
            most = max(fewest, min(most, n_samples - 1))
        return fewest, most

    def _fit_reducer(self, rows, seed):
        self.reducer_ = None
        if self.reduce is not None and self.n_components < min(rows.shape):
            self.reducer_ = REDUCERS[self.reduce](self.n_components, seed)
        points = rows if self.reducer_ is None else self.reducer_.fit_transform(rows)
        self._dtype = points.dtype
        return points

    def _kmeans(self, n_clusters, seed):
        shared = {"n_clusters": n_clusters, "n_init": self.n_init, "random_state": seed}
        if self.batch_size is None:
            return KMeans(**shared)
        return MiniBatchKMeans(batch_size=self.batch_size, **shared)


def mean_silhouette(points, labels, size, seed):
    """Return the mean silhouette of at most `size` rows; -1 where one cluster or only singletons are
    left.
    """
    rows = np.random.RandomState(seed).permutation(len(points))[:size]
    n_labels = len(np.unique(labels[rows]))
    if not 1 < n_labels < len(rows):
        return -1.0
    return float(silhouette_score(points[rows], labels[rows]))


def pca_reducer(n_components, seed):
    """Return an unfitted PCA."""
    # Arrays, whatever `sklearn.set_config` asks of the transformers that the user sees.
    return PCA(n_components, random_state=seed).set_output(transform="default")


def umap_reducer(n_components, seed):
    """Return an unfitted UMAP."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "reduce='umap' needs umap-learn. Install it with `pip install umap-learn`, or use reduce='pca'."
        ) from error
    # A seed makes UMAP run on one thread; said so, it need not warn.
    return UMAP(n_components=n_components, random_state=seed, n_jobs=1)


REDUCERS = {"pca": pca_reducer, "umap": umap_reducer}
