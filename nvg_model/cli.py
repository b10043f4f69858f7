"""The console script `nvg`: generate, tokenize, transfer, info, convert, bench.

Results and their paths go to stdout, progress and complaints to stderr. A wrong use is one sentence and status 2.
Whatever imports torch is imported inside the functions, so that `nvg --help` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nvg_model.errors import NVGError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nvg_model.model import NVG
    from nvg_model.sampling import SamplingSettings
    from nvg_model.sequence import VisualGranularitySequence

_PAIRS = ("content_guidance", "structure_guidance", "top_p")
_SETTINGS = (*_PAIRS, "top_k", "temperature", "structure_steps", "solver", "gumbel")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `nvg` with the given arguments (those of the process by default).

    Returns:
        0; 2 after a wrong use, with one sentence on stderr; 130 when interrupted.
    """
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        args = _parser(with_bench=given[:1] == ["bench"]).parse_args(given)
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `nvg info ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return 141  # as for any program that SIGPIPE ends
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except NVGError as error:
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _complain("there is not enough memory for this; ask for fewer or smaller pictures at once", 2)


def _complain(sentence: str, status: int) -> int:
    print("nvg:", " ".join(sentence.split()), file=sys.stderr)
    return status


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch says so with a RuntimeError of its own on every device."""
    return isinstance(error, MemoryError) or bool(re.search(r"out of memory|allocate memory", str(error)))


# ------------------------------------------------------------------------------------------------------- commands


def generate(args: argparse.Namespace) -> int:
    """`nvg generate`: pictures of classes."""
    from nvg_model import render

    if args.keep_structure and not args.structure:
        raise NVGError("--keep-structure says how much of the --structure picture to keep; name the picture as well")
    out = _output(args.out or _default_name(args, str(args.seed)))
    model = _load(args)
    structure = None
    if args.structure:
        _, structure = _picture_structure(model, args, args.keep_structure or model.config.num_stages)
    drawing = _draw(model, args, structure)
    if args.filmstrip:
        strips = [render.filmstrip(model, drawing.sequence, item) for item in range(len(drawing.captions))]
        picture = render.grid(strips, 1, drawing.captions)
    else:
        picture = _sheet(model, drawing, args)
    return _save_picture(picture, out, drawing.recipe, args.scale)


def transfer(args: argparse.Namespace) -> int:
    """`nvg transfer`: the structure of a picture, the content of a class."""
    from nvg_model import render

    out = _output(args.out or _default_name(args, Path(args.structure).stem))
    model = _load(args)
    source, structure = _picture_structure(model, args, args.keep_structure or model.config.splits // 2 + 1)
    drawing = _draw(model, args, structure)
    if args.compare:
        clusters = 2 ** (structure.shape[1] - 1)
        structure_map = render.structure_image(structure[0, -1], clusters, model.config.grid, model.config.image_size)
        left = [render.to_pil(source)[0], structure_map]
        captions = ["picture", f"{clusters} region{'s' * (clusters > 1)}"]
        picture = render.grid(
            [tile for image in render.to_pil(model.decode(drawing.sequence)) for tile in (*left, image)],
            3,
            [text for caption in drawing.captions for text in (*captions, caption)],
        )
    else:
        picture = _sheet(model, drawing, args)
    return _save_picture(picture, out, drawing.recipe, args.scale)


def tokenize(args: argparse.Namespace) -> int:
    """`nvg tokenize`: a picture as structure, tokens and canvases."""
    from safetensors.torch import save

    from nvg_model import render

    out = _output(args.out or str(Path(args.image).with_suffix(".safetensors")))
    strip = _output(args.filmstrip) if args.filmstrip else None
    model = _load(args)
    image = _read_picture(model, args.image, args.fit)
    sequence = model.tokenize(image)
    tensors = {name: getattr(sequence, name).cpu().contiguous() for name in ("structure", "tokens", "canvases")}
    recipe = {"model": args.model, "picture": args.image, "fit": args.fit}
    with _replacing(out) as partial:
        partial.write_bytes(save(tensors, {"nvg": json.dumps(recipe | {"grid": sequence.grid})}))
    print(out)
    if strip:
        _save_picture(render.filmstrip(model, sequence), strip, recipe)
    error = (model.decode(sequence).cpu() - image).square().mean()
    print(f"PSNR {10 * (4 / error).log10().item():.2f} dB")
    return 0


def info(args: argparse.Namespace) -> int:
    """`nvg info`: what a checkpoint's metadata says."""
    from nvg_model import checkpoint

    found = checkpoint.info(args.checkpoint)
    print(json.dumps(found, indent=1) if args.json else _describe(found))
    return 0


def convert(args: argparse.Namespace) -> int:
    """`nvg convert`: released checkpoints as one file in our format."""
    import torch

    from nvg_model import checkpoint, released

    out = _output(args.out)
    model = released.load_released(
        args.autoencoder, args.generator, args.ema, args.autoencoder_ema, dtype=getattr(torch, args.dtype)
    )
    print(checkpoint.save(model, out))
    return 0


def bench(args: argparse.Namespace) -> int:
    """`nvg bench`: what every part costs on this machine."""
    from nvg_model import bench as benchmarks

    _prepare(args)
    return benchmarks.run(args)


# ---------------------------------------------------------------------------------------------------- their steps


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
    from nvg_model.sampling import count_evaluations

    # A number is an index, unless the model has a class of that name.
    classes = [int(one) if one.isdecimal() and one not in model.classes else one for one in args.classes]
    classes = [one for one in classes for _ in range(args.count)]
    settings = _settings(model, args)
    stages = 0 if structure is None else structure.shape[1]
    with _progress(count_evaluations(settings, model.config.splits, stages), args.quiet) as advance:
        sequence = model.generate(
            classes, args.seed, settings, structure, first_item=args.first_item, on_evaluation=advance
        )
    names = [(*model.classes, "no class")[index] for index in model.class_indices(classes)]
    recipe = {
        "model": args.model,
        "revision": model.provenance.get("revision"),
        "dtype": args.dtype,
        "classes": names,
        "seed": args.seed,
        "first_item": args.first_item,
        "settings": dataclasses.asdict(settings),
        "structure": {"picture": args.structure, "stages": stages, "fit": args.fit} if stages else None,
    }
    captions = [f"{name} · {args.first_item + item}" for item, name in enumerate(names)]
    return _Drawing(sequence, captions, recipe)


def _settings(model: NVG, args: argparse.Namespace) -> SamplingSettings:
    """The checkpoint's sampling defaults with the options that were given."""
    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    return dataclasses.replace(model.settings, **given)


def _sheet(model: NVG, drawing: _Drawing, args: argparse.Namespace) -> Image:
    """The image itself, or a contact sheet of several: a row per class, or about square."""
    from nvg_model import render

    images = render.to_pil(model.decode(drawing.sequence))
    if len(images) == 1:
        return images[0]
    columns = args.count if len(args.classes) > 1 < args.count else math.ceil(math.sqrt(len(images)))
    return render.grid(images, columns, drawing.captions)


def _picture_structure(model: NVG, args: argparse.Namespace, stages: int) -> tuple[Tensor, Tensor]:
    """The picture `args.structure` as the model sees it [1,3,H,W], and the structure [1,S',L] of its first stages."""
    if stages > model.config.num_stages:
        raise NVGError(f"{stages} stages of structure are too many; this model has {model.config.num_stages}")
    image = _read_picture(model, args.structure, args.fit)
    return image, model.tokenize(image).structure[:, :stages]


def _read_picture(model: NVG, path: str, fit: str) -> Tensor:
    """A picture file as [1,3,H,W] of the model's size. Raises NVGError where it cannot be read."""
    from PIL import Image

    from nvg_model import render

    if not Path(path).is_file():
        raise NVGError(f"there is no picture {path}")
    try:
        with Image.open(path) as image:
            return render.from_pil(image, model.config.image_size, fit)
    except Image.UnidentifiedImageError as error:
        raise NVGError(f"{path} is not a picture of a known format") from error
    except NVGError:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        raise NVGError(f"{path} is damaged or cannot be read ({error})") from error


def _load(args: argparse.Namespace) -> NVG:
    import torch

    from nvg_model import checkpoint

    _prepare(args)
    return checkpoint.load(args.model, args.device, getattr(torch, args.dtype))


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


def _describe(found: dict[str, Any]) -> str:
    """The result of `checkpoint.info` for people."""
    from nvg_model.config import NVGConfig

    config, provenance = NVGConfig.from_dict(found["config"]), dict(found["provenance"])
    codebook, generator = config.autoencoder, found["config"]["generator"]
    lines = {
        "file": found["file"],
        "parameters": f"{found['parameters'] / 1e6:.2f} million",
        "images": "{} x {} pixels (height x width)".format(*config.image_size),
        "stages": f"{config.num_stages} (K = {config.splits}, {config.positions} positions)",
        "codebook": f"{codebook.codebook_size} vectors of {codebook.latent_channels} channels",
        "generators": "none: a tokenizer only",
    }
    if generator:
        lines["generators"] = " and ".join(
            f"{name} {generator[f'{name}_depth']} deep, {generator[f'{name}_width']} wide"
            for name in ("content", "structure")
        )
        if generator["flow"] == "average":
            lines["structure flow"] = f"in few steps, with guidance from 1 to {generator['largest_guidance']:g} inside"
        lines["classes"] = f"{len(found['classes'])}: {textwrap.shorten(', '.join(found['classes']), 1000)}"
        lines["sampling"] = _plain(found["settings"])
    lines["licence"] = provenance.pop("licence", "not stated")
    lines |= {name: _plain(value) for name, value in provenance.items()}
    return "\n".join(_field(name, text) for name, text in lines.items())


def _plain(value: Any) -> str:
    """A value of JSON without its brackets and quotes."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _field(name: str, text: str) -> str:
    line = f"{name.replace('_', ' '):<22}{text}"
    return textwrap.fill(line, 110, subsequent_indent=" " * 22, break_long_words=False, break_on_hyphens=False)


# --------------------------------------------------------------------------------------------------------- output


def _default_name(args: argparse.Namespace, ending: str) -> str:
    """Such as heart-7.png."""
    return "-".join(re.sub(r"\W+", "-", part).strip("-") for part in [*args.classes[:3], ending]) + ".png"


def _output(name: str) -> Path:
    """Where a result will go. Raises NVGError now, before the work, where it cannot be written."""
    path = Path(name)
    folder = path.parent
    if path.is_dir():
        raise NVGError(f"{path} is a folder; name a file to write")
    if not folder.is_dir():
        raise NVGError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise NVGError(f"{path} cannot be written: the folder {folder} is not yours to write to")
    return path


def _save_picture(picture: Image, out: Path, recipe: dict[str, Any], scale: int = 1) -> int:
    """Writes a PNG that carries its recipe in the text field `nvg`, and prints its path."""
    from PIL.PngImagePlugin import PngInfo

    from nvg_model import render

    text = PngInfo()
    text.add_text("nvg", json.dumps(recipe))
    with _replacing(out) as partial:
        render.enlarge(picture, scale).save(partial, "png", pnginfo=text)
    print(out)
    return 0


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` at the end, so that the file is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise NVGError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------------------- options


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise NVGError(message)


