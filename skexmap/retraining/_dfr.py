"""Deep feature reweighting: balance the groups, refit the last layer with an L1 penalty, average."""

from numbers import Integral, Real

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from skexmap._group_labels import large_enough
from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.retraining._balance import BALANCES, subsample_size
from skexmap.retraining._inputs import check_samples, refuse_lost_classes
from skexmap.retraining._l1_logistic import l1_logistic_path
from skexmap.retraining._linear import LinearHead, fold_scaler, one_versus_rest_probabilities, standardizer


def run_in_threads(function, arguments, description, n_jobs, verbose):
    """Return the results of a function for each tuple of arguments, with a progress bar if `verbose`."""
    # Always use threads: the matrix products release the GIL, and each worker process would need a copy of the
    # embedding. So a context for processes or a cluster does not set their number; joblib sees to that.
    pool = Parallel(n_jobs, require="sharedmem", return_as="generator")
    # The products are too small to be shared among the threads of BLAS, which would compete with these.
    with threadpool_limits(limits=1, user_api="blas"):
        results = pool(delayed(function)(*values) for values in arguments)
        return list(tqdm(results, desc=description, total=len(arguments), disable=not verbose))


def draw_seeds(rng, n):
    return rng.randint(np.iinfo(np.int32).max, size=n)


def member_scaler(samples, standardize):
    """Return mean and scale of the samples that belong to a group; 0 and 1 if `standardize` is false."""
    belongs = samples.belongs
    members = samples.embedding if belongs.all() else samples.embedding[belongs]
    return standardizer(members, standardize=standardize)


def balanced_path(samples, rows, Cs, size, rng, balance, scaler):
    """Fit the strengths on balanced rows, standardized by ``scaler(X, weight)``; return them and mean and scale."""
    chosen, weight = balance(samples.group_codes[rows], rng, size)
    chosen = rows[chosen]
    X = samples.embedding[chosen]
    mean, scale = scaler(X, weight)
    path = l1_logistic_path((X - mean) / scale, samples.class_codes[chosen], len(samples.classes), Cs, weight)
    return *path, mean, scale


def retrain(samples, scaler, C, seeds, balance, min_group_size, n_jobs=None, verbose=False):
    """Refit the last layer on balanced samples, once per seed, and average: DFR for one strength."""
    # All refits share one scaler; the weights are averaged in its space and folded, so they apply to raw features.
    members = np.flatnonzero(samples.belongs)
    size = subsample_size(samples.group_codes[members], min_group_size)

    def refit(seed):
        rng = np.random.RandomState(seed)
        return balanced_path(samples, members, [C], size, rng, balance, lambda *_: scaler)[:2]

    refits = run_in_threads(refit, [(seed,) for seed in seeds], "refits", n_jobs, verbose)
    [coef], [intercept] = (np.mean(values, axis=0) for values in zip(*refits, strict=True))
    return fold_scaler(coef, intercept, *scaler)


