"""Code that both image transformers share: checks of X, device and type, and batches with progress."""

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data
from tqdm.auto import tqdm

from skexmap._blocks import PREDICTED, block_columns, blocks_to_columns
from skexmap._torch import FrozenModelMixin, Replica, pick_device
from skexmap._validation import (
    _check_feature_names_in,
    _fit_context,
    check_one_label_each,
    output_container,
    warn,
)
from skexmap.exceptions import SkexmapWarning
from skexmap.features._capture import refuse_features_as_logits
from skexmap.features._identity import digest, library_digest
from skexmap.features._jobs import place_of
from skexmap.features._loading import (
    check_finite,
    check_readable,
    holds_images,
    image_batches,
    in_batches,
    indexable_rows,
    refuse_paths_in_columns,
)
from skexmap.features._store import BlockStore, empty_rows, file_identities, stored_batches
from skexmap.groups._diagnosis import warn_of_frozen_model
from skexmap.lrp._logits import calls_differ, companions_matter, find_logits, first_was_taken, probabilities
from skexmap.lrp._logits import check_finite as check_finite_logits
from skexmap.lrp._tracer import UnsupportedOperationError

# Number of images on which `fit` runs the model, to determine shapes and to check that it can be attributed.
N_TRIAL_IMAGES = 8


