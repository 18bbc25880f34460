"""Display of a few images, with what the model looked at."""

from skexmap.display._grid import Grid
from skexmap.display._reading import (
    checked_classes,
    checked_maps,
    explained,
    heatmap_transformer_of,
    read_images,
)
from skexmap.display._style import shortened_name


class HeatmapDisplay:
    """Images, each beside its heatmap, and optionally beside that of a second model.

    Signed maps are drawn from blue (opposes the explained class) over white to red (supports it), and maps without
    negative values from white to red. Every map is divided by its largest absolute value. Create it with
    `from_estimator` or `from_predictions`.

    Parameters
    ----------
    images : ndarray of shape (n_samples, channels, height, width)
        Floats. An image with values outside of 0 to 1 is rescaled from its smallest to its largest value.
    heatmaps, heatmaps_after : ndarray of shape (n_samples, channels, map_height, map_width)
        Their relevance maps, and those of a second model or None. Channels are summed.
    y_true, y_pred, y_pred_after : array-like of shape (n_samples,) or None, default=None
        Their classes, and those that the model and the second model predict.
    class_names : dict or list of str, default=None
        Name of each class: label -> name, or, for classes numbered from 0, a list.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes, after `plot`.
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.

    See Also
    --------
    GroupGalleryDisplay : Images of each class x cluster.

    Examples
    --------
    >>> import torch
    >>> from skexmap import HeatmapTransformer
    >>> from skexmap.display import HeatmapDisplay
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> images = torch.rand(3, 3, 8, 8)
    >>> transformer = HeatmapTransformer(net).fit(images)
    >>> display = HeatmapDisplay.from_estimator(transformer, images, [0, 1, 1])
    >>> [label.get_text() for label in display.ax_.get_xticklabels()]
    ['image', 'overlay', 'heatmap']
    """

    def __init__(
        self,
        *,
        images,
        heatmaps,
        heatmaps_after=None,
        y_true=None,
        y_pred=None,
        y_pred_after=None,
        class_names=None,
    ):
        self.images = images
        self.heatmaps = heatmaps
        self.heatmaps_after = heatmaps_after
        self.y_true = y_true
        self.y_pred = y_pred
        self.y_pred_after = y_pred_after
        self.class_names = class_names

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, model_after=None, evidence="signed", class_names=None, ax=None
    ):
        """Explain a few images and draw them.

        Parameters
        ----------
        estimator : HeatmapTransformer, ExMapClassifier, Pipeline or search
            Fitted estimator that is, or contains, a `HeatmapTransformer`. Its frozen model is explained.
        X : as for the estimator
            A few images, or what its `load` turns into them.
        y : array-like of shape (n_samples,), default=None
            Their classes.
        model_after : torch.nn.Module, default=None
            Second model, for example ``export_model(estimator)``. It is explained with the same settings.
        evidence : {"signed", "magnitude"}, default="signed"
            Which maps to show, as in `HeatmapTransformer`.
        class_names : dict or list of str, default=None
            As in the class.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : HeatmapDisplay

        Raises
        ------
        ValueError
            If the estimator has no heatmaps, X does not hold images, or lengths differ.
        """
        _, heatmaps, y_pred = explained(estimator, X, evidence=evidence)
        after = y_pred_after = None
        if model_after is not None:
            _, after, y_pred_after = explained(estimator, X, evidence=evidence, model=model_after)
        return cls.from_predictions(
            X,
            heatmaps,
            y,
            y_pred,
            heatmaps_after=after,
            y_pred_after=y_pred_after,
            load=heatmap_transformer_of(estimator)[0].load,
            class_names=class_names,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        X,
        heatmaps,
        y_true=None,
        y_pred=None,
        *,
        heatmaps_after=None,
        y_pred_after=None,
        load=None,
        class_names=None,
        ax=None,
    ):
        """Draw heatmaps that are given.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), or paths or indices of shape (n_samples,)
            A few images, or what `load` turns into them.
        heatmaps, heatmaps_after : array-like of shape (n_samples, channels, map_height, map_width)
            Their relevance maps, and those of a second model (None if there is none). Maps without channels have the
            shape (n_samples, map_height, map_width).
        y_true, y_pred, y_pred_after : array-like of shape (n_samples,), default=None
            Their classes, and those that the model and the second model predict.
        load : callable, default=None
            As in `HeatmapTransformer`.
        class_names : dict or list of str, default=None
            As in the class.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : HeatmapDisplay

        Raises
        ------
        ValueError
            If X does not hold images, lengths differ, or maps have the wrong shape or are not finite.
        """
        images = read_images(X, load)
        if heatmaps_after is not None:
            heatmaps_after = checked_maps(heatmaps_after, len(images), "heatmaps_after")
        classes = {"y_true": y_true, "y_pred": y_pred, "y_pred_after": y_pred_after}
        return cls(
            images=images,
            heatmaps=checked_maps(heatmaps, len(images)),
            heatmaps_after=heatmaps_after,
            class_names=class_names,
            **{name: checked_classes(values, len(images), name) for name, values in classes.items()},
        ).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw in. If None, a new figure is created.

        Returns
        -------
        display : HeatmapDisplay
        """
        models = [(self.heatmaps, self.y_pred, "" if self.heatmaps_after is None else "before: ")]
        if self.heatmaps_after is not None:
            models.append((self.heatmaps_after, self.y_pred_after, "after: "))
        signed = any((maps < 0).any() for maps, _, _ in models)
        ratio = self.images.shape[3] / self.images.shape[2]
        grid = Grid(self, ax, len(self.images), 1 + 2 * len(models), ratio, signed=signed)
        columns = [(0, 1, "image")]
        for row, image in enumerate(self.images):
            grid.image(row, 0, image)
        for number, (maps, predicted, when) in enumerate(models):
            first = 1 + 2 * number
            columns += [(first, 1, f"{when}overlay"), (first + 1, 1, f"{when}heatmap")]
            for row, plane in enumerate(maps.sum(axis=1)):
                grid.overlay(row, first, self.images[row], plane)
                grid.heatmap(row, first + 1, plane)
                if predicted is not None:
                    wrong = self.y_true is not None and predicted[row] != self.y_true[row]
                    name = shortened_name(predicted[row], self.class_names, 14)
                    grid.caption(row, first, f"predicted: {name}", wrong=wrong)
        labels = [""] * len(self.images)
        if self.y_true is not None:
            labels = [shortened_name(label, self.class_names) for label in self.y_true]
        grid.label(labels, columns)
        grid.add_bar("relevance / its largest" + (" absolute value" if signed else " value"))
        return self
