"""The whole method: heatmaps, clusters, pseudo-groups and a retrained last layer."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from skexmap._blocks import CLUSTER, EMBEDDING, HEATMAP, make_blocks
from skexmap._group_labels import decode_groups, names_of_groups
from skexmap._torch import FrozenModelMixin
from skexmap._validation import (
    HasMethods,
    StrOptions,
    _fit_context,
    check_group_labels,
    codes_of_known_classes,
    parameters_named,
    seed_parts,
)
from skexmap.cluster import EigengapSpectralClustering
from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import group_report
from skexmap.retraining import DFRClassifierCV, EIILLabeler
from skexmap.retraining._inputs import check_classes

# The default of each step, for None.
DEFAULT_STEPS = {
    "heatmaps": HeatmapTransformer(),
    "clusterer": PseudoGroupLabeler(EigengapSpectralClustering()),
    "strategy": DFRClassifierCV(),
}
# Recipe -> the values that it sets in every step with a parameter of that name. "default" keeps the steps' defaults.
RECIPES = {
    "default": {},
    "published": {"evidence": "signed", "merge_alpha": None, "tuning": "published"},
}


def make_exmap_pipeline(
    model,
    *,
    heatmaps=None,
    clusterer=None,
    scope="global",
    strategy=None,
    classes=None,
    recipe="default",
    memory=None,
    random_state=None,
) -> Pipeline:
    """Return the steps of `ExMapClassifier` as a pipeline: heatmaps -> clusterer -> retrained last layer.

    Parameters
    ----------
    model, heatmaps, clusterer, scope, strategy, classes, recipe, random_state
        As in `ExMapClassifier`.
    memory : str, joblib.Memory or None, default=None
        Caches fitted steps, as in `sklearn.pipeline.Pipeline`. The heatmaps of images that are only predicted are not
        cached by it: for these, pass ``heatmaps=HeatmapTransformer(cache=...)``, which caches each image.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        With the steps ``heatmaps``, ``clusterer`` and ``strategy``.

    Raises
    ------
    ValueError
        If a parameter has the wrong type, or if the recipe or the scope is unknown.

    See Also
    --------
    ExMapClassifier : The same method in one estimator, whose `predict` computes no heatmaps.

    Notes
    -----
    The heatmap step returns a structured array with the blocks ``embedding``, ``heatmap`` and ``predicted``, which
    scikit-learn's estimators cannot read. If your own pipeline raises "Cannot cast array data from dtype", wrap the
    clusterer in a `PseudoGroupLabeler`, and use a classifier of `skexmap.retraining` as the last step, for example
    `ERMClassifier`, which is a logistic regression.

    Examples
    --------
    >>> import torch
    >>> from skexmap import HeatmapTransformer, make_exmap_pipeline
    >>> from skexmap.datasets import make_colored_digits
    >>> digits = make_colored_digits(random_state=0)
    >>> X, y = digits.validation.data[:300], digits.validation.target[:300]
    >>> _ = torch.manual_seed(3)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    ... )
    >>> pipe = make_exmap_pipeline(net, heatmaps=HeatmapTransformer(size=14), random_state=0)
    >>> pipe.fit(X, y).predict(X).shape
    (300,)
    """
    classifier = ExMapClassifier(
        model,
        heatmaps=heatmaps,
        clusterer=clusterer,
        scope=scope,
        strategy=strategy,
        classes=classes,
        recipe=recipe,
        random_state=random_state,
    )
    classifier._validate_params()
    steps = zip(("heatmaps", "clusterer", "strategy"), classifier._steps(), strict=True)
    return Pipeline(list(steps), memory=memory)


def _strategy_has(method):
    """Return whether the strategy, fitted or not, has a method."""

    def check(self):
        strategy = getattr(self, "strategy_", self.strategy)
        return strategy is None or hasattr(strategy, method)

    return check


class ExMapClassifier(FrozenModelMixin, ClassifierMixin, BaseEstimator):
    """Retrain the last layer of a frozen classifier to be accurate on every pseudo-group (ExMap [1]_).

    `fit` explains the model's prediction for every image by a relevance heatmap and clusters the heatmaps. It merges
    clusters on which the model behaves alike, crosses the clusters with the classes, and retrains the last layer on
    these pseudo-groups. No group labels are needed.

    Parameters
    ----------
    model : torch.nn.Module
        Trained classifier that returns logits; it is never changed.
    heatmaps : HeatmapTransformer or None, default=None
        How to explain. A clone gets `model` and ``return_embedding=True``. If None, `HeatmapTransformer` with defaults.
    clusterer : clusterer or None, default=None
        How to cluster the heatmaps. It is wrapped in a `PseudoGroupLabeler` unless it is a `PseudoGroupLabeler` or an
        `EIILLabeler`. If None, ``PseudoGroupLabeler(EigengapSpectralClustering())``. A labeler that reads embeddings
        (an `EIILLabeler`, or one with ``block="embedding"``) needs no heatmaps, so none are computed.
    scope : {"global", "local"}, default="global"
        Whether to cluster all heatmaps at once (G-ExMap) or those of each class separately (L-ExMap). ``"local"`` also
        holds for a `PseudoGroupLabeler` in `clusterer`.
    strategy : classifier or None, default=None
        How to retrain: any estimator that reads the blocks ``embedding`` and ``cluster``, or a search over one. If
        None, `DFRClassifierCV`.
    classes : array-like of shape (n_logits,) or None, default=None
        Class of each logit (two classes for one logit). If None, it is determined as in `HeatmapTransformer`.
    recipe : {"default", "published"}, default="default"
        ``"default"`` does not change the steps. ``"published"`` is the paper's method: it sets ``evidence="signed"``,
        ``merge_alpha=None`` and ``tuning="published"`` in every step that has the parameter.
    keep_heatmaps : bool, default=False
        Whether to keep the heatmaps as `heatmaps_`. They are then computed for every labeler.
    random_state : int, RandomState instance or None, default=None
        Seeds the clusterer and the strategy if their `random_state` is None.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in y.
    strategy_ : classifier
        The retrained last layer.
    group_labels_ : ndarray of shape (n_samples,)
        Pseudo-group of each training image, ``class * n_clusters + cluster``, or the labels passed to `fit`.
    cluster_labels_ : ndarray of shape (n_samples,)
        Cluster of each training image; absent if group labels were passed.
    embeddings_ : ndarray of shape (n_samples, n_embedding_features)
        Input of the last layer.
    heatmaps_ : ndarray of shape (n_samples, channels, size, size)
        Heatmaps of the training images; only with `keep_heatmaps`.
    labeler_ : PseudoGroupLabeler or EIILLabeler
        The fitted labeler; absent if group labels were passed.
    transformer_ : HeatmapTransformer or EmbeddingTransformer
        The fitted transformer of the images.
    report_ : result of `skexmap.metrics.group_report`
        Accuracy of the *retrained* last layer on each group of the images it was fitted on. Pseudo-groups have the
        names of their class and cluster.
    n_features_in_ : int
        Number of values in one image.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the pixels, if X is a data frame with string columns.

    See Also
    --------
    make_exmap_pipeline : The same steps as a scikit-learn pipeline, which can cache them.
    skexmap.export_model : The debiased model as a torch module.

    Notes
    -----
    Fit it on held-out images if you have them. On the training set, a model that has memorized its images gives
    embeddings that separate the classes perfectly, and reweighting groups changes little. Use the training set if the
    held-out set has hardly any images of the groups on which the shortcut fails.

    The model is read at every call. If its weights are changed after `fit`, `predict` uses the new ones, although the
    last layer was retrained with the old ones. To keep the debiased model as it is, call `skexmap.export_model`, or
    deep-copy the classifier.

    A search may set the parameters of steps that are None: ``{"strategy__min_group_size": [5, 20]}`` puts a
    `DFRClassifierCV` with each value in place of None, as `set_params` does.

    References
    ----------
    .. [1] Chakraborty, Sletten, Kampffmeyer: ExMap: Leveraging Explainability Heatmaps for Unsupervised Group
       Robustness to Spurious Correlations. CVPR 2024, arXiv:2403.13870.

    Examples
    --------
    >>> import torch
    >>> from skexmap import ExMapClassifier, HeatmapTransformer
    >>> from skexmap.datasets import make_colored_digits
    >>> digits = make_colored_digits(random_state=0)
    >>> X, y = digits.validation.data[:300], digits.validation.target[:300]
    >>> _ = torch.manual_seed(3)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 5, stride=3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    ... )
    >>> classifier = ExMapClassifier(net, heatmaps=HeatmapTransformer(size=14)).fit(X, y)
    >>> classifier.predict(X).shape, classifier.group_labels_.shape
    ((300,), (300,))
    """

    # Group labels that are passed to a search go to its scorer, not to `fit`, unless the user requests it.
    __metadata_request__fit = {"group_labels": False}

    _parameter_constraints: dict = {
        "model": "no_validation",
        "heatmaps": [HeatmapTransformer, None],
        "clusterer": [HasMethods(["fit"]), None],
        "scope": [StrOptions({"global", "local"})],
        "strategy": [HasMethods(["fit", "predict"]), None],
        "classes": ["array-like", None],
        "recipe": [StrOptions(set(RECIPES))],
        "keep_heatmaps": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        model=None,
        *,
        heatmaps=None,
        clusterer=None,
        scope="global",
        strategy=None,
        classes=None,
        recipe="default",
        keep_heatmaps=False,
        random_state=None,
    ):
        self.model = model
        self.heatmaps = heatmaps
        self.clusterer = clusterer
        self.scope = scope
        self.strategy = strategy
        self.classes = classes
        self.recipe = recipe
        self.keep_heatmaps = keep_heatmaps
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, group_labels=None):
        """Find the pseudo-groups and retrain the last layer on them.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), or paths or indices of shape (n_samples,)
            Images, or what the `load` of `heatmaps` turns into them. "Your own images" in ``docs/datasets.md`` lists
            all forms of X.
        y : array-like of shape (n_samples,)
            Labels.
        group_labels : array-like of shape (n_samples,) or None, default=None
            True groups, if they are known. Then no heatmaps are computed, and the strategy is fitted on these groups.

        Returns
        -------
        self : ExMapClassifier
        """
        # Validate y first, because computing heatmaps is expensive.
        self.classes_, class_codes = check_classes(self, y, _num_samples(X))
        y = self.classes_[class_codes]
        heatmaps, labeler, strategy = self._steps()
        # If no heatmaps are computed, nothing else validates these parameters.
        heatmaps._validate_params()
        # Drop attributes of a previous fit that this one will not set.
        for name in ("labeler_", "cluster_labels_", "heatmaps_"):
            vars(self).pop(name, None)

        if group_labels is None:
            reads_heatmaps = isinstance(labeler, PseudoGroupLabeler) and labeler.block == HEATMAP
            if not (reads_heatmaps or self.keep_heatmaps):
                heatmaps = embeddings_like(heatmaps, return_predicted=True)
            self.transformer_ = heatmaps
            blocks = heatmaps.fit_transform(X, y)
            self.labeler_ = labeler.fit(blocks, y)
            self.group_labels_ = labeler.group_labels_
            of_environments = isinstance(labeler, EIILLabeler)
            self.cluster_labels_ = labeler.environment_labels_ if of_environments else labeler.cluster_labels_
            # A copy, because a view would keep the heatmaps in memory.
            self.embeddings_ = np.ascontiguousarray(blocks[EMBEDDING])
            if self.keep_heatmaps:
                self.heatmaps_ = blocks[HEATMAP]
            given = make_blocks(**{EMBEDDING: self.embeddings_, CLUSTER: self.cluster_labels_})
            self.strategy_ = _fit_strategy(strategy, given, y)
        else:
            self.group_labels_ = check_group_labels(group_labels, len(y))
            self.transformer_ = embeddings_like(heatmaps)
            self.embeddings_ = self.transformer_.fit_transform(X, y)
            self.strategy_ = _fit_strategy(strategy, self.embeddings_, y, group_labels=self.group_labels_)

        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.transformer_, name):
                setattr(self, name, getattr(self.transformer_, name))
        self.report_ = self._report(self.strategy_, y, self.group_labels_)
        return self

    def refit_strategy(self, y):
        """Refit the last layer, after clusters of `labeler_` were merged or dropped by hand.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Labels of the images that were passed to `fit`.

        Returns
        -------
        self : ExMapClassifier

        Raises
        ------
        ValueError
            If the classifier has no `PseudoGroupLabeler`, or y are not the labels of `fit`.
        """
        check_is_fitted(self)
        if not isinstance(getattr(self, "labeler_", None), PseudoGroupLabeler):
            raise ValueError(
                "The classifier has no PseudoGroupLabeler whose clusters could have been changed."
            )
        class_codes = codes_of_known_classes(y, self.classes_, len(self.embeddings_))
        fitted_codes, _ = decode_groups(self.labeler_.group_labels_, self.labeler_.n_clusters_)
        n_others = int(np.sum((fitted_codes >= 0) & (fitted_codes != class_codes)))
        if n_others:
            raise ValueError(
                f"{n_others} of {len(class_codes)} labels in y are not those of `fit`. Pass the same labels, in "
                "the same order."
            )
        y = self.classes_[class_codes]
        clusters = self.labeler_.cluster_labels_
        blocks = make_blocks(**{EMBEDDING: self.embeddings_, CLUSTER: clusters})
        strategy, group_labels = _fit_strategy(clone(self.strategy_), blocks, y), self.labeler_.group_labels_
        report = self._report(strategy, y, group_labels)
        # All at once: if a step above fails, the last fit stays as it is.
        self.strategy_, self.report_ = strategy, report
        self.cluster_labels_, self.group_labels_ = clusters, group_labels
        return self

    def predict_groups(self, X, y):
        """Return the pseudo-groups of new images.

        Parameters
        ----------
        X : as for `fit`
        y : array-like of shape (n_samples,)
            Their labels.

        Returns
        -------
        group_labels : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If group labels were passed to `fit`.
        """
        check_is_fitted(self)
        if not hasattr(self, "labeler_"):
            raise ValueError(
                "The classifier was fitted on given group labels: it has no pseudo-groups to predict."
            )
        return self.labeler_.predict_groups(self.transformer_.transform(X), y)

    def predict(self, X):
        """Return the predicted classes, from one forward pass of the model.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        embeddings = self._embed(X)
        return self.strategy_.predict(embeddings)

    @available_if(_strategy_has("predict_proba"))
    def predict_proba(self, X):
        """Return the class probabilities, from one forward pass of the model.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        embeddings = self._embed(X)
        return self.strategy_.predict_proba(embeddings)

    @available_if(_strategy_has("decision_function"))
    def decision_function(self, X):
        """Return the decision scores, from one forward pass of the model.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        embeddings = self._embed(X)
        return self.strategy_.decision_function(embeddings)

    def set_params(self, **params):
        """Set parameters, also of steps that are None.

        Parameters
        ----------
        **params : dict
            Values by name. A nested name, such as ``strategy__min_group_size``, replaces a step that is None by its
            default, and sets its parameter.

        Returns
        -------
        self : ExMapClassifier
        """
        nested = {name.partition("__")[0] for name in params if "__" in name}
        for step in nested & set(DEFAULT_STEPS):
            if params.get(step, getattr(self, step)) is None:
                params[step] = clone(DEFAULT_STEPS[step])
        return super().set_params(**params)

    def _steps(self):
        """Return the unfitted transformer, labeler and strategy."""
        heatmaps, labeler, strategy = (
            clone(default if getattr(self, step) is None else getattr(self, step))
            for step, default in DEFAULT_STEPS.items()
        )
        heatmaps.set_params(model=self.model, return_embedding=True).set_output(transform="default")
        if self.classes is not None:
            heatmaps.set_params(classes=self.classes)
        if not isinstance(labeler, PseudoGroupLabeler | EIILLabeler):
            labeler = PseudoGroupLabeler(labeler)
        if self.scope == "local":
            labeler.set_params(scope="local")
        if isinstance(labeler, PseudoGroupLabeler) and labeler.clusterer is None:
            labeler.set_params(clusterer=EigengapSpectralClustering())
        for part in (heatmaps, labeler, strategy):
            for name, value in RECIPES[self.recipe].items():
                part.set_params(**dict.fromkeys(parameters_named(part, name), value))
        seed_parts(self.random_state, labeler, strategy)
        return heatmaps, labeler, strategy

    def _report(self, strategy, y, group_labels):
        """Return the accuracies of a strategy, with pseudo-groups named by class and cluster."""
        names, labeler = None, getattr(self, "labeler_", None)
        if labeler is not None:
            clusters = getattr(labeler, "cluster_labels_", self.cluster_labels_)
            names = names_of_groups(y, clusters, group_labels, getattr(labeler, "cluster_names_", {}))
        return group_report(y, strategy.predict(self.embeddings_), group_labels=group_labels, names=names)

    def _embed(self, X):
        check_is_fitted(self)
        return embeddings_like(self.transformer_, fitted=True).transform(X)


def embeddings_like(transformer, *, fitted=False, **params):
    """Return an EmbeddingTransformer that loads and runs images like a HeatmapTransformer."""
    if isinstance(transformer, EmbeddingTransformer):
        return transformer
    shared = ("classes", "load", "batch_size", "device", "n_jobs", "verbose")
    embeddings = EmbeddingTransformer(
        transformer.model, **{name: getattr(transformer, name) for name in shared}, **params
    )
    embeddings.set_output(transform="default")
    return embeddings._copy_fitted(transformer) if fitted else embeddings


def _fit_strategy(strategy, X, y, **groups):
    """Fit a strategy; if it does not accept the blocks, raise an error that describes them."""
    try:
        return strategy.fit(X, y, **groups)
    except TypeError as error:
        given = "embeddings and `group_labels`" if groups else f"the blocks {', '.join(X.dtype.names)}"
        raise TypeError(
            f"The strategy {type(strategy).__name__} could not be fitted: {error}. It must accept {given}, as the "
            "classifiers of skexmap.retraining do. ERMClassifier is a logistic regression that does."
        ) from error
