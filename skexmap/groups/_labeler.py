"""Pseudo-groups: every class crossed with the clusters that a clusterer finds."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, check_is_fitted, column_or_1d, validate_data

from skexmap._blocks import EMBEDDING, HEATMAP
from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap._validation import HasMethods, StrOptions, _check_feature_names_in, _fit_context
from skexmap.cluster import EigengapSpectralClustering
from skexmap.cluster._neighbors import nearest_rows
from skexmap.cluster._output import columns_handed_on, flat_block, hand_on
from skexmap.cluster._spectrum import renumber_by_size

FLOATS = (np.float64, np.float32)


class PseudoGroupLabeler(TransformerMixin, BaseEstimator):
    """Pseudo-groups from any clusterer: group = class x cluster.

    ExMap [1]_ clusters the heatmaps of all images at once (G-ExMap, ``scope="global"``) or inside each
    class (L-ExMap, ``scope="local"``) and crosses the clusters with the classes. The groups are numbered
    class-major: group ``class * n_clusters_ + cluster``, so that every pair has a fixed number, whether
    or not an image falls into it.

    Parameters
    ----------
    clusterer : clusterer, default=None
        Anything with `fit_predict`; a clone of it is fitted. None means `EigengapSpectralClustering()`.
    scope : {"global", "local"}, default="global"
        Cluster all rows at once, or the rows of each class by themselves.
    block : {"heatmap", "embedding"}, default="heatmap"
        Which named block to cluster. ``"embedding"``, whose rows are divided by their largest absolute
        value first, is the choice of GEORGE [2]_. A plain 2-D X is taken for that block.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes in y.
    n_clusters_ : int
        Number of clusters; with ``scope="local"`` the largest number found in any class.
    n_clusters_per_class_ : ndarray of shape (n_classes,), int64
        Number of clusters of each class (all equal to `n_clusters_` with ``scope="global"``).
    cluster_labels_ : ndarray of shape (n_samples,), int64
        Cluster of each training row (within its class, with ``scope="local"``). Cluster 0 is the largest;
        equal sizes are ordered by their first member. -1 where the clusterer said -1.
    group_labels_ : ndarray of shape (n_samples,), int64
        Pseudo-group of each training row; -1 ("belongs to none") where the cluster is -1.
    clusterers_ : list of clusterers
        The fitted clusterer, or one per class with ``scope="local"``.
    n_features_in_ : int
        Number of features of the clustered block.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, when X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: if y is missing, of another length or no classification target; if X holds NaN or
        infinite values; if the block is missing; if a class has too few samples for the clusterer (the
        message names the class); if the clusterer put every row of a class at -1.

    See Also
    --------
    skexmap.cluster.EigengapSpectralClustering : The default clusterer.

    Notes
    -----
    It is a transformer and not a `ClusterMixin`, because it needs y. As a pipeline step it replaces the
    heatmaps by the block ``cluster``: shape ``(n_samples,)``, or ``(n_samples, n_classes)`` with
    ``scope="local"``, where a new row gets the cluster that it would have in every class, and whoever
    knows its y picks.

    New rows are given to the clusterer's `predict`. A clusterer without `predict` (scikit-learn's
    `SpectralClustering`, `AgglomerativeClustering`, `DBSCAN`, ...) is served by the nearest training row:
    a new row has its cluster, -1 included. A new row that `predict` puts into a cluster without training
    rows gets -1.

    A single class in y is allowed: the groups then are the clusters. A single cluster is allowed too: the
    groups then are the classes.

    References
    ----------
    .. [1] R. Chakraborty, A. Sletten, M. Kampffmeyer, "ExMap: Leveraging Explainability Heatmaps for
       Unsupervised Group Robustness to Spurious Correlations", CVPR 2024, arXiv:2403.13870.
    .. [2] N. Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained
       Classification Problems", NeurIPS 2020, arXiv:2011.12945.

    Examples
    --------
    Two classes, and in each of them two kinds of heatmap:

    >>> import numpy as np
    >>> from sklearn.cluster import KMeans
    >>> from skexmap.groups import PseudoGroupLabeler
    >>> X = np.array([[0.0], [0.1], [5.0], [0.2], [5.1], [5.2], [0.1]])
    >>> y = np.array(["cat", "cat", "cat", "dog", "dog", "dog", "dog"])
    >>> labeler = PseudoGroupLabeler(KMeans(2, random_state=0))
    >>> labeler.fit_predict(X, y)
    array([0, 0, 1, 2, 3, 3, 2])
    >>> labeler.predict_groups([[0.0], [5.0]], ["dog", "dog"])
    array([2, 3])
    """

    _parameter_constraints: dict = {
        "clusterer": [HasMethods(["fit", "fit_predict"]), None],
        "scope": [StrOptions({"global", "local"})],
        "block": [StrOptions({HEATMAP, EMBEDDING})],
    }

    def __init__(self, clusterer=None, *, scope="global", block="heatmap"):
        self.clusterer = clusterer
        self.scope = scope
        self.block = block

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Cluster the rows of X and cross the clusters with the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with named
        blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row: numbers or strings.

        Returns
        -------
        self : PseudoGroupLabeler
        """
        rows, y = self._read(X, y, reset=True)
        self.classes_, class_codes = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        clusterer = EigengapSpectralClustering() if self.clusterer is None else self.clusterer
        if self.scope == "global":
            self._clusters = [fit_clusterer(clone(clusterer), rows, "the rows")]
            self.cluster_labels_ = self._clusters[0].labels
        else:
            members = [np.flatnonzero(class_codes == c) for c in range(n_classes)]
            self._clusters = [
                fit_clusterer(clone(clusterer), rows[m], f"class {name!r}")
                for m, name in zip(members, self.classes_.tolist(), strict=True)
            ]
            self.cluster_labels_ = np.empty(len(rows), dtype=np.int64)
            for m, clusters in zip(members, self._clusters, strict=True):
                self.cluster_labels_[m] = clusters.labels
        self.clusterers_ = [clusters.clusterer for clusters in self._clusters]
        self.n_clusters_per_class_ = np.resize(
            [clusters.n_clusters for clusters in self._clusters], n_classes
        )
        self.n_clusters_ = int(self.n_clusters_per_class_.max())
        self.group_labels_ = encode_groups(class_codes, self.cluster_labels_, self.n_clusters_)
        shape = (1,) if self.scope == "global" else (1, n_classes)
        self._columns_out = columns_handed_on(X, np.zeros(shape, dtype=np.int64))
        return self

    def fit_predict(self, X, y):
        """Cluster the rows of X and return their pseudo-groups, `group_labels_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with named
        blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row.

        Returns
        -------
        group_labels : ndarray of shape (n_samples,), int64
            ``class * n_clusters_ + cluster``, or -1.
        """
        return self.fit(X, y).group_labels_

    def predict_groups(self, X, y):
        """Return the pseudo-groups of new rows of known class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with named
        blocks
            New rows.
        y : array-like of shape (n_samples,)
            Class of each row.

        Returns
        -------
        group_labels : ndarray of shape (n_samples,), int64
            ``class * n_clusters_ + cluster``, or -1.

        Raises
        ------
        ValueError
            If y holds a class that was not seen in `fit`.
        """
        check_is_fitted(self)
        rows, y = self._read(X, y, reset=False)
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(
                f"y holds {unknown.size} class(es) that `fit` did not see: {unknown[:5].tolist()}. "
                f"Known are {self.classes_.tolist()}."
            )
        class_codes = np.searchsorted(self.classes_, y)
        return encode_groups(
            class_codes, cluster_of_class(self._clusters_of(rows), class_codes), self.n_clusters_
        )

    def transform(self, X):
        """Replace the heatmaps by their clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with named
        blocks
            New rows.

        Returns
        -------
        X_out : structured ndarray of shape (n_samples,), or ndarray of shape (n_samples, n_columns)
            The blocks of X with ``heatmap`` replaced by ``cluster``; for an X without blocks the clusters
            as one column, or with ``scope="local"`` one column per class. A data frame where `set_output`
            asked for one.
        """
        check_is_fitted(self)
        rows, _ = self._read(X, None, reset=False)
        return hand_on(self, X, self._clusters_of(rows))

    def fit_transform(self, X, y):
        """Cluster the rows of X and replace the heatmaps by their clusters.

        The training rows keep the clusters of `cluster_labels_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with named
        blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row.

        Returns
        -------
        X_out : structured ndarray of shape (n_samples,), or ndarray of shape (n_samples, n_columns)
            As `transform` returns it.
        """
        self.fit(X, y)
        if self.scope == "global":
            return hand_on(self, X, self.cluster_labels_)
        rows, y = self._read(X, y, reset=False)
        clusters = self._clusters_of(rows)
        clusters[np.arange(len(rows)), np.searchsorted(self.classes_, y)] = self.cluster_labels_
        return hand_on(self, X, clusters)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the features seen in `fit`.

        Returns
        -------
        names : ndarray of str objects
            ``cluster_0`` (with ``scope="local"`` up to ``cluster_{n_classes - 1}``); after a fit on
            blocks, preceded by the columns of the blocks passed through.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features)
        return self._columns_out

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _read(self, X, y, *, reset):
        """Return the rows to cluster and the checked y (None where `transform` has none)."""
        rows = flat_block(X, self.block, required_by=self)
        # In `fit`, a y of None is refused in scikit-learn's words.
        target = {"y": None} if reset and y is None else {}
        rows = validate_data(
            self, rows, **target, reset=reset, dtype=FLOATS, ensure_min_samples=2 if reset else 1
        )
        if y is not None:
            y = column_or_1d(y, warn=True)
            if len(y) != _num_samples(rows):
                raise ValueError(
                    f"y has {len(y)} entries for {len(rows)} samples. Pass the class of every sample."
                )
            check_classification_targets(y)
        return (divided_by_largest(rows) if self.block == EMBEDDING else rows), y

    def _clusters_of(self, rows):
        clusters = [own.predict(rows) for own in self._clusters]
        return clusters[0] if self.scope == "global" else np.stack(clusters, axis=1)


