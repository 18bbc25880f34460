"""scikit-learn's own checks on the clusterers."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skexmap.cluster import EigengapSpectralClustering, OverclusteringKMeans


@parametrize_with_checks(
    [
        EigengapSpectralClustering(),
        EigengapSpectralClustering(affinity="rbf"),
        EigengapSpectralClustering(projection="pca", n_components=2, min_cluster_size=0.1),
        OverclusteringKMeans((2, 4), n_init=1),
        OverclusteringKMeans(3, reduce="pca", n_init=2, batch_size=1024),
        EigengapSpectralClustering(n_clusters=2, n_neighbors=4),
    ]
)
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)
