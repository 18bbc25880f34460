"""Layer-wise relevance propagation by intercepting torch functions: rules, composites and the check of a model."""

from skexmap.lrp._check import check_model
from skexmap.lrp._composites import COMPOSITES, Composite, On
from skexmap.lrp._method import LRP
from skexmap.lrp._registry import register
from skexmap.lrp._rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox
from skexmap.lrp._tracer import UnsupportedOperationError

__all__ = [
    "COMPOSITES",
    "LRP",
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "On",
    "Rule",
    "UnsupportedOperationError",
    "ZBox",
    "check_model",
    "register",
]
