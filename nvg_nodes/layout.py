"""Pure functions on structures and masks, which the nodes share; nothing here knows a node.

Every region of a structure has exactly half the positions of its parent, and nothing drawn by hand has. So drawings,
pictures and shapes only rank the positions of each region; the upper half becomes one child, the lower half the other.

Shapes: B batch, S stages, L = h*w positions, row-major; pictures of areas are [H,W].
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import NVGError, hierarchy, render
from nvg_model.areas import distance_to, fine_unit, rounded, signed_distance
from nvg_model.errors import shortened
from nvg_nodes.types import Model, Structure, structure_of

DISTANCE, VALUE = "outline distance", "mask value"
"""What ranks positions by a mask."""
AUTO, HUE, BRIGHTNESS = "auto", "hue", "brightness"
"""How the labels of a picture follow each other."""
CIRCLE, RECTANGLE, GRADIENT = "circle", "rectangle", "gradient"
FLIPS = ["none", "horizontal", "vertical", "both"]
WRAP, EXTEND = "wrap", "extend"


def grow(labels: Tensor, scores: Sequence[Tensor], stages: int) -> Tensor:
    """Adds stages to a structure, halving every region by a score.

    Args:
        labels: long [B,S,L], the stages so far; S >= 1.
        scores: float [B,L] of each split: the first one splits the last stage of `labels`. Where there are fewer than
            splits, the last one goes on.
        stages: number of stages of the result; nothing is added where there are as many already.
    Returns:
        long [B,max(S,stages),L].
    """
    grown = list(labels.unbind(1))
    for index in range(stages - len(grown)):
        score = scores[min(index, len(scores) - 1)]
        grown.append(hierarchy.split(grown[-1], score.float().expand(grown[-1].shape)))
    return torch.stack(grown, 1)


def from_order(scores: Sequence[Tensor], stages: int) -> Tensor:
    """The structure long [B,stages,L] that halves everything by the given scores [B,L], one per split."""
    first = scores[0]
    return grow(torch.zeros(len(first), 1, first.shape[-1], dtype=torch.long), scores, stages)


def checked_stages(stages: int, positions: int) -> int:
    """The number of stages, if a structure with this many positions can have it. Raises NVGError otherwise."""
    most = hierarchy.num_splits(positions) + 1
    if not 1 <= stages <= most:
        raise NVGError(f"{stages} stages are not possible; {positions} positions have 1 to {most}")
    return stages


def label_order(values: Tensor) -> Tensor:
    """Ranks positions by a label map, so that equal labels are told apart by what lies around them.

    A position counts as its label plus a fraction in (0,1) that rises from the border with smaller labels to the
    border with larger ones. A region that has to be cut is so cut along its neighbours, not along a row.

    Args:
        values: float [h,w], one value per label.
    Returns:
        float [h*w].
    """
    distinct = values.unique()
    order = torch.searchsorted(distinct, values)
    ranks = torch.zeros(values.shape)
    for index in range(len(distinct)):
        here = order == index
        below, above = distance_to(order < index), distance_to(order > index)
        if index == 0:
            fraction = 1 / (above + 1)
        elif index == len(distinct) - 1:
            fraction = below / (below + 1)
        else:
            fraction = below / (below + above)
        ranks[here] = index + fraction[here]
    return ranks.flatten()


def position_order(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """`label_order` of every item of labels long [B,L], as float [B,L] in (0,1)."""
    ranks = torch.stack([label_order(one.view(grid).float()) for one in labels])
    return ranks / (ranks.amax(1, keepdim=True) + 1)


def then(first: Tensor, second: Tensor) -> Tensor:
    """Ranks float [L] by the first score, and by the second where the first is equal."""
    order = torch.sort(second, stable=True).indices
    order = order[torch.sort(first[order], stable=True).indices]
    return torch.empty(len(first)).scatter_(0, order, torch.arange(len(first), dtype=torch.float32))


def continued(model: Model, before: Structure | None, scores: list[Tensor], stages: int) -> Structure:
    """A structure that follows scores [B,L], one per split, after the stages of another one.

    Args:
        stages: of the result; 0: as many as there are scores.
    """
    labels = begun(model, before, stages)
    stages = checked_stages(stages or labels.shape[1] + len(scores), model.config.positions)
    batch = max(len(labels), *map(len, scores))
    complaint = f"the structure to go on from has {len(labels)} items for {len(scores[0])} pictures"
    scores = [for_batch(score, batch, complaint) for score in scores]
    return structure_of(model, grow(for_batch(labels, batch, complaint), scores, stages))


def begun(model: Model, before: Structure | None, stages: int) -> Tensor:
    """The labels [B,S,L] to continue from: one cluster where nothing is given. Raises NVGError for too many stages.

    Args:
        stages: that the result is to have; 0: not said.
    """
    labels = before.fitting(model) if before else torch.zeros(1, 1, model.config.positions, dtype=torch.long)
    if stages and checked_stages(stages, model.config.positions) < labels.shape[1]:
        raise NVGError(f"the structure to go on from has {labels.shape[1]} stages already, more than {stages}")
    return labels


def for_batch(x: Tensor, batch: int, complaint: str) -> Tensor:
    """One item for all of a batch, or one each: [batch,...]. Raises NVGError with the complaint otherwise."""
    if len(x) not in (1, batch):
        raise NVGError(complaint)
    return x.expand(batch, *x.shape[1:])


def same_batch(a: Structure, b: Structure) -> tuple[Tensor, Tensor]:
    """Labels of two structures on one grid. A single item of one serves all items of the other. Raises NVGError."""
    if a.grid != b.grid:
        raise NVGError(
            f"the structures have different grids, {a.grid[0]} x {a.grid[1]} and {b.grid[0]} x {b.grid[1]}; make both "
            "with the same model"
        )
    batch = max(len(a.labels), len(b.labels))
    complaint = f"the structures have {len(a.labels)} and {len(b.labels)} items; give one, or equally many"
    return for_batch(a.labels, batch, complaint), for_batch(b.labels, batch, complaint)


def checked_stage(structure: Structure, stage: int) -> int:
    """The number of a stage that the structure has; -1 is the last. Raises NVGError."""
    if not -1 <= stage < structure.stages:
        raise NVGError(f"there is no stage {stage}: the structure has the stages 0 to {structure.stages - 1}")
    return stage % structure.stages


def first_stages(structure: Structure, stages: int, what: str = "the structure") -> Tensor:
    """Labels [B,stages,L] of the first stages. Raises NVGError where there are fewer; `what` names the structure."""
    if stages > structure.stages:
        raise NVGError(f"{stages} stages are too many: {what} has {structure.stages}")
    return structure.labels[:, :stages]


def parse_regions(text: str, count: int) -> list[int]:
    """Region numbers of a text such as "0, 2-3"; all where it is empty. Raises NVGError."""
    regions: list[int] = []
    for part in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*-\s*", "-", text.strip()))):
        found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if found is None:
            raise NVGError(f"{shortened(part)!r} is not a region; write numbers such as 1 or 0, 2-3")
        ends = [end for end in found.groups() if end is not None]
        # By their length first: Python refuses to read a number of more than 4,300 digits, with words of its own.
        if any(len(end.lstrip("0")) > len(str(count)) or int(end[-9:]) >= count for end in ends):
            raise NVGError(f"there is no region {shortened(part)}: this stage has the regions 0 to {count - 1}")
        first, last = int(ends[0][-9:]), int(ends[-1][-9:])
        if first > last:
            raise NVGError(f"{part!r} runs backwards; write the smaller region first: {last}-{first}")
        regions += range(first, last + 1)
    return sorted(set(regions)) or list(range(count))


def resize(x: Tensor, size: tuple[int, int], fit: str, mode: str, fill: float = 0.0) -> Tensor:
    """Fits [B,C,H,W] into a size by any mode of `interpolate`: "area" for areas, "nearest-exact" for labels.

    Args:
        fit: crop, pad (with `fill`) or stretch, as for pictures.
    Raises:
        NVGError: an unknown fit.
    """
    return F.interpolate(framed(x, size, fit, fill), size=size, mode=mode)


def framed(x: Tensor, size: tuple[int, int], fit: str, fill: float | None = 0.0) -> Tensor:
    """[B,C,H,W] with the proportions of a size, cut or padded but not resampled; as it is for "stretch".

    Args:
        fill: what is padded with, equally on both sides; None: with its own edges (pad only).
    Raises:
        NVGError: an unknown fit.
    """
    if fit not in render.FITS:
        raise NVGError(f"there is no fit {fit!r}; there are {', '.join(render.FITS)}")
    if fit == "stretch":
        return x
    height, width = x.shape[2:]
    # The height and width of the wanted aspect that lie just inside (crop) or just around (pad) the picture.
    choose = min if fit == "crop" else max
    unit = choose(height / size[0], width / size[1])
    # Negative padding cuts off.
    down, across = max(1, round(unit * size[0])) - height, max(1, round(unit * size[1])) - width
    sides = across // 2, across - across // 2, down // 2, down - down // 2
    return F.pad(x, sides, mode="replicate") if fill is None else F.pad(x, sides, value=fill)


def middle(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle [B,C,h,w] of [B,C,H,W], around which `framed` padded."""
    height, width = size
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def mask_score(mask: Tensor, grid: tuple[int, int], fit: str, rule: str) -> Tensor:
    """Ranks positions by an area: float [L], inside first.

    By outline distance, a position counts by the mean signed distance of its pixels to the outline: halving a region
    by it grows or shrinks the area along its iso-distance contours, which keep the drawn shape.

    Args:
        mask: [H,W] in [0,1]; above one half is inside.
    Raises:
        NVGError: nothing or everything is inside, or (by value) all is equal.
    """
    unit = fine_unit(grid)
    fine = resize(mask[None, None], (grid[0] * unit, grid[1] * unit), fit, "area")
    values = F.avg_pool2d(fine, unit).flatten()
    inside = fine[0, 0] >= 0.5
    has_outline = bool(inside.any()) and not bool(inside.all())
    if rule == VALUE and float(values.max() - values.min()) < 1e-6:
        raise NVGError("the mask has the same value everywhere, which ranks nothing; draw an area or a gradient")
    if rule == DISTANCE and not has_outline:
        what = "covers everything" if bool(inside.any()) else "is empty"
        raise NVGError(f"the mask {what}, so it has no outline; draw an area that leaves some of the picture free")
    distance = torch.zeros_like(values)
    if has_outline:
        distance = F.avg_pool2d(signed_distance(inside)[None, None], unit).flatten()
    return then(values, distance) if rule == VALUE else distance