@dataclass
class FittedClusterer:
    """A fitted clusterer with canonical numbers, which can place new rows.

    Parameters
    ----------
    clusterer : clusterer
        Fitted.
    labels : ndarray of shape (n_samples,), int64
        Its clusters, the largest first.
    numbers : dict of int to int
        The clusterer's own numbers -> ours.
    rows : ndarray of shape (n_samples, n_features) or None
        The training rows, where the clusterer has no `predict`.
    """

    clusterer: object
    labels: np.ndarray
    numbers: dict
    rows: np.ndarray | None

    @property
    def n_clusters(self):
        return int(self.labels.max()) + 1

    def predict(self, rows):
        """Return the cluster of each row: the clusterer's answer, or that of the nearest training row."""
        if self.rows is not None:
            return self.labels[nearest_rows(self.rows, 1, Y=rows)[:, 0]]
        return np.array(
            [self.numbers.get(c, -1) for c in self.clusterer.predict(rows).tolist()], dtype=np.int64
        )


def fit_clusterer(clusterer, rows, what):
    """Fit a clusterer and number its clusters by size.

    Parameters
    ----------
    clusterer : clusterer
        Fitted in place.
    rows : ndarray of shape (n_samples, n_features)
        What to cluster.
    what : str
        What the rows are; named in errors.

    Returns
    -------
    fitted : FittedClusterer
    """
    try:
        given = np.asarray(clusterer.fit_predict(rows))
    except ValueError as error:
        raise ValueError(f"Clustering {what} ({len(rows)} samples) failed: {error}") from error
    if given.max() < 0:
        raise ValueError(
            f"{type(clusterer).__name__} put all {len(rows)} samples of {what} at -1 ('belongs to none'). "
            "Change its parameters so that it finds a cluster."
        )
    labels = renumber_by_size(given)
    numbers = dict(zip(given.tolist(), labels.tolist(), strict=True))
    return FittedClusterer(clusterer, labels, numbers, None if hasattr(clusterer, "predict") else rows)


def divided_by_largest(rows):
    """Divide each row by its largest absolute value; a row of zeros stays."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1)
