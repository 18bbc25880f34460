"""The relevance rules written out with explicit matrices in NumPy, from the papers and not from skexmap's code.

Every linear layer is turned into ``z_j = sum_i x_i W[j, i] + b[j]`` by showing the torch layer the unit vectors. A rule
maps the relevance of the outputs to that of the inputs; all functions work on one sample.
"""

import numpy as np
import torch
from torch import nn

EPSILON = 1e-6


def matrix_of(layer, input_shape):
    """Return W of shape (n_out, n_in), b of shape (n_out,), and the output's shape, of a torch layer on one sample."""
    n_in = int(np.prod(input_shape))
    with torch.no_grad():
        zero = layer(torch.zeros(1, *input_shape, dtype=torch.float64))
        units = layer(torch.eye(n_in, dtype=torch.float64).reshape(n_in, *input_shape))
    W = (units - zero).reshape(n_in, -1).T.numpy()
    return W, zero.flatten().numpy(), tuple(zero.shape[1:])


def stabilized(z, epsilon=EPSILON):
    """Return z moved away from zero by epsilon, upward at zero."""
    return z + epsilon * np.where(z >= 0, 1, -1)


def epsilon_rule(x, W, b, R, epsilon=EPSILON):
    """Share by x_i W_ji / (z_j + eps sign z_j): Bach et al. 2015, eq. 58."""
    q = W * x
    return q.T @ (R / stabilized(q.sum(1) + b, epsilon))


def gamma_rule(x, W, b, R, gamma=4.0, epsilon=EPSILON):
    """Sign-symmetric gamma, neuron by neuron, with the contributions split by their sign."""
    result = np.zeros_like(x)
    for j in range(len(W)):
        q = W[j] * x
        positive = q.clip(min=0).sum() + max(b[j], 0)
        negative = q.clip(max=0).sum() + min(b[j], 0)
        z = positive + negative
        if positive >= -negative:
            favored, denominator = q.clip(min=0), z + gamma * positive
        else:
            favored, denominator = q.clip(max=0), z + gamma * negative
        result += (q + gamma * favored) / stabilized(denominator, epsilon) * R[j]
    return result


def alpha_beta_rule(x, W, b, R, alpha, beta, epsilon=EPSILON):
    """Positive and negative contributions normalized on their own: Bach et al. 2015, eq. 60."""
    q = W * x
    positive, negative = q.clip(min=0), q.clip(max=0)
    up = positive.T @ (R / stabilized(positive.sum(1) + b.clip(min=0), epsilon))
    down = negative.T @ (R / stabilized(negative.sum(1) + b.clip(max=0), epsilon))
    return alpha * up - beta * down


def z_box_rule(x, W, b, R, low, high, epsilon=EPSILON):
    """Deep Taylor decomposition in a box: Montavon et al. 2017, eq. 15."""
    n = W * x - W.clip(min=0) * low - W.clip(max=0) * high
    return n.T @ (R / stabilized(n.sum(1), epsilon))


def flat_rule(x, W, b, R, epsilon=EPSILON):
    """Equal shares among the inputs that a neuron is connected to: Lapuschkin et al. 2019."""
    connected = (W != 0).astype(float)
    return connected.T @ (R / stabilized(connected.sum(1), epsilon))


def normalized(x, groups, scale, shift, eps, centered=True):
    """AttnLRP: centering is linear, the deviation a constant, scale and shift an affine layer; x has shape (n,)."""
    rows = x.reshape(groups, -1)
    mean = rows.mean(1, keepdims=True) if centered else np.zeros((groups, 1))
    deviation = np.sqrt(((rows - mean) ** 2).mean(1, keepdims=True) + eps)
    value = ((rows - mean) / deviation).flatten() * scale + shift

    def back(R):
        with np.errstate(invalid="ignore"):
            # Scale and shift: x w / (x w + b), nothing where the output is zero.
            R = (R * (value - shift) / value).reshape(rows.shape)
        n = rows.shape[1]
        result = np.zeros_like(rows)
        for g in range(groups):
            # (x_j - mean) = sum_i x_i (delta_ij - 1 / n)
            W = np.eye(n) - (1 / n if centered else 0)
            z = W @ rows[g]
            result[g] = (W * rows[g]).T @ (R[g] / z)
        return result.flatten()

    return value, back


def seed(logits, target):
    """Return relevance 1 at one logit."""
    R = np.zeros_like(logits)
    R[target] = 1
    return R


def through(module, x, rule):
    """Apply a linear torch module to x; return the output and the function that brings relevance back through it."""
    W, b, shape = matrix_of(module, x.shape)
    z = (W @ x.flatten() + b).reshape(shape)
    return z, lambda R: rule(x.flatten(), W, b, R.flatten()).reshape(x.shape)


def chain(x, *steps, target=0):
    """Return the relevance of x; a step is a pair of layer and rule, or an elementwise function, which passes it on."""
    value, backs = x, []
    for step in steps:
        if callable(step):
            value = step(value)
        else:
            module, rule = step
            value, back = through(module, value.flatten() if isinstance(module, nn.Linear) else value, rule)
            backs.append(back)
    R = seed(value, target)
    for back in reversed(backs):
        R = back(R)
    return R.reshape(x.shape)


def shares(*terms):
    """Return what each term of a sum gets of relevance 1, in proportion to its value."""
    return [term / sum(terms) for term in terms]


def relu(x):
    """Return the positive part."""
    return x.clip(min=0)


def on_arrays(function):
    """Return a torch function as one of arrays."""
    return lambda values: function(torch.from_numpy(values)).numpy()
