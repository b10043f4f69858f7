"""Editing: regions with classes of their own, and kept pixels, as other steps of the stage loop.

Shapes: B batch, S = K+1 stages, L positions, C latent channels; images [B,3|4,H,W] in [-1,1], masks [B,H,W].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.areas import FREE, HALF, RULES, Areas, fitted
from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError
from nvg_model.generation import Request, Run
from nvg_model.quantizer import Quantizer
from nvg_model.regions import RegionalClasses, RegionalGuidance, full_mask
from nvg_model.sampling import Guidance, guidance_schedule
from nvg_model.seamless import View, mixed
from nvg_model.tokenizer import VisualGranularitySequence

SEAM = 1 / 16
"""Width of the seam inside the new part, as a share of the picture's shorter side: half a cell of an 8x8 grid."""

COARSE = 3
"""First stages whose tokens are the reference's where a cluster has kept positions; 0 gives other colours, 4 loses
shapes where most of what is kept is ground (docs/editing.md)."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Positions that are copied from a reference while the rest is generated."""

    reference: VisualGranularitySequence
    """Whole, of B items."""
    positions: Tensor
    """bool [B,L]: those that stay."""

    @property
    def fresh(self) -> Tensor:
        """float [B,L]: 1 where something new is drawn."""
        return (~self.positions).float()

    def to(self, device: torch.device) -> Kept:
        """The same on another device."""
        return Kept(self.reference.to(device), self.positions.to(device))

    def sides(self, stage: int) -> Tensor:
        """For `hierarchy.split` into `stage`: the reference's halves of the kept positions, long [B,L]."""
        return torch.where(self.positions, self.reference.structure[:, stage] & 1, -1)

    def codes(self, codes: Tensor, labels: Tensor, stage: int) -> Tensor:
        """The codes [B,N] drawn for a stage, or the reference's where a cluster is kept as a whole.

        In the first `COARSE` stages it is enough that a part of it is kept: these tokens are the colours of the whole
        picture, and drawn from the new positions alone they are those of another one. The most common token of the kept
        positions is taken.
        """
        index = hierarchy.members(labels, codes.shape[1])
        kept, tokens = (
            values.gather(1, index.flatten(1)).view(index.shape)
            for values in (self.positions, self.reference.tokens[:, stage])
        )
        codes = torch.where(kept.all(-1), tokens[..., 0], codes)
        if stage >= COARSE:
            return codes
        votes = ((tokens[..., None] == tokens[..., None, :]) & kept[..., None, :]).sum(-1)
        common = tokens.gather(-1, torch.where(kept, votes, -1).argmax(-1, keepdim=True))[..., 0]
        return torch.where(kept.any(-1) & ~kept.all(-1), common, codes)

    def canvas(self, canvas: Tensor, stage: int) -> Tensor:
        """The canvas [B,L,C] after a stage, with the reference's where it is kept."""
        return torch.where(self.positions[..., None], self.reference.canvases[:, stage].to(canvas), canvas)


