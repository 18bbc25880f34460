"""The relevance rules: how a layer's relevance is shared among its inputs.

What autograd carries from layer to layer is not the relevance ``R`` but the *coefficient* ``c = R / x`` of the tensor
``x`` it belongs to. In this form the rule "share in proportion to the contribution" (sums, average pools, ReLU,
dropout, reshaping, multiplication by a constant) is the ordinary gradient and costs nothing extra. The multiplication
by the input happens once, at the image. A weighted layer gets the rule of the composite: `Rule.coefficient` takes the
coefficient of its output and returns that of its input.
"""

import torch


def tiny(dtype):
    """Return what replaces smaller inputs when relevance is divided by its input."""
    # The multiplication at the image undoes the division exactly, because these are powers of two. So pixels that are
    # exactly zero keep their relevance (flat, z-box). float16 has no smaller normal number than 2^-14.
    return 2.0**-14 if dtype == torch.float16 else 2.0**-60


def away_from_zero(x):
    """Return x with smaller entries replaced by `tiny` with their sign (positive for zero)."""
    return x.abs().clamp_(min=tiny(x.dtype)).copysign_(x)


def stabilize(z, epsilon, *, nonnegative=False):
    """Return ``z + epsilon * sign(z)``, where the sign of zero is positive; infinity for 0 without an epsilon."""
    if not torch.tensor(epsilon, dtype=z.dtype):
        # A share of nothing is nothing: what is divided by infinity is zero.
        return z.masked_fill(z == 0, torch.inf)
    if nonnegative:
        return z + epsilon
    return torch.full_like(z, epsilon).copysign_(z).add_(z)


class Rule:
    """A relevance rule for layers with weights; subclass it to write your own.

    Override `relevance` (simple) or `coefficient` (fast; must be proportional to the input).

    Attributes
    ----------
    proportional : bool
        Whether the relevance of an input is a multiple of the input, so that an input of zero gets none.
    """

    proportional = False

    def relevance(self, layer, relevance):
        """Share the relevance of a layer's outputs among its inputs.

        Parameters
        ----------
        layer : skexmap.lrp.WeightedLayer
            The layer, with ``layer.input``, ``layer.output``, ``layer.weight``, ``layer.bias``, and with
            ``layer.apply(x, weight, bias)`` and ``layer.transpose(s, weight)`` for any weights of the same shape.
        relevance : tensor of the shape of the output

        Returns
        -------
        relevance : tensor of the shape of the input
        """
        raise NotImplementedError(f"{type(self).__name__} must override `relevance` or `coefficient`.")

    def coefficient(self, layer, coefficient):
        """Turn the coefficient (relevance / value) of a layer's output into that of its input."""
        relevance = self.relevance(layer, away_from_zero(layer.output) * coefficient)
        return relevance / away_from_zero(layer.input)

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other):
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self):
        return hash(repr(self))


class Epsilon(Rule):
    """LRP-epsilon: relevance in proportion to ``x_i w_ij``, with a stabilized denominator (Bach et al. 2015, eq. 58).

    Parameters
    ----------
    epsilon : float, default=1e-6
        Added to the denominator with its sign; absorbs relevance where contributions cancel. With 0, a neuron whose
        output is zero passes nothing on.
    """

    proportional = True

    def __init__(self, epsilon=1e-6):
        self.epsilon = epsilon

    def coefficient(self, layer, coefficient):
        is_nonnegative = layer.rectified and layer.preactivation is layer.output
        denominator = stabilize(layer.preactivation, self.epsilon, nonnegative=is_nonnegative)
        # Work in place: new memory for a feature map costs more than the arithmetic on it.
        share = torch.div(layer.output, denominator, out=denominator).mul_(coefficient)
        return layer.transpose(share, layer.weight)


