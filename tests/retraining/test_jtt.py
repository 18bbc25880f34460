from functools import partial

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skexmap.datasets import make_shortcut_features
from skexmap.exceptions import EmptyErrorSetWarning, FullErrorSetWarning
from skexmap.retraining import ERMClassifier, JTTReweighter

shortcut_features = partial(make_shortcut_features, n_features=4, agreement=0.95, random_state=0)


class Answers(LogisticRegression):
    """Predicts what it is told to, whatever X is."""

    def __init__(self, answers=None):
        super().__init__()
        self.answers = answers

    def predict(self, X):
        return self.answers


def test_the_errors_of_the_first_model_are_the_ones_upweighted():
    X, y, _ = shortcut_features(200)
    answers = y.copy()
    errors = [3, 50, 117]
    answers[errors] = 1 - answers[errors]
    jtt = JTTReweighter(identification_estimator=Answers(answers), upweight=7).fit(X, y)
    assert jtt.error_set_.tolist() == errors
    assert np.flatnonzero(jtt.sample_weight_ == 7).tolist() == errors
    assert (np.delete(jtt.sample_weight_, errors) == 1).all()


def test_stage_two_is_a_fit_with_the_errors_weighing_more():
    X, y, _ = shortcut_features()
    jtt = JTTReweighter(identification_estimator=ERMClassifier(C=1e-3), upweight=10).fit(X, y)
    first = ERMClassifier(C=1e-3).fit(X, y)
    weight = np.where(first.predict(X) == y, 1, 10)
    np.testing.assert_array_equal(jtt.coef_, ERMClassifier().fit(X, y, sample_weight=weight).coef_)


def test_repeating_the_errors_is_the_same_as_weighing_them():
    X, y, _ = shortcut_features()
    first = ERMClassifier(C=1e-3)
    by_weight = JTTReweighter(LogisticRegression(tol=1e-8), identification_estimator=first, method="weight")
    by_repeat = JTTReweighter(LogisticRegression(tol=1e-8), identification_estimator=first, method="repeat")
    np.testing.assert_allclose(by_weight.fit(X, y).coef_, by_repeat.fit(X, y).coef_, atol=1e-4)


def test_an_estimator_without_sample_weight_gets_the_errors_repeatedly():
    X, y, _ = shortcut_features(200)
    pipe = make_pipeline(StandardScaler(), KNeighborsClassifier(3))
    jtt = JTTReweighter(pipe, identification_estimator=ERMClassifier(C=1e-3), upweight=5).fit(X, y)
    n_errors = len(jtt.error_set_)
    assert n_errors > 0
    assert jtt.estimator_[-1].n_samples_fit_ == 200 + 4 * n_errors
    with pytest.raises(ValueError, match="takes no sample_weight"):
        JTTReweighter(pipe, method="weight").fit(X, y)
    with pytest.raises(ValueError, match=r"repeated upweight=2\.5 times"):
        JTTReweighter(pipe, upweight=2.5).fit(X, y)


def test_jtt_raises_the_accuracy_of_the_samples_against_the_shortcut():
    X, y, _ = shortcut_features(2000, agreement=0.98)
    X_new, y_new, shortcut_new = shortcut_features(2000, agreement=0.5, random_state=1)
    against = shortcut_new != y_new
    erm = ERMClassifier().fit(X, y)
    jtt = JTTReweighter(identification_estimator=ERMClassifier(C=1e-3)).fit(X, y)
    assert erm.score(X_new[against], y_new[against]) < 0.6
    assert jtt.score(X_new[against], y_new[against]) > 0.75


def test_a_frozen_model_identifies_without_being_fitted_again():
    X, y, shortcut = shortcut_features()
    leans = ERMClassifier().fit(X * [0, 0, 1, 1], shortcut)
    jtt = JTTReweighter(identification_estimator=FrozenEstimator(leans)).fit(X, y)
    assert (jtt.error_set_ == np.flatnonzero(leans.predict(X) != y)).all()
    assert leans.coef_[0].nonzero()[0].tolist() == [2, 3]


def test_an_empty_and_a_full_error_set_are_named_in_warnings():
    X, y, _ = shortcut_features(100)
    with pytest.warns(EmptyErrorSetWarning, match="gets all 100 training samples right"):
        jtt = JTTReweighter(identification_estimator=Answers(y)).fit(X, y)
    np.testing.assert_array_equal(jtt.coef_, ERMClassifier().fit(X, y).coef_)
    with pytest.warns(FullErrorSetWarning, match="gets all 100 training samples wrong"):
        JTTReweighter(identification_estimator=Answers(1 - y)).fit(X, y)


def test_images_reach_the_estimators_in_their_own_shape():
    rng = np.random.RandomState(0)
    images, y = rng.normal(size=(40, 3, 4, 4)).astype(np.float32), np.arange(40) % 2

    class Network(Answers):
        def fit(self, X, y, sample_weight=None):
            self.shape_, self.classes_ = X.shape, np.unique(y)
            return self

    answers = np.where(np.arange(40) < 10, 1 - y, y)
    jtt = JTTReweighter(Network(answers), identification_estimator=Network(answers)).fit(images, y)
    assert jtt.estimator_.shape_ == (40, 3, 4, 4)
    assert jtt.error_set_.tolist() == list(range(10))


@pytest.mark.parametrize("n_logits, n_classes", [(1, 2), (2, 2), (3, 3)])
def test_the_last_layer_of_a_net_becomes_the_classifier_that_the_net_is(n_logits, n_classes):
    torch.manual_seed(0)
    layer, embedding = torch.nn.Linear(4, n_logits), torch.randn(50, 4)
    head = ERMClassifier.from_layer(layer, classes=np.arange(n_classes) + 5)
    logits = layer(embedding).detach().numpy()
    expected = (logits[:, 0] > 0) if n_logits == 1 else logits.argmax(axis=1)
    assert (head.predict(embedding.numpy()) == expected + 5).all()
    if n_logits > 1:
        proba = torch.softmax(layer(embedding), 1).detach().numpy()
        np.testing.assert_allclose(head.predict_proba(embedding.numpy()), proba, atol=1e-6)


def test_a_layer_must_fit_its_classes():
    layer = torch.nn.Linear(4, 3, bias=False)
    with pytest.raises(ValueError, match="3 logits, but 2 classes"):
        ERMClassifier.from_layer(layer, classes=[0, 1])
    with pytest.raises(ValueError, match="sorted"):
        ERMClassifier.from_layer(layer, classes=[2, 1, 0])
    assert ERMClassifier.from_layer(layer, classes=[0, 1, 2]).intercept_.tolist() == [0, 0, 0]
