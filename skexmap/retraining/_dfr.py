"""Deep feature reweighting: balance the groups, refit the last layer with an L1 penalty, average."""

from functools import partial
from numbers import Integral, Real

import numpy as np
from joblib import Parallel, delayed
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from tqdm.auto import tqdm

from skexmap._blocks import EMBEDDING, leaves_out_missing
from skexmap._group_labels import large_enough
from skexmap._validation import Interval, StrOptions, _fit_context
from skexmap.retraining._inputs import (
    read_classes,
    read_embedding,
    read_groups,
    refuse_lost_classes,
)
from skexmap.retraining._l1_logistic import l1_logistic
from skexmap.retraining._linear import (
    LinearHead,
    fold_scaler,
    one_versus_rest_probabilities,
    predict_codes,
    standardizer,
)

__all__ = ["DFRClassifier", "DFRClassifierCV"]


def subsample_size(group_codes, min_group_size):
    """Return the size that the groups are cut down to: that of the smallest group that is large enough.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, 0 or more.
    min_group_size : int
        Groups of fewer samples do not set the size.

    Returns
    -------
    size : int or None
        None if no group is large enough: then nothing is cut.
    """
    counts = np.bincount(group_codes)
    setting = counts[counts >= min_group_size]
    return int(setting.min()) if setting.size else None


def subsample_groups(group_codes, rng, size):
    """Draw `size` samples of every group; smaller groups stay in whole.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, 0 or more.
    rng : RandomState
        Draws the samples.
    size : int or None
        None keeps all samples.

    Returns
    -------
    rows : ndarray of int
        The samples that stay.
    sample_weight : None
        They weigh the same.
    """
    if size is None:
        return np.arange(len(group_codes)), None
    members = [np.flatnonzero(group_codes == group) for group in np.unique(group_codes)]
    return np.concatenate([rng.permutation(rows)[:size] for rows in members]), None


def reweight_groups(group_codes, rng, size):
    """Weigh every sample by its chance of being drawn by `subsample_groups`: all the data, the same balance.

    The weights are ``min(1, size / n_g)``, so that the penalty is as strong, relative to the loss, as in a
    subsample.

    Parameters
    ----------
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, 0 or more.
    rng : RandomState
        Not used: nothing is drawn.
    size : int or None
        None weighs all samples the same.

    Returns
    -------
    rows : ndarray of int
        All samples.
    sample_weight : ndarray of shape (n_samples,)
        Their weights.
    """
    rows = np.arange(len(group_codes))
    if size is None:
        return rows, np.ones(len(rows))
    return rows, np.minimum(1.0, size / np.bincount(group_codes)[group_codes])


BALANCES = {"subsample": subsample_groups, "reweight": reweight_groups}


