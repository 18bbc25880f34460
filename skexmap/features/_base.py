"""Code that both image transformers share: checks of X, device and type, and batches with progress."""

from contextlib import contextmanager

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data
from tqdm.auto import tqdm

from skexmap._blocks import PREDICTED, block_columns, blocks_to_columns, without_block
from skexmap._torch import FrozenModelMixin, check_model, pick_device, replica_of
from skexmap._validation import _check_feature_names_in, _fit_context, output_container
from skexmap.features._loading import (
    are_paths,
    check_finite,
    check_readable,
    image_batches,
    refuse_paths_in_columns,
)
from skexmap.groups._diagnosis import warn_of_frozen_model

# Number of images on which `fit` runs the model, to learn shapes and to check that it can be attributed.
N_TRIAL_IMAGES = 8


class ImageTransformer(FrozenModelMixin, TransformerMixin, BaseEstimator):
    """Base class of transformers that run a frozen model on images.

    A subclass implements ``_trial(images, replica) -> dict of blocks`` for the first few images. It also implements
    ``_learn(X, y)`` and ``_transform(X, fitting, y) -> output``, the inner parts of `fit` and `transform`, and passes
    to `_collect` the function that turns a batch into blocks. In these blocks, ``predicted`` is the index of the
    largest logit.
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Fit, then transform the same images.

        Parameters
        ----------
        X : as for `fit`
        y : array-like of shape (n_samples,) or None, default=None
            Labels, which are used only for `classes_` and `model_accuracy_`.

        Returns
        -------
        X_out : as `transform` returns it

        Warns
        -----
        PredictionWarning
            If y holds more than one class, and the model predicts the same one for all images, or is less accurate
            than the most frequent class alone would be.
        """
        self._learn(X, y)
        return self._transform(X, fitting=True, y=y)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.requires_fit = True
        tags.transformer_tags.preserves_dtype = self._dtypes_kept()
        return tags

    def _dtypes_kept(self):
        """Return the floating types that are preserved: the model's own, or any if the model has no weights."""
        parameters = self.model.parameters() if isinstance(self.model, torch.nn.Module) else ()
        dtype = next((p.dtype for p in parameters if p.is_floating_point()), None)
        return ["float64", "float32"] if dtype is None else [str(dtype).removeprefix("torch.")]

    def _check_images(self, X, *, reset):
        """Check X as far as possible without reading all of it, and return it in a form that can be indexed by rows."""
        check_model(self.model)
        if self.load is None and not hasattr(X, "ndim"):
            X = np.asarray(X)
        if self.load is not None or (not isinstance(X, torch.Tensor) and X.ndim == 1 and are_paths(X)):
            X = X if hasattr(X, "__len__") and hasattr(X, "__getitem__") else np.asarray(X)
            if len(X) == 0:
                raise ValueError(
                    "Found array with 0 sample(s) (X is empty) while a minimum of 1 is required."
                )
            return X
        if isinstance(X, torch.Tensor):
            if X.ndim < 2 or len(X) == 0:
                raise ValueError(
                    f"Images must have shape (n, channels, height, width), got {tuple(X.shape)}."
                )
            return X
        refuse_paths_in_columns(X)
        # Each batch is checked for NaN and infinity later, so that a memory map is read once.
        if X.ndim <= 2:
            return validate_data(self, X, reset=reset, ensure_all_finite=False)
        return check_array(X, allow_nd=True, ensure_all_finite=False)

    def _replica(self):
        return replica_of(self.model, pick_device(self.device))

    def _prepare(self, images, rows, replica):
        """Check a batch, and bring it to the model's device and type."""
        check_finite(images, rows)
        dtype = replica.dtype or (images.dtype if images.is_floating_point() else torch.float32)
        if images.shape[1:] != self.image_shape_:
            raise ValueError(
                f"Image {rows[0]} has shape {tuple(images.shape[1:])}, but {type(self).__name__} was fitted on images "
                f"of shape {tuple(self.image_shape_)} (channels, height, width)."
            )
        if replica.device.type == "cuda" and images.device.type == "cpu":
            # Pinned memory lets the copy run in parallel with the computation.
            images = images.pin_memory()
        if images.is_inference():
            images = images.clone()
        images = images.to(replica.device, dtype, non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images

    # Relevance needs a backward pass, which is not possible in a caller's inference mode.
    @torch.inference_mode(False)
    def _fit_shapes(self, X, y):
        """Run the model on a few images; learn the classes, and the names, shapes and types of the blocks."""
        if y is not None:
            check_consistent_length(X, y)
        check_readable(X, self.load)
        replica = self._replica()
        rows, images = next(image_batches(X, self.load, self.batch_size, num_workers=0))
        self.image_shape_ = tuple(images.shape[1:])
        images = self._prepare(images, rows, replica)[:N_TRIAL_IMAGES]
        blocks = self._trial(images, replica)
        blocks = {name: as_numpy(values) for name, values in blocks.items()}
        self._block_dtype = np.dtype(
            [(name, values.dtype, values.shape[1:]) for name, values in blocks.items()]
        )
        self.n_features_in_ = int(np.prod(self.image_shape_))
        self._labels = None if y is None else np.unique(np.asarray(y))
        self.classes_ = classes_of_logits(self.classes, self.model, self._labels, self.n_logits_)

    @torch.inference_mode(False)
    def _collect(self, X, process, *, fitting, y):
        """Run all batches through `process`; return the blocks as one structured array."""
        if not fitting:
            check_readable(X, self.load)
        replica = self._replica()
        result = np.empty(len(X), dtype=self._block_dtype)
        batches = image_batches(X, self.load, self.batch_size, self.num_workers)
        n_batches = -(-len(X) // self.batch_size)
        for rows, images in tqdm(
            batches, desc=type(self).__name__, total=n_batches, disable=not self.verbose
        ):
            blocks = process(self._prepare(images, rows, replica), replica)
            for name, values in blocks.items():
                result[name][rows] = as_numpy(values)
        if PREDICTED in result.dtype.names:
            codes = result[PREDICTED].copy()
            if fitting and y is not None and np.isin(self._labels, self.classes_).all():
                y = np.asarray(y)
                self.model_accuracy_ = float(np.mean(self.classes_[codes] == y))
                warn_of_frozen_model(type(self.model).__name__, self.classes_, codes, y)
            result[PREDICTED] = self._predicted_block(codes)
        return result

    def _predicted_block(self, codes):
        """Return the values of the block ``predicted`` for indices of logits; -1 if a logit has no label."""
        are_numbers = [
            values.dtype.kind in "iufb" for values in (self.classes_, self._labels) if values is not None
        ]
        if all(are_numbers):
            return self.classes_[codes]
        labels = self.classes_ if self._labels is None else self._labels
        if any(are_numbers):
            return -1
        positions = {label: i for i, label in enumerate(np.unique(labels).tolist())}
        return np.array([positions.get(label, -1) for label in self.classes_.tolist()])[codes]

    def _returns_blocks(self):
        """Return whether the output has named blocks."""
        raise NotImplementedError

    def _output(self, blocks):
        """Return the blocks in the form that the parameters and `set_output` select."""
        if not self._returns_blocks():
            return blocks_to_columns(without_block(blocks, PREDICTED))
        # Convert here, because scikit-learn's output wrapper only accepts plain arrays.
        return blocks if output_container(self) == "default" else blocks_to_columns(blocks)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the output columns, the blocks one after the other.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the features seen in `fit`.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        blocks = np.empty(0, dtype=self._block_dtype)
        return block_columns(blocks if self._returns_blocks() else without_block(blocks, PREDICTED))


@contextmanager
def explained_failure(image_shape):
    """Turn the error of a model that cannot process the images into one that describes the input."""
    try:
        yield
    except NotImplementedError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"The model cannot process images of shape {tuple(image_shape)}: {error}. Check their shape and number of "
            "channels; images are (channels, height, width)."
        ) from error


def predicted_classes(logits):
    """Return the index of the class that each row of logits predicts; a single logit does so by its sign."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def as_numpy(values):
    """Return a tensor as an array, with half precision, which NumPy lacks or computes slowly, as float32."""
    values = values.cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def classes_of_logits(classes, model, labels, n_logits):
    """Return the class of each logit: as given, as the model's configuration says, or the sorted labels.

    If there are as many labels as logits, they are taken in their order; else the classes are the logits' indices.
    """
    n_classes = max(2, n_logits)
    if classes is not None:
        classes = np.asarray(classes)
        if classes.shape != (n_classes,) or len(np.unique(classes)) < n_classes:
            raise ValueError(
                f"`classes` must name the class of each of {n_classes} logits once (two classes for one logit), got "
                f"{classes.tolist()[:10]}."
            )
        unknown = [] if labels is None else labels[~np.isin(labels, classes)].tolist()
        if unknown:
            raise ValueError(
                f"{len(unknown)} labels in y ({unknown[:5]}) are not among `classes` {classes.tolist()[:10]}."
            )
        return classes
    # Models of the transformers library name their logits.
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    named = (
        np.array([str(names[i]) for i in range(n_classes)]) if set(names) == set(range(n_classes)) else None
    )
    if labels is not None and named is not None and np.isin(labels.astype(str), named).all():
        return named
    return labels if labels is not None and len(labels) == n_classes else np.arange(n_classes)