class ImageTransformer(FrozenModelMixin, TransformerMixin, BaseEstimator):
    """Base class of transformers that run a frozen model on images.

    Each call of `fit`, `transform` or `fit_transform` runs a new `Replica`. A subclass implements ``_compute(images,
    replica) -> blocks`` for a batch, ``_first_blocks(images, replica) -> blocks``, which raises if the model cannot be
    used, ``_returns_blocks() -> bool``, and ``_settings()``, the parameters that a result depends on. In the blocks,
    ``predicted`` is the index of a logit.
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the model on a few images, and determine the shapes and classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), or paths or indices of shape (n_samples,)
            Images, or what `load` turns into them. Plain inputs of shape (n_samples, n_features) work too. "Your own
            images" in ``docs/datasets.md`` lists all forms of X.
        y : array-like of shape (n_samples,) or None, default=None
            Labels, which are used only for `classes_`.

        Returns
        -------
        self : object
        """
        self._fit(X, y, self._replica())
        return self

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
        replica = self._replica()
        y = self._fit(X, y, replica)
        return self._transform(X, replica, fitting=True, y=y)

    def _replica(self):
        return Replica(self.model, pick_device(self.device))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.requires_fit = True
        # The maps have the model's type, regardless of the type of the images.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_images(self, X, *, reset):
        """Check X as far as possible without reading all of it, and return it in a form that can be indexed by rows."""
        # `_parameter_constraints` accepts a string, because it can be indexed.
        if isinstance(self.load, str):
            raise ValueError(
                f"The 'load' parameter of {type(self).__name__} must be a function or a data set, got {self.load!r}."
            )
        if issparse(X):
            raise TypeError(f"X is sparse ({type(X).__name__}), but images are dense. Pass X.toarray().")
        X = indexable_rows(X)
        if getattr(X, "ndim", 1) > 0 and len(X) == 0:
            raise ValueError("Found array with 0 sample(s) (X is empty) while a minimum of 1 is required.")
        if self.load is not None or holds_images(X):
            return X
        if not hasattr(X, "ndim"):
            try:
                X = np.asarray(X)
            except ValueError as error:
                raise ValueError(
                    f"The {len(X)} items of X differ in shape ({error}). Bring them to one size."
                ) from error
        if isinstance(X, torch.Tensor):
            if X.ndim < 2:
                raise ValueError(
                    f"Images must have shape (n, channels, height, width), got {tuple(X.shape)}."
                )
            return X
        refuse_paths_in_columns(X)
        # Each batch is checked for NaN and infinity later, so that a memory map is read once.
        if X.ndim <= 2:
            return validate_data(self, X, reset=reset, ensure_all_finite=False)
        return check_array(X, allow_nd=True, ensure_all_finite=False)

    def _check_batch(self, images, rows):
        """Raise if a batch has other values or shapes than those that the model was tried on."""
        check_finite(images, rows)
        if images.shape[1:] != self.image_shape_:
            raise ValueError(
                f"Image {rows[0]} has shape {tuple(images.shape[1:])}, but {type(self).__name__} was fitted on images "
                f"of shape {tuple(self.image_shape_)} (channels, height, width)."
            )

    # Relevance needs a backward pass, which is not possible in a caller's inference mode.
    @torch.inference_mode(False)
    def _fit(self, X, y, replica):
        """Run the model on a few images; set the classes, and what the blocks are; return y, checked."""
        X = self._check_images(X, reset=True)
        if y is not None:
            check_consistent_length(X, y)
            y = check_one_label_each(y, len(X))
        check_readable(X, self.load)
        n_read = max(self.batch_size, N_TRIAL_IMAGES)
        rows, images = next(image_batches(X, self.load, in_batches(range(len(X)), n_read)[:1]))
        self.image_shape_ = tuple(images.shape[1:])
        if not images.numel():
            raise ValueError(f"The images have the shape {self.image_shape_}: they hold no pixel.")
        self._check_batch(images, rows)
        self._has_negative_pixels = bool(images.min() < 0)
        images = replica.prepared(images[:N_TRIAL_IMAGES])
        logits = _trial_logits(replica, images)
        # An embedding of a named layer does not depend on what the model returns.
        if getattr(self, "layer", None) is None and probabilities(logits):
            raise ValueError(probabilities(logits))
        self.n_logits_ = logits.shape[1]
        blocks = {name: values.cpu().numpy() for name, values in self._first_blocks(images, replica).items()}
        self._block_dtype = np.dtype(
            [(name, values.dtype, values.shape[1:]) for name, values in blocks.items()]
        )
        self.n_features_in_ = int(np.prod(self.image_shape_))
        self._labels = None if y is None else np.unique(y)
        # Only `fit_transform` shows the model all images.
        vars(self).pop("model_accuracy_", None)
        self.classes_ = classes_of_logits(self.classes, self.model, self._labels, self.n_logits_)
        return y

    @torch.inference_mode(False)
    def _transform(self, X, replica, *, fitting=False, y=None):
        """Run all batches; return the blocks in the form that the parameters and `set_output` select."""
        X = self._check_images(X, reset=False)
        if not fitting:
            check_readable(X, self.load)
        codes = np.zeros(len(X), dtype=np.int64)
        with place_of(self, X, replica) as place:
            if self.cache is None:
                store, batches = None, place.compute(place.batches())
                result = np.empty(len(X), self._returned_dtype())
            else:
                store = self._open_store(place.device, replica.dtype)
                batches = stored_batches(store, file_identities(X, self.load), place, self.batch_size)
                result = empty_rows(store.folder, len(X), self._returned_dtype())
            for rows, blocks in self._shown(batches, len(X)):
                codes[rows] = blocks.pop(PREDICTED, 0)
                for name, values in blocks.items():
                    result[name][rows] = values
        if store is not None:
            store.warn_of_damage()
        is_predicted = PREDICTED in self._block_dtype.names
        if is_predicted and y is not None and np.isin(self._labels, self.classes_).all():
            self.model_accuracy_ = float(np.mean(self.classes_[codes] == y))
            name = type(self.model).__name__
            warn_of_frozen_model(name, self.classes_, codes, y, standardized=self._has_negative_pixels)
        if not self._returns_blocks():
            return blocks_to_columns(result)
        result[PREDICTED] = self._predicted_block(codes)
        # Convert here, because scikit-learn's output wrapper only accepts plain arrays.
        return result if output_container(self) == "default" else blocks_to_columns(result)

    def _shown(self, batches, n_images):
        """Yield batches, and show the progress."""
        with tqdm(
            desc=type(self).__name__, total=n_images, unit=" images", disable=not self.verbose
        ) as progress:
            for rows, blocks in batches:
                yield rows, blocks
                progress.update(len(rows))

    def _run(self, replica, images):
        """Return the blocks of a batch as arrays; after a GPU ran out of memory, those of half a batch at once."""
        n_at_once = replica.n_at_once or len(images)
        try:
            parts = [self._compute(replica.prepared(part), replica) for part in images.split(n_at_once)]
            return {name: torch.cat([part[name].cpu() for part in parts]).numpy() for name in parts[0]}
        except torch.cuda.OutOfMemoryError:
            if replica.n_at_once is not None or n_at_once == 1:
                raise
        # Here, because the exception holds what the pass had computed.
        replica.n_at_once = (n_at_once + 1) // 2
        torch.cuda.empty_cache()
        warn(
            f"{n_at_once} images at once do not fit in the memory of the GPU. This call goes on with "
            f"{replica.n_at_once} at once, which may change the last digits. Pass batch_size={replica.n_at_once}.",
            SkexmapWarning,
        )
        return self._run(replica, images)

    def _open_store(self, *where):
        """Return the store of what this model and these settings give on a kind of device, in a type."""
        # `fit` finds the head on its first images.
        learned = (self.image_shape_, self._block_dtype.descr, getattr(self, "head_", None))
        settings = (library_digest(), type(self).__name__, self.model, self._settings(), where, learned)
        return BlockStore(self.cache, digest(settings), self._block_dtype)

    def _returned_dtype(self):
        """Return the blocks that `transform` returns: those without the predictions if it returns a plain array."""
        left_out = () if self._returns_blocks() else (PREDICTED,)
        names = [name for name in self._block_dtype.names if name not in left_out]
        return np.dtype([(name, self._block_dtype[name]) for name in names])

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
        return block_columns(np.empty(0, dtype=self._returned_dtype()))


