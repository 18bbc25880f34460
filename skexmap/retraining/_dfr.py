"""Deep feature reweighting: balance the groups, refit the last layer with an L1 penalty, average."""

from numbers import Integral, Real

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import check_random_state
from tqdm.auto import tqdm

from skexmap._group_labels import large_enough
from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.retraining._balance import BALANCES, subsample_size
from skexmap.retraining._inputs import (
    read_classes,
    read_embedding,
    read_groups,
    refuse_lost_classes,
)
from skexmap.retraining._l1_logistic import l1_logistic_path
from skexmap.retraining._linear import (
    LinearHead,
    fold_scaler,
    one_versus_rest_probabilities,
    standardizer,
)

__all__ = ["DFRClassifier"]


def run(tasks, n_tasks, description, n_jobs=None, verbose=False):
    """Run joblib tasks in threads; return an iterator over their results, with a progress bar if `verbose`."""
    # Threads: the matrix products release the GIL, and the embedding is not copied to workers.
    results = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(tasks)
    return tqdm(results, desc=description, total=n_tasks, disable=not verbose)


def member_scaler(embedding, group_codes, standardize):
    """Return mean and scale of the samples that belong to a group; 0 and 1 if `standardize` is false."""
    belongs = group_codes >= 0
    return standardizer(embedding if belongs.all() else embedding[belongs], standardize=standardize)


def retrain(
    embedding,
    class_codes,
    group_codes,
    n_classes,
    C,
    *,
    scaler,
    balance,
    min_group_size,
    seeds,
    n_jobs=None,
    verbose=False,
):
    """Refit the last layer on balanced data, once per seed, and average: DFR for one strength."""
    # All refits share one scaler; the weights are averaged in its space and folded, so they apply to raw features.
    member = np.flatnonzero(group_codes >= 0)
    if len(member) < len(group_codes):
        embedding, class_codes, group_codes = embedding[member], class_codes[member], group_codes[member]
    mean, scale = scaler
    size = subsample_size(group_codes, min_group_size)

    def refit(seed):
        rng = np.random.RandomState(seed)
        rows, weight = balance(group_codes, rng, size)
        X = (embedding[rows] - mean) / scale
        return l1_logistic_path(X, class_codes[rows], n_classes, [C], weight)

    coefs, intercepts = zip(
        *run(map(delayed(refit), seeds), len(seeds), "refits", n_jobs, verbose), strict=True
    )
    return fold_scaler(np.mean(coefs, axis=0)[0], np.mean(intercepts, axis=0)[0], mean, scale)


