"""Exact nearest neighbors of heatmaps.

The search is a blocked float32 matrix product that keeps a few more candidates per row than requested. The distances to
the candidates are then computed in float64. A bound on the rounding error of the product shows for which rows the
candidates include all neighbors. The other rows (with many near-ties, or with a huge outlier that leaves float32 too
few digits for the rest) are searched in float64. So the result is that of a float64 search.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import threadpool_info, threadpool_limits

# Rows of a block. The products of a block (16 MB in float32) fit into the cache, and one product keeps a core busy.
BLOCK = 2048
# Coordinates below this (the largest is 1) count as 0. Their products would be subnormal numbers, which are a hundred
# times slower and frequent in heatmaps whose relevance fades out.
VANISHING = np.float32(2.0**-63)
# Number of values that the float64 steps hold at a time, per thread (32 MB).
CHUNK = 4_000_000


def nearest_rows(X, k, *, Y=None, n_jobs=None):
    """Return the k nearest rows of X (Euclidean) for each row of Y, nearest first and ties by index."""
    # X holds float16, float32 or float64; a memory map is read block by block. Without Y, the queries are the rows of
    # X, each of which is its own neighbor, and the search takes half the time. `n_jobs` is the number of threads, by
    # default as many as the BLAS library may use; the result does not depend on it.
    queries = X if Y is None else Y
    n_candidates = min(len(X), k + max(4, k // 2))
    center, scale = center_and_scale(X)
    with one_blas_thread_each(n_jobs) as pool:
        search = search_among_themselves if Y is None else search_in
        candidates, bound = search(X, Y, n_candidates, center, scale, pool)
        parts = slices(len(queries), max(1, CHUNK // (n_candidates * X.shape[1])))
        refined = pool.map(lambda part: refine(X, queries[part], candidates[part], k), parts)
        indices, farthest = (np.concatenate(both) for both in zip(*refined, strict=True))
        repeated = first_repeats(X, queries, k)
        without_candidates = np.isinf(bound)
        if n_candidates < len(X) or without_candidates.any():
            norms = np.concatenate([norm_of(queries[part], center) for part in parts])
            error = float32_error(norms, farthest, X.shape[1], scale)
            may_miss = farthest**2 + error >= bound.astype(np.float64) * scale**2
            uncertain = np.flatnonzero(may_miss | without_candidates)
            uncertain = np.setdiff1d(uncertain, list(repeated))
            parts = slices(len(uncertain), max(1, CHUNK // max(X.shape)))
            exact = pool.map(lambda part: search_in_float64(X, queries[uncertain[part]], k, center), parts)
            for part, found in zip(parts, exact, strict=True):
                indices[uncertain[part]] = found
    for i, first in repeated.items():
        indices[i] = first
    return indices


@contextmanager
def one_blas_thread_each(n_jobs):
    """Context of a pool of threads in which every matrix product runs on one thread."""
    # A product that is split between threads may round differently. On one thread, its result is always the same.
    if n_jobs is None:
        blas = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
        n_threads = max(blas, default=1)
    else:
        n_threads = effective_n_jobs(n_jobs)
    with threadpool_limits(limits=1, user_api="blas"):
        pool = ThreadPoolExecutor(n_threads)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def slices(n, size):
    """Return the slices that cut n rows into parts of at most `size`."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def center_and_scale(X):
    """Return the mean row of X in float64, and the largest deviation of a coordinate from it (1 for equal rows)."""
    # Rows centered and divided by these lie in [-1, 1], so their float32 products lose few digits and cannot overflow.
    parts = slices(len(X), BLOCK)
    center = sum(X[part].sum(axis=0, dtype=np.float64) for part in parts) / len(X)
    scale = max(np.abs(X[part] - center).max() for part in parts)
    return center, scale if scale > 0 else 1.0


def norm_of(rows, center):
    """Return the Euclidean norm of the centered rows, in float64."""
    return np.sqrt(((rows - center) ** 2).sum(axis=1))


def float32_error(norms, distances, n_features, scale):
    """Return a bound on the error of squared distances from float32 products."""
    # A point nearer than `distances` has a norm of at most ``norms + distances``. The error of an inner product of d
    # terms grows like ``sqrt(d)`` times the rounding unit (N. Higham, T. Mary, "A new approach to probabilistic
    # rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019); the factor 8 allows for chance. Two rows without
    # their vanishing coordinates have moved by at most `moved`.
    unit = np.finfo(np.float32).eps / 2
    moved = 2 * np.sqrt(n_features) * float(VANISHING) * scale
    return 8 * np.sqrt(n_features + 2) * unit * (2 * norms + distances) ** 2 + (2 * distances + moved) * moved


