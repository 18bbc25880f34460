import contextlib
import inspect
import re
import warnings

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone, is_classifier
from sklearn.pipeline import make_pipeline

from skexmap import EmbeddingTransformer, export_model, retraining
from skexmap._blocks import block_columns, blocks_to_columns, make_blocks
from skexmap.datasets import make_shortcut_features
from skexmap.exceptions import PredictionWarning

# scikit-learn's own checks are in tests/test_common.py.
CLASSIFIERS = [
    cls()
    for name in retraining.__all__
    if inspect.isclass(cls := getattr(retraining, name))
    and hasattr(cls, "get_params")
    and is_classifier(cls())
]
each_classifier = pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda c: type(c).__name__)


@pytest.fixture(scope="module")
def training_set():
    X, y, shortcut = make_shortcut_features(300, n_features=5, agreement=0.8, random_state=0)
    return X.astype(np.float32), y, shortcut


def seeded(classifier):
    """Return a clone with a seed and, if it is trained by gradient, a fifth of the steps."""
    classifier = clone(classifier)
    quick = {"random_state": 0, "n_steps": 200}
    return classifier.set_params(**{name: quick[name] for name in quick.keys() & classifier.get_params()})


@each_classifier
def test_a_strategy_is_the_last_step_of_a_pipeline_that_hands_on_blocks(classifier, training_set):
    X, y, shortcut = training_set
    blocks = make_blocks(embedding=X, cluster=shortcut)
    from_blocks = make_pipeline("passthrough", seeded(classifier)).fit(blocks, y)
    by_hand = seeded(classifier).fit(X, y, group_labels=2 * y + shortcut)
    np.testing.assert_allclose(from_blocks[-1].coef_, by_hand.coef_, atol=1e-6)
    np.testing.assert_array_equal(from_blocks.predict(blocks), by_hand.predict(X))


@each_classifier
def test_a_strategy_reads_block_columns_of_a_data_frame(classifier, training_set):
    pd = pytest.importorskip("pandas")
    X, y, shortcut = training_set
    blocks = make_blocks(embedding=X, cluster=shortcut)
    frame = pd.DataFrame(blocks_to_columns(blocks), columns=block_columns(blocks))
    by_frame, by_array = seeded(classifier).fit(frame, y), seeded(classifier).fit(blocks, y)
    np.testing.assert_array_equal(by_frame.predict(frame), by_array.predict(blocks))


@each_classifier
def test_a_missing_embedding_names_the_argument_that_makes_it(classifier, training_set):
    _, y, shortcut = training_set
    with pytest.raises(ValueError, match="return_embedding=True"):
        clone(classifier).fit(make_blocks(cluster=shortcut), y)


@each_classifier
def test_the_coefficients_of_a_strategy_apply_to_raw_embeddings(classifier, training_set):
    X, y, shortcut = training_set
    fitted = seeded(classifier).fit(X, y, group_labels=2 * y + shortcut)
    scores = X.astype(np.float64) @ fitted.coef_[0] + fitted.intercept_[0]
    np.testing.assert_allclose(fitted.decision_function(X), scores, atol=1e-5)
    assert (fitted.predict(X) == (scores > 0)).mean() > 0.99


@each_classifier
def test_three_classes_have_a_row_each_and_probabilities_that_sum_to_one(classifier, training_set):
    rng = np.random.RandomState(1)
    y = np.array(["cat", "cow", "dog"])[np.arange(240) % 3]
    X = 3 * np.eye(3)[np.arange(240) % 3] + rng.normal(size=(240, 3))
    fitted = seeded(classifier).fit(X, y)
    assert fitted.coef_.shape == (3, 3)
    assert fitted.score(X, y) > 0.8
    np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1)


@each_classifier
def test_fit_does_not_ask_for_group_labels_under_metadata_routing(classifier):
    with sklearn.config_context(enable_metadata_routing=True):
        request = clone(classifier).get_metadata_routing()
        own = getattr(request, "_self_request", request)
        assert own.fit.requests["group_labels"] is False


