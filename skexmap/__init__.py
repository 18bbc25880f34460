"""Find and repair the shortcuts of trained image classifiers without group labels."""

import importlib

from skexmap._exmap import ExMapClassifier, make_exmap_pipeline
from skexmap.cluster import EigengapSpectralClustering
from skexmap.export import export_model
from skexmap.features import EmbeddingTransformer, HeatmapTransformer
from skexmap.groups import PseudoGroupLabeler
from skexmap.retraining import DFRClassifier, DFRClassifierCV, JTTReweighter

__version__ = "0.1.0"

__all__ = [
    "DFRClassifier",
    "DFRClassifierCV",
    "EigengapSpectralClustering",
    "EmbeddingTransformer",
    "ExMapClassifier",
    "HeatmapTransformer",
    "JTTReweighter",
    "PseudoGroupLabeler",
    "export_model",
    "make_exmap_pipeline",
]


def __getattr__(name):
    # Only those who draw or report wait for the import of these.
    if name in ("display", "report"):
        return importlib.import_module(f"skexmap.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
