"""What a run leaves to read: a line of numbers, a TensorBoard, pictures, and what it was made with.

In the run's folder: `run.json` (every start: command, recipe, versions, commit, machine), `log.jsonl` (means since the
line before), `samples/` (pictures by step), `tensorboard/`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data import DataError
from training.distributed import World
from training.files import replacing


class Log:
    """Means of the logged values since the last line; only the first process writes."""

    def __init__(self, folder: Path, step: int, world: World, trackers: tuple[str, ...] = ()) -> None:
        self.folder, self.world = folder, world
        self.step, self.time = step, time.perf_counter()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.trackers = [_tracker(name, folder) for name in trackers] if world.first else []
        if world.first:
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Takes in the values of a step, or of a part of one."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().float().cpu()
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

    def _means(self) -> dict[str, float]:
        """Over the steps since the last line, and over the processes; not all of them log every value."""
        own = {name: (float(total), self.counts[name]) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        totals: dict[str, tuple[float, int]] = {}
        for part in self.world.gather(own):
            for name, (total, count) in part.items():
                before = totals.get(name, (0.0, 0))
                totals[name] = before[0] + total, before[1] + count
        return {name: total / count for name, (total, count) in totals.items()}


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DataError(
                "tensorboard is not installed; pip install tensorboard, or leave out --track tensorboard"
            ) from error
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()


class _WeightsAndBiases:
    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise DataError("wandb is not installed; pip install wandb, or leave out --track wandb") from error
        self.module = wandb
        # The folder's name is the run's, so that a resumed run goes on in the same chart.
        self.run = wandb.init(project="nvg", id=f"{folder.parent.name}-{folder.name}", dir=str(folder), resume="allow")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.run.log({name: self.module.Image(picture)}, step=step)


_TRACKERS: dict[str, type[_TensorBoard] | type[_WeightsAndBiases]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


def _tracker(name: str, folder: Path) -> _TensorBoard | _WeightsAndBiases:
    if name not in _TRACKERS:
        raise DataError(f"there is no tracker {name!r}; there are {', '.join(_TRACKERS)}")
    return _TRACKERS[name](folder)


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
    return {"git_commit": _commit(), "torch": torch.__version__, "python": platform.python_version()}


def _commit() -> str:
    def git(*arguments: str) -> str:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
            ).stdout.strip()
        except OSError:  # no git
            return ""

    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "--untracked-files=no") else commit
