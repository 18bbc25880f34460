"""scikit-learn's own checks on the clusterers."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skexmap.cluster import EigengapSpectralClustering


@parametrize_with_checks(
    [
        EigengapSpectralClustering(),
        EigengapSpectralClustering(affinity="rbf"),
        EigengapSpectralClustering(n_clusters=2, n_neighbors=4),
    ]
)
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.DisconnectedGraphWarning")
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)
