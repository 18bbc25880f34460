"""Clusterers that find how many clusters there are, and tell how far to trust them."""

from skexmap.cluster._eigengap import EigengapSpectralClustering
from skexmap.cluster._overclustering import OverclusteringKMeans
from skexmap.cluster._stability import ClusterStability, cluster_stability

__all__ = [
    "ClusterStability",
    "EigengapSpectralClustering",
    "OverclusteringKMeans",
    "cluster_stability",
]
