"""The named blocks that travel between pipeline steps.

The last step of a pipeline needs the embedding *and* the cluster of every image, so the steps hand on one NumPy
structured array of length n with a field per block (``embedding``, ``heatmap``, ``predicted``, ``cluster``). When a
step's output is set to pandas or polars, the same blocks are columns named ``embedding_0``, ``heatmap_0``, ... Only
this module knows these names and touches ``dtype.names``.

The block ``predicted`` holds the class that the frozen model predicts, as whole numbers: the label itself if the labels
are numbers, else its position among the sorted labels.

A row that is NaN throughout stands for an image that could not be read, which a transformer skipped: rows cannot vanish
inside a pipeline, whose y would no longer match. Clusterers give such a row the cluster -1, retraining leaves it out,
prediction refuses it. A row with *some* NaN is no such row; it is refused everywhere.
"""

import inspect
import re
import warnings
from functools import wraps

import numpy as np

from skexmap.exceptions import SkippedImagesWarning

EMBEDDING, HEATMAP, PREDICTED, CLUSTER = BLOCK_NAMES = ("embedding", "heatmap", "predicted", "cluster")

# What would have produced a missing block: the end of the error message.
_ORIGINS = {
    EMBEDDING: "Set `return_embedding=True` on the HeatmapTransformer step, or use an EmbeddingTransformer.",
    HEATMAP: "Put a HeatmapTransformer (with `return_embedding=True` if a later step needs the embedding) before it.",
    PREDICTED: "Set `return_embedding=True` on the HeatmapTransformer step.",
    CLUSTER: "Put a clusterer step (EigengapSpectralClustering or PseudoGroupLabeler) before it.",
}
_COLUMN = re.compile(rf"^({'|'.join(BLOCK_NAMES)})_\d+$")


def make_blocks(**blocks):
    """Join named arrays of equal length into one structured array.

    Parameters
    ----------
    **blocks : ndarray of shape (n_samples, ...)
        One array per block; the name is the block's name.

    Returns
    -------
    X : structured ndarray of shape (n_samples,)
    """
    blocks = {name: np.asarray(values) for name, values in blocks.items()}
    lengths = {len(values) for values in blocks.values()}
    if len(lengths) != 1:
        raise ValueError(f"Blocks must have equal length, got {sorted(lengths)}.")
    dtype = np.dtype([(name, values.dtype, values.shape[1:]) for name, values in blocks.items()])
    X = np.empty(lengths.pop(), dtype=dtype)
    for name, values in blocks.items():
        X[name] = values
    return X


def block_names(X):
    """Return the names of the blocks in X, in order; empty when X is a plain array."""
    if isinstance(X, np.ndarray):
        return tuple(name for name in X.dtype.names or () if name in BLOCK_NAMES)
    names = []
    for column in getattr(X, "columns", ()):
        match = _COLUMN.match(str(column))
        if match and match[1] not in names:
            names.append(match[1])
    return tuple(names)


def has_blocks(X):
    """Return whether X carries named blocks (a structured array, or a data frame with block columns)."""
    return bool(block_names(X))


def get_block(X, name, *, required_by):
    """Return one block of X.

    Parameters
    ----------
    X : structured ndarray or data frame
        Carries named blocks.
    name : {"embedding", "heatmap", "predicted", "cluster"}
        The block.
    required_by : object
        The estimator that needs it; named in the error.

    Returns
    -------
    values : ndarray of shape (n_samples, ...)

    Raises
    ------
    ValueError
        If the block is missing; the message says which step and argument would have produced it.
    """
    present = block_names(X)
    if name not in present:
        who = type(required_by).__name__
        found = f"its input has the blocks {list(present)}" if present else "its input has no named blocks"
        raise ValueError(f"{who} needs the block '{name}', but {found}. {_ORIGINS[name]}")
    if isinstance(X, np.ndarray):
        return X[name]
    columns = [column for column in X.columns if (m := _COLUMN.match(str(column))) and m[1] == name]
    values = X[columns].to_numpy()
    if name in (PREDICTED, CLUSTER):
        values = values.astype(np.int64)
        # A frame cannot tell one number per sample from a list of one: one column is one number per sample.
        return values[:, 0] if values.shape[1] == 1 else values
    return values


def replace_block(X, old, **new):
    """Return X with the block `old` dropped (where present) and the blocks `new` appended.

    Parameters
    ----------
    X : structured ndarray or data frame
        Carries named blocks.
    old : str
        Name of the block to drop.
    **new : ndarray of shape (n_samples, ...)
        Blocks to append; one of an equal name is replaced.

    Returns
    -------
    X : structured ndarray of shape (n_samples,)
    """
    kept = {
        name: get_block(X, name, required_by=None)
        for name in block_names(X)
        if name != old and name not in new
    }
    return make_blocks(**kept, **new)


def without_block(X, name):
    """Return the fields of a structured array but one."""
    return X[[field for field in X.dtype.names if field != name]]


def block_columns(X):
    """Return the column names of X's blocks, as `blocks_to_columns` orders them."""
    return np.asarray(
        [
            f"{name}_{i}"
            for name in X.dtype.names
            for i in range(int(np.prod(X.dtype[name].shape, dtype=int)))
        ],
        dtype=object,
    )


def blocks_to_columns(X):
    """Return the blocks of a structured array side by side as a plain 2-D array, of the type of its floats."""
    dtypes = [X.dtype[name].base for name in X.dtype.names]
    dtype = np.result_type(*([dtype for dtype in dtypes if dtype.kind == "f"] or dtypes))
    # Clusters and classes are small numbers, as a rule: they need no wider type than the embedding has.
    whole = [X[name] for name in X.dtype.names if X.dtype[name].base.kind in "iu"]
    if any((values.astype(dtype).astype(values.dtype) != values).any() for values in whole):
        dtype = np.dtype(np.float64)
    return np.hstack([X[name].reshape(len(X), -1).astype(dtype, copy=False) for name in X.dtype.names])


