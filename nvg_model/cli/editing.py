"""The commands that edit (inpaint, interpolate), and their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvg_model.cli.pictures import output_path, read_mask, read_pixels, replacing, save_picture
from nvg_model.errors import NVGError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nvg_model.model import NVG
    from nvg_model.regions import Region
    from nvg_model.sampling import SamplingSettings

ANIMATIONS = (".webp", ".gif")


def region(text: str) -> tuple[str, str]:
    """Reads MASK.png=NAME."""
    mask, _, name = text.partition("=")
    if not mask or not name:
        raise argparse.ArgumentTypeError(f'{text!r} is no region; write the mask and its class as MASK.png="cat face"')
    return mask, name


def read_regions(args: argparse.Namespace) -> list[Region]:
    """The regions of the options. Raises NVGError for a mask that cannot be read."""
    from nvg_model.regions import Region

    return [Region(read_mask(mask), name) for mask, name in args.regions]


def variation(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `NVG.generate` for the option --variation."""
    if not args.variation:
        return {}
    seed, share = args.variation
    if seed != int(seed) or seed < 0:
        raise NVGError(f"--variation {seed:g} {share:g}: the first number is a seed, a whole number from 0 on")
    return {"variation_seed": int(seed), "variation": share}


def layout(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `NVG.generate` for the options --seamless and --area, which not all commands have."""
    found: dict[str, Any] = {}
    if getattr(args, "area", None):
        found |= {"area": read_mask(args.area), "area_rule": args.area_rule}
    if args.seamless:
        found["seamless"] = True
    return found


def stages_of(layout: dict[str, Any], grid: tuple[int, int]) -> int:
    """Stages whose structure an area gives. Raises NVGError."""
    from nvg_model import areas

    if "area" not in layout or layout["area_rule"] == areas.FREE:
        return 0
    return 2 if layout["area_rule"] == areas.HALF else areas.fitted(layout["area"], 1, grid).stage + 1


def add_area_options(command: argparse.ArgumentParser) -> None:
    """The options of an area, where the structure is not that of a picture."""
    command.add_argument("--area", metavar="MASK.png", help="an area of any size, as regions of the structure")
    command.add_argument(
        "--area-rule", default="nested", metavar="RULE", help="nested (the default), free or half: how splits reach it"
    )


def add_inpaint_options(command: argparse.ArgumentParser) -> None:
    """The options of `nvg inpaint`."""
    add_area_options(command)
    command.add_argument("image", metavar="IMAGE")
    command.add_argument(
        "--mask", metavar="IMAGE", help="white where the picture is drawn anew (where it is transparent)"
    )
    command.add_argument(
        "--place",
        nargs=3,
        type=float,
        metavar=("SCALE", "RIGHT", "DOWN"),
        help="outpainting: show the picture at this scale, moved by so many pixels, and draw what is left free",
    )
    command.add_argument(
        "--keep-structure",
        type=int,
        default=0,
        metavar="N",
        help="keep its first N stages of structure in the mask too",
    )
    command.add_argument(
        "--keep-content", type=int, default=0, metavar="N", help="keep its first N stages of content in the mask too"
    )
    command.add_argument("--compare", action="store_true", help="show the picture beside the result")


def add_interpolate_options(command: argparse.ArgumentParser) -> None:
    """The options of `nvg interpolate`."""
    add_area_options(command)
    command.add_argument("--frames", type=int, default=9, metavar="N", help="pictures, both ends included (9)")
    command.add_argument(
        "--content",
        default="blend",
        metavar="HOW",
        help="how the content changes: mixed (blend, the default), at once (nearer) or coarse stages first (stages)",
    )
    command.add_argument("--duration", type=int, default=80, metavar="MS", help="of a frame in a WebP or GIF (80)")


def inpainted(
    model: NVG, args: argparse.Namespace, classes: list[str | int], settings: SamplingSettings, advance: Any
) -> tuple[Tensor, Tensor]:
    """The picture [1,3|4,H,W] as it was (or was placed), and the results [B,3|4,H,W]."""
    from nvg_model.editing import place

    images = read_pixels(args.image, model.config.image_size, args.fit)
    if args.place:
        scale, right, down = args.place
        images, mask = place(images, scale, round(right), round(down))
    elif args.mask:
        mask = read_mask(args.mask)
    elif images.shape[1] == 4:
        mask = (images[0, 3] < 0).float()
    else:
        raise NVGError(f"{args.image} has no transparency; say with --mask or --place what is to be drawn")
    regions, keep = read_regions(args), args.keep_structure
    more = layout(args) | variation(args) | {"first_item": args.first_item} | partner(args)
    new = model.inpaint(images, mask, classes, args.seed, regions, keep, settings, advance, args.keep_content, **more)
    return images, new


def partner(args: argparse.Namespace) -> dict[str, Any]:
    """What `NVG.generate` takes for --partner. Raises NVGError."""
    import torch

    from nvg_model import checkpoint

    if not args.partner:
        if args.partner_from:
            raise NVGError("--partner-from says where a --partner begins; name the partner as well")
        return {}
    found = checkpoint.load(args.partner, args.device, getattr(torch, args.dtype), args.compile)
    return {"partner": found, "partner_from": args.partner_from or 0}


def save_frames(frames: list[Image], out: str, recipe: dict[str, Any], args: argparse.Namespace) -> int:
    """An animation, or a PNG with all frames in a row."""
    from nvg_model import render

    path = output_path(out)
    frames = [render.enlarge(frame, args.scale) for frame in frames]
    if path.suffix.lower() not in ANIMATIONS:
        return save_picture(render.grid(frames, len(frames)), path, recipe)
    with replacing(path) as partial:
        options = {"lossless": True} if path.suffix.lower() == ".webp" else {}
        there_and_back = frames + frames[-2:0:-1]
        there_and_back[0].save(
            partial,
            path.suffix[1:],
            save_all=True,
            append_images=there_and_back[1:],
            duration=args.duration,
            loop=0,
            **options,
        )
    print(path)
    return 0


def frames_name(text: str) -> str:
    """The name of a picture or an animation."""
    if Path(text).suffix.lower() not in (".png", *ANIMATIONS):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, {' or '.join(ANIMATIONS)}")
    return text
