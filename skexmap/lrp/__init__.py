"""Layer-wise relevance propagation by intercepting torch functions: rules, composites and the relevance engine."""

from skexmap.lrp._check import check_model
from skexmap.lrp._composites import (
    COMPOSITES,
    Composite,
    On,
    epsilon_gamma,
    epsilon_gamma_box,
)
from skexmap.lrp._engine import RelevanceEngine, UnsupportedOperationError
from skexmap.lrp._method import LRP
from skexmap.lrp._rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, Rule, WSquare, ZBox, ZPlus

__all__ = [
    "COMPOSITES",
    "LRP",
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Norm",
    "On",
    "Pass",
    "RelevanceEngine",
    "Rule",
    "UnsupportedOperationError",
    "WSquare",
    "ZBox",
    "ZPlus",
    "check_model",
    "epsilon_gamma",
    "epsilon_gamma_box",
]
