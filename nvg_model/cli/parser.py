"""The options of `nvg`, command by command."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from nvg_model import schedule, solvers
from nvg_model.cli import commands, describe, editing
from nvg_model.errors import NVGError


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise NVGError(message)


def make_parser(with_bench: bool) -> argparse.ArgumentParser:
    """All options. Those of `nvg bench` only on demand: its module imports torch."""
    parser = _Parser(
        prog="nvg", description="Next Visual Granularity: images drawn from coarse to fine.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    machine = _machine_options()

    def add(run: Callable[[argparse.Namespace], int], summary: str, **options: Any) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            run.__name__, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False, **options
        )
        command.set_defaults(run=run)
        return command

    model = [machine, _model_options()]
    drawing, frames = [*model, _drawing_options(_png)], [*model, _drawing_options(editing.frames_name)]
    _generate_options(add(commands.generate, "draw pictures of classes", parents=drawing))
    _tokenize_options(add(commands.tokenize, "take a picture apart, stage by stage", parents=model))
    _transfer_options(add(commands.transfer, "draw a class along the structure of a picture", parents=drawing))
    editing.add_inpaint_options(
        add(commands.inpaint, "draw a part of a picture anew, the rest stays to the pixel", parents=drawing)
    )
    editing.add_interpolate_options(
        add(commands.interpolate, "draw the way from one class's picture to another's", parents=frames)
    )
    _cutout_options(add(commands.cutout, "take the ground of a picture away", parents=model))
    sheet = [*model, _drawing_options(_png, sheet=True)]
    _grid_options(add(commands.grid, "draw one choice by another, with texts along both sides", parents=sheet))
    _info_options(add(describe.info, "say what a checkpoint is"))
    _convert_options(add(commands.convert, "make one file of the authors' released checkpoints"))
    benchmark = add(commands.bench, "measure what every part costs on this machine", parents=[machine])
    if with_bench:
        from nvg_model.cli import bench

        bench.add_arguments(benchmark)
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
        choices=("crop", "pad", "stretch", "subject"),
        default="crop",
        help="how a given picture becomes the model's size (crop)",
    )
    return options


def _drawing_options(file_name: Callable[[str], str], sheet: bool = False) -> argparse.ArgumentParser:
    """The options of drawing. A sheet has axes in place of some of them."""
    options = _Parser(add_help=False)
    add = options.add_argument
    what = "what to draw: a class by name or number, or unconditional; may be repeated"
    add("--class", dest="classes", action="append", required=not sheet, default=[], metavar="NAME", help=what)
    if not sheet:
        add("--count", type=_whole(1, 1000), default=1, metavar="N", help="pictures per class (1)")
    add("--seed", type=_whole(0), default=0, help="the same seed, the same pictures (0)")
    add(
        "--region",
        dest="regions",
        action="append",
        default=[],
        type=editing.region,
        metavar="MASK.png=NAME",
        help="another class where this mask is white; may be repeated",
    )
    add(
        "--variation",
        nargs=2,
        type=float,
        metavar=("SEED", "SHARE"),
        help="go from the seed's picture towards that of another seed: 0 to 1 of the way",
    )
    add("--seamless", action="store_true", help="pictures that can be laid beside each other")
    add("--first-item", type=_whole(0), default=0, metavar="N", help="draw a larger sheet's picture number N again (0)")
    add("--out", type=file_name, metavar="FILE", help="the picture to write")
    add("--scale", type=_whole(1, 64), default=1, metavar="N", help="enlarge the result N times, in plain squares (1)")
    add("--partner", metavar="CHECKPOINT", help="another checkpoint with the same tokenizer, for the late stages")
    add("--partner-from", type=_whole(1), metavar="STAGE", help="its first stage (that of the second half)")
    add("--quiet", action="store_true", help="no progress bar")
    add("--compile", action="store_true", help="compile the networks first: pays for many pictures, on a GPU")
    _sampling_options(options)
    return options


def _sampling_options(options: argparse.ArgumentParser) -> None:
    group = options.add_argument_group("sampling", "A checkpoint brings its own defaults: see `nvg info`.")
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)  # only what is given is there
    for name in commands.PAIRS:
        words = name.replace("_", " ")
        what = f"{words} at the first and the last stage"
        add(f"--{name.replace('_', '-')}", type=float, nargs=2, metavar=("A", "B"), help=what)
    add("--top-k", type=int, metavar="N", help="choose among the N best tokens only; 0: all, 1: argmax")
    add("--temperature", type=float, metavar="T", help="of the token choice")
    add("--gumbel", action=argparse.BooleanOptionalAction, help="split regions with Gumbel noise")
    what = "compute canvas and class once a stage in the structure network: faster, nearly the same splits"
    add("--reuse", action=argparse.BooleanOptionalAction, help=what)
    for option, name, word, what in (
        ("--steps", "structure_steps", "N", "time steps of a structure flow"),
        ("--solver", "solver", "NAME", f"of the structure flow: {solvers.summary()}"),
        ("--guidance-every", "guidance_every", "N", "guide every N-th step of a flow anew, the others as it was"),
        ("--time-shift", "time_shift", "X", "where the steps of a flow lie: 0 is evenly, none as in the paper"),
    ):
        more = f"{what}; one for all stages, or one for each: {word},{word},..."
        add(option, dest=name, type=functools.partial(_by_stage, name), metavar=word, help=more)


def _by_stage(name: str, text: str) -> Any:
    try:
        return schedule.read(name, text)
    except NVGError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _generate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--filmstrip", action="store_true", help="show every stage and its structure map")
    command.add_argument(
        "--transparent", action="store_true", help="without its ground; several are saved one by one, numbered"
    )
    editing.add_area_options(command)
    command.add_argument("--structure", metavar="IMAGE", help="take the structure from this picture")
    command.add_argument("--keep-structure", type=_whole(1), metavar="N", help="only that of its first N stages")
    _add_subject(command)


def _add_subject(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--subject",
        metavar="MASK.png",
        help="white where the picture's subject is; the rest becomes white (--fit subject: as large as an emoji)",
    )


def _cutout_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("--out", type=_png, metavar="PNG", help="the picture to write (IMAGE-cutout.png)")


def _grid_options(command: argparse.ArgumentParser) -> None:
    editing.add_area_options(command)
    for name, what in (("--columns", "from left to right"), ("--rows", "from top to bottom")):
        command.add_argument(
            name,
            type=_axis,
            required=True,
            metavar="NAME=VALUES",
            help=f"{what}: class, seed, variation or a setting, such as class=heart,bird or top_k=1,5",
        )


def _axis(text: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no axis; write a name and its values, such as seed=1,2,3")
    return name, values


def _tokenize_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("--out", metavar="FILE", help="the file to write (IMAGE.safetensors)")
    command.add_argument("--filmstrip", type=_png, metavar="PNG", help="also show every stage and its structure map")
    _add_subject(command)


def _transfer_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("structure", metavar="IMAGE")
    command.add_argument(
        "--stages", dest="keep_structure", type=_whole(1), metavar="N", help="stages of structure to keep (about half)"
    )
    command.add_argument(
        "--compare", "--filmstrip", action="store_true", help="show the picture, its structure map and the result"
    )
    _add_subject(command)


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
