"""What displays read: images as the transformers load them, and parts of fitted estimators."""

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import HEATMAP, PREDICTED
from skexmap._exmap import ExMapClassifier
from skexmap.export import KEEP_THE_EMBEDDING
from skexmap.features import HeatmapTransformer
from skexmap.features._loading import are_paths, image_batches

BATCH = 64


def parts_of(estimator):
    """Return what is in a fitted estimator, itself first: its labeler and steps, then their only clusterers."""
    found = getattr(estimator, "best_estimator_", estimator)
    parts = [found, getattr(found, "labeler_", None), *(step for _, step in getattr(found, "steps", ()))]
    return [*parts, *(part.clusterers_[0] for part in parts if len(getattr(part, "clusterers_", ())) == 1)]


def part_with(attribute, estimator, advice):
    """Return the first part of a fitted estimator that has an attribute."""
    for part in parts_of(estimator):
        if hasattr(part, attribute):
            return part
    several = next((p for p in parts_of(estimator) if hasattr(p, "clusterers_")), None)
    if several is not None:
        raise ValueError(
            f"{type(several).__name__} holds {len(several.clusterers_)} clusterers, one per class. Show them one at a "
            "time: pass `labeler.clusterers_[0]`."
        )
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    raise ValueError(f"{type(estimator).__name__} has no `{attribute}`. {advice}")


def explained(estimator, X, **changes):
    """Return blocks, heatmaps and predicted classes of images; `changes` are parameters of the transformer."""
    transformer, fitted = heatmap_transformer_of(estimator)
    transformer = clone(transformer).set_params(classes=fitted.classes_, **changes)
    # A model without a last dense layer has maps, but no blocks.
    transformer.set_params(return_embedding=fitted.head_ is not None).set_output(transform="default")
    X_out = transformer.fit_transform(X)
    if len(transformer.heatmap_shape_) != 3:
        raise ValueError(
            "Displays show images of shape (channels, height, width), but a heatmap has the shape "
            f"{tuple(transformer.heatmap_shape_)}."
        )
    if not transformer.return_embedding:
        return X_out, X_out.reshape(-1, *transformer.heatmap_shape_), None
    predicted = X_out[PREDICTED]
    if fitted.classes_.dtype.kind not in "iufb":
        # The block holds positions among the sorted classes.
        predicted = np.unique(fitted.classes_)[predicted]
    return X_out, X_out[HEATMAP], predicted


def heatmap_transformer_of(estimator):
    """Return the HeatmapTransformer of an estimator, and the fitted transformer of the same model."""
    for part in parts_of(estimator):
        if isinstance(part, HeatmapTransformer):
            check_is_fitted(part)
            return part, part
        if isinstance(part, ExMapClassifier):
            check_is_fitted(part)
            given = part.transformer_
            # A classifier that needed no heatmaps has only embedded the images.
            if not isinstance(given, HeatmapTransformer):
                given = clone(part.heatmaps or HeatmapTransformer()).set_params(model=part.model)
            return given, part.transformer_
    raise ValueError(
        f"{type(estimator).__name__} has no heatmaps. Pass a fitted HeatmapTransformer, ExMapClassifier, or pipeline "
        "or search with a HeatmapTransformer step."
    )


def labeler_of(estimator):
    """Return the fitted step of an estimator that adds the block ``cluster``."""
    for part in parts_of(estimator):
        if isinstance(part, KEEP_THE_EMBEDDING):
            check_is_fitted(part)
            return part
    raise ValueError(
        f"{type(estimator).__name__} has no clusters. Pass a fitted ExMapClassifier, or a pipeline or search with a "
        "clusterer step; an ExMapClassifier that was given group labels has none."
    )


def read_images(X, load, rows=None):
    """Return images as floats, by default all of X; bytes become values from 0 to 1."""
    rows = np.arange(len(X)) if rows is None else rows
    if hasattr(X, "iloc"):
        X = X.iloc[rows]
    elif isinstance(X, np.ndarray | torch.Tensor):
        X = X[rows]
    else:
        X = [X[row] for row in rows]
        X = np.asarray(X) if load is None and not are_paths(X) else X
    images = torch.cat([images for _, images in image_batches(X, load, BATCH, num_workers=0)])
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise ValueError(
            "Displays show images of shape (channels, height, width) or (height, width), got "
            f"{tuple(images.shape[1:])}."
        )
    images = images / 255 if images.dtype == torch.uint8 else images
    return images.detach().cpu().float().numpy()


def checked_maps(heatmaps, n_samples, name="heatmaps"):
    """Return heatmaps as an array of shape (n_samples, channels, height, width)."""
    heatmaps = check_array(heatmaps, ensure_2d=False, allow_nd=True, dtype="numeric", input_name=name)
    if heatmaps.ndim == 3:
        heatmaps = heatmaps[:, None]
    if heatmaps.ndim != 4:
        raise ValueError(
            f"`{name}` must have shape (n_samples, channels, height, width) or (n_samples, height, width), got "
            f"{heatmaps.shape}. Reshape flat ones to (-1, *transformer.heatmap_shape_)."
        )
    if len(heatmaps) != n_samples:
        raise ValueError(f"`{name}` has {len(heatmaps)} maps for {n_samples} images.")
    return heatmaps


def checked_classes(labels, n_samples, name):
    """Return the class of each image as an array, or None if they are not given."""
    if labels is None:
        return None
    labels = column_or_1d(labels)
    if len(labels) != n_samples:
        raise ValueError(f"`{name}` has {len(labels)} entries for {n_samples} images.")
    return labels
