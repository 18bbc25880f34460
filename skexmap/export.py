"""The debiased model as a torch module."""

import copy

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

# Logit of a class that the retraining data lacked: far below any other, and finite, so that softmax and ONNX take it.
ABSENT_CLASS_LOGIT = -1e4


def export_model(classifier, *, classes=None):
    """Return a copy of the user's model whose last dense layer carries the retrained weights.

    Parameters
    ----------
    classifier : ExMapClassifier, Pipeline, or a search over one of them
        Fitted, with a linear strategy (one that has `coef_` and `intercept_`).
    classes : array-like of shape (n_logits,) or None, default=None
        Which class each logit of the model stands for (two for one logit). None takes what the transformer learned.

    Returns
    -------
    model : torch.nn.Module
        In evaluation mode. Its `state_dict` loads into the original architecture (if the head had no bias, it now has
        one).

    Raises
    ------
    ValueError
        If the strategy is not linear, or its classes cannot be matched to the logits.

    Notes
    -----
    With one logit, the logit is the `decision_function`. With two logits and two classes, their *difference* is; each
    gets half of it, so that the softmax is `predict_proba`. With more classes, logit k is column k of the
    `decision_function`; one-versus-rest probabilities are then not the softmax of the logits, but the predicted class
    is the same. A class that the retraining data lacked keeps a row of zeros with a bias of -10,000: it is never
    predicted.

    Examples
    --------
    >>> import torch
    >>> from skexmap import DFRClassifier, EmbeddingTransformer, export_model
    >>> from sklearn.pipeline import make_pipeline
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> X, y = torch.rand(60, 3, 2, 2), torch.arange(60) % 2
    >>> pipe = make_pipeline(EmbeddingTransformer(net), DFRClassifier(random_state=0)).fit(X, y)
    >>> debiased = export_model(pipe)
    >>> bool((debiased(X).argmax(1).numpy() == pipe.predict(X)).all())
    True
    """
    transformer, strategy = _parts(classifier)
    if transformer.head_ is None:
        raise ValueError(
            "The embedding is not the input of the dense layer that makes the logits (`layer=` names another module), "
            "so that there is no layer to put the retrained weights into."
        )
    if not hasattr(strategy, "coef_"):
        raise ValueError(
            f"{type(strategy).__name__} has no `coef_`: only linear strategies can be exported as a last layer."
        )
    classes = transformer.classes_ if classes is None else np.asarray(classes)
    model = copy.deepcopy(transformer.model).eval()
    head = model.get_submodule(transformer.head_)
    weight, bias = head_weights(strategy, classes, transformer.n_logits_)
    with torch.no_grad():
        if head.bias is None and np.any(bias):
            head.bias = torch.nn.Parameter(head.weight.new_zeros(len(bias)))
        head.weight.copy_(torch.as_tensor(weight))
        if head.bias is not None:
            head.bias.copy_(torch.as_tensor(bias))
    return model


def head_weights(strategy, classes, n_logits):
    """Return weight and bias of a dense layer with n_logits outputs that decides as a linear classifier does.

    Parameters
    ----------
    strategy : classifier with `coef_`, `intercept_` and `classes_`
    classes : ndarray of shape (n_classes,)
        Class of each logit; two for one logit.
    n_logits : int

    Returns
    -------
    weight : ndarray of shape (n_logits, n_features)
    bias : ndarray of shape (n_logits,)
    """
    position = {label: i for i, label in enumerate(classes.tolist())}
    unknown = [label for label in strategy.classes_.tolist() if label not in position]
    if unknown:
        raise ValueError(
            f"{len(unknown)} classes of the retraining data ({unknown[:5]}) are none of the logits' classes "
            f"{classes.tolist()[:10]}. Pass `classes=`, the class of each logit."
        )
    coef, intercept = np.atleast_2d(strategy.coef_), np.atleast_1d(strategy.intercept_)
    rows = [position[label] for label in strategy.classes_.tolist()]
    if n_logits == 1:
        # The only logit speaks for the second class.
        sign = 1.0 if rows == [0, 1] else -1.0
        return sign * coef, sign * intercept
    weight = np.zeros((n_logits, coef.shape[1]))
    bias = np.full(n_logits, ABSENT_CLASS_LOGIT)
    if len(rows) == 2 and len(coef) == 1:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight[rows], bias[rows] = coef, intercept
    return weight, bias


def _parts(classifier):
    """Return the image transformer and the fitted last layer of what the user passed."""
    check_is_fitted(classifier)
    classifier = getattr(classifier, "best_estimator_", classifier)
    if hasattr(classifier, "strategy_"):
        transformer, strategy = classifier.transformer_, classifier.strategy_
    elif isinstance(classifier, Pipeline):
        transformer = next((step for _, step in classifier.steps if hasattr(step, "head_")), None)
        strategy = classifier.steps[-1][1]
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
