"""Attention against straight-line AttnLRP: the rules of Achtibat et al. 2024, written in relevances with NumPy."""

import lrp_by_hand as by_hand
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lrp_nets import Net, epsilon_gamma, explain
from torch import nn

from skexmap.lrp import Composite, Epsilon, On

pytestmark = pytest.mark.usefixtures("double_precision")
EPSILON_EVERYWHERE = Composite([(On(), Epsilon(1e-12))])


def assert_explained(net, x, expected, target=0, composite=EPSILON_EVERYWHERE):
    np.testing.assert_allclose(explain(net, x, target, composite), expected, rtol=1e-6, atol=1e-9)


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_back(scores, R):
    """Eq. 15 of AttnLRP: R_i = x_i (R_i - s_i sum_j R_j); a masked score (-inf) gets nothing."""
    finite = np.where(np.isfinite(scores), scores, 0)
    return finite * (R - softmax(scores) * R.sum(-1, keepdims=True))


def product_back(A, B, R):
    """Eq. 13 of AttnLRP, without stabilizer: a matrix product gives both operands half of what each term carries."""
    terms = A[:, :, None] * B[None]
    share = terms * (R / terms.sum(1))[:, None]
    return share.sum(2) / 2, share.sum(0) / 2


def attention_by_hand(q, k, v, mask=None):
    """One head on arrays of shape (length, width); return the output and what brings relevance back to q, k, v."""
    scores = q @ k.T / np.sqrt(q.shape[1])
    masked = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = softmax(masked)

    def back(R):
        to_weights, to_v = product_back(weights, v, R)
        # Scaling by a constant passes relevance on.
        to_q, to_kt = product_back(q, k.T, softmax_back(masked, to_weights))
        return to_q, to_kt.T, to_v

    return weights @ v, back


def dense_by_hand(x, W, b, epsilon=1e-12):
    """LRP-epsilon of a dense layer, token by token; x has shape (length, width)."""

    def back(R):
        return np.stack([by_hand.epsilon_rule(row, W, b, r, epsilon) for row, r in zip(x, R, strict=True)])

    return x @ W.T + b, back


def multi_head_by_hand(mha, inputs, mask=None, epsilon=1e-12):
    """nn.MultiheadAttention on query, key and value; return the output and what brings relevance back to the three."""
    weights = [mha.q_proj_weight, mha.k_proj_weight, mha.v_proj_weight]
    if mha.in_proj_weight is not None:
        weights = mha.in_proj_weight.chunk(3)
    biases = mha.in_proj_bias.chunk(3)
    projections = [
        dense_by_hand(x, W.numpy(), b.numpy(), epsilon)
        for x, W, b in zip(inputs, weights, biases, strict=True)
    ]
    columns = np.split(np.arange(mha.embed_dim), mha.num_heads)
    heads = [attention_by_hand(*(value[:, c] for value, _ in projections), mask) for c in columns]
    mixed = np.concatenate([value for value, _ in heads], 1)
    output, back_out = dense_by_hand(mixed, mha.out_proj.weight.numpy(), mha.out_proj.bias.numpy(), epsilon)

    def back(R):
        R = back_out(R)
        to_heads = [back_head(R[:, c]) for c, (_, back_head) in zip(columns, heads, strict=True)]
        to_projections = [np.concatenate(parts, 1) for parts in zip(*to_heads, strict=True)]
        return [back_in(R) for (_, back_in), R in zip(projections, to_projections, strict=True)]

    return output, back


def relevance_of_tokens(net, tokens):
    """Return relevance 1 of logit 0, brought back through the head to the flattened tokens."""
    return by_hand.chain(tokens, (net.head, lambda *a: by_hand.epsilon_rule(*a, epsilon=1e-12)))


def attend_by_hand(net, x, mask=None):
    """Self-attention with the weights of ``net.mha`` and a head on the flattened tokens: relevance of logit 0."""
    output, back = multi_head_by_hand(net.mha, [x.numpy()] * 3, mask)
    return sum(back(relevance_of_tokens(net, output)))


def self_attention(way):
    net = Net(way, mha=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(12, 2))
    for values in net.mha.parameters():
        values.normal_()
    net.n_heads = 2
    return net


def _with_the_module(net, x):
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


WAYS = [value for name, value in list(globals().items()) if name.startswith("_with")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__[1:])
def test_self_attention_follows_attn_lrp(way):
    net = self_attention(way)
    x = torch.randn(5, 3, 4)
    assert_explained(net, x, np.stack([attend_by_hand(net, one) for one in x]))


