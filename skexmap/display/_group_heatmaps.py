"""Display of images and their heatmaps, group by group."""

import numpy as np

from skexmap._group_labels import NO_GROUP
from skexmap.display._matplotlib import require_pyplot
from skexmap.metrics._report import name_of

_COLORS = "RdBu_r"


class GroupHeatmapDisplay:
    """Images of every group, with their heatmaps and pseudo-groups.

    Relevance is drawn over the gray image in a diverging color map centered on 0: red supports the explained class, and
    blue opposes it. Every heatmap is scaled by its own largest absolute value. Create it with `from_arrays`.

    Parameters
    ----------
    images : ndarray of shape (n_samples, n_channels, height, width) or (n_samples, height, width)
        Images with one or three channels, as uint8 or as floats from 0 to 1. An image with other values is rescaled
        from its smallest to its largest value.
    heatmaps : ndarray of shape (n_samples, n_channels, side, side) or (n_samples, side, side)
        Relevance maps of the images, of any size; channels are summed.
    group_labels, pseudo_groups : ndarray of shape (n_samples,)
        Group and pseudo-group of each sample: integers or strings. Group -1 is not shown.
    group_names : dict or list of str, default=None
        Name of each group: group label -> name, or, for groups numbered from 0, a list. Groups without a name show
        their label.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.
    axes_ : ndarray of Axes of shape (2 * n_examples, n_groups)
        The axes: rows of images alternate with rows of their heatmaps.
    rows_ : ndarray of shape (n_examples, n_groups), int64
        Index of the sample in each place; -1 if a group has too few samples.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.display import GroupHeatmapDisplay
    >>> rng = np.random.RandomState(0)
    >>> display = GroupHeatmapDisplay.from_arrays(
    ...     rng.uniform(size=(6, 3, 8, 8)),
    ...     rng.normal(size=(6, 3, 4, 4)),
    ...     group_labels=["land", "water"] * 3,
    ...     pseudo_groups=[0, 1, 0, 1, 1, 1],
    ... )
    >>> display.axes_.shape
    (2, 2)
    >>> display.rows_
    array([[0, 1]])
    """

    def __init__(self, *, images, heatmaps, group_labels, pseudo_groups, group_names=None):
        self.images = images
        self.heatmaps = heatmaps
        self.group_labels = group_labels
        self.pseudo_groups = pseudo_groups
        self.group_names = group_names

    @classmethod
    def from_arrays(cls, images, heatmaps, *, group_labels, pseudo_groups, group_names=None, n_examples=1):
        """Draw the first images of every group.

        Parameters
        ----------
        images, heatmaps, group_labels, pseudo_groups, group_names
            As in the class, or any array-like.
        n_examples : int, default=1
            Number of images to show of every group; the first ones are taken.

        Returns
        -------
        display : GroupHeatmapDisplay

        Raises
        ------
        ValueError
            If lengths or shapes do not match, or no sample belongs to a group.
        """
        display = cls(
            images=_with_channels(images, "images"),
            heatmaps=_with_channels(heatmaps, "heatmaps"),
            group_labels=np.asarray(group_labels),
            pseudo_groups=np.asarray(pseudo_groups),
            group_names=group_names,
        )
        return display.plot(n_examples=n_examples)

    def plot(self, *, n_examples=1):
        """Draw the display in a new figure.

        Parameters
        ----------
        n_examples : int, default=1
            Number of images to show of every group; the first ones are taken.

        Returns
        -------
        display : GroupHeatmapDisplay
        """
        pyplot = require_pyplot(f"{type(self).__name__}.plot")
        groups = self._groups()
        shape = (2 * n_examples, len(groups))
        self.rows_ = _first_rows(self.group_labels, groups, n_examples)
        self.figure_, self.axes_ = pyplot.subplots(
            *shape,
            figsize=(1.9 * shape[1] + 0.9, 2.05 * shape[0]),
            layout="constrained",
            squeeze=False,
        )
        for cell in self.axes_.ravel():
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        for cell, group in zip(self.axes_[0], groups, strict=True):
            cell.set_title(name_of(group, self.group_names), fontsize="medium")
        for example, column in np.argwhere(self.rows_ >= 0):
            self._draw_pair(self.axes_[2 * example : 2 * example + 2, column], self.rows_[example, column])
        scale = pyplot.cm.ScalarMappable(norm=pyplot.Normalize(-1, 1), cmap=_COLORS)
        bar = self.figure_.colorbar(scale, ax=self.axes_, shrink=0.6, ticks=[-1, 0, 1])
        bar.set_label("relevance / its largest absolute value")
        return self

    def _groups(self):
        names = ("images", "heatmaps", "group_labels", "pseudo_groups")
        lengths = {name: len(getattr(self, name)) for name in names}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"All arrays must have one entry per sample, got {lengths}.")
        groups = np.unique(self.group_labels[self.group_labels != NO_GROUP]).tolist()
        if not groups:
            raise ValueError(f"None of the {len(self.group_labels)} samples belongs to a group.")
        return groups

    def _draw_pair(self, cells, row):
        image = _displayable(self.images[row])
        cells[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        height, width = image.shape[:2]
        # Draw the image in pale gray, so that its colors are not mistaken for relevance.
        gray = image if image.ndim == 2 else image.mean(axis=-1)
        cells[1].imshow(0.75 + 0.25 * gray, cmap="gray", vmin=0, vmax=1)
        relevance = self.heatmaps[row].sum(axis=0)
        relevance = relevance / (np.abs(relevance).max() or 1)
        cells[1].imshow(
            relevance,
            cmap=_COLORS,
            vmin=-1,
            vmax=1,
            # The image shows through where relevance is low.
            alpha=np.sqrt(np.abs(relevance)),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
        cells[1].set_xlabel(f"pseudo-group {self.pseudo_groups[row]}")


def _first_rows(group_labels, groups, n_examples):
    """Return the first samples of each group, shape (n_examples, n_groups); -1 if there are too few."""
    rows = np.full((n_examples, len(groups)), -1)
    for column, group in enumerate(groups):
        first = np.flatnonzero(group_labels == group)[:n_examples]
        rows[: len(first), column] = first
    return rows


def _with_channels(values, name):
    values = np.asarray(values)
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4:
        raise ValueError(
            f"`{name}` must have shape (n_samples, n_channels, height, width) or (n_samples, height, width), "
            f"got {values.shape}. Reshape flat heatmaps to (-1, n_channels, side, side)."
        )
    if name == "images" and values.shape[1] not in (1, 3):
        raise ValueError(f"`images` must have 1 or 3 channels, got {values.shape[1]} (shape {values.shape}).")
    return values


def _displayable(image):
    """Return a (channels, height, width) image as floats from 0 to 1, channels last."""
    if image.dtype == np.uint8:
        image = image / 255
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / ((high - low) or 1)
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
