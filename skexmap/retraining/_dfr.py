"""Deep feature reweighting: balance the groups, refit the last layer with an L1 penalty, average."""

import warnings
from functools import partial
from numbers import Integral, Real

import numpy as np
from joblib import Parallel, delayed
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state

from skexmap._blocks import EMBEDDING, leaves_out_missing
from skexmap._group_labels import NO_GROUP, pool_by_rarity
from skexmap._progress import progress, reports_fit
from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.exceptions import TinyGroupWarning
from skexmap.retraining._inputs import read_classes, read_embedding, read_groups, refuse_lost_classes
from skexmap.retraining._l1_logistic import l1_logistic
from skexmap.retraining._linear import LinearHead, fold_scaler, one_versus_rest_probabilities, standardizer

__all__ = ["DFRClassifier", "DFRClassifierCV"]

# Subsampling every group to fewer samples than this is worth a warning where a larger size was to be had.
_SLIVER = 20


def subsample_size(group_codes, min_group_size):
    """Return the size that the groups are cut down to: that of the smallest group above `min_group_size`.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, 0 or more.
    min_group_size : int
        Groups of at most this many samples do not set the size.

    Returns
    -------
    size : int or None
        None if no group is larger than `min_group_size`: then nothing is cut.
    """
    counts = np.bincount(group_codes)
    setting = counts[counts > min_group_size]
    return int(setting.min()) if setting.size else None


def subsample_groups(group_codes, rng, *, min_group_size, small_groups):
    """Draw equally many samples of every group; small groups stay in whole or are dropped.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, 0 or more.
    rng : RandomState
        Draws the samples.
    min_group_size : int
        Groups of at most this many samples do not set the size.
    small_groups : {"keep", "drop"}
        What happens to those.

    Returns
    -------
    rows : ndarray of int
        The samples that stay.
    sample_weight : None
        They weigh the same.
    """
    size = subsample_size(group_codes, min_group_size)
    if size is None:
        return np.arange(len(group_codes)), None
    members = [np.flatnonzero(group_codes == group) for group in np.unique(group_codes)]
    if small_groups == "drop":
        members = [rows for rows in members if len(rows) >= size]
    return np.concatenate([rng.permutation(rows)[:size] for rows in members]), None


def reweight_groups(group_codes, rng, *, min_group_size, small_groups):
    """Weigh every sample by its chance of being drawn by `subsample_groups`: all the data, the same balance.

    The weights are ``min(1, size / n_g)``, so that the penalty is as strong, relative to the loss, as in a
    subsample.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, 0 or more.
    rng : RandomState
        Not used: nothing is drawn.
    min_group_size : int
        Groups of at most this many samples do not set the size.
    small_groups : {"keep", "drop"}
        What happens to those.

    Returns
    -------
    rows : ndarray of int
        The samples with a positive weight.
    sample_weight : ndarray of shape (n_rows,)
        Their weights.
    """
    size = subsample_size(group_codes, min_group_size)
    counts = np.bincount(group_codes)
    if size is None:
        return np.arange(len(group_codes)), np.ones(len(group_codes))
    weight = np.minimum(1.0, size / np.maximum(counts, 1))
    if small_groups == "drop":
        weight[counts < size] = 0.0
    rows = np.flatnonzero(weight[group_codes])
    return rows, weight[group_codes[rows]]


BALANCES = {"subsample": subsample_groups, "reweight": reweight_groups}


def l1_logistic_path(X, class_codes, n_classes, Cs, sample_weight=None):
    """Fit L1-penalised logistic regressions on the same samples for several strengths.

    Two classes: ``min_w,b |w|_1 + |b| + C sum_i s_i log(1 + exp(-t_i (w . x_i + b)))`` with t = -1, +1. More
    classes: the same for each class against the rest.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
        Standardised features.
    class_codes : ndarray of shape (n_samples,)
        Class of each sample, 0 to ``n_classes - 1``.
    n_classes : int
        Number of classes; one without a sample is never predicted.
    Cs : sequence of float
        Inverse strengths of the penalty.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weight of each sample.

    Returns
    -------
    coef : ndarray of shape (n_Cs, n_rows, n_features)
        One row for two classes, else one per class.
    intercept : ndarray of shape (n_Cs, n_rows)
    """
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    positives = [1] if n_classes == 2 else range(n_classes)
    solutions = np.zeros((len(Cs), len(positives), X.shape[1] + 1))
    for row, positive in enumerate(positives):
        targets = np.where(class_codes == positive, 1.0, -1.0)
        if (targets == targets[0]).all():
            solutions[:, row, -1] = targets[0] * np.inf
            continue
        start = None
        # Upwards from the sparsest solution, each fit starts where its neighbour ended.
        for i in np.argsort(Cs):
            start = solutions[i, row] = l1_logistic(X, targets, Cs[i] * weight, start)
    return solutions[..., :-1], solutions[..., -1]


