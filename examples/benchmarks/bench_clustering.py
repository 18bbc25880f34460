"""Time, memory and result of EigengapSpectralClustering against its peers, from 1,199 to 162,770 heatmaps.

    python examples/benchmarks/bench_clustering.py
    python examples/benchmarks/bench_clustering.py --sizes 162770 --columns 588 --methods exact approximate
    python examples/benchmarks/bench_clustering.py --sizes 162770 --columns 2352 --dtype float16 --methods exact

Every run is a process of its own, so that its peak memory is its own; the heatmaps are read from a memory map, whose
pages in memory count too. A run that takes longer than --limit seconds is stopped. --results keeps the runs of several
calls and prints them in one table.

The heatmaps are generated: a spot in the middle or a ring at the border (what the model looks at), in one of two
channels, in shares of 45, 35, 15 and 5%, at random places and widths, mixed a little with one another, with noise.

Methods
    exact        EigengapSpectralClustering()
    approximate  EigengapSpectralClustering(neighbors=PyNNDescentTransformer(n_neighbors=15)), needs pynndescent
    sklearn      sklearn.cluster.SpectralClustering(4)
    published    the published recipe, from its description: neighbors by scikit-learn, eigenvalues and eigenvectors
                 by ARPACK one after the other, and then scikit-learn's SpectralClustering on the graph
    lower bound  the same with the fast ARPACK call for the third decomposition too: no reading of it is faster
    corelay      CoRelAy's spectral clustering with 4 clusters, if it is installed
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = (1_199, 4_795, 19_867, 50_000, 162_770)
# Columns -> side of the maps.
SIDES = {588: 14, 2352: 28}
SHARES = (0.45, 0.35, 0.15, 0.05)


def make_heatmaps(path, n, side, seed=0, dtype=np.float32):
    """Write n heatmaps of shape (3, side, side), as rows, to a .npy file; return their true clusters."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, size=n, p=SHARES)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(n, 3 * side * side))
    y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    for start in range(0, n, 4096):
        own = truth[start : start + 4096, None, None]
        shape = own.shape
        cx, cy = rng.normal(0, 0.12, (2, *shape))
        width = rng.normal(0.35, 0.06, shape).clip(0.15)
        spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
        angle, radius = rng.uniform(-np.pi, np.pi, shape), rng.normal(0.85, 0.05, shape)
        ring = np.exp(-(((np.hypot(x, y) - radius) / 0.15) ** 2)) * (1 + np.cos(np.arctan2(y, x) - angle) / 2)
        mix, leak = rng.beta(0.35, 6, (2, *shape))
        look = np.where(own < 2, (1 - mix) * spot + mix * ring, mix * spot + (1 - mix) * ring)
        first = np.where(own % 2 == 0, 1 - leak, leak)
        maps = np.stack([first * look, (1 - first) * look, 0.1 * look], axis=1)
        maps += rng.normal(0, 0.05, maps.shape)
        maps /= np.abs(maps).max(axis=(1, 2, 3), keepdims=True)
        X[start : start + 4096] = maps.reshape(len(maps), -1)
    X.flush()
    return truth


