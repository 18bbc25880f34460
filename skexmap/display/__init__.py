"""Matplotlib displays of fitted attributes."""

from ._eigengap import EigengapDisplay
from ._group_heatmaps import GroupHeatmapDisplay

__all__ = ["EigengapDisplay", "GroupHeatmapDisplay"]
