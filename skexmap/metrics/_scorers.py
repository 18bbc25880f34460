"""Scorers for model selection by the worst group, or by the worst pseudo-group of a fixed partition."""

from functools import partial
from numbers import Integral

from sklearn.pipeline import Pipeline
from sklearn.utils import check_scalar
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import CLUSTER, block_names, get_block
from skexmap._group_labels import class_by_cluster
from skexmap._validation import codes_of_known_classes
from skexmap.metrics._group_metrics import worst_group_accuracy

PRECOMPUTED = "precomputed"


class WorstGroupAccuracyScorer:
    """Scorer for the accuracy of the worst group, with given group labels.

    The only instance is `worst_group_accuracy_scorer`. It is called as ``scorer(estimator, X, y, group_labels=...)``.
    If scikit-learn's metadata routing is on, searches and `cross_validate` pass `group_labels` to it.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.metrics import worst_group_accuracy_scorer
    >>> X, y, shortcut = make_shortcut_features(agreement=0.95, random_state=0)
    >>> model, params = LogisticRegression(), {"group_labels": 2 * y + shortcut}
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = cross_val_score(model, X, y, scoring=worst_group_accuracy_scorer, params=params)
    >>> print(cross_val_score(model, X, y).mean().round(1), scores.mean().round(1))
    1.0 0.5
    """

    def __call__(self, estimator, X, y, *, group_labels=None):
        """Return the accuracy of the worst group."""
        if group_labels is None:
            raise ValueError(
                "`worst_group_accuracy_scorer` got no `group_labels`. Switch metadata routing on with "
                "`sklearn.set_config(enable_metadata_routing=True)` and pass them to the search: "
                "`search.fit(X, y, group_labels=...)`. Without group labels, use `make_worst_pseudo_group_scorer`."
            )
        return worst_group_accuracy(y, estimator.predict(X), group_labels=group_labels)

    def get_metadata_routing(self):
        """Return the request for `group_labels`."""
        # `make_scorer(...).set_score_request(...)` does the same, but raises while routing is off.
        request = MetadataRequest(owner="worst_group_accuracy_scorer")
        request.score.add_request(param="group_labels", alias=True)
        return request

    def __repr__(self):
        return "worst_group_accuracy_scorer"


worst_group_accuracy_scorer = WorstGroupAccuracyScorer()


def make_worst_pseudo_group_scorer(labeler, *, min_group_size=6):
    """Make a scorer for the accuracy of the worst pseudo-group, which needs no group labels.

    All candidates of a search must be scored on the same pseudo-groups, so the labeler must already be fitted.

    Parameters
    ----------
    labeler : fitted labeler, Pipeline that ends in one, or "precomputed"
        It must have `predict_groups(X, y)`, like `PseudoGroupLabeler`, `EIILLabeler` and `ExMapClassifier`. It gets the
        same X as the estimator that is scored: if X holds images, pass a pipeline of `HeatmapTransformer` and
        `PseudoGroupLabeler`. ``"precomputed"`` reads the clusters from the block ``cluster`` of X, which is present if
        only the last step is searched; the pseudo-groups are class x cluster.
    min_group_size : int, default=6
        Smallest pseudo-group that can be the worst. Those with fewer samples in the scored data are left out, because
        the accuracy on a handful of images is noise. With 1, every pseudo-group counts.

    Returns
    -------
    scorer : callable
        Called as ``scorer(estimator, X, y)``. Samples of pseudo-group -1 are left out.

    Raises
    ------
    ValueError, TypeError, sklearn.exceptions.NotFittedError
        If `min_group_size` is below 1; if the labeler has no `predict_groups`; if it is not fitted.

    See Also
    --------
    worst_group_accuracy_scorer : For given group labels.

    Notes
    -----
    A pseudo-group that is absent from a fold cannot be the worst there. Stratify the folds by pseudo-group:
    ``cv=list(StratifiedKFold().split(X, pseudo_groups))``.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skexmap.datasets import make_shortcut_features
    >>> from skexmap.groups import PseudoGroupLabeler
    >>> from skexmap.metrics import make_worst_pseudo_group_scorer
    >>> X, y, shortcut = make_shortcut_features(agreement=0.8, random_state=0)
    >>> labeler = PseudoGroupLabeler(KMeans(2, random_state=0), merge_alpha=None).fit(X, y)
    >>> scorer = make_worst_pseudo_group_scorer(labeler)
    >>> for scoring in ("accuracy", scorer):
    ...     print(cross_val_score(LogisticRegression(), X, y, scoring=scoring).mean().round(2))
    0.93
    0.77
    """
    check_scalar(min_group_size, "min_group_size", Integral, min_val=1)
    if labeler != PRECOMPUTED:
        last = labeler[-1] if isinstance(labeler, Pipeline) else labeler
        if not hasattr(last, "predict_groups"):
            raise TypeError(
                f"`labeler` must have `predict_groups`, or be a Pipeline that ends in a labeler, or {PRECOMPUTED!r}; "
                f"{type(last).__name__} has no `predict_groups`. Wrap a clusterer in a PseudoGroupLabeler."
            )
        check_is_fitted(last)
    return partial(_worst_pseudo_group_accuracy, labeler=labeler, min_group_size=min_group_size)


def _worst_pseudo_group_accuracy(estimator, X, y, *, labeler, min_group_size):
    """Score a fitted estimator on the pseudo-groups of a labeler (a module-level function, so it can be pickled)."""
    if labeler == PRECOMPUTED:
        groups = _groups_in_blocks(X, y, estimator.classes_)
    elif isinstance(labeler, Pipeline):
        groups = labeler[-1].predict_groups(labeler[:-1].transform(X), y)
    else:
        groups = labeler.predict_groups(X, y)
    return worst_group_accuracy(y, estimator.predict(X), group_labels=groups, min_group_size=min_group_size)


def _groups_in_blocks(X, y, classes):
    """Return class x cluster, with the clusters in X."""
    if CLUSTER not in block_names(X):
        raise ValueError(
            f"A scorer with labeler={PRECOMPUTED!r} needs the block 'cluster' in X, and it is missing. Transform once, "
            "`blocks = pipeline[:-1].fit_transform(X, y)`, and search over the last step, or pass a fitted labeler."
        )
    clusters = get_block(X, CLUSTER, required_by=None)
    return class_by_cluster(clusters, classes, codes_of_known_classes(y, classes, len(clusters)))
