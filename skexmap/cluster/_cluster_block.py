"""The block that a clusterer reads, and the block ``cluster`` that replaces it."""

import numpy as np

from skexmap._blocks import (
    CLUSTER,
    HEATMAP,
    block_columns,
    blocks_to_columns,
    get_block,
    has_blocks,
    replace_block,
)
from skexmap._validation import _check_feature_names_in, output_container

# Types in which rows are clustered; all others are converted to the first.
FLOATS = (np.float64, np.float32)


def flat_block(X, name, *, required_by):
    """Return a block of X as a 2-D array (n_samples, n_features), or X itself if it has no blocks."""
    if not has_blocks(X):
        return X
    values = get_block(X, name, required_by=required_by)
    return values.reshape(len(values), -1)


def replace_heatmap_by_cluster(estimator, X, clusters):
    """Return X with its heatmaps replaced by clusters, or the clusters as columns if X has no blocks."""
    # `clusters` holds one cluster per row, or one per row and class. If `set_output` of the estimator selects a data
    # frame, the blocks are returned side by side, because scikit-learn's wrapper makes the frame from a plain array.
    if not has_blocks(X):
        return clusters.reshape(len(clusters), -1)
    blocks = replace_block(X, HEATMAP, **{CLUSTER: clusters})
    return blocks if output_container(estimator) == "default" else blocks_to_columns(blocks)


def columns_with_cluster(X, clusters):
    """Return the column names of what `replace_heatmap_by_cluster` returns."""
    if has_blocks(X):
        return block_columns(replace_block(X[:1], HEATMAP, **{CLUSTER: clusters[:1]}))
    n_columns = 1 if clusters.ndim == 1 else clusters.shape[1]
    return np.array([f"{CLUSTER}_{i}" for i in range(n_columns)], dtype=object)


def check_input_features(estimator, input_features, columns_out):
    """Check the names passed to `get_feature_names_out` against those seen in `fit`."""
    # After a fit on blocks the names are those of the columns of all blocks. The step learned only one of them, so
    # there is nothing to compare them with.
    has_other_blocks = any(not column.startswith(f"{CLUSTER}_") for column in columns_out)
    if not has_other_blocks:
        _check_feature_names_in(estimator, input_features, generate_names=False)
