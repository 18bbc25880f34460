"""How far clusters agree with those of another seed, on rows with groups and on noise: where to draw the line.

    python examples/benchmarks/bench_seeds.py

Prints, for every clusterer and data set, the lowest and the mean adjusted Rand index over the pairs of four seeds,
and the seconds of one fit.
"""

import itertools
import time
import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skexmap.cluster import EigengapSpectralClustering, OverclusteringKMeans

SEEDS = range(4)
CLUSTERERS = {
    "spectral": lambda seed: EigengapSpectralClustering(random_state=seed),
    "spectral, 8": lambda seed: EigengapSpectralClustering(8, random_state=seed),
    "spectral, pca": lambda seed: EigengapSpectralClustering(
        projection="pca", n_components=8, random_state=seed, n_seed_checks=0
    ),
    "k-means 3": lambda seed: KMeans(3, n_init=10, random_state=seed),
    "k-means 8": lambda seed: KMeans(8, n_init=10, random_state=seed),
    "k-means 2 to 15": lambda seed: OverclusteringKMeans(random_state=seed, n_seed_checks=0),
}


def data_sets():
    """Yield name and rows: three groups, 50 of 600 rows in the smallest, and noise of as many columns."""
    groups, _ = make_blobs([400, 150, 50], n_features=50, center_box=(-3, 3), random_state=0)
    yield "3 groups, 600 rows", groups.astype(np.float32)
    for n in (600, 2000):
        yield f"noise, {n:,} rows", np.random.default_rng(0).standard_normal((n, 50)).astype(np.float32)


def agreement(make, X):
    """Return the adjusted Rand index of every pair of seeds, and the seconds of one fit."""
    start = time.perf_counter()
    labels = [make(seed).fit_predict(X) for seed in SEEDS]
    seconds = (time.perf_counter() - start) / len(labels)
    return [adjusted_rand_score(a, b) for a, b in itertools.combinations(labels, 2)], seconds


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("| rows | clusterer | lowest | mean | s |\n|---|---|---:|---:|---:|")
    for name, X in data_sets():
        for clusterer, make in CLUSTERERS.items():
            indices, seconds = agreement(make, X)
            print(
                f"| {name} | {clusterer} | {min(indices):.2f} | {np.mean(indices):.2f} | {seconds:.2f} |",
                flush=True,
            )