def predict_codes(scores):
    """Return the class code of each sample.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, ..., n_rows)
        One score for two classes, else one per class.

    Returns
    -------
    class_codes : ndarray of shape (n_samples, ...)
    """
    return (scores[..., 0] > 0).astype(int) if scores.shape[-1] == 1 else scores.argmax(axis=-1)


def worst_group_accuracies(correct, group_codes):
    """Return the accuracy of the worst of the groups that occur.

    Parameters
    ----------
    correct : ndarray of bool of shape (n_samples, n_models)
        Whether each model is right about each sample.
    group_codes : ndarray of shape (n_samples,)
        Group of each sample; samples of group -1 do not count.

    Returns
    -------
    accuracies : ndarray of shape (n_models,)
        NaN if no sample belongs to a group.
    """
    groups = np.unique(group_codes[group_codes >= 0])
    if not len(groups):
        return np.full(correct.shape[1], np.nan)
    return np.min([correct[group_codes == group].mean(axis=0) for group in groups], axis=0)


def run(tasks, n_tasks, description, n_jobs=None, track=None):
    """Run tasks in threads and yield their results in order.

    Parameters
    ----------
    tasks : iterable of joblib.delayed
    n_tasks : int
    description : str
        What they do.
    n_jobs : int, default=None
        Number of threads; None is 1.
    track : callable, default=None
        ``track(results, n_tasks, description)`` yields the results and shows progress.

    Yields
    ------
    result : object
    """
    # Threads: the matrix products release the GIL, and the embedding is not copied to workers.
    results = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(tasks)
    yield from results if track is None else track(results, n_tasks, description)


def retrain(
    embedding, class_codes, group_codes, n_classes, C, *, balance, standardize, seeds, n_jobs=None, track=None
):
    """Refit the last layer on balanced data, once per seed, and average: DFR for one strength.

    All refits share one scaler, fitted on all samples; the weights are averaged in its space and folded.

    Parameters
    ----------
    embedding : ndarray of shape (n_samples, n_features)
        Raw features.
    class_codes, group_codes : ndarray of shape (n_samples,)
        Class and group of each sample; samples of group -1 take no part.
    n_classes : int
        Number of classes.
    C : float
        Inverse strength of the penalty.
    balance : callable
        ``balance(group_codes, rng)`` returns rows and their weights.
    standardize : bool
        Whether to standardise.
    seeds : sequence of int
        One refit for each.
    n_jobs : int, default=None
        Number of threads.
    track : callable, default=None
        Shows progress, as in `run`.

    Returns
    -------
    coef : ndarray of shape (n_rows, n_features)
        For raw features.
    intercept : ndarray of shape (n_rows,)
    """
    member = np.flatnonzero(group_codes >= 0)
    if len(member) < len(group_codes):
        embedding, class_codes, group_codes = embedding[member], class_codes[member], group_codes[member]
    mean, scale = standardizer(embedding, standardize=standardize)

    def refit(seed):
        rng = np.random.RandomState(seed)
        rows, weight = balance(group_codes, rng)
        X = (embedding[rows] - mean) / scale
        return l1_logistic_path(X, class_codes[rows], n_classes, [C], weight)

    coefs, intercepts = zip(
        *run(map(delayed(refit), seeds), len(seeds), "refits", n_jobs, track), strict=True
    )
    return fold_scaler(np.mean(coefs, axis=0)[0], np.mean(intercepts, axis=0)[0], mean, scale)