def stages_of_areas(model: Model, before: Structure | None, masks: Tensor, fit: str) -> int:
    """Stages from which on the areas of masks [B,H,W] are whole regions, after those of another structure.

    An area without an outline needs one split.
    """
    grid, positions = model.config.grid, model.config.positions
    unit = fine_unit(grid)
    fine = resize(masks[:, None], (grid[0] * unit, grid[1] * unit), fit, "area")
    shares = (fine >= 0.5).float().mean((1, 2, 3)).tolist()
    splits = max(rounded(share, positions)[0] if 0 < share < 1 else 1 for share in shares)
    return min((before.stages if before else 1) + splits, model.config.num_stages)


def label_values(image: Tensor, grid: tuple[int, int], order: str, fit: str) -> Tensor:
    """One number per label of pictures [B,H,W,C] in [0,1], sampled on the grid: float [B,h,w]."""
    small = resize(image[..., :3].permute(0, 3, 1, 2), grid, fit, "nearest-exact")
    most, least = small.amax(1), small.amin(1)
    if order == BRIGHTNESS or (order == AUTO and float((most - least).max()) < 0.02):
        return small.mean(1)
    red, green, blue = small.unbind(1)
    spread = (most - least).clamp(min=1e-6)
    sector = torch.where(
        most == red,
        ((green - blue) / spread) % 6,
        torch.where(most == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    # Greys have no hue: they come before all colours, by brightness. Equal hues go by brightness too.
    return torch.where(spread < 0.02, most - 1, sector / 6 + 1e-4 * most)


def shape_score(
    shape: str,
    grid: tuple[int, int],
    size: tuple[int, int],
    centre: tuple[float, float],
    extent: tuple[float, float],
    angle: float,
) -> Tensor:
    """Ranks positions by a shape: float [L], largest in its middle (or at the gradient's upper end).

    Args:
        size: (H, W) of the picture.
        centre, extent: (x, y) and (width, height) as shares of the picture's width and height.
        angle: in degrees, clockwise.
    """
    down = ((torch.arange(grid[0]) + 0.5) / grid[0] - centre[1]) * size[0]
    across = ((torch.arange(grid[1]) + 0.5) / grid[1] - centre[0]) * size[1]
    y, x = torch.meshgrid(down, across, indexing="ij")
    y, x = rotated(y, x, angle)
    if shape == GRADIENT:
        # Rounded, so that what is equal but for the last digit is ranked by position on every machine.
        return (x * 1024).round().flatten()
    x, y = x / (extent[0] * size[1]), y / (extent[1] * size[0])
    radius = torch.hypot(x, y) if shape == CIRCLE else torch.maximum(x.abs(), y.abs())
    return -(radius * 1024 * 1024).round().flatten()


def source_positions(
    structure: Structure, flip: str, scale: float, angle: float, shift: tuple[float, float], edges: str
) -> Tensor:
    """Where every position comes from: long [L]."""
    rows, columns = structure.grid
    cell = structure.size[0] / rows, structure.size[1] / columns  # pixels, so that turning keeps shapes
    y = (torch.arange(rows, dtype=torch.float64) + 0.5 - rows / 2 - shift[1] * rows) * cell[0]
    x = (torch.arange(columns, dtype=torch.float64) + 0.5 - columns / 2 - shift[0] * columns) * cell[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    y, x = (along / scale for along in rotated(y, x, angle))
    x = -x if flip in ("horizontal", "both") else x
    y = -y if flip in ("vertical", "both") else y
    # Rounded first, so that what lies just between two positions does not hang on the last digit.
    row = torch.floor(((y / cell[0] + rows / 2) * 1024).round() / 1024).long()
    column = torch.floor(((x / cell[1] + columns / 2) * 1024).round() / 1024).long()
    if edges == WRAP:
        row, column = row % rows, column % columns
    return (row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)).flatten()


def rotated(y: Tensor, x: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Coordinates (y down, x right) along axes that are turned clockwise by an angle in degrees."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return y * cosine - x * sine, x * cosine + y * sine
