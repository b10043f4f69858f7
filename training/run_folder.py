"""What a run's folder says of itself: which process works there, on which data, from which weights.

`identity.json` holds what must not change when a run continues: the classes, the pictures, and the weights that it
starts from. The rest of a recipe may change. Changes are printed on the first line and noted in the saves for the
export.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from training import checkpointing
from training.data.dataset import ImageDataset
from training.data.sources.found import few
from training.distributed import World
from training.errors import TrainingError
from training.files import replacing
from training.recipes.base import Recipe

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


IDENTITY, LOCK = "identity.json", ".lock"


CACHE = "cache.safetensors"


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """A short hash of named tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Identity:
    """What must not change when a run continues."""

    classes: tuple[str, ...]
    pictures: str
    """A hash of their names, their classes and some of their files."""
    count: int
    data: str
    """Where the pictures are; they may move."""
    start: str = ""
    """The checkpoint that it starts from, by the name that was given; it may move."""
    weights: dict[str, str] = field(default_factory=dict)
    """Hashes of the weights that it builds on, by what they are of."""

    @classmethod
    def of(cls, dataset: ImageDataset, data: Path | str, start: str, weights: dict[str, str]) -> Identity:
        """The identity of a training on these pictures."""
        return cls(dataset.classes, dataset.digest, len(dataset), str(data), start, weights)

    def difference(self, other: Identity, trained: bool = True) -> str:
        """How `other`, which is asked for, differs from this; empty where the run may continue.

        Args:
            trained: whether there is more than a token cache, which is simply made again for other weights.
        """
        if self.classes != other.classes:
            return _other_classes(self.classes, other.classes)
        if trained and (bool(self.start) != bool(other.start) or _differ(self, other, "start")):
            had, has = (one.start or "no checkpoint" for one in (self, other))
            return f"was started from {had}, not from {has}" + (", whose weights are others now" if had == has else "")
        for name in sorted((self.weights.keys() & other.weights.keys()) - {"start"}) if trained else ():
            if _differ(self, other, name):
                return f"builds on a {name} that has been trained on, or exchanged, since"
        if self.pictures != other.pictures:
            had = f"was trained on the {self.count} pictures in {self.data}"
            if self.data == other.data:
                return f"{had}, which have changed since (now {other.count})"
            return f"{had}, not on the {other.count} in {other.data}"
        return ""


def _differ(a: Identity, b: Identity, name: str) -> bool:
    return a.weights.get(name) != b.weights.get(name)


def _other_classes(had: Sequence[str], has: Sequence[str]) -> str:
    if sorted(had) == sorted(has):
        return f"was trained with the classes in the order {few(had, 5)}, not {few(has, 5)}"
    return f"was trained on {len(had)} classes ({few(had, 5)}), not on {len(has)} ({few(has, 5)})"


def claim(folder: Path, identity: Identity, world: World, cache_only: bool = False) -> None:
    """Notes in a folder what is trained in it, or checks that it is the same.

    Args:
        cache_only: only a token cache is wanted there, which does not build on what the saves do.
    Raises:
        TrainingError: it is something else; one sentence that says what differs, in all processes.
    """
    problem = ""
    if world.first:
        known, trained = _known(folder), checkpointing.newest(folder) is not None
        differs = "" if known is None else known.difference(identity, trained and not cache_only)
        if differs:
            problem = f"{folder} {differs}: give what it had, or choose another --folder"
            if known is not None and known.classes == identity.classes and "pictures" in differs:
                problem += f", or remove {folder / IDENTITY} to go on with these all the same"
        elif not cache_only or (known is None and not trained):
            with replacing(folder / IDENTITY) as partial:
                partial.write_text(json.dumps(dataclasses.asdict(identity), indent=1) + "\n", encoding="utf-8")
    problem = world.gather(problem)[0]
    if problem:
        raise TrainingError(problem)


def notice_other_data(folder: Path, identity: Identity, world: World) -> None:
    """Says where another training, on which this one builds, had other pictures: it may be meant so."""
    known = _read_identity(folder)
    if world.first and known is not None and known.pictures != identity.pictures:
        print(f"note: {folder} was trained on other data, the {known.count} pictures in {known.data}", flush=True)


def _read_identity(folder: Path) -> Identity | None:
    """What a folder says it is."""
    if not (folder / IDENTITY).is_file():
        return None
    found = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    return Identity(**{**found, "classes": tuple(found["classes"])})


def _known(folder: Path) -> Identity | None:
    """The identity in a folder; None where there is none, as in a new folder or a very old one."""
    anything = checkpointing.newest(folder) is not None or (folder / CACHE).is_file()
    return _read_identity(folder) if anything else None


