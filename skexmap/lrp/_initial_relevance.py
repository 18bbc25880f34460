"""The relevance that the explained logit starts with, in numbers that every floating type can hold."""

import torch

from skexmap.lrp._rules import stabilize

# In float16 the explained logit starts with this relevance, unless its coefficient then is too near the largest number.
HALF_START = 2.0**6
HALF_LARGEST = 2.0**13
# Relative to the largest, relevance below this on a value of zero is what `away_from_zero` left there.
RESIDUE = 2.0**-40


def initial_coefficient(logits, target, initial_relevance):
    """Return the coefficient of the logits: relevance 1 (or the logit) at the target, zero elsewhere."""
    # Half precision cannot hold the coefficient of a logit near 0.
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    initial = torch.zeros_like(logits)
    target = torch.as_tensor(target, device=logits.device, dtype=torch.long)
    if logits.shape[1] == 1:
        # The logit of class 0 is minus the only logit: started at 1, both sides have the same coefficient 1 / z.
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
    """Return the coefficient in the type of the logits, in units that float16 can hold, and the unit of each image."""
    # float16 holds nothing below 6e-8: shared among all pixels of a photograph, a relevance of 1 vanishes, and the
    # coefficient of a logit near 0 overflows. Relevance is proportional to its start, so each image starts with more.
    if dtype != torch.float16:
        return initial.to(dtype), None
    largest = initial.abs().amax(1)
    unit = largest / (largest * HALF_START).clamp(max=HALF_LARGEST)
    return (initial / unit[:, None]).to(dtype), unit


def without_residue(relevance, x):
    """Return the relevance with that of zeros at exactly zero, where the rule gives them none."""
    # What is left there (about 1e-20 of the largest) is small enough to make products of maps subnormal numbers, with
    # which processors take a hundred times longer.
    largest = relevance.abs().flatten(1).amax(1).reshape(-1, *[1] * (relevance.ndim - 1))
    return relevance.masked_fill_((x == 0) & (relevance.abs() < RESIDUE * largest), 0.0)
