"""HeatmapTransformer: a relevance heatmap of a frozen classifier for each image."""

import os
from numbers import Integral

import torch
import torch.nn.functional as F
from sklearn.utils.validation import check_is_fitted

from skexmap._blocks import EMBEDDING, HEATMAP, PREDICTED
from skexmap._torch import HALF, Replica, pick_device, widened
from skexmap._validation import HasMethods, Interval, StrOptions
from skexmap.features._attribution import as_lrp, attribute_by
from skexmap.features._base import ImageTransformer
from skexmap.features._capture import capture_embedding, find_head, no_head
from skexmap.lrp import LRP
from skexmap.lrp._engine import RelevanceEngine
from skexmap.lrp._method import predicted_classes
from skexmap.lrp._registry import declared_rules

# Smallest accepted cosine between a map in float16 and in float32.
MIN_ALIGNMENT = 0.95


class HeatmapTransformer(ImageTransformer):
    """Relevance heatmaps of a frozen image classifier.

    Layer-wise relevance propagation starts with relevance 1 at the target logit of each image and distributes it, layer
    by layer, over the pixels. This is the first step of ExMap [1]_. The maps are shrunk, and each is divided by its
    largest absolute value.

    Parameters
    ----------
    model : torch.nn.Module
        Trained classifier that returns logits of shape (n, n_logits), or a tuple with them first. One logit means two
        classes. It is never changed: see the notes.
    attribution : "lrp", LRP or callable, default="lrp"
        How relevance is computed. ``"lrp"`` stands for `skexmap.lrp.LRP()`, layer-wise relevance propagation as
        published. Pass an `LRP` object for other settings, such as the class to explain (``target``); a grid search can
        set them as ``attribution__gamma``. A callable ``(model, images, targets) -> relevance`` gets a copy of the
        model in evaluation mode, a batch of images that require gradients, and the index of the predicted logit for
        each image. It returns a tensor of shape (n, channels, height, width).
    evidence : {"magnitude", "signed"}, default="magnitude"
        Which part of the relevance is kept. ``"magnitude"`` takes its absolute value, in every pixel and channel,
        before the maps are shrunk. ``"signed"`` (as published) keeps the sign, which is positive where the image
        supports the explained class.
    size : int or None, default=28
        Side of the square maps, in pixels; None keeps the resolution. Maps are shrunk bilinearly, as published, but 1
        averages all pixels. Smaller maps are not enlarged. Ignored if X does not contain images of shape
        (channels, height, width).
    normalize : {"max_abs"} or None, default="max_abs"
        Whether each map is divided by its largest absolute value. A map that is zero everywhere stays zero.
    return_embedding : bool, default=False
        Whether `transform` returns a structured array with the blocks ``embedding``, ``heatmap`` and ``predicted``,
        from the same forward pass, instead of a plain 2-D array of maps.
    dtype : {"float64", "float32", "bfloat16", "float16"} or None, default=None
        Floating type to compute in; None keeps the model's. Half precision is faster on hardware that supports it.
        The maps are then returned, and cached, as float16 if they are normalized, and otherwise as float32, as is the
        embedding. "float16" has a small range: `fit` raises an error if the maps of the first images differ from those
        in float32.
    classes : array-like of shape (n_logits,) or None, default=None
        Class of each logit (two classes for one logit). If None, the names in ``config.id2label`` of the model, if the
        labels are among them. Otherwise the sorted labels, if there are as many as logits.
    load : callable, data set or None, default=None
        How an item of X becomes an image. A function is called with the item, a transform of torchvision, timm or
        transformers with the opened image, and a data set is indexed by the item. If None, X holds images, or file
        paths, which are opened with `ImageLoader`. It must be picklable to be sent to workers.
    cache : str, path-like or None, default=None
        Folder that keeps the maps and embedding of each image. A later call, also of another process, computes only
        what is missing; see the notes.
    batch_size : int, default=64
        Images per pass; only one batch of full-size maps is in memory. `fit` shows the model up to 8 images together,
        whatever the batch size.
    device : str, default="auto"
        Where to compute; "auto" selects a GPU if there is one.
    n_jobs : int, default=None
        Number of workers of joblib's backend that read and compute batches; see the notes. None is 1, unless
        `joblib.parallel_config` sets another number or a cluster; 1 stays in this process. On a GPU of this machine,
        which one process keeps busy, it is the number of processes that read images.
    verbose : bool, default=False
        Whether to show progress.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class of each logit: `classes`, the names in the model's configuration, the sorted labels if there are as many
        as logits (two for one logit), or otherwise the indices of the logits.
    model_accuracy_ : float
        Accuracy of the frozen model on the images of `fit_transform`; absent after `fit`, or if a label in y is not in
        `classes_`.
    head_ : str, tuple of str, or None
        Name of the dense layer (or convolution by 1 x 1) that outputs the logits; the names of two layers if the logits
        are their mean; None if there is no such layer.
    image_shape_ : tuple of int
        Shape of one image.
    heatmap_shape_ : tuple of int
        Shape of one map, ``(channels, size, size)`` for images.
    n_logits_ : int
        Number of logits that the model returns.
    n_features_in_ : int
        Number of values in one image.

    Raises
    ------
    skexmap.lrp.UnsupportedOperationError
        In `fit`, if an operation of the model has no relevance rule; the message names the operation and its location.
        Also if the logits of an image depend on the other images of its batch, or on chance.
    skexmap.exceptions.UnreadableImagesError
        If image files cannot be read. Its `indices` are the rows of all of them. Files are checked if X holds paths and
        `load` is None, an `ImageLoader` or an `ImageNetTransform`.

    See Also
    --------
    EmbeddingTransformer : The embedding only, in one forward pass.

    Notes
    -----
    Every call of `fit`, `transform` and `fit_transform` copies the model and runs the copy, in evaluation mode. So
    several threads may use one model, and nothing writes to it. A fitted transformer follows the model: if its weights
    are changed after `fit`, `transform` uses the new ones. To keep the old ones, deep-copy the transformer. In the
    copy, compiled modules are replaced by their originals, and backward hooks are removed. Forward hooks run. A hook
    that returns or writes a value is explained as part of the model, and a hook that only reads may call any function.
    The functions of the model and its hooks write to copies of your dicts and lists.

    With a `cache`, a result is served if the weights, settings and code of the model, of the attribution and of this
    library are the same, and so is the image: its path, size and time of change if this package opens the file, else
    its pixels. Missing images are computed in batches of `batch_size`, in their order, so an interrupted run gives
    bitwise what it would have given. Damaged files are computed again, with a `SkexmapWarning`. An OSError says how
    many bytes are missing if the disk is full. A result of more than 256 MiB is in a temporary file in the folder
    instead of in memory. Delete the folder to clear the cache.

    With `n_jobs`, workers get the batches that one process would have, and compute each on one torch thread, or on
    joblib's ``inner_max_num_threads``. So the result is bitwise that of one process with as many threads. The model
    travels once to each worker of loky and Dask, and with every batch under Ray. The worker keeps the last one. Workers
    read the images, except with a `cache` if their pixels identify them. If a worker of loky or Dask dies, the batches
    that were under way are computed once more. If a GPU has no memory for a batch, the rest of the call goes on with
    half of it at once, with a `SkexmapWarning`.

    References
    ----------
    .. [1] Chakraborty, Sletten, Kampffmeyer: ExMap: Leveraging Explainability Heatmaps for Unsupervised Group
       Robustness to Spurious Correlations. CVPR 2024, arXiv:2403.13870.

    Examples
    --------
    >>> import torch
    >>> from skexmap.features import HeatmapTransformer
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2)
    ... )
    >>> images = torch.rand(10, 3, 8, 8)
    >>> HeatmapTransformer(net, size=4).fit_transform(images).shape
    (10, 48)
    >>> blocks = HeatmapTransformer(net, size=4, return_embedding=True).fit_transform(images)
    >>> blocks["embedding"].shape, blocks["heatmap"].shape
    ((10, 144), (10, 3, 4, 4))
    """

    _parameter_constraints = {
        "model": "no_validation",
        "attribution": [StrOptions({"lrp"}), LRP, callable],
        "evidence": [StrOptions({"magnitude", "signed"})],
        "size": [Interval(Integral, 1, None, closed="left"), None],
        "normalize": [StrOptions({"max_abs"}), None],
        "return_embedding": ["boolean"],
        "dtype": [StrOptions({"float64", "float32", "bfloat16", "float16"}), None],
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
        attribution="lrp",
        evidence="magnitude",
        size=28,
        normalize="max_abs",
        return_embedding=False,
        dtype=None,
        classes=None,
        load=None,
        cache=None,
        batch_size=64,
        device="auto",
        n_jobs=None,
        verbose=False,
    ):
        self.model = model
        self.attribution = attribution
        self.evidence = evidence
        self.size = size
        self.normalize = normalize
        self.return_embedding = return_embedding
        self.dtype = dtype
        self.classes = classes
        self.load = load
        self.cache = cache
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    def transform(self, X):
        """Return the heatmaps.

        Parameters
        ----------
        X : as for `fit`

        Returns
        -------
        heatmaps : ndarray of shape (n_samples, channels * size * size)
            In the model's floating type, or as `dtype` says. With ``return_embedding=True``, a structured ndarray of
            shape (n_samples,) with the fields ``embedding``, of shape (n_embedding_features,), ``heatmap``, of shape
            (channels, size, size), and ``predicted``, an integer: the label that the model predicts, or, if the
            labels are not numbers, its position among the sorted labels.
        """
        check_is_fitted(self)
        return self._transform(X, self._replica())

    def set_params(self, **params):
        """Set parameters, also those of the LRP that ``attribution="lrp"`` stands for.

        Parameters
        ----------
        **params : dict
            Values by name. A nested name, such as ``attribution__gamma``, replaces ``"lrp"`` by `LRP()`, and sets its
            parameter.

        Returns
        -------
        self : HeatmapTransformer
        """
        is_nested = any(name.startswith("attribution__") for name in params)
        if is_nested and isinstance(params.get("attribution", self.attribution), str):
            params["attribution"] = LRP()
        return super().set_params(**params)

    def _returns_blocks(self):
        return self.return_embedding

    def _fit(self, X, y, replica):
        y = super()._fit(X, y, replica)
        self.heatmap_shape_ = self._block_dtype[HEATMAP].shape
        return y

    def _replica(self):
        return self._replica_of_type(None if self.dtype is None else getattr(torch, self.dtype))

    def _replica_of_type(self, dtype):
        replica = Replica(self.model, pick_device(self.device), dtype)
        lrp = as_lrp(self.attribution)
        if lrp is not None:
            replica.engine = RelevanceEngine(replica.module, lrp.resolved())
        return replica

    def _first_blocks(self, images, replica):
        """Return the blocks of a few images; raise if they lack an embedding or the range of their type."""
        _, _, self._head = find_head(replica.module, images)
        self.head_ = None if self._head is None else self._head.name
        if self.return_embedding and self._head is None:
            raise no_head(replica.module, images)
        blocks = self._compute(images, replica)
        if images.dtype == torch.float16:
            self._check_range(images, blocks[HEATMAP])
        return blocks

    def _check_range(self, images, maps):
        """Raise if relevance vanishes on its way to the pixels in float16, which holds nothing below 6e-8."""
        replica = self._replica_of_type(torch.float32)
        agreement = alignment(maps.float(), self._compute(images.float(), replica)[HEATMAP])
        worst = float(agreement.min())
        if worst < MIN_ALIGNMENT:
            n_bad = int((agreement < MIN_ALIGNMENT).sum())
            raise ValueError(
                f"In float16 the heatmaps of {n_bad} of {len(images)} images differ from those in float32 (cosine "
                f"{worst:.2f} for the worst): relevance is shared among so many values that it leaves the range of the "
                'type. Use dtype="bfloat16" or dtype="float32".'
            )

    def _settings(self):
        lrp = as_lrp(self.attribution)
        attribution = (self.attribution,) if lrp is None else (lrp, lrp.resolved(), declared_rules())
        return self.evidence, self.size, self.normalize, self.return_embedding, attribution

    def _compute(self, images, replica):
        """Attribute a batch and bring the maps to their final form."""
        result = self._attribute(images, replica)
        bad = int((~torch.isfinite(result.relevance)).flatten(1).any(1).sum())
        if bad:
            remedy = (
                'use dtype="bfloat16" or dtype="float32", which have a larger range'
                if images.dtype == torch.float16
                else "try a larger `epsilon`"
            )
            raise ValueError(
                f"{bad} of {len(images)} heatmaps of a batch contain NaN or infinity. The model's activations overflow "
                f"or a rule divides by zero; {remedy}."
            )
        maps = result.relevance.abs() if self.evidence == "magnitude" else result.relevance
        lrp = as_lrp(self.attribution)
        if lrp is not None and lrp.layer is not None and maps.ndim == 4:
            # The channels of a hidden layer are many and carry no meaning for the clusters.
            maps = maps.sum(1, keepdim=True)
        if self.size is not None and maps.ndim == 4:
            maps = resize(maps, self.size)
        if self.normalize == "max_abs":
            maps = divide_by_largest(maps)
            # Between -1 and 1, float16 has all digits of bfloat16 down to 2^-17.
            maps = maps.half() if images.dtype in HALF else maps
        else:
            maps = widened(maps)
        predicted = predicted_classes(result.logits)
        if not self.return_embedding:
            return {HEATMAP: maps, PREDICTED: predicted}
        embedding = result.embedding
        if embedding is None:
            _, embedding = capture_embedding(replica.module, images, self._head)
        return {EMBEDDING: widened(embedding.flatten(1)), HEATMAP: maps, PREDICTED: predicted}

    def _attribute(self, images, replica):
        lrp = as_lrp(self.attribution)
        if lrp is None:
            return attribute_by(self.attribution, replica.module, images)
        return replica.engine.attribute(images, lrp.choose_target, lrp.initial_relevance, lrp.layer)


def resize(maps, size):
    """Shrink maps of shape (n, channels, height, width) to (n, channels, size, size); smaller ones are unchanged."""
    if max(maps.shape[-2:]) <= size:
        return maps
    if size == 1:
        # Bilinear interpolation would read four pixels of the whole map.
        return maps.mean((-2, -1), keepdim=True)
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)


def alignment(maps, others):
    """Return the cosine between each map and its counterpart; it is 1 for two maps of zeros."""
    maps, others = maps.flatten(1), others.flatten(1)
    same = (maps == others).all(1)
    return torch.where(same, 1.0, F.cosine_similarity(maps, others, dim=1))


def divide_by_largest(maps):
    """Divide each map by its largest absolute value; a map of zeros is unchanged."""
    largest = maps.abs().flatten(1).amax(1).reshape(-1, *[1] * (maps.ndim - 1))
    return maps / torch.where(largest > 0, largest, 1.0)
