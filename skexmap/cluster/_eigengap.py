"""Spectral clustering that chooses the number of clusters by the eigengap."""

import warnings
from numbers import Integral

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import HEATMAP, gives_missing_no_cluster, leaves_out_missing
from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.cluster._affinity import (
    check_precomputed,
    log_neighbors,
    neighbors_in_graph,
    rbf_affinity,
    strongest_in_affinity,
    symmetric_graph,
)
from skexmap.cluster._base import ClustererStep
from skexmap.cluster._components import merge_into_nearest
from skexmap.cluster._neighbors import nearest_rows, rows_are_identical, vote
from skexmap.cluster._search import fit_search
from skexmap.cluster._spectrum import (
    cluster_qr,
    clusters_at_widest_gap,
    graph_spectrum,
    renumber_by_size,
    runner_up,
)
from skexmap.exceptions import ConstantInputWarning, DisconnectedGraphWarning


class EigengapSpectralClustering(ClustererStep):
    """Spectral clustering whose number of clusters is read off the spectrum.

    A graph joins every row to its nearest neighbours. The smallest eigenvalues of its normalised
    Laplacian tell how many clusters there are: as many as come before the widest gap. The eigenvectors to
    those eigenvalues, from the same decomposition, give the labels by cluster-QR. This is the clusterer
    of ExMap [1]_.

    Parameters
    ----------
    n_clusters : int or "eigengap", default="eigengap"
        Number of clusters; ``"eigengap"`` chooses it between `min_clusters` and `max_clusters`.
    min_clusters : int, default=2
        Smallest number that the eigengap may choose. 1 is allowed: then "there are no clusters" is an
        answer.
    max_clusters : int, default=10
        Largest number that the eigengap may choose; ``max_clusters + 1`` eigenvalues are computed. A
        graph with more connected components than this has as many clusters as components, with a
        `DisconnectedGraphWarning`.
    n_neighbors : int or "log", default="log"
        Neighbours of a row in the graph, the row itself included. ``"log"`` is floor(ln n), at least 2.
    affinity : {"nearest_neighbors", "rbf", "precomputed", "precomputed_nearest_neighbors"}, \
            default="nearest_neighbors"
        How strongly two rows are joined.

        - ``"nearest_neighbors"``: 1 where each of the two is among the `n_neighbors` of the other, 1/2
          where one is.
        - ``"rbf"``: ``exp(-|x - y|^2 / (n_features * X.var()))``; takes memory for n x n numbers.
        - ``"precomputed"``: X is the affinity matrix itself, symmetric and non-negative, dense or sparse.
        - ``"precomputed_nearest_neighbors"``: X is a sparse graph of distances with at least
          ``n_neighbors - 1`` neighbours a row, as `sklearn.neighbors.KNeighborsTransformer` and its many
          approximate look-alikes make them; the ``n_neighbors - 1`` nearest other rows are used.
    neighbors : {"exact", "approximate"}, default="exact"
        How ``affinity="nearest_neighbors"`` searches. ``"exact"`` gives the neighbours of a float64 search;
        ``"approximate"`` uses nearest-neighbour descent and needs pynndescent
        (``pip install pynndescent``).
    projection : {"pca", "random"} or None, default=None
        Search in fewer dimensions: on the first principal axes, or on Gaussian random ones.
        `neighbor_recall_` tells what it cost.
    n_components : int, default=64
        Number of those dimensions; rows that have fewer are searched as they are.
    random_state : int, RandomState instance or None, default=None
        Starts the eigensolver, and draws for projections and approximate neighbours. Pass an int for
        results that repeat to the last bit.
    n_jobs : int, default=None
        Threads of the neighbour search; None is as many as the BLAS library may use. With exact
        neighbours the result does not depend on it.
    n_seed_checks : int, default=1
        How many other seeds the clusters are compared with where
        neighbours are approximate or searched in a projection, at the cost of one more fit each.
        0 saves the time. With exact neighbours nothing is compared (see Notes).

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int64
        Cluster of each training row. Cluster 0 is the largest; equal sizes are ordered by their first
        member.
    n_clusters_ : int
        Number of clusters.
    eigenvalues_ : ndarray of shape (n_eigenvalues,)
        The smallest eigenvalues of the normalised Laplacian, ascending, between 0 and 2: ``max_clusters +
        1`` of them (more for a larger `n_clusters`, fewer for fewer rows).
    eigengaps_ : ndarray of shape (n_eigenvalues - 1,)
        Their differences; ``eigengaps_[k - 1]`` is the gap after k clusters.
    runner_up_n_clusters_ : int or None
        The number of clusters with the widest gap among the numbers *not* chosen, within the allowed
        range; None where nothing else was possible.
    eigengap_margin_ : float
        How clear the choice is: the chosen gap less the runner-up's, over the wider of the two. 1 is
        clear, 0 a toss-up; negative values say that the eigengap would not have chosen the `n_clusters`
        that was given.
    neighbor_recall_ : float
        Share of the true nearest neighbours that the search found, measured on 256 rows; 1 for an exact
        one.
    seed_agreement_ : float or None
        Mean adjusted Rand index of the clusters with those under the other seeds: 1 is the same, 0 is chance. None
        if there was nothing to compare.
    affinity_matrix_ : csr_array or ndarray of shape (n_samples, n_samples)
        The graph.
    n_connected_components_ : int
        Number of parts that the graph falls into.
    n_neighbors_ : int
        Number of neighbours used, the row itself included.
    n_features_in_ : int
        Number of features (of one flattened heatmap).
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, when X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: for NaN or infinite values, fewer rows than `n_neighbors`, ``min_clusters > max_clusters``, fewer
        rows than clusters, a precomputed matrix that is not square, not symmetric or negative, or a graph with too
        few neighbours.
    TypeError
        If a precomputed graph of distances is dense.
    numpy.linalg.LinAlgError
        If no eigensolver converges.

    Warns
    -----
    DisconnectedGraphWarning
        If the graph has more connected components than clusters were allowed.
    ConstantInputWarning
        If all rows are identical: there is one cluster then, whatever was asked for.
    IrreproducibleClustersWarning
        If `seed_agreement_` is below 0.65, which Steinley calls poor (see `cluster_stability`).

    See Also
    --------
    sklearn.cluster.SpectralClustering : Needs the number of clusters; does not predict.
    skexmap.groups.PseudoGroupLabeler : Turns clusters into pseudo-groups.

    Notes
    -----
    As in scikit-learn's `SpectralClustering`, the row counts among its neighbours, the affinity is
    ``(A + A^T) / 2``, and cluster-QR works on the eigenvectors divided by the square root of the degree.

    A graph with C connected components has the eigenvalue 0 exactly C times, and any gap among those
    zeros is rounding noise. So the components are counted first, their eigenvectors are written down, and
    the other eigenvalues are computed inside each component: the widest gap cannot lie before C.

    If the integer `n_clusters` is smaller than the number of components, the `n_clusters` largest components
    stay. Each other component joins, as a whole, the nearest of them: by the mean row, or by the mean affinity
    if X is precomputed.

    With exact neighbours another seed gives the same clusters, even on rows without any structure: it only
    starts the eigensolver, whose pairs are checked, and cluster-QR draws nothing. That they reproduce is then no news;
    `cluster_stability` asks whether they do on other *samples*.

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
    >>> clusterer = EigengapSpectralClustering(random_state=0).fit(X)
    >>> clusterer.n_clusters_
    3
    >>> clusterer.predict(X[:5])
    array([0, 2, 2, 2, 0])
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left"), StrOptions({"eigengap"})],
        "min_clusters": [Interval(Integral, 1, None, closed="left")],
        "max_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 2, None, closed="left"), StrOptions({"log"})],
        "affinity": [
            StrOptions({"nearest_neighbors", "rbf", "precomputed", "precomputed_nearest_neighbors"})
        ],
        "neighbors": [StrOptions({"exact", "approximate"})],
        "projection": [StrOptions({"pca", "random"}), None],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "n_seed_checks": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters="eigengap",
        *,
        min_clusters=2,
        max_clusters=10,
        n_neighbors="log",
        affinity="nearest_neighbors",
        neighbors="exact",
        projection=None,
        n_components=64,
        random_state=None,
        n_jobs=None,
        n_seed_checks=1,
    ):
        self.n_clusters = n_clusters
        self.min_clusters = min_clusters
        self.max_clusters = max_clusters
        self.n_neighbors = n_neighbors
        self.affinity = affinity
        self.neighbors = neighbors
        self.projection = projection
        self.n_components = n_components
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.n_seed_checks = n_seed_checks

    @_fit_context(prefer_skip_nested_validation=True)
    @leaves_out_missing(HEATMAP, fill={"labels_": -1})
    def fit(self, X, y=None):
        """Cluster the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with the block \
                ``heatmap``
            What to cluster; a square matrix with the precomputed affinities.
        y : None
            Ignored.

        Returns
        -------
        self : EigengapSpectralClustering
        """
        rows = self._read_rows(X, reset=True)
        n_eigenvalues = self._n_eigenvalues(rows.shape[0])
        random_state = check_random_state(self.random_state)
        self.affinity_matrix_ = self._fit_affinity(rows, random_state)
        self.eigenvalues_, embedding, components = graph_spectrum(
            self.affinity_matrix_, n_eigenvalues, random_state
        )
        self.eigengaps_ = np.diff(self.eigenvalues_)
        self.n_connected_components_ = int(components.max()) + 1
        n_clusters = self._choose_n_clusters(rows)
        if n_clusters == 1:
            labels = np.zeros(len(components), dtype=np.int64)
        elif n_clusters > self.n_connected_components_:
            labels = cluster_qr(embedding[:, :n_clusters])
        else:
            # The eigenvalue 0 has no preferred eigenvectors but the components themselves.
            surplus = np.arange(n_clusters, self.n_connected_components_)
            where = {"affinity": self.affinity_matrix_} if self._precomputed else {"rows": rows}
            labels = merge_into_nearest(components, surplus, **where) if surplus.size else components
        self.labels_ = self._labels_of_rows = renumber_by_size(labels)
        self.n_clusters_ = int(self.labels_.max()) + 1
        compare = self.n_seed_checks and n_clusters > 1 and self._neighbors_depend_on_seed
        self.seed_agreement_ = self._check_seeds(rows, self.labels_) if compare else None
        self._learn_output(X)
        return self

    @gives_missing_no_cluster(HEATMAP)
    def predict(self, X):
        """Return the cluster of each row of X: the vote of its nearest training rows.

        A row of the training set keeps its own cluster (not where X is precomputed, which cannot tell it). Ties
        go to the nearest. A row whose precomputed affinities are all 0 gets the largest cluster, 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with the block \
                ``heatmap``
            New rows. With ``affinity="precomputed"`` their affinities to the training rows, with
            ``"precomputed_nearest_neighbors"`` the sparse graph of their distances to them.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int64
        """
        check_is_fitted(self)
        rows = self._read_rows(X, reset=False)
        neighbors, found_itself = self._neighbors_among_training_rows(rows)
        labels = vote(self._labels_of_rows[neighbors], neighbors >= 0)
        return np.where(found_itself, self._labels_of_rows[neighbors[:, 0]], labels)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self._precomputed
        tags.input_tags.sparse = self._precomputed
        tags.input_tags.positive_only = self._precomputed
        return tags

    def _read_rows(self, X, *, reset):
        rows = super()._read_rows(X, reset=reset, accept_sparse="csr" if self._precomputed else False)
        if reset and self._precomputed:
            check_precomputed(rows, self.affinity)
        return rows

    @property
    def _precomputed(self):
        return str(self.affinity).startswith("precomputed")

    @property
    def _neighbors_depend_on_seed(self):
        approximate = self.neighbors == "approximate" or self.projection is not None
        return approximate and self.affinity == "nearest_neighbors"

    def _n_eigenvalues(self, n_samples):
        if self.min_clusters > self.max_clusters:
            raise ValueError(
                f"min_clusters={self.min_clusters} is greater than max_clusters={self.max_clusters}. "
                "Lower the one or raise the other."
            )
        given = self.n_clusters != "eigengap"
        fewest = self.n_clusters if given else self.min_clusters
        if fewest > n_samples - (not given):
            name = "n_clusters" if given else "min_clusters"
            raise ValueError(
                f"{name}={fewest} is too large for {n_samples} samples. Lower it or pass more samples."
            )
        most = max(self.max_clusters, fewest)
        return min(most + 1, n_samples)

    def _fit_affinity(self, rows, random_state):
        n_samples = rows.shape[0]
        self.n_neighbors_ = log_neighbors(n_samples) if self.n_neighbors == "log" else int(self.n_neighbors)
        if self.n_neighbors_ > n_samples and self.affinity != "precomputed":
            raise ValueError(
                f"n_neighbors={self.n_neighbors_} counts the row itself and needs at least as many samples, "
                f"got n_samples = {n_samples}. Lower `n_neighbors`."
            )
        self.n_neighbors_ = min(self.n_neighbors_, n_samples)
        self._rows = None if self._precomputed else rows
        self.neighbor_recall_ = 1.0
        if self.affinity == "nearest_neighbors":
            self._search = fit_search(
                rows,
                self.n_neighbors_,
                neighbors=self.neighbors,
                projection=self.projection,
                n_components=self.n_components,
                random_state=random_state,
                n_jobs=self.n_jobs,
            )
            found = self._search.of_training_rows(self.n_neighbors_)
            self.neighbor_recall_ = self._search.recall(found, random_state)
            return symmetric_graph(found, n_samples)
        if self.affinity == "precomputed_nearest_neighbors":
            return symmetric_graph(
                neighbors_in_graph(rows, self.n_neighbors_ - 1, exclude_self=True), n_samples
            )
        if self.affinity == "rbf":
            return rbf_affinity(rows)
        return sparse.csr_array(rows) if sparse.issparse(rows) else rows

    def _choose_n_clusters(self, rows):
        """Return the number of clusters; learn the runner-up and the margin."""
        given = self.n_clusters != "eigengap"
        limit = self.n_clusters if given else self.max_clusters
        n_components = self.n_connected_components_
        self.runner_up_n_clusters_, self.eigengap_margin_ = None, 1.0
        if not self._precomputed and rows_are_identical(rows):
            warnings.warn(
                f"All {rows.shape[0]} rows are identical: they form one cluster.", ConstantInputWarning
            )
            return 1
        if n_components > limit:
            how = "the smaller ones join the nearest" if given else "each becomes a cluster"
            name = "n_clusters" if given else "max_clusters"
            warnings.warn(
                f"The neighbour graph falls into {n_components} connected components, more than "
                f"{name}={limit}: {how}. Raise `n_neighbors` (now {self.n_neighbors_}) to join them"
                f"{'' if given else ', or `max_clusters` to let the eigengap decide'}.",
                DisconnectedGraphWarning,
            )
        if n_components > limit and not given:
            self.eigengap_margin_ = 0.0
            return n_components
        chosen = self.n_clusters
        if not given:
            # No cluster spans two components, even where every eigenvalue computed is 0.
            chosen = max(clusters_at_widest_gap(self.eigenvalues_, self.min_clusters), n_components)
        self.runner_up_n_clusters_, self.eigengap_margin_ = runner_up(
            self.eigengaps_, chosen, self.min_clusters
        )
        return chosen

    def _neighbors_among_training_rows(self, rows):
        """Return the nearest training rows of each row (-1: no more), and whether the first is the row itself."""
        k = self.n_neighbors_
        if self.affinity == "nearest_neighbors":
            neighbors = self._search.of(rows, k)
        elif self.affinity == "rbf":
            # The nearest rows have the largest affinities, also where those of a far row vanish.
            neighbors = nearest_rows(self._rows, k, Y=rows, n_jobs=self.n_jobs)
        elif self.affinity == "precomputed":
            return strongest_in_affinity(rows, k), np.zeros(rows.shape[0], dtype=bool)
        else:
            return neighbors_in_graph(rows, k - 1, exclude_self=False), np.zeros(rows.shape[0], dtype=bool)
        return neighbors, np.array(
            [(self._rows[i] == row).all() for i, row in zip(neighbors[:, 0], rows, strict=True)]
        )
