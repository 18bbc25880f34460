"""Exact and approximate nearest neighbours of heatmaps.

The exact search is a blocked float32 matrix product that keeps a few more candidates per row than wanted.
The distances to the candidates are then computed in float64, and a bound on the rounding error of the
product tells for which rows the candidates are certain to hold all neighbours. The other rows (many
near-ties, or a huge outlier that leaves float32 no digits for the rest) are searched in float64. So the
result is that of a float64 search.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import threadpool_info, threadpool_limits

# Rows of a block: its products (16 MB in float32) stay near the processor, and one matrix product keeps it busy.
BLOCK = 2048
# Coordinates below this (the largest is 1) count as 0: their products would be subnormal numbers, which are a hundred
# times slower. Relevance that fades to nothing is full of them.
VANISHING = np.float32(2.0**-63)
# Numbers that the float64 steps hold at a time, per thread (32 MB).
CHUNK = 4_000_000


def nearest_rows(X, k, *, Y=None, n_jobs=None):
    """Return the k nearest rows of X (Euclidean) for each row of Y, nearest first and ties by index.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        The rows to search in. A memory map is read block by block.
    k : int
        Number of neighbours, at most n_samples. A row of X counts as its own neighbour.
    Y : ndarray of shape (n_queries, n_features), default=None
        The rows to search for; X itself when None, which halves the work.
    n_jobs : int, default=None
        Number of threads; None is as many as the BLAS library may use. The result does not depend on it.

    Returns
    -------
    indices : ndarray of shape (n_queries, k), int64
    """
    queries = X if Y is None else Y
    n_candidates = min(len(X), k + max(4, k // 2))
    center, scale = middle_and_reach(X)
    with one_blas_thread_each(n_jobs) as pool:
        search = search_among_themselves if Y is None else search_in
        candidates, bound = search(X, Y, n_candidates, center, scale, pool)
        parts = slices(len(queries), max(1, CHUNK // (n_candidates * X.shape[1])))
        refined = pool.map(lambda part: refine(X, queries[part], candidates[part], k), parts)
        indices, farthest = (np.concatenate(both) for both in zip(*refined, strict=True))
        repeated = first_repeats(X, queries, k)
        if n_candidates < len(X):
            norms = np.concatenate([norm_of(queries[part], center) for part in parts])
            error = float32_error(norms, farthest, X.shape[1], scale)
            uncertain = np.flatnonzero(farthest**2 + error >= bound.astype(np.float64) * scale**2)
            uncertain = np.setdiff1d(uncertain, list(repeated))
            parts = slices(len(uncertain), max(1, CHUNK // len(X)))
            exact = pool.map(lambda part: search_in_float64(X, queries[uncertain[part]], k, center), parts)
            for part, found in zip(parts, exact, strict=True):
                indices[uncertain[part]] = found
    for i, first in repeated.items():
        indices[i] = first
    return indices


class one_blas_thread_each:
    """Context of a pool of threads in which every matrix product runs on one thread.

    A product split between threads may round differently from one that is not; one on a single thread
    never does, so that the number of threads cannot change a result.
    """

    def __init__(self, n_jobs):
        if n_jobs is None:
            blas = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
            self.n_threads = max(blas, default=1)
        else:
            self.n_threads = effective_n_jobs(n_jobs)

    def __enter__(self):
        self.limits = threadpool_limits(limits=1, user_api="blas")
        self.pool = ThreadPoolExecutor(self.n_threads)
        return self.pool

    def __exit__(self, *exception):
        self.pool.shutdown(cancel_futures=True)
        self.limits.restore_original_limits()


def slices(n, size):
    """Return the slices that cut n rows into parts of at most `size`."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def middle_and_reach(X):
    """Return the mean row of X, float64, and the largest distance of a coordinate from it (1 for equal
    rows).

    Centred and divided by these, rows lie in [-1, 1]: their float32 products lose the fewest digits, and
    cannot overflow.
    """
    parts = slices(len(X), BLOCK)
    center = sum(X[part].sum(axis=0, dtype=np.float64) for part in parts) / len(X)
    reach = max(np.abs(X[part] - center).max() for part in parts)
    return center, reach if reach > 0 else 1.0


def norm_of(rows, center):
    """Return the Euclidean norm of the centred rows, in float64."""
    return np.sqrt(((rows - center) ** 2).sum(axis=1))