@torch.no_grad()
def _trial_logits(replica, images):
    """Return the logits of a few images; raise if they depend on the other images of a batch, or are random."""
    module, n = replica.module, len(images)
    # A single image needs one beside it.
    batch = images if n > 1 else torch.cat([images, torch.zeros_like(images)])
    output = _first_output(module, batch)
    logits = find_logits(output, len(batch))[:n]
    check_finite_logits(logits)
    if first_was_taken(output):
        refuse_features_as_logits(module, batch)
    if replica.engine is not None:
        # Before the check below, because its messages name the operation.
        replica.engine.check(images)
    alone = torch.cat([_logits_alone(module, image) for image in images.split(1)])
    difference = companions_matter(alone, logits)
    if difference:
        again = find_logits(module(batch), len(batch))[:n]
        raise UnsupportedOperationError(calls_differ(logits, again) or difference)
    return logits


def _logits_alone(module, image):
    """Return the logits of one image, shown without others."""
    try:
        return find_logits(module(image), 1)
    except RuntimeError as error:
        raise UnsupportedOperationError(
            f"The model takes several images, but fails on one ({type(error).__name__}: {error}). It must take "
            "batches of any size."
        ) from error


def _first_output(module, images):
    """Return what a model returns for the first images; if it fails, describe the input and the layer that fails."""
    try:
        with torch.no_grad():
            return module(images)
    except NotImplementedError:
        raise
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"The model cannot process images of shape {tuple(images.shape[1:])}: {type(error).__name__}: {error}. "
            f"{_where_it_failed(error, module)}Check their shape and number of channels; images are (channels, height, "
            f"width).{_how_to_transpose(images)}"
        ) from error


def _how_to_transpose(images):
    """Say how to move the channels to the front if they seem to be last."""
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or images.shape[1] <= 4:
        return ""
    return " These seem to be (height, width, channels): pass X.transpose(0, 3, 1, 2) of an array."


def _where_it_failed(error, module):
    """Name the innermost module that raised an error; its settings often name the size that it expects."""
    names = {id(part): name for name, part in module.named_modules() if name}
    step, innermost = error.__traceback__, None
    while step is not None:
        owner = step.tb_frame.f_locals.get("self")
        innermost = owner if id(owner) in names else innermost
        step = step.tb_next
    if innermost is None:
        return ""
    return f"It fails in {names[id(innermost)]!r}, {type(innermost).__name__}({innermost.extra_repr()}). "


def classes_of_logits(classes, model, labels, n_logits):
    """Return the class of each logit: as given, from the model's configuration, the sorted labels, or the indices."""
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
    # A config.json has strings as keys.
    names = {str(key): str(name) for key, name in names.items()}
    if labels is not None and set(names) == set(map(str, range(n_classes))):
        named = _as_labels(np.array([names[str(i)] for i in range(n_classes)]), labels)
        if np.isin(labels, named).all():
            return named
    # The labels, in their order, are the classes only if there is one for each logit.
    return labels if labels is not None and len(labels) == n_classes else np.arange(n_classes)


def _as_labels(names, labels):
    """Return names as the labels have them: as numbers, or with their capitals; as they are if that is ambiguous."""
    if labels.dtype.kind in "iuf":
        try:
            return names.astype(labels.dtype)
        except (OverflowError, ValueError):
            return names
    spellings = {str(label).casefold(): label for label in labels.tolist()}
    if len(spellings) < len(labels) or len({name.casefold() for name in names}) < len(names):
        return names
    return np.array([spellings.get(name.casefold(), name) for name in names])