def augmented_block(X, part, center, scale, side):
    """Return rows with two more columns, so that the product of a left and a right block is -1/2 distance^2."""
    # ``[x, 1, -|x|^2 / 2] . [y, -|y|^2 / 2, 1] = -|x - y|^2 / 2``
    block = np.empty((part.stop - part.start, X.shape[1] + 2), dtype=np.float32)
    # A few rows at a time, because their float64 copies then stay in the cache.
    for few in slices(len(block), 128):
        rows = block[few, :-2]
        rows[:] = (X[part][few] - center) / scale
        rows[np.abs(rows) < VANISHING] = 0
        half = np.einsum("ij,ij->i", rows, rows, dtype=np.float64) / 2
        block[few, -2], block[few, -1] = (1, -half) if side == "left" else (-half, 1)
    return block


class TopK:
    """The k nearest candidates so far of every query: those with the largest values of -1/2 distance^2."""

    def __init__(self, n_queries, k):
        self.values = np.full((n_queries, k), -np.inf, dtype=np.float32)
        self.indices = np.zeros((n_queries, k), dtype=np.int64)

    @property
    def threshold(self):
        """The value that a new candidate of each query must exceed: ndarray of shape (n_queries,)."""
        return self.values[:, -1]

    def candidates(self, products, queries, *, by_column=False):
        """Return the entries of a block of products that may be among the nearest, query by query."""
        # The queries are the rows of the block, or its columns. If another thread raises the threshold meanwhile, a few
        # extra entries are returned, never too few.
        threshold = self.threshold[queries]
        n_others, k = products.shape[0 if by_column else 1], self.values.shape[1]
        if n_others >= k and (threshold == -np.inf).all():
            # In the first block, sort only part of the entries, and use the k-th best of those as the threshold.
            n_some = max(256, 2 * k)
            some = products[:n_some].T if by_column else products[:, :n_some]
            threshold = -np.partition(-some, k - 1, axis=1)[:, k - 1]
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        flat = np.flatnonzero(products > (threshold if by_column else threshold[:, None]))
        rows, columns = np.divmod(flat, products.shape[1])
        values = products.ravel()[flat]
        if not by_column:
            return rows, columns, values
        order = np.argsort(columns, kind="stable")
        return columns[order], rows[order], values[order]

    def merge(self, queries, first_index, candidates):
        """Merge candidates into those of a slice of queries."""
        rows, columns, values = candidates
        kept, indices = self.values[queries], self.indices[queries]
        better = values > kept[rows, -1]
        rows, columns, values = rows[better], columns[better], values[better]
        if not len(rows):
            return
        counts = np.bincount(rows, minlength=len(kept))
        some = np.flatnonzero(counts)
        k = kept.shape[1]
        # For each query with a new candidate, the k old values followed by the new ones, and their indices.
        all_values = np.full((len(some), k + counts.max()), -np.inf, dtype=np.float32)
        all_indices = np.zeros(all_values.shape, dtype=np.int64)
        all_values[:, :k], all_indices[:, :k] = kept[some], indices[some]
        line = (np.cumsum(counts > 0) - 1)[rows]
        place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows] + k
        all_values[line, place], all_indices[line, place] = values, first_index + columns
        order = np.argsort(-all_values, axis=1, kind="stable")[:, :k]
        kept[some] = np.take_along_axis(all_values, order, axis=1)
        indices[some] = np.take_along_axis(all_indices, order, axis=1)


def search_among_themselves(X, _, n_candidates, center, scale, pool):
    """Return candidates for the neighbors of every row of X among its rows, multiplying each pair of blocks once."""
    # The second result bounds the squared distance, in units of `scale`. No other row is nearer, apart from rounding.
    nearest = TopK(len(X), n_candidates)
    blocks = slices(len(X), BLOCK)
    for i, left in enumerate(blocks):
        rows = augmented_block(X, left, center, scale, "left")

        def candidates_of_both(right, rows=rows, left=left):
            products = rows @ augmented_block(X, right, center, scale, "right").T
            of_right = nearest.candidates(products, right, by_column=True) if right is not left else None
            return nearest.candidates(products, left), of_right

        # The blocks are merged in their order, regardless of which thread finishes first.
        found = pool.map(candidates_of_both, blocks[i:])
        for right, (of_left, of_right) in zip(blocks[i:], found, strict=True):
            nearest.merge(left, right.start, of_left)
            if of_right is not None:
                nearest.merge(right, left.start, of_right)
    return nearest.indices, -2 * nearest.threshold


