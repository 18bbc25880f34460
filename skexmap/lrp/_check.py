"""check_model: report how the relevance engine treats each operation of a model."""

import contextlib
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from skexmap._torch import Replica, pick_device, scripted_modules
from skexmap.lrp._engine import RelevanceEngine
from skexmap.lrp._initial_relevance import initial_coefficient
from skexmap.lrp._logits import check_finite, find_logits, logits_differ, probabilities
from skexmap.lrp._method import LRP
from skexmap.lrp._rules import away_from_zero
from skexmap.lrp._tracer import REMEDY


@dataclass(frozen=True)
class LayerReport:
    """How much relevance a layer received, and how much of it the layer passed on.

    Attributes
    ----------
    name : str
        Name of the module that owns the weights; ``"?"`` if none does.
    operation : str
        ``"convolution"``, ``"dense"``, ``"batch_norm"`` or ``"normalization"``.
    rule : Rule
    given : float
        Relevance that arrived at the layer's output, averaged over the images (each started with 1). Layers on parallel
        branches share it.
    kept : float
        Share of it that the layer passed on to its input; biases and stabilizers absorb the rest. It is the slope of
        passed-on against received relevance over the images, so signs do not cancel.
    """

    name: str
    operation: str
    rule: object
    given: float
    kept: float


@dataclass(frozen=True)
class MissingRule:
    """An operation of a model that has no relevance rule.

    Attributes
    ----------
    operation : str
        Name of the torch function, or of the autograd node that made the tensor.
    where : str
        Module and line of code.
    why : str
        Reason and remedy; may be empty.
    """

    operation: str
    where: str
    why: str


@dataclass
class ModelReport:
    """What `check_model` found; prints as a table.

    Attributes
    ----------
    operations : list of tuple (str, str, int)
        Torch function, rule and number of calls, in the order of their first call.
    layers : list of LayerReport
        Every call of a layer with weights or a normalization, from the image to the logits; empty if a rule is missing.
    missing : list of MissingRule
        All operations without a rule.
    n_images : int
        Number of images in the example.
    n_negative_targets : int
        Number of images whose explained logit is negative. Started with relevance 1, their maps have flipped signs.
    pixel_relevance : ndarray of shape (n_images,) or None
        Sum of each map; 1 if the layers lose nothing. None if a rule is missing.
    complete : bool
        Whether the forward pass could be traced to its end.
    """

    operations: list = field(default_factory=list)
    layers: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    n_images: int = 0
    n_negative_targets: int = 0
    pixel_relevance: object = None
    complete: bool = True

    @property
    def ok(self):
        """Whether every operation of the model has a rule."""
        return not self.missing

    def __str__(self):
        parts = []
        if self.missing:
            rows = [(m.operation, m.where, m.why) for m in self.missing]
            parts.append(_table(("without a rule", "where", "why"), rows))
            parts.append(f"Rewrite these steps with supported operations. {REMEDY}")
            if not self.complete:
                parts.append("The forward pass could not be followed beyond the last of these.")
        parts.append(_table(("operation", "rule", "calls"), self.operations))
        if self.layers:
            rows = [(r.name, r.operation, r.rule, f"{r.given:.3f}", f"{r.kept:.1%}") for r in self.layers]
            parts.append(_table(("layer", "operation", "rule", "given", "kept"), rows))
            mean, spread = np.mean(self.pixel_relevance), np.std(self.pixel_relevance)
            parts.append(f"Relevance that reaches the pixels, of 1: {mean:.3f} (spread {spread:.3f}).")
        if self.complete:
            parts.append(
                f"The explained logit is negative on {self.n_negative_targets} of {self.n_images} images."
            )
        return "\n\n".join(parts)