def score_halving(embedding, class_codes, group_codes, n_classes, Cs, *, balance, standardize, seed):
    """Fit each strength on a random half and score it on the other by worst-group accuracy.

    Parameters
    ----------
    embedding : ndarray of shape (n_samples, n_features)
        Raw features.
    class_codes, group_codes : ndarray of shape (n_samples,)
        Class and group of each sample; samples of group -1 take no part.
    n_classes : int
        Number of classes.
    Cs : sequence of float
        Inverse strengths of the penalty.
    balance : callable
        ``balance(group_codes, rng)`` returns rows and their weights.
    standardize : bool
        Whether to standardise, on the balanced half.
    seed : int
        Draws the halves.

    Returns
    -------
    scores : ndarray of shape (n_Cs,)
        Groups of any size count, absent ones do not.
    """
    rng = np.random.RandomState(seed)
    order = rng.permutation(np.flatnonzero(group_codes >= 0))
    fit_half, score_half = order[len(order) // 2 :], order[: len(order) // 2]
    rows, weight = balance(group_codes[fit_half], rng)
    rows = fit_half[rows]
    mean, scale = standardizer(embedding[rows], weight, standardize=standardize)
    X = (embedding[rows] - mean) / scale
    coef, intercept = l1_logistic_path(X, class_codes[rows], n_classes, Cs, weight)
    coef, intercept = fold_scaler(coef.reshape(-1, X.shape[1]), intercept.ravel(), mean, scale)
    # All strengths in one product: reading the score half costs more than the arithmetic.
    scores = embedding[score_half] @ coef.T.astype(embedding.dtype) + intercept
    scores = scores.reshape(len(score_half), len(Cs), -1)
    correct = predict_codes(scores) == class_codes[score_half, None]
    return worst_group_accuracies(correct, group_codes[score_half])


class _DFR(LinearHead):
    """What `DFRClassifier` and `DFRClassifierCV` share: reading the groups and the balanced refits."""

    _parameter_constraints: dict = {
        "n_retrains": [Interval(Integral, 1, None, closed="left")],
        "balance": [StrOptions(set(BALANCES))],
        "min_group_size": [Interval(Integral, 0, None, closed="left")],
        "small_groups": [StrOptions({"keep", "drop"})],
        "rare_share": [Interval(Real, 0, 0.5, closed="right"), None],
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
        if self.rare_share is not None:
            pooled = pool_by_rarity(group_codes, class_codes, self.rare_share)
            stay, position = np.unique(pooled[pooled >= 0], return_inverse=True)
            self.groups_ = self.groups_[stay]
            group_codes = np.full_like(pooled, NO_GROUP)
            group_codes[pooled >= 0] = position
        belongs = group_codes >= 0
        self.group_counts_ = np.bincount(group_codes[belongs], minlength=len(self.groups_))
        stays = belongs
        if origin != "classes":
            self._check_group_sizes(class_codes[belongs], group_codes[belongs])
            if self.small_groups == "drop":
                stays = belongs & (self.group_counts_[group_codes] > self.min_group_size)
        refuse_lost_classes(
            self.classes_,
            class_codes[stays],
            "no group (-1) or to groups that `small_groups='drop'` leaves out",
        )
        return embedding, class_codes, group_codes

    def _check_group_sizes(self, class_codes, group_codes):
        """Refuse groups that are all tiny; warn where one sliver costs the others most of their samples."""
        counts, n_groups = self.group_counts_, len(self.group_counts_)
        setting = counts > self.min_group_size
        if not setting.any():
            raise ValueError(
                f"All {n_groups} groups have at most min_group_size={self.min_group_size} samples (largest: "
                f"{counts.max()}). Use fewer clusters or lower `min_group_size`."
            )
        smallest = np.flatnonzero(setting)[counts[setting].argmin()]
        size, sizable = counts[smallest], counts[counts >= _SLIVER]
        if self.balance != "subsample" or size >= _SLIVER or not sizable.size or sizable.min() < 2 * size:
            return
        # The smaller of a class's two groups is the minority that DFR is there for; a third one is a sliver.
        sizes = np.zeros((len(self.classes_), n_groups), dtype=int)
        np.add.at(sizes, (class_codes, group_codes), 1)
        if ((sizes[sizes[:, smallest] > 0] >= _SLIVER).sum(axis=1) >= 2).all():
            warnings.warn(
                f"Group {self.groups_[smallest]} has only {size} samples, and so each of {n_groups} groups "
                "is "
                f"cut down to {size} (without the groups below {_SLIVER} samples: {sizable.min()}). "
                "Raise `min_group_size`, use fewer clusters, pool them (`rare_share=0.1`), or set "
                "`balance='reweight'`.",
                TinyGroupWarning,
                stacklevel=4,
            )

    def _balance(self):
        return partial(
            BALANCES[self.balance], min_group_size=self.min_group_size, small_groups=self.small_groups
        )

    def _refit_seeds(self, rng):
        # Reweighting draws nothing: one fit is the average of all.
        return _draw_seeds(rng, self.n_retrains)[: self.n_retrains if self.balance == "subsample" else 1]

    def _track(self):
        return partial(progress, verbose=self.verbose, estimator=self)

    def _probabilities(self, scores):
        return one_versus_rest_probabilities(scores)


def _draw_seeds(rng, n):
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
    min_group_size : int, default=5
        Groups of at most this many samples do not set the subsample size.
    small_groups : {"keep", "drop"}, default="keep"
        ``"keep"`` (published): such groups stay in whole. ``"drop"``: they are left out of the fits.
    rare_share : float in (0, 0.5] or None, default=None
        None (published): the groups are balanced as they are. A number: first, groups with less than this share
        of their class are pooled into one, and the other groups of that class into another, as
        `skexmap.groups.pool_rare_groups` does; 0.1 suits pseudo-groups that are finer than the true ones.
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
        ``class * n_clusters + cluster``; a pool (`rare_share`) has that of its largest group.
    group_counts_ : ndarray of shape (n_groups,)
        Number of samples of each.
    n_features_in_ : int
        Number of features of the embedding.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X is a data frame without blocks and with string columns.

    Raises
    ------
    ValueError
        From `fit`: one class only; a missing block; no group larger than `min_group_size`; a class of which
        no sample belongs to a group.

    Warns
    -----
    TinyGroupWarning
        If a group of fewer than 20 samples, though its class has two larger ones, more than halves what the
        other groups may keep.

    See Also
    --------
    DFRClassifierCV : Chooses C by worst-group accuracy.

    Notes
    -----
    The groups come, in this order, from `group_labels`; from y and the block ``cluster`` (one cluster per
    sample, or one per sample and class); from y alone, when X is a plain array: then the classes are the
    groups, and small ones may all be below `min_group_size` (nothing is cut then). Group labels as given
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
        min_group_size=5,
        small_groups="keep",
        rare_share=None,
        standardize=True,
        random_state=None,
        n_jobs=None,
        verbose=False,
    ):
        self.C = C
        self.n_retrains = n_retrains
        self.balance = balance
        self.min_group_size = min_group_size
        self.small_groups = small_groups
        self.rare_share = rare_share
        self.standardize = standardize
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    @reports_fit(max_subtasks=1)
    @leaves_out_missing(EMBEDDING)
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
            balance=self._balance(),
            standardize=self.standardize,
            seeds=self._refit_seeds(check_random_state(self.random_state)),
            n_jobs=self.n_jobs,
            track=self._track(),
        )
        return self