class _DFR(LinearHead):
    """What `DFRClassifier` and `DFRClassifierCV` share: reading the groups and the balanced refits."""

    _parameter_constraints: dict = {
        "n_retrains": [Interval(Integral, 1, None, closed="left")],
        "balance": [StrOptions(set(BALANCES))],
        "min_group_size": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def _read(self, X, y, group_labels):
        embedding = read_embedding(self, X, reset=True)
        self.classes_, class_codes = read_classes(self, y, len(embedding))
        self.groups_, group_codes, origin = read_groups(
            self, X, embedding, self.classes_, class_codes, group_labels
        )
        belongs = group_codes >= 0
        refuse_lost_classes(self.classes_, class_codes[belongs], "no group (-1)")
        self.group_counts_ = np.bincount(group_codes[belongs], minlength=len(self.groups_))
        if origin != "classes":
            large_enough(self.group_counts_, self.min_group_size)
        size = subsample_size(group_codes[belongs], self.min_group_size)
        self.subsample_size_ = int(self.group_counts_.max()) if size is None else size
        return embedding, class_codes, group_codes

    def _balancing(self):
        return {"balance": BALANCES[self.balance], "min_group_size": self.min_group_size}

    def _remedy(self):
        return (
            f"With C={self.C_:g}, {np.count_nonzero(self.coef_)} of {self.coef_.size} coefficients are not zero, and "
            f"each group counts as {self.subsample_size_} samples. Weaken the penalty (a larger C), or keep a sliver "
            "from setting that size (fewer clusters, a larger `min_group_size`)."
        )

    def _refit_seeds(self, rng):
        # Reweighting draws nothing: one fit is the average of all.
        return draw_seeds(rng, self.n_retrains)[: self.n_retrains if self.balance == "subsample" else 1]

    def _probabilities(self, scores):
        return one_versus_rest_probabilities(scores)


def draw_seeds(rng, n):
    return rng.randint(np.iinfo(np.int32).max, size=n)


class DFRClassifier(_DFR):
    r"""Deep feature reweighting (DFR) for one strength of the penalty.

    The last layer is refitted on embeddings of held-out data in which every group weighs the same:
    ``n_retrains`` times all groups are cut down, at random, to the size of the smallest, an L1-penalised
    logistic regression is fitted,

    .. math:: \min_{w, b} \|w\|_1 + |b| + C \sum_i \log(1 + e^{-t_i (w \cdot z_i + b)}),

    on the standardised embeddings z with t = -1, +1 (more than two classes: each against the rest), and the
    weights are averaged [1]_. With pseudo-groups from clustered heatmaps in place of group labels this is the
    second stage of ExMap [2]_.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the L1 penalty; smaller is sparser.
    n_retrains : int, default=20
        Number of refits with different subsamples. ``balance="reweight"`` draws nothing and fits once.
    balance : {"subsample", "reweight"}, default="subsample"
        ``"subsample"`` (published): drop samples until the groups are of equal size. ``"reweight"``: keep all
        of them and weigh each by its chance of being drawn, so that C means the same in both.
    min_group_size : int, default=6
        Groups with fewer samples do not set the subsample size; they stay in whole. (Published: 6.)
    standardize : bool, default=True
        Whether to standardise the embeddings, by one scaler fitted on the whole set.
    random_state : int, RandomState instance or None, default=None
        Draws the subsamples.
    n_jobs : int, default=None
        Number of threads for the refits; None is 1. The result does not depend on it.
    verbose : bool, default=False
        Whether to show the progress of the fits.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        The scaler is folded in: they apply to raw embeddings.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Likewise.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    C_ : float
        The strength, C.
    groups_ : ndarray of shape (n_groups,)
        Labels of the groups that occur. Groups formed from clusters have the number
        ``class * n_clusters + cluster``.
    group_counts_ : ndarray of shape (n_groups,)
        Number of samples of each.
    subsample_size_ : int
        What each group is cut down to (``balance="reweight"``: as how many samples it weighs): the size of the smallest
        group of at least `min_group_size`. A small number here is a sliver that costs the other groups most of their
        samples.
    n_features_in_ : int
        Number of features of the embedding.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X is a data frame without blocks and with string columns.

    Raises
    ------
    ValueError
        From `fit`: one class only; a missing block; no group of at least `min_group_size`; a class of which
        no sample belongs to a group.

    Warns
    -----
    PredictionWarning
        If the refitted layer predicts one class for all samples, as it does if all coefficients are zero.

    See Also
    --------
    DFRClassifierCV : Chooses C by worst-group accuracy.

    Notes
    -----
    The groups come, in this order, from `group_labels`; from y and the block ``cluster`` (one cluster per
    sample, or one per sample and class); from y alone, when X is a plain array: then the classes are the
    groups, and all may be below `min_group_size` (nothing is cut then). Group labels as given
    *are* the groups: one that spans two classes is allowed. Samples of group or cluster -1 ("belongs to
    none") take no part.

    References
    ----------
    .. [1] Kirichenko, Izmailov, Wilson. "Last layer re-training is sufficient for robustness to spurious
       correlations". ICLR 2023. arXiv:2204.02937.
    .. [2] Chakraborty, Sletten, Kampffmeyer. "ExMap: leveraging explainability heatmaps for unsupervised
       group robustness to spurious correlations". CVPR 2024. arXiv:2403.13870.

    Examples
    --------
    The second feature, a shortcut, agrees with the label in 95 of 100 samples.

    >>> import numpy as np
    >>> from skexmap.retraining import DFRClassifier
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=1000)
    >>> shortcut = np.where(rng.uniform(size=1000) < 0.95, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 4 * shortcut - 2]) + rng.normal(size=(1000, 2))
    >>> by_class = DFRClassifier(random_state=0).fit(X, y)
    >>> by_group = DFRClassifier(random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    >>> against = shortcut != y
    >>> [round(dfr.score(X[against], y[against]), 1) for dfr in (by_class, by_group)]
    [0.4, 0.9]
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
        self.C = C
        self.n_retrains = n_retrains
        self.balance = balance
        self.min_group_size = min_group_size
        self.standardize = standardize
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

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
            Their groups, where known; -1 is "belongs to none". They go before the clusters.

        Returns
        -------
        self : object
        """
        embedding, class_codes, group_codes = self._read(X, y, group_labels)
        self.C_ = self.C
        self.coef_, self.intercept_ = retrain(
            embedding,
            class_codes,
            group_codes,
            len(self.classes_),
            self.C_,
            scaler=member_scaler(embedding, group_codes, self.standardize),
            **self._balancing(),
            seeds=self._refit_seeds(check_random_state(self.random_state)),
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        self._warn_of_constant_predictions(embedding, class_codes, self._remedy(), group_codes >= 0)
        return self
