"""Clusterers that choose the number of clusters, and a measure of how stable clusters are."""

from skexmap.cluster._eigengap import EigengapSpectralClustering
from skexmap.cluster._silhouette_kmeans import SilhouetteKMeans
from skexmap.cluster._stability import cluster_stability

__all__ = ["EigengapSpectralClustering", "SilhouetteKMeans", "cluster_stability"]
