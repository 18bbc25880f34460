"""skops, which loads nothing that was not named, brings every estimator back unchanged."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans

from skexmap import EigengapSpectralClustering, PseudoGroupLabeler, retraining
from skexmap.cluster import SilhouetteKMeans
from skexmap.retraining import ERMClassifier

skops_io = pytest.importorskip("skops.io")

STRATEGIES = [getattr(retraining, name) for name in retraining.__all__ if not name.endswith("Loss")]
WITHOUT_NET = [
    *(strategy() for strategy in STRATEGIES),
    EigengapSpectralClustering(),
    SilhouetteKMeans(2, 4, n_init=1),
    PseudoGroupLabeler(merge_alpha=None),
    PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), scope="local", merge_alpha=None),
    PseudoGroupLabeler(AgglomerativeClustering(), merge_alpha=None),
    PseudoGroupLabeler(DBSCAN(eps=5.0, min_samples=1), merge_alpha=None),
]
# Beside the classes of skexmap: what else the documentation tells the user to trust.
OTHERS = {"scipy.sparse._csr.csr_array", "numpy.dtype"}


@pytest.fixture(scope="module")
def training_set():
    rng = np.random.RandomState(0)
    y = rng.randint(2, size=120)
    shortcut = np.where(rng.uniform(size=120) < 0.8, y, 1 - y)
    return np.column_stack([2 * y - 1, 4 * shortcut - 2, np.zeros((120, 3))]) + rng.normal(size=(120, 5)), y


def by_skops(estimator):
    """Dump and load an estimator, trusting the classes of skexmap and the documented others alone."""
    data = skops_io.dumps(estimator)
    named = skops_io.get_untrusted_types(data=data)
    assert {name for name in named if not name.startswith("skexmap.")} <= OTHERS
    return skops_io.loads(data, trusted=named)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
@pytest.mark.parametrize("estimator", WITHOUT_NET, ids=str)
def test_an_estimator_comes_back_with_the_same_answers(estimator, training_set):
    X, y = training_set
    fitted = estimator.fit(X, y)
    loaded = by_skops(fitted)
    assert loaded.get_params().keys() == fitted.get_params().keys()
    methods = [name for name in ("predict", "transform", "decision_function") if hasattr(fitted, name)]
    for name in methods:
        np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(fitted, name)(X))
    learned = [name for name in ("labels_", "group_labels_") if hasattr(fitted, name)]
    for name in learned:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    assert methods or learned


def test_skops_loads_nothing_that_was_not_named(training_set):
    X, y = training_set
    data = skops_io.dumps(ERMClassifier().fit(X, y))
    with pytest.raises(skops_io.exceptions.UntrustedTypesFoundException, match="ERMClassifier"):
        skops_io.loads(data)


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
def test_with_a_net_the_layers_of_the_net_must_be_trusted_too(exmap, images):
    X, y = images
    data = skops_io.dumps(exmap.fit(X, y))
    named = skops_io.get_untrusted_types(data=data)
    others = {name for name in named if not name.startswith(("skexmap.", "torch.nn.modules."))}
    assert others <= OTHERS
    loaded = skops_io.loads(data, trusted=named)
    np.testing.assert_array_equal(loaded.decision_function(X), exmap.decision_function(X))
    np.testing.assert_array_equal(loaded.predict_groups(X, y), exmap.group_labels_)
