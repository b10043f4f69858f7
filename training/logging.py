"""What a run leaves to read: a line of numbers, a TensorBoard, pictures, and what it was made with.

In the run's folder: `run.json` (every start: command, recipe, versions, commit, machine), `log.jsonl` (means since the
line before), `samples/` (pictures by step), `tensorboard/`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.distributed import World
from training.errors import TrainingError
from training.extras import missing
from training.files import replacing


class Log:
    """Means of the logged values since the last line; only the first process writes.

    Every step is in one line, however often the run was killed: lines of steps that will be made again go, and what was
    summed up for the next line is saved (`pending`).

    Args:
        step: how many steps are done.
        pending: what a save has of the steps since the last line.
        run_id: of the run, for trackers.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        world: World,
        trackers: tuple[str, ...] = (),
        pending: Mapping[str, tuple[float, int]] | None = None,
        run_id: str = "",
    ) -> None:
        self.folder, self.world = folder, world
        self.step, self.time = step, time.perf_counter()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        if world.first:
            for name, (total, count) in (pending or {}).items():
                self.sums[name], self.counts[name] = torch.tensor(total, dtype=torch.float64), count
            folder.mkdir(parents=True, exist_ok=True)
            _keep_lines(folder / "log.jsonl", step)
        run = _TrackedRun(folder, step, run_id)
        self.trackers = [_tracker(name, run) for name in trackers] if world.first else []

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Takes in the values of a step, or of a part of one."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()  # where the value is: reading it waits
            self.counts[name] = self.counts.get(name, 0) + 1

    def write(self, step: int, batch: int) -> dict[str, str]:
        """One line with the means over the steps and the processes; returns them for the progress bar."""
        means = self._means()
        now = time.perf_counter()
        speed = (step - self.step) * batch / (now - self.time)
        self.step, self.time = step, now
        self.record(step, {"images_per_second": round(speed, 2), **means})
        return {name: f"{value:.3f}" for name, value in means.items()} | {"img/s": f"{speed:.1f}"}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within does not count as training time: saves and sample pictures."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.time += time.perf_counter() - start

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """One line of finished numbers."""
        if self.world.first:
            with (self.folder / "log.jsonl").open("a") as file:
                rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
                file.write(json.dumps({"step": step, **rounded}) + "\n")
            for tracker in self.trackers:
                tracker.numbers(step, values)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Saves pictures as samples/<step>-<name>.png."""
        if self.world.first:
            for name, picture in pictures.items():
                path = self.folder / "samples" / f"{step:08d}-{name}.png"
                path.parent.mkdir(exist_ok=True)
                picture.save(path)
                for tracker in self.trackers:
                    tracker.picture(step, name, picture)

    def pending(self) -> dict[str, tuple[float, int]]:
        """Sums and counts since the last line, over the processes; not all of them log every value."""
        sums = [value.to(self.world.device) for value in self.sums.values()]
        totals_here = torch.stack(sums).tolist() if sums else []
        own = {name: (total, self.counts[name]) for name, total in zip(self.sums, totals_here, strict=True)}
        totals: dict[str, tuple[float, int]] = {}
        for part in self.world.gather(own):
            for name, (total, count) in part.items():
                before = totals.get(name, (0.0, 0))
                totals[name] = before[0] + total, before[1] + count
        return totals

    def _means(self) -> dict[str, float]:
        totals = self.pending()
        self.sums, self.counts = {}, {}
        return {name: total / count for name, (total, count) in totals.items()}


def _keep_lines(path: Path, step: int) -> None:
    """Takes the lines of later steps out of a log, and one that was cut off when its process was killed."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines:
        with replacing(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step(line: str) -> float:
    """Of a line of the log; infinity where it is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


@dataclass(frozen=True)
class _TrackedRun:
    """What a tracker knows of the run."""

    folder: Path
    step: int
    """From which it goes on."""
    run_id: str


class _TensorBoard:
    def __init__(self, run: _TrackedRun) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("--track tensorboard needs", "tensorboard", "train", "leave it out") from error
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()


class _WeightsAndBiases:
    def __init__(self, run: _TrackedRun) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("--track wandb needs", "wandb", "wandb", "leave it out") from error
        self.module = wandb
        # The id is saved with the weights, so that a resumed run goes on in its chart, and no other run is drawn there.
        name = f"{run.folder.parent.name}-{run.folder.name}"
        self.run = wandb.init(project="nvg", id=run.run_id, name=name, dir=str(run.folder), resume="allow")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.run.log({name: self.module.Image(picture)}, step=step)


_TRACKERS: dict[str, type[_TensorBoard] | type[_WeightsAndBiases]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


def _tracker(name: str, run: _TrackedRun) -> _TensorBoard | _WeightsAndBiases:
    if name not in _TRACKERS:
        raise TrainingError(f"there is no tracker {name!r}; there are {', '.join(_TRACKERS)}")
    return _TRACKERS[name](run)


def describe_run(folder: Path, settings: Any, world: World, **facts: Any) -> None:
    """Adds this start to `run.json`: what was run, with what, on what.

    Args:
        settings: a dataclass, written out in full.
        facts: more to note, as plain values.
    """
    if not world.first:
        return
    path = folder / "run.json"
    starts = json.loads(path.read_text()) if path.is_file() else []
    starts.append(
        {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "training", *sys.argv[1:]]),
            "settings": dataclasses.asdict(settings),
            **facts,
            **versions(),
            "processes": world.size,
            "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
            "processors": os.cpu_count(),
        }
    )
    with replacing(path) as partial:
        partial.write_text(json.dumps(starts, indent=1, default=str) + "\n")


def versions() -> dict[str, str]:
    """Of the code (its git commit, with a + where files were changed), torch and Python."""
    return {
        "git_commit": commit_of(Path(__file__).parent),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit_of(package: Path) -> str:
    """The git commit of a package that lies in a checkout of its own, with a + where files were changed; else nothing.

    A package that was installed or copied into somebody else's repository has that one's commits around it.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a hook

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, env=outside)
        except OSError:  # no git
            return ""
        return ended.stdout.strip() if ended.returncode == 0 else ""

    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != package.resolve().parent or not git("ls-files", "__init__.py"):
        return ""
    project = Path(top) / "pyproject.toml"
    if not project.is_file() or '\nname = "nvg"\n' not in project.read_text(encoding="utf-8"):
        return ""
    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "--untracked-files=no") else commit
