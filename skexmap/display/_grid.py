"""A table of images and heatmaps in one matplotlib axes."""

import numpy as np

from skexmap.display._style import ALARM, axes_for

SIGNED, MAGNITUDE = "RdBu_r", "Reds"
# Inches: side of a cell, and room for the labels on the left and at the top.
CELL, LEFT, TOP = 1.15, 1.7, 0.55
# Parts of a cell: between cells, and for the text below an image.
GAP, CAPTION = 0.06, 0.2


class Grid:
    """Draws cells of equal size; `ratio` is the width of an image divided by its height."""

    def __init__(self, display, ax, n_rows, n_columns, ratio, *, signed, bar=True):
        self.shape, self.ratio = (n_rows, n_columns), ratio
        self.colors = {"cmap": SIGNED if signed else MAGNITUDE, "vmin": -1 if signed else 0, "vmax": 1}
        height = CELL * (1 + CAPTION + GAP)
        self.ax = axes_for(
            display, ax, LEFT + CELL * (ratio + GAP) * n_columns + 0.8 * bar, TOP + height * n_rows
        )

    def extent(self, row, column):
        """Return the left, right, bottom and top of a cell; the y-axis points down."""
        left, top = column * (self.ratio + GAP), row * (1 + CAPTION + GAP)
        return left, left + self.ratio, top + 1, top

    def image(self, row, column, image):
        """Show an image of shape (channels, height, width)."""
        self._show(row, column, image_to_show(image), cmap="gray", vmin=0, vmax=1)

    def heatmap(self, row, column, plane):
        """Show a map of shape (height, width), divided by its largest absolute value."""
        self._show(row, column, plane / (np.abs(plane).max() or 1), **self.colors)

    def overlay(self, row, column, image, plane):
        """Show a map over its image, which is gray and pale, so that its colors are not taken for relevance."""
        gray = image_to_show(image)
        gray = gray if gray.ndim == 2 else gray.mean(axis=-1)
        self._show(row, column, 0.7 + 0.3 * gray, cmap="gray", vmin=0, vmax=1)
        plane = plane / (np.abs(plane).max() or 1)
        # The root shows weak relevance too.
        self._show(row, column, plane, alpha=np.sqrt(np.abs(plane)), **self.colors)

    def _show(self, row, column, values, **style):
        self.ax.imshow(values, extent=self.extent(row, column), interpolation="nearest", **style)

    def caption(self, row, column, text, *, wrong=False):
        """Write below a cell; a cell that is wrong gets a frame."""
        left, right, bottom, top = self.extent(row, column)
        color = ALARM if wrong else "black"
        self.ax.text((left + right) / 2, bottom + 0.02, text, color=color, fontsize=7, ha="center", va="top")
        if wrong:
            x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
            self.ax.plot(x, y, color=ALARM, linewidth=2)

    def label(self, row_labels, column_labels):
        """Write the labels of the rows, and those of columns as (first column, number of columns, text)."""
        n_rows, n_columns = self.shape
        ends = [self.extent(row, 0) for row in range(n_rows)]
        self.ax.set_yticks([(top + bottom) / 2 for _, _, bottom, top in ends], row_labels, fontsize=8)
        middles = [
            (self.extent(0, first)[0] + self.extent(0, first + n - 1)[1]) / 2 for first, n, _ in column_labels
        ]
        self.ax.set_xticks(middles, [text for _, _, text in column_labels], fontsize=8)
        self.ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        self.ax.spines[:].set_visible(False)
        self.ax.set_xlim(-GAP, self.extent(0, n_columns - 1)[1] + GAP)
        self.ax.set_ylim(ends[-1][2] + CAPTION + GAP, -GAP)
        self.ax.set_aspect("equal")

    def add_bar(self, text):
        """Show the scale of the maps beside the grid."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(self.colors["vmin"], 1), self.colors["cmap"])
        bar = self.ax.figure.colorbar(
            scale,
            ax=self.ax,
            shrink=min(1, 2.5 / self.shape[0]),
            aspect=15,
            ticks=[self.colors["vmin"], 0, 1],
        )
        bar.set_label(text, fontsize=8)
        bar.ax.tick_params(labelsize=8)


def image_to_show(image):
    """Return an image of shape (channels, height, width) as values from 0 to 1, gray or with the channels last."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / ((high - low) or 1)
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(axis=0)
