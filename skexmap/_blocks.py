"""The named blocks that travel between pipeline steps.

The last step of a pipeline needs the embedding *and* the cluster of every image, so the steps pass on one NumPy
structured array of length n with a field per block (``embedding``, ``heatmap``, ``predicted``, ``cluster``). If a
step's output is set to pandas or polars, the same blocks are columns named ``embedding_0``, ``heatmap_0`` and so on.
Only this module uses these names and ``dtype.names``.

The block ``predicted`` holds the class that the frozen model predicts, as an integer: the label itself if the labels
are numbers, else its position among the sorted labels.
"""

import re

import numpy as np

EMBEDDING, HEATMAP, PREDICTED, CLUSTER = BLOCK_NAMES = ("embedding", "heatmap", "predicted", "cluster")

# What produces each block; this is the end of the error message for a missing block.
_ORIGINS = {
    EMBEDDING: "Set `return_embedding=True` on the HeatmapTransformer step, or use an EmbeddingTransformer.",
    HEATMAP: "Put a HeatmapTransformer (with `return_embedding=True` if a later step needs the embedding) before it.",
    PREDICTED: "Set `return_embedding=True` on the HeatmapTransformer step.",
    CLUSTER: "Put a clusterer step (EigengapSpectralClustering or PseudoGroupLabeler) before it.",
}
_COLUMN = re.compile(rf"^({'|'.join(BLOCK_NAMES)})_\d+$")


def detached(X):
    """Return X; of a tensor, which may be on another device or in its graph, the array."""
    if not hasattr(X, "detach"):
        return X
    X = X.detach().cpu()
    # NumPy lacks this type.
    return (X.float() if str(X.dtype) == "torch.bfloat16" else X).numpy()


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
    """Return the names of the blocks in X, in order; empty if X is a plain array."""
    if isinstance(X, np.ndarray):
        return tuple(name for name in X.dtype.names or () if name in BLOCK_NAMES)
    names = []
    for column in getattr(X, "columns", ()):
        match = _COLUMN.match(str(column))
        if match and match[1] not in names:
            names.append(match[1])
    return tuple(names)


def has_blocks(X):
    """Return whether X has named blocks (a structured array, or a data frame with block columns)."""
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
        # In a frame, one column means one number per sample. A list of one number would look the same.
        return values[:, 0] if values.shape[1] == 1 else values
    return values


def replace_block(X, old, **new):
    """Return X without the block `old` (if present) and with the blocks `new` appended."""
    kept = {
        name: get_block(X, name, required_by=None)
        for name in block_names(X)
        if name != old and name not in new
    }
    return make_blocks(**kept, **new)


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
    """Return the blocks of a structured array side by side, as a plain 2-D array of its floating type."""
    if len(X.dtype.names) == 1:
        # This shares the memory, which may be a file.
        return X[X.dtype.names[0]].reshape(len(X), -1)
    dtypes = [X.dtype[name].base for name in X.dtype.names]
    dtype = np.result_type(*([dtype for dtype in dtypes if dtype.kind == "f"] or dtypes))
    # Clusters and classes are usually small numbers, which the floating type of the embedding can hold.
    whole = [X[name] for name in X.dtype.names if X.dtype[name].base.kind in "iu"]
    if any((values.astype(dtype).astype(values.dtype) != values).any() for values in whole):
        dtype = np.dtype(np.float64)
    return np.hstack([X[name].reshape(len(X), -1).astype(dtype, copy=False) for name in X.dtype.names])
