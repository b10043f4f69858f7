"""Attention for training in bfloat16 on CPUs, where torch's fused backward takes several times as long as this.

Shapes: B batch, H heads, Q queries, T keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nvg_model.transformer import Block, attention


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of queries [B,H,Q,64] over keys and values [B,H,T,64]: [B,H,Q,64].

    By plain products where there is a gradient to come and the values are bfloat16, else as `attention`.
    """
    if value.requires_grad and value.dtype is torch.bfloat16:
        return (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1) @ value
    return attention(query, key, value)


def use_plain_attention(module: nn.Module) -> None:
    """Puts it into all blocks within a module."""
    for part in module.modules():
        if isinstance(part, Block):
            part.attention = plain_attention
