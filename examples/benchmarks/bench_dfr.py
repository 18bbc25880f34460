"""Deep feature reweighting against the published loop: time, objective, coefficients.

Run ``python examples/benchmarks/bench_dfr.py`` (some minutes; ``--quick`` leaves out the larger set and
repeats less).

The embeddings are made up at the sizes of two held-out sets, Waterbirds (1,199 x 2,048) and CelebA (19,867 x
2,048), with their group sizes: rectified random features of a latent code that holds the class weakly and a
shortcut strongly. The published loop is written out below with scikit-learn's liblinear at its default
tolerance, one fit after another: 35 tuning fits on five random halvings, then 20 refits. Coefficients and
objectives are compared on the same balanced subsamples, against liblinear at ``tol=1e-9``.
"""

import argparse
import json
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skexmap._validation import l1_logistic_regression
from skexmap.retraining import DFRClassifierCV
from skexmap.retraining._l1_logistic import l1_logistic_path

GROUP_SIZES = {"1,199 x 2,048": (467, 133, 133, 466), "19,867 x 2,048": (8276, 8535, 2874, 182)}
SETTINGS = [
    {"tuning": tuning, "n_jobs": n_jobs} for tuning in ("published", "stratified") for n_jobs in (1, 2)
]
STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)


def make_embeddings(group_sizes, n_features=2048, n_latent=128, seed=0):
    """Return float32 embeddings, classes and groups (group = 2 * class + shortcut)."""
    rng = np.random.RandomState(seed)
    groups = rng.permutation(np.repeat(np.arange(4), group_sizes))
    y, shortcut = groups // 2, groups % 2
    latent = rng.normal(size=(len(y), n_latent))
    latent[:, 0] += 2.0 * (2 * y - 1)
    latent[:, 1] += 3.0 * (2 * shortcut - 1)
    layer = rng.normal(size=(n_latent, n_features)) / np.sqrt(n_latent)
    layer[:2] *= 3
    features = latent @ layer + 0.5 * rng.normal(size=(len(y), n_features))
    return (np.maximum(features, 0) * rng.gamma(1, 1, size=n_features)).astype(np.float32), y, groups


def draw_balanced(groups, rng):
    """Return the rows of one subsample with groups of equal size."""
    smallest = np.bincount(groups).min()
    return np.concatenate([rng.permutation(np.flatnonzero(groups == g))[:smallest] for g in range(4)])


def published_loop(X, y, groups, seed):
    """Tune on five halvings, refit 20 times; return the averaged and folded weights and the seconds "
    "inside fits."""
    rng = np.random.RandomState(seed)
    scores, seconds = np.zeros(len(STRENGTHS)), 0.0
    for _ in range(5):
        order = rng.permutation(len(y))
        fit, held = order[len(y) // 2 :], order[: len(y) // 2]
        rows = fit[draw_balanced(groups[fit], rng)]
        scaler = StandardScaler()
        X_fit, X_held = scaler.fit_transform(X[rows]), scaler.transform(X[held])
        for i, C in enumerate(STRENGTHS):
            begin = time.perf_counter()
            model = l1_logistic_regression(C).fit(X_fit, y[rows])
            seconds += time.perf_counter() - begin
            right = model.predict(X_held) == y[held]
            scores[i] += min(right[groups[held] == g].mean() for g in range(4))
    scaler = StandardScaler().fit(X)
    Z = scaler.transform(X)
    coefs, intercepts = [], []
    for _ in range(20):
        rows = draw_balanced(groups, rng)
        begin = time.perf_counter()
        model = l1_logistic_regression(STRENGTHS[scores.argmax()]).fit(Z[rows], y[rows])
        seconds += time.perf_counter() - begin
        coefs.append(model.coef_[0])
        intercepts.append(model.intercept_[0])
    coef = np.mean(coefs, axis=0) / scaler.scale_
    return coef, np.mean(intercepts) - coef @ scaler.mean_, seconds


def l1_objective(coef, intercept, X, y, C):
    """Return liblinear's objective, the intercept penalized."""
    margin = (2 * y - 1) * (X @ coef + intercept)
    return np.abs(coef).sum() + abs(intercept) + C * np.logaddexp(0, -margin).sum()


def compare_solutions(X, y, groups, strengths, seed=0):
    """Return, over the strengths, how far our fit and liblinear's default one are from liblinear at "
    "tol=1e-9."""
    rng = np.random.RandomState(seed)
    rows = draw_balanced(groups, rng)
    Z, targets = StandardScaler().fit_transform(X[rows]).astype(np.float64), y[rows]
    coefs, intercepts = l1_logistic_path(Z, targets, 2, strengths)
    worst = dict.fromkeys(("coefficients", "objective", "default_coefficients", "default_objective"), -np.inf)
    for C, coef, intercept in zip(strengths, coefs[:, 0], intercepts[:, 0], strict=True):
        exact = l1_logistic_regression(C, tol=1e-9, max_iter=1_000_000, random_state=0).fit(Z, targets)
        default = l1_logistic_regression(C, random_state=0).fit(Z, targets)
        best = l1_objective(exact.coef_[0], exact.intercept_[0], Z, targets, C)
        for name, w, b in (("", coef, intercept), ("default_", default.coef_[0], default.intercept_[0])):
            distance = max(np.abs(w - exact.coef_[0]).max(), abs(b - exact.intercept_[0]))
            worst[f"{name}coefficients"] = max(worst[f"{name}coefficients"], distance)
            excess = l1_objective(w, b, Z, targets, C) - best
            worst[f"{name}objective"] = max(worst[f"{name}objective"], excess)
    return worst


def best_of(repeats, function, *arguments):
    """Return the shortest of the wall times."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller set only, one repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    sizes = dict(list(GROUP_SIZES.items())[:1]) if options.quick else GROUP_SIZES
    repeats = 1 if options.quick else options.repeats
    strengths = (0.1, 0.01) if options.quick else STRENGTHS
    warnings.simplefilter("ignore", ConvergenceWarning)
    figures = {}
    for name, group_sizes in sizes.items():
        X, y, groups = make_embeddings(group_sizes)
        row = figures[name] = {}
        with threadpool_limits(1):
            row["published, 1 thread"] = best_of(repeats, published_loop, X, y, groups, 0)
            for settings in SETTINGS:
                dfr = DFRClassifierCV(random_state=0, **settings)
                row[f"skexmap, {settings}"] = best_of(repeats, dfr.fit, X, y, groups)
                # Without the refits.
                short = DFRClassifierCV(random_state=0, n_retrains=1, **settings)
                row[f"skexmap, {settings}, one refit"] = best_of(repeats, short.fit, X, y, groups)
            row["of it liblinear fits"] = published_loop(X, y, groups, 0)[2]
        row |= compare_solutions(X, y, groups, strengths)
        published = row["published, 1 thread"]
        print(f"{name}: published loop {published:.2f} s, of it fits {row['of it liblinear fits']:.2f} s")
        for settings in SETTINGS:
            seconds = row[f"skexmap, {settings}"]
            call = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            print(
                f"  DFRClassifierCV({call})   {seconds:.2f} s   {seconds / published:.2f} of the loop; with one refit "
                f"{row[f'skexmap, {settings}, one refit']:.2f} s"
            )
        print(
            "  on equal subsamples, largest over C:  coefficient distance  objective excess   (liblinear, tol=1e-9)"
        )
        print(
            f"    skexmap                             {row['coefficients']:.1e}               {row['objective']:.1e}"
        )
        print(
            f"    liblinear, default tolerance        {row['default_coefficients']:.1e}               "
            f"{row['default_objective']:.1e}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
