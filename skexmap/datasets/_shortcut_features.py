"""Features with a weak class signal and a strong shortcut, like the embedding of a biased network."""

import numbers

import numpy as np
from sklearn.utils import check_random_state, check_scalar

from skexmap.datasets._splits import aligned_attribute

CLASS_SIGNAL, SHORTCUT_SIGNAL = 2.0, 4.0


def make_shortcut_features(
    n_samples=1000,
    n_classes=2,
    n_features=10,
    *,
    agreement=0.9,
    noise=1.0,
    random_scale=False,
    random_state=None,
):
    """Make features with a weak class signal and a strong shortcut.

    The first `n_classes` features encode the class (2 in the feature of the class, 0 in the others), the next
    `n_classes` encode the shortcut (4 and 0), and the rest are 0. Gaussian noise is added to all of them.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of samples. Class sizes are equal, or differ by one sample.
    n_classes : int, default=2
        Number of classes, and of values of the shortcut.
    n_features : int, default=10
        Number of features, at least ``2 * n_classes``.
    agreement : float in [0, 1], default=0.9
        Share of each class whose shortcut agrees with the class, rounded to whole samples. The other samples of the
        class have the other values of the shortcut in equal numbers.
    noise : float, default=1.0
        Standard deviation of the noise.
    random_scale : bool, default=False
        Whether every feature is multiplied by a number drawn from [0.5, 4] and shifted by 3.
    random_state : int, RandomState instance or None, default=None
        Controls everything that is drawn.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float64
        Features.
    y : ndarray of shape (n_samples,), int64
        Classes.
    shortcut : ndarray of shape (n_samples,), int64
        Value of the shortcut; ``n_classes * y + shortcut`` are group labels.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.metrics import worst_group_accuracy
    >>> from skexmap.retraining import DFRClassifier
    >>> X, y, shortcut = make_shortcut_features(agreement=0.98, random_state=0)
    >>> groups = 2 * y + shortcut
    >>> by_class = DFRClassifier(random_state=0).fit(X, y)
    >>> by_group = DFRClassifier(random_state=0).fit(X, y, group_labels=groups)
    >>> X_new, y_new, shortcut_new = make_shortcut_features(agreement=0.5, random_state=1)
    >>> for model in (by_class, by_group):
    ...     worst = worst_group_accuracy(y_new, model.predict(X_new), group_labels=2 * y_new + shortcut_new)
    ...     print(f"worst group: {worst:.2f}")
    worst group: 0.52
    worst group: 0.89
    """
    check_scalar(n_classes, "n_classes", numbers.Integral, min_val=2)
    check_scalar(n_samples, "n_samples", numbers.Integral, min_val=n_classes)
    check_scalar(n_features, "n_features", numbers.Integral, min_val=2 * n_classes)
    check_scalar(agreement, "agreement", numbers.Real, min_val=0, max_val=1)
    check_scalar(noise, "noise", numbers.Real, min_val=0)
    rng = check_random_state(random_state)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    shortcut = aligned_attribute(y, agreement, rng, n_classes)
    X = rng.normal(scale=noise, size=(n_samples, n_features))
    X[np.arange(n_samples), y] += CLASS_SIGNAL
    X[np.arange(n_samples), n_classes + shortcut] += SHORTCUT_SIGNAL
    if random_scale:
        X = X * rng.uniform(0.5, 4, size=n_features) + 3
    return X, y, shortcut
