"""What a report reads from a fitted estimator: maps, clusters, and predictions before and after."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import CLUSTER, EMBEDDING, HEATMAP, PREDICTED, get_block, make_blocks
from skexmap._exmap import ExMapClassifier, embeddings_like
from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap.cluster._stability import clusters_found, jaccards, mean_jaccards
from skexmap.exceptions import SkexmapWarning
from skexmap.features import HeatmapTransformer
from skexmap.groups._predictions import NAME_THE_LOGITS, codes_in_block, refuse_unknown
from skexmap.retraining import EIILLabeler

# A subsample for the stability holds this share of the images, but at most this many of them.
FRACTION, LARGEST_SAMPLE = 0.8, 4000


@dataclass
class Parts:
    """The fitted steps of the method."""

    transformer: HeatmapTransformer
    labeler: object
    strategy: object
    classifier: ExMapClassifier | None


@dataclass
class Explained:
    """Images as the steps see them: blocks, classes, clusters, and the net's predictions as class codes."""

    embeddings: np.ndarray
    maps: np.ndarray
    predicted: np.ndarray
    clusters: np.ndarray
    class_codes: np.ndarray
    # Whether a cluster number means another cluster in every class.
    local: bool

    def groups(self):
        """Return the number of each image's class x cluster."""
        return encode_groups(self.class_codes, self.clusters, int(self.clusters.max()) + 1)

    def keys(self):
        """Return a number for each cluster; clusters of different classes differ if formed inside them."""
        return self.groups() if self.local else self.clusters

    def members(self, row):
        """Return which images are in the class and the cluster of a row of the report, as a mask."""
        return (self.class_codes == row["code"]) & (self.clusters == row["cluster"])

    def head_blocks(self):
        """Return the blocks that a strategy reads."""
        return make_blocks(**{EMBEDDING: self.embeddings, CLUSTER: self.clusters})


