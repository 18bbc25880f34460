"""The named blocks that travel between pipeline steps.

The last step of a pipeline needs the embedding *and* the cluster of every image, so the steps hand on one NumPy
structured array of length n with a field per block (``embedding``, ``heatmap``, ``predicted``, ``cluster``). When a
step's output is set to pandas or polars, the same blocks are columns named ``embedding_0``, ``heatmap_0``, ... Only
this module knows these names and touches ``dtype.names``.

The block ``predicted`` holds the class that the frozen model predicts, as whole numbers: the label itself if the labels
are numbers, else its position among the sorted labels.
"""

import re

import numpy as np

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
    """Join named arrays of equal length into one structured array."""
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
    """Return one block of X."""
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
    """Return X with the block `old` dropped (where present) and the blocks `new` appended."""
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
