"""Structure adherence: whether a generated picture has the structure that it was given.

A binary map, the structure of stage 1, is given; the picture is generated, decoded, and tokenized again, and its own
stage 1 is compared with the map. Which half is called 0 means nothing, so both labelings are tried.

Shapes: M maps, L positions, S = K+1 stages; maps long [M,L] with values 0 and 1, half of the positions each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from training.metrics.pictures import Labelled, to_images

BATCH = 32
ENOUGH = 0.85
"""Agreement that counts as followed."""


@dataclass(frozen=True)
class Adherence:
    """Agreement of maps given and maps found."""

    agreement: Tensor
    """float64 [M], share of the positions that agree."""
    by_chance: float
    """Mean agreement of each given map with what was found for the others: what maps have in common anyway."""

    @property
    def mean(self) -> float:
        return float(self.agreement.mean())

    @property
    def followed(self) -> float:
        """Share of the maps with an agreement of at least 85%."""
        return float((self.agreement >= ENOUGH).double().mean())


def shapes(grid: tuple[int, int]) -> dict[str, Tensor]:
    """Maps long [L] of a circle on the left, one on the right, and a rectangle, each covering half of the grid."""
    height, width = grid
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(grid)
    x = ((torch.arange(width) + 0.5) / width)[None].expand(grid)
    distances = {
        "circle left": (x - 0.3).square() + (y - 0.5).square(),
        "circle right": (x - 0.7).square() + (y - 0.5).square(),
        "rectangle": torch.maximum((x - 0.5).abs(), 0.7 * (y - 0.5).abs()),
    }
    return {name: _nearest_half(distance.flatten()) for name, distance in distances.items()}


def _nearest_half(distance: Tensor) -> Tensor:
    """1 at the half of the positions with the smallest distance [L], 0 elsewhere; ties by position."""
    inside = torch.sort(distance, stable=True).indices[: len(distance) // 2]
    return torch.zeros(len(distance), dtype=torch.long).scatter(0, inside, 1)


@torch.inference_mode()
def first_splits(nvg: NVG, pixels: Tensor) -> Tensor:
    """Maps long [M,L]: stage 1 of the structure of pictures uint8 [M,3,H,W]."""
    parts = [nvg.tokenize(to_images(part)).structure[:, 1].cpu() for part in pixels.split(BATCH)]
    return torch.cat(parts)


@torch.inference_mode()
def adherence(
    nvg: NVG, maps: Tensor, classes: Tensor, seed: int = 0, settings: SamplingSettings | None = None
) -> Adherence:
    """Generates a picture of each class long [M] with each map, and compares the maps found with those given."""
    structure = torch.stack([torch.zeros_like(maps), maps], dim=1)
    found = []
    for start in range(0, len(maps), BATCH):
        part = slice(start, start + BATCH)
        sequence = nvg.generate(classes[part], seed, settings, structure=structure[part], first_item=start)
        found.append(nvg.tokenize(nvg.decode(sequence)).structure[:, 1].cpu())
    return compare(maps, torch.cat(found))


def reconstruction_adherence(nvg: NVG, pixels: Tensor) -> Adherence:
    """The same for pictures that the tokenizer gives back: what a perfect generator could reach."""
    images = torch.cat([nvg.decode(nvg.tokenize(to_images(part))).cpu() for part in pixels.split(BATCH)])
    found = [nvg.tokenize(part).structure[:, 1].cpu() for part in images.split(BATCH)]
    return compare(first_splits(nvg, pixels), torch.cat(found))


def compare(given: Tensor, found: Tensor) -> Adherence:
    """Agreement of maps [M,L] with maps [M,L], with both labelings tried."""
    same = (given[:, None] == found[None]).double().mean(-1)
    agreement = torch.maximum(same, 1 - same)  # of every map given with every map found
    own = agreement.diagonal()
    others = (agreement.sum() - own.sum()) / max(1, agreement.numel() - len(own))
    return Adherence(own, float(others))


def held_out_sample(held_out: Labelled, count: int) -> Tensor:
    """Indices [count] (or all, if there are fewer) spread evenly over the pictures, and so over the classes."""
    return torch.linspace(0, len(held_out) - 1, min(count, len(held_out))).round().long()
