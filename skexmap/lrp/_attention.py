"""Attention, split into basic operations that each have a rule (AttnLRP)."""

import math

import torch
import torch.nn.functional as F


def scaled_dot_product_attention(run, call):
    """Compute attention from basic operations that each have a rule (AttnLRP)."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if call.argument(4, "dropout_p", 0.0) > 0:
        return run.refuse(call, "Its dropout is active in evaluation mode: pass `dropout_p=0`.")
    mask = call.argument(3, "attn_mask", None)
    causal = call.argument(5, "is_causal", False)
    scale = call.argument(6, "scale", None) or 1 / math.sqrt(query.shape[-1])
    if call.kwargs.get("enable_gqa"):
        repeat = query.shape[-3] // key.shape[-3]
        key, value = (
            run.call("repeat_interleave", torch.repeat_interleave, t, repeat, -3) for t in (key, value)
        )
    key = run.call("transpose", torch.transpose, key, -2, -1)
    query = run.call("mul", torch.mul, query, scale)
    scores = run.call("matmul", torch.matmul, query, key)
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = run.call("masked_fill", torch.masked_fill, scores, ~allowed, -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = run.call("masked_fill", torch.masked_fill, scores, ~mask, -math.inf)
        else:
            scores = run.call("add", torch.add, scores, mask)
    weights = run.call("softmax", torch.softmax, scores, -1)
    return run.call("matmul", torch.matmul, weights, value)


def multi_head_attention(run, call):
    """Compute nn.MultiheadAttention from basic operations that each have a rule (AttnLRP)."""
    a = call.bind(F.multi_head_attention_forward)
    if (
        a["bias_k"] is not None
        or a["add_zero_attn"]
        or a["static_k"] is not None
        or a["static_v"] is not None
    ):
        return run.refuse(call, "Its options bias_k, add_zero_attn, static_k and static_v have no rule.")
    query, key, value = a["query"], a["key"], a["value"]
    batched = query.ndim == 3
    if not batched:
        query, key, value = (run.call("unsqueeze", torch.unsqueeze, t, 1) for t in (query, key, value))
    if a["use_separate_proj_weight"]:
        weights = [a[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = run.chunks(a["in_proj_weight"], 3)
    biases = [None] * 3 if a["in_proj_bias"] is None else run.chunks(a["in_proj_bias"], 3)
    n_heads = a["num_heads"]

    def heads(x, weight, bias):
        projected = run.call("linear", F.linear, x, weight, bias)
        length, batch, width = projected.shape
        split = run.call("reshape", torch.reshape, projected, (length, batch, n_heads, width // n_heads))
        return run.call("permute", torch.permute, split, (1, 2, 0, 3))

    query, key, value = (heads(*parts) for parts in zip((query, key, value), weights, biases, strict=True))
    mask = _joint_mask(a, query, key)
    scores = run.call("mul", torch.mul, query, 1 / math.sqrt(query.shape[-1]))
    scores = run.call("matmul", torch.matmul, scores, run.call("transpose", torch.transpose, key, -2, -1))
    if mask is not None:
        scores = run.call("add", torch.add, scores, mask)
    attention = run.call("softmax", torch.softmax, scores, -1)
    mixed = run.call("matmul", torch.matmul, attention, value)
    mixed = run.call("permute", torch.permute, mixed, (2, 0, 1, 3))
    mixed = run.call("flatten", torch.flatten, mixed, 2)
    output = run.call("linear", F.linear, mixed, a["out_proj_weight"], a["out_proj_bias"])
    returned = None
    if a["need_weights"]:
        returned = run.call("mean", torch.mean, attention, 1) if a["average_attn_weights"] else attention
    if not batched:
        output = run.call("squeeze", torch.squeeze, output, 1)
        returned = None if returned is None else run.call("squeeze", torch.squeeze, returned, 0)
    return output, returned


def _joint_mask(a, query, key):
    """Combine the attention mask and the key padding mask into one additive mask of shape (batch, heads, L, S)."""
    batch, n_heads, n_queries, _ = query.shape
    n_keys = key.shape[2]
    joint = None
    for mask, shape in (
        (
            a["attn_mask"],
            (
                -1,
                n_heads if a["attn_mask"] is not None and a["attn_mask"].ndim == 3 else 1,
                n_queries,
                n_keys,
            ),
        ),
        (a["key_padding_mask"], (batch, 1, 1, n_keys)),
    ):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, -math.inf)
        mask = mask.reshape(shape).to(query.dtype)
        joint = mask if joint is None else joint + mask
    return joint
