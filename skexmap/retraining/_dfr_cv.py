"""Deep feature reweighting that chooses the strength of its penalty by the accuracy of the worst group."""

from numbers import Integral

import numpy as np
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state

from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.retraining._balance import BALANCES, TUNINGS
from skexmap.retraining._dfr import _DFR, balanced_path, draw_seeds, member_scaler, run_in_threads
from skexmap.retraining._group_scores import (
    count_right,
    shrunk_worst_group_accuracies,
    worst_group_accuracies,
)
from skexmap.retraining._inputs import check_samples
from skexmap.retraining._linear import fold_scaler, predict_codes, standardizer


class DFRClassifierCV(_DFR):
    """Deep feature reweighting (DFR) that chooses the strength of the penalty by worst-group accuracy.

    The samples are halved ``n_splits`` times. Every strength is fitted on one half, cut down to equal groups, and
    scored on the other half. The layer is then refitted with the best strength on the whole set, as by `DFRClassifier`
    [1]_.

    Parameters
    ----------
    Cs : sequence of float, default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
        Inverse strengths to choose from.
    tuning : {"stratified", "published"}, default="stratified"
        How the halves are drawn and scored.

        - ``"stratified"`` halves every group, and fits and scores on both halves. A half is cut down to half the
          subsample size of the refit, and standardized as the refit is. The score is the accuracy of the worst group,
          with right answers counted over all splits. The accuracy of each group is shrunk toward the mean over the
          groups, as if `min_group_size` more of its samples had that mean, because the accuracy of a handful of samples
          is mostly chance. Among strengths with an equal score, the smallest wins. A strength whose refit has no
          non-zero coefficient is skipped.
        - ``"published"`` halves the samples at random, regardless of their groups, and scores on one half. The groups
          of the other half that are large enough set the size, and it is standardized after it is balanced. The score
          is the accuracy of the worst group, averaged over the splits. Among strengths with an equal score, the first
          wins, even if its refit has no non-zero coefficient.
    n_splits : int, default=5
        Number of random halvings. Not used with `cv`.
    cv : int, cross-validation generator or iterable of (train, test) indices, default=None
        If None, the samples are halved as `tuning` says. Otherwise, `tuning` is not used, and every candidate is a
        whole `DFRClassifier`, fitted on the training part of each split and scored on its test part. This takes
        `n_retrains` times as many fits. It chooses the same C as `GridSearchCV` with these splits and a worst-group
        scorer, unless the refit with that C has no non-zero coefficient.
    n_retrains, balance, standardize, n_jobs, verbose
        As in `DFRClassifier`.
    min_group_size : int, default=6
        Groups with fewer samples do not set the subsample size. They are kept whole, and count in the score.
        (Published: 6.)
    random_state : int, RandomState instance or None, default=None
        Draws the halves and the subsamples. With an integer, the refits are those of ``DFRClassifier(C=C_)`` with the
        same integer.

    Attributes
    ----------
    C_ : float
        The chosen strength.
    Cs_ : ndarray of shape (n_Cs,)
        The strengths, as given.
    cv_scores_ : ndarray of shape (n_Cs, n_splits)
        Worst-group accuracy of each strength on each split, among the groups in the split; NaN if a split of `cv` has
        no group.
    scores_ : ndarray of shape (n_Cs,)
        Score of each strength. With ``tuning="stratified"``, it is the accuracy of the worst group over all splits
        together, shrunk as described under `tuning`. Otherwise it is the mean of `cv_scores_` over the splits without
        NaN.
    best_score_ : float
        The score of ``C_``.
    coef_, intercept_, classes_, n_features_in_, feature_names_in_, groups_, group_counts_, subsample_size_
        As in `DFRClassifier`.

    Raises
    ------
    ValueError
        As in `DFRClassifier`, and if `Cs` is empty or holds a value that is not positive.

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
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import DFRClassifierCV
    >>> X, y, shortcut = make_shortcut_features(400, random_state=0)
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
        super().__init__(n_retrains, balance, min_group_size, standardize, random_state, n_jobs, verbose)
        self.Cs = Cs
        self.tuning = tuning
        self.n_splits = n_splits
        self.cv = cv

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Choose the strength on splits of the data, then refit on all of it.

        Parameters
        ----------
        X, y, group_labels
            As in `DFRClassifier.fit`.

        Returns
        -------
        self : object
        """
        samples = check_samples(self, X, y, group_labels)
        self.classes_, self.groups_ = samples.classes, samples.groups
        self.group_counts_, self.subsample_size_ = samples.group_counts, self._size(samples)
        self.Cs_ = check_strengths(self.Cs)
        rng = check_random_state(self.random_state)
        scaler = member_scaler(samples, self.standardize)
        # Draw these first, so that they equal those of DFRClassifier.
        refit_seeds = self._refit_seeds(rng)
        if self.cv is None:
            right, counts = self._count_in_halves(samples, scaler, draw_seeds(rng, self.n_splits))
        else:
            right, counts = self._count_in_folds(samples, refit_seeds)
        scored = (counts > 0).any(axis=1)
        if not scored.any():
            raise ValueError(
                f"None of {len(scored)} splits has a sample to score on: all are of group -1, or the only one of "
                "their class. Use `DFRClassifier`, which takes C as given."
            )
        self.cv_scores_ = worst_group_accuracies(right, counts).T
        if self.cv is None and self.tuning == "stratified":
            # Every sample is scored once in a split.
            right, counts, weight = right.sum(axis=0), counts.sum(axis=0), self.n_splits * self.min_group_size
            self.scores_ = shrunk_worst_group_accuracies(right, counts, weight)
            order = np.lexsort((self.Cs_, -self.scores_))
        else:
            self.scores_ = self.cv_scores_[:, scored].mean(axis=1)
            order = np.argsort(-self.scores_, kind="stable")
            if self.cv is None:
                order = order[:1]
        jobs = self.n_jobs, self.verbose
        best, (self.coef_, self.intercept_) = first_that_is_not_zero(
            order, lambda i: self._refit(samples, scaler, self.Cs_[i], refit_seeds, *jobs)
        )
        self.C_, self.best_score_ = float(self.Cs_[best]), float(self.scores_[best])
        self._check_fit(samples.embedding, samples.class_codes, self._remedy(), samples.belongs)
        return self

    def _count_in_halves(self, samples, scaler, seeds):
        """Return right answers, (n_splits, n_Cs, n_groups), and scored samples, (n_splits, n_groups)."""
        halves, balance = TUNINGS[self.tuning], BALANCES[self.balance]

        def scaler_of_half(X, weight):
            if self.tuning == "published":
                return standardizer(X, weight, standardize=self.standardize)
            # Use the scaler of the refits, which holds no label. With another scaler, the same C would be another
            # penalty, most of all on the intercept.
            return scaler

        def count(seed):
            rng = np.random.RandomState(seed)
            right, counts = 0, 0
            for fit, held, size in halves(samples.class_codes, samples.group_codes, self.min_group_size, rng):
                path = balanced_path(samples, fit, self.Cs_, size, rng, balance, scaler_of_half)
                of_half = self._count(samples, held, *fold_scaler(*path))
                right, counts = right + of_half[0], counts + of_half[1]
            return right, counts

        scored = run_in_threads(count, [(seed,) for seed in seeds], "halvings", self.n_jobs, self.verbose)
        return map(np.array, zip(*scored, strict=True))

    def _count_in_folds(self, samples, seeds):
        """Return the same for whole refits on the training part of each split of `cv`."""
        cv = check_cv(self.cv, samples.class_codes, classifier=True)
        splits = list(cv.split(samples.embedding, samples.class_codes))

        def count(train, test, C):
            part = samples.take(train)
            coef, intercept = self._refit(part, member_scaler(part, self.standardize), C, seeds)
            return self._count(samples, test, coef[None], intercept[None])

        fits = [(train, test, C) for train, test in splits for C in self.Cs_]
        right, counts = zip(
            *run_in_threads(count, fits, "candidates", self.n_jobs, self.verbose), strict=True
        )
        shape = len(splits), len(self.Cs_), -1
        return np.reshape(right, shape), np.reshape(counts, shape)[:, 0]

    def _count(self, samples, held, coefs, intercepts):
        """Count the right answers of each model, (n_models, n_rows, n_features), in each group of held samples."""
        # Use one product for all models, because reading the held samples costs more than the arithmetic.
        embedding = samples.embedding[held]
        scores = embedding @ coefs.reshape(-1, coefs.shape[-1]).T.astype(embedding.dtype) + intercepts.ravel()
        predicted = predict_codes(scores.reshape(len(held), *intercepts.shape))
        correct = predicted == samples.class_codes[held, None]
        return count_right(correct, samples.group_codes[held], len(samples.groups))


def first_that_is_not_zero(order, refit):
    """Return the first strength in `order` whose refit has a non-zero coefficient, and that refit; else the first."""
    refits = {}
    for best in order:
        refits[best] = refit(best)
        if refits[best][0].any():
            return best, refits[best]
    return order[0], refits[order[0]]


def check_strengths(Cs):
    strengths = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    bad = ~(np.isfinite(strengths) & (strengths > 0))
    if strengths.ndim != 1 or not strengths.size or bad.any():
        raise ValueError(
            f"`Cs` must be a non-empty sequence of positive numbers, got {Cs!r} ({bad.sum()} are not)."
        )
    return strengths
