import numpy as np
import pytest

from skexmap.datasets import make_shortcut_features


def make_shortcut_data(n=2000, agreement=0.95, noise=1.0, seed=0):
    """Return four features, classes and shortcuts; the noise is relative to half the distance of the classes."""
    noise = np.sqrt(2) * noise
    return make_shortcut_features(n, n_features=4, agreement=agreement, noise=noise, random_state=seed)


@pytest.fixture(scope="session")
def shortcut_data():
    return make_shortcut_data


@pytest.fixture(scope="session")
def accuracies_with_and_against_the_shortcut():
    """A function of a fitted model: its accuracy on new samples where class and shortcut agree, and where not."""
    X, y, shortcut = make_shortcut_data(4000, agreement=0.5, seed=9)

    def accuracies(model):
        right = model.predict(X) == y
        return right[shortcut == y].mean(), right[shortcut != y].mean()

    return accuracies
