"""How far clusters agree with those of another seed, on rows with groups and on noise.

    python examples/benchmarks/bench_seeds.py

Prints, for every clusterer and data set, the lowest adjusted Rand index over the pairs of four seeds.
"""

import itertools
import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.random_projection import GaussianRandomProjection

from skexmap.cluster import EigengapSpectralClustering, SilhouetteKMeans

SEEDS = range(4)
CLUSTERERS = {
    "spectral": lambda seed: EigengapSpectralClustering(random_state=seed),
    "spectral, 8": lambda seed: EigengapSpectralClustering(8, random_state=seed),
    "spectral, random axes": lambda seed: EigengapSpectralClustering(
        neighbors=make_pipeline(
            GaussianRandomProjection(8, random_state=seed), KNeighborsTransformer(n_neighbors=10)
        )
    ),
    "k-means 3": lambda seed: KMeans(3, n_init=10, random_state=seed),
    "k-means 8": lambda seed: KMeans(8, n_init=10, random_state=seed),
    "k-means 2 to 15": lambda seed: SilhouetteKMeans(random_state=seed),
}


def data_sets():
    """Yield name and rows: three groups, 50 of 600 rows in the smallest, and noise of as many columns."""
    groups, _ = make_blobs([400, 150, 50], n_features=50, center_box=(-3, 3), random_state=0)
    yield "3 groups, 600 rows", groups.astype(np.float32)
    for n in (600, 2000):
        yield f"noise, {n:,} rows", np.random.default_rng(0).standard_normal((n, 50)).astype(np.float32)


def lowest_agreement(make, X):
    """Return the lowest adjusted Rand index over the pairs of seeds."""
    labels = [make(seed).fit_predict(X) for seed in SEEDS]
    return min(adjusted_rand_score(a, b) for a, b in itertools.combinations(labels, 2))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = dict(data_sets())
    print(f"| clusterer | {' | '.join(rows)} |\n|---|{'---:|' * len(rows)}")
    for name, make in CLUSTERERS.items():
        cells = [f"{lowest_agreement(make, X):.2f}" for X in rows.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
