"""One cached result per image, kept by joblib.Memory."""

import pickle

import joblib
import numpy as np
import torch

from skexmap.features._base import as_numpy

# Raise this whenever the engine's maps or the contents of an entry change, to invalidate older entries.
FORMAT = 2


def _keep(key, entry):
    """Return the entry for joblib.Memory to store; raise if it is None, because no readable entry is stored."""
    if entry is None:
        raise LookupError(f"The cache holds nothing readable under {key}.")
    return entry


class ImageCache:
    """Computes missing results batch by batch, and stores them image by image.

    Parameters
    ----------
    memory : str or joblib.Memory
        Where to store.
    settings : object
        Everything except the image that a result depends on (weights and parameters); hashed once.
    """

    def __init__(self, memory, settings):
        memory = joblib.Memory(memory, verbose=0) if isinstance(memory, str) else memory
        self._keep = memory.cache(_keep, ignore=["entry"])
        try:
            self._settings = joblib.hash((FORMAT, settings))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            # joblib adds a copy of all settings to the message.
            raise ValueError(
                f"`memory` needs a model and an `attribution` that can be pickled, because entries are found by their "
                f"content: {error.args[0]}. Replace lambdas, and functions and classes defined inside a function, by "
                "ones at the top level of a module, or pass memory=None."
            ) from error

    def blocks(self, images, compute):
        """Return the blocks of a batch of images."""
        keys = [self._settings + joblib.hash(image) for image in as_numpy(images.contiguous())]
        entries = [self._stored(key) for key in keys]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        if missing:
            new = {name: as_numpy(values) for name, values in compute(images[missing]).items()}
            for row, i in enumerate(missing):
                entries[i] = self._keep(keys[i], {name: values[row] for name, values in new.items()})
        return {name: torch.from_numpy(np.stack([entry[name] for entry in entries])) for name in entries[0]}

    def _stored(self, key):
        """Return the entry stored under a key; None if there is no readable entry."""
        if not self._keep.check_call_in_cache(key, None):
            return None
        try:
            return self._keep(key, None)
        except LookupError:
            return None