CAUSAL = np.tril(np.ones((3, 3), dtype=bool))
LATER = torch.from_numpy(~CAUSAL)
ADDED = torch.zeros(3, 3, dtype=torch.float64).masked_fill(LATER, -torch.inf)
LAST_KEY = np.broadcast_to([True, True, False], (3, 3))
PADDING = torch.tensor([[False, False, True]])


def in_products(**options):
    return lambda net, x: _join(net, F.scaled_dot_product_attention(*_split(net, x), **options))


def in_module(**options):
    return lambda net, x: net.head(net.mha(x, x, x, **options)[0].flatten(1))


@pytest.mark.parametrize(
    "way, mask",
    [
        (in_products(is_causal=True), CAUSAL),
        (in_products(attn_mask=~LATER), CAUSAL),
        (in_products(attn_mask=ADDED), CAUSAL),
        (in_module(attn_mask=LATER), CAUSAL),
        (in_module(attn_mask=LATER.expand(2, 3, 3)), CAUSAL),
        (in_module(attn_mask=ADDED), CAUSAL),
        (in_module(key_padding_mask=PADDING), LAST_KEY),
        (in_module(attn_mask=LATER, key_padding_mask=PADDING), CAUSAL & LAST_KEY),
    ],
)
def test_masked_scores_get_no_relevance(way, mask):
    net = self_attention(way)
    x = torch.randn(1, 3, 4)
    assert_explained(net, x, [attend_by_hand(net, x[0], mask)])


@pytest.mark.skipif(
    "enable_gqa" not in (F.scaled_dot_product_attention.__doc__ or ""),
    reason="torch before 2.5 has no grouped queries",
)
def test_grouped_queries_share_keys_and_values():
    def grouped(net, x):
        query, key, value = (
            part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in net.qkv(x).split([8, 4, 4], -1)
        )
        if net.spelled_out:
            mixed = F.scaled_dot_product_attention(query, *(t.repeat_interleave(2, 1) for t in (key, value)))
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return net.head(mixed.flatten(1))

    net = Net(grouped, qkv=nn.Linear(4, 16), head=nn.Linear(24, 2), spelled_out=True)
    x = torch.randn(2, 3, 4)
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
    key, back_key = dense_by_hand(x[0].numpy(), net.key.weight.numpy(), net.key.bias.numpy())
    value, back_value = dense_by_hand(x[0].numpy(), net.value.weight.numpy(), net.value.bias.numpy())
    output, back = multi_head_by_hand(net.mha, [x[0].numpy(), key, value])
    to_query, to_key, to_value = back(relevance_of_tokens(net, output))
    assert_explained(net, x, [to_query + back_key(to_key) + back_value(to_value)])


def test_a_block_of_a_vision_transformer_follows_attn_lrp():
    def forward(net, x):
        tokens = net.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([net.token.expand(len(x), -1, -1), tokens], 1) + net.positions
        y = net.norm(tokens)
        return net.head((tokens + net.mha(y, y, y, need_weights=False)[0])[:, 0])

    net = Net(
        forward,
        patches=nn.Conv2d(2, 4, 2, stride=2),
        token=nn.Parameter(torch.randn(1, 1, 4)),
        positions=nn.Parameter(torch.randn(1, 5, 4)),
        norm=nn.LayerNorm(4),
        mha=nn.MultiheadAttention(4, 2, batch_first=True),
        head=nn.Linear(4, 3),
    )
    for values in net.parameters():
        values.normal_()
    image = torch.randn(2, 4, 4)
    patches, back_patches = by_hand.through(net.patches, image.numpy(), by_hand.gamma_rule)
    joined = np.concatenate([net.token[0].numpy(), patches.reshape(4, -1).T])
    tokens = joined + net.positions[0].numpy()
    scale, shift = (np.tile(values.numpy(), 5) for values in (net.norm.weight, net.norm.bias))
    normed, back_norm = by_hand.normalized(tokens.flatten(), 5, scale, shift, net.norm.eps)
    attended, back_attention = multi_head_by_hand(net.mha, [normed.reshape(5, 4)] * 3, epsilon=1e-6)
    total = tokens + attended
    R = np.zeros_like(total)
    R[0] = by_hand.chain(total[0], (net.head, by_hand.epsilon_rule), target=2)
    to_normed = sum(back_attention(R * attended / total)).flatten()
    R = R * tokens / total + back_norm(to_normed).reshape(5, 4)
    expected = back_patches((R * joined / tokens)[1:].T)
    assert_explained(net, image[None], [expected], 2, epsilon_gamma())
