import numpy as np
import pytest


def make_shortcut_data(n=2000, agreement=0.95, noise=1.0, seed=0):
    """Return one feature of the class, one twice as large of the shortcut; the classes; the shortcuts."""
    rng = np.random.RandomState(seed)
    y = rng.randint(2, size=n)
    shortcut = np.where(rng.uniform(size=n) < agreement, y, 1 - y)
    return np.column_stack([2 * y - 1, 4 * shortcut - 2]) + noise * rng.normal(size=(n, 2)), y, shortcut


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
