"""Retraining strategies: linear heads on embeddings that do not lean on the shortcut."""

from skexmap.retraining._dfr import DFRClassifier, DFRClassifierCV
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._jtt import JTTReweighter
from skexmap.retraining.losses import CVaRDROLoss, GroupDROLoss

__all__ = [
    "CVaRDROLoss",
    "DFRClassifier",
    "DFRClassifierCV",
    "ERMClassifier",
    "GroupDROLoss",
    "JTTReweighter",
]