def published_halves(class_codes, group_codes, min_group_size, rng):
    """Halve the samples at random, as published: one half to fit on, the other to score on.

    Parameters
    ----------
    class_codes, group_codes : ndarray of shape (n_samples,)
        Class and group of each sample; samples of group -1 are in neither half.
    min_group_size : int
        Groups with fewer samples *in the half* do not set the size.
    rng : RandomState
        Draws the halves.

    Yields
    ------
    fit, held : ndarray of int
        The two halves.
    size : int or None
        What the groups of `fit` are cut down to.
    """
    order = rng.permutation(np.flatnonzero(group_codes >= 0))
    fit, held = order[len(order) // 2 :], order[: len(order) // 2]
    yield fit, held, subsample_size(group_codes[fit], min_group_size)


def stratified_halves(class_codes, group_codes, min_group_size, rng):
    """Halve every group at random, and use both halves: each is fitted on once and scored on once.

    The groups that set the size on the whole set set it here, and it is halved with them: a half is to the
    strengths what the whole set is to the refit. The only sample of a class is in both halves, for a fit
    without the class would be another task, and is scored in neither.

    Parameters
    ----------
    class_codes, group_codes : ndarray of shape (n_samples,)
        Class and group of each sample; samples of group -1 are in neither half.
    min_group_size : int
        Groups with fewer samples *in the whole set* do not set the size.
    rng : RandomState
        Draws the halves.

    Yields
    ------
    fit, held : ndarray of int
        The half that is fitted on, and the other.
    size : int or None
        What the groups of `fit` are cut down to.
    """
    member = rng.permutation(np.flatnonzero(group_codes >= 0))
    size = subsample_size(group_codes[member], min_group_size)
    half_size = None if size is None else max(size // 2, 1)
    lonely = np.flatnonzero(np.bincount(class_codes[member]) == 1)
    alone = np.isin(class_codes[member], lonely)
    member, alone = member[~alone], member[alone]
    # Dealt out in turn, group after group and class after class: where a group has an odd number of samples,
    # the next one begins in the other half. The order of a class's groups is drawn, so that it is not always
    # the same groups whose last samples part.
    rank = rng.permutation(group_codes.max() + 1)[group_codes[member]]
    order = member[np.lexsort((rank, class_codes[member]))]
    for fit, held in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        yield np.concatenate([fit, alone]), held, half_size


TUNINGS = {"stratified": stratified_halves, "published": published_halves}


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


def count_right(correct, group_codes, n_groups):
    """Count the samples of each group, and those that each model is right about.

    Parameters
    ----------
    correct : ndarray of bool of shape (n_samples, n_models)
        Whether each model is right about each sample.
    group_codes : ndarray of shape (n_samples,)
        Group of each sample; samples of group -1 do not count.
    n_groups : int
        Number of groups.

    Returns
    -------
    right : ndarray of int of shape (n_models, n_groups)
    counts : ndarray of int of shape (n_groups,)
    """
    belongs = group_codes >= 0
    codes = group_codes[belongs]
    right = [np.bincount(codes[hits], minlength=n_groups) for hits in correct[belongs].T]
    return np.array(right), np.bincount(codes, minlength=n_groups)


def worst_group_accuracies(right, counts):
    """Return the accuracy of the worst of the groups that occur.

    Parameters
    ----------
    right : ndarray of shape (..., n_models, n_groups)
        Number of right answers.
    counts : ndarray of shape (..., n_groups)
        Number of samples.

    Returns
    -------
    accuracies : ndarray of shape (..., n_models)
        NaN if no group has a sample.
    """
    counts = counts[..., None, :]
    accuracies = np.where(counts > 0, right / np.maximum(counts, 1), np.inf).min(axis=-1)
    return np.where(np.isinf(accuracies), np.nan, accuracies)


def shrunk_worst_group_accuracies(right, counts, weight):
    """Return the accuracy of the worst group, each group's being shrunk towards the mean over the groups.

    The accuracy of a few samples is mostly chance, and the minimum picks it: a sliver would choose the strength.

    Parameters
    ----------
    right : ndarray of shape (n_models, n_groups)
        Number of right answers.
    counts : ndarray of shape (n_groups,)
        Number of samples, not all 0; groups without a sample do not occur.
    weight : float
        Number of samples that the mean counts as in every group.

    Returns
    -------
    accuracies : ndarray of shape (n_models,)
    """
    present = counts > 0
    right, counts = right[:, present], counts[present]
    mean = (right / counts).mean(axis=1, keepdims=True)
    return ((right + weight * mean) / (counts + weight)).min(axis=1)


def run(tasks, n_tasks, description, n_jobs=None, verbose=False):
    """Run joblib tasks in threads; return an iterator over their results, with a progress bar if `verbose`."""
    # Threads: the matrix products release the GIL, and the embedding is not copied to workers.
    results = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(tasks)
    return tqdm(results, desc=description, total=n_tasks, disable=not verbose)


def member_scaler(embedding, group_codes, standardize):
    """Return mean and scale of the samples that belong to a group; 0 and 1 if `standardize` is false.

    Parameters
    ----------
    embedding : ndarray of shape (n_samples, n_features)
        Raw features.
    group_codes : ndarray of shape (n_samples,)
        Group of each sample, or -1.
    standardize : bool
        Whether to standardise.

    Returns
    -------
    mean, scale : ndarray of shape (n_features,)
    """
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
    """Refit the last layer on balanced data, once per seed, and average: DFR for one strength.

    All refits share one scaler; the weights are averaged in its space and folded.

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
    scaler : tuple of ndarray (mean, scale)
        What `member_scaler` returns.
    balance : callable
        ``balance(group_codes, rng, size)`` returns rows and their weights.
    min_group_size : int
        Groups of fewer samples do not set that size.
    seeds : sequence of int
        One refit for each.
    n_jobs : int, default=None
        Number of threads.
    verbose : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    coef : ndarray of shape (n_rows, n_features)
        For raw features.
    intercept : ndarray of shape (n_rows,)
    """
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
    """Fit each strength on a half of the samples and count its right answers on the other.

    Parameters
    ----------
    embedding : ndarray of shape (n_samples, n_features)
        Raw features.
    class_codes, group_codes : ndarray of shape (n_samples,)
        Class and group of each sample; samples of group -1 take no part.
    n_classes, n_groups : int
        Number of classes and of groups.
    Cs : sequence of float
        Inverse strengths of the penalty.
    halves : callable
        One of `TUNINGS`: yields what to fit on, what to score on and the subsample size.
    scaler : callable
        ``scaler(embedding, weight)`` returns mean and scale to standardise a balanced half by.
    balance : callable
        ``balance(group_codes, rng, size)`` returns rows and their weights.
    min_group_size : int
        Groups of fewer samples do not set that size.
    seed : int
        Draws the halves and the subsamples.

    Returns
    -------
    right : ndarray of int of shape (n_Cs, n_groups)
        Right answers, over all halves that are scored on.
    counts : ndarray of int of shape (n_groups,)
        Samples that are scored; groups of any size count.
    """
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
    """Return the first of the strengths whose refit has a non-zero coefficient, and that refit.

    Parameters
    ----------
    order : iterable of int
        The strengths, the best one first.
    refit : callable
        From one of them to coefficients and intercept.

    Returns
    -------
    best : int
        The first of `order` if all refits are zero.
    coef, intercept : ndarray
    """
    refits = {}
    for best in order:
        refits[best] = refit(best)
        if refits[best][0].any():
            return best, *refits[best]
    return order[0], *refits[order[0]]


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
        return _draw_seeds(rng, self.n_retrains)[: self.n_retrains if self.balance == "subsample" else 1]

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
    ConstantPredictionWarning
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
            scaler=member_scaler(embedding, group_codes, self.standardize),
            **self._balancing(),
            seeds=self._refit_seeds(check_random_state(self.random_state)),
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        self._warn_of_constant_predictions(embedding, class_codes, self._remedy(), group_codes >= 0)
        return self


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
    ConstantPredictionWarning
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
        scaler = member_scaler(embedding, group_codes, self.standardize)
        rng = check_random_state(self.random_state)
        # Drawn first, so that they are those of DFRClassifier.
        refit_seeds = self._refit_seeds(rng)
        if self.cv is None:
            right, counts = self._count_in_halves(*data, scaler=scaler, seeds=_draw_seeds(rng, self.n_splits))
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


def _check_strengths(Cs):
    strengths = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    bad = ~(np.isfinite(strengths) & (strengths > 0))
    if strengths.ndim != 1 or not strengths.size or bad.any():
        raise ValueError(
            f"`Cs` must be a non-empty sequence of positive numbers, got {Cs!r} ({bad.sum()} are not)."
        )
    return strengths
