"""Clusterers that find how many clusters there are, and tell how far to trust them."""

from skexmap.cluster._eigengap import EigengapSpectralClustering

__all__ = ["EigengapSpectralClustering"]
