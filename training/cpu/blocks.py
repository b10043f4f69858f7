"""A transformer block with its backward pass written out, for training on CPUs.

There what lies between the matrix products decides the speed: casts, sums over thousands of rows, products with short
inner loops. Written by hand they are fewer, and most sums become matrix products.

Shapes: B batch, T tokens, M = B * T, D width, H heads of 64 channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nvg_model.config import HEAD_DIM
from nvg_model.transformer import Block, Transformer

EPSILON = 1e-6


def write_gradients(transformer: Transformer, written: bool = True) -> None:
    """Gives every block of a transformer the written-out backward pass, or takes it away; weights and names stay.

    Not for blocks with dropped paths, nor for LoRA, checkpointed or sharded blocks.
    """
    for part in transformer.blocks:
        part.__class__ = WrittenBlock if written else Block  # as torch's own fully_shard swaps a module's class


class WrittenBlock(Block):
    """The block of `nvg_model`, whose gradients in training come from `block`."""

    def forward(self, x: Tensor, modulation: Tensor, rope: Tensor, last: int | None = None) -> Tensor:
        if not self.training:
            return super().forward(x, modulation, rope, last)
        assert self.drop_path == 0
        into, out = self.linear_in, self.linear_out
        parameters = into.weight, into.bias, out.weight, out.bias, self.qk_scale
        whole = block(x, modulation, expand_rope(rope, self.width), *parameters)
        return whole if last is None else whole[:, -last:]


def expand_rope(rope: Tensor, width: int) -> Tensor:
    """Rotations of `rope_table` written out for query and key of all heads: complex [B,T,2H,32]."""
    cosine, sine = rope.flatten(3, 4)
    turn = torch.complex(cosine[..., ::2].contiguous(), sine[..., 1::2].contiguous())
    return turn.expand(-1, -1, 2 * width // HEAD_DIM, -1).contiguous()


def block(
    x: Tensor,
    modulation: Tensor,
    rope: Tensor,
    weight_in: Tensor,
    bias_in: Tensor,
    weight_out: Tensor,
    bias_out: Tensor,
    qk_scale: Tensor,
) -> Tensor:
    """The values of `nvg_model.transformer.Block`, [B,T,D].

    Args:
        x: [B,T,D]. modulation: shift, scale and gate, [B,3D]. rope: from `expand_rope`.
        weight_in ... qk_scale: the block's parameters.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False):
        shift, scale, gate = modulation.to(dtype).chunk(3, dim=-1)
        weights = (one.to(dtype) for one in (weight_in, bias_in, weight_out, bias_out))
        return _Block.apply(x, shift, scale, gate, rope, *weights, qk_scale)


def _row_sums(values: Tensor) -> Tensor:
    """Sum over the rows of [M,D], or of [B,T,D] over its tokens: a product with ones, several times as fast."""
    return (values.new_ones(*values.shape[:-2], 1, values.shape[-2]) @ values).squeeze(-2)


def _rotated(values: Tensor, rope: Tensor) -> Tensor:
    """Pairs of channels of [B,T,2H,64], turned by complex [B,T,2H,32]."""
    return torch.view_as_real(torch.view_as_complex(values.unflatten(-1, (-1, 2))) * rope).flatten(-2)


