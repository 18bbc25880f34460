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


def _flat(epsilon):
    return On(first=True), Flat(epsilon)


def epsilon_gamma(gamma=4.0, epsilon=1e-6):
    """Return the composite of the ExMap paper: gamma for convolutions."""
    return _composite(Gamma(gamma, epsilon), epsilon)


def epsilon_gamma_box(low=0.0, high=1.0, gamma=4.0, epsilon=1e-6):
    """Return `epsilon_gamma` with z-box for the first convolutions, whose pixels lie between low and high."""
    return _composite(
        Gamma(gamma, epsilon), epsilon, (On("convolution", first=True), ZBox(low, high, epsilon))
    )


def epsilon_plus(epsilon=1e-6):
    """Return the composite with z-plus for convolutions."""
    return _composite(AlphaBeta(1.0, 0.0, epsilon), epsilon)


def epsilon_plus_flat(epsilon=1e-6):
    """Return `epsilon_plus` with the flat rule for the first layers."""
    return _composite(AlphaBeta(1.0, 0.0, epsilon), epsilon, _flat(epsilon))


def epsilon_alpha2_beta1(epsilon=1e-6):
    """Return the composite with alpha-beta (2, 1) for convolutions."""
    return _composite(AlphaBeta(2.0, 1.0, epsilon), epsilon)


def epsilon_alpha2_beta1_flat(epsilon=1e-6):
    """Return `epsilon_alpha2_beta1` with the flat rule for the first layers."""
    return _composite(AlphaBeta(2.0, 1.0, epsilon), epsilon, _flat(epsilon))


COMPOSITES = {
    make.__name__: make
    for make in (
        epsilon_gamma,
        epsilon_gamma_box,
        epsilon_plus,
        epsilon_plus_flat,
        epsilon_alpha2_beta1,
        epsilon_alpha2_beta1_flat,
    )
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