@contextmanager
def alone_in(folder: Path, world: World, lock: str = LOCK) -> Iterator[None]:
    """Within, no other process trains in a folder. The lock ends with the process, however that ends.

    Raises:
        TrainingError: another process works there; raised in all processes.
    """
    problem, descriptor = "", -1
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    if world.first and fcntl is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / lock, os.O_RDWR | os.O_CREAT, 0o644)
            problem = _lock(descriptor, folder)
        except OSError as error:
            problem = f"{folder} could not be written ({error}); choose another folder"
    try:
        problem = world.gather(problem)[0]
        if problem:
            raise TrainingError(problem)
        yield
    finally:
        if descriptor >= 0:
            if made and os.listdir(folder) == [lock]:  # nothing came of it, as after a mistake in the command
                (folder / lock).unlink()
                _remove_empty(made)
            os.close(descriptor)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, each in the next, as far as they are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _lock(descriptor: int, folder: Path) -> str:
    """Locks an open file for this process; who holds it, if somebody does."""
    try:
        # Of the process, not of the open file: workers that outlive a killed training do not hold it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        who = os.read(descriptor, 200).decode(errors="replace") or "of unknown number"
        return f"another process ({who}) is at work in {folder}; wait for it, or choose another folder"
    except OSError:  # a file system without locks
        return ""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
    return ""


@dataclass(frozen=True)
class Opened:
    """A run that starts or continues."""

    step: int
    """How many steps are done."""
    finished: bool
    starts: list[dict[str, Any]]
    """The recipe with which it first started, and with which it went on where that differs: {step, recipe}."""

    def meta(self, recipe: Recipe, identity: Identity) -> dict[str, Any]:
        """What the saves say of themselves."""
        own = {"classes": list(identity.classes), "recipe": dataclasses.asdict(recipe)}
        return {**own, "starts": self.starts, "weights": identity.weights}


def open_run(recipe: Recipe, part: str, folder: Path, identity: Identity, weights: Path, world: World) -> Opened:
    """Claims a folder for a training, and says on the first line how it starts or continues.

    Args:
        part: the field of the recipe with the training's settings.
        weights: the file that a finished run ends with.
    Raises:
        TrainingError: the folder is another run's (`claim`), or its save is damaged.
    """
    saved = checkpointing.about(folder)
    if saved is not None and not (folder / IDENTITY).is_file():
        _check_meta(folder, saved["meta"], identity)
    claim(folder, identity, world)
    now, command = dataclasses.asdict(recipe), part.replace("_", "-")
    if saved is None:
        line = f"starts in {folder} with {identity.count} pictures of {len(identity.classes)} classes"
        opened = Opened(0, False, [{"step": 0, "recipe": now}])
        line += f" ({few(identity.classes, 5)}), {now[part]['steps']} steps"
    else:
        step, meta = saved["step"], saved["meta"]
        changes = changed_settings(meta["recipe"], now, part)
        starts = meta.get("starts") or [{"step": 0, "recipe": meta["recipe"]}]
        finished = step >= now[part]["steps"] and world.gather(weights.is_file())[0]
        if changes and not finished:
            starts = [*starts, {"step": step, "recipe": now}]
        opened = Opened(step, finished, starts)
        said = ", ".join(f"{name} {_shown(had)} -> {_shown(has)}" for name, (had, has) in changes.items())
        line = f"goes on in {folder} at step {step} of {now[part]['steps']}; "
        line += f"changed: {said}" if said else "with the settings that it had"
        if finished:
            line = f"finished at step {step}, nothing to do in {folder}; more --steps would go on from there"
    if world.first:
        print(f"{command}: {line}", flush=True)
    return opened


def changed_settings(had: dict[str, Any], has: dict[str, Any], part: str) -> dict[str, tuple[Any, Any]]:
    """What differs between two recipes (as plain values) in what a training command takes: name -> (before, now)."""

    def flat(recipe: dict[str, Any]) -> dict[str, Any]:
        views = {f"views.{name}": value for name, value in recipe.get("views", {}).items()}
        return json.loads(json.dumps({**recipe.get(part, {}), **views, "seed": recipe.get("seed")}))

    before, now = flat(had), flat(has)
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def _shown(value: Any) -> str:
    if isinstance(value, list | str):
        return " ".join(map(_shown, value)) if isinstance(value, list) and value else str(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_meta(folder: Path, meta: dict[str, Any], identity: Identity) -> None:
    """What the save itself says of its classes and its start, which no removed file can make right."""
    classes, start = tuple(meta.get("classes", identity.classes)), meta["recipe"]["start"]
    differs = _other_classes(classes, identity.classes) if classes != identity.classes else ""
    if bool(start) != bool(identity.start) and "classes" in meta:
        had, has = start or "no checkpoint", identity.start or "no checkpoint"
        differs = differs or f"was started from {had}, not from {has}"
    if differs:
        raise TrainingError(f"{folder} {differs}: give what it had, or choose another --folder")


def generator_folder(run: Path, networks: str = "both") -> Path:
    """Where the training of these networks keeps its saves. All of them share the token cache in the folder of both."""
    return run / ("generator" if networks == "both" else f"generator-{networks}")