def _parser(with_bench: bool) -> argparse.ArgumentParser:
    """All options; those of `nvg bench` only on demand, as asking its module for them imports torch."""
    parser = _Parser(
        prog="nvg", description="Next Visual Granularity: images drawn from coarse to fine.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    machine = _machine_options()

    def add(run: Callable[[argparse.Namespace], int], summary: str, **options: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(
            run.__name__, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False, **options
        )
        command.set_defaults(run=run)
        return command

    drawing = [machine, _model_options(), _drawing_options()]
    _generate_options(add(generate, "draw pictures of classes", parents=drawing))
    _tokenize_options(add(tokenize, "take a picture apart, stage by stage", parents=[machine, _model_options()]))
    _transfer_options(add(transfer, "draw a class along the structure of a picture", parents=drawing))
    _info_options(add(info, "say what a checkpoint is"))
    _convert_options(add(convert, "make one file of the authors' released checkpoints"))
    benchmark = add(bench, "measure what every part costs on this machine", parents=[machine])
    if with_bench:
        from nvg_model import bench as benchmarks

        benchmarks.add_arguments(benchmark)
    return parser


def _machine_options() -> argparse.ArgumentParser:
    options = _Parser(add_help=False)
    group = options.add_argument_group("machine")
    group.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1, mps ... (cpu)")
    _add_dtype(group)
    group.add_argument("--threads", type=_whole(1), help="CPU threads (all cores)")
    return options


def _add_dtype(options: argparse._ActionsContainer) -> None:
    options.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the weights"
    )


def _model_options() -> argparse.ArgumentParser:
    options = _Parser(add_help=False)
    options.add_argument(
        "--model", default="emoji64", help="an embedded name, a .safetensors file, a folder or a hub id (emoji64)"
    )
    options.add_argument(
        "--fit",
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="how a given picture becomes the model's size (crop)",
    )
    return options


def _drawing_options() -> argparse.ArgumentParser:
    options = _Parser(add_help=False)
    add = options.add_argument
    add("--class", dest="classes", action="append", required=True, metavar="NAME", help="what to draw; may be repeated")
    add("--count", type=_whole(1, 1000), default=1, metavar="N", help="pictures per class (1)")
    add("--seed", type=_whole(0), default=0, help="the same seed, the same pictures (0)")
    add("--first-item", type=_whole(0), default=0, metavar="N", help="draw a larger sheet's picture number N again (0)")
    add("--out", type=_png, metavar="PNG", help="the picture to write")
    add("--scale", type=_whole(1, 64), default=1, metavar="N", help="enlarge the result N times, in plain squares (1)")
    add("--quiet", action="store_true", help="no progress bar")
    group = options.add_argument_group("sampling", "A checkpoint brings its own defaults: see `nvg info`.")
    for name in _PAIRS:
        words = name.replace("_", " ")
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            nargs=2,
            metavar=("A", "B"),
            help=f"{words} at the first and the last stage",
        )
    group.add_argument("--top-k", type=int, metavar="N", help="choose among the N best tokens only; 0: all, 1: argmax")
    group.add_argument("--temperature", type=float, metavar="T", help="of the token choice")
    group.add_argument("--steps", dest="structure_steps", type=int, metavar="N", help="time steps of a structure flow")
    group.add_argument("--solver", metavar="NAME", help="of the structure flow: euler, heun or multistep")
    group.add_argument("--gumbel", action=argparse.BooleanOptionalAction, help="split regions with Gumbel noise")
    return options


