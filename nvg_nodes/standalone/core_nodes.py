"""The few of ComfyUI's own nodes that our workflows use, for `nvg-run`; the host has the genuine ones.

Shapes: IMAGE [B,H,W,C] and MASK [B,H,W], both in [0,1].
"""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from nvg_model import NVGError, pictures
from nvg_nodes.images import from_pil
from nvg_nodes.standalone import schema as io

CHANNELS = ["red", "green", "blue", "alpha"]
LANCZOS = "lanczos"
LARGEST = 16384
"""Pixels that the host allows along a side."""
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiply": operator.mul,
    "add": operator.add,
    "subtract": operator.sub,
    "and": lambda below, above: (below.round().bool() & above.round().bool()).float(),
    "or": lambda below, above: (below.round().bool() | above.round().bool()).float(),
    "xor": lambda below, above: (below.round().bool() ^ above.round().bool()).float(),
}
"""How MaskComposite combines two masks."""


@dataclass
class Files:
    """Where pictures are read and written in one run."""

    inputs: list[Path]
    """Folders that are searched for a picture, in this order."""
    out: Path
    previews: bool = False
    """Whether previews are written too."""
    written: list[Path] = field(default_factory=list)

    def find(self, name: str) -> Path:
        """The picture of that name. Raises NVGError where there is none."""
        plain = re.sub(r" \[(input|output|temp)\]$", "", name)  # the host marks a folder like this
        for folder, spelling in itertools.product(self.inputs, (plain, plain.replace("\\", "/"))):
            with contextlib.suppress(OSError, ValueError):  # too long, or with a zero byte: no file has such a name
                if (folder / spelling).is_file():
                    return folder / spelling
        raise NVGError(f"there is no picture {name!r} in {', '.join(map(str, self.inputs))}")


class CoreNode(io.ComfyNode):
    """One of the host's own nodes."""

    files: ClassVar[Files] = Files([], Path())
    RELATIVE_PYTHON_MODULE = "nodes"


class LoadImage(CoreNode):
    """A picture file; its mask is what is transparent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        image = io.Combo.Input("image")
        image.extra_dict = {"image_upload": True}
        outputs = [io.Image.Output(display_name="IMAGE"), io.Mask.Output(display_name="MASK")]
        return io.Schema("LoadImage", "Load Image", "image", [image], outputs)

    @classmethod
    def validate_inputs(cls, image: str) -> bool:
        """Any name will do: `execute` looks for it."""
        return True

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        """RGB and the mask, one for every frame; without transparency the host's masks are 64 x 64 zeros."""
        frames = _frames(cls.files.find(image))
        masks = torch.zeros(len(frames), 64, 64)
        if any(frame.has_transparency_data for frame in frames):
            masks = 1 - from_pil([frame.convert("RGBA").getchannel("A") for frame in frames])
        return io.NodeOutput(from_pil([frame.convert("RGB") for frame in frames]), masks)


def _frames(path: Path) -> list[Image.Image]:
    """Every frame of a picture that has the size of the first, upright, with 8 bits a channel.

    Raises:
        NVGError: it cannot be read.
    """
    frames: list[Image.Image] = []
    with pictures.opened(path, str(path)) as opened:
        for frame in ImageSequence.Iterator(opened):
            upright = ImageOps.exif_transpose(frame)
            if not frames or upright.size == frames[0].size:
                frames.append(pictures.eight_bits(upright).copy())
            if opened.format == "MPO":  # the others are the same picture in other sizes
                break
    return frames


