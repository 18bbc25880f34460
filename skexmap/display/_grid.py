"""A table of images and heatmaps in one matplotlib axes."""

import numpy as np

from skexmap.display._base import ALARM, shortened
from skexmap.features._loading import in_unit_range

# The part of a cell that an image fills: the rest is the space between images, and that for the text below one.
WIDTH, HEIGHT = 0.95, 0.8


class Grid:
    """Draws images in cells of size 1; the top left corner of a cell is at (column, row)."""

    def __init__(self, ax, *, signed):
        self.ax = ax
        self.colors = {"cmap": "RdBu_r" if signed else "Reds", "vmin": -1 if signed else 0, "vmax": 1}
        self.legend = (
            "red: for the predicted class, blue: against it" if signed else "red: where the model looked"
        )

    def image(self, row, column, image):
        """Show an image of shape (channels, height, width)."""
        self._show(row, column, image_to_show(image), cmap="gray", vmin=0, vmax=1)

    def heatmap(self, row, column, plane, over=None):
        """Show a map of shape (height, width), divided by its largest absolute value, alone or over an image."""
        plane, alpha = plane / (np.abs(plane).max() or 1), None
        if over is not None:
            # The image is gray and pale, so that its colors are not taken for relevance.
            pale = 0.7 + 0.3 * image_to_show(over.mean(axis=0, keepdims=True))
            self._show(row, column, pale, cmap="gray", vmin=0, vmax=1)
            # The root shows weak relevance too.
            alpha = np.sqrt(np.abs(plane))
        self._show(row, column, plane, alpha=alpha, **self.colors)

    def _show(self, row, column, values, **style):
        extent = (column, column + WIDTH, row + HEIGHT, row)
        self.ax.imshow(values, extent=extent, interpolation="nearest", **style)

    def caption(self, row, column, text, *, wrong=False):
        """Write a short text below an image; one that is wrong gets a frame."""
        color = ALARM if wrong else "black"
        place = (column + WIDTH / 2, row + HEIGHT + 0.02)
        self.ax.text(*place, shortened(text, 21), color=color, fontsize=7, ha="center", va="top")
        if wrong:
            x, y = np.array([0, 1, 1, 0, 0]) * WIDTH, np.array([0, 0, 1, 1, 0]) * HEIGHT
            self.ax.plot(column + x, row + y, color=ALARM, linewidth=2)

    def finish(self, n_rows, n_columns, image, columns, row_labels=()):
        """Label columns (text -> place) and rows, and return the size of a figure in inches."""
        ratio = image.shape[2] / image.shape[1]
        self.ax.set_xticks([place - 0.5 + WIDTH / 2 for place in columns.values()], columns, fontsize=8)
        self.ax.set_yticks(np.arange(len(row_labels)) + HEIGHT / 2, row_labels, fontsize=8)
        self.ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        self.ax.spines[:].set_visible(False)
        self.ax.set(xlim=(-0.03, n_columns), ylim=(n_rows, -0.03), aspect=WIDTH / HEIGHT / ratio, anchor="NW")
        self.ax.set_xlabel(self.legend, fontsize=8, color="gray", loc="left")
        return 1.8 + 1.2 * ratio * n_columns, 0.5 + 1.4 * n_rows


def image_to_show(image):
    """Return an image of shape (channels, height, width) as values from 0 to 1, gray or with the channels last."""
    image = image / 255 if image.dtype == np.uint8 else image
    image = in_unit_range(image)
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(axis=0)
