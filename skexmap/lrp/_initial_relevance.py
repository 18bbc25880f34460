"""The initial relevance of the explained logit, scaled so that every floating type can hold it."""

import torch

from skexmap._torch import widened
from skexmap.lrp._rules import stabilize

# Initial relevance in float16. It is smaller if the coefficient would otherwise exceed `HALF_LARGEST`.
HALF_START = 2.0**6
HALF_LARGEST = 2.0**13
# Relevance of a zero input below this, relative to the largest, is a residue of `away_from_zero`.
RESIDUE = 2.0**-40
NOTHING = 1e-36


def initial_coefficient(logits, target, initial_relevance):
    """Return the coefficient of the logits: relevance 1 (or the logit) at the target, zero elsewhere."""
    # Half precision cannot hold the coefficient of a logit near 0.
    logits = widened(logits)
    initial = torch.zeros_like(logits)
    target = torch.as_tensor(target, device=logits.device, dtype=torch.long)
    if logits.shape[1] == 1:
        # The logit of class 0 is minus the only logit, so for a relevance of 1 both have the coefficient 1 / z.
        if initial_relevance == "logit":
            return torch.where(target == 1, 1.0, -1.0).to(logits.dtype).unsqueeze(1)
        return 1 / stabilize(logits, 1e-12)
    rows = torch.arange(len(logits), device=logits.device)
    chosen = logits[rows, target]
    initial[rows, target] = (
        torch.ones_like(chosen) if initial_relevance == "logit" else 1 / stabilize(chosen, 1e-12)
    )
    return initial


def within_range(initial, dtype):
    """Return the coefficient in the type of the logits, scaled to fit into float16, and the scale of each image."""
    # float16 holds nothing below 6e-8. A relevance of 1 vanishes if it is shared among all pixels of a photograph, and
    # the coefficient of a logit near 0 overflows. Relevance is proportional to its initial value, so start with more.
    if dtype != torch.float16:
        return initial.to(dtype), None
    largest = initial.abs().amax(1)
    unit = largest / (largest * HALF_START).clamp(max=HALF_LARGEST)
    return (initial / unit[:, None]).to(dtype), unit


def without_residue(relevance, x):
    """Return the relevance with exact zeros at the inputs of zero to which the rule gives none."""
    # The residue there (about 1e-20 of the largest) is small enough to make products of maps subnormal numbers, which
    # processors handle a hundred times more slowly.
    largest = relevance.abs().flatten(1).amax(1).reshape(-1, *[1] * (relevance.ndim - 1))
    # If an image turns every activation off, rounding is left of the relevance of 1: make it zero before it is scaled.
    relevance = relevance.masked_fill_(largest < NOTHING, 0.0)
    return relevance.masked_fill_((x == 0) & (relevance.abs() < RESIDUE * largest), 0.0)
