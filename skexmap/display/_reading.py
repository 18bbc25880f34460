"""What displays read: parts of fitted estimators, images, and their heatmaps, classes and groups."""

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import CLUSTER, HEATMAP, PREDICTED, get_block
from skexmap._exmap import ExMapClassifier
from skexmap._group_labels import cluster_of_class
from skexmap._validation import check_group_labels, codes_of_known_classes
from skexmap.export import KEEP_THE_EMBEDDING
from skexmap.features import HeatmapTransformer
from skexmap.features._loading import read_images
from skexmap.metrics._report import name_of


def find_part(estimator, kinds, message):
    """Return the first part of a fitted estimator that is of a kind: itself, its labeler, a step or its clusterer."""
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    found = getattr(estimator, "best_estimator_", estimator)
    parts = [found, getattr(found, "labeler_", None), *(step for _, step in getattr(found, "steps", ()))]
    parts += [part.clusterers_[0] for part in parts if len(getattr(part, "clusterers_", ())) == 1]
    for part in parts:
        if isinstance(part, kinds):
            return part
    raise ValueError(f"{type(estimator).__name__} {message}")


def explainer_of(model):
    """Return an unfitted HeatmapTransformer with the model, settings and classes of an estimator, or for a network."""
    if isinstance(model, torch.nn.Module):
        return HeatmapTransformer(model)
    part = find_part(
        model,
        (HeatmapTransformer, ExMapClassifier),
        "has no heatmaps. Pass a fitted HeatmapTransformer or ExMapClassifier, or a pipeline or search with one.",
    )
    fitted = given = getattr(part, "transformer_", part)
    # A classifier that needed no heatmaps has only embedded the images.
    if not isinstance(given, HeatmapTransformer):
        given, *_ = part._steps()
    return clone(given).set_params(classes=fitted.classes_).set_output(transform="default")


def explained(transformer, X, y=None):
    """Return the heatmaps of images, the classes that the model predicts, and all blocks."""
    transformer.set_params(return_embedding=True)
    if transformer.classes is None:
        transformer.set_params(classes=transformer.fit(X, y).classes_)
    classes = np.asarray(transformer.classes)
    if y is not None:
        codes_of_known_classes(y, np.unique(classes), len(X))
    blocks = transformer.fit_transform(X)
    # If classes are not numbers, the block holds their positions.
    names = {} if classes.dtype.kind in "iufb" else dict(enumerate(np.unique(classes).tolist()))
    return blocks[HEATMAP], np.array([names.get(k, k) for k in blocks[PREDICTED].tolist()]), blocks


def explained_groups(estimator, X, y, group_labels, class_names):
    """Return the heatmaps of images, the classes that the model predicts, and the groups: given or found."""
    transformer = explainer_of(estimator)
    if group_labels is not None:
        group_labels = check_group_labels(group_labels, len(X))
        return *explained(transformer, X, y)[:2], group_labels
    labeler = find_part(
        estimator,
        KEEP_THE_EMBEDDING,
        "has no clusters. Pass `group_labels`, or an estimator with a clusterer that was fitted without group labels.",
    )
    heatmaps, predicted, blocks = explained(transformer, X, y)
    clusters = get_block(labeler.transform(blocks), CLUSTER, required_by=labeler)
    # Clusters inside each class have one column per class.
    if clusters.ndim == 2:
        clusters = cluster_of_class(clusters, codes_of_known_classes(y, labeler.classes_, len(clusters)))
    names = {-1: "no cluster", **getattr(labeler, "cluster_names_", {})}
    groups = [
        f"{name_of(label, class_names)}, {names.get(cluster, f'cluster {cluster}')}"
        for label, cluster in zip(y.tolist(), clusters.tolist(), strict=True)
    ]
    return heatmaps, predicted, np.array(groups)


def images_to_show(X, load, rows=None):
    """Return images as an array of shape (n_samples, channels, height, width), of some rows of X or all."""
    images = read_images(X, load, rows)
    if images.ndim != 4:
        raise ValueError(
            f"Displays show images of shape (channels, height, width), but a row of X has the shape {images[0].shape}."
        )
    return images


def one_per_image(values, n_samples, name):
    """Return one value for each image, as an array."""
    values = column_or_1d(values)
    if len(values) != n_samples:
        raise ValueError(f"`{name}` has {len(values)} entries for {n_samples} images. Pass one per image.")
    return values