def ours(X, **params):
    from skexmap.cluster import EigengapSpectralClustering

    clusterer = EigengapSpectralClustering(random_state=0, **params).fit(X)

    def more():
        sample = slice(None, None, max(1, len(X) // 2000))
        rows, labels = X[sample], clusterer.labels_[sample]
        # A row that has moved a little is not a training row any more: its neighbors vote.
        moved = rows + np.random.default_rng(0).normal(0, 0.01, rows.shape).astype(rows.dtype)
        return {
            "predict": float((clusterer.predict(rows) == labels).mean()),
            "predict_moved": float((clusterer.predict(moved) == labels).mean()),
        }

    return clusterer.labels_, more


def approximate(X):
    from pynndescent import PyNNDescentTransformer

    return ours(X, neighbors=PyNNDescentTransformer(n_neighbors=15, random_state=0))


def scikit_learn(X):
    from sklearn.cluster import SpectralClustering

    clusterer = SpectralClustering(
        4,
        affinity="nearest_neighbors",
        n_neighbors=int(np.log(len(X))),
        assign_labels="cluster_qr",
        random_state=0,
        n_jobs=-1,
    )
    return clusterer.fit_predict(X), dict


def published(X, *, last_by_scikit_learn=True):
    """Follow the description: k-NN graph, eigenvalues, eigenvectors and clusters, decomposed each for itself."""
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import SpectralClustering
    from sklearn.cluster._spectral import cluster_qr
    from sklearn.neighbors import kneighbors_graph

    A = kneighbors_graph(X, int(np.log(len(X))), include_self=True, n_jobs=-1)
    A = (A + A.T) / 2
    L, root = laplacian(A, normed=True, return_diag=True)
    start = np.random.default_rng(0).uniform(-1, 1, len(X))
    eigenvalues = eigsh(L, k=11, which="SA", v0=start, return_eigenvectors=False)
    k = 2 + np.diff(np.sort(eigenvalues))[1:].argmax()
    _, vectors = eigsh(L, k=k, which="SA", v0=start)
    if not last_by_scikit_learn:
        eigsh(L, k=k, which="SA", v0=start)
        return cluster_qr(vectors / root[:, None]), dict
    clusterer = SpectralClustering(k, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    return clusterer.fit_predict(A), dict


def corelay(X):
    from corelay.pipeline.spectral import SpectralClustering
    from corelay.processor.affinity import SparseKNN
    from corelay.processor.clustering import KMeans
    from corelay.processor.embedding import EigenDecomposition

    pipeline = SpectralClustering(
        affinity=SparseKNN(n_neighbors=int(np.log(len(X))), symmetric=True),
        embedding=EigenDecomposition(n_eigval=4),
        clustering=KMeans(n_clusters=4),
    )
    # The last output is that of the clustering.
    labels = pipeline(np.asarray(X))
    while isinstance(labels, tuple):
        labels = labels[-1]
    return np.asarray(labels), dict


METHODS = {
    "exact": ours,
    "approximate": approximate,
    "sklearn": scikit_learn,
    "published": published,
    "lower bound": lambda X: published(X, last_by_scikit_learn=False),
    "corelay": corelay,
}


def run_one(method, path):
    """Cluster one file and print a line of JSON."""
    from sklearn.metrics import adjusted_rand_score

    X = np.load(path, mmap_mode="r")
    # Imports and compilation are paid before the clock starts.
    METHODS[method](X[:400])
    start, start_cpu = time.perf_counter(), time.process_time()
    labels, more = METHODS[method](X)
    result = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - start_cpu,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "k": len(np.unique(labels)),
        "ari": adjusted_rand_score(np.load(f"{path}.truth.npy"), labels),
    }
    print(json.dumps(result | more()))


def run(method, path, limit):
    """Cluster one file in a process of its own; return its result, or why there is none."""
    command = [sys.executable, __file__, "--run", method, path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {limit} s"}
    if done.returncode:
        why = done.stderr.strip().splitlines()
        return {"failed": why[-1][:80] if why else f"ended by signal {-done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def table(results):
    """Return the results as a Markdown table, with the growth of the time from size to size.

    The growth is the exponent b of CPU seconds ~ n^b between a size and the one before it. CPU seconds add up the
    cores, and tell more than the clock on a machine that has other work.
    """
    lines = [
        "| rows | columns | method | seconds | CPU s | growth | peak GB | k | ARI | predict | moved |",
        "|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    order = sorted(results, key=lambda r: (r["columns"], r["rows"], list(METHODS).index(r["method"])))
    before = {}
    for r in order:
        head = f"| {r['rows']:,} | {r['columns']:,} | {r['method']} |"
        if "failed" in r:
            lines.append(f"{head} {r['failed']} | | | | | | | |")
            continue
        key = r["columns"], r["method"]
        growth = ""
        if key in before:
            n, seconds = before[key]
            growth = f"{np.log(r['cpu'] / seconds) / np.log(r['rows'] / n):.1f}"
        before[key] = r["rows"], r["cpu"]
        shares = [f"{r[name]:.3f}" if name in r else "" for name in ("predict", "predict_moved")]
        lines.append(
            f"{head} {r['seconds']:.1f} | {r['cpu']:.1f} | {growth} | {r['gigabytes']:.1f} "
            f"| {r['k']} | {r['ari']:.3f} | " + " | ".join(shares) + " |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--columns", type=int, nargs="+", default=(588, 2352), choices=SIDES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--limit", type=int, default=600, help="seconds that one run may take")
    parser.add_argument("--results", type=Path, help="JSON file that keeps the runs of several calls")
    parser.add_argument("--run", nargs=2, metavar=("METHOD", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        return run_one(*arguments.run)
    results = {}
    if arguments.results and arguments.results.exists():
        results = {
            (r["columns"], r["rows"], r["method"]): r for r in json.loads(arguments.results.read_text())
        }
    with tempfile.TemporaryDirectory() as folder:
        for columns in arguments.columns:
            for n in arguments.sizes:
                path = f"{folder}/heatmaps.npy"
                np.save(f"{path}.truth.npy", make_heatmaps(path, n, SIDES[columns], dtype=arguments.dtype))
                for method in arguments.methods:
                    result = {"columns": columns, "rows": n, "method": method}
                    result |= run(method, path, arguments.limit)
                    print(result, file=sys.stderr, flush=True)
                    results[columns, n, method] = result
                    if arguments.results:
                        arguments.results.write_text(json.dumps(list(results.values())))
    print(table(results.values()))


if __name__ == "__main__":
    main()
