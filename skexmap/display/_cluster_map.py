"""Display of heatmaps as points in two dimensions."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.utils import check_array, check_random_state

from skexmap._group_labels import NO_GROUP
from skexmap._validation import check_group_labels
from skexmap.cluster._spectrum import graph_spectrum
from skexmap.display._reading import part_with, parts_of
from skexmap.display._style import COLORS, MARKERS, PALE, axes_for, shortened_name


class ClusterMapDisplay:
    """Heatmaps as points in two dimensions, colored by group.

    Create it with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
        Coordinates.
    labels : ndarray of shape (n_samples,)
        What the colors show. Label -1 ("belongs to none") is gray.
    names : dict or list of str, default=None
        Name of each label: label -> name, or, for labels numbered from 0, a list.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes, after `plot`.
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skexmap.cluster import EigengapSpectralClustering
    >>> from skexmap.display import ClusterMapDisplay
    >>> X, _ = make_blobs([60, 50, 40], n_features=10, cluster_std=4, random_state=0)
    >>> clusterer = EigengapSpectralClustering(n_neighbors=20, random_state=0).fit(X)
    >>> ClusterMapDisplay.from_estimator(clusterer).points.shape
    (150, 2)
    """

    def __init__(self, *, points, labels, names=None):
        self.points = points
        self.labels = labels
        self.names = names

    @classmethod
    def from_estimator(cls, estimator, *, labels=None, names=None, random_state=0, ax=None):
        """Draw the graph of a fitted clusterer by its second and third eigenvectors.

        A graph that falls into several components becomes a few spots; `from_predictions` with "tsne" shows more.

        Parameters
        ----------
        estimator : clusterer, PseudoGroupLabeler, ExMapClassifier, Pipeline or search
            Fitted estimator that is, or contains, a clusterer with an `affinity_matrix_`.
        labels : array-like of shape (n_samples,), default=None
            What the colors show, such as true groups, or ``np.where(y_pred == y, "right", "wrong")``. If None, the
            pseudo-groups, or the clusters if there are no pseudo-groups.
        names : dict or list of str, default=None
            As in the class.
        random_state : int, RandomState instance or None, default=0
            Starts the eigensolver.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : ClusterMapDisplay

        Raises
        ------
        ValueError
            If the estimator has no clusterer with a graph, or lengths differ.
        """
        clusterer = part_with("affinity_matrix_", estimator, "Use `from_predictions` with another method.")
        if labels is None:
            # A clusterer alone has `labels_`; what contains it has pseudo-groups.
            parts = [p for p in parts_of(estimator) if hasattr(p, "group_labels_")]
            labels = parts[0].group_labels_ if parts else clusterer.labels_
        rng = check_random_state(random_state)
        _, vectors, _ = graph_spectrum(clusterer.affinity_matrix_, 3, rng)
        return cls.from_predictions(vectors[:, 1:3], labels, method="precomputed", names=names, ax=ax)

    @classmethod
    def from_predictions(cls, heatmaps, labels, *, method="tsne", names=None, random_state=0, ax=None):
        """Draw heatmaps or coordinates that are given.

        Parameters
        ----------
        heatmaps : array-like of shape (n_samples, ...), or (n_samples, 2) if they are precomputed
            Heatmaps, flat or not, or coordinates.
        labels : array-like of shape (n_samples,)
            What the colors show.
        method : {"tsne", "umap", "precomputed"}, default="tsne"
            How the points are found. ``"umap"`` needs umap-learn (``pip install 'skexmap[umap]'``).
        names : dict or list of str, default=None
            As in the class.
        random_state : int, RandomState instance or None, default=0
            Seeds the method.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : ClusterMapDisplay

        Raises
        ------
        ValueError
            If the method is unknown, lengths differ, or values are not finite.
        ImportError
            If umap-learn is missing.
        """
        rows = check_array(heatmaps, ensure_2d=False, allow_nd=True, ensure_min_samples=3)
        rows = rows.reshape(len(rows), -1)
        labels = check_group_labels(labels, len(rows), name="labels")
        if method == "precomputed":
            if rows.shape[1] != 2:
                raise ValueError(f"Precomputed coordinates must have shape (n_samples, 2), got {rows.shape}.")
        elif method in ("tsne", "umap"):
            rows = points_of(rows, method, random_state)
        else:
            raise ValueError(f"`method` must be 'tsne', 'umap' or 'precomputed', got {method!r}.")
        return cls(points=rows, labels=labels, names=names).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : ClusterMapDisplay
        """
        ax = axes_for(self, ax, 7.0, 4.8)
        labels = np.unique(self.labels).tolist()
        handles = []
        for number, label in enumerate(labels):
            # There are more labels than colors that can be told apart, so that markers change, too.
            color = PALE if label == NO_GROUP else COLORS[number % len(COLORS)]
            marker = MARKERS[number // len(COLORS) % len(MARKERS)]
            x, y = self.points[self.labels == label].T
            handles.append(ax.scatter(x, y, s=12, color=color, marker=marker, alpha=0.7, linewidths=0))
        ax.set(xticks=[], yticks=[])
        names = ["none" if k == NO_GROUP else shortened_name(k, self.names) for k in labels]
        ax.legend(handles, names, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        return self


def points_of(rows, method, random_state):
    """Return rows as points in two dimensions."""
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError(
                "method='umap' needs umap-learn. Install it with `pip install 'skexmap[umap]'`, or use method='tsne'."
            ) from error
        return UMAP(random_state=random_state, n_jobs=1).fit_transform(rows)
    # As its authors advise, t-SNE gets at most 50 dimensions.
    if min(rows.shape) > 50:
        rows = PCA(50, random_state=random_state).fit_transform(rows)
    perplexity = min(30, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=random_state).fit_transform(rows)