def search_in(X, Y, n_candidates, center, scale, pool):
    """Return candidates for the neighbors of every row of Y among the rows of X, and the bound as above."""
    # A row of Y so far from X that float32 overflows gets no candidate, and an infinite bound.
    nearest = TopK(len(Y), n_candidates)

    @np.errstate(over="ignore", invalid="ignore")
    def search(part):
        rows = augmented_block(Y, part, center, scale, "left")
        for block in slices(len(X), BLOCK):
            products = rows @ augmented_block(X, block, center, scale, "right").T
            nearest.merge(part, block.start, nearest.candidates(products, part))

    list(pool.map(search, slices(len(Y), BLOCK)))
    return nearest.indices, -2 * nearest.threshold


def refine(X, rows, candidates, k):
    """Return each row's k nearest candidates by float64 distance, ties by index, and the k-th distance."""
    candidates = np.sort(candidates, axis=1)
    difference = X[candidates].astype(np.float64)
    difference -= rows[:, None, :]
    squares = np.einsum("ijk,ijk->ij", difference, difference)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    farthest = np.sqrt(np.take_along_axis(squares, order[:, -1:], axis=1)[:, 0])
    return np.take_along_axis(candidates, order, axis=1), farthest


def search_in_float64(X, rows, k, center):
    """Return the k nearest rows of X for each of a few rows, from float64 products and ties by index."""
    centered = rows - center
    row_squares = (centered**2).sum(axis=1)
    squares = np.empty((len(rows), len(X)))
    for part in slices(len(X), BLOCK):
        block = X[part] - center
        squares[:, part] = (block**2).sum(axis=1) + row_squares[:, None] - 2 * (centered @ block.T)
    indices = np.empty((len(rows), k), dtype=np.int64)
    for i, (row, square) in enumerate(zip(rows, squares, strict=True)):
        # These products also cancel, so compare every row again that rounding may have moved past the k-th.
        kth = np.partition(square, k - 1)[k - 1]
        reach = 2 * np.sqrt(row_squares[i]) + np.sqrt(max(kth, 0))
        slack = 8 * X.shape[1] * np.finfo(np.float64).eps * reach**2
        near = np.flatnonzero(square <= kth + slack)
        # Use uncentered rows: subtracting a distant center would round away the differences between close rows.
        exact = np.array([((X[j] - row.astype(np.float64)) ** 2).sum() for j in near])
        indices[i] = near[np.argsort(exact, kind="stable")[:k]]
    return indices


def first_repeats(X, Y, k):
    """Return {row of Y: the first k of its copies in X}, for the rows that have at least k copies there."""
    # Such rows (for example, heatmaps that are zero everywhere) have distance 0 to all their copies, and rounding would
    # choose among them.
    if k == 1:
        return {}
    # Adding 0 turns -0 into 0, because the two are equal but have different bytes.
    zero = X.dtype.type(0)
    blocks = ([hash(row.tobytes()) for row in X[part] + zero] for part in slices(len(X), BLOCK))
    hashes = np.concatenate([np.array(block) for block in blocks])
    keys, counts = np.unique(hashes, return_counts=True)
    crowded = {}
    for key in keys[counts >= k].tolist():
        rows = np.flatnonzero(hashes == key)
        # Different rows may have equal hashes.
        copies = [i for i in rows if (X[i] == X[rows[0]]).all()]
        if len(copies) >= k:
            crowded[key] = np.array(copies[:k])
    repeats = {}
    if not crowded:
        return repeats
    for i, row in enumerate(Y):
        first = crowded.get(hash((row + zero).astype(X.dtype).tobytes()))
        if first is not None and (X[first[0]] == row).all():
            repeats[i] = first
    return repeats


def rows_are_identical(X):
    """Return whether all rows of X are the same (stops at the first that differs)."""
    return all((row == X[0]).all() for row in X)
