"""Display of the eigenvalues of a clustering and of the gap that sets the number of clusters."""

import numpy as np

from skexmap.cluster import EigengapSpectralClustering
from skexmap.display._base import ALARM, INK, PALE, Display
from skexmap.display._reading import find_part


class EigengapDisplay(Display):
    """Smallest Laplacian eigenvalues, with the gap that sets the number of clusters and its runner-up.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_eigenvalues,)
        Smallest eigenvalues of the normalized Laplacian, ascending, from 0 to 2.
    n_clusters : int
        Number of clusters chosen. The gap after the k-th eigenvalue indicates k clusters.
    runner_up : int, default=None
        Number of clusters with the widest gap among those not chosen.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        Where `plot` drew.

    References
    ----------
    U. von Luxburg, "A tutorial on spectral clustering", Statistics and Computing 17 (2007), section 8.3.

    Examples
    --------
    >>> from skexmap.display import EigengapDisplay
    >>> display = EigengapDisplay(eigenvalues=[0.0, 0.01, 0.02, 0.31, 0.35, 0.5], n_clusters=3).plot()
    >>> display.ax_.get_legend_handles_labels()[1]
    ['chosen: 3 clusters, gap 0.290']
    """

    def __init__(self, *, eigenvalues, n_clusters, runner_up=None):
        self.eigenvalues = eigenvalues
        self.n_clusters = n_clusters
        self.runner_up = runner_up

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the spectrum of a fitted clusterer.

        Parameters
        ----------
        estimator : EigengapSpectralClustering, PseudoGroupLabeler, ExMapClassifier, Pipeline or search
            Fitted estimator that is, or contains, one EigengapSpectralClustering.
        ax : as in `plot`

        Raises
        ------
        ValueError
            If the estimator contains no EigengapSpectralClustering, or one for each class.
        """
        clusterer = find_part(
            estimator,
            EigengapSpectralClustering,
            "has no EigengapSpectralClustering, or one for each class: then pass one, `labeler.clusterers_[0]`.",
        )
        return cls(
            eigenvalues=clusterer.eigenvalues_,
            n_clusters=clusterer.n_clusters_,
            runner_up=clusterer.runner_up_n_clusters_,
        ).plot(ax=ax)

    def _draw(self, ax):
        numbers = np.arange(1, len(self.eigenvalues) + 1)
        ax.plot(numbers, self.eigenvalues, color=INK, linewidth=0.8, marker="o", markersize=6, zorder=3)
        for n, color, what in ((self.n_clusters, ALARM, "chosen"), (self.runner_up, PALE, "runner-up")):
            # A number of clusters that was given may lie beyond the eigenvalues.
            if n is not None and 1 <= n < len(self.eigenvalues):
                lower, upper = self.eigenvalues[n - 1 : n + 1]
                label = f"{what}: {n} clusters, gap {upper - lower:.3f}"
                ax.axhspan(lower, upper, color=color, alpha=0.18, linewidth=0, zorder=0)
                ax.plot([n, n + 1], [lower, upper], color=color, linewidth=4, zorder=2, label=label)
        ax.set(xlabel="number of the eigenvalue", ylabel="eigenvalue of the normalized Laplacian")
        ax.locator_params(axis="x", nbins=12, integer=True)
        ax.set_title(f"{self.n_clusters} clusters", fontsize="medium", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        if ax.get_legend_handles_labels()[0]:
            # Eigenvalues ascend, so this corner is empty.
            ax.legend(loc="lower right", frameon=False)
        return 6.4, 4.0
