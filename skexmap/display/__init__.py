"""Matplotlib displays of heatmaps, groups and clusters."""

from skexmap.display._cluster_map import ClusterMapDisplay
from skexmap.display._eigengap import EigengapDisplay
from skexmap.display._group_accuracy import GroupAccuracyDisplay
from skexmap.display._group_gallery import GroupGalleryDisplay
from skexmap.display._heatmaps import HeatmapDisplay

__all__ = [
    "ClusterMapDisplay",
    "EigengapDisplay",
    "GroupAccuracyDisplay",
    "GroupGalleryDisplay",
    "HeatmapDisplay",
]
