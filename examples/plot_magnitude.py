"""Why the magnitude of the relevance is clustered, and not the relevance: neighbors of a minority image under both.

Run it with ``python examples/plot_magnitude.py [picture.png]`` (a minute). Colored digits of one seed, whose ink goes
with the class for 95%. It prints, for the minority images that the net gets right, how many of their nearest neighbors
share their ink, and draws one of them with its neighbors.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from demo import net_predictions, train
from sklearn.neighbors import NearestNeighbors

from skexmap import HeatmapTransformer
from skexmap.datasets import make_colored_digits

N_NEIGHBORS = 8


def main():
    matplotlib.use("Agg")
    digits = make_colored_digits(correlation=0.95, n_copies=10, random_state=20)
    images, y, ink = digits.validation.data, digits.validation.target, digits.validation.attributes
    net = train(digits.train, 20)
    maps = {
        evidence: HeatmapTransformer(net, evidence=evidence).fit_transform(images)
        for evidence in ("signed", "magnitude")
    }
    # The minority images are those whose ink points to the other class.
    surprising = np.flatnonzero((ink != y) & (net_predictions(net, images) == y))
    neighbors = {}
    for evidence, rows in maps.items():
        search = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1).fit(rows)
        # The nearest row is the image itself.
        neighbors[evidence] = search.kneighbors(rows[surprising], return_distance=False)[:, 1:]
        same = (ink[neighbors[evidence]] == ink[surprising, None]).mean()
        print(f"{evidence:10} {same:.2f} of {N_NEIGHBORS} neighbors share the ink, {len(surprising)} images")
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output/magnitude.png")
    path.parent.mkdir(exist_ok=True)
    draw(images, y, ink, maps, surprising, neighbors, digits.validation.group_names).savefig(path, dpi=80)
    print("Figure:", path)


def draw(images, y, ink, maps, surprising, neighbors, names):
    """Draw the four true groups, and the neighbors of one image."""
    from matplotlib import pyplot as plt

    # The image whose neighbors differ most.
    same = {e: (ink[found] == ink[surprising, None]).mean(axis=1) for e, found in neighbors.items()}
    chosen = (same["magnitude"] - same["signed"]).argmax()
    shown = [np.flatnonzero(2 * y + ink == group)[0] for group in range(4)]
    if y[surprising[chosen]] != ink[surprising[chosen]]:
        shown[2 * y[surprising[chosen]] + ink[surprising[chosen]]] = surprising[chosen]
    figure = plt.figure(figsize=(11, 8.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 2))
    top.suptitle("The four true groups: image, signed relevance, its magnitude")
    scales = {
        "signed": {"cmap": "RdBu_r", "vmin": -1, "vmax": 1},
        "magnitude": {"cmap": "Reds", "vmin": 0, "vmax": 1},
    }
    axes = top.subplots(3, 4)
    for column, row in enumerate(shown):
        axes[0, column].set_title(names[column], fontsize="medium")
        axes[0, column].imshow(images[row].transpose(1, 2, 0))
        for ax, evidence in zip(axes[1:, column], maps, strict=True):
            total = maps[evidence][row].reshape(3, 28, 28).sum(axis=0)
            ax.imshow(total / np.abs(total).max(), **scales[evidence])
    bottom.suptitle(f"A minority image that the net gets right, and its {N_NEIGHBORS} nearest neighbors")
    axes = bottom.subplots(2, N_NEIGHBORS + 1)
    for line, (evidence, found) in zip(axes, neighbors.items(), strict=True):
        for ax, row in zip(line, [surprising[chosen], *found[chosen]], strict=True):
            ax.imshow(images[row].transpose(1, 2, 0))
            ax.set_xlabel("digit " + ("5-9" if y[row] else "0-4"), fontsize="small")
        line[0].set_ylabel(evidence)
    for ax in figure.axes:
        ax.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    main()
