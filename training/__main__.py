"""`python -m training COMMAND RECIPE`: one entry for everything that makes weights.

Every setting of a recipe is an option: `python -m training tokenizer emoji64 --steps 500 --learning-rate 1e-3`.
Under torchrun: `torchrun --nproc-per-node 8 -m training generator d16 --data DIR`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

try:
    import msgspec  # noqa: F401  # of the recipes; asked for here, before torch has been loaded
    import tyro
except ModuleNotFoundError as error:
    print(
        f"error: training needs the package {error.name}, which is not installed; "
        "run `pip install -e '.[train]'` in the folder of nvg",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

from nvg_model import console
from nvg_model.errors import NVGError
from nvg_model.precision import tf32
from training import distributed
from training.data.augmentation import AugmentationSettings
from training.distributed import World
from training.errors import TrainingError
from training.metrics.sampler import SampleSettings
from training.pulse import INTACT, end
from training.recipes import RECIPES, recipe
from training.recipes.base import Recipe, Running
from training.recipes.own import IMAGE_SIZE, OWN, SIZES
from training.run_folder import alone_in
from training.stopping import Interrupted

RUNS = Path("~/nvg-runs").expanduser()
DATA = Path("~/nvg-data").expanduser()

Settings = TypeVar("Settings", bound=Running)
Positional = Annotated[str, tyro.conf.Positional]
"""An argument without an option before it."""


@dataclass(frozen=True)
class Options(Generic[Settings]):
    """What a training command takes; the defaults are the recipe's."""

    data: Path
    """The pictures: train/CLASS/PICTURE with held-out/CLASS/PICTURE beside it, or another form of docs/training.md."""
    folder: Path
    """Of the run: saves, log, samples, results. (Not --run: torchrun has options that begin so.)"""
    seed: int
    """Of the initial weights, the order of the data and the noise."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    views: AugmentationSettings
    """How a view differs from its picture."""
    start_from: str
    """A checkpoint to fine-tune: a name, a file or a hub id."""


def with_recipe_name(arguments: Sequence[str]) -> list[str]:
    """Arguments that begin with a recipe's name: `--preset small --image-size 64` is the recipe small-64.

    Raises:
        TrainingError: a recipe is given as well, or one of the two has no value.
    """
    rest, given = list(arguments), {}
    for option in ("--preset", "--image-size"):
        place = next((row for row, one in enumerate(rest) if one == option or one.startswith(f"{option}=")), None)
        if place is None:
            continue
        value = rest.pop(place).partition("=")[2]
        if not value:
            if place == len(rest):
                raise TrainingError(
                    f"{option} needs a value; a preset is one of {', '.join(OWN)}, an image size a number"
                )
            value = rest.pop(place)
        given[option] = value
    if not given:
        return rest
    if rest and not rest[0].startswith("-"):
        raise TrainingError(
            f"the recipe {rest[0]} has a size; leave {' and '.join(given)} out, or leave the recipe out"
        )
    preset = given.get("--preset", OWN[0])
    if preset not in OWN:
        raise TrainingError(f"there is no preset {preset!r}; there are {', '.join(OWN)}")
    return [f"{preset}-{given.get('--image-size', IMAGE_SIZE)}", *rest]


def options(command: str, part: str, arguments: Sequence[str]) -> tuple[Recipe, Options[Any]]:
    """Reads `RECIPE [options]` of a training command: the recipe with the options in it, and the options.

    Args:
        part: the field of the recipe whose settings the command takes.
    """
    arguments = with_recipe_name(arguments)
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: python -m training {command} RECIPE [options]\nrecipes: {', '.join(RECIPES)}")
        print(f"or --preset {{{','.join(OWN)}}} --image-size {{{','.join(map(str, SIZES))}}} to start from nothing,")
        print("or the path of a recipe of your own, .toml or .py (docs/training.md)")
        raise SystemExit(0 if "-h" in arguments or "--help" in arguments else 2)
    base = recipe(arguments[0])
    # The name that it had, a prefix of other options.
    arguments = [f"--cached-views{one[7:]}" if one.partition("=")[0] == "--views" else one for one in arguments]
    settings = getattr(base, part)
    kind = type(settings)
    default = Options[kind](DATA / base.name, RUNS / base.name, base.seed, settings, base.views_of(part), base.start)  # type: ignore[valid-type]
    chosen = tyro.cli(
        Options[kind],  # type: ignore[valid-type]
        default=default,
        args=list(arguments[1:]),
        prog=f"python -m training {command} {base.name}",
        config=(tyro.conf.AvoidSubcommands,),
    )
    settings = chosen.settings
    if "--bfloat16" in arguments:  # asked for by this user, not by the recipe's author
        settings = dataclasses.replace(settings, bfloat16_anyway=True)
    changed: dict[str, Any] = {part: settings}
    return dataclasses.replace(base, seed=chosen.seed, views=chosen.views, start=chosen.start_from, **changed), chosen


def tokenizer(arguments: Sequence[str]) -> None:
    """Trains the tokenizer, or continues where the last call stopped."""
    from training.tokenizer import train_tokenizer

    chosen, given = options("tokenizer", "tokenizer", arguments)
    train_tokenizer(chosen, given.data, given.folder)


def decoder(arguments: Sequence[str]) -> None:
    """Trains the decoder of the run's tokenizer once more, adversarially, or continues where the last call stopped."""
    from training.decoder import train_decoder
    from training.tokenizer import finish_decoder

    chosen, given = options("decoder", "decoder", arguments)
    train = train_decoder if chosen.decoder.cached_views else finish_decoder
    train(chosen, given.data, given.folder)


