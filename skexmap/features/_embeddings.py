"""EmbeddingTransformer: the features at the input of the last dense layer."""

import os
from numbers import Integral

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import EMBEDDING, PREDICTED
from skexmap._torch import widened
from skexmap._validation import HasMethods, Interval
from skexmap.features._base import ImageTransformer
from skexmap.features._capture import capture_embedding, capture_layer, find_head, no_head
from skexmap.lrp._method import predicted_classes

# Fitted attributes that do not depend on the blocks that a transformer returns.
FITTED = {
    "image_shape_",
    "n_features_in_",
    "feature_names_in_",
    "n_logits_",
    "classes_",
    "head_",
    "_head",
    "_labels",
    "_has_negative_pixels",
}


class EmbeddingTransformer(ImageTransformer):
    """Penultimate-layer features of a frozen classifier, in one forward pass.

    The embedding of an image is the input of the dense layer that outputs the logits (see the notes). The estimators in
    `skexmap.retraining` train on it.

    Parameters
    ----------
    model : torch.nn.Module
        Trained classifier. It is never changed: each call copies it, and runs the copy in evaluation mode, as
        `HeatmapTransformer` does.
    layer : str or None, default=None
        Name of a module as in ``model.named_modules()``. The embedding is the input of a dense layer, or the flattened
        output of any other module. None selects the dense layer that outputs the logits.
    return_predicted : bool, default=False
        Whether `transform` returns a structured array with the blocks ``embedding`` and ``predicted``, the class that
        the model predicts, instead of a plain 2-D array of embeddings.
    classes, load, cache, batch_size, device, n_jobs, verbose
        As in `HeatmapTransformer`.

    Attributes
    ----------
    head_ : str, tuple of str, or None
        Name of the dense layer (or convolution by 1 x 1) that outputs the logits; the names of two layers if the logits
        are their mean; None if `layer` names another module.
    n_embedding_features_ : int
        Length of the embedding.
    classes_, model_accuracy_, n_logits_, image_shape_, n_features_in_
        As in `HeatmapTransformer`.

    Raises
    ------
    skexmap.lrp.UnsupportedOperationError
        In `fit`, if the logits of an image depend on the other images of its batch, or on chance.
    skexmap.exceptions.UnreadableImagesError
        If image files cannot be read, as in `HeatmapTransformer`.

    See Also
    --------
    HeatmapTransformer : Heatmaps, and with ``return_embedding=True`` also the embedding.

    Notes
    -----
    The last layer is found on the first eight images: the logits must be its output, or its mean over all positions, or
    the mean of two such layers, up to a constant factor and a constant shift of each logit (a temperature, a prior). If
    two layers read different features, the embedding is both, side by side. The relation is checked in every batch.

    Examples
    --------
    >>> import torch
    >>> from skexmap.features import EmbeddingTransformer
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> EmbeddingTransformer(net).fit_transform(torch.rand(10, 3, 4, 4)).shape
    (10, 5)
    """

    _parameter_constraints = {
        "model": "no_validation",
        "layer": [str, None],
        "return_predicted": ["boolean"],
        "classes": ["array-like", None],
        "load": [callable, HasMethods("__getitem__"), None],
        "cache": [str, os.PathLike, None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model=None,
        *,
        layer=None,
        return_predicted=False,
        classes=None,
        load=None,
        cache=None,
        batch_size=64,
        device="auto",
        n_jobs=None,
        verbose=False,
    ):
        self.model = model
        self.layer = layer
        self.return_predicted = return_predicted
        self.classes = classes
        self.load = load
        self.cache = cache
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    def transform(self, X):
        """Return the embeddings.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_embedding_features)
            In the model's floating type. With ``return_predicted=True``, a structured ndarray of shape (n_samples,)
            with the fields ``embedding``, of shape (n_embedding_features,), and ``predicted``, an integer as in
            `HeatmapTransformer`.
        """
        check_is_fitted(self)
        return self._transform(X, self._replica())

    def _returns_blocks(self):
        return self.return_predicted

    def _fit(self, X, y, replica):
        y = super()._fit(X, y, replica)
        self.n_embedding_features_ = self._block_dtype[EMBEDDING].shape[0]
        return y

    def _first_blocks(self, images, replica):
        if self.return_predicted and self.layer is not None:
            raise ValueError(
                f"layer={self.layer!r} names the embedding, so the model's predictions are not available. "
                "`return_predicted=True` needs layer=None."
            )
        self._head = self.head_ = None
        if self.layer is None:
            _, _, self._head = find_head(replica.module, images)
            if self._head is None:
                raise no_head(replica.module, images)
            self.head_ = self._head.name
        return self._compute(images, replica)

    def _settings(self):
        return self.layer

    def _compute(self, images, replica):
        if self.layer is not None:
            return {EMBEDDING: widened(capture_layer(replica.module, images, self.layer))}
        logits, embedding = capture_embedding(replica.module, images, self._head)
        return {EMBEDDING: widened(embedding), PREDICTED: predicted_classes(logits)}

    def _copy_fitted(self, fitted):
        """Copy what a HeatmapTransformer of the same model, with ``return_embedding=True``, has set in `fit`."""
        vars(self).update({name: value for name, value in vars(fitted).items() if name in FITTED})
        self._block_dtype = np.dtype([(name, fitted._block_dtype[name]) for name in (EMBEDDING, PREDICTED)])
        self.n_embedding_features_ = self._block_dtype[EMBEDDING].shape[0]
        return self