class SaveImage(CoreNode):
    """PNG files with the graph in them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Image.Input("images"), io.String.Input("filename_prefix", default="ComfyUI")]
        return io.Schema("SaveImage", "Save Image", "image", inputs, is_output_node=True)

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str) -> io.NodeOutput:
        """Writes PREFIX_00001_.png and so on, never over a file that is there."""
        cls.write(images, filename_prefix)
        return io.NodeOutput(ui=io.PreviewImage(images))

    @classmethod
    def write(cls, images: Tensor, prefix: str, **how: Any) -> None:
        """Writes the images with the prompt and the workflow as the host does. Raises NVGError."""
        try:
            cls._write(images, prefix, **how)
        except (OSError, ValueError) as error:  # ValueError: a zero byte, or half a character
            if isinstance(error, NVGError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise NVGError(f"filename_prefix {prefix!r} cannot be written to in {cls.files.out} ({reason})") from error

    @classmethod
    def _write(cls, images: Tensor, prefix: str, **how: Any) -> None:
        folder, name, counter = cls._free_name(images, prefix, "png")
        metadata = PngInfo()
        for key, value in cls._graphs().items():
            metadata.add_text(key, json.dumps(value))
        for number, image in enumerate(images):
            path = folder / f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
            Image.fromarray(_bytes(image)).save(path, pnginfo=metadata, compress_level=4)
            cls.files.written.append(path)

    @classmethod
    def _graphs(cls) -> dict[str, Any]:
        """What is kept in a file: the prompt, and the workflow."""
        return {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}

    @classmethod
    def _free_name(cls, images: Tensor, prefix: str, ending: str) -> tuple[Path, str, int]:
        """The folder, the name, and the first number that no file there has. Raises NVGError."""
        stem = _filled_in(prefix.replace("\\", "/"), images)
        folder = (cls.files.out / stem).parent
        if not folder.resolve().is_relative_to(cls.files.out.resolve()):
            raise NVGError(f"filename_prefix {prefix!r} leads out of {cls.files.out}; name a folder inside it")
        folder.mkdir(parents=True, exist_ok=True)
        name = Path(stem).name
        taken = [re.fullmatch(rf"{re.escape(name)}_(\d+)_?\.{ending}", file.name) for file in folder.iterdir()]
        return folder, name, max((int(found[1]) for found in taken if found), default=0) + 1


def _filled_in(prefix: str, images: Tensor) -> str:
    """The prefix with the host's words for size and time."""
    now = time.localtime()
    words = {"width": images.shape[2], "height": images.shape[1], "year": now.tm_year}
    two = {"month": now.tm_mon, "day": now.tm_mday, "hour": now.tm_hour, "minute": now.tm_min, "second": now.tm_sec}
    for word, value in words.items():
        prefix = prefix.replace(f"%{word}%", str(value))
    for word, value in two.items():
        prefix = prefix.replace(f"%{word}%", f"{value:02}")
    return prefix


def _bytes(image: Tensor) -> np.ndarray:
    """The pixels in 8 bits, cut off instead of rounded, as the host does."""
    return (255.0 * image.cpu()).clamp(0, 255).to(torch.uint8).numpy()


class PreviewImage(SaveImage):
    """Pictures that are only looked at; written where the run was asked to."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("PreviewImage", "Preview Image", "image", [io.Image.Input("images")], is_output_node=True)

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:  # type: ignore[override]
        """Writes files only with `--previews`."""
        if cls.files.previews:
            cls.write(images, f"previews/node_{cls.hidden.unique_id}")
        return io.NodeOutput(ui=io.PreviewImage(images))


class SaveAnimatedWEBP(SaveImage):
    """An animation of a batch, with the graph in it."""

    METHODS: ClassVar[dict[str, int]] = {"default": 4, "fastest": 0, "slowest": 6}

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Image.Input("images"),
            io.String.Input("filename_prefix", default="ComfyUI"),
            io.Float.Input("fps", default=6.0, min=0.01, max=1000.0, step=0.01),
            io.Boolean.Input("lossless", default=True),
            io.Int.Input("quality", default=80, min=0, max=100),
            io.Combo.Input("method", options=list(cls.METHODS)),
        ]
        return io.Schema("SaveAnimatedWEBP", "Save Animated WEBP", "image", inputs, is_output_node=True)

    @classmethod
    def execute(  # type: ignore[override]
        cls, images: Tensor, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
    ) -> io.NodeOutput:
        """Writes PREFIX_00001_.webp, never over a file that is there."""
        how = {"lossless": lossless, "quality": quality, "method": cls.METHODS[method]}
        cls.write(images, filename_prefix, duration=int(1000 / fps), **how)
        return io.NodeOutput(ui=io.PreviewImage(images))

    @classmethod
    def _write(cls, images: Tensor, prefix: str, **how: Any) -> None:
        folder, name, counter = cls._free_name(images, prefix, "webp")
        exif = Image.Exif()
        for tag, (key, value) in zip(range(0x0110, 0, -1), cls._graphs().items(), strict=False):
            exif[tag] = f"{key}:{json.dumps(value)}"  # as the host, in fields that every reader knows
        path = folder / f"{name}_{counter:05}_.webp"
        first, *others = [Image.fromarray(_bytes(image)) for image in images]
        first.save(path, save_all=True, append_images=others, exif=exif, **how)
        cls.files.written.append(path)


class ImageScaleBy(CoreNode):
    """Pictures enlarged or shrunk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Image.Input("image"),
            io.Combo.Input("upscale_method", options=["nearest-exact", "bilinear", "area", "bicubic", LANCZOS]),
            io.Float.Input("scale_by", default=1.0, min=0.01, max=8.0, step=0.01),
        ]
        outputs = [io.Image.Output(display_name="IMAGE")]
        return io.Schema("ImageScaleBy", "Upscale Image By", "image/upscaling", inputs, outputs)

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, scale_by: float) -> io.NodeOutput:
        """Both sides times `scale_by`, rounded."""
        height, width = (round(side * scale_by) for side in image.shape[1:3])
        if upscale_method == LANCZOS:  # the host's way is Pillow's, by way of 8 bits
            sizes = (width, height), Image.Resampling.LANCZOS
            return io.NodeOutput(from_pil([Image.fromarray(one).resize(*sizes) for one in _bytes(image)]))
        channels_first = image.movedim(-1, 1)
        return io.NodeOutput(F.interpolate(channels_first, (height, width), mode=upscale_method).movedim(1, -1))