@dataclass(frozen=True)
class EditedRun(Run):
    """A run in which regions have classes of their own, a part of another sequence stays what it is, the structure has
    a drawn area as regions, or the picture goes on at its opposite edge."""

    regions: RegionalClasses | None = None
    kept: Kept | None = None
    areas: Areas | None = None
    seamless: bool = False

    def _seen_from(self, view: View) -> EditedRun:
        """The plain run of a view. Only that of the first view counts its evaluations, as there is no step more."""
        regions = self.regions and self.regions.moved(lambda weights: view.move(weights, axis=2))
        counted = self.on_evaluation if view.steps == (0, 0) else lambda: None
        return dataclasses.replace(self, seamless=False, regions=regions, on_evaluation=counted)

    def integrate(
        self, canvas: Tensor, labels: Tensor, noise: Tensor, stage: int, grid: Sequence[float] | None = None
    ) -> Tensor:
        """As in a plain run; for a seamless picture, the mean of what its views give."""
        if not self.seamless:
            return super().integrate(canvas, labels, noise, stage, grid)
        return mixed(
            self.quantizer.grid,
            lambda view: self._seen_from(view).integrate(
                view.move(canvas), view.move(labels), view.move(noise), stage, grid
            ),
        )

    def guidance(self, scale: float | Tensor, null_class: int) -> Guidance:
        """Of the classes of all regions."""
        return super().guidance(scale, null_class) if self.regions is None else self.regions.at(scale, null_class)

    def token_logits(self, canvas: Tensor, labels: Tensor, stage: int) -> Tensor:
        """As of a plain run, but with the predicted final canvases mixed by the regions' masks before they are averaged
        over the clusters, and averaged over the new positions only where a cluster has kept ones too."""
        scale = self._content_scale(stage)
        guidance, _ = self.content_guidance(scale)
        noise = self._canvas_noise(guidance, canvas, stage)
        self.on_evaluation()
        final = self._final_canvas(canvas, labels, noise, stage)
        change = final - canvas.repeat(guidance.passes, 1, 1)
        weights = None if self.kept is None else self.kept.fresh.repeat(guidance.passes, 1)
        means = hierarchy.cluster_means(change, labels.repeat(guidance.passes, 1), 2**stage, weights)
        if isinstance(scale, Tensor):
            scale = hierarchy.cluster_means(scale[..., None], labels, 2**stage)
        return Guidance(scale, guidance.classes, guidance.passes).combine(self.content.logits(means))

    def _final_canvas(self, canvas: Tensor, labels: Tensor, noise: Tensor | None, stage: int) -> Tensor:
        """The predicted final canvas of every image and, with guidance, that of the null class: [B or 2B,L,C]."""
        if self.seamless:
            return mixed(
                self.quantizer.grid,
                lambda view: self._seen_from(view)._final_canvas(
                    view.move(canvas), view.move(labels), None if noise is None else view.move(noise), stage
                ),
            )
        guidance, inside = self.content_guidance(self._content_scale(stage))
        rows = guidance.repeat(canvas), guidance.repeat(labels), guidance.classes
        final = self.content(*rows, torch.full_like(guidance.classes, stage), noise, inside)
        return guidance.blend(final) if isinstance(guidance, RegionalGuidance) else final

    def _content_scale(self, stage: int) -> float | Tensor:
        if self.regions is None:
            return guidance_schedule(self.settings.content_guidance, self.splits)[stage]
        return self.regions.content_scale(self.settings.content_guidance, self.splits, stage)

    def next_codes(self, canvas: Tensor, labels: Tensor, stage: int) -> Tensor:
        """As of a plain run; clusters that are kept as a whole have a code of the reference."""
        codes = super().next_codes(canvas, labels, stage)
        return codes if self.kept is None else self.kept.codes(codes, labels, stage)

    def next_labels(self, canvas: Tensor, labels: Tensor, noise: Tensor, stage: int) -> Tensor:
        """As of a plain run; kept positions take the reference's side as far as equal halves allow, areas theirs."""
        sides = None if self.areas is None else self.areas.sides(labels, stage)
        if self.kept is not None:
            kept = self.kept.sides(stage + 1)
            sides = kept if sides is None else torch.where(kept >= 0, kept, sides)
        return self.split(labels, self.split_scores(canvas, labels, noise, stage), stage, sides)

    def next_canvas(self, canvas: Tensor, codes: Tensor, labels: Tensor, stage: int) -> Tensor:
        """As of a plain run; kept positions have the canvas of the reference."""
        canvas = self.quantizer.add_stage(canvas, codes, labels, stage, self.seamless)
        return canvas if self.kept is None else self.kept.canvas(canvas, stage)


def along_area(request: Request, batch: int, grid: tuple[int, int]) -> Request:
    """The request with the structure that its area gives. Raises NVGError."""
    if request.area_rule not in RULES:
        raise NVGError(f"area_rule is {request.area_rule!r}; it can be {', '.join(RULES)}")
    if request.area is None or request.area_rule == FREE:
        return request
    if request.structure is not None or request.keep_structure:
        raise NVGError(f"give either a structure or an area; with area_rule={FREE!r} the area may follow on it")
    structure = fitted(request.area.cpu(), batch, grid).structure()
    return replace(request, structure=structure[:, :2] if request.area_rule == HALF else structure)


def kept_of(request: Request, grid: tuple[int, int], batch: int, quantizer: Quantizer) -> Kept | None:
    """What stays of a request's sequence; None where nothing does. Raises NVGError."""
    if request.keep is None:
        return None
    reference = request.sequence
    if reference is None or not reference.is_whole or reference.grid != grid:
        raise NVGError("keep needs the whole sequence of a picture, of this model; give sequence=nvg.tokenize(images)")
    channels, largest = reference.canvases.shape[-1], int(reference.tokens.max())
    if channels != quantizer.channels or largest >= quantizer.num_codes:
        raise NVGError(
            f"the sequence is of another model: it has {channels} channels and tokens up to {largest}, this model has "
            f"{quantizer.channels} channels and {quantizer.num_codes} codes; tokenize the picture with this model"
        )
    if len(reference) not in (1, batch):
        raise NVGError(f"the sequence has {len(reference)} items for {batch} classes; give one, or one per class")
    positions = kept_positions(1 - full_mask(request.keep, batch, "keep"), grid).expand(batch, -1)
    if bool(positions.all()):
        raise NVGError("keep covers everything, so there is nothing to draw; leave a part of it at 0")
    return Kept(reference.repeated(batch), positions) if bool(positions.any()) else None


