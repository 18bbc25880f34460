"""How the neighbours of a training set are looked for: exactly or not, in all dimensions or in fewer."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from skexmap.cluster._neighbors import BLOCK, nearest_rows, slices

# Principal axes need no more rows than this, whatever the size of X.
PCA_ROWS = 10_000
# Rows whose neighbours are also searched exactly, to tell the recall.
RECALL_ROWS = 256


@dataclass
class NeighborSearch:
    """A search among training rows, which can be repeated for new ones.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        The training rows.
    components : ndarray of shape (n_components, n_features) or None
        Axes of the space to search in; None is the space of the rows.
    projected : ndarray of shape (n_samples, n_components) or None
        The training rows in that space.
    index : pynndescent.NNDescent or None
        The approximate index; None searches exactly.
    n_jobs : int or None
        Number of threads.
    """

    rows: np.ndarray
    components: np.ndarray | None
    projected: np.ndarray | None
    index: object
    n_jobs: int | None

    def of_training_rows(self, k):
        """Return the k nearest training rows of each training row; ndarray of shape (n_samples, k)."""
        if self.index is not None:
            return np.ascontiguousarray(self.index.neighbor_graph[0][:, :k], dtype=np.int64)
        return nearest_rows(self._space, k, n_jobs=self.n_jobs)

    def of(self, rows, k):
        """Return the k nearest training rows of each new row; ndarray of shape (n_queries, k)."""
        queries = rows if self.components is None else project(rows, self.components)
        if self.index is not None:
            return self.index.query(queries.astype(np.float32, copy=False), k=k)[0].astype(np.int64)
        return nearest_rows(self._space, k, Y=queries, n_jobs=self.n_jobs)

    def recall(self, found, random_state):
        """Return the share of the true nearest rows among those found, on a sample of training rows."""
        if self.index is None and self.components is None:
            return 1.0
        sample = random_state.permutation(len(self.rows))[:RECALL_ROWS]
        true = nearest_rows(self.rows, found.shape[1], Y=self.rows[sample], n_jobs=self.n_jobs)
        hits = [np.isin(f, t).mean() for f, t in zip(found[sample], true, strict=True)]
        return float(np.mean(hits))

    @property
    def _space(self):
        return self.rows if self.projected is None else self.projected


def fit_search(rows, k, *, neighbors, projection, n_components, random_state, n_jobs):
    """Prepare a search for the neighbours of rows.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        The training rows.
    k : int
        Number of neighbours that will be asked for.
    neighbors : {"exact", "approximate"}
        How to search.
    projection : {"pca", "random"} or None
        Space to search in.
    n_components : int
        Its dimension.
    random_state : numpy.random.RandomState
        Draws the sample or the axes of the projection and starts the approximate search.
    n_jobs : int or None
        Number of threads.

    Returns
    -------
    search : NeighborSearch
    """
    components = projected = index = None
    if projection is not None and n_components < min(rows.shape):
        components = AXES[projection](rows, n_components, random_state)
        projected = project(rows, components)
    if neighbors == "approximate":
        index = descent_index(rows if projected is None else projected, k, random_state, n_jobs)
    return NeighborSearch(rows, components, projected, index, n_jobs)


def principal_axes(rows, n_components, random_state):
    """Return the first principal axes, from a sample of the rows."""
    if len(rows) > PCA_ROWS:
        rows = rows[np.sort(random_state.choice(len(rows), PCA_ROWS, replace=False))]
    # Randomised: an exact decomposition of 2,352 columns takes longer than the search that it would shorten.
    return PCA(n_components, svd_solver="randomized", random_state=random_state).fit(rows).components_


def random_axes(rows, n_components, random_state):
    """Return Gaussian random axes, which keep distances within a factor that shrinks with their number."""
    return random_state.standard_normal((n_components, rows.shape[1])) / np.sqrt(n_components)


AXES = {"pca": principal_axes, "random": random_axes}


def project(rows, components):
    """Return rows @ components.T as float32, block by block."""
    projected = np.empty((len(rows), len(components)), dtype=np.float32)
    for part in slices(len(rows), BLOCK):
        projected[part] = rows[part] @ components.T
    return projected


def descent_index(rows, k, random_state, n_jobs):
    """Return a nearest-neighbour-descent index of the rows."""
    try:
        from pynndescent import NNDescent
    except ImportError as error:
        raise ImportError(
            "neighbors='approximate' needs pynndescent. Install it with `pip install pynndescent`, "
            "or use neighbors='exact'."
        ) from error
    index = NNDescent(
        np.asarray(rows, dtype=np.float32),
        n_neighbors=max(k, 15),
        random_state=random_state.randint(np.iinfo(np.int32).max),
        n_jobs=n_jobs,
    )
    index.prepare()
    return index
