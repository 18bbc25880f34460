"""The debiased model as a torch module."""

import copy

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skexmap._torch import copy_of_model
from skexmap.cluster import EigengapSpectralClustering
from skexmap.features._capture import set_head_weights
from skexmap.groups import PseudoGroupLabeler
from skexmap.retraining import EIILLabeler

# Logit of a class without retraining data. It is far below any other, and finite for softmax and ONNX.
ABSENT_CLASS_LOGIT = -1e4
# Steps that only add groups to the embedding.
KEEP_THE_EMBEDDING = (EigengapSpectralClustering, PseudoGroupLabeler, EIILLabeler)


def export_model(classifier, *, classes=None) -> torch.nn.Module:
    """Return a copy of the user's model whose last dense layer has the retrained weights.

    Parameters
    ----------
    classifier : ExMapClassifier, Pipeline, or a search over one of them
        Fitted estimator with a linear strategy (one that has `coef_` and `intercept_`).
    classes : array-like of shape (n_logits,) or None, default=None
        Class of each logit of the model (two classes for one logit). If None, the `classes_` of the transformer.

    Returns
    -------
    model : torch.nn.Module
        The model, in evaluation mode. Its `state_dict` can be loaded into the original architecture, except that a head
        without a bias now has one. A compiled model is exported as its original.

    Raises
    ------
    ValueError
        If the strategy is not linear, if its classes cannot be matched to the logits, if the logits are not the last
        layer's output up to a constant factor and shift, or if a step of the pipeline changes the embedding before the
        strategy.

    Notes
    -----
    With one logit, the logit is the `decision_function`. With two logits and two classes, the *difference* of the
    logits is the `decision_function`. Each logit gets half of it, so the softmax is `predict_proba`. With more
    classes, logit k is column k of the `decision_function`. One-versus-rest probabilities are then not the softmax of
    the logits, but the predicted class is the same. A class without retraining data gets a row of zeros with a bias of
    -10,000, so it is never predicted.

    Examples
    --------
    >>> import torch
    >>> from skexmap import DFRClassifier, EmbeddingTransformer, export_model
    >>> from sklearn.pipeline import make_pipeline
    >>> _ = torch.manual_seed(3)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> X, y = torch.rand(60, 3, 2, 2), torch.arange(60) % 2
    >>> pipe = make_pipeline(EmbeddingTransformer(net), DFRClassifier(random_state=0)).fit(X, y)
    >>> debiased = export_model(pipe)
    >>> bool((debiased(X).argmax(1).numpy() == pipe.predict(X)).all())
    True
    """
    transformer, strategy = _transformer_and_strategy(classifier)
    head = transformer._head
    if head is None:
        raise ValueError(
            "There is no layer to put the retrained weights into: the embedding is not the input of a dense layer that "
            "outputs the logits (`layer=` names another module)."
        )
    if head.fault:
        raise ValueError(head.fault)
    if not hasattr(strategy, "coef_"):
        raise ValueError(
            f"{type(strategy).__name__} has no `coef_`: only linear strategies can be exported as a last layer."
        )
    classes = transformer.classes_ if classes is None else np.asarray(classes)
    weight, bias = head_weights(strategy, classes, transformer.n_logits_)
    model = copy_of_model(transformer.model, _copy_tensor)[0].eval()
    set_head_weights(model, head, weight, bias)
    return model


def _copy_tensor(values):
    # `copy.deepcopy` takes no tensor that was computed from others.
    return copy.deepcopy(values) if values.is_leaf else values.detach().clone()


def head_weights(strategy, classes, n_logits):
    """Return the weight and bias of a dense layer with n_logits outputs that is equivalent to a linear classifier."""
    if len(classes) != max(2, n_logits) or len(set(classes.tolist())) != len(classes):
        raise ValueError(
            f"`classes` must name each of {n_logits} logits once (two classes for one logit), got "
            f"{classes.tolist()[:10]}."
        )
    position = {label: i for i, label in enumerate(classes.tolist())}
    unknown = [label for label in strategy.classes_.tolist() if label not in position]
    if unknown:
        raise ValueError(
            f"{len(unknown)} classes of the retraining data ({unknown[:5]}) are not among the logits' classes "
            f"{classes.tolist()[:10]}. Pass `classes=`, the class of each logit."
        )
    coef, intercept = np.atleast_2d(strategy.coef_), np.atleast_1d(strategy.intercept_)
    rows = [position[label] for label in strategy.classes_.tolist()]
    if n_logits == 1:
        # The only logit is that of the second class.
        sign = 1.0 if rows == [0, 1] else -1.0
        return sign * coef, sign * intercept
    weight = np.zeros((n_logits, coef.shape[1]))
    bias = np.full(n_logits, ABSENT_CLASS_LOGIT)
    if len(rows) == 2 and len(coef) == 1:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight[rows], bias[rows] = coef, intercept
    return weight, bias


def _transformer_and_strategy(classifier):
    """Return the image transformer and the fitted last layer of the user's estimator."""
    check_is_fitted(classifier)
    classifier = getattr(classifier, "best_estimator_", classifier)
    if hasattr(classifier, "strategy_"):
        transformer, strategy = classifier.transformer_, classifier.strategy_
    elif isinstance(classifier, Pipeline):
        steps = classifier.steps
        first = next((i for i, (_, step) in enumerate(steps) if hasattr(step, "head_")), None)
        transformer = None if first is None else steps[first][1]
        strategy = steps[-1][1]
        for name, step in steps[len(steps) if first is None else first + 1 : -1]:
            if step not in (None, "passthrough") and not isinstance(step, KEEP_THE_EMBEDDING):
                raise ValueError(
                    f"The step {name!r} ({type(step).__name__}) between the embedding and the last layer has no place "
                    "in the exported model. Leave it out (DFRClassifier standardizes by itself)."
                )
    else:
        transformer = strategy = None
    if transformer is None:
        raise ValueError(
            "Pass a fitted ExMapClassifier, or a fitted Pipeline with a HeatmapTransformer or EmbeddingTransformer in "
            f"it, got {type(classifier).__name__}."
        )
    strategy = getattr(strategy, "best_estimator_", strategy)
    # A strategy that fits another estimator (JTT) keeps it as `estimator_`.
    return transformer, strategy if hasattr(strategy, "coef_") else getattr(strategy, "estimator_", strategy)
