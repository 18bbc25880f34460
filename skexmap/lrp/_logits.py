"""Find the logits among a model's outputs and check whether relevance can start there."""

import torch

from skexmap.lrp._tags import tag_of

# Relative difference between the intercepted and the plain logits above which the engine refuses the model.
LOGIT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def first_output(output):
    """Return the logits among a model's outputs: the tensor itself, the first in a tuple, or the entry "logits"."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, (tuple, list)) and output:
        return first_output(output[0])
    if hasattr(output, "keys") and "logits" in output.keys():  # noqa: SIM118 (model outputs are not plain dicts)
        return output["logits"]
    raise TypeError(
        f"The model returned {type(output).__name__}, not logits: it must return a tensor of shape (n, n_logits), or a "
        "tuple with that first."
    )


def check_logits(logits, n_images):
    """Raise unless the logits have shape (n_images, n_logits) and are finite."""
    if logits.ndim != 2 or len(logits) != n_images:
        hint = " Return `logits.unsqueeze(1)` for a model with one logit." if logits.ndim == 1 else ""
        raise ValueError(
            f"The model must return logits of shape (n, n_logits); it returned {tuple(logits.shape)} for {n_images} "
            f"images.{hint}"
        )
    bad = int((~torch.isfinite(logits)).any(1).sum())
    if bad:
        raise ValueError(f"The model returns NaN or infinite logits for {bad} of {n_images} images.")


def logits_differ(logits, plain):
    """Describe how the intercepted logits differ from the plain ones; empty if they do not."""
    difference = (logits - plain).abs().max()
    scale = plain.abs().max().clamp(min=torch.finfo(plain.dtype).tiny)
    if difference <= LOGIT_TOLERANCE.get(plain.dtype, 1e-3) * scale:
        return ""
    return (
        f"The model's output changes when its operations are intercepted (by {float(difference):.3g}, logits up to "
        f"{float(scale):.3g}). It is random (active dropout?), keeps state between calls, or writes in place through a "
        "view whose base is used again; write that step without in-place operations."
    )


def probabilities(logits):
    """Describe the function that has turned the logits into probabilities; empty if there is none."""
    gate = tag_of(logits).gate
    if gate is None:
        return ""
    return (
        f"The model ends in a {gate}: relevance must start at the logits before it, because a probability mixes all of "
        "them and saturates. Remove that last layer (for a Sequential: `model[:-1]`)."
    )
