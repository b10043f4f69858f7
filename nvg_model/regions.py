"""Regions: a class for every part of the canvas (the paper's future work, region-aware generation).

Shapes: B batch, R slots (classes that an image may ask for), M rows (one network input each), L positions, C channels,
S = K+1 stages. A mask is float [H,W] or [B,H,W] in [0,1], of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.errors import NVGError
from nvg_model.sampling import Guidance, guidance_schedule

TOLERANCE = 1e-3
"""The masks of a position may sum to this much above 1, for the rounding of 8-bit pictures and of resizing."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the canvas with a class of its own."""

    mask: Tensor
    """float [H,W], or [B,H,W] with one for every image; any size, 0 to 1, soft edges mix the classes."""
    class_name: str | int | None
    """Name or index; None: the null class."""
    guidance: float | tuple[float, float] | None = None
    """Content guidance inside, one number or those of the first and the last stage; None: that of the settings."""


@dataclass(frozen=True, eq=False)
class RegionalClasses:
    """The classes of a batch, slot by slot, and the share that each has of every position."""

    classes: Tensor
    """long [R,B]."""
    weights: Tensor
    """float [R,B,L], sums to one over the slots."""
    rows: tuple[Tensor, Tensor]
    """Slot and image, long [M] each, of the classes with at least one position; only they are computed."""
    guidance: tuple[tuple[float, float] | None, ...]
    """Content guidance of every slot at the first and the last stage; None: that of the settings."""

    @property
    def batch(self) -> int:
        """B."""
        return self.classes.shape[1]

    def to(self, device: torch.device) -> RegionalClasses:
        """The same on another device."""
        slots, images = self.rows
        rows = slots.to(device), images.to(device)
        return RegionalClasses(self.classes.to(device), self.weights.to(device), rows, self.guidance)

    def moved(self, move: Callable[[Tensor], Tensor]) -> RegionalClasses:
        """The same with the positions moved: `move` takes [...,L]."""
        return RegionalClasses(self.classes, move(self.weights), self.rows, self.guidance)

    def at(self, scale: float | Tensor, null_class: int) -> RegionalGuidance:
        """Guidance of all classes of all images at a scale: a number, or one of every position float [B,L]."""
        slots, items = self.rows
        classes = self.classes[slots, items]
        guided = isinstance(scale, Tensor) or scale != 1
        if guided:
            every = torch.arange(self.batch, device=items.device)
            items, classes = torch.cat([items, every]), torch.cat([classes, torch.full_like(every, null_class)])
        return RegionalGuidance(scale, classes, 1 + guided, items, self)

    def content_scale(self, ends: tuple[float, float], splits: int, stage: int) -> float | Tensor:
        """Content guidance of a stage: one number, or float [B,L] where regions have their own."""
        scales = [guidance_schedule(own or ends, splits)[stage] for own in self.guidance]
        if len(set(scales)) == 1:
            return scales[0]
        return torch.stack([share * scale for share, scale in zip(self.weights, scales, strict=True)]).sum(0)


@dataclass(frozen=True, eq=False)
class RegionalGuidance(Guidance):
    """One pass for every class of every image (M rows), and one of the null class for each."""

    items: Tensor
    """long [M]: the image of every row; with guidance the last B rows are those of the null class."""
    regions: RegionalClasses

    def repeat(self, x: Tensor) -> Tensor:
        """What every image has [B,...], for every row: [M,...]."""
        return x.index_select(0, self.items)

    def blend(self, results: Tensor) -> Tensor:
        """Results of the rows float [M,L,C] with the classes mixed by their shares of a position: [B,L,C].

        With guidance [2B,L,C]: the class results, then those of the null class.
        """
        weights = self.regions.weights
        own = len(results) - self.regions.batch * (self.passes - 1)
        # A sum over the slots in their fixed order: the same on every device, and alone as in a batch.
        dense = results.new_zeros(*weights.shape, results.shape[-1])
        dense[self.regions.rows] = results[:own]
        return torch.cat([(weights[..., None] * dense).sum(0), results[own:]])

    def combine(self, results: Tensor) -> Tensor:
        """The guided result [B,L,C] from the results of the rows."""
        return super().combine(self.blend(results))


