"""Find the logits among a model's outputs and check whether relevance can start there."""

import dataclasses
from collections.abc import Mapping

import torch

from skexmap._torch import HALF
from skexmap.lrp._tags import tag_of

# Relative difference between the intercepted and the plain logits above which the engine refuses the model.
LOGIT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def find_logits(output, n_images):
    """Return the logits, of shape (n_images, n_logits), among what a model returns."""
    logits = logits_in(output)
    if logits.ndim < 2 and n_images == 1:
        # What `squeeze()` leaves of one image.
        logits = logits.reshape(1, -1)
    # A single logit may have shape (n_images,).
    if logits.ndim == 1 and len(logits) == n_images:
        logits = logits.unsqueeze(1)
    if logits.ndim != 2 or len(logits) != n_images:
        raise ValueError(
            f"The model must return logits of shape (n, n_logits); it returned {tuple(logits.shape)} for {n_images} "
            f"images. {first_was_taken(output)}"
        )
    return logits


def logits_in(output):
    """Return the tensor of logits: the output itself, its field "logits", its only tensor, or the first of a tuple."""
    if isinstance(output, torch.Tensor):
        return output
    fields = _fields(output)
    if "logits" in fields and isinstance(fields["logits"], torch.Tensor):
        return fields["logits"]
    tensors = {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields") and len(output):
        return logits_in(output[0])
    found = f" It has the tensors {list(tensors)}: name the one with the logits `logits`." if tensors else ""
    raise TypeError(
        f"The model returned {type(output).__name__}, not logits: it must return a tensor of shape (n, n_logits), a "
        f"tuple with that first, or one with a field `logits`.{found}"
    )


def first_was_taken(output):
    """Say that the logits are the first tensor of a tuple or list; empty if they are not."""
    if not isinstance(output, (tuple, list)) or hasattr(output, "_fields") or len(output) < 2:
        return ""
    return (
        f"The model returns a {type(output).__name__} of {len(output)}, and its first tensor was taken as the logits. "
        "If others are the logits, return those first, or a dict with them under 'logits'."
    )


def _fields(output):
    """Return the named values of a dict, namedtuple or dataclass."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return output._asdict()
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


def first_tensor(output):
    """Return the output of a hidden layer: a tensor, or the first of a tuple or list."""
    while isinstance(output, (tuple, list)) and len(output):
        output = output[0]
    return output


def check_finite(logits):
    """Raise if the model returns NaN or infinite logits."""
    bad = int((~torch.isfinite(logits)).any(1).sum())
    if bad:
        raise ValueError(f"The model returns NaN or infinite logits for {bad} of {len(logits)} images.")


def companions_matter(alone, together):
    """Describe how an image's logits depend on the images beside it; empty if they do not."""
    return _described(
        alone,
        together,
        "The logits of an image depend on the images beside it in the batch (they change by {difference:.3g}, logits "
        "up to {largest:.3g}), and so would its map. Look for statistics over the first axis, as in `x - x.mean(0)`.",
    )


def calls_differ(logits, again):
    """Describe how the logits differ from those of another call on the same images; empty if they do not."""
    return _described(
        logits,
        again,
        "The logits of the same images change from call to call (by {difference:.3g}, logits up to {largest:.3g}), "
        "although the model is in evaluation mode. It draws random numbers (`F.dropout` without `self.training`?) or "
        "keeps state between calls: remove that.",
    )


def logits_differ(logits, plain):
    """Describe how the intercepted logits differ from the plain ones; empty if they do not."""
    return _described(
        logits,
        plain,
        "The model's output changes when its operations are intercepted (by {difference:.3g}, logits up to "
        "{largest:.3g}). It is random (active dropout?), keeps state between calls, or writes in place through a "
        "view whose base is used again; write that step without in-place operations.",
    )


def _described(logits, others, text):
    """Return a text with the largest difference and the largest logit; empty if the difference is within rounding."""
    difference = float((logits - others).abs().max())
    largest = float(others.abs().max().clamp(min=torch.finfo(others.dtype).tiny))
    # NaN is not within rounding.
    is_rounding = difference <= LOGIT_TOLERANCE.get(others.dtype, 1e-3) * largest
    return "" if is_rounding else text.format(difference=difference, largest=largest)


def probabilities(logits):
    """Say so if the values are probabilities, or their logarithms; empty if they are not."""
    values = logits.detach().double()
    tolerance = 1e-2 if logits.dtype in HALF else 1e-4
    in_range = bool(((values >= -tolerance) & (values <= 1 + tolerance)).all())
    # Small logits lie between 0 and 1, too: unless the rows sum to 1, the values must come from a sigmoid.
    # Without the engine there is no tag, and only the values tell.
    tag = tag_of(logits)
    from_sigmoid = tag is not None and tag.gate
    found = in_range and (from_sigmoid or _all_one(values.sum(1), tolerance))
    found = found or (logits.shape[1] > 1 and _all_one(values.exp().sum(1), tolerance))
    if not found:
        return ""
    return (
        "The model returns probabilities, or their logarithms: relevance must start at the logits before them, because "
        "a probability mixes all logits and saturates. Remove the softmax or sigmoid at the end (for a Sequential: "
        "`model[:-1]`)."
    )


def _all_one(values, tolerance):
    return bool(((values - 1).abs() <= tolerance).all())
