"""Composites: ordered tables that assign a rule to each weighted layer."""

import inspect
from dataclasses import dataclass
from fnmatch import fnmatchcase

from skexmap.lrp._rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox

OPERATIONS = ("convolution", "dense", "batch_norm")


@dataclass(frozen=True)
class On:
    """Which layers an entry of a `Composite` applies to.

    Parameters
    ----------
    operation : {"convolution", "dense", "batch_norm"} or None, default=None
        Kind of layer; None matches any. ``"batch_norm"`` matches those that cannot be folded into the layer before.
    layer : str or None, default=None
        Name of the module as in ``model.named_modules()``; ``*`` and ``?`` are wildcards.
    first : bool, default=False
        Match only layers with no other weighted layer between the image and them.
    """

    operation: str | None = None
    layer: str | None = None
    first: bool = False

    def __post_init__(self):
        if self.operation is not None and self.operation not in OPERATIONS:
            raise ValueError(f"Unknown operation {self.operation!r}; choose from {list(OPERATIONS)}.")

    def matches(self, layer):
        """Return whether the layer matches."""
        return (
            (self.operation is None or layer.operation == self.operation)
            and (self.layer is None or fnmatchcase(layer.name, self.layer))
            and (layer.first or not self.first)
        )


class Composite:
    """An ordered table from layers to rules; the first entry that matches a layer applies.

    Parameters
    ----------
    entries : list of (On or str, Rule)
        A string stands for ``On(operation)``.

    Raises
    ------
    TypeError, ValueError
        If an entry's rule is not a `Rule`, or if there is no entry.

    Examples
    --------
    >>> from skexmap.lrp import Composite, Epsilon, Flat, Gamma, On
    >>> composite = Composite([
    ...     (On("convolution", first=True), Flat()),
    ...     (On(layer="layer4.*"), Epsilon()),
    ...     ("convolution", Gamma(0.25)),
    ...     ("dense", Epsilon()),
    ...     ("batch_norm", Epsilon()),
    ... ])
    >>> len(composite.entries)
    5
    """

    def __init__(self, entries):
        if not entries:
            raise ValueError("A composite needs at least one entry.")
        for match, rule in entries:
            if not isinstance(rule, Rule):
                raise TypeError(f"The rule for {match!r} must be a skexmap.lrp.Rule, got {rule!r}.")
        self.entries = tuple(
            (On(match) if isinstance(match, str) else match, rule) for match, rule in entries
        )

    def rule_for(self, layer):
        """Return the rule for a layer, or None if no entry matches."""
        return next((rule for match, rule in self.entries if match.matches(layer)), None)

    @property
    def carries_zero_inputs(self):
        """Whether a rule inside the network gives relevance to inputs of zero, which a ReLU must then pass on."""
        return any(not rule.proportional and not match.first for match, rule in self.entries)

    @property
    def gives_to_zeros(self):
        """Whether any rule, at the image or inside, gives relevance to inputs of zero."""
        return any(not rule.proportional for _, rule in self.entries)

    def __repr__(self):
        return f"Composite({list(self.entries)!r})"

    def __eq__(self, other):
        return isinstance(other, Composite) and self.entries == other.entries

    def __hash__(self):
        return hash(self.entries)


def _composite(convolution, epsilon, first=None):
    """Return a composite with epsilon for dense layers and batch-norms that are not folded."""
    entries = [("convolution", convolution), ("dense", Epsilon(epsilon)), ("batch_norm", Epsilon(epsilon))]
    return Composite(([first] if first else []) + entries)


def _epsilon_gamma_box(low=0.0, high=1.0, gamma=4.0, epsilon=1e-6):
    box = (On("convolution", first=True), ZBox(low, high, epsilon))
    return _composite(Gamma(gamma, epsilon), epsilon, box)


def _alpha_beta(alpha, beta, flat=False):
    def make(epsilon=1e-6):
        return _composite(
            AlphaBeta(alpha, beta, epsilon), epsilon, (On(first=True), Flat(epsilon)) if flat else None
        )

    return make


# The first is that of the ExMap paper. Alpha-beta with 1 and 0 is z-plus.
COMPOSITES = {
    "epsilon_gamma": lambda gamma=4.0, epsilon=1e-6: _composite(Gamma(gamma, epsilon), epsilon),
    "epsilon_gamma_box": _epsilon_gamma_box,
    "epsilon_plus": _alpha_beta(1.0, 0.0),
    "epsilon_plus_flat": _alpha_beta(1.0, 0.0, flat=True),
    "epsilon_alpha2_beta1": _alpha_beta(2.0, 1.0),
    "epsilon_alpha2_beta1_flat": _alpha_beta(2.0, 1.0, flat=True),
}


def resolve_composite(composite, **settings):
    """Return the composite that a name stands for, with the settings that are not None; a `Composite` as it is."""
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(composite, Composite):
        make, name, known = (lambda: composite), "that is passed", ()
    elif composite in COMPOSITES:
        make, name = COMPOSITES[composite], repr(composite)
        known = inspect.signature(make).parameters
    else:
        raise ValueError(
            f"Unknown composite {composite!r}. Choose from {sorted(COMPOSITES)} or pass a skexmap.lrp.Composite."
        )
    without_effect = sorted(set(settings) - set(known))
    if without_effect:
        raise ValueError(
            f"{' and '.join(without_effect)} would have no effect: the composite {name} does not take "
            f"{'it' if len(without_effect) == 1 else 'them'}. Leave out the setting, or choose another composite."
        )
    return make(**settings)