def regional(
    classes: Tensor, regions: Sequence[Region], indices: Sequence[int], grid: tuple[int, int]
) -> RegionalClasses:
    """The regions' classes inside their masks, and the base class elsewhere.

    Args:
        classes: long [B], the base.
        indices: the class of every region.
        grid: h, w of the L positions.
    Raises:
        NVGError: a mask of another shape, batch or range, or masks that sum to more than one somewhere.
    """
    batch = len(classes)
    shares: dict[tuple[int, tuple[float, float] | None], Tensor] = {}
    for number, (region, index) in enumerate(zip(regions, indices, strict=True), 1):
        key = (index, _ends(region.guidance, number))
        mask = grid_mask(region.mask.cpu(), batch, grid, f"the mask of region {number}")
        shares[key] = shares.get(key, 0) + mask  # two regions of one class are one
    keys = sorted(shares, key=lambda key: (key[0], key[1] or ()))  # their order must not matter
    weights = torch.stack([shares[key] for key in keys])
    total = weights.sum(0)
    if float(total.max()) > 1 + TOLERANCE:
        item, position = divmod(int(total.argmax()), total.shape[-1])
        row, column = divmod(position, grid[1])
        raise NVGError(
            f"the masks of the regions sum to {float(total.max()):.2f} at row {row}, column {column} of the "
            f"{grid[0]}x{grid[1]} grid (item {item}); make them overlap less, so that they sum to at most 1"
        )
    base = (1 - total).clamp(min=0)
    base = torch.where(base < TOLERANCE, 0, base)
    weights = torch.cat([base[None], weights])
    weights = weights / weights.sum(0)
    slots = torch.stack([classes, *(torch.full_like(classes, index) for index, _ in keys)])
    slot, image = (weights > 0).any(-1).nonzero(as_tuple=True)  # now, on the CPU: the stage loop reads nothing
    return RegionalClasses(slots, weights, (slot, image), (None, *(own for _, own in keys)))


def _ends(guidance: float | tuple[float, float] | None, number: int) -> tuple[float, float] | None:
    """Guidance of the first and the last stage."""
    if guidance is None:
        return None
    pair = tuple(guidance) if isinstance(guidance, tuple | list) else (guidance, guidance)
    if len(pair) != 2 or not all(isinstance(one, int | float) and 0 <= one < float("inf") for one in pair):
        raise NVGError(f"the guidance of region {number} is {guidance!r}; give a number of at least 0, or two")
    return float(pair[0]), float(pair[1])


def grid_mask(mask: Tensor, batch: int, grid: tuple[int, int], what: str) -> Tensor:
    """A mask as shares of the positions, float32 [B,L] (its mean over every cell of the grid). Raises NVGError."""
    full = full_mask(mask, batch, what)
    return F.interpolate(full[:, None], size=grid, mode="area").flatten(1).expand(batch, -1)


def full_mask(mask: Tensor, batch: int, what: str) -> Tensor:
    """A mask as float32 [B or 1,H,W], checked. Raises NVGError."""
    if mask.dim() not in (2, 3) or 0 in mask.shape:
        raise NVGError(f"{what} has shape {list(mask.shape)}; give [height, width], or [batch, height, width]")
    mask = mask.float() if mask.dim() == 3 else mask.float()[None]
    if len(mask) not in (1, batch):
        raise NVGError(f"{what} has {len(mask)} items for {batch} images; give one, or one per image")
    low, high = float(mask.min()), float(mask.max())
    if not 0 <= low <= high <= 1:  # also refuses NaN
        raise NVGError(f"{what} has values from {low:g} to {high:g}; they must lie between 0 and 1")
    return mask
