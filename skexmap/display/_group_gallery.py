"""Display of the images of each group."""

import numpy as np

from skexmap.display._base import Display, group_name
from skexmap.display._grid import Grid
from skexmap.display._reading import explained_groups, explainer_of, images_to_show, one_per_image
from skexmap.groups._typical import most_typical_first
from skexmap.metrics._report import name_of

KINDS = ("typical", "atypical", "wrong")


class GroupGalleryDisplay(Display):
    """Images of each group: its mean heatmap, and typical, atypical and wrong images.

    *Typical* images are those whose heatmap is nearest to the mean of the group, and *atypical* images are the
    farthest, in the distance between absolute maps that sum to 1. *Wrong* images are the most typical of those that the
    model gets wrong and that are not yet shown. Every image that the model gets wrong has a frame, and below it the
    class that was predicted. Create it with `from_estimator`.

    Parameters
    ----------
    groups : dict
        Label of a group -> dict with its ``size``, ``accuracy``, ``mean_map`` of shape (height, width), and the indices
        of the ``typical``, ``atypical`` and ``wrong`` samples, at most `n_images` of each.
    images : dict
        Index of a sample -> image of shape (channels, height, width), for all samples shown.
    predicted : dict
        Index of a sample -> name of the predicted class, for all samples shown that are wrong.
    n_images : int
        Number of images of each kind.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        Where `plot` drew.

    Examples
    --------
    >>> import torch
    >>> from skexmap.display import GroupGalleryDisplay
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> X, y, groups = torch.rand(4, 3, 8, 8), [0, 0, 1, 1], ["land", "water"] * 2
    >>> display = GroupGalleryDisplay.from_estimator(net, X, y, group_labels=groups)
    >>> {name: group["size"] for name, group in display.groups.items()}
    {'land': 2, 'water': 2}
    """

    def __init__(self, *, groups, images, predicted, n_images):
        self.groups = groups
        self.images = images
        self.predicted = predicted
        self.n_images = n_images

    @classmethod
    def from_estimator(cls, estimator, X, y, *, group_labels=None, class_names=None, n_images=3, ax=None):
        """Explain images, assign them to the pseudo-groups of a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : ExMapClassifier, Pipeline or search
            Fitted estimator with heatmaps and clusters. If `group_labels` are given, whatever `HeatmapDisplay` takes.
        X : as for the estimator
            Images: those of `fit`, or others. Their heatmaps are computed, unless the transformer's `cache` has them.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Groups to show: integers or names. If None, the pseudo-groups class x cluster.
        class_names : dict or list of str, default=None
            Class -> name, or, for classes numbered from 0, a list.
        n_images : int, default=3
            Number of images of each kind.
        ax : as in `plot`

        Raises
        ------
        ValueError
            If the estimator has no heatmaps or clusters, X has no images, lengths differ, or y has unknown classes.
        """
        y = one_per_image(y, len(X), "y")
        heatmaps, y_pred, group_labels = explained_groups(estimator, X, y, group_labels, class_names)
        correct = y_pred == y
        groups = {}
        for label in np.unique(group_labels).tolist():
            members = np.flatnonzero(group_labels == label)
            groups[label] = {
                "size": len(members),
                "accuracy": float(correct[members].mean()),
                "mean_map": heatmaps[members].sum(axis=1).mean(axis=0),
                **chosen_images(members, heatmaps[members], correct[members], n_images),
            }
        shown = np.unique([row for group in groups.values() for kind in KINDS for row in group[kind]])
        images = images_to_show(X, explainer_of(estimator).load, shown)
        wrong = shown[~correct[shown]].tolist()
        return cls(
            groups=groups,
            images=dict(zip(shown.tolist(), images, strict=True)),
            predicted={row: name_of(y_pred[row], class_names) for row in wrong},
            n_images=n_images,
        ).plot(ax=ax)

    def _draw(self, ax):
        n = self.n_images
        grid = Grid(ax, signed=any((group["mean_map"] < 0).any() for group in self.groups.values()))
        columns = {"mean heatmap": 0.5, **{kind: 1 + (i + 0.5) * n for i, kind in enumerate(KINDS)}}
        labels = []
        for row, (label, group) in enumerate(self.groups.items()):
            labels.append(f"{group_name(label)}\n{group['size']} images, {group['accuracy']:.0%} right")
            grid.heatmap(row, 0, group["mean_map"])
            for number, kind in enumerate(KINDS):
                for column, index in enumerate(group[kind], start=1 + number * n):
                    grid.image(row, column, self.images[index])
                    if index in self.predicted:
                        grid.caption(row, column, f"predicted: {self.predicted[index]}", wrong=True)
        return grid.finish(len(labels), 1 + len(KINDS) * n, next(iter(self.images.values())), columns, labels)


def chosen_images(members, heatmaps, correct, n_images):
    """Return the typical, atypical and wrong images of a group; `members` are the indices of its samples."""
    order = most_typical_first(heatmaps)
    typical, others = order[:n_images], order[n_images:]
    wrong = others[~correct[others]][:n_images]
    atypical = np.setdiff1d(others, wrong, assume_unique=True)[::-1][:n_images]
    chosen = (typical, atypical, wrong)
    return {kind: members[rows].tolist() for kind, rows in zip(KINDS, chosen, strict=True)}
