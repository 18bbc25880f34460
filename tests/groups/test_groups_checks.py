"""scikit-learn's own checks on the labeler."""

import pytest
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.utils.estimator_checks import parametrize_with_checks

from skexmap.groups import PseudoGroupLabeler


@parametrize_with_checks(
    [
        PseudoGroupLabeler(),
        PseudoGroupLabeler(block="embedding"),
        PseudoGroupLabeler(KMeans(2, n_init=2, random_state=0), scope="local"),
        PseudoGroupLabeler(AgglomerativeClustering()),
        PseudoGroupLabeler(DBSCAN(eps=5.0, min_samples=1)),
    ]
)
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)
