"""Which heatmaps of a group are the most typical ones."""

import numpy as np


def unit_sum(maps):
    """Return the magnitude of maps, each divided by its sum; a map of zeros is spread evenly."""
    maps = np.abs(maps).astype(np.float64)
    sums = maps.sum(axis=(1, 2, 3), keepdims=True)
    even = 1 / np.prod(maps.shape[1:])
    return np.divide(maps, sums, out=np.full_like(maps, even), where=sums > 0)


def most_typical_first(maps):
    """Return the order of maps by the squared distance of their magnitude, as shares, from the mean of these."""
    maps = unit_sum(maps)
    return np.argsort(((maps - maps.mean(axis=0)) ** 2).sum(axis=(1, 2, 3)), kind="stable")