@each_classifier
@pytest.mark.filterwarnings("ignore::skexmap.exceptions.PredictionWarning")
@pytest.mark.parametrize("n_logits", [1, 2, 3])
def test_the_exported_module_decides_as_the_strategy(classifier, n_logits):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, n_logits))
    n_classes = max(2, n_logits)
    y = np.arange(240) % n_classes
    X = 2 * np.eye(4)[y] + np.random.RandomState(0).normal(size=(240, 4))
    X = X.astype(np.float32)
    with torch.no_grad():
        # A net that predicts one class for everything would be warned of.
        net[-1].bias -= net(torch.as_tensor(X)).mean(dim=0)
    pipe = make_pipeline(EmbeddingTransformer(net), seeded(classifier)).fit(X, y)
    with torch.no_grad():
        logits = export_model(pipe)(torch.as_tensor(X)).numpy()
    scores = {1: logits[:, 0], 2: logits[:, -1] - logits[:, 0], 3: logits}[n_logits]
    np.testing.assert_allclose(scores, pipe.decision_function(X), atol=1e-5 * max(1, np.abs(scores).max()))
    assert len(np.unique(pipe.predict(X))) == n_classes
    if n_logits > 1 and not (n_logits == 3 and type(classifier).__name__.startswith("DFR")):
        # Only DFR fits each class against the rest.
        softmax = torch.softmax(torch.as_tensor(logits), 1).numpy()
        np.testing.assert_allclose(softmax, pipe.predict_proba(X), atol=1e-5)


@each_classifier
def test_a_fit_that_predicts_one_class_says_so_once_and_what_to_do(classifier):
    name = "second model ERMClassifier" if isinstance(classifier, retraining.JTTReweighter) else None
    X, y = np.full((60, 3), 0.5), np.array(["cat", "dog"])[np.arange(60) // 40]
    with pytest.warns(PredictionWarning) as caught:
        fitted = seeded(classifier).fit(X, y)
    assert {warning.filename for warning in caught} == {__file__}
    (message,) = [str(warning.message) for warning in caught if "reference" not in str(warning.message)]
    predicted = fitted.predict(X)
    assert (predicted == predicted[0]).all()
    assert (
        f"{name or type(classifier).__name__} predicts the same class ({predicted[0]}) for all 60" in message
    )
    assert re.search(r"samples\. (Weaken|Lower|Set|Give|With C=.*Weaken)", message)


def test_erm_does_not_warn_of_one_class_if_the_other_weighs_nothing():
    X, y = np.full((60, 3), 0.5), np.arange(60) // 40
    weight = np.where(y == 1, 0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retraining.ERMClassifier().fit(X, y, sample_weight=weight)


@each_classifier
def test_coefficients_are_float64_arrays_and_hardly_depend_on_the_precision_of_the_embedding(
    classifier, training_set
):
    X, y, shortcut = training_set
    single, double = (
        seeded(classifier).fit(X.astype(dtype), y, group_labels=2 * y + shortcut)
        for dtype in (np.float32, np.float64)
    )
    for fitted in (single, double):
        assert type(fitted.coef_) is type(fitted.intercept_) is np.ndarray
        assert fitted.coef_.dtype == fitted.intercept_.dtype == np.float64
    np.testing.assert_allclose(single.coef_, double.coef_, atol=1e-3)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


TRAINED = [classifier for classifier in CLASSIFIERS if "n_steps" in classifier.get_params()]
TRAINED.append(retraining.AFRClassifier())


@pytest.mark.parametrize("classifier", TRAINED, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    "state",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: default_dtype(torch.float64),
        lambda: torch.device("meta"),
        lambda: torch.random.fork_rng(devices=[]),
    ],
    ids=["no_grad", "inference_mode", "default_dtype", "default_device", "seed"],
)
def test_a_fit_neither_depends_on_the_global_state_of_torch_nor_moves_its_generator(
    classifier, state, training_set
):
    X, y, shortcut = training_set
    expected = seeded(classifier).fit(X, y, group_labels=2 * y + shortcut)
    with state():
        torch.manual_seed(7)
        before = torch.random.get_rng_state()
        fitted = seeded(classifier).fit(X, y, group_labels=2 * y + shortcut)
        assert (torch.random.get_rng_state() == before).all()
    np.testing.assert_array_equal(fitted.coef_, expected.coef_)
