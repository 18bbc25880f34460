"""Layer-wise relevance propagation by intercepting torch functions: rules, composites and the relevance engine."""

from skexmap.lrp._check import LayerReport, MissingRule, ModelReport, check_model
from skexmap.lrp._composites import (
    COMPOSITES,
    Composite,
    On,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    resolve_composite,
)
from skexmap.lrp._engine import Attribution, RelevanceEngine, UnsupportedOperationError
from skexmap.lrp._method import LRP
from skexmap.lrp._rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, Rule, WSquare, ZBox, ZPlus

__all__ = [
    "COMPOSITES",
    "LRP",
    "AlphaBeta",
    "Attribution",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "LayerReport",
    "MissingRule",
    "ModelReport",
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
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "resolve_composite",
]
