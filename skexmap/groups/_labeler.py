"""Pseudo-groups: every class crossed with the clusters that a clusterer finds."""

from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, check_is_fitted, column_or_1d, validate_data

from skexmap._blocks import (
    EMBEDDING,
    HEATMAP,
    PREDICTED,
    block_names,
    get_block,
)
from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap._validation import (
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    codes_of_known_classes,
    parameters_named,
)
from skexmap.cluster import EigengapSpectralClustering
from skexmap.cluster._cluster_block import (
    FLOATS,
    check_input_features,
    columns_with_cluster,
    flat_block,
    replace_heatmap_by_cluster,
)
from skexmap.cluster._cluster_labels import renumber_by_size
from skexmap.cluster._neighbors import nearest_rows
from skexmap.cluster._stability import seed_agreement
from skexmap.groups._choices import ClusterChoices
from skexmap.groups._merging import merge_alike


class PseudoGroupLabeler(ClusterChoices, TransformerMixin, BaseEstimator):
    """Pseudo-groups from any clusterer: group = class x cluster.

    ExMap [1]_ clusters the heatmaps of all images at once (G-ExMap, ``scope="global"``) or inside each
    class (L-ExMap, ``scope="local"``) and crosses the clusters with the classes. The groups are numbered
    class-major: group ``class * n_clusters_ + cluster``, so that every pair has a fixed number, whether
    or not an image falls into it.

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
        of their mean rows. From the leaves upwards, two branches are merged unless, in some class, the model is right
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
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X was a data frame without blocks and all names were strings.

    Raises
    ------
    ValueError
        In `fit`: if y is missing, has another length than X or is not a classification target; if X holds NaN or
        infinite values; if the block is missing; if a class has too few samples for the clusterer (the message names
        the class); if the clusterer gives -1 to every row of a class; or if the model's predictions are missing and
        `merge_alpha` is not None.

    Warns
    -----
    IrreproducibleClustersWarning
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
        rows, y = self._read(X, y, reset=True)
        self.classes_, class_codes = np.unique(y, return_inverse=True)
        clusterer = EigengapSpectralClustering() if self.clusterer is None else self.clusterer
        parts, names = [slice(None)], ["the rows"]
        if self.scope == "local":
            parts = [np.flatnonzero(class_codes == c) for c in range(len(self.classes_))]
            names = [f"class {name!r}" for name in self.classes_.tolist()]
        found = [
            fit_clusterer(clone(clusterer), rows[part], name, self.n_seed_checks)
            for part, name in zip(parts, names, strict=True)
        ]
        self.clusterers_ = [clusters.clusterer for clusters in found]
        self.seed_agreements_ = [clusters.seed_agreement for clusters in found]
        correct = None if self.merge_alpha is None else self._read_predicted(X, predicted, y) == class_codes
        self._clusters, self.merged_into_, self.merges_ = [], [], []
        self.cluster_labels_ = np.empty(len(rows), dtype=np.int64)
        for clusters, part in zip(found, parts, strict=True):
            into, merges = np.arange(clusters.n_clusters), []
            if correct is not None:
                into, merges = merge_alike(
                    clusters.labels, class_codes[part], correct[part], rows[part], self.merge_alpha
                )
            self._clusters.append(clusters.renumbered(into))
            self.merged_into_.append(into)
            self.merges_.append(merges)
            self.cluster_labels_[part] = self._clusters[-1].labels
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
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row.
        predicted : array-like of shape (n_samples,), default=None
            Class that the frozen model predicts for each row. If None, it is read from the block ``predicted``.

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
            The blocks of X with ``heatmap`` replaced by ``cluster``. If X has no blocks, the clusters as one column, or
            as one column per class with ``scope="local"``. A data frame if `set_output` selects one.
        """
        check_is_fitted(self)
        rows, _ = self._read(X, None, reset=False)
        return replace_heatmap_by_cluster(self, X, self._clusters_of(rows))

    def fit_transform(self, X, y, predicted=None):
        """Cluster the rows of X and replace the heatmaps by their clusters.

        The training rows keep the clusters of `cluster_labels_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or structured ndarray or data frame with \
                named blocks
            What to cluster.
        y : array-like of shape (n_samples,)
            Class of each row.
        predicted : array-like of shape (n_samples,), default=None
            Class that the frozen model predicts for each row. If None, it is read from the block ``predicted``.

        Returns
        -------
        X_out : structured ndarray of shape (n_samples,), or ndarray of shape (n_samples, n_columns)
            As `transform` returns it.
        """
        self.fit(X, y, predicted)
        if self.scope == "global":
            return replace_heatmap_by_cluster(self, X, self.cluster_labels_)
        rows, y = self._read(X, y, reset=False)
        clusters = self._clusters_of(rows)
        clusters[np.arange(len(rows)), np.searchsorted(self.classes_, y)] = self.cluster_labels_
        return replace_heatmap_by_cluster(self, X, clusters)

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
        check_input_features(self, input_features, self._columns_out)
        return self._columns_out

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _read(self, X, y, *, reset):
        """Return the rows to cluster and the checked y (None in `transform`)."""
        rows = flat_block(X, self.block, required_by=self)
        # In `fit`, scikit-learn raises its own error for a y of None.
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

    def _read_predicted(self, X, predicted, y):
        """Return the code of the class that the model predicts for each row."""
        if predicted is None and PREDICTED not in block_names(X):
            raise ValueError(
                f"{type(self).__name__} merges clusters on which the model behaves alike, and needs the model's "
                "predictions for it. Set `return_embedding=True` on the HeatmapTransformer step, pass `predicted` to "
                "`fit`, or merge nothing with `merge_alpha=None`."
            )
        if predicted is not None:
            predicted = column_or_1d(predicted)
            if len(predicted) != len(y):
                raise ValueError(f"`predicted` has {len(predicted)} entries for {len(y)} samples.")
            codes = codes_of_labels(predicted, self.classes_)
            if (codes < 0).all():
                raise ValueError(
                    f"None of the {len(predicted)} entries of `predicted` is one of the {len(self.classes_)} classes "
                    "in y. Pass labels as they are in y."
                )
            return codes
        codes = get_block(X, PREDICTED, required_by=self)
        if self.classes_.dtype.kind in "iufb":
            codes = codes_of_labels(codes, self.classes_)
        if (codes < 0).all():
            raise ValueError(
                f"The model's logits do not belong to the {len(self.classes_)} classes in y, so that its predictions "
                "are not known. Fit the HeatmapTransformer on as many classes as the model has logits, pass "
                "`predicted` to `fit`, or merge nothing with `merge_alpha=None`."
            )
        return codes

    def _clusters_of(self, rows):
        """Return one cluster per row, or one per row and class."""
        clusters = [clusters.predict(rows) for clusters in self._clusters]
        return np.stack(clusters, axis=1) if self.scope == "local" else clusters[0]


