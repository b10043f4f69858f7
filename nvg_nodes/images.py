"""Pictures: the host's tensors to the model's and back, fitting, and what the nodes show.

Shapes: IMAGE [B,H,W,C] in [0,1] and MASK [B,H,W] in [0,1] are the host's; the model's images are [B,3,H,W] in [-1,1];
S' stages present, L = h*w positions. Sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nvg_model import NVGError, VisualGranularitySequence, render
from nvg_nodes import host
from nvg_nodes.types import Structure

if TYPE_CHECKING:
    from nvg_model import NVG

TILE = 128
"""Pixels that a structure map or a tile of a preview has at least along each side."""
PREVIEW_ITEMS = 4
"""Images of a batch that a preview shows."""
OPENED_SPLITS = 4
"""Splits of a structure that the painter can open: 16 regions, as many as it has colours."""
OPENED_ITEMS = 16
"""Images of a batch whose structure the painter can open."""
AT_ONCE = 8
"""Images that the decoder makes at once, which bounds its memory."""


def to_model(image: Tensor, size: tuple[int, int], fit: str, subject: Tensor | None = None) -> Tensor:
    """The model's images [B,3,H,W] of an IMAGE of any size with 1, 3 or 4 channels; what is transparent is white.

    Those of the right size keep their exact values; others are fitted just as `nvg tokenize` does, by way of 8 bits.

    Args:
        subject: MASK, 1 on what is left of the pictures; one for all, or one each.
    Raises:
        NVGError: another shape or number of channels, NaN, an unknown fit, masks for another number of pictures.
    """
    image = checked_image(image)
    if subject is None and fit != "subject" and image.shape[-1] == 3 and tuple(image.shape[1:3]) == size:
        return image.permute(0, 3, 1, 2) * 2 - 1
    pictures = to_pil(image)
    if subject is not None:
        pictures = _cut_out(pictures, checked_mask(subject))
    return torch.cat([render.from_pil(picture, size, fit) for picture in pictures])


def _cut_out(pictures: list[Image.Image], subject: Tensor) -> list[Image.Image]:
    """The pictures without what is 0 in their masks. Raises NVGError."""
    if len(subject) not in (1, len(pictures)):
        raise NVGError(f"there are {len(subject)} masks for {len(pictures)} pictures; give one, or one each")
    masks = [Image.fromarray(one) for one in (subject * 255).round().byte().numpy()]
    return [render.with_subject(one, masks[index % len(masks)]) for index, one in enumerate(pictures)]


def checked_image(image: Tensor) -> Tensor:
    """IMAGE float32 on the CPU in [0,1], with 3 or 4 channels. Raises NVGError for a shape, or NaN."""
    if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        shape = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise NVGError(f"the image has shape {shape}; an IMAGE is [batch, height, width, 1, 3 or 4 channels]")
    image = image.detach().float().cpu()
    if not bool(torch.isfinite(image).all()):
        raise NVGError("the image holds NaN or infinity; look at the node that it comes from")
    return (image.expand(-1, -1, -1, 3) if image.shape[-1] == 1 else image).clamp(0, 1)


def to_pil(image: Tensor) -> list[Image.Image]:
    """Pictures of a checked IMAGE with 3 or 4 channels."""
    return [Image.fromarray(one) for one in (image * 255).round().byte().numpy()]


def from_pil(pictures: Sequence[Image.Image]) -> Tensor:
    """IMAGE of RGB pictures, or MASK of grey pictures, all of one size."""
    return torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures]).float() / 255


def from_model(images: Tensor) -> Tensor:
    """IMAGE of the model's images. Rounded to 8 bits, so that every way of saving it gives the same pixels."""
    return render.to_pixels(images.cpu()).permute(0, 2, 3, 1).contiguous() / 255


