"""Retraining strategies: linear heads on embeddings that do not lean on the shortcut."""

from skexmap.retraining._afr import AFRClassifier
from skexmap.retraining._cvar_dro import CVaRDROClassifier, CVaRDROLoss
from skexmap.retraining._dfr import DFRClassifier
from skexmap.retraining._dfr_cv import DFRClassifierCV
from skexmap.retraining._divdis import DivDisClassifier
from skexmap.retraining._eiil import EIILLabeler
from skexmap.retraining._erm import ERMClassifier
from skexmap.retraining._group_dro import GroupDROClassifier, GroupDROLoss
from skexmap.retraining._jtt import JTTClassifier
from skexmap.retraining._lff import LfFClassifier

__all__ = [
    "AFRClassifier",
    "CVaRDROClassifier",
    "CVaRDROLoss",
    "DFRClassifier",
    "DFRClassifierCV",
    "DivDisClassifier",
    "EIILLabeler",
    "ERMClassifier",
    "GroupDROClassifier",
    "GroupDROLoss",
    "JTTClassifier",
    "LfFClassifier",
]
