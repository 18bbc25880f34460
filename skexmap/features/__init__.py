"""Transformers from images to heatmaps and embeddings."""

from skexmap.features._embeddings import EmbeddingTransformer
from skexmap.features._heatmaps import HeatmapTransformer
from skexmap.features._loading import DatasetLoader, ImageLoader

__all__ = ["DatasetLoader", "EmbeddingTransformer", "HeatmapTransformer", "ImageLoader"]
