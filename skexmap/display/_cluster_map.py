"""Display of heatmaps as points in two dimensions."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, SpectralEmbedding
from sklearn.utils import check_array

from skexmap._group_labels import NO_GROUP
from skexmap._validation import check_group_labels
from skexmap.display._base import COLORS, PALE, Display, group_name
from skexmap.display._reading import explained_groups, one_per_image
from skexmap.features._loading import rows_of

MAX_POINTS, N_COMPONENTS, N_NEIGHBORS, MARKERS = 1000, 30, 30, ("o", "s", "^", "D", "v")


class ClusterMapDisplay(Display):
    """Heatmaps as points in two dimensions, colored by group.

    At most 1,000 heatmaps are shown, drawn at random with a fixed seed. They are reduced to 30 principal components and
    then to two dimensions. Create it with `from_estimator` or `from_predictions`, or from coordinates of your own and
    then `plot` it.

    Parameters
    ----------
    points : ndarray of shape (n_points, 2)
        Coordinates.
    group_labels : ndarray of shape (n_points,)
        Group of each point: integers or names. Points of group -1 ("belongs to none") are gray.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        Where `plot` drew.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skexmap.display import ClusterMapDisplay
    >>> X, blob = make_blobs([60, 50, 40], n_features=10, random_state=0)
    >>> ClusterMapDisplay.from_predictions(X, group_labels=blob).points.shape
    (150, 2)
    """

    def __init__(self, *, points, group_labels):
        self.points = points
        self.group_labels = group_labels

    @classmethod
    def from_estimator(cls, estimator, X, y, *, group_labels=None, class_names=None, method="tsne", ax=None):
        """Explain the images that are shown, and draw their heatmaps; for kept `heatmaps_`, see `from_predictions`.

        Parameters
        ----------
        estimator, X, y, class_names : as in `GroupGalleryDisplay.from_estimator`
        group_labels : array-like of shape (n_samples,), default=None
            True groups, or ``np.where(y_pred == y, "right", "wrong")``. If None, the pseudo-groups class x cluster.
        method, ax : as in `from_predictions`
        """
        rows = shown_rows(len(X))
        y = one_per_image(y, len(X), "y")[rows]
        if group_labels is not None:
            group_labels = check_group_labels(group_labels, len(X))[rows]
        heatmaps, _, groups = explained_groups(estimator, rows_of(X, rows), y, group_labels, class_names)
        return cls.from_predictions(heatmaps, group_labels=groups, method=method, ax=ax)

    @classmethod
    def from_predictions(cls, heatmaps, *, group_labels, method="tsne", ax=None):
        """Draw heatmaps that are given.

        Parameters
        ----------
        heatmaps : array-like of shape (n_samples, ...)
            Heatmaps, flat or not.
        group_labels : array-like of shape (n_samples,)
            What the colors show: integers or names.
        method : {"tsne", "spectral", "umap"}, default="tsne"
            How the points are found. ``"spectral"`` is scikit-learn's `SpectralEmbedding` of the graph of 30 nearest
            neighbors, which is near to what `EigengapSpectralClustering` sees. If the graph falls apart, each part may
            shrink to a point, and scikit-learn warns. ``"umap"`` needs umap-learn (``pip install 'skexmap[umap]'``).
        ax : as in `plot`

        Raises
        ------
        ValueError
            If the method is unknown, lengths differ, values are not finite, or there are fewer than 4 heatmaps for
            ``"spectral"``.
        ImportError
            If umap-learn is missing.
        """
        maps = check_array(heatmaps, ensure_2d=False, allow_nd=True, ensure_min_samples=3)
        group_labels = check_group_labels(group_labels, len(maps))
        rows = shown_rows(len(maps))
        points = points_of(maps[rows].reshape(len(rows), -1), method)
        return cls(points=points, group_labels=group_labels[rows]).plot(ax=ax)

    def _draw(self, ax):
        for number, label in enumerate(np.unique(self.group_labels).tolist()):
            # There may be more groups than colors, so that markers change, too.
            color = PALE if label == NO_GROUP else COLORS[number % len(COLORS)]
            marker = MARKERS[number // len(COLORS) % len(MARKERS)]
            x, y = self.points[self.group_labels == label].T
            name = f"{group_name(label)} ({len(x)})"
            ax.scatter(x, y, s=14, color=color, marker=marker, alpha=0.7, linewidths=0, label=name)
        ax.set(xticks=[], yticks=[])
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        return 7.0, 4.8


def shown_rows(n_samples):
    """Return the rows that are shown, ascending: all of them, or a random sample."""
    return np.sort(np.random.RandomState(0).permutation(n_samples)[:MAX_POINTS])


def points_of(maps, method):
    """Return flat maps as points in two dimensions."""
    if min(maps.shape) > N_COMPONENTS:
        maps = PCA(N_COMPONENTS, random_state=0).fit_transform(maps)
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {sorted(METHODS)}, got {method!r}.")
    return METHODS[method](maps)


def by_tsne(maps):
    """Return the points of t-SNE."""
    return TSNE(perplexity=min(N_NEIGHBORS, (len(maps) - 1) / 3), random_state=0).fit_transform(maps)


def by_spectrum(maps):
    """Return the points of the spectral embedding of the nearest neighbors."""
    if len(maps) < 4:
        raise ValueError(f"method='spectral' needs at least 4 heatmaps, got {len(maps)}. Pass more images.")
    n_neighbors = min(N_NEIGHBORS, len(maps) - 1)
    embedding = SpectralEmbedding(affinity="nearest_neighbors", n_neighbors=n_neighbors, random_state=0)
    return embedding.fit_transform(maps)


def by_umap(maps):
    """Return the points of UMAP."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("method='umap' needs umap-learn: `pip install 'skexmap[umap]'`.") from error
    return UMAP(random_state=0, n_jobs=1).fit_transform(maps)


METHODS = {"tsne": by_tsne, "spectral": by_spectrum, "umap": by_umap}
