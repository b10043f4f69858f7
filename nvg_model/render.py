"""Tensors -> pictures and back, with Pillow: images, structure maps, filmstrips, contact sheets.

Shapes: images [B,3,H,W] in [-1,1]; L = h*w positions, row-major; N = 2^i clusters of stage i.
Sizes are (height, width), as everywhere in nvg_model; Pillow's own are (width, height).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from nvg_model.errors import NVGError
from nvg_model.model import NVG
from nvg_model.pictures import eight_bits
from nvg_model.tokenizer import VisualGranularitySequence

FITS = ("crop", "pad", "stretch")
PICTURE_FITS = (*FITS, "subject")
COVERED = 0.45
"""Share of the picture that the fit `subject` lets a subject cover: as much as an emoji of emoji64's training data."""
LONGEST = 60 / 64
"""Share of a side that it is long at most."""
MARGIN = 4
"""White pixels around every picture of a sheet."""
_STRIP_TILE = 128
"""Pixels that a tile of a filmstrip has at least along each side."""


def to_pil(images: Tensor) -> list[Image.Image]:
    """RGB or RGBA pictures of images [B,3|4,H,W] in [-1,1]; values outside are clamped.

    Raises NVGError for NaN or another shape.
    """
    if images.dim() != 4 or images.shape[1] not in (3, 4):
        raise NVGError(f"the images have shape {list(images.shape)}; a picture needs [batch, 3, height, width]")
    if bool(torch.isnan(images).any()):
        raise NVGError("the images hold NaN; check the weights and the precision")
    return [Image.fromarray(pixel) for pixel in to_pixels(images.detach().cpu()).permute(0, 2, 3, 1).numpy()]


def to_pixels(images: Tensor) -> Tensor:
    """8-bit pixels uint8 of images in [-1,1]; values outside are clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()


def from_pil(image: Image.Image, size: tuple[int, int], fit: str = "crop") -> Tensor:
    """A picture of any mode and size as float32 [1,3,H,W] in [-1,1].

    The EXIF orientation is applied, 16 bits become 8, and what is transparent lies over white.

    Args:
        size: (H, W).
        fit: crop (fill the size, cut what sticks out equally on both sides), pad (keep all, white around it), stretch
            (change the aspect) or subject (what is not transparent, in the middle and as large as an emoji).
    Raises:
        NVGError: an unknown fit, a picture whose colours cannot be converted, or one without a subject.
    """
    image = ImageOps.exif_transpose(image)
    if fit == "subject":
        image = _framed(image, size[1] / size[0])
    image = _opaque(image)
    target, resample = (size[1], size[0]), Image.Resampling.LANCZOS
    if fit == "crop":
        image = ImageOps.fit(image, target, resample)
    elif fit == "pad":
        ratio = min(target[0] / image.width, target[1] / image.height)
        inner = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), resample)
        image = Image.new("RGB", target, "white")
        image.paste(inner, ((target[0] - inner.width) // 2, (target[1] - inner.height) // 2))
    elif fit in ("stretch", "subject"):
        image = image.resize(target, resample)
    else:
        raise NVGError(f"there is no fit {fit!r}; there are {', '.join(PICTURE_FITS)}")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def with_subject(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture whose ground is transparent.

    Args:
        mask: mode L, of any size, white on the subject; what the picture has of transparency stays.
    """
    layer = ImageOps.exif_transpose(image).convert("RGBA")
    whole = mask.resize(layer.size, Image.Resampling.BILINEAR)
    layer.putalpha(ImageChops.multiply(layer.getchannel("A"), whole))
    return layer