class MaskToImage(CoreNode):
    """A mask as a grey picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Image.Output(display_name="IMAGE")]
        return io.Schema("MaskToImage", "Convert Mask to Image", "mask", [io.Mask.Input("mask")], outputs)

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        """Three equal channels."""
        return io.NodeOutput(mask.reshape(-1, *mask.shape[-2:])[..., None].expand(-1, -1, -1, 3))


class ImageToMask(CoreNode):
    """A channel of a picture as a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Image.Input("image"), io.Combo.Input("channel", options=CHANNELS)]
        return io.Schema("ImageToMask", "Convert Image to Mask", "mask", inputs, [io.Mask.Output(display_name="MASK")])

    @classmethod
    def execute(cls, image: Tensor, channel: str) -> io.NodeOutput:
        """The channel as it is."""
        index = CHANNELS.index(channel)
        if index >= image.shape[-1]:
            raise NVGError(f"the image has {image.shape[-1]} channels and so no {channel}")
        return io.NodeOutput(image[..., index])


class SolidMask(CoreNode):
    """A mask of one value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
            io.Int.Input("width", default=512, min=1, max=LARGEST, step=1),
            io.Int.Input("height", default=512, min=1, max=LARGEST, step=1),
        ]
        return io.Schema("SolidMask", "SolidMask", "mask", inputs, [io.Mask.Output()])

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> io.NodeOutput:
        """One mask."""
        return io.NodeOutput(torch.full((1, height, width), value))


class MaskComposite(CoreNode):
    """A mask put onto another mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Mask.Input("destination"),
            io.Mask.Input("source"),
            io.Int.Input("x", default=0, min=0, max=LARGEST, step=1),
            io.Int.Input("y", default=0, min=0, max=LARGEST, step=1),
            io.Combo.Input("operation", options=list(OPERATIONS)),
        ]
        return io.Schema("MaskComposite", "MaskComposite", "mask", inputs, [io.Mask.Output()])

    @classmethod
    def execute(cls, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> io.NodeOutput:
        """Changes the rectangle that the source covers, its left upper corner at (x, y); what sticks out is cut off."""
        result = destination.reshape(-1, *destination.shape[-2:]).clone()
        below = result[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        above = source.reshape(-1, *source.shape[-2:])[:, : below.shape[1], : below.shape[2]]
        below.copy_(OPERATIONS[operation](below, above))
        return io.NodeOutput(result.clamp(0, 1))


CORE: list[type[Any]] = [
    LoadImage,
    SaveImage,
    PreviewImage,
    SaveAnimatedWEBP,
    ImageScaleBy,
    MaskToImage,
    ImageToMask,
    SolidMask,
    MaskComposite,
]
"""All of them."""