def generator(arguments: Sequence[str]) -> None:
    """Trains the generators on the run's tokenizer, or continues where the last call stopped."""
    from training.generator import train_generator

    chosen, given = options("generator", "generator", arguments)
    train_generator(chosen, given.data, given.folder)


def few_step(arguments: Sequence[str]) -> None:
    """Turns the run's structure flow into one of few steps, or continues where the last call stopped."""
    from training.few_step import train_few_step

    chosen, given = options("few-step", "few_step", arguments)
    train_few_step(chosen, given.data, given.folder)


def guidance(arguments: Sequence[str]) -> None:
    """Puts the content generator's guidance inside, one pass for two, or continues where the last call stopped."""
    from training.guidance import train_guidance

    chosen, given = options("guidance", "guidance", arguments)
    train_guidance(chosen, given.data, given.folder)


def cache(arguments: Sequence[str]) -> None:
    """Tokenizes the views that the generators are trained on, ahead of the training."""
    from training.generator import make_cache

    chosen, given = options("cache", "generator", arguments)
    make_cache(chosen, given.data, given.folder)


def data(arguments: Sequence[str]) -> None:
    """Makes a data set."""

    def make(
        name: Annotated[Literal["emoji64", "emoji128", "emoji64-flat"], tyro.conf.Positional],
        out: Path | None = None,
        downloads: Path = DATA / "downloads",
        force: bool = False,
    ) -> None:
        """Makes a data set (needs npm).

        Args:
            name: the data set.
            out: folder to make; ~/nvg-data/NAME by default.
            downloads: folder for the packages it is made from.
            force: replace an existing folder.
        """
        from training.data import emoji

        emoji.make(out or DATA / name, downloads, force, name)

    tyro.cli(make, args=list(arguments), prog="python -m training data")


def export(arguments: Sequence[str]) -> None:
    """Writes a run's averaged weights as a checkpoint."""

    def write(name: Positional, folder: Path | None = None, out: Path | None = None, best: bool = False) -> None:
        """Writes a run's averaged weights as a checkpoint for nvg_model and ComfyUI.

        Args:
            name: the recipe, or the path of its file.
            folder: of the run; ~/nvg-runs/RECIPE by default.
            out: the file; FOLDER/RECIPE.safetensors by default.
            best: the save with the lowest loss on held-out data instead of the latest.
        """
        from training.export import export

        chosen = recipe(name)
        run = folder or RUNS / chosen.name
        export(chosen, run, out or run / f"{chosen.name}.safetensors", best)

    tyro.cli(write, args=with_recipe_name(arguments), prog="python -m training export")