def _generate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--filmstrip", action="store_true", help="show every stage and its structure map")
    command.add_argument("--structure", metavar="IMAGE", help="take the structure from this picture")
    command.add_argument("--keep-structure", type=_whole(1), metavar="N", help="only that of its first N stages")


def _tokenize_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("--out", metavar="FILE", help="the file to write (IMAGE.safetensors)")
    command.add_argument("--filmstrip", type=_png, metavar="PNG", help="also show every stage and its structure map")


def _transfer_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("structure", metavar="IMAGE")
    command.add_argument(
        "--stages", dest="keep_structure", type=_whole(1), metavar="N", help="stages of structure to keep (about half)"
    )
    command.add_argument(
        "--compare", "--filmstrip", action="store_true", help="show the picture, its structure map and the result"
    )


def _info_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="as for --model of `nvg generate`")
    command.add_argument("--json", action="store_true", help="print JSON")


def _convert_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("autoencoder", metavar="AE.ckpt")
    command.add_argument("generator", metavar="D16.ckpt")
    command.add_argument("out", metavar="OUT.safetensors", type=_safetensors)
    _add_dtype(command)
    command.add_argument("--no-ema", dest="ema", action="store_false", help="take the generator's plain weights")
    command.add_argument("--autoencoder-ema", action="store_true", help="take the autoencoder's averaged weights")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Reads a whole number within the bounds."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return int(text)

    return read


def _named(text: str, suffix: str) -> str:
    if Path(text).suffix.lower() != suffix:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
    return text


def _png(text: str) -> str:
    return _named(text, ".png")


def _safetensors(text: str) -> str:
    return _named(text, ".safetensors")


if __name__ == "__main__":
    sys.exit(main())
