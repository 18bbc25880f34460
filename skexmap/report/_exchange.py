"""Does the content of a place decide what the model predicts? Exchange it between images, and see."""

import numpy as np
import torch
import torch.nn.functional as F

from skexmap._blocks import PREDICTED
from skexmap._exmap import embeddings_like
from skexmap.features._loading import read_images
from skexmap.groups._predictions import codes_in_block
from skexmap.report._places import concentration

# Number of images that get the content of another one.
N_EXCHANGED = 50


class Exchanger:
    """Gives images outside a cluster, if not yet assigned to its class, the content of its images, and counts."""

    def __init__(self, transformer, X, classes, predicted, inside, target, rng):
        self.transformer, self.classes, self.target = transformer, classes, target
        outside = np.flatnonzero(~inside & (predicted != target))
        givers = np.flatnonzero(inside & (predicted == target))
        self.possible = len(outside) > 1 and len(givers) > 0
        self.n_takers = min(len(outside), N_EXCHANGED) if self.possible else 0
        if self.possible:
            takers = rng.permutation(outside)[:N_EXCHANGED]
            self.takers = read_images(X, transformer.load, takers)
            self.givers = read_images(X, transformer.load, rng.choice(givers, len(takers)))
            # For comparison, each image outside gets the content of the next one.
            self.others = np.roll(self.takers, 1, axis=0)

    def most_decisive(self, candidates, mean_map, mean_map_outside):
        """Return the place whose relevance and content decide most, and what share follows it, and by comparison."""
        best = (-1.0, candidates[0], np.nan, np.nan)
        for place in candidates if self.possible else []:
            if place.kind == "channel" and self.takers.shape[1] != len(mean_map):
                continue
            followed, control = self._share(place, self.givers), self._share(place, self.others)
            value = concentration(place, mean_map, mean_map_outside) * max(followed - control, 0)
            if value > best[0]:
                best = (value, place, followed, control)
        return best[1:]

    def _share(self, place, givers):
        if place.mask is None:
            mixed = recolored(self.takers, givers)
        else:
            mixed = np.where(enlarged(place.mask, self.takers.shape[2:]), givers, self.takers)
        # These are images already, whatever `load` makes of the rows of X.
        embedder = embeddings_like(self.transformer, fitted=True, return_predicted=True).set_params(load=None)
        blocks = embedder.transform(torch.from_numpy(mixed.astype(np.float32)))
        return float(np.mean(codes_in_block(blocks[PREDICTED], self.classes) == self.target))


def enlarged(mask, shape):
    """Return a mask of a map at the size of the image."""
    plane = torch.from_numpy(mask.astype(np.float32))[None, None]
    return F.interpolate(plane, size=tuple(shape), mode="nearest")[0, 0].numpy() > 0.5


def recolored(images, givers):
    """Return the gray structure of images, with the mean and the deviation of other images in each channel."""
    gray = images.mean(axis=1, keepdims=True)
    gray = gray - gray.mean(axis=(2, 3), keepdims=True)
    structure = gray / np.maximum(gray.std(axis=(2, 3), keepdims=True), 1e-6)
    return givers.mean(axis=(2, 3), keepdims=True) + givers.std(axis=(2, 3), keepdims=True) * structure