@dataclass
class FittedClusterer:
    """A fitted clusterer whose clusters are renumbered, and which can place new rows.

    `numbers` maps the clusterer's own numbers to those of `labels`. `rows` are the training rows, or None if the
    clusterer has a `predict`.
    """

    clusterer: object
    labels: np.ndarray
    numbers: dict
    rows: np.ndarray | None
    seed_agreement: float | None = None

    @property
    def n_clusters(self):
        return int(self.labels.max()) + 1

    def renumbered(self, numbers):
        """Return the same clusterer with a new number for each cluster; two clusters may share a number."""
        numbers = np.append(numbers, -1)
        return replace(
            self,
            labels=numbers[self.labels],
            numbers={given: int(numbers[number]) for given, number in self.numbers.items()},
        )

    def predict(self, rows):
        """Return the cluster of each row: the clusterer's prediction, or the cluster of the nearest training row."""
        if self.rows is not None:
            return self.labels[nearest_rows(self.rows, 1, Y=rows)[:, 0]]
        return np.array(
            [self.numbers.get(c, -1) for c in self.clusterer.predict(rows).tolist()], dtype=np.int64
        )


def fit_clusterer(clusterer, rows, what, n_seed_checks=0):
    """Fit a clusterer in place and number its clusters by size; `what` names the rows in messages."""
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
    agreement = None
    seeds = parameters_named(unfitted, "random_state")
    if isinstance(unfitted, EigengapSpectralClustering):
        # The seed of this clusterer does not change the clusters, but that of a transformer in `neighbors` may.
        seeds.remove("random_state")
    if n_seed_checks and seeds:
        agreement = seed_agreement(
            labels,
            lambda seed: clone(unfitted).set_params(**dict.fromkeys(seeds, seed)).fit_predict(rows),
            n_seed_checks,
            rows_name=f"{what} ({len(rows)} samples)",
            clusterer_name=type(clusterer).__name__,
        )
    return FittedClusterer(
        clusterer, labels, numbers, None if hasattr(clusterer, "predict") else rows, agreement
    )


def codes_of_labels(labels, classes):
    """Return the position of each label among the sorted classes; -1 for unknown labels."""
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[codes] == labels, codes, -1)


def divided_by_largest(rows):
    """Divide each row by its largest absolute value; a row of zeros is unchanged."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1)