def parts_of(estimator):
    """Return the steps of a classifier, of a pipeline, or of a search over one."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, ExMapClassifier):
        check_is_fitted(estimator)
        if not hasattr(estimator, "labeler_"):
            raise ValueError(
                "The classifier was fitted on given group labels, so it has no clusters to report on. Fit it without "
                "`group_labels`, and pass them to the report."
            )
        transformer = estimator.transformer_
        if not isinstance(transformer, HeatmapTransformer):
            # Nothing has needed heatmaps so far.
            transformer, *_ = estimator._steps()
        return Parts(transformer, estimator.labeler_, estimator.strategy_, estimator)
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else []
    if len(steps) != 3 or not isinstance(steps[0], HeatmapTransformer) or not steps[0].return_embedding:
        raise ValueError(
            f"{type(estimator).__name__} cannot be reported on. Pass a fitted ExMapClassifier, or a fitted pipeline of "
            "three steps: HeatmapTransformer(return_embedding=True), a clusterer and a strategy."
        )
    check_is_fitted(steps[0])
    return Parts(*steps, None)


def explain(parts, X, y, classes):
    """Return the images as the steps see them; heatmaps that the classifier has kept are not computed again."""
    class_codes = np.searchsorted(classes, y)
    blocks = kept_blocks(parts, X) or computed_blocks(parts, X, y)
    predicted = codes_in_block(blocks[PREDICTED], classes)
    refuse_unknown(blocks[PREDICTED], predicted, classes, class_codes, NAME_THE_LOGITS)
    clusters = clusters_of(parts, blocks, class_codes)
    local = isinstance(parts.labeler, EIILLabeler) or getattr(parts.labeler, "scope", "") == "local"
    return Explained(blocks[EMBEDDING], blocks[HEATMAP], predicted, clusters, class_codes, local)


def kept_blocks(parts, X):
    """Return the blocks with the heatmaps that the classifier has kept; None if it has none of these images."""
    classifier = parts.classifier
    if not hasattr(classifier, "heatmaps_") or len(classifier.heatmaps_) != len(X):
        return None
    blocks = embeddings_like(parts.transformer, fitted=True, return_predicted=True).transform(X)
    if not is_fitted_on(classifier, blocks[EMBEDDING]):
        return None
    return {
        EMBEDDING: blocks[EMBEDDING],
        HEATMAP: classifier.heatmaps_,
        PREDICTED: blocks[PREDICTED],
    }


def computed_blocks(parts, X, y):
    """Return the blocks from a pass over the images."""
    transformer = parts.transformer
    fitted = hasattr(transformer, "heatmap_shape_")
    with quiet():
        X_out = transformer.transform(X) if fitted else transformer.fit_transform(X, y)
    blocks = {name: get_block(X_out, name, required_by=transformer) for name in (EMBEDDING, PREDICTED)}
    maps = get_block(X_out, HEATMAP, required_by=transformer)
    if len(transformer.heatmap_shape_) != 3:
        raise ValueError(
            "The report shows images of shape (channels, height, width), but a heatmap has the shape "
            f"{tuple(transformer.heatmap_shape_)}."
        )
    return {**blocks, HEATMAP: maps.reshape(len(maps), *transformer.heatmap_shape_)}


def is_fitted_on(classifier, embeddings):
    """Return whether these are the embeddings of the images that the classifier was fitted on."""
    known = getattr(classifier, "embeddings_", None)
    return known is not None and known.shape == embeddings.shape and np.allclose(known, embeddings, rtol=1e-3)


def clusters_of(parts, blocks, class_codes):
    """Return the cluster of each image, within its class if clusters were formed there."""
    if is_fitted_on(parts.classifier, blocks[EMBEDDING]):
        labeler = parts.labeler
        return labeler.environment_labels_ if isinstance(labeler, EIILLabeler) else labeler.cluster_labels_
    X_out = parts.labeler.transform(make_blocks(**blocks))
    return cluster_of_class(get_block(X_out, CLUSTER, required_by=parts.labeler), class_codes)


def cross_fitted(strategy, explained, y, n_folds):
    """Return predictions for each image by a strategy fitted without it (None if it failed), and a remark."""
    groups, n_folds = explained.groups(), min(n_folds, len(y))
    # Deal the images of each group out to the folds in turn, so that every fold holds some of each.
    shuffled = np.random.RandomState(0).permutation(len(y))
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    folds = np.empty(len(y), dtype=np.int64)
    folds[order] = np.arange(len(y)) % n_folds
    try:
        with quiet():
            retrained = cross_val_predict(strategy, explained.head_blocks(), y, cv=PredefinedSplit(folds))
    # A fold may leave too few images for the strategy: the rest of the report is still of use.
    except ValueError as error:
        return None, f"nowhere, because cross-fitting failed: {str(error).strip().splitlines()[-1]}"
    return retrained, f"cross-fitted in {n_folds} folds"


def stability_of(labeler, explained, keys, n_resamples):
    """Return how well each cluster is found again in subsamples: its mean largest Jaccard overlap, or NaN."""
    # A labeler that is fitted again does not repeat choices by hand.
    if getattr(labeler, "_changed_by_hand", False):
        n_resamples = 0
    # Classes are passed as codes, in which the predictions are known whatever the labels are.
    y = explained.class_codes
    blocks = {EMBEDDING: explained.embeddings, HEATMAP: explained.maps, PREDICTED: explained.predicted}
    rng = np.random.RandomState(0)
    size = min(round(FRACTION * len(y)), LARGEST_SAMPLE)
    overlaps = np.full((n_resamples, int(keys.max()) + 1), np.nan)
    present = np.unique(keys[keys >= 0])
    for resample in overlaps:
        rows = np.sort(rng.permutation(len(y))[:size])
        try:
            with quiet():
                sample = make_blocks(**{name: values[rows] for name, values in blocks.items()})
                labels = clusters_found(labeler, sample, y[rows])
        # A small subsample may lack the images that the clusterer needs.
        except ValueError:
            continue
        resample[present] = jaccards(keys, rows, labels)
    return mean_jaccards(overlaps)


@contextmanager
def quiet():
    """Silence the warnings that `fit` has already given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkexmapWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
