"""The commands of `nvg`: what each does with its options.

Whatever imports torch is imported inside the functions, so that `nvg --help` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvg_model.cli import editing
from nvg_model.cli.pictures import output_path, read_picture, read_pixels, replacing, save_picture
from nvg_model.errors import NVGError
from nvg_model.schedule import BY_STAGE

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nvg_model.model import NVG
    from nvg_model.sampling import SamplingSettings
    from nvg_model.tokenizer import VisualGranularitySequence

_INDEX = re.compile(r"\d{1,9}")
PAIRS = ("content_guidance", "structure_guidance", "top_p")
SETTINGS = (*PAIRS, "top_k", "temperature", "gumbel", *BY_STAGE)


def generate(args: argparse.Namespace) -> int:
    """`nvg generate`: pictures of classes."""
    from nvg_model import render

    if args.transparent and args.filmstrip:
        raise NVGError("--transparent is for the pictures themselves; leave out --filmstrip, or --transparent")
    if args.keep_structure and not args.structure:
        raise NVGError("--keep-structure says how much of the --structure picture to keep; name the picture as well")
    if args.subject and not args.structure:
        raise NVGError("--subject says what to take of the --structure picture; name the picture as well")
    out = output_path(args.out or _default_name(args, str(args.seed)))
    model = _load(args)
    structure = None
    if args.structure:
        _, structure = _picture_structure(model, args, args.keep_structure or model.config.num_stages)
    drawing = _draw(model, args, structure)
    if args.transparent:
        cutouts = render.to_pil(model.cut_out(drawing.sequence, seamless=args.seamless))
        return _save_all(cutouts, out, drawing.recipe, args.scale)
    picture = _filmstrips(model, drawing, args) if args.filmstrip else _sheet(model, drawing, args)
    return save_picture(picture, out, drawing.recipe, args.scale)


def transfer(args: argparse.Namespace) -> int:
    """`nvg transfer`: the structure of a picture, the content of a class."""
    out = output_path(args.out or _default_name(args, Path(args.structure).stem))
    model = _load(args)
    source, structure = _picture_structure(model, args, args.keep_structure or model.config.splits // 2 + 1)
    drawing = _draw(model, args, structure)
    picture = _compared(model, source, structure, drawing, args) if args.compare else _sheet(model, drawing, args)
    return save_picture(picture, out, drawing.recipe, args.scale)


def inpaint(args: argparse.Namespace) -> int:
    """`nvg inpaint`: redraws a part of a picture."""
    from nvg_model import render
    from nvg_model.generation import count_evaluations

    out = output_path(args.out or _default_name(args, Path(args.image).stem))
    model = _load(args)
    settings = _settings(model, args)
    classes = _classes(model, args)
    given = max(args.keep_structure, editing.stages_of(editing.layout(args), model.config.grid))
    with _progress(count_evaluations(settings, model.config.splits, given), args.quiet) as advance:
        images, new = editing.inpainted(model, args, classes, settings, advance)
    tiles = render.to_pil(new)
    if args.compare:
        tiles = [tile for image in tiles for tile in (*render.to_pil(images), image)]
    recipe = _recipe(model, args, classes, settings) | {
        "picture": args.image,
        "mask": args.mask,
        "place": args.place,
        "fit": args.fit,
    }
    picture = tiles[0] if len(tiles) == 1 else render.grid(tiles, 2 if args.compare else _columns(len(tiles)))
    return save_picture(picture, out, recipe, args.scale)


def cutout(args: argparse.Namespace) -> int:
    """`nvg cutout`: a picture without its ground."""
    from nvg_model import render

    out = output_path(args.out or f"{Path(args.image).stem}-cutout.png")
    model = _load(args)
    images = read_pixels(args.image, model.config.image_size, args.fit)
    recipe = {"model": args.model, "picture": args.image, "fit": args.fit}
    return save_picture(render.to_pil(model.cut_out(images=images))[0], out, recipe)


def grid(args: argparse.Namespace) -> int:
    """`nvg grid`: a sheet of pictures that differ in two choices."""
    from nvg_model import render, sheets
    from nvg_model.generation import count_evaluations

    out = output_path(args.out or f"{args.columns[0]}-{args.rows[0]}-{args.seed}.png")
    columns, rows = sheets.Axis.read(*args.columns), sheets.Axis.read(*args.rows)
    model = _load(args)
    settings = _settings(model, args)
    if sheets.CLASS not in (columns.name, rows.name) and len(args.classes) != 1:
        raise NVGError(f"{len(args.classes)} classes are given for one sheet; name one with --class, or an axis class")
    if sheets.CLASS in (columns.name, rows.name) and args.classes:
        raise NVGError("the classes are on an axis; leave out --class")
    args.count = 1
    classes = _classes(model, args)
    more = editing.variation(args) | {"first_item": args.first_item, "regions": editing.read_regions(args)}
    more |= editing.layout(args)
    more |= editing.partner(args)
    jobs = sheets.jobs(model, columns, rows, classes or None, args.seed, settings, **more)
    given = editing.stages_of(editing.layout(args), model.config.grid)
    total = sum(count_evaluations(job["settings"], model.config.splits, given) for job in jobs)
    with _progress(total, args.quiet) as advance:
        sequences = [model.generate(**job, on_evaluation=advance) for job in jobs]
    drawn = [model.decode(sequence, seamless=args.seamless) for sequence in sequences]
    tiles = [tile for images in drawn for tile in render.to_pil(images)]
    axes = {axis.name: list(axis.values) for axis in (columns, rows)}
    recipe = _recipe(model, args, classes or ["unconditional"], settings) | {"axes": axes}
    return save_picture(sheets.labelled(tiles, columns.captions, rows.captions), out, recipe, args.scale)


def interpolate(args: argparse.Namespace) -> int:
    """`nvg interpolate`: the way from one class's picture to another's."""
    from nvg_model import render

    if len(args.classes) != 2:
        raise NVGError(f"{len(args.classes)} classes are given; name two: --class smiley --class heart")
    out = args.out or _default_name(args, str(args.seed))
    output_path(out)
    model = _load(args)
    args.count = 1
    drawing = _draw(model, args, None)
    ends = drawing.sequence.items([0]), drawing.sequence.items([1])
    between = model.interpolate(*ends, args.frames, args.content)
    recipe = drawing.recipe | {"frames": args.frames, "content": args.content}
    return editing.save_frames(render.to_pil(model.decode(between, seamless=args.seamless)), out, recipe, args)


def tokenize(args: argparse.Namespace) -> int:
    """`nvg tokenize`: a picture as structure, tokens and canvases."""
    from safetensors.torch import save
    from torch.nn import functional

    from nvg_model import render

    out = output_path(args.out or str(Path(args.image).with_suffix(".safetensors")))
    strip = output_path(args.filmstrip) if args.filmstrip else None
    model = _load(args)
    image = read_picture(model, args.image, args.fit, args.subject)
    sequence = model.tokenize(image)
    tensors = {name: getattr(sequence, name).cpu().contiguous() for name in ("structure", "tokens", "canvases")}
    recipe = {"model": args.model, "picture": args.image, "fit": args.fit}
    if args.subject:
        recipe["subject"] = args.subject
    with replacing(out) as partial:
        partial.write_bytes(save(tensors, {"nvg": json.dumps(recipe | {"grid": sequence.grid})}))
    print(out)
    if strip:
        save_picture(render.filmstrip(model, sequence), strip, recipe)
    decoded = functional.interpolate(model.decode(sequence).cpu(), image.shape[2:], mode="area")
    error = (decoded - image).square().mean()
    print(f"PSNR {10 * (4 / error).log10().item():.2f} dB")
    return 0


def convert(args: argparse.Namespace) -> int:
    """`nvg convert`: released checkpoints as one file in our format."""
    import torch

    from nvg_model import checkpoint, preview, released

    out = output_path(args.out)
    model = released.load_released(
        args.autoencoder, args.generator, args.ema, args.autoencoder_ema, dtype=getattr(torch, args.dtype)
    )
    model.preview_map = preview.fit(model.tokenizer)
    print(checkpoint.save(model, out))
    return 0


def bench(args: argparse.Namespace) -> int:
    """`nvg bench`: what every part costs on this machine."""
    from nvg_model.cli import bench as benchmarks

    _prepare(args)
    return benchmarks.run(args)


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """What was generated."""

    sequence: VisualGranularitySequence
    captions: list[str]
    """One per image: class and number."""
    recipe: dict[str, Any]
    """Everything that it takes to draw the same again."""


def _draw(model: NVG, args: argparse.Namespace, structure: Tensor | None) -> _Drawing:
    """Generates what the options ask for, along a structure [1,S',L] if there is one."""
    from nvg_model.generation import count_evaluations

    classes = _classes(model, args)
    settings = _settings(model, args)
    stages = 0 if structure is None else structure.shape[1]
    laid_out = editing.layout(args)
    given = max(stages, editing.stages_of(laid_out, model.config.grid))
    with _progress(count_evaluations(settings, model.config.splits, given), args.quiet) as advance:
        sequence = model.generate(
            classes,
            args.seed,
            settings,
            structure,
            first_item=args.first_item,
            on_evaluation=advance,
            regions=editing.read_regions(args),
            **editing.variation(args),
            **laid_out,
            **editing.partner(args),
        )
    recipe = _recipe(model, args, classes, settings)
    recipe["structure"] = _source(args, stages) if stages else None
    captions = [f"{name} · {args.first_item + item}" for item, name in enumerate(recipe["classes"])]
    return _Drawing(sequence, captions, recipe)


def _classes(model: NVG, args: argparse.Namespace) -> list[str | int]:
    """One class per picture; a number is an index, unless the model has a class of that name."""
    classes = [int(one) if _INDEX.fullmatch(one) and one not in model.classes else one for one in args.classes]
    return [one for one in classes for _ in range(args.count)]


def _recipe(
    model: NVG, args: argparse.Namespace, classes: Sequence[str | int], settings: SamplingSettings
) -> dict[str, Any]:
    """The options that draw the same pictures again."""
    return {
        "model": args.model,
        "revision": model.provenance.get("revision"),
        "dtype": args.dtype,
        "classes": [(*model.classes, "no class")[index] for index in model.class_indices(classes)],
        "seed": args.seed,
        "first_item": args.first_item,
        "settings": dataclasses.asdict(settings),
        "regions": [list(one) for one in args.regions],
        "variation": args.variation,
        "area": [args.area, args.area_rule] if getattr(args, "area", None) else None,
        "seamless": args.seamless,
        "partner": [args.partner, args.partner_from] if args.partner else None,
    }


def _settings(model: NVG, args: argparse.Namespace) -> SamplingSettings:
    """The checkpoint's sampling defaults with the options that were given."""
    given = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    return dataclasses.replace(model.settings, **given)


def _load(args: argparse.Namespace) -> NVG:
    import torch

    from nvg_model import checkpoint

    _prepare(args)
    return checkpoint.load(args.model, args.device, getattr(torch, args.dtype), getattr(args, "compile", False))


def _prepare(args: argparse.Namespace) -> None:
    """Sets the threads, and sees whether the device is there."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        torch.zeros(1, device=args.device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NVGError(f"the device {args.device!r} cannot be used ({reason})") from error


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[], Any]]:
    """A bar on stderr, where that is a terminal; yields what advances it by one network evaluation."""
    from tqdm import tqdm

    with tqdm(total=total, disable=quiet or None, unit=" evaluations", leave=False) as bar:
        yield bar.update


def _source(args: argparse.Namespace, stages: int) -> dict[str, Any]:
    """What a recipe says of the picture that the structure is from."""
    source = {"picture": args.structure, "stages": stages, "fit": args.fit}
    return source | ({"subject": args.subject} if args.subject else {})


def _picture_structure(model: NVG, args: argparse.Namespace, stages: int) -> tuple[Tensor, Tensor]:
    """The picture `args.structure` as the model sees it [1,3,H,W], and the structure [1,S',L] of its first stages."""
    if stages > model.config.num_stages:
        raise NVGError(f"{stages} stages of structure are too many; this model has {model.config.num_stages}")
    image = read_picture(model, args.structure, args.fit, args.subject)
    return image, model.tokenize(image).structure[:, :stages]


def _sheet(model: NVG, drawing: _Drawing, args: argparse.Namespace) -> Image:
    """The image itself, or a contact sheet of several: a row per class, or about square.

    An image alone is transparent where the model has opacity; sheets are white.
    """
    from nvg_model import render

    transparent = model.config.autoencoder.output_channels == 4 and len(drawing.sequence) == 1
    decode = model.decode_rgba if transparent else model.decode
    images = render.to_pil(decode(drawing.sequence, seamless=args.seamless))
    if len(images) == 1:
        return images[0]
    columns = args.count if len(args.classes) > 1 < args.count else _columns(len(images))
    return render.grid(images, columns, drawing.captions)


def _filmstrips(model: NVG, drawing: _Drawing, args: argparse.Namespace) -> Image:
    """Every stage of each picture with its structure map, a row for each."""
    from nvg_model import render

    items = range(len(drawing.captions))
    strips = [render.filmstrip(model, drawing.sequence, item, args.seamless) for item in items]
    return render.grid(strips, 1, drawing.captions)


def _compared(model: NVG, source: Tensor, structure: Tensor, drawing: _Drawing, args: argparse.Namespace) -> Image:
    """The picture that gave the structure, its map, and what was drawn with it, a row for each picture drawn."""
    from nvg_model import render

    clusters = 2 ** (structure.shape[1] - 1)
    structure_map = render.structure_image(structure[0, -1], clusters, model.config.grid, model.config.output_size)
    left = [render.to_pil(source)[0], structure_map]
    captions = ["picture", f"{clusters} region{'s' * (clusters > 1)}"]
    images = render.to_pil(model.decode(drawing.sequence, seamless=args.seamless))
    return render.grid(
        [tile for image in images for tile in (*left, image)],
        3,
        [text for caption in drawing.captions for text in (*captions, caption)],
    )


def _save_all(pictures: Sequence[Image], out: Path, recipe: dict[str, Any], scale: int) -> int:
    """Writes one picture, or several whose names are numbered."""
    if len(pictures) == 1:
        return save_picture(pictures[0], out, recipe, scale)
    for item, picture in enumerate(pictures):
        own = recipe | {"classes": recipe["classes"][item : item + 1], "first_item": recipe["first_item"] + item}
        save_picture(picture, out.with_stem(f"{out.stem}-{item}"), own, scale)
    return 0


def _columns(images: int) -> int:
    """Of a sheet that is about square."""
    return math.ceil(math.sqrt(images))


def _default_name(args: argparse.Namespace, ending: str) -> str:
    """Such as heart-7.png."""
    return "-".join(re.sub(r"\W+", "-", part).strip("-") for part in [*args.classes[:3], ending]) + ".png"
