"""Scorers for model selection on the worst group, with true group labels or without any."""

from warnings import warn

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import column_or_1d
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import CLUSTER, get_block
from skexmap._group_labels import cluster_of_class, encode_groups
from skexmap._validation import parameters_of_candidate
from skexmap.exceptions import (
    AbsentGroupWarning,
    OneClusterWarning,
    PartitionSearchWarning,
)
from skexmap.metrics._group_metrics import (
    check_min_group_size,
    correct_predictions,
    large_enough,
    membership,
    worst_group_accuracy,
    worst_group_score,
)

# Parameters of a step that change how it works and not what it returns.
WITHOUT_EFFECT = (
    *("batch_size", "device", "keep_heatmaps", "memory", "n_jobs", "n_seed_checks", "num_workers", "verbose"),
)

RESPONSES = ("predict", "predict_proba", "decision_function")


class _WorstGroupScorer:
    """What the scorers share: the options, the score given the groups, and what metadata they ask for."""

    # Name of the worst group's score among several.
    _name = "worst_group"
    _requests = ()

    def __init__(
        self,
        *,
        metric=None,
        response_method="predict",
        greater_is_better=True,
        min_group_size=1,
        several=False,
        weighted=False,
    ):
        if response_method not in RESPONSES:
            raise ValueError(f"`response_method` must be one of {list(RESPONSES)}, got {response_method!r}.")
        if metric is None and response_method != "predict":
            raise ValueError(f"`response_method`={response_method!r} needs a `metric` that takes its output.")
        if several and metric is not None:
            raise ValueError(
                "`several=True` returns accuracies. For another metric, give scikit-learn a dict of scorers."
            )
        self.metric = metric
        self.response_method = response_method
        self.greater_is_better = greater_is_better
        self.min_group_size = check_min_group_size(min_group_size)
        self.several = several
        self.weighted = weighted

    def get_metadata_routing(self):
        """Return what scikit-learn's metadata routing should pass on to the scorer.

        Returns
        -------
        routing : MetadataRequest
        """
        # Requested here and not by `set_score_request`, which raises while routing is off.
        request = MetadataRequest(owner=type(self).__name__)
        for name in self._requests:
            request.score.add_request(param=name, alias=True)
        request.score.add_request(param="sample_weight", alias=bool(self.weighted))
        return request

    def _accept_sample_weight(self):
        # What scikit-learn asks a scorer while routing is off.
        return bool(self.weighted)

    def _score(self, y, response, groups, sample_weight):
        if self.metric is not None:
            score = worst_group_score(
                y,
                response,
                metric=self.metric,
                group_labels=groups,
                sample_weight=sample_weight,
                min_group_size=self.min_group_size,
                greater_is_better=self.greater_is_better,
            )
            return score if self.greater_is_better else -score
        if not self.several:
            return worst_group_accuracy(
                y,
                response,
                group_labels=groups,
                sample_weight=sample_weight,
                min_group_size=self.min_group_size,
            )
        correct = correct_predictions(y, response)
        groups = membership(groups, len(correct), sample_weight)
        large = large_enough(groups, self.min_group_size)
        accuracies = groups.mean(correct)[large]
        return {
            self._name: float(accuracies.min()),
            f"macro_{self._name.removeprefix('worst_')}": float(accuracies.mean()),
            "accuracy": float(np.average(correct, weights=groups.sample_weight)),
            f"n_{self._name.removeprefix('worst_')}s": float(large.sum()),
        }

    def __repr__(self):
        options = {name: value for name, value in vars(self).items() if value not in (None, False)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


class WorstGroupScorer(_WorstGroupScorer):
    """Scorer of the group that an estimator serves worst; `make_worst_group_scorer` explains the options.

    It is called as ``scorer(estimator, X, y, group_labels=...)``. With scikit-learn's metadata routing
    switched on, it asks for `group_labels` by itself.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyClassifier
    >>> from skexmap.metrics import worst_group_accuracy_scorer
    >>> X, y = np.zeros((4, 1)), np.array([0, 0, 0, 1])
    >>> model = DummyClassifier(strategy="most_frequent").fit(X, y)
    >>> worst_group_accuracy_scorer(model, X, y, group_labels=["a", "a", "b", "b"])
    0.5
    """

    _requests = ("group_labels",)

    def __call__(self, estimator, X, y, *, group_labels=None, sample_weight=None):
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier.
        X : array-like of shape (n_samples, ...)
            What it predicts from.
        y : array-like of shape (n_samples,)
            True classes.
        group_labels : array-like of shape (n_samples,)
            Group of each sample; -1 ("belongs to none") is left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample.

        Returns
        -------
        score : float, or dict of str to float
            Greater is better.

        Raises
        ------
        ValueError
            If `group_labels` are missing; as `worst_group_accuracy` does.
        """
        if group_labels is None:
            raise ValueError(
                "The worst-group scorer got no `group_labels`. Switch metadata routing on with "
                "`sklearn.set_config(enable_metadata_routing=True)` and pass them to the search: "
                "`search.fit(X, y, group_labels=...)`. Without group labels, use "
                "`worst_pseudo_group_accuracy_scorer`."
            )
        response = getattr(estimator, self.response_method)(X)
        return self._score(y, response, group_labels, sample_weight)


class WorstPseudoGroupScorer(_WorstGroupScorer):
    """Scorer of the worst pseudo-group; `make_worst_pseudo_group_scorer` explains the options.

    It is called as ``scorer(estimator, X, y)``.
    """

    _name = "worst_pseudo_group"

    def __init__(self, labeler=None, **options):
        super().__init__(**options)
        self.labeler = labeler
        if labeler is not None:
            check_is_fitted(labeler)
            _labeling_of(labeler)

    def __call__(self, estimator, X, y, *, sample_weight=None):
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted: a pipeline with a clusterer step, its last step alone when X carries the block
            ``cluster``, or an `ExMapClassifier`. With a `labeler`, any classifier.
        X : array-like of shape (n_samples, ...)
            What it predicts from.
        y : array-like of shape (n_samples,)
            True classes; a pseudo-group is a class and a cluster.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample.

        Returns
        -------
        score : float, or dict of str to float
            Greater is better.

        Raises
        ------
        ValueError
            If there are no clusters to be had; the message says which step would make them. As
            `worst_group_accuracy` does.

        Warns
        -----
        PartitionSearchWarning
            If a search varies parameters of the steps before the last, without a `labeler`.
        OneClusterWarning
            If all samples of each class lie in one cluster.
        AbsentGroupWarning
            If a pseudo-group of at least `min_group_size` training samples has none here.
        """
        y = column_or_1d(y)
        head, rows = _head_and_its_input(estimator, X)
        if self.labeler is not None:
            groups = _label(self.labeler, X, y, head)
            trained = _trained_groups(_labeling_of(self.labeler)[0], head, self.min_group_size)
        else:
            _warn_of_a_searched_partition(estimator)
            if hasattr(head, "predict_groups"):
                step, groups = head, np.asarray(head.predict_groups(rows, y))
            else:
                step, clusters = _clusterer_step(estimator), get_block(rows, CLUSTER, required_by=self)
                groups = _cross(clusters, y, head.classes_, getattr(step, "n_clusters_", 0))
            trained = _trained_groups(step, head, self.min_group_size)
        _warn_of_what_the_score_cannot_see(groups, y, trained)
        response = getattr(head, self.response_method)(rows)
        return self._score(y, response, groups, sample_weight)


def _head_and_its_input(estimator, X):
    """Return the classifier at the end of a pipeline and what its transformers make of X."""
    # A fitted search scores as its best estimator.
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not isinstance(estimator, Pipeline):
        return estimator, X
    for _, step in estimator.steps[:-1]:
        if step is not None and step != "passthrough":
            X = step.transform(X)
    return _head_and_its_input(estimator.steps[-1][1], X)


def _clusterer_step(estimator):
    """Return the step of a pipeline that formed the clusters, or None."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    steps = [step for _, step in getattr(estimator, "steps", ())[:-1] if hasattr(step, "n_clusters_")]
    return steps[-1] if steps else None


def _cross(clusters, y, classes, n_clusters):
    """Return the pseudo-groups class x cluster, with numbers for at least `n_clusters` clusters."""
    known = {label: code for code, label in enumerate(np.asarray(classes).tolist())}
    unseen = [label for label in np.unique(y).tolist() if label not in known]
    clusters = np.asarray(clusters)
    if unseen and clusters.ndim == 2:
        raise ValueError(
            f"y holds {len(unseen)} classes that the estimator was not trained on: {unseen[:5]}. "
            "Clusters formed inside each class do not exist for them."
        )
    # A class of its own for each unseen label: its samples are wrong, and that must count.
    known.update({label: len(known) + i for i, label in enumerate(unseen)})
    codes = np.array([known[label] for label in y.tolist()], dtype=np.int64)
    n_clusters = max(n_clusters, int(clusters.max(initial=0)) + 1)
    return encode_groups(codes, cluster_of_class(clusters, codes), n_clusters)


def _labeling_of(labeler):
    """Return the last step of a labeler and which of its methods places new rows."""
    last = labeler.steps[-1][1] if isinstance(labeler, Pipeline) else labeler
    for method in ("predict_groups", "predict"):
        if hasattr(last, method):
            return last, method
    raise TypeError(
        "`labeler` must be fitted and have `predict_groups` (PseudoGroupLabeler) or `predict` (a clusterer), "
        f"alone or as the last step of a Pipeline; {type(last).__name__} has neither."
    )


def _label(labeler, X, y, head):
    """Return the pseudo-groups that a fitted labeler gives to X."""
    last, method = _labeling_of(labeler)
    try:
        _, rows = _head_and_its_input(labeler, X)
        if method == "predict_groups":
            return np.asarray(last.predict_groups(rows, y))
        clusters = np.asarray(last.predict(rows))
    except ValueError as error:
        error.add_note("The `labeler` of a scorer gets the same X as the scored estimator.")
        raise
    return _cross(clusters, y, head.classes_, getattr(last, "n_clusters_", 0))


def _trained_groups(step, head, min_group_size):
    """Return the numbers of the pseudo-groups in the training data, where they are known."""
    if hasattr(step, "group_labels_"):
        groups, counts = np.unique(step.group_labels_, return_counts=True)
    elif hasattr(step, "n_clusters_") and hasattr(head, "group_counts_"):
        # A head behind a clusterer forms class x cluster itself, with these numbers.
        groups, counts = head.groups_, head.group_counts_
    else:
        return np.array([], dtype=np.int64)
    if groups.dtype.kind not in "iu":
        # The head was given group labels of its own.
        return np.array([], dtype=np.int64)
    return groups[(counts >= min_group_size) & (groups >= 0)]


def _warn_of_a_searched_partition(estimator):
    varied = [name for name in parameters_of_candidate() if _changes_the_partition(estimator, name)]
    if varied:
        warn(
            f"The search varies {varied}, and with it the pseudo-groups that its candidates are scored on. "
            "Such scores compare only on one fixed partition: this search rewards clusters that see nothing. "
            "Fix the partition with `make_worst_pseudo_group_scorer(labeler)`.",
            PartitionSearchWarning,
        )


def _changes_the_partition(estimator, parameter):
    """Return whether a parameter belongs to a step before the last and can change what the step returns."""
    *path, name = parameter.split("__")
    while path and isinstance(estimator, Pipeline):
        last, head = estimator.steps[-1]
        if path[0] != last:
            return name not in WITHOUT_EFFECT
        estimator, path = head, path[1:]
    if isinstance(estimator, Pipeline):
        # A whole step put in another's place.
        return name in dict(estimator.steps[:-1])
    # An ExMapClassifier is all steps in one; its head is `strategy`.
    return (
        hasattr(estimator, "predict_groups") and [*path, name][0] != "strategy" and name not in WITHOUT_EFFECT
    )


def _warn_of_what_the_score_cannot_see(groups, y, trained):
    inside = groups >= 0
    pairs = set(zip(y[inside].tolist(), groups[inside].tolist(), strict=True))
    n_classes = len(np.unique(y[inside]))
    # With one class there is nothing to cross the clusters with.
    if len(y) > n_classes == len(pairs) > 1:
        warn(
            f"Each of the {n_classes} classes lies in one cluster on these {len(y)} samples: the "
            "pseudo-groups are the classes, and a shortcut cannot show. Look at the heatmaps, or use more "
            "clusters or another map size.",
            OneClusterWarning,
        )
    absent = np.setdiff1d(trained, groups)
    if absent.size:
        warn(
            f"{absent.size} of {len(trained)} pseudo-groups that were trained on have no sample among the "
            f"{len(y)} scored: {absent[:5].tolist()}. The worst is taken over the others. Split by class x "
            "pseudo-group: `cv=list(StratifiedKFold().split(X, pseudo_groups))`.",
            AbsentGroupWarning,
        )


def make_worst_group_scorer(
    *,
    metric=None,
    response_method="predict",
    greater_is_better=True,
    min_group_size=1,
    several=False,
    weighted=False,
):
    """Make a scorer of the group that an estimator serves worst, given the group labels.

    Parameters
    ----------
    metric : callable, default=None
        Metric of one group, as in `worst_group_score`. None is the accuracy.
    response_method : {"predict", "predict_proba", "decision_function"}, default="predict"
        What the metric is given as predictions.
    greater_is_better : bool, default=True
        False for losses; the score is then the negative worst loss.
    min_group_size : int, default=1
        Smallest group that can be the worst. Groups with fewer samples in the data being scored are left out.
    several : bool, default=False
        Whether to return a dict of scores, for ``GridSearchCV(..., refit="worst_group")``: ``worst_group``,
        ``macro_group`` (the mean of the groups' accuracies), ``accuracy`` and ``n_groups`` (how many groups
        were large enough).
    weighted : bool, default=False
        Whether the scorer asks scikit-learn for `sample_weight`.

    Returns
    -------
    scorer : callable
        Called as ``scorer(estimator, X, y, group_labels=...)``. It asks for `group_labels` by itself where
        scikit-learn's metadata routing is on.

    Raises
    ------
    ValueError
        If the options do not go together.

    See Also
    --------
    worst_group_accuracy_scorer : The one with default options.
    make_worst_pseudo_group_scorer : Needs no group labels.

    Notes
    -----
    The worst is taken over the groups present in the data being scored. A group absent from a fold cannot be
    the worst there: stratify the folds by group, ``cv=list(StratifiedKFold().split(X, group_labels))``.

    Examples
    --------
    >>> import numpy as np
    >>> import sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skexmap.metrics import make_worst_group_scorer
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=200)
    >>> X = rng.normal(size=(200, 3)) + y[:, None]
    >>> g = 2 * y + rng.randint(2, size=200)
    >>> scorer = make_worst_group_scorer(min_group_size=6, several=True)
    >>> search = GridSearchCV(LogisticRegression(), {"C": [0.01, 1]}, scoring=scorer, refit="worst_group")
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     search = search.fit(X, y, group_labels=g)
    >>> sorted(name for name in search.cv_results_ if name.startswith("mean_test"))
    ['mean_test_accuracy', 'mean_test_macro_group', 'mean_test_n_groups', 'mean_test_worst_group']
    """
    return WorstGroupScorer(
        metric=metric,
        response_method=response_method,
        greater_is_better=greater_is_better,
        min_group_size=min_group_size,
        several=several,
        weighted=weighted,
    )


def make_worst_pseudo_group_scorer(
    labeler=None,
    *,
    metric=None,
    response_method="predict",
    greater_is_better=True,
    min_group_size=6,
    several=False,
    weighted=False,
):
    """Make a scorer of the worst pseudo-group, which needs no group labels.

    Without a `labeler` the scorer asks the fitted pipeline itself for the clusters of the samples: it applies
    the steps before the last, reads the block ``cluster``, and crosses it with y. Such scores compare *only
    on one partition*: between heads behind the same heatmaps and clusters. A search that also varies heatmap
    or clusterer parameters rewards clusterings that see nothing, and is told so by a warning. With a fitted
    `labeler` every candidate is judged on the same pseudo-groups.

    Parameters
    ----------
    labeler : PseudoGroupLabeler, clusterer or Pipeline, default=None
        Fitted; gives every sample that is scored its pseudo-group (`predict_groups`) or its cluster
        (`predict`). It gets the same X as the estimator: where that is images, a pipeline of
        `HeatmapTransformer` and `PseudoGroupLabeler`.
    metric : callable, default=None
        Metric of one group, as in `worst_group_score`. None is the accuracy.
    response_method : {"predict", "predict_proba", "decision_function"}, default="predict"
        What the metric is given as predictions.
    greater_is_better : bool, default=True
        False for losses; the score is then the negative worst loss.
    min_group_size : int, default=6
        Smallest pseudo-group that can be the worst. Those with fewer samples in the data being scored are left
        out, because clusters have slivers and the accuracy on a handful of images is noise. With 1, every
        pseudo-group counts.
    several : bool, default=False
        Whether to return a dict of scores, for ``GridSearchCV(..., refit="worst_pseudo_group")``:
        ``worst_pseudo_group``, ``macro_pseudo_group`` (the mean of the pseudo-groups' accuracies),
        ``accuracy`` and ``n_pseudo_groups`` (how many were large enough).
    weighted : bool, default=False
        Whether the scorer asks scikit-learn for `sample_weight`.

    Returns
    -------
    scorer : callable
        Called as ``scorer(estimator, X, y)``.

    Raises
    ------
    ValueError
        If the options do not go together.
    TypeError
        If the labeler cannot label new samples.
    sklearn.exceptions.NotFittedError
        If the labeler is not fitted.

    See Also
    --------
    worst_pseudo_group_accuracy_scorer : The one with default options.

    Notes
    -----
    Samples of cluster -1 belong to no pseudo-group and are left out. A pseudo-group that is absent from a
    fold cannot be the worst there; if it has at least `min_group_size` training samples, an
    `AbsentGroupWarning` says so.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skexmap.groups import PseudoGroupLabeler
    >>> from skexmap.metrics import make_worst_pseudo_group_scorer
    >>> rng = np.random.RandomState(0)
    >>> y = rng.randint(2, size=400)
    >>> shortcut = np.where(rng.uniform(size=400) < 0.8, y, 1 - y)
    >>> X = np.column_stack([2 * y - 1, 8 * shortcut]) + rng.normal(size=(400, 2))
    >>> labeler = PseudoGroupLabeler(KMeans(2, random_state=0), merge_alpha=None).fit(X, y)
    >>> scorer = make_worst_pseudo_group_scorer(labeler)
    >>> for scoring in ("accuracy", scorer):
    ...     print(cross_val_score(LogisticRegression(), X, y, scoring=scoring).mean().round(2))
    0.86
    0.57
    """
    return WorstPseudoGroupScorer(
        labeler,
        metric=metric,
        response_method=response_method,
        greater_is_better=greater_is_better,
        min_group_size=min_group_size,
        several=several,
        weighted=weighted,
    )


#: Worst-group accuracy given ``group_labels``, which it asks for by itself; every group counts.
worst_group_accuracy_scorer = make_worst_group_scorer()

#: Worst-group accuracy over the pseudo-groups that the fitted pipeline forms; tiny ones do not count.
worst_pseudo_group_accuracy_scorer = make_worst_pseudo_group_scorer()