def float32_error(norms, distances, n_features, scale):
    """Return a bound on the error of squared distances from float32 products.

    A point nearer than `distances` has a norm of at most ``norms + distances``. The error of an inner
    product of d terms grows like ``sqrt(d)`` times the rounding unit (N. Higham, T. Mary, "A new approach
    to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019); 8 leaves room for the
    chance in it. Two rows without their vanishing coordinates have moved by `moved` at most.
    """
    unit = np.finfo(np.float32).eps / 2
    moved = 2 * np.sqrt(n_features) * float(VANISHING) * scale
    return 8 * np.sqrt(n_features + 2) * unit * (2 * norms + distances) ** 2 + (2 * distances + moved) * moved


def load(X, part, center, scale, side):
    """Return a block of rows, prepared so that the product of a left and a right block is -1/2 distance^2.

    ``[x, 1, -|x|^2 / 2] . [y, -|y|^2 / 2, 1] = -|x - y|^2 / 2``
    """
    block = np.empty((part.stop - part.start, X.shape[1] + 2), dtype=np.float32)
    block[:, :-2] = (X[part] - center) / scale
    block[:, :-2][np.abs(block[:, :-2]) < VANISHING] = 0
    half = np.einsum("ij,ij->i", block[:, :-2], block[:, :-2], dtype=np.float64) / 2
    block[:, -2], block[:, -1] = (1, -half) if side == "left" else (-half, 1)
    return block


class Best:
    """The best candidates so far of every query: the largest values of -1/2 distance^2.

    Parameters
    ----------
    n_queries : int
    n_candidates : int
    """

    def __init__(self, n_queries, n_candidates):
        self.values = np.full((n_queries, n_candidates), -np.inf, dtype=np.float32)
        self.indices = np.zeros((n_queries, n_candidates), dtype=np.int64)

    @property
    def worst(self):
        """What a newcomer must exceed: ndarray of shape (n_queries,)."""
        return self.values[:, -1]

    def offers(self, products, queries, *, by_column=False):
        """Return the entries of a block of products that may be among the best, query by query.

        The queries are the rows of the block, or its columns. Another thread may be raising `worst`
        meanwhile: then a few entries too many are returned, never too few.
        """
        bar = self.worst[queries]
        n_others, n_candidates = products.shape[0 if by_column else 1], self.values.shape[1]
        if n_others >= n_candidates and (bar == -np.inf).all():
            # The first block: sort some of it only, and let the n-th best of those be the bar.
            n_some = max(256, 2 * n_candidates)
            some = products[:n_some].T if by_column else products[:, :n_some]
            bar = -np.partition(-some, n_candidates - 1, axis=1)[:, n_candidates - 1]
            bar = np.nextafter(bar, np.float32(-np.inf))
        flat = np.flatnonzero(products > (bar if by_column else bar[:, None]))
        rows, columns = np.divmod(flat, products.shape[1])
        values = products.ravel()[flat]
        if not by_column:
            return rows, columns, values
        order = np.argsort(columns, kind="stable")
        return columns[order], rows[order], values[order]

    def take(self, queries, first_index, offers):
        """Merge offers into the best candidates of a slice of queries."""
        rows, columns, values = offers
        kept, indices = self.values[queries], self.indices[queries]
        better = values > kept[rows, -1]
        rows, columns, values = rows[better], columns[better], values[better]
        if not len(rows):
            return
        counts = np.bincount(rows, minlength=len(kept))
        some = np.flatnonzero(counts)
        n_kept = kept.shape[1]
        pool = np.full((len(some), n_kept + counts.max()), -np.inf, dtype=np.float32)
        names = np.zeros(pool.shape, dtype=np.int64)
        pool[:, :n_kept], names[:, :n_kept] = kept[some], indices[some]
        place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows] + n_kept
        line = (np.cumsum(counts > 0) - 1)[rows]
        pool[line, place], names[line, place] = values, first_index + columns
        order = np.argsort(-pool, axis=1, kind="stable")[:, :n_kept]
        kept[some] = np.take_along_axis(pool, order, axis=1)
        indices[some] = np.take_along_axis(names, order, axis=1)


def search_among_themselves(X, _, n_candidates, center, scale, pool):
    """Find candidates for the neighbours of every row of X among its rows, each pair of blocks once.

    Returns
    -------
    candidates : ndarray of shape (n_samples, n_candidates), int64
    bound : ndarray of shape (n_samples,), float32
        No other row is nearer than this squared distance, in units of `scale` and but for rounding.
    """
    best = Best(len(X), n_candidates)
    blocks = slices(len(X), BLOCK)
    for i, left in enumerate(blocks):
        rows = load(X, left, center, scale, "left")

        def offers(right, rows=rows, left=left):
            products = rows @ load(X, right, center, scale, "right").T
            theirs = best.offers(products, right, by_column=True) if right is not left else None
            return best.offers(products, left), theirs

        # The blocks are merged in their order, whichever thread is done first.
        for right, (ours, theirs) in zip(blocks[i:], pool.map(offers, blocks[i:]), strict=True):
            best.take(left, right.start, ours)
            if theirs is not None:
                best.take(right, left.start, theirs)
    return best.indices, -2 * best.worst