@torch.inference_mode(False)
def check_model(model, example, *, composite="epsilon_gamma", target="predicted", device="cpu"):
    """Report which relevance rule each operation of a model gets.

    A copy of the model runs, so the model does not change. Operations without a rule do not raise an error: the report
    lists them all.

    Parameters
    ----------
    model : torch.nn.Module
        Classifier that returns logits of shape (n, n_logits), or a tuple with them first.
    example : array-like or tensor of shape (n, ...)
        A few images, as the model takes them.
    composite : str or Composite, default="epsilon_gamma"
        Which rule each layer gets. Other settings are passed as, for example,
        ``COMPOSITES["epsilon_gamma"](gamma=1.0)``.
    target : "predicted" or int, default="predicted"
        The class whose logit is explained.
    device : str, default="cpu"
        Where to compute.

    Returns
    -------
    report : ModelReport
        ``report.ok`` is True if every operation has a rule; ``print(report)`` shows a table.

    Raises
    ------
    TypeError, ValueError
        If `model` is not a torch module, or does not return finite logits of shape (n, n_logits).

    Examples
    --------
    >>> import torch
    >>> from skexmap.lrp import check_model
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
    ...     torch.nn.Linear(4 * 36, 2),
    ... )
    >>> report = check_model(net, torch.rand(8, 3, 8, 8))
    >>> report.ok
    True
    >>> for operation, rule, n_calls in report.operations:
    ...     print(operation, "|", rule, "|", n_calls)
    conv2d | Gamma(gamma=4.0, epsilon=1e-06) | 1
    batch_norm | folded into the layer before it | 1
    relu | pass | 1
    flatten | pass | 1
    linear | Epsilon(epsilon=1e-06) | 1
    >>> [layer.name for layer in report.layers]
    ['0', '4']
    """
    report = ModelReport()
    for name in scripted_modules(model):
        where = f"in '{name}'" if name else "the model"
        report.missing.append(MissingRule("scripted or traced", where, "Pass the original Python module."))
    if report.missing:
        report.complete = False
        return report
    lrp = LRP(composite, target=target)
    engine_composite = lrp.resolved()
    replica = Replica(model, pick_device(device))
    images = replica.prepared(torch.as_tensor(example))
    with torch.no_grad():
        plain = find_logits(replica.module(images), len(images))
    check_finite(plain)
    report.n_images = len(images)
    chosen = lrp.choose_target(plain)
    explained = (plain * initial_coefficient(plain, chosen, "logit")).sum(1)
    report.n_negative_targets = int((explained < 0).sum())
    _fill(report, RelevanceEngine(replica.module, engine_composite), images, plain, chosen)
    return report


def _fill(report, engine, images, plain, chosen):
    """Trace the forward pass, run the backward pass, and record both in the report."""
    notes = []
    with contextlib.ExitStack() as stack:
        try:
            tracer, leaf, logits = stack.enter_context(engine.traced(images, notes, constants=[]))
        except Exception as error:
            _describe(notes, report)
            # An operation without a rule runs as it is and may fail: a NumPy function does on a tensor that requires
            # grad.
            if not report.missing:
                raise
            report.complete = False
            last = report.missing[-1]
            report.missing[-1] = replace(last, why=f"{last.why} {type(error).__name__}: {error}".strip())
            return
        _describe(notes, report)
        wrong = probabilities(logits)
        if not (wrong or report.missing):
            wrong = logits_differ(logits.detach(), plain) or engine.hidden_computation(
                images, tracer.constants
            )
        if wrong:
            report.missing.append(MissingRule("output", "at the model's end", wrong))
        if report.missing:
            return
        flows = [_RelevanceFlow(note) for note in notes if note.layer is not None]
        initial = initial_coefficient(logits.detach(), chosen, "one")
        (coefficient,) = torch.autograd.grad(logits, leaf, initial)
        report.pixel_relevance = _per_image(coefficient * away_from_zero(leaf.detach()))
        # If a batch-norm or ReLU was folded into a layer, the node of its first note has no backward pass.
        report.layers = [flow.report() for flow in flows if flow.given is not None]


def _describe(notes, report):
    """Count the operations by rule and collect those without a rule."""
    counts = Counter((note.operation, note.rule) for note in notes if note.rule is not None)
    report.operations = [(operation, rule, n) for (operation, rule), n in counts.items()]
    report.missing = [
        MissingRule(note.operation, note.where.strip(), note.why) for note in notes if note.rule is None
    ]


class _RelevanceFlow:
    """The relevance that arrives at the node of a layer and leaves it."""

    def __init__(self, note):
        self.layer = note.layer
        self.input, self.output = note.layer.input.detach(), note.output.detach()
        self.given = self.passed_on = None
        note.output.grad_fn.register_hook(self.measure)

    def measure(self, to_inputs, to_outputs):
        self.given = _per_image(to_outputs[0] * self.output)
        self.passed_on = _per_image(to_inputs[0] * self.input)

    def report(self):
        kept = float(self.passed_on @ self.given / (self.given @ self.given).clip(min=1e-300))
        layer = self.layer
        return LayerReport(layer.name, layer.operation, layer.rule, float(self.given.mean()), kept)


def _per_image(values):
    return values.flatten(1).sum(1).double().cpu().numpy()


def _table(head, rows):
    """Align rows in columns and underline the head."""
    cells = [tuple(map(str, head)), *(tuple(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
