"""Predictions that the tests of accuracies and of reports share."""

import numpy as np
import pytest


@pytest.fixture
def predictions():
    """60 samples of 4 uneven groups, predicted with errors."""
    rng = np.random.RandomState(0)
    y = rng.randint(2, size=60)
    group = 2 * y + (rng.uniform(size=60) < 0.2)
    predicted = np.where(rng.uniform(size=60) < 0.25, 1 - y, y)
    return y, predicted, group
