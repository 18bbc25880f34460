"""The choice of C where a sliver sets the subsample size: published against stratified tuning.

Run ``OMP_NUM_THREADS=1 python examples/benchmarks/bench_tuning.py`` (some two minutes on one core). Noisy made-up
embeddings hold the class and a shortcut. The four groups of class and shortcut have a fifth beside them, as clusterings
leave them: a sliver cut off the largest one, in which the class is seen less well. It is just large enough to set the
size that every group is cut down to. A half of it is not, so that the published tuning cuts its halves down to another
size. The table counts, over the seeds, how often the chosen C leaves no coefficient in the refit, and how good the
worst group is on fresh data, in which the four groups have the same size and no sliver.
"""

import argparse
import warnings

import numpy as np

from skexmap.exceptions import PredictionWarning
from skexmap.retraining import DFRClassifierCV

GROUP_SIZES = (2400, 250, 250, 2400)  # group = 2 * class + shortcut
# The size of the sliver, and `min_group_size`.
SLIVERS = ((6, 6), (7, 6), (8, 6), (21, 21))
N_FEATURES = 128
SIGNAL = 0.4


def make_embeddings(group_sizes, seed):
    """Return embeddings, classes and groups."""
    rng = np.random.RandomState(seed)
    groups = np.repeat(np.arange(4), group_sizes)
    y, shortcut = groups // 2, groups % 2
    X = rng.normal(size=(len(y), N_FEATURES))
    X[:, :8] += SIGNAL * (2 * y - 1)[:, None]
    X[:, 8:16] += SIGNAL * (2 * shortcut - 1)[:, None]
    return X, y, groups


def compare(sliver, min_group_size, seed):
    """Return, for each tuning, whether the refit is all zero, and the worst group on fresh data."""
    X, y, groups = make_embeddings(GROUP_SIZES, seed)
    groups[:sliver] = 4
    X[:sliver, :8] += 0.7 * SIGNAL
    X_new, y_new, groups_new = make_embeddings((1000,) * 4, 1000 + seed)
    figures = []
    for tuning in ("published", "stratified"):
        dfr = DFRClassifierCV(tuning=tuning, min_group_size=min_group_size, random_state=seed)
        right = dfr.fit(X, y, group_labels=groups).predict(X_new) == y_new
        figures.append((not dfr.coef_.any(), min(right[groups_new == g].mean() for g in range(4))))
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    options = parser.parse_args()
    # The table counts them.
    warnings.simplefilter("ignore", PredictionWarning)
    print(
        "| sliver | `min_group_size` | published: all zero | worst group | stratified: all zero | worst group |"
    )
    print("|---|---|---|---|---|---|")
    for sliver, min_group_size in SLIVERS:
        figures = np.array([compare(sliver, min_group_size, seed) for seed in range(options.seeds)])
        zero, worst = figures[..., 0].sum(axis=0).astype(int), figures[..., 1].mean(axis=0)
        cells = [f"{n} of {options.seeds} | {accuracy:.2f}" for n, accuracy in zip(zero, worst, strict=True)]
        print(f"| {sliver} | {min_group_size} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