def decode(
    nvg: NVG, sequence: VisualGranularitySequence, stage: int | None = None, seamless: bool = False
) -> tuple[Tensor, Tensor]:
    """The model's images of a sequence after a stage (the last one by default), and the MASK of what is drawn.

    The mask is 1 on the subject and 0 where the picture is transparent; 1 everywhere where the model has no opacity.
    A few pictures at a time.
    """
    parts = []
    for start in range(0, len(sequence), AT_ONCE):
        host.current().check_cancelled()
        parts.append(nvg.decode_with_opacity(sequence.items(slice(start, start + AT_ONCE)), stage, seamless))
    pictures, masks = zip(*parts, strict=True)
    return torch.cat(pictures).cpu(), torch.cat(masks).cpu()


def checked_mask(mask: Tensor) -> Tensor:
    """MASK float32 [B,H,W] on the CPU in [0,1]; a single one may come without its batch axis. Raises NVGError."""
    if isinstance(mask, Tensor) and mask.dim() == 2:
        mask = mask[None]
    if not isinstance(mask, Tensor) or mask.dim() != 3 or 0 in mask.shape:
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise NVGError(f"the mask has shape {shape}; a MASK is [batch, height, width]")
    mask = mask.detach().float().cpu()
    if not bool(torch.isfinite(mask).all()):
        raise NVGError("the mask holds NaN or infinity; look at the node that it comes from")
    return mask.clamp(0, 1)


def structure_map(structure: Structure, stage: int = -1, least: int = 1) -> list[Image.Image]:
    """A palette picture of one stage of every item, enlarged by a whole factor to at least this many pixels a side."""
    labels = structure.labels[:, stage]
    clusters = 2 ** (stage % structure.stages)
    factor = max(1, math.ceil(least / min(structure.size)))
    size = (structure.size[0] * factor, structure.size[1] * factor)
    return [render.structure_image(one, clusters, structure.grid, size) for one in labels]


def structure_sheet(structure: Structure) -> Tensor:
    """IMAGE: for every item one sheet with the maps of all its stages."""
    maps = [structure_map(structure, stage, TILE) for stage in range(structure.stages)]
    captions = [f"stage {stage} · {2**stage}" for stage in range(structure.stages)]
    columns = math.ceil(math.sqrt(structure.stages))
    return from_pil([render.grid(stages, columns, captions) for stages in zip(*maps, strict=True)])


def structure_ui(structure: Structure) -> dict[str, list[dict[str, object]]]:
    """What the painter in the browser opens: the regions after so many splits, a hexadecimal digit per position."""
    splits = min(structure.stages - 1, OPENED_SPLITS)
    rows = structure.labels[:OPENED_ITEMS, splits].tolist() if splits else []
    labels = ["".join(f"{label:x}" for label in row) for row in rows]
    return {"nvg_structure": [{"grid": list(structure.grid), "splits": splits, "labels": row} for row in labels]}


def preview(nvg: NVG, sequence: VisualGranularitySequence) -> Image.Image:
    """The first images of a sequence so far, each beside its structure map. The decoder does not run."""
    some = sequence.items(slice(PREVIEW_ITEMS))
    structure = Structure(some.structure.cpu(), some.grid, nvg.config.image_size)
    maps = structure_map(structure, -1, TILE)
    small = render.to_pil(nvg.preview(some))
    blurred = [picture.resize(tile.size, Image.Resampling.BICUBIC) for picture, tile in zip(small, maps, strict=True)]
    tiles = [tile for pair in zip(blurred, maps, strict=True) for tile in pair]
    return render.grid(tiles, 2 * math.ceil(math.sqrt(len(maps))))


def contact_sheet(images: Tensor) -> Image.Image:
    """The model's images, all of them, in about a square."""
    tiles = _enlarged(images)
    return tiles[0] if len(tiles) == 1 else render.grid(tiles, math.ceil(math.sqrt(len(tiles))))


def _enlarged(images: Tensor) -> list[Image.Image]:
    """Pictures of the model's images, at least as large as a tile."""
    factor = max(1, math.ceil(TILE / min(images.shape[2:])))
    return [render.enlarge(picture, factor) for picture in render.to_pil(images)]
