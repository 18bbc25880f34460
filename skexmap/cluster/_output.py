"""What a clusterer step hands on."""

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


def flat_block(X, name, *, required_by):
    """Return a block of X as a 2-D array (n_samples, n_features); X itself when it has no blocks."""
    if not has_blocks(X):
        return X
    values = get_block(X, name, required_by=required_by)
    return values.reshape(len(values), -1)


def hand_on(estimator, X, clusters):
    """Return the output of a clusterer step: X with its heatmaps replaced by their clusters.

    Parameters
    ----------
    estimator : estimator
        The step; its `set_output` is obeyed.
    X : structured ndarray, data frame or array-like
        The step's input.
    clusters : ndarray of shape (n_samples,) or (n_samples, n_classes)
        One cluster per row, or one per row and class.

    Returns
    -------
    X_out : structured ndarray of shape (n_samples,), or ndarray of shape (n_samples, n_columns)
        The blocks, or for an X without blocks the clusters as columns. Where `set_output` asked for a
        data frame, the blocks side by side: scikit-learn's wrapper makes the frame.
    """
    if not has_blocks(X):
        return clusters.reshape(len(clusters), -1)
    blocks = replace_block(X, HEATMAP, **{CLUSTER: clusters})
    return blocks if output_container(estimator) == "default" else blocks_to_columns(blocks)


def check_columns_in(estimator, input_features, columns_out):
    """Check the names that `get_feature_names_out` was given against those seen in `fit`.

    Parameters
    ----------
    estimator : estimator
        The step.
    input_features : array-like of str or None
        As passed. After a fit on blocks they name the columns of all blocks, of which the step learned but one.
    columns_out : ndarray of str objects
        What `columns_handed_on` returned.
    """
    passed_through = any(not column.startswith(f"{CLUSTER}_") for column in columns_out)
    if not passed_through:
        _check_feature_names_in(estimator, input_features, generate_names=False)


def columns_handed_on(X, clusters):
    """Return the column names of `hand_on`'s output."""
    if has_blocks(X):
        return block_columns(replace_block(X[:1], HEATMAP, **{CLUSTER: clusters[:1]}))
    n_columns = 1 if clusters.ndim == 1 else clusters.shape[1]
    return np.array([f"{CLUSTER}_{i}" for i in range(n_columns)], dtype=object)
