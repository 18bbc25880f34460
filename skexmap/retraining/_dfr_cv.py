"""Deep feature reweighting that chooses the strength of its penalty by the accuracy of the worst group."""

from functools import partial
from numbers import Integral

import numpy as np
from joblib import delayed
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state

from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.retraining._balance import TUNINGS
from skexmap.retraining._dfr import _DFR, draw_seeds, member_scaler, retrain, run
from skexmap.retraining._group_scores import (
    count_right,
    shrunk_worst_group_accuracies,
    worst_group_accuracies,
)
from skexmap.retraining._l1_logistic import l1_logistic_path
from skexmap.retraining._linear import fold_scaler, predict_codes, standardizer

__all__ = ["DFRClassifierCV"]


class DFRClassifierCV(_DFR):
    """Deep feature reweighting (DFR) that chooses the strength of the penalty by worst-group accuracy.

    ``n_splits`` times the samples are halved; every strength is fitted on one half, cut down to equal groups,
    and scored on the other. The best strength is then refitted on the whole set, as
    `DFRClassifier` does [1]_. `tuning` says how the halves are drawn and what is best.

    Parameters
    ----------
    Cs : sequence of float, default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
        Inverse strengths to choose from.
    tuning : {"stratified", "published"}, default="stratified"
        ``"stratified"``: every group is halved, and both halves are fitted on and scored on. A half is cut down
        to half the subsample size of the refit and standardised as the refit is. The score is the accuracy of
        the worst group, with right answers counted over all splits, and the accuracy of each group shrunk towards the
        mean over the groups, as if `min_group_size` more of its samples had that mean: the accuracy of a handful of
        samples is mostly chance. The smallest of several strengths with an equal score wins. A strength whose refit
        has no non-zero coefficient is passed over for the next best.
        ``"published"``: the samples are halved at random, whatever their groups, and one half is scored on. Each
        half decides anew which of its groups are large enough to set the size, and is standardised by itself once
        it is balanced. The score is the mean over the
        splits of the accuracy of the worst group. The first of several strengths with an equal score wins, even
        if its refit has no non-zero coefficient.
    n_splits : int, default=5
        Number of random halvings. Not used with `cv`.
    cv : int, cross-validation generator or iterable of (train, test) indices, default=None
        None is the halvings of `tuning`. Otherwise every candidate is a whole `DFRClassifier`, fitted on the
        training part of each split and scored on its test part, and `tuning` is not used. That is what
        `GridSearchCV` over ``C`` does with these splits and a worst-group scorer, and it chooses the same C, the
        first of several with an equal score (but passes over one whose refit has no non-zero coefficient); it
        takes `n_retrains` times as many fits.
    n_retrains : int, default=20
        Number of refits with different subsamples. ``balance="reweight"`` draws nothing and fits once.
    balance : {"subsample", "reweight"}, default="subsample"
        ``"subsample"`` (published): drop samples until the groups are of equal size. ``"reweight"``: keep all
        of them and weigh each by its chance of being drawn, so that C means the same in both.
    min_group_size : int, default=6
        Groups with fewer samples do not set the subsample size; they stay in whole, and count in the score.
        (Published: 6.)
    standardize : bool, default=True
        Whether to standardise the embeddings.
    random_state : int, RandomState instance or None, default=None
        Draws the halves and the subsamples. The refits draw what ``DFRClassifier(C=C_)`` of the same integer
        draws.
    n_jobs : int, default=None
        Number of threads; None is 1. The result does not depend on it.
    verbose : bool, default=False
        Whether to show the progress of the fits.

    Attributes
    ----------
    C_ : float
        The chosen strength.
    Cs_ : ndarray of shape (n_Cs,)
        The strengths, as given.
    cv_scores_ : ndarray of shape (n_Cs, n_splits)
        Worst-group accuracy of each strength on each split. Groups that a split lacks do not count; NaN where a split
        of `cv` lacks all of them.
    scores_ : ndarray of shape (n_Cs,)
        The curve that C_ is chosen from. With ``tuning="stratified"`` the accuracy of the worst group over all splits
        together, shrunk as `tuning` says; otherwise the mean of `cv_scores_` over the splits without NaN.
    best_score_ : float
        The score of C_.
    coef_, intercept_, classes_, groups_, group_counts_, subsample_size_, n_features_in_, feature_names_in_
        As in `DFRClassifier`.

    Raises
    ------
    ValueError
        As `DFRClassifier`; and if `Cs` is empty or holds a value that is not positive.

    Warns
    -----
    PredictionWarning
        If the refitted layer predicts one class for all samples, as it does if all coefficients are zero.

    See Also
    --------
    DFRClassifier : For one C, and for `GridSearchCV`.

    References
    ----------
    .. [1] Kirichenko, Izmailov, Wilson. "Last layer re-training is sufficient for robustness to spurious
       correlations". ICLR 2023. arXiv:2204.02937.

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.retraining import DFRClassifierCV
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=400)
    >>> shortcut = np.where(rng.uniform(size=400) < 0.9, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + rng.normal(size=(400, 2))
    >>> dfr = DFRClassifierCV(random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    >>> dfr.cv_scores_.shape
    (7, 5)
    >>> bool(dfr.best_score_ == dfr.scores_.max())
    True
    """

    _parameter_constraints: dict = {
        "Cs": ["array-like"],
        "tuning": [StrOptions(set(TUNINGS))],
        "n_splits": [Interval(Integral, 1, None, closed="left")],
        "cv": ["cv_object"],
        **_DFR._parameter_constraints,
    }

    def __init__(
        self,
        Cs=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        *,
        tuning="stratified",
        n_splits=5,
        cv=None,
        n_retrains=20,
        balance="subsample",
        min_group_size=6,
        standardize=True,
        random_state=None,
        n_jobs=None,
        verbose=False,
    ):
        self.Cs = Cs
        self.tuning = tuning
        self.n_splits = n_splits
        self.cv = cv
        self.n_retrains = n_retrains
        self.balance = balance
        self.min_group_size = min_group_size
        self.standardize = standardize
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Choose the strength on splits of the data, then refit on all of it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding`` and ``cluster``
            Embeddings of held-out samples.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Their groups, where known; -1 is "belongs to none". They go before the clusters.

        Returns
        -------
        self : object
        """
        embedding, class_codes, group_codes = self._read(X, y, group_labels)
        self.Cs_ = _check_strengths(self.Cs)
        data = (embedding, class_codes, group_codes, len(self.classes_))
        scaler = member_scaler(embedding, group_codes, self.standardize)
        rng = check_random_state(self.random_state)
        # Drawn first, so that they are those of DFRClassifier.
        refit_seeds = self._refit_seeds(rng)
        if self.cv is None:
            right, counts = self._count_in_halves(*data, scaler=scaler, seeds=draw_seeds(rng, self.n_splits))
        else:
            right, counts = self._count_in_folds(*data, seeds=refit_seeds)
        scored = (counts > 0).any(axis=1)
        if not scored.any():
            raise ValueError(
                f"None of {len(scored)} splits has a sample to score on: all are of group -1, or the only one of "
                "their class. Use `DFRClassifier`, which takes C as given."
            )
        self.cv_scores_ = worst_group_accuracies(right, counts).T
        if self.cv is None and self.tuning == "stratified":
            # Every sample is scored once a split.
            self.scores_ = shrunk_worst_group_accuracies(
                right.sum(axis=0), counts.sum(axis=0), self.n_splits * self.min_group_size
            )
            order = np.lexsort((self.Cs_, -self.scores_))
        else:
            self.scores_ = self.cv_scores_[:, scored].mean(axis=1)
            order = np.argsort(-self.scores_, kind="stable")
            if self.cv is None:
                order = order[:1]
        best, self.coef_, self.intercept_ = first_that_is_not_zero(
            order,
            lambda i: retrain(
                *data,
                self.Cs_[i],
                scaler=scaler,
                **self._balancing(),
                seeds=refit_seeds,
                n_jobs=self.n_jobs,
                verbose=self.verbose,
            ),
        )
        self.C_, self.best_score_ = float(self.Cs_[best]), float(self.scores_[best])
        self._warn_of_constant_predictions(embedding, class_codes, self._remedy(), group_codes >= 0)
        return self

    def _count_in_halves(self, *data, scaler, seeds):
        if self.tuning == "stratified":
            # That of the refits: on another one the same C would be another penalty, most of all on the intercept.
            # It holds no label.
            def of_half(X, weight):
                return scaler

        else:
            of_half = partial(standardizer, standardize=self.standardize)
        count = partial(
            score_split,
            *data,
            len(self.groups_),
            self.Cs_,
            halves=TUNINGS[self.tuning],
            scaler=of_half,
            **self._balancing(),
        )
        tasks = (delayed(count)(seed=seed) for seed in seeds)
        right, counts = zip(*run(tasks, len(seeds), "halvings", self.n_jobs, self.verbose), strict=True)
        return np.array(right), np.array(counts)

    def _count_in_folds(self, embedding, class_codes, group_codes, n_classes, *, seeds):
        splits = list(check_cv(self.cv, class_codes, classifier=True).split(embedding, class_codes))
        n_groups, shape = len(self.groups_), (len(splits), len(self.Cs_), -1)

        def count(train, test, C):
            coef, intercept = retrain(
                embedding[train],
                class_codes[train],
                group_codes[train],
                n_classes,
                C,
                scaler=member_scaler(embedding[train], group_codes[train], self.standardize),
                **self._balancing(),
                seeds=seeds,
            )
            correct = predict_codes(embedding[test] @ coef.T + intercept) == class_codes[test]
            return count_right(correct[:, None], group_codes[test], n_groups)

        tasks = (delayed(count)(train, test, C) for train, test in splits for C in self.Cs_)
        right, counts = zip(
            *run(tasks, len(splits) * len(self.Cs_), "candidates", self.n_jobs, self.verbose), strict=True
        )
        return np.reshape(right, shape), np.reshape(counts, shape)[:, 0]


def score_split(
    embedding,
    class_codes,
    group_codes,
    n_classes,
    n_groups,
    Cs,
    *,
    halves,
    scaler,
    balance,
    min_group_size,
    seed,
):
    """Fit each strength on a half of the samples and count its right answers on the other, group by group."""
    # `halves` is one of `TUNINGS` and `balance` one of `BALANCES`; ``scaler(X, weight)`` returns mean and scale for a
    # balanced half. Returns the right answers, of shape (n_Cs, n_groups), and the samples scored, of shape (n_groups,).
    rng = np.random.RandomState(seed)
    right, counts = 0, 0
    for fit, held, size in halves(class_codes, group_codes, min_group_size, rng):
        rows, weight = balance(group_codes[fit], rng, size)
        rows = fit[rows]
        X = embedding[rows]
        mean, scale = scaler(X, weight)
        X = (X - mean) / scale
        coef, intercept = l1_logistic_path(X, class_codes[rows], n_classes, Cs, weight)
        shape = len(held), *intercept.shape
        coef, intercept = fold_scaler(coef.reshape(-1, X.shape[1]), intercept.ravel(), mean, scale)
        # All strengths in one product: reading the held half costs more than the arithmetic.
        scores = embedding[held] @ coef.T.astype(embedding.dtype) + intercept
        predicted = predict_codes(scores.reshape(shape))
        of_half = count_right(predicted == class_codes[held, None], group_codes[held], n_groups)
        right, counts = right + of_half[0], counts + of_half[1]
    return right, counts


def first_that_is_not_zero(order, refit):
    """Return the first strength in `order` whose refit has a non-zero coefficient, and that refit; else the first."""
    refits = {}
    for best in order:
        refits[best] = refit(best)
        if refits[best][0].any():
            return best, *refits[best]
    return order[0], *refits[order[0]]


def _check_strengths(Cs):
    strengths = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    bad = ~(np.isfinite(strengths) & (strengths > 0))
    if strengths.ndim != 1 or not strengths.size or bad.any():
        raise ValueError(
            f"`Cs` must be a non-empty sequence of positive numbers, got {Cs!r} ({bad.sum()} are not)."
        )
    return strengths