def kept_positions(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions bool [B,L] in whose cell no pixel is redrawn.

    Args:
        mask: float [B,H,W], above 0 where something new is drawn.
    """
    return F.adaptive_max_pool2d((mask > 0).float()[:, None], grid).flatten(1) == 0


def seam_weights(mask: Tensor, width: int) -> Tensor:
    """Share of the new picture at every pixel, float [B,H,W]: 0 outside the mask, rising to the mask's value inside.

    Args:
        mask: float [B,H,W].
        width: pixels over which it rises, counted from the first kept pixel into the new part.
    """
    inside = (mask > 0).float()[:, None]
    total, eroded = torch.zeros_like(inside), inside
    for _ in range(width):  # one pixel less every time; outside the picture counts as inside
        eroded = 1 - F.max_pool2d(1 - eroded, 3, stride=1, padding=1)
        total = total + eroded
    share = (total + inside) / (width + 1)
    return (share * mask[:, None]).squeeze(1)


def resized(images: Tensor, config: NVGConfig) -> Tensor:
    """Images [B,C,H,W] as the encoder takes them. Raises NVGError for other proportions."""
    size, wanted = tuple(images.shape[-2:]), config.image_size
    if size in (wanted, config.output_size) or images.dim() != 4:
        return images
    if size[0] * wanted[1] != size[1] * wanted[0]:
        raise NVGError(
            f"the images are {size[0]}x{size[1]} pixels (height x width), this model draws "
            f"{wanted[0]}x{wanted[1]}: crop or pad them to these proportions first"
        )
    return F.interpolate(images, wanted, mode="bicubic", antialias=True).clamp(-1, 1)


def paste(new: Tensor, original: Tensor, mask: Tensor, width: int | None = None) -> Tensor:
    """The new picture inside the mask and the original, to the bit, outside.

    Args:
        new: [B,C,h,w], brought to the size of the original; original: [B,C,H,W].
        mask: float [B,H,W], 0 where the original stays.
        width: of the seam inside the new part, in pixels; None: `SEAM` of the shorter side.
    """
    if new.shape != original.shape:
        new = F.interpolate(new, original.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
    new = new.to(original)
    width = round(min(mask.shape[1:]) * SEAM) if width is None else width
    share = seam_weights(mask, width)[:, None]
    return torch.where(share > 0, torch.lerp(original, new, share), original)


def pixel_mask(mask: Tensor, images: Tensor) -> Tensor:
    """A mask of any size as float [B,H,W] of the images [B,C,H,W]. Raises NVGError where nothing is to be drawn."""
    full, size = full_mask(mask, len(images), "the mask"), images.shape[-2:]
    if not bool((full > 0).flatten(1).any(1).all()):
        raise NVGError("the mask is 0 everywhere, so there is nothing to draw anew; paint what is to change")
    if full.shape[1:] != size:
        full = F.interpolate(full[:, None], size=size, mode="nearest-exact")[:, 0]
    return full.expand(len(images), -1, -1).to(images)


def place(images: Tensor, scale: float = 1.0, right: int = 0, down: int = 0) -> tuple[Tensor, Tensor]:
    """Outpainting: pictures smaller and elsewhere on a canvas of their own size.

    Args:
        images: [B,C,H,W] in [-1,1].
        scale: of the picture, above 0; at most 1 leaves room around it.
        right, down: pixels that its middle moves by.
    Returns:
        The pictures [B,C,H,W], their edges drawn out to the borders; and the mask float [B,H,W] of what is left free.
    Raises:
        NVGError: nothing of the picture would be left.
    """
    height, width = images.shape[-2:]
    if not 0 < scale < float("inf"):
        raise NVGError(f"scale is {scale}; give a number above 0: 0.5 shows the picture at half its size")
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size != (height, width):
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (height - size[0]) // 2 + down, (width - size[1]) // 2 + right
    to = slice(max(top, 0), min(top + size[0], height)), slice(max(left, 0), min(left + size[1], width))
    if to[0].start >= to[0].stop or to[1].start >= to[1].stop:
        raise NVGError(f"moved by {right}, {down} pixels nothing of the picture is left; move it by less")
    rows = (torch.arange(height) - top).clamp(0, size[0] - 1)  # what is uncovered goes on as the edge does
    columns = (torch.arange(width) - left).clamp(0, size[1] - 1)
    mask = images.new_ones(len(images), height, width)
    mask[:, to[0], to[1]] = 0
    return images[:, :, rows][..., columns], mask
