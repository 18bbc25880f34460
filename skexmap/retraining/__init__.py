"""Retraining strategies: linear heads on embeddings that do not lean on the shortcut."""

from skexmap.retraining._dfr import DFRClassifier, DFRClassifierCV

__all__ = ["DFRClassifier", "DFRClassifierCV"]
