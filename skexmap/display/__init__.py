"""Matplotlib displays of fitted attributes."""

from skexmap.display._eigengap import EigengapDisplay
from skexmap.display._group_heatmaps import GroupHeatmapDisplay

__all__ = ["EigengapDisplay", "GroupHeatmapDisplay"]
