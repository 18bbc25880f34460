"""The block that a clusterer reads, and the block ``cluster`` that replaces it."""

import math

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_is_fitted, validate_data

from skexmap._blocks import (
    CLUSTER,
    HEATMAP,
    block_columns,
    blocks_to_columns,
    detached,
    get_block,
    has_blocks,
    replace_block,
)
from skexmap._validation import _check_feature_names_in, output_container
from skexmap.cluster._neighbors import BLOCK, slices

# Types in which rows are clustered; all others are converted to the first.
FLOATS = (np.float64, np.float32)
# Types that are read block by block, without a copy of all rows.
READ_IN_BLOCKS = (*FLOATS, np.float16)
# Squares of values, summed over up to a million features, are float64 numbers if the largest value is in this range.
SAFE_RANGE = (1e-140, 1e150)
SAFE_RANGE_OF_FLOAT32 = (1e-15, 1e15)


class ClusterBlockMixin(TransformerMixin):
    """A step that replaces the heatmaps by their clusters, as its `_clusters_of` finds them."""

    def transform(self, X):
        """Replace the heatmaps by their clusters.

        Parameters
        ----------
        X : as for `fit`
            New rows.

        Returns
        -------
        X_out : structured ndarray of shape (n_samples,), or ndarray of shape (n_samples, n_columns)
            The blocks of X with ``heatmap`` replaced by the integer block ``cluster``. If X has no blocks, the clusters
            as one column, or as one column per class if they were formed inside each class. A data frame if
            `set_output` selects one.
        """
        check_is_fitted(self)
        return replace_heatmap_by_cluster(self, X, self._clusters_of(X))

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the features seen in `fit`.

        Returns
        -------
        names : ndarray of str objects
            ``cluster_0``, or one name per class; after a fit on blocks, preceded by the columns of the blocks passed
            through.
        """
        check_is_fitted(self)
        # After a fit on blocks the names are those of all blocks. The step was fitted on only one of them, so there is
        # nothing to compare them with.
        if all(column.startswith(f"{CLUSTER}_") for column in self._columns_out):
            _check_feature_names_in(self, input_features, generate_names=False)
        return self._columns_out

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def flat_block(X, name, *, required_by):
    """Return a block of X as a 2-D array (n_samples, n_features), or X itself if it has no blocks."""
    if not has_blocks(X):
        return detached(X)
    values = get_block(X, name, required_by=required_by)
    return values.reshape(len(values), math.prod(values.shape[1:]))


# New rows beyond the type of the fit become infinite, and are refused as such.
@np.errstate(over="ignore", invalid="ignore")
def checked_rows(estimator, rows, *, reset, dtype=READ_IN_BLOCKS, **target):
    """Return rows as a finite 2-D array; those of a floating type are not copied."""
    rows = validate_data(
        estimator,
        rows,
        **target,
        reset=reset,
        dtype=dtype,
        ensure_all_finite=False,
        ensure_min_samples=2 if reset else 1,
    )
    # scikit-learn's own check of float16 would need another byte for each value.
    for part in slices(len(rows), BLOCK):
        assert_all_finite(rows[part], estimator_name=type(estimator).__name__, input_name="X")
    return rows


def in_safe_range(rows, name, *, fitting=True):
    """Return rows between which no squared distance overflows or, if they are fitted on, vanishes; raise if some do."""
    largest = float(max(rows.max(), -rows.min()))
    if rows.dtype != np.float64:
        # float64 holds the squares of all float32 values. New rows keep the type of the fit.
        is_safe = not fitting or largest == 0 or SAFE_RANGE_OF_FLOAT32[0] < largest < SAFE_RANGE_OF_FLOAT32[1]
        return rows if is_safe else rows.astype(np.float64)
    # A few new rows may all be tiny.
    if largest > SAFE_RANGE[1] or (fitting and 0 < largest < SAFE_RANGE[0]):
        raise ValueError(
            f"The largest absolute value of the rows that {name} clusters is {largest:.3g}. Squared distances leave "
            f"the range of float64 outside {SAFE_RANGE[0]:g} to {SAFE_RANGE[1]:g}. Scale the rows, or drop outliers."
        )
    return rows


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
