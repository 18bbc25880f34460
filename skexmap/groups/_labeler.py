"""Pseudo-groups: every class crossed with the clusters that a clusterer finds."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, check_is_fitted, column_or_1d, validate_data

from skexmap._blocks import (
    EMBEDDING,
    HEATMAP,
    gives_missing_no_cluster,
    leaves_out_missing,
    validate_others,
)
from skexmap._estimator import EstimatorMixin
from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap._progress import reports_fit
from skexmap._validation import (
    HasMethods,
    Interval,
    RealNotInt,
    StrOptions,
    _fit_context,
    codes_of_known_classes,
    parameters_named,
)
from skexmap.cluster import EigengapSpectralClustering
from skexmap.cluster._base import FLOATS
from skexmap.cluster._neighbors import nearest_rows
from skexmap.cluster._output import check_columns_in, columns_handed_on, flat_block, hand_on
from skexmap.cluster._sizes import smallest_size, without_small_clusters
from skexmap.cluster._spectrum import renumber_by_size
from skexmap.cluster._stability import seed_agreement


class PseudoGroupLabeler(EstimatorMixin, TransformerMixin, BaseEstimator):
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
    min_cluster_size : int, float or None, default=None
        Fewer rows of a class than this in a cluster are too few for a pseudo-group: a number of rows, or a
        share of the rows of the class between 0 and 1. None: no number is too small.
    small_clusters : {"merge", "mark", "keep"}, default="merge"
        What becomes of them. ``"merge"``: they join the cluster in which the other rows of the class have
        the nearest mean. ``"mark"``: they get the cluster, and the pseudo-group, -1, which is left out of
        balancing. ``"keep"``: they stay, with a `TinyClusterWarning`.
    n_seed_checks : int, default=1
        How many other seeds the clusters of a clusterer with a `random_state` are compared with, at the cost of one
        more clustering each. 0 saves the time. A clusterer with this parameter of its own, as those of skexmap, sees
        to it itself.

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
    placement_ : ndarray of shape (n_classes, n_clusters_), int64
        Where the policy for small clusters sends the rows of each class (row) in each cluster (column): a
        cluster, or -1. Without `min_cluster_size`, every cluster stays.
    clusterers_ : list of clusterers
        The fitted clusterer, or one per class with ``scope="local"``.
    seed_agreements_ : list of float or None
        For each of them the mean adjusted Rand index of its clusters with those under the other seeds: 1 is the same,
        0 is chance; None where there was nothing to compare.
    n_features_in_ : int
        Number of features of the clustered block.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, when X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: if y is missing, of another length or no classification target; if X holds NaN or
        infinite values; if the block is missing; if a class has too few samples for the clusterer (the
        message names the class); if the clusterer put every row of a class at -1; if all clusters of a
        class are small and to be merged or marked.

    Warns
    -----
    TinyClusterWarning
        If ``small_clusters="keep"`` kept a small cluster.
    IrreproducibleClustersWarning
        If one of `seed_agreements_` is below 0.65, which Steinley calls poor (see
        `skexmap.cluster.cluster_stability`).

    See Also
    --------
    skexmap.cluster.EigengapSpectralClustering : The default clusterer.
    skexmap.cluster.cluster_stability : Whether clusters reproduce on other samples.

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

    With `min_cluster_size` a cluster may be small in one class only. So the step then hands on one cluster
    per class whatever the scope, and a new row of a class in a small cluster goes where the training rows
    of that class went. The clusters keep their numbers, so that the numbers of dissolved groups stay
    unused.

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
        "min_cluster_size": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            None,
        ],
        "small_clusters": [StrOptions({"merge", "mark", "keep"})],
        "n_seed_checks": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        clusterer=None,
        *,
        scope="global",
        block="heatmap",
        min_cluster_size=None,
        small_clusters="merge",
        n_seed_checks=1,
    ):
        self.clusterer = clusterer
        self.scope = scope
        self.block = block
        self.min_cluster_size = min_cluster_size
        self.small_clusters = small_clusters
        self.n_seed_checks = n_seed_checks

    @_fit_context(prefer_skip_nested_validation=False)
    @reports_fit()
    @leaves_out_missing(fill={"cluster_labels_": -1, "group_labels_": -1})
    def fit(self, X, y):
        """Cluster the rows of X and cross the clusters with the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row: numbers or strings.

        Returns
        -------
        self : PseudoGroupLabeler
        """
        rows, y = self._read(X, y, reset=True)
        self.classes_, class_codes = np.unique(y, return_inverse=True)
        members = [np.flatnonzero(class_codes == c) for c in range(len(self.classes_))]
        names = [f"class {name!r}" for name in self.classes_.tolist()]
        clusterer = EigengapSpectralClustering() if self.clusterer is None else self.clusterer
        if self.scope == "global":
            self._clusters = [fit_clusterer(clone(clusterer), rows, "the rows", self.n_seed_checks)]
            labels = self._clusters[0].labels
        else:
            self._clusters = [
                fit_clusterer(clone(clusterer), rows[own], name, self.n_seed_checks)
                for own, name in zip(members, names, strict=True)
            ]
            labels = np.empty(len(rows), dtype=np.int64)
            for own, clusters in zip(members, self._clusters, strict=True):
                labels[own] = clusters.labels
        self.clusterers_ = [clusters.clusterer for clusters in self._clusters]
        self.seed_agreements_ = [clusters.seed_agreement for clusters in self._clusters]
        self.n_clusters_per_class_ = np.resize(
            [clusters.n_clusters for clusters in self._clusters], len(self.classes_)
        )
        self.n_clusters_ = int(self.n_clusters_per_class_.max())
        self.placement_ = np.tile(np.arange(self.n_clusters_), (len(self.classes_), 1))
        if self.min_cluster_size is not None:
            for c, (own, name) in enumerate(zip(members, names, strict=True)):
                min_size = smallest_size(self.min_cluster_size, len(own))
                self.placement_[c] = place_small_clusters(
                    labels, own, self.n_clusters_, min_size, self.small_clusters, rows, name
                )
        self.cluster_labels_ = placed(labels, class_codes, self.placement_)
        self.group_labels_ = encode_groups(class_codes, self.cluster_labels_, self.n_clusters_)
        shape = (1, len(self.classes_)) if self._one_cluster_per_class else (1,)
        self._columns_out = columns_handed_on(X, np.zeros(shape, dtype=np.int64))
        return self

    def fit_predict(self, X, y):
        """Cluster the rows of X and return their pseudo-groups, `group_labels_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
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
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
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
        class_codes = codes_of_known_classes(y, self.classes_, len(rows))
        return encode_groups(
            class_codes, cluster_of_class(self._clusters_of(rows), class_codes), self.n_clusters_
        )

    def transform(self, X):
        """Replace the heatmaps by their clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
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
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row.

        Returns
        -------
        X_out : structured ndarray of shape (n_samples,), or ndarray of shape (n_samples, n_columns)
            As `transform` returns it.
        """
        self.fit(X, y)
        if not self._one_cluster_per_class:
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
        check_columns_in(self, input_features, self._columns_out)
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

        def validate(rows):
            return validate_data(
                self, rows, **target, reset=reset, dtype=FLOATS, ensure_min_samples=2 if reset else 1
            )

        rows = validate_others(validate, rows)
        if y is not None:
            y = column_or_1d(y, warn=True)
            if len(y) != _num_samples(rows):
                raise ValueError(
                    f"y has {len(y)} entries for {len(rows)} samples. Pass the class of every sample."
                )
            check_classification_targets(y)
        return (divided_by_largest(rows) if self.block == EMBEDDING else rows), y

    @property
    def _one_cluster_per_class(self):
        return self.scope == "local" or self.min_cluster_size is not None

    @gives_missing_no_cluster()
    def _clusters_of(self, rows):
        """Return one cluster per row, or one per row and class."""
        clusters = [own.predict(rows) for own in self._clusters]
        if not self._one_cluster_per_class:
            return clusters[0]
        per_class = clusters * (len(self.classes_) if self.scope == "global" else 1)
        return np.stack([placed(own, c, self.placement_) for c, own in enumerate(per_class)], axis=1)


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
    seed_agreement : float or None
        Agreement with the clusters under other seeds.
    """

    clusterer: object
    labels: np.ndarray
    numbers: dict
    rows: np.ndarray | None
    seed_agreement: float | None = None

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


def fit_clusterer(clusterer, rows, what, n_seed_checks=0):
    """Fit a clusterer and number its clusters by size.

    Parameters
    ----------
    clusterer : clusterer
        Fitted in place.
    rows : ndarray of shape (n_samples, n_features)
        What to cluster.
    what : str
        What the rows are; named in errors and warnings.
    n_seed_checks : int, default=0
        Number of other seeds to compare with.

    Returns
    -------
    fitted : FittedClusterer
    """
    unfitted = clone(clusterer)
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
    agreement = getattr(clusterer, "seed_agreement_", None)
    seeds = parameters_named(unfitted, "random_state")
    if n_seed_checks and seeds and not parameters_named(unfitted, "n_seed_checks"):
        agreement = seed_agreement(
            labels,
            lambda seed: clone(unfitted).set_params(**dict.fromkeys(seeds, seed)).fit_predict(rows),
            n_seed_checks,
            what=f"{what} ({len(rows)} samples)",
            who=type(clusterer).__name__,
        )
    return FittedClusterer(
        clusterer, labels, numbers, None if hasattr(clusterer, "predict") else rows, agreement
    )


def place_small_clusters(labels, own, n_clusters, min_size, policy, rows, name):
    """Return where the policy for small clusters sends the rows of one class in each cluster.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        Cluster of every row.
    own : ndarray of shape (n_own,), int64
        The rows of the class.
    n_clusters : int
        Number of clusters.
    min_size : int
        Clusters of fewer rows of the class are small.
    policy : {"merge", "mark", "keep"}
        What becomes of them.
    rows : ndarray of shape (n_samples, n_features)
        What was clustered.
    name : str
        What to call the class in an error.

    Returns
    -------
    placement : ndarray of shape (n_clusters,), int64
        A cluster, or -1. A cluster without rows of the class stays.
    """
    try:
        after, _ = without_small_clusters(labels[own], min_size, policy, rows=rows[own])
    except ValueError as error:
        raise ValueError(f"In {name}: {error}") from error
    placement = np.arange(n_clusters)
    belongs = labels[own] >= 0
    placement[labels[own][belongs]] = after[belongs]
    return placement


def placed(labels, class_codes, placement):
    """Apply a placement to the clusters of rows of known class; -1 stays."""
    return np.where(labels >= 0, placement[class_codes, labels], -1)


def divided_by_largest(rows):
    """Divide each row by its largest absolute value; a row of zeros stays."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1)