class DFRClassifierCV(_DFR):
    """Deep feature reweighting (DFR) that chooses the strength of the penalty by worst-group accuracy.

    As published [1]_: ``n_splits`` times the samples are halved at random; every strength is fitted on one
    half (cut down to equal groups and standardised there) and scored on the other by the accuracy of its
    worst group. The strength with the best mean is then refitted on the whole set, as `DFRClassifier` does.

    Parameters
    ----------
    Cs : sequence of float, default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
        Inverse strengths to choose from. Of several with an equal score the first wins.
    n_splits : int, default=5
        Number of random halvings. Not used with `cv`.
    cv : int, cross-validation generator or iterable of (train, test) indices, default=None
        None is the published halvings. Otherwise every candidate is a whole `DFRClassifier`, fitted on the
        training part of each split and scored on its test part. That is what `GridSearchCV` over ``C`` does
        with these splits and a worst-group scorer, and it chooses the same C; it takes `n_retrains` times as
        many fits.
    n_retrains : int, default=20
        Number of refits with different subsamples. ``balance="reweight"`` draws nothing and fits once.
    balance : {"subsample", "reweight"}, default="subsample"
        ``"subsample"`` (published): drop samples until the groups are of equal size. ``"reweight"``: keep all
        of them and weigh each by its chance of being drawn, so that C means the same in both.
    min_group_size : int, default=5
        Groups of at most this many samples do not set the subsample size; they count in the score.
    small_groups : {"keep", "drop"}, default="keep"
        ``"keep"`` (published): such groups stay in whole. ``"drop"``: they are left out of the fits.
    rare_share : float in (0, 0.5] or None, default=None
        None (published): the groups are balanced as they are. A number: first, groups with less than this share
        of their class are pooled into one, and the other groups of that class into another, as
        `skexmap.groups.pool_rare_groups` does; 0.1 suits pseudo-groups that are finer than the true ones.
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
        of `cv` lacks all of them, and it does not count in the mean.
    mean_cv_scores_ : ndarray of shape (n_Cs,)
        Their mean: the curve that C_ is the maximum of.
    best_score_ : float
        The mean score of C_.
    coef_, intercept_, classes_, groups_, group_counts_, n_features_in_, feature_names_in_
        As in `DFRClassifier`.

    Raises
    ------
    ValueError
        As `DFRClassifier`; and if `Cs` is empty or holds a value that is not positive.

    Warns
    -----
    TinyGroupWarning
        If a group of fewer than 20 samples, though its class has two larger ones, more than halves what the
        other groups may keep.

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
    >>> bool(dfr.best_score_ == dfr.mean_cv_scores_.max())
    True
    """

    _parameter_constraints: dict = {
        "Cs": ["array-like"],
        "n_splits": [Interval(Integral, 1, None, closed="left")],
        "cv": ["cv_object"],
        **_DFR._parameter_constraints,
    }

    def __init__(
        self,
        Cs=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        *,
        n_splits=5,
        cv=None,
        n_retrains=20,
        balance="subsample",
        min_group_size=5,
        small_groups="keep",
        rare_share=None,
        standardize=True,
        random_state=None,
        n_jobs=None,
        verbose=False,
    ):
        self.Cs = Cs
        self.n_splits = n_splits
        self.cv = cv
        self.n_retrains = n_retrains
        self.balance = balance
        self.min_group_size = min_group_size
        self.small_groups = small_groups
        self.rare_share = rare_share
        self.standardize = standardize
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    @reports_fit(max_subtasks=2)
    @leaves_out_missing(EMBEDDING)
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
        rng = check_random_state(self.random_state)
        # Drawn first, so that they are those of DFRClassifier.
        refit_seeds = self._refit_seeds(rng)
        if self.cv is None:
            self.cv_scores_ = self._score_halvings(*data, seeds=_draw_seeds(rng, self.n_splits))
        else:
            self.cv_scores_ = self._score_splits(*data, seeds=refit_seeds)
        scored = np.isfinite(self.cv_scores_).all(axis=0)
        if not scored.any():
            raise ValueError(
                f"None of {len(scored)} splits has a sample to score on that belongs to a group: all are of group -1."
            )
        self.mean_cv_scores_ = self.cv_scores_[:, scored].mean(axis=1)
        best = self.mean_cv_scores_.argmax()
        self.best_score_ = float(self.mean_cv_scores_[best])
        self.C_ = float(self.Cs_[best])
        self.coef_, self.intercept_ = retrain(
            *data,
            self.C_,
            balance=self._balance(),
            standardize=self.standardize,
            seeds=refit_seeds,
            n_jobs=self.n_jobs,
            track=self._track(),
        )
        return self

    def _score_halvings(self, *data, seeds):
        score = partial(score_halving, *data, self.Cs_, balance=self._balance(), standardize=self.standardize)
        tasks = (delayed(score)(seed=seed) for seed in seeds)
        scores = list(run(tasks, len(seeds), "halvings", self.n_jobs, self._track()))
        return np.transpose(scores)

    def _score_splits(self, embedding, class_codes, group_codes, n_classes, *, seeds):
        splits = list(check_cv(self.cv, class_codes, classifier=True).split(embedding, class_codes))

        def score(train, test, C):
            coef, intercept = retrain(
                embedding[train],
                class_codes[train],
                group_codes[train],
                n_classes,
                C,
                balance=self._balance(),
                standardize=self.standardize,
                seeds=seeds,
            )
            correct = predict_codes(embedding[test] @ coef.T + intercept) == class_codes[test]
            return worst_group_accuracies(correct[:, None], group_codes[test])[0]

        tasks = (delayed(score)(train, test, C) for train, test in splits for C in self.Cs_)
        scores = list(run(tasks, len(splits) * len(self.Cs_), "candidates", self.n_jobs, self._track()))
        return np.reshape(scores, (-1, len(self.Cs_))).T


def _check_strengths(Cs):
    strengths = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    bad = ~(np.isfinite(strengths) & (strengths > 0))
    if strengths.ndim != 1 or not strengths.size or bad.any():
        raise ValueError(
            f"`Cs` must be a non-empty sequence of positive numbers, got {Cs!r} ({bad.sum()} are not)."
        )
    return strengths