def _head_scale(qk_scale: Tensor, heads: int) -> Tensor:
    """What normalised queries and keys are multiplied by, [2H,64]; attention's 1/8 is in the queries' part."""
    both = torch.stack([qk_scale[0] * HEAD_DIM**-0.5, qk_scale[1]])
    return both[:, None].expand(-1, heads, -1).flatten(0, 1)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor,
        scale: Tensor,
        gate: Tensor,
        rope: Tensor,
        weight_in: Tensor,
        bias_in: Tensor,
        weight_out: Tensor,
        bias_out: Tensor,
        qk_scale: Tensor,
    ) -> Tensor:
        (_, tokens, width), dtype = x.shape, weight_in.dtype
        seen = x.to(dtype)
        normed, mean, deviation = torch.native_layer_norm(seen, (width,), None, None, EPSILON)
        y = torch.addcmul(shift[:, None], normed, 1 + scale[:, None]).view(-1, width)
        hidden = torch.addmm(bias_in, y, weight_in.T)
        query_key, _ = _normed_heads(hidden, width, rope)
        scaled = _rotated(query_key * _head_scale(qk_scale, width // HEAD_DIM).to(query_key), rope)
        pair = scaled.unflatten(2, (2, -1)).permute(2, 0, 3, 1, 4).to(dtype, memory_format=torch.contiguous_format)
        value = _heads(hidden[:, 2 * width : 3 * width], tokens)
        weights = torch.softmax(pair[0] @ pair[1].mT, dim=-1)
        attended = (weights @ value).transpose(1, 2).reshape(-1, width)
        mlp = F.gelu(hidden[:, 3 * width :], approximate="tanh")
        out = torch.addmm(bias_out, attended, weight_out[:, :width].T).addmm_(mlp, weight_out[:, width:].T)
        ctx.save_for_backward(
            seen, mean, deviation, shift, scale, gate, rope, weight_in, weight_out, qk_scale,
            y, hidden, pair, weights, attended, mlp, out,
        )  # fmt: skip
        return x + gate[:, None] * out.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (
            seen, mean, deviation, shift, scale, gate, rope, weight_in, weight_out, qk_scale,
            y, hidden, pair, weights, attended, mlp, out,
        ) = ctx.saved_tensors  # fmt: skip
        width, of_x = seen.shape[-1], grad.to(seen.dtype)
        of_gate = _row_sums(of_x * out.view_as(of_x))
        of_out = (of_x * gate[:, None]).view(-1, width)
        of_weight_out = torch.cat([of_out.T @ attended, of_out.T @ mlp], dim=1)
        of_hidden = torch.empty_like(hidden)
        torch.ops.aten.gelu_backward.grad_input(
            of_out @ weight_out[:, width:], hidden[:, 3 * width :], approximate="tanh",
            grad_input=of_hidden[:, 3 * width :],
        )  # fmt: skip
        of_scale = _attention_backward(of_out @ weight_out[:, :width], of_hidden, hidden, pair, weights, rope, qk_scale)
        of_y = (of_hidden @ weight_in).view_as(seen)
        normed = F.layer_norm(seen, (width,), eps=EPSILON)
        of_seen, _, _ = torch.ops.aten.native_layer_norm_backward(
            of_y * (1 + scale[:, None]), seen, (width,), mean, deviation, None, None, [True, False, False]
        )
        return (
            grad + of_seen, _row_sums(of_y), _row_sums(of_y * normed), of_gate, None,
            of_hidden.T @ y, _row_sums(of_hidden), of_weight_out, _row_sums(of_out), of_scale,
        )  # fmt: skip


def _heads(values: Tensor, tokens: int) -> Tensor:
    """[M,D] to [B,H,T,64]."""
    return values.reshape(-1, tokens, values.shape[-1] // HEAD_DIM, HEAD_DIM).transpose(1, 2).contiguous()


def _normed_heads(hidden: Tensor, width: int, rope: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys with a mean square of 1, [B,T,2H,64] in float32 at least, and what they were multiplied by."""
    pair = hidden[:, : 2 * width].reshape(*rope.shape[:3], HEAD_DIM)
    pair = pair.to(torch.promote_types(pair.dtype, torch.float32))
    inverse = (torch.linalg.vector_norm(pair, dim=-1, keepdim=True).square_() / HEAD_DIM + EPSILON).rsqrt_()
    return pair * inverse, inverse


def _attention_backward(
    of_attended: Tensor,
    of_hidden: Tensor,
    hidden: Tensor,
    pair: Tensor,
    weights: Tensor,
    rope: Tensor,
    qk_scale: Tensor,
) -> Tensor:
    """Fills in the first 3D columns of `of_hidden` [M,7D]; returns the gradient of `qk_scale` [2,64]."""
    (query, key), (tokens, width) = pair, (rope.shape[1], of_attended.shape[-1])
    value, heads = _heads(hidden[:, 2 * width : 3 * width], tokens), width // HEAD_DIM
    of_attended = _heads(of_attended, tokens)
    of_value = weights.mT @ of_attended
    of_hidden[:, 2 * width : 3 * width].view(-1, tokens, heads, HEAD_DIM).copy_(of_value.transpose(1, 2))
    of_scores = torch.ops.aten._softmax_backward_data(of_attended @ value.mT, weights, -1, weights.dtype)
    normed, inverse = _normed_heads(hidden, width, rope)
    of_rotated = torch.empty_like(normed)
    of_rotated[:, :, :heads].copy_((of_scores @ key).transpose(1, 2))
    of_rotated[:, :, heads:].copy_((of_scores.mT @ query).transpose(1, 2))
    of_scaled = _rotated(of_rotated, rope.conj())
    product, scale = of_scaled * normed, _head_scale(qk_scale, heads).to(normed)
    along = (product.flatten(2) @ torch.block_diag(*scale).T).unsqueeze(-1) / HEAD_DIM  # mean of of_normed * normed
    of_pair = of_scaled.mul_(scale).addcmul_(normed, along, value=-1).mul_(inverse)
    of_hidden[:, : 2 * width].view_as(of_pair).copy_(of_pair)
    of_head = _row_sums(product.flatten(2).flatten(0, 1)).view(2, heads, HEAD_DIM).sum(1)
    return torch.stack([of_head[0] * HEAD_DIM**-0.5, of_head[1]]).to(qk_scale.dtype)
