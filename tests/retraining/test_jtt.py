from functools import partial

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skexmap.datasets import make_shortcut_features
from skexmap.exceptions import PredictionWarning
from skexmap.retraining import ERMClassifier, JTTReweighter

shortcut_features = partial(make_shortcut_features, n_features=4, agreement=0.95, random_state=0)


class Answers(LogisticRegression):
    """Returns given predictions, whatever X is."""

    def __init__(self, answers=None):
        super().__init__()
        self.answers = answers

    def predict(self, X):
        return self.answers


def test_jtt_upweights_the_errors_of_its_reference_model():
    X, y, _ = shortcut_features(200)
    answers = y.copy()
    errors = [3, 50, 117]
    answers[errors] = 1 - answers[errors]
    jtt = JTTReweighter(reference_estimator=Answers(answers), upweight=7).fit(X, y)
    assert jtt.error_set_.tolist() == errors
    assert np.flatnonzero(jtt.sample_weight_ == 7).tolist() == errors
    assert (np.delete(jtt.sample_weight_, errors) == 1).all()


def test_stage_two_of_jtt_is_a_fit_with_the_errors_weighing_more():
    X, y, _ = shortcut_features()
    jtt = JTTReweighter(reference_estimator=ERMClassifier(C=1e-3), upweight=10).fit(X, y)
    first = ERMClassifier(C=1e-3).fit(X, y)
    weight = np.where(first.predict(X) == y, 1, 10)
    np.testing.assert_array_equal(jtt.coef_, ERMClassifier().fit(X, y, sample_weight=weight).coef_)


def test_repeating_the_errors_of_jtt_is_the_same_as_weighing_them():
    X, y, _ = shortcut_features()
    first = ERMClassifier(C=1e-3)
    by_weight = JTTReweighter(LogisticRegression(tol=1e-8), reference_estimator=first, method="weight")
    by_repeat = JTTReweighter(LogisticRegression(tol=1e-8), reference_estimator=first, method="repeat")
    np.testing.assert_allclose(by_weight.fit(X, y).coef_, by_repeat.fit(X, y).coef_, atol=1e-4)


def test_jtt_repeats_the_errors_for_an_estimator_without_sample_weight():
    X, y, _ = shortcut_features(200)
    pipe = make_pipeline(StandardScaler(), KNeighborsClassifier(3))
    jtt = JTTReweighter(pipe, reference_estimator=ERMClassifier(C=1e-3), upweight=5).fit(X, y)
    n_errors = len(jtt.error_set_)
    assert n_errors > 0
    assert jtt.estimator_[-1].n_samples_fit_ == 200 + 4 * n_errors
    with pytest.raises(ValueError, match="takes no sample_weight"):
        JTTReweighter(pipe, method="weight").fit(X, y)
    with pytest.raises(ValueError, match=r"repeated upweight=2\.5 times"):
        JTTReweighter(pipe, upweight=2.5).fit(X, y)


def test_jtt_does_not_fit_a_frozen_reference_model_again():
    X, y, shortcut = shortcut_features()
    leans = ERMClassifier().fit(X * [0, 0, 1, 1], shortcut)
    jtt = JTTReweighter(reference_estimator=FrozenEstimator(leans)).fit(X, y)
    assert (jtt.error_set_ == np.flatnonzero(leans.predict(X) != y)).all()
    assert leans.coef_[0].nonzero()[0].tolist() == [2, 3]


def test_jtt_warns_of_a_reference_model_that_gets_all_samples_right_or_all_wrong():
    X, y, _ = shortcut_features(100)
    with pytest.warns(PredictionWarning, match="gets all 100 training samples right"):
        jtt = JTTReweighter(reference_estimator=Answers(y)).fit(X, y)
    np.testing.assert_array_equal(jtt.coef_, ERMClassifier().fit(X, y).coef_)
    with pytest.warns(PredictionWarning, match="gets all 100 training samples wrong"):
        JTTReweighter(reference_estimator=Answers(1 - y)).fit(X, y)


def test_images_reach_the_estimators_of_jtt_in_their_own_shape():
    rng = np.random.RandomState(0)
    images, y = rng.normal(size=(40, 3, 4, 4)).astype(np.float32), np.arange(40) % 2

    class Network(Answers):
        def fit(self, X, y, sample_weight=None):
            self.shape_, self.classes_ = X.shape, np.unique(y)
            return self

    answers = np.where(np.arange(40) < 10, 1 - y, y)
    jtt = JTTReweighter(Network(answers), reference_estimator=Network(answers)).fit(images, y)
    assert jtt.estimator_.shape_ == (40, 3, 4, 4)
    assert jtt.error_set_.tolist() == list(range(10))
