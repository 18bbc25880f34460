"""Spectral clustering that chooses the number of clusters by the eigengap."""

from numbers import Integral

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import HEATMAP
from skexmap._validation import HasMethods, Interval, StrOptions, _fit_context, warn
from skexmap.cluster._cluster_block import (
    ClusterBlockMixin,
    checked_rows,
    columns_with_cluster,
    flat_block,
    in_safe_range,
    replace_heatmap_by_cluster,
)
from skexmap.cluster._cluster_labels import keep_largest, renumber_by_size
from skexmap.cluster._neighbor_graph import log_neighbors, nearest_in_graph, symmetric_graph, vote
from skexmap.cluster._neighbors import nearest_rows, rows_are_identical
from skexmap.cluster._spectrum import cluster_qr, clusters_at_widest_gap, graph_spectrum, runner_up
from skexmap.exceptions import ClusteringWarning


class EigengapSpectralClustering(ClusterMixin, ClusterBlockMixin, BaseEstimator):
    """Spectral clustering whose number of clusters is read off the spectrum.

    A graph joins every row to its nearest neighbors. The number of clusters is the number of eigenvalues of its
    normalized Laplacian before the widest gap. The eigenvectors of those eigenvalues, from the same decomposition, give
    the labels by cluster-QR. This is the clusterer of ExMap [1]_.

    Parameters
    ----------
    n_clusters : int or "eigengap", default="eigengap"
        Number of clusters; ``"eigengap"`` chooses it between `min_clusters` and `max_clusters`.
    min_clusters : int, default=2
        Smallest number that the eigengap may choose. With 1, it may find that all rows form one cluster.
    max_clusters : int, default=10
        Largest number that the eigengap may choose; ``max_clusters + 1`` eigenvalues are computed. If the graph has
        more connected components than this, each component is a cluster, with a warning.
    n_neighbors : int or "log", default="log"
        Number of neighbors of a row in the graph, including the row itself. ``"log"`` is floor(ln n), at least 2.
    neighbors : transformer or None, default=None
        How the neighbors are searched. None finds the neighbors of an exact float64 search, in less time. A transformer
        must return a sparse graph of distances, as `sklearn.neighbors.KNeighborsTransformer(mode="distance")` does; the
        `n_neighbors` nearest are used. It allows any other metric, an approximate search
        (``pynndescent.PyNNDescentTransformer``, ``pip install pynndescent``), or a pipeline that ends in one. A clone
        of it is fitted.
    random_state : int, RandomState instance or None, default=None
        Draws the starting vectors of the eigensolver. Pass an int for bitwise reproducible results; the clusters do not
        depend on it. It is not passed to a transformer in `neighbors`.
    n_jobs : int, default=None
        Number of threads of the exact search; None uses as many as the BLAS library may use. The result does not depend
        on it. It is not passed to a transformer in `neighbors`.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int64
        Cluster of each training row. Cluster 0 is the largest; equal sizes are ordered by their first
        member.
    n_clusters_ : int
        Number of clusters.
    eigenvalues_ : ndarray of shape (n_eigenvalues,)
        The smallest eigenvalues of the normalized Laplacian, ascending, between 0 and 2: ``max_clusters +
        1`` of them (more for a larger `n_clusters`, fewer for fewer rows).
    eigengaps_ : ndarray of shape (n_eigenvalues - 1,)
        Differences of the eigenvalues; ``eigengaps_[k - 1]`` is the gap after k clusters.
    runner_up_n_clusters_ : int or None
        The number of clusters with the widest gap among the numbers *not* chosen, within the allowed
        range; None if nothing else was possible.
    eigengap_margin_ : float
        How clear the choice is: the chosen gap minus the runner-up's, divided by the wider of the two. 1 is clear and 0
        is a tie. A negative value means that the eigengap would not have chosen the given `n_clusters`.
    affinity_matrix_ : csr_array of shape (n_samples, n_samples)
        The graph: 1 if each of two rows is among the neighbors of the other, 1/2 if only one is.
    n_connected_components_ : int
        Number of connected components of the graph.
    n_neighbors_ : int
        Number of neighbors used, including the row itself.
    neighbors_ : transformer or None
        The fitted clone of `neighbors`.
    n_features_in_ : int
        Number of features (of one flattened heatmap).
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: for NaN or infinite values, or a largest absolute value that is not 0 and outside 1e-140 to 1e150,
        fewer rows than `n_neighbors`, ``min_clusters > max_clusters``, fewer rows than clusters,
        a transformer that finds too few neighbors, or `n_jobs` together with a transformer.
    TypeError
        If `neighbors` returns a dense graph.
    numpy.linalg.LinAlgError
        If no eigensolver converges.

    Warns
    -----
    ClusteringWarning
        If the graph has more connected components than the allowed number of clusters, or if all rows are identical:
        they form one cluster, regardless of the parameters.

    See Also
    --------
    sklearn.cluster.SpectralClustering : Needs the number of clusters; does not predict.
    skexmap.groups.PseudoGroupLabeler : Turns clusters into pseudo-groups.

    Notes
    -----
    As in scikit-learn's `SpectralClustering`, a row counts as its own neighbor, the affinity is
    ``(A + A^T) / 2``, and cluster-QR works on the eigenvectors divided by the square root of the degree.

    A graph with C connected components has the eigenvalue 0 exactly C times, and any gap among those zeros is rounding
    noise. So the components are counted first, their eigenvectors are known in closed form, and the other eigenvalues
    are computed inside each component. The widest gap cannot lie before C.

    If an integer `n_clusters` is smaller than the number of components, the `n_clusters` largest components are kept.
    Every other component is merged, as a whole, into the one with the nearest mean row.

    Another `random_state` gives the same clusters, even on rows without any structure. It only starts the eigensolver,
    whose residuals are checked, and cluster-QR is deterministic. `cluster_stability` measures whether the clusters are
    found again on other *samples*.

    References
    ----------
    .. [1] R. Chakraborty, A. Sletten, M. Kampffmeyer, "ExMap: Leveraging Explainability Heatmaps for
       Unsupervised Group Robustness to Spurious Correlations", CVPR 2024, arXiv:2403.13870.
    .. [2] U. von Luxburg, "A tutorial on spectral clustering", Statistics and Computing 17(4), 2007,
       section 8.3 (the eigengap).

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skexmap.cluster import EigengapSpectralClustering
    >>> X, _ = make_blobs([300, 200, 100], n_features=20, random_state=0)
    >>> clusterer = EigengapSpectralClustering().fit(X)
    >>> clusterer.n_clusters_
    3
    >>> clusterer.predict(X[:5])
    array([0, 2, 2, 2, 0])

    Find neighbors by the angle between rows instead of their distance:

    >>> from sklearn.neighbors import KNeighborsTransformer
    >>> cosine = KNeighborsTransformer(n_neighbors=10, metric="cosine")
    >>> EigengapSpectralClustering(neighbors=cosine).fit(X).n_clusters_
    3
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left"), StrOptions({"eigengap"})],
        "min_clusters": [Interval(Integral, 1, None, closed="left")],
        "max_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 2, None, closed="left"), StrOptions({"log"})],
        "neighbors": [HasMethods(["fit_transform", "transform"]), None],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        n_clusters="eigengap",
        *,
        min_clusters=2,
        max_clusters=10,
        n_neighbors="log",
        neighbors=None,
        random_state=None,
        n_jobs=None,
    ):
        self.n_clusters = n_clusters
        self.min_clusters = min_clusters
        self.max_clusters = max_clusters
        self.n_neighbors = n_neighbors
        self.neighbors = neighbors
        self.random_state = random_state
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=False)
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
        self : EigengapSpectralClustering
        """
        rows = self._validate_rows(X, reset=True)
        n_eigenvalues = self._check_numbers(len(rows))
        self.n_neighbors_ = log_neighbors(len(rows)) if self.n_neighbors == "log" else int(self.n_neighbors)
        self._rows = rows
        self.neighbors_, neighbors = self._fit_neighbors(rows)
        self.affinity_matrix_ = symmetric_graph(neighbors)
        self.eigenvalues_, embedding, components = graph_spectrum(
            self.affinity_matrix_, n_eigenvalues, check_random_state(self.random_state)
        )
        self.eigengaps_ = np.diff(self.eigenvalues_)
        self.n_connected_components_ = int(components.max()) + 1
        n_clusters, self.runner_up_n_clusters_, self.eigengap_margin_ = self._choose_n_clusters(rows)
        if n_clusters == 1:
            labels = np.zeros(len(rows), dtype=np.int64)
        elif n_clusters > self.n_connected_components_:
            labels = cluster_qr(embedding[:, :n_clusters])
        else:
            # The eigenvectors of the eigenvalue 0 only encode the components, so they are the clusters.
            labels = keep_largest(components, n_clusters, rows)
        self.labels_ = renumber_by_size(labels)
        self.n_clusters_ = int(self.labels_.max()) + 1
        self._columns_out = columns_with_cluster(X, self.labels_)
        return self

    def predict(self, X):
        """Return the cluster of each row of X, by a vote of its nearest training rows.

        A training row keeps its own cluster. In a tie, the nearest rows decide.

        Parameters
        ----------
        X : as for `fit`
            New rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int64
        """
        check_is_fitted(self)
        rows = self._validate_rows(X, reset=False)
        neighbors = self._nearest_training_rows(rows)
        is_nearest = [(self._rows[i] == row).all() for i, row in zip(neighbors[:, 0], rows, strict=True)]
        labels = self.labels_[neighbors]
        return np.where(is_nearest, labels[:, 0], vote(labels))

    def fit_transform(self, X, y=None):
        """Cluster the rows of X and replace them by their clusters, `labels_`.

        Parameters
        ----------
        X : as for `fit`
            What to cluster.
        y : None
            Ignored.

        Returns
        -------
        X_out : as `transform` returns it
        """
        self.fit(X, y)
        return replace_heatmap_by_cluster(self, X, self.labels_)

    def _clusters_of(self, X):
        return self.predict(X)

    def _validate_rows(self, X, *, reset):
        rows = flat_block(X, HEATMAP, required_by=self)
        rows = checked_rows(self, rows, reset=reset)
        return in_safe_range(rows, type(self).__name__, fitting=reset)

    def _check_numbers(self, n_samples):
        """Check the parameters against the number of rows; return how many eigenvalues to compute."""
        if self.min_clusters > self.max_clusters:
            raise ValueError(
                f"min_clusters={self.min_clusters} is greater than max_clusters={self.max_clusters}. "
                "Lower `min_clusters` or raise `max_clusters`."
            )
        given = self.n_clusters != "eigengap"
        fewest = self.n_clusters if given else self.min_clusters
        # The eigengap needs one more eigenvalue than clusters.
        if fewest > n_samples - (not given):
            name = "n_clusters" if given else "min_clusters"
            raise ValueError(
                f"{name}={fewest} is too large for {n_samples} samples. Lower it or pass more samples."
            )
        if self.n_neighbors != "log" and self.n_neighbors > n_samples:
            raise ValueError(
                f"n_neighbors={self.n_neighbors} counts the row itself and needs at least as many samples, "
                f"got n_samples = {n_samples}. Lower `n_neighbors`."
            )
        if self.neighbors is not None and self.n_jobs is not None:
            raise ValueError(
                f"n_jobs={self.n_jobs} has no effect, because {type(self.neighbors).__name__} searches for the "
                "neighbors. Set the `n_jobs` of that transformer."
            )
        return min(max(self.max_clusters, fewest) + 1, n_samples)

    def _fit_neighbors(self, rows):
        """Return the fitted clone of `neighbors`, and the nearest rows of each row."""
        if self.neighbors is None:
            return None, nearest_rows(rows, self.n_neighbors_, n_jobs=self.n_jobs)
        transformer = clone(self.neighbors)
        # A data frame, which the user may have selected, cannot hold a sparse graph.
        with config_context(transform_output="default"):
            distances = transformer.fit_transform(rows)
        return transformer, nearest_in_graph(distances, self.n_neighbors_ - 1, exclude_self=True)

    def _nearest_training_rows(self, rows):
        if self.neighbors_ is None:
            return nearest_rows(self._rows, self.n_neighbors_, Y=rows, n_jobs=self.n_jobs)
        with config_context(transform_output="default"):
            return nearest_in_graph(self.neighbors_.transform(rows), self.n_neighbors_)

    def _choose_n_clusters(self, rows):
        """Return the number of clusters, the runner-up, and how clear the choice is."""
        given = self.n_clusters != "eigengap"
        limit = self.n_clusters if given else self.max_clusters
        n_components = self.n_connected_components_
        if rows_are_identical(rows):
            warn(f"All {len(rows)} rows are identical: they form one cluster.", ClusteringWarning)
            return 1, None, 1.0
        if n_components > limit:
            how = "the smaller ones join the nearest" if given else "each becomes a cluster"
            name = "n_clusters" if given else "max_clusters"
            warn(
                f"The neighbor graph falls into {n_components} connected components, more than "
                f"{name}={limit}: {how}. Raise `n_neighbors` (now {self.n_neighbors_}) to join them"
                f"{'' if given else ', or `max_clusters` to let the eigengap decide'}.",
                ClusteringWarning,
            )
        if given:
            chosen = self.n_clusters
        elif n_components > limit:
            return n_components, None, 0.0
        else:
            # No cluster spans two components, even if every computed eigenvalue is 0.
            chosen = max(clusters_at_widest_gap(self.eigenvalues_, self.min_clusters), n_components)
        return chosen, *runner_up(self.eigengaps_, chosen, self.min_clusters)
