"""Pseudo-groups: every class crossed with the clusters that a clusterer finds."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import EMBEDDING, HEATMAP, PREDICTED, block_names, get_block
from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap._validation import (
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    check_labels,
    check_one_label_each,
    codes_of_known_classes,
)
from skexmap.cluster import EigengapSpectralClustering
from skexmap.cluster._cluster_block import (
    READ_IN_BLOCKS,
    ClusterBlockMixin,
    checked_rows,
    columns_with_cluster,
    flat_block,
    in_safe_range,
    replace_heatmap_by_cluster,
)
from skexmap.groups._choices import ClusterChoices
from skexmap.groups._fitted_clusterer import fit_clusterer
from skexmap.groups._merging import merge_alike
from skexmap.groups._predictions import NAME_THE_LOGITS, codes_in_block, codes_of_labels, refuse_unknown


class PseudoGroupLabeler(ClusterChoices, ClusterBlockMixin, BaseEstimator):
    """Pseudo-groups from any clusterer: group = class x cluster.

    ExMap [1]_ clusters the heatmaps of all images at once (G-ExMap, ``scope="global"``) or inside each
    class (L-ExMap, ``scope="local"``) and crosses the clusters with the classes. The number of a group is ``class *
    n_clusters_ + cluster``, so every pair has a fixed number, even if it has no images.

    A clusterer also separates images for reasons unrelated to a shortcut, for example bags from shoes. Each part of
    such a split would weigh as much as a true group. So neighboring clusters on which the frozen model is right equally
    often, class by class, are merged before they are crossed with the classes.

    Parameters
    ----------
    clusterer : clusterer, default=None
        Anything with `fit_predict`, or a pipeline that ends in it; a clone of it is fitted. None means
        `EigengapSpectralClustering()`.
    scope : {"global", "local"}, default="global"
        Whether to cluster all rows at once, or the rows of each class separately.
    block : {"heatmap", "embedding"}, default="heatmap"
        Which named block to cluster. ``"embedding"`` is the choice of GEORGE [2]_; its rows are first divided by their
        largest absolute value. A plain 2-D X is treated as that block.
    merge_alpha : float in (0, 1) or None, default=0.05
        Level of the test that decides which clusters are merged. A tree is built over the clusters, by average linkage
        of their mean rows. From the leaves upward, two branches are merged unless, in some class, the model is right
        significantly more often on one of them. The test is Fisher's exact test, Bonferroni-corrected over the classes.
        Branches that differ end the merging on their side of the tree. This needs the model's predictions. None merges
        nothing, as published.
    n_seed_checks : int, default=1
        Number of other seeds with which the clusters are compared. Each one costs another clustering; 0 skips the
        check. A clusterer is checked only if its seed matters: if it, or a part of it, has a `random_state`, except for
        `EigengapSpectralClustering` with exact neighbors.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes in y.
    n_clusters_ : int
        Number of clusters; with ``scope="local"``, the largest number found in any class.
    n_clusters_per_class_ : ndarray of shape (n_classes,), int64
        Number of clusters of each class (all equal to `n_clusters_` with ``scope="global"``).
    cluster_labels_ : ndarray of shape (n_samples,), int64
        Cluster of each training row (within its class, with ``scope="local"``). Cluster 0 is the largest;
        equal sizes are ordered by their first member. -1 if the clusterer returned -1.
    group_labels_ : ndarray of shape (n_samples,), int64
        Pseudo-group of each training row; -1 ("belongs to none") if the cluster is -1.
    clusterers_ : list of clusterers
        The fitted clusterer, or one per class with ``scope="local"``.
    merges_ : list of list of Merge
        For each fitted clusterer, the pairs of clusters that were merged, in order: named tuples ``(into, cluster,
        p_value)``, with the numbers that the clusters had before merging.
    merged_into_ : list of ndarray of shape (n_found,), int64
        For each fitted clusterer, the number in `cluster_labels_` of each cluster that it found, after merging.
    cluster_names_ : dict
        Cluster -> name, as given to `rename`.
    seed_agreements_ : list of float or None
        For each fitted clusterer, the mean adjusted Rand index of its clusters with those under the other seeds: 1
        means identical, 0 means chance. None if nothing was compared.
    n_features_in_ : int
        Number of features of the clustered block.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: if y is missing, has another length than X or is not a classification target; if X holds NaN or
        infinite values; if the block is missing; if a class has too few samples for the clusterer (the message names
        the class); if the clusterer gives -1 to every row of a class; or if `merge_alpha` is not None and the model's
        predictions are missing or are not labels of y.

    Warns
    -----
    ClusteringWarning
        If one of `seed_agreements_` is below 0.65, which Steinley calls poor (see
        `skexmap.cluster.cluster_stability`).

    See Also
    --------
    skexmap.cluster.EigengapSpectralClustering : The default clusterer.
    skexmap.cluster.cluster_stability : Whether clusters reproduce on other samples.

    Notes
    -----
    It is a transformer, not a `ClusterMixin`, because it needs y. As a pipeline step it replaces the heatmaps by the
    block ``cluster`` of shape ``(n_samples,)``. With ``scope="local"`` the shape is ``(n_samples, n_classes)``: a new
    row gets the cluster that it would have in every class, and the column of its class is selected downstream.

    The clusterer's `predict` places new rows. If it has none (scikit-learn's `SpectralClustering`,
    `AgglomerativeClustering` and `DBSCAN`, or `SilhouetteKMeans`), a new row gets the cluster of its nearest
    training row, -1 included. A new row that `predict` puts into a cluster without training rows gets -1.

    The predictions are passed to `fit`, or read from the block ``predicted``, which a `HeatmapTransformer` with
    ``return_embedding=True`` returns. Only `fit` needs them: a new row that falls into a merged cluster gets the number
    after merging.

    Merging compares the errors of the model, so it needs errors. If the model is right about nearly every image, as on
    the images it was trained on, all clusters are alike.

    A single class in y is allowed: the groups are then the clusters. A single cluster is also allowed: the groups are
    then the classes.

    References
    ----------
    .. [1] R. Chakraborty, A. Sletten, M. Kampffmeyer, "ExMap: Leveraging Explainability Heatmaps for
       Unsupervised Group Robustness to Spurious Correlations", CVPR 2024, arXiv:2403.13870.
    .. [2] N. Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained
       Classification Problems", NeurIPS 2020, arXiv:2011.12945.

    Examples
    --------
    Two classes, each with two kinds of heatmaps:

    >>> import numpy as np
    >>> from sklearn.cluster import KMeans
    >>> from skexmap.groups import PseudoGroupLabeler
    >>> X = np.array([[0.0], [0.1], [5.0], [0.2], [5.1], [5.2], [0.1]])
    >>> y = np.array(["cat", "cat", "cat", "dog", "dog", "dog", "dog"])
    >>> labeler = PseudoGroupLabeler(KMeans(2, random_state=0), merge_alpha=None)
    >>> labeler.fit_predict(X, y)
    array([0, 0, 1, 2, 3, 3, 2])
    >>> labeler.predict_groups([[0.0], [5.0]], ["dog", "dog"])
    array([2, 3])

    Three clusters, and a model that is right on two of them and wrong on the third:

    >>> kind = np.repeat([0, 1, 2], 20)
    >>> X, y = np.column_stack([kind, kind]) + 0.0, np.arange(60) % 2
    >>> predicted = np.where(kind == 2, 1 - y, y)
    >>> labeler = PseudoGroupLabeler(KMeans(3, random_state=0)).fit(X, y, predicted=predicted)
    >>> labeler.n_clusters_, [len(merges) for merges in labeler.merges_]
    (2, [1])
    """

    _parameter_constraints: dict = {
        "clusterer": [HasMethods(["fit", "fit_predict"]), None],
        "scope": [StrOptions({"global", "local"})],
        "block": [StrOptions({HEATMAP, EMBEDDING})],
        "merge_alpha": [Interval(Real, 0, 1, closed="neither"), None],
        "n_seed_checks": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        clusterer=None,
        *,
        scope="global",
        block="heatmap",
        merge_alpha=0.05,
        n_seed_checks=1,
    ):
        self.clusterer = clusterer
        self.scope = scope
        self.block = block
        self.merge_alpha = merge_alpha
        self.n_seed_checks = n_seed_checks

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, predicted=None):
        """Cluster the rows of X, merge clusters that the model treats alike, and cross them with the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row: numbers or strings.
        predicted : array-like of shape (n_samples,), default=None
            Class that the frozen model predicts for each row. If None, it is read from the block ``predicted``.

        Returns
        -------
        self : PseudoGroupLabeler
        """
        rows, y = self._check_rows_and_classes(X, y)
        self._dtype = rows.dtype
        self.classes_, class_codes = np.unique(y, return_inverse=True)
        clusterer = EigengapSpectralClustering() if self.clusterer is None else self.clusterer
        correct = None
        if self.merge_alpha is not None:
            correct = self._check_predicted(X, predicted, class_codes) == class_codes
        parts = {"the rows": slice(None)}
        if self.scope == "local":
            classes = self.classes_.tolist()
            parts = {f"class {name!r}": np.flatnonzero(class_codes == c) for c, name in enumerate(classes)}

        self._clusters, self.merged_into_, self.merges_ = [], [], []
        self.cluster_labels_ = np.empty(len(rows), dtype=np.int64)
        for name, part in parts.items():
            clusters = fit_clusterer(clusterer, rows[part], name, self.n_seed_checks)
            into, merges = np.arange(clusters.n_clusters), []
            if correct is not None:
                into, merges = merge_alike(
                    clusters.labels, class_codes[part], correct[part], rows[part], self.merge_alpha
                )
            self._clusters.append(clusters.renumbered(into))
            self.merged_into_.append(into)
            self.merges_.append(merges)
            self.cluster_labels_[part] = self._clusters[-1].labels
        self.clusterers_ = [clusters.clusterer for clusters in self._clusters]
        self.seed_agreements_ = [clusters.seed_agreement for clusters in self._clusters]
        self.n_clusters_per_class_ = np.resize(
            [clusters.n_clusters for clusters in self._clusters], len(self.classes_)
        )
        self.n_clusters_ = int(self.n_clusters_per_class_.max())
        self.cluster_names_ = {}
        self.group_labels_ = encode_groups(class_codes, self.cluster_labels_, self.n_clusters_)
        shape = (1, len(self.classes_)) if self.scope == "local" else (1,)
        self._columns_out = columns_with_cluster(X, np.zeros(shape, dtype=np.int64))
        return self

    def fit_predict(self, X, y, predicted=None):
        """Cluster the rows of X and return their pseudo-groups, `group_labels_`.

        Parameters
        ----------
        X, y, predicted : as for `fit`
            What to cluster.

        Returns
        -------
        group_labels : ndarray of shape (n_samples,), int64
            ``class * n_clusters_ + cluster``, or -1.
        """
        return self.fit(X, y, predicted).group_labels_

    def predict_groups(self, X, y):
        """Return the pseudo-groups of new rows whose class is known.

        Parameters
        ----------
        X : as for `fit`
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
        clusters = self._clusters_of(X)
        class_codes = codes_of_known_classes(y, self.classes_, len(clusters))
        return encode_groups(class_codes, cluster_of_class(clusters, class_codes), self.n_clusters_)

    def fit_transform(self, X, y, predicted=None):
        """Cluster the rows of X and replace the heatmaps by their clusters.

        The training rows keep the clusters of `cluster_labels_`.

        Parameters
        ----------
        X, y, predicted : as for `fit`
            What to cluster.

        Returns
        -------
        X_out : as `transform` returns it
        """
        self.fit(X, y, predicted)
        clusters = self.cluster_labels_
        if self.scope == "local":
            clusters = self._clusters_of(X)
            class_codes = codes_of_known_classes(y, self.classes_, len(clusters))
            clusters[np.arange(len(clusters)), class_codes] = self.cluster_labels_
        return replace_heatmap_by_cluster(self, X, clusters)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _check_rows(self, X, *, reset, **target):
        rows = flat_block(X, self.block, required_by=self)
        # Clusterers that were fitted on one type do not all predict rows of the other.
        dtype = READ_IN_BLOCKS if reset else self._dtype
        rows = checked_rows(self, rows, reset=reset, dtype=dtype, **target)
        rows = divided_by_largest(rows) if self.block == EMBEDDING else rows
        return in_safe_range(rows, type(self).__name__, fitting=reset)

    def _check_rows_and_classes(self, X, y):
        """Return the rows to cluster and the class of each, checked."""
        # scikit-learn raises its own error for a y of None.
        rows = self._check_rows(X, reset=True, **({"y": None} if y is None else {}))
        return rows, check_one_label_each(y, len(rows))

    def _check_predicted(self, X, predicted, class_codes):
        """Return the code of the class that the model predicts for each row."""
        if predicted is not None:
            predicted = check_labels(predicted, name="predicted", warn=False)
            if len(predicted) != len(class_codes):
                raise ValueError(f"`predicted` has {len(predicted)} entries for {len(class_codes)} samples.")
            codes, remedy = codes_of_labels(predicted, self.classes_), "pass labels as they are in y."
        elif PREDICTED in block_names(X):
            predicted = get_block(X, PREDICTED, required_by=self)
            codes, remedy = codes_in_block(predicted, self.classes_), NAME_THE_LOGITS
        else:
            raise ValueError(
                f"{type(self).__name__} merges clusters on which the model behaves alike, and needs the model's "
                "predictions for it. Set `return_embedding=True` on the HeatmapTransformer step, pass `predicted` to "
                "`fit`, or merge nothing with `merge_alpha=None`."
            )
        refuse_unknown(predicted, codes, self.classes_, class_codes, remedy)
        return codes

    def _clusters_of(self, X):
        """Return one cluster per row, or one per row and class."""
        rows = self._check_rows(X, reset=False)
        clusters = [clusters.predict(rows) for clusters in self._clusters]
        return np.stack(clusters, axis=1) if self.scope == "local" else clusters[0]


def divided_by_largest(rows):
    """Divide each row by its largest absolute value; a row of zeros is unchanged."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1)
