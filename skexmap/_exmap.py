"""The method on one screen: heatmaps, clusters, pseudo-groups, a fair last layer."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from skexmap._blocks import CLUSTER, EMBEDDING, HEATMAP, make_blocks
from skexmap._torch import FrozenModelMixin
from skexmap._validation import (
    HasMethods,
    StrOptions,
    _fit_context,
    check_group_labels,
    parameters_named,
    seed_parts,
)
from skexmap.cluster import EigengapSpectralClustering
from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.groups import PseudoGroupLabeler
from skexmap.metrics import group_report
from skexmap.retraining import DFRClassifierCV, EIILLabeler
from skexmap.retraining._inputs import read_classes

# Recipe -> what it sets wherever a step has a parameter of that name. The steps' own defaults are the default recipe.
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
    recipe="default",
    memory=None,
    random_state=None,
):
    """Return the pipeline heatmaps -> clusterer -> retrained last layer: the steps of `ExMapClassifier`.

    Parameters
    ----------
    model : torch.nn.Module
        Trained classifier; never changed.
    heatmaps : HeatmapTransformer or None, default=None
        How to explain; a clone gets `model` and ``return_embedding=True``. None is the default.
    clusterer : clusterer or None, default=None
        How to cluster the heatmaps; `EigengapSpectralClustering` for None. It is wrapped in a `PseudoGroupLabeler`,
        unless it is one, or an `EIILLabeler`.
    scope : {"global", "local"}, default="global"
        Whether all heatmaps are clustered at once (G-ExMap) or those of each class (L-ExMap).
    strategy : classifier or None, default=None
        How to retrain; `DFRClassifierCV` for None.
    recipe : {"default", "published"}, default="default"
        ``"default"`` leaves the steps as they are. ``"published"`` is the paper's method: it sets
        ``evidence="signed"``, ``merge_alpha=None`` and ``tuning="published"`` in every step that has the parameter.
    memory : str, joblib.Memory or None, default=None
        Caches fitted steps, as in `sklearn.pipeline.Pipeline`.
    random_state : int, RandomState instance or None, default=None
        Seeds the steps whose own `random_state` is None.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        With the steps ``heatmaps``, ``clusterer`` and ``strategy``.

    Raises
    ------
    ValueError
        If the recipe or the scope is unknown.

    See Also
    --------
    ExMapClassifier : The same in one estimator, whose `predict` computes no heatmaps.

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
    steps = _steps(model, heatmaps, clusterer, scope, strategy, recipe, random_state)
    return Pipeline(list(zip(("heatmaps", "clusterer", "strategy"), steps, strict=True)), memory=memory)


def _steps(model, heatmaps, clusterer, scope, strategy, recipe, random_state):
    """Return the transformer, the labeler and the strategy, unfitted: what both front doors are made of."""
    for name, value, known in (("recipe", recipe, RECIPES), ("scope", scope, ("global", "local"))):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {sorted(known)}, got {value!r}.")
    heatmaps = HeatmapTransformer() if heatmaps is None else clone(heatmaps)
    heatmaps.set_params(model=model, return_embedding=True).set_output(transform="default")
    labeler = EigengapSpectralClustering() if clusterer is None else clone(clusterer)
    if not isinstance(labeler, PseudoGroupLabeler | EIILLabeler):
        labeler = PseudoGroupLabeler(labeler, scope=scope)
    if isinstance(labeler, PseudoGroupLabeler) and labeler.clusterer is None:
        labeler.set_params(clusterer=EigengapSpectralClustering())
    strategy = DFRClassifierCV() if strategy is None else clone(strategy)
    for part in (heatmaps, labeler, strategy):
        for name, value in RECIPES[recipe].items():
            part.set_params(**dict.fromkeys(parameters_named(part, name), value))
    seed_parts(random_state, labeler, strategy)
    return heatmaps, labeler, strategy


def _strategy_has(method):
    """Return whether the strategy, fitted or not, has a method."""

    def check(self):
        strategy = getattr(self, "strategy_", self.strategy)
        return strategy is None or hasattr(strategy, method)

    return check


