"""Display of the images of each class x cluster."""

from itertools import product

import numpy as np

from skexmap._blocks import CLUSTER, get_block
from skexmap._group_labels import cluster_of_class
from skexmap._validation import codes_of_known_classes
from skexmap.display._grid import Grid
from skexmap.display._reading import (
    checked_maps,
    explained,
    heatmap_transformer_of,
    labeler_of,
    read_images,
)
from skexmap.display._style import group_name, shortened_name
from skexmap.metrics._group_metrics import correct_predictions, membership

KINDS = ("typical", "atypical", "wrong")


class GroupGalleryDisplay:
    """Images of each class x cluster: its mean heatmap, and typical, atypical and wrong images.

    *Typical* images are those whose heatmap is nearest to the mean of the group, and *atypical* images are the
    farthest, in the distance between absolute maps that sum to 1. *Wrong* images are the most typical of those that the
    model gets wrong and that are not yet shown. Every image that the model gets wrong has a frame, and below it the
    class that was predicted. Create it with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    groups : list of dict
        One for each class x cluster, with the keys ``class``, ``cluster``, ``size``, ``accuracy``, ``mean_map`` (of
        shape (height, width)), and ``typical``, ``atypical`` and ``wrong`` (indices of samples, at most
        `n_examples`).
    images : dict
        Index of a sample -> image, of shape (channels, height, width), for all samples shown.
    predicted : dict
        Index of a sample -> class that the model predicts, for all samples shown that are wrong.
    n_examples : int
        Number of images of each kind.
    class_names, cluster_names : dict or list of str, default=None
        Name of each class, and of each cluster: label -> name, or, for labels from 0, a list.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes, after `plot`.
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.

    See Also
    --------
    skexmap.report.ShortcutReport : Which cluster is likely a shortcut.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.display import GroupGalleryDisplay
    >>> rng = np.random.RandomState(0)
    >>> display = GroupGalleryDisplay.from_predictions(
    ...     rng.uniform(size=(6, 3, 8, 8)),
    ...     rng.normal(size=(6, 3, 4, 4)),
    ...     y_true=["duck", "swan"] * 3,
    ...     y_pred=["duck"] * 6,
    ...     cluster_labels=[0, 0, 1, 1, 1, 1],
    ...     n_examples=1,
    ... )
    >>> [(group["class"], group["cluster"], group["size"]) for group in display.groups]
    [('duck', 0, 1), ('duck', 1, 2), ('swan', 0, 1), ('swan', 1, 2)]
    """

    def __init__(self, *, groups, images, predicted, n_examples, class_names=None, cluster_names=None):
        self.groups = groups
        self.images = images
        self.predicted = predicted
        self.n_examples = n_examples
        self.class_names = class_names
        self.cluster_names = cluster_names

    @classmethod
    def from_estimator(cls, estimator, X, y, *, n_examples=3, class_names=None, ax=None):
        """Explain images, assign them to the clusters of a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : ExMapClassifier, Pipeline or search
            Fitted estimator with heatmaps and clusters.
        X : as for the estimator
            Images: those of `fit`, or others. Their heatmaps are computed. To avoid this, use `from_predictions` with
            heatmaps that were kept, or a transformer with ``memory=``.
        y : array-like of shape (n_samples,)
            Their classes.
        n_examples : int, default=3
            Number of images of each kind.
        class_names : dict or list of str, default=None
            As in the class.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : GroupGalleryDisplay

        Raises
        ------
        ValueError
            If the estimator has no heatmaps or no clusters, X does not hold images, lengths differ, or y holds a class
            that `fit` did not see.
        """
        labeler = labeler_of(estimator)
        blocks, heatmaps, y_pred = explained(estimator, X)
        if y_pred is None:
            raise ValueError("The model has no dense last layer, so that its predictions are not known.")
        clusters = get_block(labeler.transform(blocks), CLUSTER, required_by=labeler)
        # Clusters inside each class have one column per class.
        if clusters.ndim == 2:
            clusters = cluster_of_class(clusters, codes_of_known_classes(y, labeler.classes_, len(clusters)))
        return cls.from_predictions(
            X,
            heatmaps,
            y,
            y_pred,
            cluster_labels=clusters,
            load=heatmap_transformer_of(estimator)[0].load,
            n_examples=n_examples,
            class_names=class_names,
            cluster_names=getattr(labeler, "cluster_names_", None),
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        X,
        heatmaps,
        y_true,
        y_pred,
        *,
        cluster_labels,
        load=None,
        n_examples=3,
        class_names=None,
        cluster_names=None,
        ax=None,
    ):
        """Draw images whose heatmaps, clusters and predicted classes are given.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), or paths or indices of shape (n_samples,)
            Images, or what `load` turns into them. Only those that are shown are read.
        heatmaps : array-like of shape (n_samples, channels, map_height, map_width)
            Their relevance maps. Maps without channels have the shape (n_samples, map_height, map_width).
        y_true, y_pred : array-like of shape (n_samples,)
            Their classes, and those that the model predicts.
        cluster_labels : array-like of shape (n_samples,)
            Cluster of each image, or anything else to cross with the classes, such as the true background. Images of
            cluster -1 ("belongs to none") are not shown.
        load : callable, default=None
            As in `HeatmapTransformer`.
        n_examples : int, default=3
            Number of images of each kind.
        class_names, cluster_names : dict or list of str, default=None
            As in the class.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : GroupGalleryDisplay

        Raises
        ------
        ValueError
            If X does not hold images, lengths differ, maps have the wrong shape or are not finite, or no image belongs
            to a cluster.
        """
        correct = correct_predictions(y_true, y_pred).astype(bool)
        heatmaps = checked_maps(heatmaps, len(correct))
        clusters = membership(cluster_labels, len(correct), name="cluster_labels")
        if len(X) != len(correct):
            raise ValueError(f"X has {len(X)} images, but `y_true` has {len(correct)} entries.")
        y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
        groups = []
        for label, (code, cluster) in product(np.unique(y_true).tolist(), enumerate(clusters.labels)):
            members = np.flatnonzero((y_true == label) & (clusters.codes == code))
            if len(members):
                group = chosen_images(members, heatmaps[members], correct[members], n_examples)
                groups.append({"class": label, "cluster": cluster, **group})
        shown = np.unique(np.concatenate([group[kind] for group in groups for kind in KINDS])).astype(int)
        wrong = shown[~correct[shown]]
        return cls(
            groups=groups,
            images=dict(zip(shown.tolist(), read_images(X, load, shown), strict=True)),
            predicted=dict(zip(wrong.tolist(), y_pred[wrong].tolist(), strict=True)),
            n_examples=n_examples,
            class_names=class_names,
            cluster_names=cluster_names,
        ).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : GroupGalleryDisplay
        """
        signed = any((group["mean_map"] < 0).any() for group in self.groups)
        height, width = next(iter(self.images.values())).shape[1:]
        n = self.n_examples
        grid = Grid(self, ax, len(self.groups), 1 + len(KINDS) * n, width / height, signed=signed)
        labels = []
        for row, group in enumerate(self.groups):
            grid.heatmap(row, 0, group["mean_map"])
            for number, kind in enumerate(KINDS):
                for column, index in enumerate(group[kind], start=1 + number * n):
                    grid.image(row, column, self.images[index])
                    if index in self.predicted:
                        name = shortened_name(self.predicted[index], self.class_names, 14)
                        grid.caption(row, column, f"predicted: {name}", wrong=True)
            labels.append(
                f"{group_name(group['class'], group['cluster'], self.class_names, self.cluster_names)}\n"
                f"{group['size']} images, {group['accuracy']:.0%} right"
            )
        grid.label(labels, [(0, 1, "mean heatmap"), *((1 + i * n, n, kind) for i, kind in enumerate(KINDS))])
        return self


def chosen_images(members, heatmaps, correct, n_examples):
    """Return the size, accuracy, mean map and chosen images of a group; `members` are indices of samples."""
    maps = np.abs(heatmaps.reshape(len(members), -1))
    maps = maps / np.maximum(maps.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    order = np.argsort(((maps - maps.mean(axis=0)) ** 2).sum(axis=1), kind="stable")
    typical, others = order[:n_examples], order[n_examples:]
    wrong = others[~correct[others]][:n_examples]
    atypical = np.setdiff1d(others, wrong, assume_unique=True)[::-1][:n_examples]
    chosen = {"typical": typical, "atypical": atypical, "wrong": wrong}
    return {
        "size": len(members),
        "accuracy": float(correct.mean()),
        "mean_map": heatmaps.sum(axis=1).mean(axis=0),
        **{kind: members[rows].tolist() for kind, rows in chosen.items()},
    }