class Gamma(Rule):
    r"""LRP-gamma, sign-symmetric: contributions with the sign of the output are weighted by ``1 + gamma``.

    Let ``P`` and ``N`` be the positive and negative parts of the pre-activation ``z = P + N``. If ``P >= |N|``, the
    denominator is ``z + gamma P`` and positive contributions are weighted by ``1 + gamma``. Otherwise the denominator
    is ``z + gamma N`` and negative contributions get this weight (Montavon et al. 2019, made sign-symmetric as in
    Andeol et al. 2021 and ExMap).

    Parameters
    ----------
    gamma : float, default=4.0
        How strongly contributions with the sign of the output are favored; 0 gives `Epsilon`.
    epsilon : float, default=1e-6
        Stabilizer of the denominator.

    Notes
    -----
    With ``A = |x| |w| + |b|``, the parts are ``P = (z + A) / 2`` and ``N = (z - A) / 2``. So for inputs of any sign the
    denominator is ``sign(z) ((1 + gamma/2) |z| + gamma/2 A)`` and the numerator is
    ``(1 + gamma/2) x w + sign(z) gamma/2 |x| |w|``, which take one extra forward and two transposed operations. If the
    input is non-negative and relevance arrives only at positive outputs (a ReLU follows), both reduce to the weights
    ``w + gamma w+``, which take one extra forward and one transposed operation.
    """

    proportional = True

    def __init__(self, gamma=4.0, epsilon=1e-6):
        self.gamma = gamma
        self.epsilon = epsilon

    def coefficient(self, layer, coefficient):
        # Divide before the coefficient comes in: the quotients are at most 1, so that they never overflow.
        half = self.gamma / 2
        smallest = max(self.epsilon, tiny(layer.input.dtype))
        if layer.rectified and layer.input_nonnegative:
            # Put the stabilizer into the bias to save a pass over the feature map.
            weight, bias = layer.weights("plus", 1.0, self.gamma, shift=self.epsilon)
            # At least (1 + gamma) z + epsilon where z > 0; elsewhere the share is zero for any denominator.
            denominator = layer.apply(layer.input, weight, bias).clamp_(min=smallest)
            share = torch.div(layer.output, denominator, out=denominator).mul_(coefficient)
            return layer.transpose(share, weight)
        signed_weight, _ = layer.weights("plus", 1 + half, 0.0)
        absolute_weight, absolute_bias = layer.weights("absolute", half, shift=smallest)
        absolute_input = layer.input if layer.input_nonnegative else layer.input.abs()
        denominator = layer.apply(absolute_input, absolute_weight, absolute_bias)
        z = layer.preactivation
        if layer.rectified:
            # Where z is negative, the output is zero, and so is the share for any denominator but zero.
            denominator.add_(z, alpha=1 + half)
            if z is not layer.output:
                denominator.clamp_(min=smallest)
            share = torch.div(layer.output, denominator, out=denominator).mul_(coefficient)
            signed, absolute = layer.transpose_two(share, signed_weight, absolute_weight)
        else:
            magnitude = z.abs()
            denominator.add_(magnitude, alpha=1 + half)
            magnitude.div_(denominator).mul_(coefficient)
            share = torch.div(z, denominator, out=denominator).mul_(coefficient)
            if layer.input_nonnegative:
                return layer.transpose_sum((magnitude, share), (signed_weight, absolute_weight))
            signed = layer.transpose(magnitude, signed_weight)
            absolute = layer.transpose(share, absolute_weight)
        return torch.addcmul(signed, absolute, torch.sign(layer.input, out=absolute_input))


