"""Mini-batch training of linear heads on embeddings, for the objectives that are defined by it."""

from numbers import Integral, Real

import numpy as np
from scipy.special import log_softmax

from skexmap._validation import Interval
from skexmap.retraining._linear import fold_scaler, standardizer

# The parameters that every estimator trained by `train_heads` has.
TRAINING_CONSTRAINTS: dict = {
    "l2": [Interval(Real, 0, None, closed="left")],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "n_steps": [Interval(Integral, 1, None, closed="left")],
    "random_state": ["random_state"],
}


def shuffled_batches(n_samples, batch_size, n_steps, rng):
    """Yield the rows of each batch; every sample comes once before any comes again.

    Parameters
    ----------
    n_samples, batch_size, n_steps : int
        Sizes; a batch is at most the whole set.
    rng : RandomState
        Shuffles.

    Yields
    ------
    rows : ndarray of int
    """
    batch_size = min(batch_size, n_samples)
    order = np.empty(0, dtype=int)
    for _ in range(n_steps):
        if len(order) < batch_size:
            order = np.append(order, rng.permutation(n_samples))
        rows, order = order[:batch_size], order[batch_size:]
        yield rows


def group_balanced_batches(group_codes, batch_size, n_steps, rng):
    """Yield batches with equally many samples of each group, drawn with replacement.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample; samples of group -1 are never drawn.
    batch_size, n_steps : int
        Sizes.
    rng : RandomState
        Draws.

    Yields
    ------
    rows : ndarray of int
    """
    members = [np.flatnonzero(group_codes == group) for group in np.unique(group_codes[group_codes >= 0])]
    share = -(-batch_size // len(members))
    for _ in range(n_steps):
        yield np.concatenate([rows[rng.randint(len(rows), size=share)] for rows in members])


def log_probabilities(scores):
    """Return the log-probability of each class; a single score is that of the second of two classes against 0.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_rows)
        Output of a linear head.

    Returns
    -------
    log_p : ndarray of shape (n_samples, n_classes)
    """
    return log_softmax(np.hstack([np.zeros_like(scores), scores]) if scores.shape[1] == 1 else scores, axis=1)


def cross_entropies(log_p, class_codes):
    """Return the cross-entropy of each sample."""
    return -log_p[np.arange(len(class_codes)), class_codes]


def cross_entropy_slope(log_p, class_codes, weight):
    """Return the derivative of ``sum_i weight_i CE_i`` by the logits: ``weight_i (p_i - onehot(y_i))``.

    Parameters
    ----------
    log_p : ndarray of shape (n_samples, n_classes)
        Log-probabilities.
    class_codes : ndarray of shape (n_samples,)
        Classes.
    weight : ndarray of shape (n_samples,)
        Weight of each sample.

    Returns
    -------
    slope : ndarray of shape (n_samples, n_classes)
    """
    slope = np.exp(log_p)
    slope[np.arange(len(class_codes)), class_codes] -= 1
    return weight[:, None] * slope


def train_heads(embedding, n_classes, slopes_of, batches, *, learning_rate, l2, n_heads=1, start=None):
    """Train linear heads together on standardised embeddings by Adam, from zero or from random weights.

    Minimises ``loss + l2 / 2 ||w||^2``; the step falls linearly to zero over the batches.

    Parameters
    ----------
    embedding : ndarray of shape (n_samples, n_features)
        Raw embeddings.
    n_classes : int
        Two classes have one row of coefficients.
    slopes_of : callable
        Takes the rows of a batch and one array of log-probabilities (n_rows, n_classes) for each head;
        returns for each head the derivative of the loss by the logits.
    batches : iterable of ndarray of int
        Rows of each batch.
    learning_rate : float
        First step size.
    l2 : float
        Strength of the penalty on the weights of all heads; the intercepts are free.
    n_heads : int, default=1
        Number of heads.
    start : RandomState, default=None
        Draws the first weights as torch draws those of a dense layer: uniformly, up to ``1 / sqrt(n_features)``.
        None starts all heads at zero, where equal losses would keep them equal.

    Returns
    -------
    heads : list of tuple (coef, intercept)
        For raw embeddings.
    """
    mean, scale = standardizer(embedding)
    Z = ((embedding - mean) / scale).astype(np.float32)
    n_rows, n_features = (1 if n_classes == 2 else n_classes), Z.shape[1]
    w = np.zeros((n_heads, n_rows, n_features + 1), dtype=np.float32)
    if start is not None:
        w += start.uniform(-1, 1, size=w.shape) / np.sqrt(n_features)
    momentum, square = np.zeros_like(w), np.zeros_like(w)
    batches = list(batches)
    for i, rows in enumerate(batches):
        X = Z[rows]
        slopes = slopes_of(rows, *(log_probabilities(X @ head[:, :-1].T + head[:, -1]) for head in w))
        gradient = np.empty_like(w)
        for head, slope in enumerate(slopes):
            slope = slope[:, -n_rows:].astype(np.float32)
            gradient[head, :, :-1] = slope.T @ X + l2 * w[head, :, :-1]
            gradient[head, :, -1] = slope.sum(axis=0)
        # Adam (Kingma and Ba, 2015), its decay rates 0.9 and 0.999.
        momentum += 0.1 * (gradient - momentum)
        square += 0.001 * (gradient**2 - square)
        step = learning_rate * (1 - i / len(batches)) * np.sqrt(1 - 0.999 ** (i + 1)) / (1 - 0.9 ** (i + 1))
        w -= step * momentum / (np.sqrt(square) + 1e-8)
    w = w.astype(np.float64)
    return [fold_scaler(head[:, :-1], head[:, -1], mean, scale) for head in w]
