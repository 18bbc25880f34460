"""Attention, split into basic operations that each have a rule (AttnLRP)."""

import math

import torch
import torch.nn.functional as F


def scaled_dot_product_attention(tracer, call):
    """Compute attention from basic operations."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if call.argument(4, "dropout_p", 0.0) > 0:
        return tracer.refuse(call, "Its dropout is active in evaluation mode: pass `dropout_p=0` there.")
    mask = call.argument(3, "attn_mask", None)
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask
    if call.argument(5, "is_causal", False):
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    with tracer:
        if call.kwargs.get("enable_gqa"):
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (t.repeat_interleave(repeats, -3) for t in (key, value))
        return _attend(query, key, value, _additive(mask, query), call.argument(6, "scale", None))[0]


def multi_head_attention(tracer, call):
    """Compute nn.MultiheadAttention from basic operations."""
    a = call.bind(F.multi_head_attention_forward)
    if a["add_zero_attn"] or any(a[name] is not None for name in ("bias_k", "static_k", "static_v")):
        why = "Its options bias_k, add_zero_attn, static_k and static_v have no rule: build the layer without them."
        return tracer.refuse(call, why)
    if a["use_separate_proj_weight"]:
        weights = [a[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = tracer.weights.thirds(a["in_proj_weight"])
    biases = [None] * 3 if a["in_proj_bias"] is None else tracer.weights.thirds(a["in_proj_bias"])
    inputs = [a["query"], a["key"], a["value"]]
    batched = inputs[0].ndim == 3
    n_heads = a["num_heads"]
    with tracer:
        heads = []
        for x, weight, bias in zip(inputs, weights, biases, strict=True):
            projected = F.linear(x if batched else x.unsqueeze(1), weight, bias)
            length, batch, width = projected.shape
            heads.append(projected.reshape(length, batch, n_heads, width // n_heads).permute(1, 2, 0, 3))
        mixed, attention = _attend(*heads, _joint_mask(a, *heads[:2]))
        mixed = mixed.permute(2, 0, 1, 3).flatten(2)
        output = F.linear(mixed, a["out_proj_weight"], a["out_proj_bias"])
        if not a["need_weights"]:
            attention = None
        elif a["average_attn_weights"]:
            attention = attention.mean(1)
        if not batched:
            output = output.squeeze(1)
            attention = None if attention is None else attention.squeeze(0)
    return output, attention


def _attend(query, key, value, mask=None, scale=None):
    """Return what the queries get of the values, and the weights, of shape (..., n_queries, n_keys)."""
    scores = (query * (scale or 1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return weights @ value, weights


def _additive(mask, query):
    """Return a mask as what is added to the scores; True in a boolean one excludes a key."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, -math.inf)


def _joint_mask(a, query, key):
    """Combine the attention mask and the key padding mask into one, of shape (batch, heads, n_queries, n_keys)."""
    batch, n_heads, n_queries, _ = query.shape
    n_keys = key.shape[2]
    masks = []
    if a["attn_mask"] is not None:
        mask = _additive(a["attn_mask"], query)
        masks.append(mask.reshape(-1, n_heads if mask.ndim == 3 else 1, n_queries, n_keys))
    if a["key_padding_mask"] is not None:
        masks.append(_additive(a["key_padding_mask"], query).reshape(batch, 1, 1, n_keys))
    return sum(masks).to(query.dtype) if masks else None
