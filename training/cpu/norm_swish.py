"""GroupNorm followed by swish, with a backward pass of its own for training on CPUs.

Torch's backward of GroupNorm takes most of a training step there when the memory format is channels_last. This one
knows that, given the group statistics, both directions are the same scaling of every channel in all places.

Shapes: B batch, C channels, G groups, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model.autoencoder import ResidualBlock

FEWEST_PIXELS = 1024
"""H * W from which this backward pass is the faster one."""


def write_gradients(autoencoder: nn.Module) -> None:
    """Gives every residual block inside the written-out backward pass; weights and names stay."""
    for part in autoencoder.modules():
        if type(part) is ResidualBlock:
            part.__class__ = WrittenResidualBlock


class WrittenResidualBlock(ResidualBlock):
    """The residual block of `nvg_model`, whose norms and swishes have gradients from `norm_swish`."""

    def activate(self, norm: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(norm, nn.GroupNorm)
        return norm_swish(norm, x)


def norm_swish(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """silu(norm(x)) of [B,C,H,W]."""
    ours = (
        x.device.type == "cpu"
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.shape[2] * x.shape[3] >= FEWEST_PIXELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )
    if not ours:
        return F.silu(norm(x), inplace=True)
    return _NormSwish.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


class _NormSwish(torch.autograd.Function):
    """Keeps only its input for the backward pass, and computes the normalised values again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        normed, mean, deviation = torch.native_group_norm(
            x, weight.to(x.dtype), bias.to(x.dtype), batch, channels, height * width, groups, eps
        )
        ctx.save_for_backward(x, weight, bias, mean, deviation)
        return F.silu(normed, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        (batch, channels, height, width), groups = x.shape, mean.shape[1]
        precise = torch.promote_types(x.dtype, torch.float32)
        size = channels // groups

        def spread(values: Tensor) -> Tensor:  # [B,G] to [B,C]
            return values.to(precise).repeat_interleave(size, dim=1)

        def row(values: Tensor) -> Tensor:  # [B,C] to [B,1,W*C]: inner loops are long, those of [B,1,1,C] short
            return values.to(x.dtype).repeat(1, width)[:, None]

        def rows(image: Tensor) -> Tensor:
            return image.permute(0, 2, 3, 1).reshape(batch, height, width * channels)

        mean, inverse, weight = spread(mean), spread(inverse), weight.to(precise)
        scale, values = inverse * weight, rows(x)
        normed = torch.addcmul(row(bias - mean * scale), values, row(scale))
        inner = torch.ops.aten.silu_backward(rows(grad), normed)
        flat, pixels = inner.view(batch, -1, channels), values.view(batch, -1, channels)
        sums = torch.bmm(flat.mT, flat.new_ones(batch, height * width, 1)).squeeze(2).to(precise)
        products = torch.bmm(flat.mT, pixels).diagonal(dim1=1, dim2=2).to(precise)
        of_weight = inverse * (products - mean * sums)

        def group_mean(values: Tensor) -> Tensor:
            return spread(values.unflatten(1, (groups, size)).sum(2) / (size * height * width))

        slope = -(inverse.square()) * group_mean(weight * of_weight)
        offset = -inverse * group_mean(weight * sums) - mean * slope
        result = torch.addcmul(row(offset), values, row(slope)).addcmul_(inner, row(scale))
        result = result.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return result, of_weight.sum(0).to(bias.dtype), sums.sum(0).to(bias.dtype), None, None
