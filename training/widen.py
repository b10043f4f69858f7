"""A decoder with more channels, larger pictures or opacity that starts from what a smaller one has learnt.

Every channel of the smaller one is repeated within its group of the normalisation, and what reads it is shared among
its copies (Net2WiderNet, Chen et al. 2016). Copies differ by a little noise, or they would learn the same for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvg_model.autoencoder import Decoder

NOISE = 0.05
"""Deviation of the noise, as a share of the weights' own."""


def widened(weights: dict[str, Tensor], decoder: Decoder, groups: int) -> dict[str, Tensor] | None:
    """Weights for `decoder` of a smaller one's; None where that has other blocks, or more channels somewhere.

    Args:
        groups: of the normalisation; the same in both.
    """
    wanted = decoder.state_dict()
    if weights.keys() != wanted.keys() or any(
        weights[name].shape[axis] > value.shape[axis] for name, value in wanted.items() for axis in range(value.ndim)
    ):
        return None
    if all(weights[name].shape == value.shape for name, value in wanted.items()):
        return weights
    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, value in wanted.items():
        old = weights[name].float()
        if name.startswith("head.2."):
            result[name] = _head(old, value, decoder, groups)
            continue
        rows = _copies(len(old), len(value), groups)
        new = old[rows]
        if new.ndim == 4:
            if not name.startswith("stem."):
                new = _shared(new, value.shape[1], groups)
            if new.shape[1:] != old.shape[1:] or len(new) != len(old):
                new = new + NOISE * new.std() * torch.randn(new.shape, generator=generator)
        result[name] = new
    return result


def _copies(old: int, new: int, groups: int) -> Tensor:
    """Of which of `old` channels each of `new` is a copy, long [new], group by group."""
    group = torch.arange(groups)[:, None] * (old // groups)
    return (group + torch.arange(new // groups) % (old // groups)).flatten()


def _shared(weight: Tensor, channels: int, groups: int) -> Tensor:
    """A convolution [O,I,k,k] that reads `channels` copies, each of which has its part of the original's weight."""
    columns = _copies(weight.shape[1], channels, groups)
    count = torch.bincount(columns, minlength=weight.shape[1])
    return weight[:, columns] / count[columns][None, :, None, None]


def _head(old: Tensor, wanted: Tensor, decoder: Decoder, groups: int) -> Tensor:
    """The last convolution: every colour for all pixels of a position alike; an opacity of one half."""
    pixels = decoder.scale**2
    before, after = len(old), len(wanted) // pixels
    new = torch.zeros(after, *old.shape[1:])
    new[: min(before, after)] = old[: min(before, after)]
    if new.ndim == 4:
        new = _shared(new, wanted.shape[1], groups)
    return new.repeat_interleave(pixels, dim=0)