def _framed(image: Image.Image, ratio: float) -> Image.Image:
    """The subject of a picture with transparency, in a frame where it covers a share of COVERED.

    Args:
        ratio: width / height of the frame.
    """
    if not image.has_transparency_data:
        raise NVGError(
            "the picture has no transparent part that would tell what its subject is: cut it out first, or give a mask"
        )
    image = image.convert("RGBA")
    opacity = image.getchannel("A")
    box = opacity.getbbox()
    if box is None:
        raise NVGError("the picture is transparent everywhere: it has no subject")
    left, top, right, bottom = box
    area = np.asarray(opacity, dtype=np.float64).sum() / 255
    height = max((area / COVERED / ratio) ** 0.5, (bottom - top) / LONGEST, (right - left) / LONGEST / ratio)
    frame = Image.new("RGBA", (max(1, round(height * ratio)), max(1, round(height))))
    frame.paste(image, ((frame.width - left - right) // 2, (frame.height - top - bottom) // 2))
    return frame


def _opaque(image: Image.Image) -> Image.Image:
    """As RGB, over white."""
    image = eight_bits(image)
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
    except ValueError as error:
        raise NVGError(f"a picture of mode {image.mode} cannot be converted to RGB; save it as RGB first") from error
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def palette(clusters: int) -> np.ndarray:
    """Colours of the N = 2^i clusters of a stage: uint8 [N,3].

    A cluster owns a range of hues and each child one half of it, so that siblings look alike and a child stays near
    its parent. From the fourth split on hues get close, so the second child is also lighter than the first.
    """
    depth = clusters.bit_length() - 1
    colours = []
    for label in range(clusters):
        hue = 0.85 * (label + 0.5) / clusters  # not the whole circle: the first and the last are not related
        bits = [label >> (depth - 1 - split) & 1 for split in range(depth)]
        value = 0.8 + sum((bit - 0.5) * 0.15 / 2**fine for fine, bit in enumerate(bits[3:]))
        colours.append(colorsys.hsv_to_rgb(hue, 0.7, value))
    return (np.array(colours) * 255).round().astype(np.uint8)


def structure_image(labels: Tensor, clusters: int, grid: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """A map of one stage's clusters in the colours of `palette`.

    Args:
        labels: long [L], labels below `clusters`.
        clusters: N, so that a stage has the same colours in every picture.
        grid: (h, w) with h * w = L.
        size: (H, W) of the result, which is enlarged without smoothing.
    """
    colours = palette(clusters)[labels.cpu().numpy()].reshape(*grid, 3)
    return Image.fromarray(colours).resize((size[1], size[0]), Image.Resampling.NEAREST)


def enlarge(image: Image.Image, factor: int) -> Image.Image:
    """Every pixel as a square of `factor` pixels."""
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def filmstrip(model: NVG, sequence: VisualGranularitySequence, item: int = 0, seamless: bool = False) -> Image.Image:
    """One image of a sequence as it comes about: every stage's decoded image above its structure map.

    Args:
        seamless: as for `NVG.decode`.
    """
    one = sequence.items([item])
    height, width = model.config.output_size
    factor = max(1, -(-_STRIP_TILE // min(height, width)))
    images, maps, captions = [], [], []
    for stage in range(one.num_stages):
        clusters = 2**stage
        images.append(enlarge(to_pil(model.decode(one, stage, seamless))[0], factor))
        size = (height * factor, width * factor)
        maps.append(structure_image(one.structure[0, stage], clusters, one.grid, size))
        captions.append(f"stage {stage} · {clusters} region{'s' * (clusters > 1)}")
    return grid([*images, *maps], one.num_stages, captions)


def grid(images: Sequence[Image.Image], columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """A contact sheet on white, row by row, each column as wide and each row as high as its largest entry.

    Args:
        captions: one above each picture. The last may be missing; a row without captions leaves no room for them.
    """
    if not images or columns < 1:
        raise NVGError(f"{len(images)} pictures in {columns} columns make no sheet; give at least one of each")
    texts = [*(captions or ()), *[""] * len(images)][: len(images)]
    font = ImageFont.load_default()
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    widths, heights, headings = [0] * columns, [0] * rows, [0] * rows
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(index, columns)
        _, _, right, bottom = font.getbbox(text) if text else (0, 0, 0, 0)
        widths[column] = max(widths[column], image.width, int(right))
        heights[row] = max(heights[row], image.height)
        headings[row] = max(headings[row], int(bottom) + MARGIN // 2 if text else 0)
    lefts = [MARGIN + sum(widths[:column]) + column * MARGIN for column in range(columns)]
    tops = [MARGIN + sum(heights[:row]) + sum(headings[:row]) + row * MARGIN for row in range(rows)]
    sheet = Image.new("RGB", (lefts[-1] + widths[-1] + MARGIN, tops[-1] + headings[-1] + heights[-1] + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(index, columns)
        draw.text((lefts[column], tops[row]), text, fill="black", font=font)
        sheet.paste(_opaque(image), (lefts[column], tops[row] + headings[row]))
    return sheet
