r"""L1-penalized logistic regression by Newton steps on a small working set of features.

Solves, for weights :math:`s_i \ge 0` and targets t = -1, +1,

.. math:: \min_{w, b} \|w\|_1 + |b| + \sum_i s_i \log(1 + e^{-t_i (w \cdot x_i + b)}),

which is liblinear's problem (with its penalized intercept) for ``s_i = C * sample_weight_i``. Deep feature reweighting
has a few hundred balanced samples with thousands of features, of which some hundred get a non-zero coefficient. So the
gradient of all features is needed only to choose the working set. The Newton steps are taken on the working set, whose
Hessian is a small dense matrix.

A step is a projected Newton step in the orthant given by the signs of w and of the gradient (Schmidt, "Graphical model
structure learning with L1-regularization", 2010, section 2.3: two-metric projection). In the orthant, the penalty is
linear. A coefficient that would leave the orthant stops at zero. The step is halved until the objective falls enough.
"""

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from skexmap._validation import warn

# Violation of the optimality conditions, in units of the penalty's slope 1, at which a fit is done.
TOLERANCE = 1e-7
LARGEST_CURVATURE = 1e300
_MAX_ROUNDS = 500
_STEPS_PER_ROUND = 2
_MIN_NEWCOMERS = 20
# If the features are nearly collinear, the projected Newton step may not descend. Damping turns it toward the
# diagonally scaled gradient, which always descends.
_DAMPINGS = (1e-9, 1e-4, 1e-1, 1e2, 1e5)
_STEPS = 0.5 ** np.arange(12)


def l1_logistic(X, targets, weight, w_init=None):
    """Return coefficients and intercept of one regression; `weight` includes C, and `w_init` is the starting point."""
    w = np.zeros(X.shape[1] + 1) if w_init is None else w_init.copy()
    support = np.flatnonzero(w)
    margin = targets * (_columns(X, support) @ w[support])
    stalled = False
    for _ in range(_MAX_ROUNDS):
        residual = -targets * weight * expit(-margin)
        gradient = np.append(residual @ X, residual.sum())
        violation = _violation(w, gradient)
        if violation.max() <= TOLERANCE:
            return w
        if stalled:
            break
        working = _working_set(w, violation)
        columns = _columns(X, working) * targets[:, None]
        w[working], margin, stalled = _newton_steps(columns, weight, w[working], margin)
    if violation.max() > 1e-3:
        warn(
            f"The L1 logistic regression did not converge: its optimality conditions are violated by "
            f"{violation.max():.1e} (wanted: {TOLERANCE:.0e}). Standardize the features or lower C.",
            ConvergenceWarning,
        )
    return w


def _refuse_overflow(C, weight, X):
    """Raise ValueError if the Hessian of the largest strength would overflow."""
    # The absolute values would take a copy of X.
    largest = max(X.max(), -X.min())
    with np.errstate(over="ignore"):
        bound = C * weight.sum() * max(1.0, np.square(largest, dtype=np.float64))
    if not bound < LARGEST_CURVATURE:
        raise ValueError(
            f"C={C:g} is too large for {len(X)} samples with features up to {largest:.3g}: the curvature of the loss "
            "leaves the range of numbers. Choose a smaller C, or scale the embeddings."
        )


def _columns(X, working):
    """Return the columns of a working set; index n_features is the intercept, a column of ones."""
    has_intercept = len(working) and working[-1] == X.shape[1]
    columns = X[:, working[:-1] if has_intercept else working]
    return np.column_stack([columns, np.ones(len(X))]) if has_intercept else columns


def _violation(w, gradient):
    """Return by how much each coefficient violates ``0 in gradient + subdifferential(|w|)``."""
    return np.where(w == 0, np.maximum(np.abs(gradient) - 1, 0), np.abs(gradient + np.sign(w)))


def _working_set(w, violation):
    """Return the non-zero coefficients, and as many of the others that violate optimality most."""
    support = np.flatnonzero(w)
    newcomers = np.flatnonzero((w == 0) & (violation > 0))
    n_newcomers = max(_MIN_NEWCOMERS, len(support))
    if len(newcomers) > n_newcomers:
        newcomers = newcomers[np.argpartition(-violation[newcomers], n_newcomers)[:n_newcomers]]
    return np.union1d(support, newcomers)


def _newton_steps(columns, weight, w, margin):
    """Take projected Newton steps on a working set."""
    value = _objective(w, margin, weight)
    for _ in range(_STEPS_PER_ROUND):
        chance = expit(-margin)
        gradient = -(weight * chance) @ columns
        at_zero = w == 0
        pseudo_gradient = np.sign(gradient) * np.maximum(np.abs(gradient) - 1, 0)
        pseudo_gradient = np.where(at_zero, pseudo_gradient, gradient + np.sign(w))
        if np.abs(pseudo_gradient).max() <= TOLERANCE:
            return w, margin, False
        orthant = np.where(at_zero, -np.sign(pseudo_gradient), np.sign(w))
        root = np.sqrt(weight * chance * (1 - chance))[:, None] * columns
        hessian = root.T @ root
        for damping in _DAMPINGS:
            direction = _newton_direction(hessian, damping, pseudo_gradient, orthant, at_zero)
            for step in _STEPS:
                moved = w + step * direction
                moved[moved * orthant <= 0] = 0
                moved_margin = columns @ moved
                moved_value = _objective(moved, moved_margin, weight)
                lower = moved_value <= value + 1e-4 * (pseudo_gradient @ (moved - w))
                if lower:
                    break
            if lower:
                break
        else:
            return w, margin, True
        w, margin, value = moved, moved_margin, moved_value
    return w, margin, False


def _objective(w, margin, weight):
    return weight @ np.logaddexp(0, -margin) + np.abs(w).sum()


def _newton_direction(hessian, damping, pseudo_gradient, orthant, at_zero):
    """Return the damped Newton direction of the coefficients that may move."""
    diagonal = np.einsum("ii->i", hessian)
    # The absolute part is for features without curvature.
    damped = hessian + np.diag(damping * diagonal + 1e-12 * (1 + diagonal.max()))
    free = ~at_zero | (pseudo_gradient != 0)
    while True:
        rows = np.flatnonzero(free)
        direction = np.zeros(len(pseudo_gradient))
        direction[rows] = -np.linalg.solve(damped[np.ix_(rows, rows)], pseudo_gradient[rows])
        # A zero coefficient may only leave into the orthant of its own pseudo-gradient.
        wrong = at_zero & (direction * orthant < 0)
        if not wrong.any():
            return direction
        free &= ~wrong


def l1_logistic_path(X, class_codes, n_classes, Cs, sample_weight=None):
    """Fit the strengths `Cs` on the same samples: one row for two classes, else one row per class against the rest."""
    # Returns coefficients of shape (n_Cs, n_rows, n_features) and intercepts of shape (n_Cs, n_rows). A class without a
    # sample is never predicted.
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    _refuse_overflow(np.max(Cs), weight, X)
    positives = [1] if n_classes == 2 else range(n_classes)
    solutions = np.zeros((len(Cs), len(positives), X.shape[1] + 1))
    for row, positive in enumerate(positives):
        targets = np.where(class_codes == positive, 1.0, -1.0)
        if (targets == targets[0]).all():
            solutions[:, row, -1] = targets[0] * np.inf
            continue
        w_init = None
        # Upward from the sparsest solution, each fit starts where its neighbor ended.
        for i in np.argsort(Cs):
            w_init = solutions[i, row] = l1_logistic(X, targets, Cs[i] * weight, w_init)
    return solutions[..., :-1], solutions[..., -1]