class AlphaBeta(Rule):
    """LRP-alpha-beta: positive and negative contributions normalized separately (Bach et al. 2015, eq. 60).

    With alpha 1 and beta 0 it is LRP-z-plus, the rule of deep Taylor decomposition (Montavon et al. 2017).

    Parameters
    ----------
    alpha, beta : float, default=2.0 and 1.0
        Weights of the two parts; ``alpha - beta`` must be 1 for relevance to be conserved.
    epsilon : float, default=1e-6
        Stabilizer of the denominators.
    """

    proportional = True

    def __init__(self, alpha=2.0, beta=1.0, epsilon=1e-6):
        if alpha < 0 or beta < 0 or abs(alpha - beta - 1) > 1e-9:
            raise ValueError(
                f"alpha={alpha!r} and beta={beta!r} must not be negative, and alpha - beta must be 1."
            )
        self.alpha = alpha
        self.beta = beta
        self.epsilon = epsilon

    def coefficient(self, layer, coefficient):
        relevance = coefficient * layer.output
        result = _part_coefficient(layer, relevance, "positive", self.alpha, self.epsilon)
        if self.beta:
            result = result + _part_coefficient(layer, relevance, "negative", -self.beta, self.epsilon)
        return result


def _part_coefficient(layer, relevance, part, factor, epsilon):
    """Share `factor` x relevance among the contributions of one sign; return the coefficient of the input."""
    other = "negative" if part == "positive" else "positive"
    same, same_bias = layer.weights(part)
    x = layer.input
    if layer.input_nonnegative:
        total = layer.apply(x, same, same_bias)
        return layer.transpose(relevance * factor / stabilize(total, epsilon), same)
    opposite, _ = layer.weights(other)
    positive_x, negative_x = x.clamp(min=0), x.clamp(max=0)
    total = layer.apply(positive_x, same, same_bias) + layer.apply(negative_x, opposite, None)
    share = relevance * factor / stabilize(total, epsilon)
    return torch.where(x > 0, layer.transpose(share, same), layer.transpose(share, opposite))


class ZBox(Rule):
    """LRP-z-box (deep Taylor decomposition) for pixels confined to a box (Montavon et al. 2017, eq. 15).

    Parameters
    ----------
    low, high : float or sequence of floats, one per channel, default=0.0 and 1.0
        Smallest and largest value that the layer's input can take.
    epsilon : float, default=1e-6
        Stabilizer of the denominator.

    Raises
    ------
    ValueError
        If an input lies outside the box.
    """

    def __init__(self, low=0.0, high=1.0, epsilon=1e-6):
        self.low = low
        self.high = high
        self.epsilon = epsilon

    def relevance(self, layer, relevance):
        x = layer.input
        low, high = _bound(self.low, x), _bound(self.high, x)
        tolerance = 1e-4 * (high - low).abs()
        outside = ((x < low - tolerance) | (x > high + tolerance)).flatten(1).any(1)
        if outside.any():
            raise ValueError(
                f"{int(outside.sum())} of {len(x)} images have values outside the box of the z-box rule "
                f"(low={self.low!r}, high={self.high!r}; found {x.min():.4g} to {x.max():.4g}). Pass the range of your "
                "normalized pixels, for example COMPOSITES['epsilon_gamma_box'](low=-2.2, high=2.7)."
            )
        positive, negative = layer.weights("positive")[0], layer.weights("negative")[0]
        z = (
            layer.apply(x, layer.weight, None)
            - layer.apply(low, positive, None)
            - layer.apply(high, negative, None)
        )
        share = relevance / stabilize(z, self.epsilon)
        return (
            x * layer.transpose(share, layer.weight)
            - low * layer.transpose(share, positive)
            - high * layer.transpose(share, negative)
        )


def _bound(value, x):
    """Broadcast a bound (one number, or one per channel) to the shape of x."""
    bound = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if bound.ndim == 1:
        bound = bound.reshape(1, -1, *[1] * (x.ndim - 2))
    return bound.expand_as(x)


class Flat(Rule):
    """LRP-flat: relevance spread evenly over a neuron's inputs (Lapuschkin et al. 2019).

    Parameters
    ----------
    epsilon : float, default=1e-6
        Stabilizer of the denominator.
    """

    def __init__(self, epsilon=1e-6):
        self.epsilon = epsilon

    def relevance(self, layer, relevance):
        ones = torch.ones_like(layer.weight)
        count = layer.apply(torch.ones_like(layer.input), ones, None)
        return layer.transpose(relevance / stabilize(count, self.epsilon), ones)