class ExMapClassifier(FrozenModelMixin, ClassifierMixin, BaseEstimator):
    """Retrain the last layer of a frozen classifier so that no pseudo-group is left behind (ExMap [1]_).

    `fit` explains the model's prediction for every image by a relevance heatmap, clusters the heatmaps, merges the
    clusters on which the model behaves alike, crosses them with the classes, and retrains the last layer on these
    pseudo-groups. No group labels are needed.

    Parameters
    ----------
    model : torch.nn.Module
        Trained classifier that returns logits; never changed.
    heatmaps : HeatmapTransformer or None, default=None
        How to explain; `model` is set to this one and `return_embedding` switched on. None for the default.
    clusterer : clusterer or None, default=None
        How to cluster the heatmaps; `EigengapSpectralClustering` for None. A `PseudoGroupLabeler` is taken as it is,
        and so is an `EIILLabeler`. Where it looks at the embeddings (an `EIILLabeler`, ``block="embedding"``), no
        heatmap is computed unless `keep_heatmaps` asks for them.
    scope : {"global", "local"}, default="global"
        Whether all heatmaps are clustered at once (G-ExMap) or those of each class (L-ExMap).
    strategy : classifier or None, default=None
        How to retrain: any estimator that reads the blocks ``embedding`` and ``cluster``, a search over one included;
        `DFRClassifierCV` for None.
    recipe : {"default", "published"}, default="default"
        ``"default"`` leaves the steps as they are. ``"published"`` is the paper's method: it sets
        ``evidence="signed"``, ``merge_alpha=None`` and ``tuning="published"`` in every step that has the parameter.
    keep_heatmaps : bool, default=False
        Whether to keep the heatmaps as `heatmaps_`.
    random_state : int, RandomState instance or None, default=None
        Seeds the clusterer and the strategy where their own `random_state` is None.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in y.
    strategy_ : classifier
        The retrained last layer.
    group_labels_ : ndarray of shape (n_samples,)
        Pseudo-group of each training image, ``class * n_clusters + cluster`` (or the labels that were passed).
    cluster_labels_ : ndarray of shape (n_samples,)
        Cluster of each training image; missing when group labels were passed.
    embeddings_ : ndarray of shape (n_samples, n_embedding_features)
        What the last layer sees.
    heatmaps_ : ndarray of shape (n_samples, channels, size, size)
        With `keep_heatmaps`.
    labeler_ : PseudoGroupLabeler or EIILLabeler
        The fitted pseudo-groups; missing when group labels were passed.
    transformer_ : HeatmapTransformer or EmbeddingTransformer
        What the model was looked at with.
    report_ : skexmap.metrics.GroupReport
        Accuracy of the *retrained* last layer on each group of the images it was fitted on.
    n_features_in_ : int
        Number of values in one image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the pixels, where X is a data frame with string columns.

    See Also
    --------
    make_exmap_pipeline : The same steps as a scikit-learn pipeline, to search over all of them.
    skexmap.export_model : The debiased model as a torch module.

    Notes
    -----
    Fit it on held-out images where you have them: on the training set, a model that has memorised its images gives
    embeddings that separate the classes perfectly, and reweighting groups changes little. Use the training set where
    the held-out set has hardly any image of the groups that the shortcut fails.

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

    # What is passed to a search goes to its scorer, not here, unless the user requests it.
    __metadata_request__fit = {"group_labels": False}

    _parameter_constraints = {
        "model": "no_validation",
        "heatmaps": [HasMethods(["fit", "transform"]), None],
        "clusterer": [HasMethods(["fit"]), None],
        "scope": [StrOptions({"global", "local"})],
        "strategy": [HasMethods(["fit", "predict"]), None],
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
        recipe="default",
        keep_heatmaps=False,
        random_state=None,
    ):
        self.model = model
        self.heatmaps = heatmaps
        self.clusterer = clusterer
        self.scope = scope
        self.strategy = strategy
        self.recipe = recipe
        self.keep_heatmaps = keep_heatmaps
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, group_labels=None):
        """Find the pseudo-groups and retrain the last layer on them.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), or paths or indices of shape (n_samples,)
            Images, or what the `load` of `heatmaps` turns into them.
        y : array-like of shape (n_samples,)
            Labels.
        group_labels : array-like of shape (n_samples,) or None, default=None
            True groups, where they are known: then no heatmap is computed, and the strategy is fitted on them.

        Returns
        -------
        self : ExMapClassifier
        """
        # Before any heatmap is computed: an unusable y is found out in no time.
        self.classes_, class_codes = read_classes(self, y, _num_samples(X))
        y = self.classes_[class_codes]
        heatmaps, labeler, strategy = _steps(
            self.model,
            self.heatmaps,
            self.clusterer,
            self.scope,
            self.strategy,
            self.recipe,
            self.random_state,
        )
        # Nobody else looks at these if no heatmap is computed.
        if hasattr(heatmaps, "_validate_params"):
            heatmaps._validate_params()
        # What only one of the two ways below learns must not outlive a refit that went the other way.
        for name in ("labeler_", "cluster_labels_", "heatmaps_"):
            vars(self).pop(name, None)

        if group_labels is None:
            explained = self.keep_heatmaps or _clusters_heatmaps(labeler)
            self.transformer_ = heatmaps if explained else _embeddings_like(heatmaps, return_predicted=True)
            blocks = self.transformer_.fit_transform(X, y)
            labeler.fit(blocks, y)
            self.embeddings_ = blocks[EMBEDDING]
            self.labeler_, self.group_labels_ = labeler, labeler.group_labels_
            by_clusters = isinstance(labeler, PseudoGroupLabeler)
            self.cluster_labels_ = labeler.cluster_labels_ if by_clusters else labeler.environment_labels_
            if self.keep_heatmaps:
                self.heatmaps_ = blocks[HEATMAP]
            clusters = self.cluster_labels_
            if by_clusters and labeler.scope == "local":
                clusters = _in_own_class(
                    clusters, np.searchsorted(labeler.classes_, y), len(labeler.classes_)
                )
            blocks = make_blocks(**{EMBEDDING: self.embeddings_, CLUSTER: clusters})
            self.strategy_ = _fit_strategy(strategy, blocks, y)
        else:
            self.group_labels_ = check_group_labels(group_labels, len(y))
            self.transformer_ = _embeddings_like(heatmaps)
            self.embeddings_ = self.transformer_.fit_transform(X, y)
            self.strategy_ = _fit_strategy(strategy, self.embeddings_, y, group_labels=self.group_labels_)

        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.transformer_, name):
                setattr(self, name, getattr(self.transformer_, name))
        predicted = self.strategy_.predict(self.embeddings_)
        self.report_ = group_report(y, predicted, group_labels=self.group_labels_)
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
            If the classifier was fitted on given group labels.
        """
        check_is_fitted(self)
        if not hasattr(self, "labeler_"):
            raise ValueError(
                "The classifier was fitted on given group labels: it has no pseudo-groups to predict."
            )
        return self.labeler_.predict_groups(self.transformer_.transform(X), y)

    def predict(self, X):
        """Return the predicted classes, after one forward pass of the model.

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
        """Return the class probabilities, after one forward pass of the model.

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
        """Return the decision scores, after one forward pass of the model.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        embeddings = self._embed(X)
        return self.strategy_.decision_function(embeddings)

    def _embed(self, X):
        check_is_fitted(self)
        return _embeddings_like(self.transformer_, fitted=True).transform(X)


def _clusters_heatmaps(labeler):
    """Return whether a labeler looks at heatmaps; one that looks at the embeddings spares computing them."""
    return isinstance(labeler, PseudoGroupLabeler) and labeler.block == HEATMAP


def _embeddings_like(transformer, *, fitted=False, **params):
    """Return the EmbeddingTransformer that loads and runs as a HeatmapTransformer does."""
    if isinstance(transformer, EmbeddingTransformer):
        return transformer
    shared = ("load", "batch_size", "device", "num_workers", "verbose")
    embeddings = EmbeddingTransformer(
        transformer.model, **{name: getattr(transformer, name) for name in shared}, **params
    )
    embeddings.set_output(transform="default")
    return embeddings.adopt(transformer) if fitted else embeddings


def _fit_strategy(strategy, X, y, **groups):
    """Fit a strategy; where it cannot take what strategies are given, say what that is."""
    try:
        return strategy.fit(X, y, **groups)
    except TypeError as error:
        given = "embeddings and `group_labels`" if groups else f"the blocks {', '.join(X.dtype.names)}"
        raise TypeError(
            f"The strategy {type(strategy).__name__} could not be fitted: {error}. It is given {given}, which the "
            "classifiers of skexmap.retraining read; ERMClassifier is the logistic regression among them."
        ) from error


def _in_own_class(cluster_labels, class_codes, n_classes):
    """Return clusters that were formed inside each class with a column per class: whoever knows y picks its entry."""
    clusters = np.full((len(cluster_labels), n_classes), -1)
    clusters[np.arange(len(clusters)), class_codes] = cluster_labels
    return clusters
