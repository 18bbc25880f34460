"""Display of a few images, with what the model looked at."""

from skexmap.display._base import Display
from skexmap.display._grid import Grid
from skexmap.display._reading import explained, explainer_of, images_to_show, one_per_image
from skexmap.metrics._report import name_of


class HeatmapDisplay(Display):
    """Images beside their heatmaps, for one model or for two.

    Red supports the predicted class, and blue opposes it. Every map is divided by its largest absolute value and drawn
    over the image. A wrong prediction has a frame. Create it with `from_estimator`, or from arrays and then `plot` it.

    Parameters
    ----------
    images : ndarray of shape (n_samples, channels, height, width)
        As uint8 or floats. An image with floats outside of 0 to 1 is rescaled from its smallest to its largest value.
    heatmaps : dict
        Title -> relevance maps of shape (n_samples, channels, map_height, map_width). Channels are summed.
    y_pred : dict, default=None
        Title -> predicted classes of shape (n_samples,), or None.
    y_true : array-like of shape (n_samples,), default=None
        Classes of the images.
    class_names : dict or list of str, default=None
        Class -> name, or, for classes numbered from 0, a list.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        Where `plot` drew.

    Examples
    --------
    >>> import torch
    >>> from skexmap.display import HeatmapDisplay
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> display = HeatmapDisplay.from_estimator(net, torch.rand(3, 3, 8, 8), [0, 1, 1])
    >>> display.heatmaps["heatmap"].shape
    (3, 3, 8, 8)
    """

    def __init__(self, *, images, heatmaps, y_pred=None, y_true=None, class_names=None):
        self.images = images
        self.heatmaps = heatmaps
        self.y_pred = y_pred
        self.y_true = y_true
        self.class_names = class_names

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, after=None, class_names=None, ax=None):
        """Explain a few images and draw their heatmaps.

        Parameters
        ----------
        estimator : torch.nn.Module, HeatmapTransformer, ExMapClassifier, Pipeline or search
            A network, or a fitted estimator whose frozen model is explained. Maps are signed, whatever its `evidence`.
        X : as for the estimator
            A few images.
        y : array-like of shape (n_samples,), default=None
            Their classes.
        after : torch.nn.Module, default=None
            Second model, for example ``export_model(estimator)``, explained with the same settings.
        class_names, ax : as in the class, and in `plot`

        Raises
        ------
        ValueError
            If the estimator has no heatmaps, X does not hold images, or y has another length or other classes.
        """
        transformer = explainer_of(estimator).set_params(evidence="signed")
        images = images_to_show(X, transformer.load)
        y = None if y is None else one_per_image(y, len(X), "y")
        net = transformer.model
        models = {"heatmap": net} if after is None else {"before": net, "after": after}
        heatmaps, y_pred = {}, {}
        for title, model in models.items():
            heatmaps[title], y_pred[title], _ = explained(transformer.set_params(model=model), X, y)
        given = {"y_pred": y_pred, "y_true": y, "class_names": class_names}
        return cls(images=images, heatmaps=heatmaps, **given).plot(ax=ax)

    def _draw(self, ax):
        grid = Grid(ax, signed=any((maps < 0).any() for maps in self.heatmaps.values()))
        for row, image in enumerate(self.images):
            grid.image(row, 0, image)
            if self.y_true is not None:
                grid.caption(row, 0, name_of(self.y_true[row], self.class_names))
        for column, (title, maps) in enumerate(self.heatmaps.items(), start=1):
            predicted = (self.y_pred or {}).get(title)
            for row, plane in enumerate(maps.sum(axis=1)):
                grid.heatmap(row, column, plane, over=self.images[row])
                if predicted is not None:
                    wrong = self.y_true is not None and predicted[row] != self.y_true[row]
                    name = name_of(predicted[row], self.class_names)
                    grid.caption(row, column, f"predicted: {name}", wrong=wrong)
        columns = {title: column + 0.5 for column, title in enumerate(("image", *self.heatmaps))}
        return grid.finish(len(self.images), len(columns), self.images[0], columns)
