"""What a policy for small clusters gains on coloured Fashion-MNIST.

Class: label > 4. Ink: red or green, agreeing with the class in 99% of the training and validation images. A small
convolutional net is trained on 50,000 images; the other 10,000 training images are the validation set, whose heatmaps
are clustered by k-means with 8 clusters (the true groups are 4) and whose pseudo-groups retrain the last layer (DFR).
Every test image is tested in both inks, so that each true group has about 5,000 images.

The policy and the size below which it applies are chosen on validation pseudo-groups: the labeler and DFR are fitted
on one half of the validation set and scored on the other by the accuracy of its worst pseudo-group, the pseudo-groups
of k-means as they come and of at least 20 images being the yardstick for every candidate. True groups appear only in
the columns of the report.

    python examples/benchmarks/bench_small_clusters.py --seeds 0 1 2

Needs the Debian package dataset-fashion-mnist, or its four files in --data.
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from paper.base_model import small_net
from sklearn.cluster import KMeans
from torch import nn

from skexmap.cluster import EigengapSpectralClustering
from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.groups import PseudoGroupLabeler, pool_rare_groups
from skexmap.metrics import purity_score, worst_group_accuracy
from skexmap.retraining import DFRClassifierCV

# None: as they come. A policy and the size below which it applies. "pool": rare against common, by pool_rare_groups.
CANDIDATES = (None, *[(policy, size) for policy in ("merge", "mark") for size in (3, 6, 10, 20, 40)], "pool")
YARDSTICK_ROWS = 20


def read_idx(path, offset):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def colour(images, red):
    """Return (n, 3, 28, 28) float32 images with red or green ink."""
    coloured = np.zeros((len(images), 3, 28, 28), dtype=np.float32)
    coloured[np.arange(len(images)), np.where(red, 0, 1)] = images / 255
    return coloured


def load(folder, seed, rate=0.99):
    """Return train, validation and test as tuples (images, y, red); the test images come in both inks."""
    rng = np.random.default_rng(seed)
    images, labels = {}, {}
    for split in ("train", "t10k"):
        images[split] = read_idx(folder / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels[split] = (read_idx(folder / f"{split}-labels-idx1-ubyte.gz", 8) > 4).astype(int)
    order = rng.permutation(len(images["train"]))
    splits = []
    for rows in (order[:50_000], order[50_000:]):
        y = labels["train"][rows]
        red = np.where(rng.random(len(y)) < rate, y, 1 - y)
        splits.append((colour(images["train"][rows], red), y, red))
    y = np.tile(labels["t10k"], 2)
    red = np.repeat([0, 1], len(labels["t10k"]))
    splits.append((colour(np.tile(images["t10k"], (2, 1, 1)), red), y, red))
    return splits


def train(X, y, seed, epochs=4):
    net = small_net(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(128):
            loss = nn.functional.cross_entropy(net(X[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def make_groups(candidate, clusterer, maps, y):
    """Return the pseudo-groups under a policy."""
    if candidate is None or candidate == "pool":
        groups = PseudoGroupLabeler(clusterer, n_seed_checks=0).fit_predict(maps, y)
        return groups if candidate is None else pool_rare_groups(groups, y)
    policy, size = candidate
    labeler = PseudoGroupLabeler(clusterer, min_cluster_size=size, small_clusters=policy, n_seed_checks=0)
    return labeler.fit_predict(maps, y)


def choose(clusterer, maps, embedding, y, seed):
    """Return the candidate with the best worst pseudo-group on the second half of the validation set."""
    fit, score = np.split(np.random.default_rng(seed).permutation(len(y)), 2)
    labeler = PseudoGroupLabeler(clusterer, n_seed_checks=0).fit(maps[fit], y[fit])
    yardstick = labeler.predict_groups(maps[score], y[score])
    scores = {}
    for candidate in CANDIDATES:
        groups = make_groups(candidate, clusterer, maps[fit], y[fit])
        dfr = DFRClassifierCV(random_state=seed).fit(embedding[fit], y[fit], group_labels=groups)
        scores[candidate] = worst_group_accuracy(
            y[score],
            dfr.predict(embedding[score]),
            group_labels=yardstick,
            min_group_size=YARDSTICK_ROWS - 1,
        )
    return max(scores, key=scores.get), scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=14, help="side of the heatmaps")
    parser.add_argument("--cache", type=Path, help="folder that keeps heatmaps and embeddings between runs")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        cache = arguments.cache and arguments.cache / f"fashion_{arguments.size}_{seed}.npz"
        if cache and cache.exists():
            d = dict(np.load(cache))
        else:
            start = time.perf_counter()
            fitting, (X, y, red), (X_test, y_test, red_test) = load(arguments.data, seed)
            net = train(*fitting[:2], seed)
            maps = HeatmapTransformer(net, size=arguments.size, batch_size=256).fit_transform(X)
            embed = EmbeddingTransformer(net, batch_size=256).fit(X)
            with torch.no_grad():
                erm = net(torch.from_numpy(X_test)).argmax(1).numpy()
            d = {"maps": maps, "embedding": embed.transform(X), "y": y, "red": red, "erm": erm}
            d |= {"embedding_test": embed.transform(X_test), "y_test": y_test, "red_test": red_test}
            print(f"seed {seed}: net, heatmaps and embeddings in {time.perf_counter() - start:.0f} s")
            if cache:
                np.savez(cache, **d)
        report(d, seed)


def report(d, seed):
    maps, y, y_test = d["maps"], d["y"], d["y_test"]
    true, true_test = 2 * y + d["red"], 2 * y_test + d["red_test"]

    def row(name, groups):
        sizes = np.bincount(groups[groups >= 0])
        dfr = DFRClassifierCV(random_state=seed).fit(d["embedding"], y, group_labels=groups)
        predicted = dfr.predict(d["embedding_test"])
        print(
            f"seed {seed}  {name:37s} worst {worst_group_accuracy(y_test, predicted, group_labels=true_test):.3f}"
            f"  mean {(predicted == y_test).mean():.3f}  purity {purity_score(true, groups):.3f}"
            f"  pseudo-groups {(sizes > 0).sum():2d}  smallest {sizes[sizes > 0].min()}"
        )

    print(
        f"seed {seed}  {'ERM':37s} worst {worst_group_accuracy(y_test, d['erm'], group_labels=true_test):.3f}"
    )
    row("DFR, classes", y)
    row("DFR, true groups", true)
    row(
        "ExMap, eigengap",
        PseudoGroupLabeler(EigengapSpectralClustering(random_state=seed)).fit_predict(maps, y),
    )
    kmeans = KMeans(8, n_init=10, random_state=seed)
    for candidate in CANDIDATES:
        name = {None: "as they come", "pool": "rare against common"}.get(candidate) or "{} below {}".format(
            *candidate
        )
        row(f"ExMap, k-means 8, {name}", make_groups(candidate, kmeans, maps, y))
    chosen, scores = choose(kmeans, maps, d["embedding"], y, seed)
    print(
        f"seed {seed}  chosen on validation pseudo-groups: {chosen}",
        {k: round(v, 3) for k, v in scores.items()},
    )


if __name__ == "__main__":
    main()