class _DFR(LinearHead):
    """Base class of `DFRClassifier` and `DFRClassifierCV`: the checks of the groups, and the balanced refits."""

    _parameter_constraints: dict = {
        "n_retrains": [Interval(Integral, 1, None, closed="left")],
        "balance": [StrOptions(set(BALANCES))],
        "min_group_size": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(self, n_retrains, balance, min_group_size, standardize, random_state, n_jobs, verbose):
        self.n_retrains = n_retrains
        self.balance = balance
        self.min_group_size = min_group_size
        self.standardize = standardize
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _size(self, samples):
        """Return the number of samples to which each group is cut down."""
        refuse_lost_classes(samples, "no group (-1)")
        if not samples.groups_are_classes:
            large_enough(samples.group_counts, self.min_group_size)
        size = subsample_size(samples.group_codes[samples.belongs], self.min_group_size)
        return int(samples.group_counts.max()) if size is None else size

    def _refit_seeds(self, rng):
        # Reweighting draws nothing, so all refits would be the same.
        return draw_seeds(rng, self.n_retrains)[: self.n_retrains if self.balance == "subsample" else 1]

    def _refit(self, samples, scaler, C, seeds, *jobs):
        return retrain(samples, scaler, C, seeds, BALANCES[self.balance], self.min_group_size, *jobs)

    def _remedy(self):
        return (
            f"With C={self.C_:g}, {np.count_nonzero(self.coef_)} of {self.coef_.size} coefficients are not zero, and "
            f"each group counts as {self.subsample_size_} samples. Weaken the penalty (a larger C), or keep a sliver "
            "from setting that size (fewer clusters, a larger `min_group_size`)."
        )

    def _probabilities(self, scores):
        return one_versus_rest_probabilities(scores)


class DFRClassifier(_DFR):
    r"""Deep feature reweighting (DFR) for one strength of the penalty.

    The last layer is refitted on embeddings of held-out data in which all groups have equal size. ``n_retrains`` times,
    all groups are cut down at random to the size of the smallest, and an L1-penalized logistic regression is fitted,

    .. math:: \min_{w, b} \|w\|_1 + |b| + C \sum_i \log(1 + e^{-t_i (w \cdot z_i + b)}),

    on the standardized embeddings z with t = -1, +1. With more than two classes, each is fitted against the rest. The
    weights are averaged [1]_. With pseudo-groups from clustered heatmaps in place of group labels, this is the second
    stage of ExMap [2]_.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the L1 penalty; smaller is sparser.
    n_retrains : int, default=20
        Number of refits with different subsamples. ``balance="reweight"`` draws nothing and fits once.
    balance : {"subsample", "reweight"}, default="subsample"
        ``"subsample"`` (published) drops samples until the groups have equal size. ``"reweight"`` keeps all samples and
        weights each by its chance of being drawn, so C means the same in both.
    min_group_size : int, default=6
        Groups with fewer samples do not set the subsample size and are kept whole. (Published: 6.)
    standardize : bool, default=True
        Whether to standardize the embeddings, by one scaler fitted on the whole set.
    random_state : int, RandomState instance or None, default=None
        Draws the subsamples.
    n_jobs : int, default=None
        Number of threads for the refits. None is 1, unless `joblib.parallel_config` sets another number of threads; a
        configuration of processes or of a cluster is for the searches around. The result does not depend on it.
    verbose : bool, default=False
        Whether to show the progress of the fits.

    Attributes
    ----------
    C_ : float
        The strength, C.
    groups_ : ndarray of shape (n_groups,)
        Labels of the groups that occur. Groups formed from clusters have the number
        ``class * n_clusters + cluster``.
    group_counts_ : ndarray of shape (n_groups,)
        Number of samples of each group.
    subsample_size_ : int
        Number of samples to which each group is cut down, or as which it counts with ``balance="reweight"``. It is the
        size of the smallest group with at least `min_group_size` samples. If it is small, a sliver costs the other
        groups most of their samples.
    coef_, intercept_, classes_, n_features_in_, feature_names_in_
        As in `ERMClassifier`.

    Raises
    ------
    ValueError
        In `fit`: as in `ERMClassifier`, and if no group has `min_group_size` samples, several groups are given for a
        sample, or no sample of a class belongs to a group.

    Warns
    -----
    PredictionWarning
        If the refitted layer predicts one class for all samples, as it does if all coefficients are zero.

    See Also
    --------
    DFRClassifierCV : Chooses C by worst-group accuracy.

    Notes
    -----
    If `group_labels` are given, they are the groups; a group may span two classes. Otherwise, the groups are formed
    from y and the block ``cluster`` (one cluster per sample, or one per sample and class). If X has no such block, the
    classes are the groups; if all of these are smaller than `min_group_size`, nothing is cut. Samples of group or
    cluster -1 ("belongs to none") are left out.

    References
    ----------
    .. [1] Kirichenko, Izmailov, Wilson. "Last layer re-training is sufficient for robustness to spurious
       correlations". ICLR 2023. arXiv:2204.02937.
    .. [2] Chakraborty, Sletten, Kampffmeyer. "ExMap: leveraging explainability heatmaps for unsupervised
       group robustness to spurious correlations". CVPR 2024. arXiv:2403.13870.

    Examples
    --------
    A shortcut agrees with the label in 95 of 100 samples:

    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.retraining import DFRClassifier
    >>> X, y, shortcut = make_shortcut_features(agreement=0.95, random_state=0)
    >>> by_class = DFRClassifier(random_state=0).fit(X, y)
    >>> by_group = DFRClassifier(random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    >>> against = shortcut != y
    >>> [round(dfr.score(X[against], y[against]), 1) for dfr in (by_class, by_group)]
    [0.6, 0.9]
    """

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="neither")],
        **_DFR._parameter_constraints,
    }

    def __init__(
        self,
        C=1.0,
        *,
        n_retrains=20,
        balance="subsample",
        min_group_size=6,
        standardize=True,
        random_state=None,
        n_jobs=None,
        verbose=False,
    ):
        super().__init__(n_retrains, balance, min_group_size, standardize, random_state, n_jobs, verbose)
        self.C = C

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, group_labels=None):
        """Refit the last layer on balanced groups.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or blocks with ``embedding`` and ``cluster``
            Embeddings of held-out samples.
        y : array-like of shape (n_samples,)
            Their classes.
        group_labels : array-like of shape (n_samples,), default=None
            Their groups, if known; -1 means "belongs to none". They take precedence over the clusters.

        Returns
        -------
        self : object
        """
        samples = check_samples(self, X, y, group_labels)
        self.classes_, self.groups_ = samples.classes, samples.groups
        self.group_counts_, self.subsample_size_ = samples.group_counts, self._size(samples)
        self.C_ = self.C
        scaler = member_scaler(samples, self.standardize)
        seeds = self._refit_seeds(check_random_state(self.random_state))
        refit = self._refit(samples, scaler, self.C_, seeds, self.n_jobs, self.verbose)
        self.coef_, self.intercept_ = refit
        self._check_fit(samples.embedding, samples.class_codes, self._remedy(), samples.belongs)
        return self
