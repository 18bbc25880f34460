"""Attention against straight-line AttnLRP: the rules of Achtibat et al. 2024, written in relevances with NumPy."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_networks import Net, explain, normalized_by_hand
from torch import nn

from skexmap.lrp import Composite, Epsilon, On, epsilon_gamma

EPSILON_EVERYWHERE = Composite([(On(), Epsilon(1e-12))])


@pytest.fixture(autouse=True)
def _double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_back(scores, R):
    """Eq. 15 of AttnLRP: R_i = x_i (R_i - s_i sum_j R_j); a masked score (-inf) gets nothing."""
    finite = np.where(np.isfinite(scores), scores, 0)
    return finite * (R - softmax(scores) * R.sum(-1, keepdims=True))


def product_back(A, B, R):
    """Eq. 13 of AttnLRP, without stabiliser: a matrix product gives both operands half of what each term carries."""
    terms = A[:, :, None] * B[None]
    share = terms * (R / terms.sum(1))[:, None]
    return share.sum(2) / 2, share.sum(0) / 2


def attention_by_hand(q, k, v, mask=None):
    """One head on arrays of shape (length, width); return the output and what brings relevance back to q, k, v."""
    scores = q @ k.T / np.sqrt(q.shape[1])
    masked = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = softmax(masked)
    value = weights @ v

    def back(R):
        to_weights, to_v = product_back(weights, v, R)
        to_scores = softmax_back(masked, to_weights)
        # Scaling by a constant hands relevance on.
        to_q, to_kt = product_back(q, k.T, to_scores)
        return to_q, to_kt.T, to_v

    return value, back


def dense_by_hand(x, W, b, R, epsilon=1e-12):
    """LRP-epsilon of a dense layer, token by token; x has shape (length, width)."""
    return np.stack([by_hand.epsilon_rule(row, W, b, r, epsilon) for row, r in zip(x, R, strict=True)])


def attend_by_hand(net, x, n_heads, mask=None):
    """Self-attention with the weights of ``net.mha`` and a head on the flattened tokens: relevance of logit 0."""
    width = x.shape[1]
    W, b = net.mha.in_proj_weight.numpy(), net.mha.in_proj_bias.numpy()
    out_W, out_b = net.mha.out_proj.weight.numpy(), net.mha.out_proj.bias.numpy()
    parts = [slice(i * width, (i + 1) * width) for i in range(3)]
    projected = [x @ W[p].T + b[p] for p in parts]
    heads = [slice(i * width // n_heads, (i + 1) * width // n_heads) for i in range(n_heads)]
    runs = [attention_by_hand(*(values[:, h] for values in projected), mask) for h in heads]
    mixed = np.concatenate([value for value, _ in runs], 1)
    out = mixed @ out_W.T + out_b
    logits = net.head.weight.numpy() @ out.flatten() + net.head.bias.numpy()
    R = by_hand.epsilon_rule(
        out.flatten(), net.head.weight.numpy(), net.head.bias.numpy(), by_hand.seed(logits, 0), 1e-12
    )
    R = dense_by_hand(mixed, out_W, out_b, R.reshape(out.shape))
    to_heads = [back(R[:, h]) for h, (_, back) in zip(heads, runs, strict=True)]
    back_to_projected = [np.concatenate([to[i] for to in to_heads], 1) for i in range(3)]
    return sum(dense_by_hand(x, W[p], b[p], back_to_projected[i]) for i, p in enumerate(parts))


def self_attention(way, n_heads=2, width=4, length=3, **options):
    net = Net(
        way,
        mha=nn.MultiheadAttention(width, n_heads, batch_first=True, **options),
        head=nn.Linear(length * width, 2),
    )
    for values in net.mha.parameters():
        values.normal_()
    net.n_heads = n_heads
    return net


def _with_the_module(net, x):
    return net.head(net.mha(x, x, x, need_weights=False)[0].flatten(1))


def _with_the_module_and_its_weights(net, x):
    return net.head(net.mha(query=x, key=x, value=x)[0].flatten(1))


def _split(net, x):
    n, length, width = x.shape
    projected = F.linear(x, net.mha.in_proj_weight, net.mha.in_proj_bias)
    return [
        part.reshape(n, length, net.n_heads, width // net.n_heads).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    ]


def _join(net, mixed):
    n, _, length, _ = mixed.shape
    return net.head(net.mha.out_proj(mixed.transpose(1, 2).reshape(n, length, -1)).flatten(1))


def _with_scaled_dot_products(net, x):
    query, key, value = _split(net, x)
    return _join(net, F.scaled_dot_product_attention(query=query, key=key, value=value))


def _with_matrix_products(net, x):
    query, key, value = _split(net, x)
    weights = ((query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return _join(net, torch.matmul(weights, value))


def _with_einsum(net, x):
    query, key, value = _split(net, x)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    return _join(net, torch.einsum("bhqk,bhkd->bhqd", F.softmax(scores, -1), value))


WAYS = [value for name, value in list(globals().items()) if name.startswith("_with")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__[1:])
def test_self_attention_follows_attn_lrp(way):
    net = self_attention(way)
    x = torch.randn(5, 3, 4)
    expected = np.stack([attend_by_hand(net, one, 2) for one in x.numpy()])
    found = explain(net, x, composite=EPSILON_EVERYWHERE)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_sequence_may_come_first():
    net = self_attention(_with_the_module)
    x = torch.randn(1, 3, 4)
    expected = explain(net, x, composite=EPSILON_EVERYWHERE)
    net.mha.batch_first = False
    net.run = lambda net, x: net.head(net.mha(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1).flatten(1))
    np.testing.assert_allclose(explain(net, x, composite=EPSILON_EVERYWHERE), expected, rtol=1e-9)


CAUSAL = np.tril(np.ones((3, 3), dtype=bool))
MASKED = {
    "causal flag": lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "boolean mask": lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v, torch.from_numpy(CAUSAL)),
    "additive mask": lambda net, q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.zeros(3, 3).masked_fill(~torch.from_numpy(CAUSAL), -torch.inf)
    ),
}


@pytest.mark.parametrize("way", MASKED)
def test_masked_scores_get_no_relevance(way):
    net = self_attention(lambda net, x: _join(net, MASKED[way](net, *_split(net, x))))
    x = torch.randn(1, 3, 4)
    found = explain(net, x, composite=EPSILON_EVERYWHERE)[0]
    np.testing.assert_allclose(found, attend_by_hand(net, x[0].numpy(), 2, CAUSAL), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": torch.from_numpy(~CAUSAL)},
        {"attn_mask": torch.from_numpy(~CAUSAL).expand(2, 3, 3)},
        {"attn_mask": torch.zeros(3, 3).masked_fill(torch.from_numpy(~CAUSAL), -torch.inf).double()},
    ],
    ids=["boolean", "one per head", "additive"],
)
def test_the_masks_of_multi_head_attention_are_followed(options):
    net = self_attention(lambda net, x: net.head(net.mha(x, x, x, **options)[0].flatten(1)))
    x = torch.randn(1, 3, 4)
    found = explain(net, x, composite=EPSILON_EVERYWHERE)[0]
    np.testing.assert_allclose(found, attend_by_hand(net, x[0].numpy(), 2, CAUSAL), rtol=1e-6, atol=1e-9)


def test_padded_keys_are_left_out():
    padding = torch.tensor([[False, False, True]])
    net = self_attention(lambda net, x: net.head(net.mha(x, x, x, key_padding_mask=padding)[0].flatten(1)))
    x = torch.randn(1, 3, 4)
    mask = np.broadcast_to([True, True, False], (3, 3))
    found = explain(net, x, composite=EPSILON_EVERYWHERE)[0]
    np.testing.assert_allclose(found, attend_by_hand(net, x[0].numpy(), 2, mask), rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(
    "enable_gqa" not in (F.scaled_dot_product_attention.__doc__ or ""),
    reason="torch before 2.5 has no grouped queries",
)
def test_grouped_queries_share_keys_and_values():
    def grouped(net, x):
        query, key, value = (
            layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (net.query, net.key, net.value)
        )
        if net.spelled_out:
            key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return net.head(mixed.flatten(1))

    net = Net(
        grouped, query=nn.Linear(4, 8), key=nn.Linear(4, 4), value=nn.Linear(4, 4), head=nn.Linear(24, 2)
    )
    x = torch.randn(2, 3, 4)
    net.spelled_out = True
    expected = explain(net, x)
    net.spelled_out = False
    np.testing.assert_allclose(explain(net, x), expected, rtol=1e-9)


def test_attention_with_other_widths_for_keys_and_values():
    net = Net(
        lambda net, x: net.head(net.mha(x, net.key(x), net.value(x))[0].flatten(1)),
        mha=nn.MultiheadAttention(4, 1, kdim=3, vdim=2, batch_first=True),
        key=nn.Linear(4, 3),
        value=nn.Linear(4, 2),
        head=nn.Linear(12, 2),
    )
    x = torch.randn(1, 3, 4)
    mha, sample = net.mha, x[0].numpy()
    steps, values = [], []
    for first, weight, b in zip(
        (None, net.key, net.value),
        (mha.q_proj_weight, mha.k_proj_weight, mha.v_proj_weight),
        mha.in_proj_bias.chunk(3),
        strict=True,
    ):
        inner = sample if first is None else sample @ first.weight.numpy().T + first.bias.numpy()
        steps.append((first, inner, weight.numpy(), b.numpy()))
        values.append(inner @ weight.numpy().T + b.numpy())
    mixed, back = attention_by_hand(*values)
    out_W, out_b = mha.out_proj.weight.numpy(), mha.out_proj.bias.numpy()
    out = (mixed @ out_W.T + out_b).flatten()
    head_W, head_b = net.head.weight.numpy(), net.head.bias.numpy()
    R = by_hand.epsilon_rule(out, head_W, head_b, by_hand.seed(head_b, 0), 1e-12)
    relevances = back(dense_by_hand(mixed, out_W, out_b, R.reshape(3, 4)))
    expected = 0
    for (first, inner, W, b), R in zip(steps, relevances, strict=True):
        R = dense_by_hand(inner, W, b, R)
        if first is not None:
            R = dense_by_hand(sample, first.weight.numpy(), first.bias.numpy(), R)
        expected = expected + R
    found = explain(net, x, composite=EPSILON_EVERYWHERE)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def vision_transformer_block():
    """Patches, a class token, positions, pre-norm attention and a GELU block: a Vision Transformer in small."""

    def forward(net, x):
        tokens = net.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([net.token.expand(len(x), -1, -1), tokens], 1) + net.positions
        y = net.norm1(tokens)
        tokens = tokens + net.mha(y, y, y, need_weights=False)[0]
        tokens = tokens + net.out(F.gelu(net.hidden(net.norm2(tokens))))
        return net.head(net.norm3(tokens)[:, 0])

    net = Net(
        forward,
        patches=nn.Conv2d(2, 4, 2, stride=2),
        norm1=nn.LayerNorm(4),
        mha=nn.MultiheadAttention(4, 2, batch_first=True),
        norm2=nn.LayerNorm(4),
        hidden=nn.Linear(4, 6),
        out=nn.Linear(6, 4),
        norm3=nn.LayerNorm(4),
        head=nn.Linear(4, 3),
        token=nn.Parameter(torch.randn(1, 1, 4)),
        positions=nn.Parameter(torch.randn(1, 5, 4)),
    )
    for values in net.parameters():
        values.normal_()
    return net


def layer_norm_by_hand(layer, x):
    """Return the value and what brings relevance back; x has shape (length, width)."""
    scale, shift = (np.tile(values.numpy(), len(x)) for values in (layer.weight, layer.bias))
    value, back = normalized_by_hand(x.flatten(), len(x), scale, shift, layer.eps)
    return value.reshape(x.shape), lambda R: back(R.flatten()).reshape(x.shape)


def test_a_vision_transformer_follows_attn_lrp():
    net = vision_transformer_block()
    image = torch.randn(2, 4, 4)
    patches, back_patches = by_hand.through(net.patches, image.numpy(), by_hand.gamma_rule)
    token, positions = net.token[0].numpy(), net.positions[0].numpy()
    joined = np.concatenate([token, patches.reshape(4, -1).T])
    first = joined + positions
    normed, back_norm1 = layer_norm_by_hand(net.norm1, first)
    W, b = net.mha.in_proj_weight.numpy(), net.mha.in_proj_bias.numpy()
    parts, heads = [slice(i * 4, i * 4 + 4) for i in range(3)], [slice(0, 2), slice(2, 4)]
    projected = [normed @ W[p].T + b[p] for p in parts]
    runs = [attention_by_hand(*(values[:, h] for values in projected)) for h in heads]
    mixed = np.concatenate([value for value, _ in runs], 1)
    out_W, out_b = net.mha.out_proj.weight.numpy(), net.mha.out_proj.bias.numpy()
    attended = mixed @ out_W.T + out_b
    second = first + attended
    normed2, back_norm2 = layer_norm_by_hand(net.norm2, second)
    hidden = normed2 @ net.hidden.weight.numpy().T + net.hidden.bias.numpy()
    active = F.gelu(torch.from_numpy(hidden)).numpy()
    fed = active @ net.out.weight.numpy().T + net.out.bias.numpy()
    third = second + fed
    last, back_norm3 = layer_norm_by_hand(net.norm3, third)
    logits = net.head.weight.numpy() @ last[0] + net.head.bias.numpy()
    np.testing.assert_allclose(logits, net(image[None])[0].numpy(), rtol=1e-9)

    R = np.zeros_like(third)
    R[0] = by_hand.epsilon_rule(
        last[0], net.head.weight.numpy(), net.head.bias.numpy(), by_hand.seed(logits, 2)
    )
    R = back_norm3(R)
    to_fed, R = R * fed / third, R * second / third
    to_fed = dense_by_hand(active, net.out.weight.numpy(), net.out.bias.numpy(), to_fed, 1e-6)
    to_fed = dense_by_hand(normed2, net.hidden.weight.numpy(), net.hidden.bias.numpy(), to_fed, 1e-6)
    R = R + back_norm2(to_fed)
    to_attended, R = R * attended / second, R * first / second
    to_mixed = dense_by_hand(mixed, out_W, out_b, to_attended, 1e-6)
    to_heads = [back(to_mixed[:, h]) for h, (_, back) in zip(heads, runs, strict=True)]
    to_normed = sum(
        dense_by_hand(normed, W[p], b[p], np.concatenate([to[i] for to in to_heads], 1), 1e-6)
        for i, p in enumerate(parts)
    )
    R = (R + back_norm1(to_normed)) * joined / first
    expected = back_patches(R[1:].T.reshape(patches.shape))
    found = explain(net, image[None], 2, epsilon_gamma())[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
