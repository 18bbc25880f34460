"""A fitted clusterer whose clusters are numbered by size, which places new rows and was compared under other seeds."""

from dataclasses import dataclass, replace

import numpy as np
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score

from skexmap._validation import parameters_named, warn
from skexmap.cluster import EigengapSpectralClustering
from skexmap.cluster._cluster_labels import renumber_by_size
from skexmap.cluster._neighbors import nearest_rows
from skexmap.cluster._stability import POOR_ARI
from skexmap.exceptions import ClusteringWarning


@dataclass
class FittedClusterer:
    """A fitted clusterer with new numbers for its clusters."""

    clusterer: object
    labels: np.ndarray
    # The clusterer's own numbers -> those of `labels`.
    numbers: dict
    # The training rows; None if the clusterer has a `predict`.
    rows: np.ndarray | None
    seed_agreement: float | None = None

    @property
    def n_clusters(self):
        return int(self.labels.max()) + 1

    def renumbered(self, numbers):
        """Return the same clusterer with a new number for each cluster; two clusters may share a number."""
        numbers = np.append(numbers, -1)
        return replace(
            self,
            labels=numbers[self.labels],
            numbers={given: int(numbers[number]) for given, number in self.numbers.items()},
        )

    def predict(self, rows):
        """Return the cluster of each row: the clusterer's prediction, or the cluster of the nearest training row."""
        if self.rows is not None:
            return self.labels[nearest_rows(self.rows, 1, Y=rows)[:, 0]]
        return np.array(
            [self.numbers.get(c, -1) for c in self.clusterer.predict(rows).tolist()], dtype=np.int64
        )


def fit_clusterer(unfitted, rows, what, n_seed_checks=0):
    """Fit a clone of a clusterer and number its clusters by size; `what` names the rows in messages."""
    clusterer, name = clone(unfitted), type(unfitted).__name__
    try:
        given = np.asarray(clusterer.fit_predict(rows))
    except ValueError as error:
        raise ValueError(f"Clustering {what} ({len(rows)} samples) failed: {error}") from error
    if given.max() < 0:
        raise ValueError(
            f"{name} put all {len(rows)} samples of {what} at -1 ('belongs to none'). "
            "Change its parameters so that it finds a cluster."
        )
    labels = renumber_by_size(given)
    numbers = dict(zip(given.tolist(), labels.tolist(), strict=True))
    agreement = seed_agreement(unfitted, rows, labels, n_seed_checks)
    if agreement is not None and agreement < POOR_ARI:
        warn(
            f"The clusters of {what} ({len(rows)} samples) barely reproduce: under {n_seed_checks} other "
            f"seed{'s' * (n_seed_checks > 1)}, {name} finds clusters with an adjusted Rand index of {agreement:.2f} to "
            f"these (1 is the same, 0 is chance, less than {POOR_ARI} is poor). So the pseudo-groups depend on the "
            "seed. Ask for fewer clusters or more starts (`n_init`), use EigengapSpectralClustering with exact "
            "neighbors, or see `skexmap.cluster.cluster_stability`. `n_seed_checks=0` skips this check.",
            ClusteringWarning,
        )
    return FittedClusterer(
        clusterer, labels, numbers, None if hasattr(clusterer, "predict") else rows, agreement
    )


def seed_agreement(unfitted, rows, labels, n_seeds):
    """Return the mean adjusted Rand index of labels with the clusters under other seeds; None if no seed matters."""
    names = parameters_named(unfitted, "random_state")
    if isinstance(unfitted, EigengapSpectralClustering):
        # The seed of this clusterer does not change the clusters, but that of a transformer in `neighbors` may.
        names.remove("random_state")
    if not (n_seeds and names):
        return None
    # Use fixed seeds: fits stay reproducible and the user's random state is untouched.
    seeds = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=n_seeds).tolist()
    others = (clone(unfitted).set_params(**dict.fromkeys(names, seed)).fit_predict(rows) for seed in seeds)
    return float(np.mean([adjusted_rand_score(labels, other) for other in others]))
