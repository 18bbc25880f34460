"""Transformers from images to heatmaps and embeddings."""

from skexmap.features._embeddings import EmbeddingTransformer
from skexmap.features._heatmaps import HeatmapTransformer
from skexmap.features._loading import ImageLoader

__all__ = ["EmbeddingTransformer", "HeatmapTransformer", "ImageLoader"]
