"""skops, which loads nothing that was not named, brings every estimator back unchanged."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from small_pipeline import make_images, make_net
from test_common import ESTIMATORS

from skexmap import DFRClassifier, ExMapClassifier, HeatmapTransformer, PseudoGroupLabeler
from skexmap._blocks import make_blocks
from skexmap.retraining import ERMClassifier, JTTReweighter

skops_io = pytest.importorskip("skops.io")

WITHOUT_NET = [estimator for estimator in ESTIMATORS if not hasattr(estimator, "model")]
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
def test_it_comes_back_with_the_same_answers(estimator, training_set):
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


def test_every_estimator_of_the_retraining_is_among_them():
    from skexmap import retraining

    names = {type(estimator).__name__ for estimator in WITHOUT_NET}
    assert {name for name in retraining.__all__ if not name.endswith("Loss")} <= names


def test_nothing_that_was_not_named_is_loaded(training_set):
    X, y = training_set
    data = skops_io.dumps(DFRClassifier(random_state=0).fit(X, y))
    with pytest.raises(skops_io.exceptions.UntrustedTypesFoundException, match="DFRClassifier"):
        skops_io.loads(data)


def test_a_strategy_fitted_on_blocks_comes_back_with_the_models_it_holds(training_set):
    X, y = training_set
    blocks = make_blocks(embedding=X, cluster=KMeans(2, n_init=1, random_state=0).fit_predict(X))
    jtt = JTTReweighter(reference_estimator=ERMClassifier(C=1e-3)).fit(blocks, y)
    np.testing.assert_array_equal(by_skops(jtt).predict(blocks), jtt.predict(blocks))


@pytest.mark.filterwarnings("ignore::skexmap.exceptions.SkexmapWarning")
def test_with_a_net_the_layers_of_the_net_must_be_trusted_too():
    X, y = make_images()
    classifier = ExMapClassifier(
        make_net(),
        heatmaps=HeatmapTransformer(size=4),
        clusterer=PseudoGroupLabeler(KMeans(2, n_init=1, random_state=0), merge_alpha=None),
        strategy=DFRClassifier(n_retrains=2, min_group_size=1, random_state=0),
    ).fit(X, y)
    data = skops_io.dumps(classifier)
    named = skops_io.get_untrusted_types(data=data)
    others = {name for name in named if not name.startswith(("skexmap.", "torch.nn.modules."))}
    assert others <= OTHERS
    loaded = skops_io.loads(data, trusted=named)
    np.testing.assert_array_equal(loaded.decision_function(X), classifier.decision_function(X))
    np.testing.assert_array_equal(loaded.predict_groups(X, y), classifier.group_labels_)