def search_in(X, Y, n_candidates, center, scale, pool):
    """Find candidates for the neighbours of every row of Y among the rows of X; returns as above."""
    best = Best(len(Y), n_candidates)

    def search(part):
        rows = load(Y, part, center, scale, "left")
        for block in slices(len(X), BLOCK):
            products = rows @ load(X, block, center, scale, "right").T
            best.take(part, block.start, best.offers(products, part))

    list(pool.map(search, slices(len(Y), BLOCK)))
    return best.indices, -2 * best.worst


def refine(X, rows, candidates, k):
    """Return the k nearest of each row's candidates by float64 distance, ties by index, and the k-th
    distance.
    """
    candidates = np.sort(candidates, axis=1)
    difference = X[candidates].astype(np.float64)
    difference -= rows[:, None, :]
    squares = np.einsum("ijk,ijk->ij", difference, difference)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    farthest = np.sqrt(np.take_along_axis(squares, order[:, -1:], axis=1)[:, 0])
    return np.take_along_axis(candidates, order, axis=1), farthest


def search_in_float64(X, rows, k, center):
    """Return the k nearest rows of X for each of a few rows, from float64 products and ties by index."""
    centred = rows - center
    own = (centred**2).sum(axis=1)
    squares = np.empty((len(rows), len(X)))
    norms = np.empty(len(X))
    for part in slices(len(X), BLOCK):
        block = X[part] - center
        norms[part] = (block**2).sum(axis=1)
        squares[:, part] = norms[part] + own[:, None] - 2 * (centred @ block.T)
    indices = np.empty((len(rows), k), dtype=np.int64)
    for i, (row, square) in enumerate(zip(rows, squares, strict=True)):
        # The products cancel too; whatever rounding may have pushed past the k-th is looked at again.
        kth = np.partition(square, k - 1)[k - 1]
        slack = 8 * X.shape[1] * np.finfo(np.float64).eps * (2 * np.sqrt(own[i]) + np.sqrt(max(kth, 0))) ** 2
        near = np.flatnonzero(square <= kth + slack)
        # From the rows as they are: beside a far middle, what tells close rows apart would be rounded away.
        exact = np.array([((X[j] - row.astype(np.float64)) ** 2).sum() for j in near])
        indices[i] = near[np.argsort(exact, kind="stable")[:k]]
    return indices


def first_repeats(X, Y, k):
    """Return {row of Y: the first k of its copies in X}, for the rows that have at least k copies there.

    Such rows (heatmaps that are zero everywhere, say) are at distance 0 from all their copies: rounding
    would choose among them.
    """
    places = {}
    for part in slices(len(X), BLOCK):
        # Adding 0 turns -0 into 0: they are equal, but not byte by byte.
        for i, row in enumerate(X[part] + X.dtype.type(0), start=part.start):
            places.setdefault(hash(row.tobytes()), []).append(i)
    crowded = {}
    for key, rows in places.items():
        if len(rows) >= k > 1:
            # Copies of the first, and not merely of its hash.
            copies = [i for i in rows if (X[i] == X[rows[0]]).all()]
            if len(copies) >= k:
                crowded[key] = np.array(copies[:k])
    repeats = {}
    if not crowded:
        return repeats
    for i, row in enumerate(Y):
        first = crowded.get(hash((row + X.dtype.type(0)).astype(X.dtype).tobytes()))
        if first is not None and (X[first[0]] == row).all():
            repeats[i] = first
    return repeats


def vote(labels, counts):
    """Return the most frequent label of each row; of equally frequent ones the first.

    Parameters
    ----------
    labels : ndarray of shape (n_samples, k), int64
        Labels of the neighbours, the nearest first.
    counts : ndarray of shape (n_samples, k), bool
        Which of them may vote. A row without any gets the label 0.

    Returns
    -------
    winners : ndarray of shape (n_samples,), int64
    """
    votes = ((labels[:, :, None] == labels[:, None, :]) & counts[:, None, :] & counts[:, :, None]).sum(axis=2)
    winners = np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(counts.any(axis=1), winners, 0)


def rows_are_identical(X):
    """Return whether all rows of X are the same (stops at the first that differs)."""
    return all((row == X[0]).all() for row in X)