def rows_without_image(values):
    """Return which rows of an array are NaN throughout.

    Parameters
    ----------
    values : object
        Only NumPy arrays of floats, of at least two dimensions, have such rows.

    Returns
    -------
    missing : ndarray of bool of shape (n_samples,), or None if there are none
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.ndim < 2 or not values.size:
        return None
    rows = values.reshape(len(values), -1)
    # The first column tells which rows are worth reading in full.
    missing = np.isnan(rows[:, 0])
    missing[missing] = np.isnan(rows[missing]).all(axis=1)
    return missing if missing.any() else None


def _missing_in(estimator, X, block):
    """Return which rows of a step's input are without an image, or None; `block` tells, where X has blocks."""
    block = block or estimator.block
    if getattr(estimator, "_precomputed", False):
        # Affinities are between rows: none can be left out of the rows alone.
        return None
    if not has_blocks(X):
        return rows_without_image(X)
    return rows_without_image(get_block(X, block, required_by=estimator)) if block in block_names(X) else None


def _rows_of(X, rows):
    """Return some rows of X; a data frame of blocks becomes a structured array."""
    if has_blocks(X) and not isinstance(X, np.ndarray):
        X = make_blocks(**{name: get_block(X, name, required_by=None) for name in block_names(X)})
    return X[rows]


def leaves_out_missing(block=None, *, fill=None, rows=()):
    """Decorate a `fit` so that rows without an image take no part in it; put it below `_fit_context`.

    Parameters
    ----------
    block : str or None, default=None
        The block that tells them, where X has blocks; None is the estimator's parameter `block`.
    fill : dict of str to number, default=None
        Fitted attributes with one value per sample, and the value for rows without an image.
    rows : sequence of str, default=()
        Fitted attributes that hold indices of samples.
    """

    def decorate(fit):
        signature = inspect.signature(fit)

        @wraps(fit)
        def fit_on_the_others(self, *args, **kwargs):
            call = signature.bind(self, *args, **kwargs)
            X = call.arguments["X"]
            missing = _missing_in(self, X, block)
            if missing is None or missing.all():
                return fit(self, *args, **kwargs)
            if not has_blocks(X):
                _warn_of_missing(missing)
            call.arguments["X"] = _rows_of(X, ~missing)
            for name in ("y", "group_labels", "predicted", "sample_weight"):
                values = call.arguments.get(name)
                # Anything of another length is for `fit` to refuse.
                if values is not None and hasattr(values, "__len__") and len(values) == len(missing):
                    call.arguments[name] = np.asarray(values)[~missing]
            fit(*call.args, **call.kwargs)
            for name, value in (fill or {}).items():
                fitted = getattr(self, name)
                whole = np.full((len(missing), *fitted.shape[1:]), value, dtype=fitted.dtype)
                whole[~missing] = fitted
                setattr(self, name, whole)
            for name in rows:
                setattr(self, name, np.flatnonzero(~missing)[getattr(self, name)])
            return self

        return fit_on_the_others

    return decorate


def gives_missing_no_cluster(block=None):
    """Decorate a method from rows to clusters so that rows without an image get the cluster -1.

    Parameters
    ----------
    block : str or None, default=None
        As for `leaves_out_missing`.
    """

    def decorate(predict):
        @wraps(predict)
        def predict_the_others(self, X):
            missing = _missing_in(self, X, block)
            if missing is None or missing.all():
                return predict(self, X)
            found = predict(self, _rows_of(X, ~missing))
            clusters = np.full((len(missing), *found.shape[1:]), -1, dtype=np.int64)
            clusters[~missing] = found
            return clusters

        return predict_the_others

    return decorate


def _warn_of_missing(missing):
    # Of rows with blocks, the step that skipped the images has warned.
    rows = np.flatnonzero(missing)
    message = (
        f"{len(rows)} of {len(missing)} rows are NaN throughout (no image) and left out: {_first(rows)}."
    )
    warnings.warn(SkippedImagesWarning(message, rows), stacklevel=4)


def refuse_missing(estimator, values):
    """Raise ValueError if rows are NaN throughout: there is nothing to predict from.

    Parameters
    ----------
    estimator : estimator
        Named in the error.
    values : ndarray of shape (n_samples, ...)
    """
    missing = rows_without_image(values)
    if missing is not None:
        raise ValueError(
            f"{int(missing.sum())} of {len(missing)} samples are NaN throughout ({_first(np.flatnonzero(missing))}): "
            f"their images could not be read, and {type(estimator).__name__} has nothing to predict from. Repair the "
            "images, or take them out of X."
        )


def _first(rows, n_shown=5):
    more = len(rows) - n_shown
    return f"rows {', '.join(map(str, rows[:n_shown].tolist()))}" + (f" and {more} more" if more > 0 else "")


def validate_others(validate, values):
    """Validate the rows that have an image; the others stay as they are.

    Parameters
    ----------
    validate : callable
        From rows to rows, of a floating type; raises on what it does not like.
    values : array-like of shape (n_samples, ...)

    Returns
    -------
    values : ndarray of shape (n_samples, ...)
    """
    missing = rows_without_image(values)
    if missing is None or missing.all():
        return validate(values)
    others = validate(values[~missing])
    whole = np.full((len(missing), *others.shape[1:]), np.nan, dtype=others.dtype)
    whole[~missing] = others
    return whole