def whole(arguments: Sequence[str]) -> None:
    """Trains tokenizer, generators and decoder, and exports; every part continues where the last call stopped."""

    def train(
        name: Positional,
        data: Path | None = None,
        decoder_data: Path | None = None,
        folder: Path | None = None,
        out: Path | None = None,
        minutes: float = 0.0,
    ) -> None:
        """Trains all parts of a recipe and writes the checkpoint; the same call continues where it stopped.

        Settings are the recipe's. To change them, write a recipe file (docs/training.md).

        Args:
            name: the recipe, or the path of its file.
            data: the pictures; ~/nvg-data/RECIPE by default.
            decoder_data: the pictures of the decoder's training, where it makes larger ones; as --data by default.
            folder: of the run; ~/nvg-runs/RECIPE by default.
            out: the file; FOLDER/RECIPE.safetensors by default.
            minutes: save and stop after this many, with status 0. 0: run to the end.
        """
        from training.whole import train_all

        chosen = recipe(name)
        run = folder or RUNS / chosen.name
        file = out or run / f"{chosen.name}.safetensors"
        train_all(chosen, data or DATA / chosen.name, run, file, decoder_data, minutes)

    tyro.cli(train, args=with_recipe_name(arguments), prog="python -m training all")


def evaluate(arguments: Sequence[str]) -> None:
    """Measures a checkpoint: reconstruction, samples, memorisation, structure adherence, cost."""
    from training.evaluate import evaluate as measure
    from training.metrics.evaluation import EvaluationSettings

    settings = tyro.cli(
        EvaluationSettings,
        args=list(arguments),
        prog="python -m training evaluate",
        config=(tyro.conf.AvoidSubcommands,),
    )
    world = distributed.start()
    with alone_in(settings.out, World()) if world.first else nullcontext():
        measure(settings, world)


def tune(arguments: Sequence[str]) -> None:
    """Tries sampling settings on a checkpoint, to choose its defaults."""
    from training.tune import TuneSettings
    from training.tune import tune as choose

    settings = tyro.cli(TuneSettings, args=list(arguments), prog="python -m training tune")
    with alone_in(settings.out, World()):
        choose(settings)


def samples(arguments: Sequence[str]) -> None:
    """Writes samples of a checkpoint as the .npz of OpenAI's evaluator."""
    from training.evaluate import write_samples_of

    def write(
        checkpoint: str,
        out: Path,
        settings: Annotated[SampleSettings, tyro.conf.arg(name="")],
        device: str = "",
        dtype: str = "float32",
    ) -> None:
        """Writes samples of a checkpoint, every class alike; a call that was stopped continues.

        Args:
            checkpoint: what nvg_model.load reads: an embedded name, a file, a folder, or a hub id.
            out: the folder.
            settings: what to sample.
            device: cpu, cuda, cuda:1; empty: a GPU if there is one.
            dtype: of the weights.
        """
        write_samples_of(checkpoint, out, settings, device, dtype, distributed.start())

    tyro.cli(write, args=list(arguments), prog="python -m training samples")


def naming(arguments: Sequence[str]) -> None:
    """Shows samples of a checkpoint without labels to people who name them, and scores the names."""
    from training.naming import NamingSettings
    from training.naming import naming as name

    name(tyro.cli(NamingSettings, args=list(arguments), prog="python -m training naming"))


def classifier(arguments: Sequence[str]) -> None:
    """Trains the classifier whose features the evaluation uses."""
    from training.evaluate import train_classifier

    tyro.cli(train_classifier, args=list(arguments), prog="python -m training classifier")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "data": data,
    "all": whole,
    "tokenizer": tokenizer,
    "cache": cache,
    "decoder": decoder,
    "generator": generator,
    "few-step": few_step,
    "guidance": guidance,
    "evaluate": evaluate,
    "tune": tune,
    "samples": samples,
    "naming": naming,
    "classifier": classifier,
    "export": export,
}


def main() -> int:
    """Runs a command; a mistake of the user ends with one sentence and status 2."""
    console.write_anything()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        print("usage: python -m training COMMAND ...\n")
        print("\n".join(f"  {one:10} {(call.__doc__ or '').strip()}" for one, call in COMMANDS.items()))
        return 0 if name in ("-h", "--help") else 2
    orderly = False
    try:
        with tf32():
            COMMANDS[name](arguments)
        orderly = True
    except (TrainingError, NVGError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        orderly = True
        return 130
    except RuntimeError as error:
        if not distributed.is_loss_of_another(error):
            raise
        end(f"another process of this training has ended or does not answer, so this one ends too; {INTACT}")
    finally:
        distributed.stop(orderly)
    return 0


if __name__ == "__main__":
    sys.exit(main())
