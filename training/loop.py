"""The training loop that the entries share: rates, steps, averages, log and saves.

A step is a pure function of the weights and its number: data and noise come from (seed, images seen), so resuming
needs the saved state and nothing else.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training import checkpointing
from training.data import DataError
from training.optim import AveragedWeights, set_learning_rate


@dataclass(frozen=True)
class LoopSettings:
    """What every run needs to know."""

    steps: int
    batch: int
    seed: int = 0
    ema: float = 0.999
    clip: float = 1.0
    save_every: int = 500
    """Steps between saves of the resumable state."""
    log_every: int = 50


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; the state has been saved."""


def train(
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    schedule: Callable[[int], float],
    settings: LoopSettings,
    folder: Path,
) -> AveragedWeights:
    """Runs, or goes on with, the training of `module` in `folder`.

    Args:
        loss: step -> (loss to minimise, values to log); draws its own data from (seed, step * batch).
        schedule: step -> factor on the learning rates.
    Raises:
        Interrupted: after a save, when the process was asked to stop.
        DataError: the loss became NaN; the last save is intact.
    """
    average = AveragedWeights(module, settings.ema)
    start = _restore(folder, module, optimizers, average)
    log = _Log(folder / "log.jsonl", start)
    bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, unit="step", mininterval=5)
    with _stop_requests() as stop:
        for step in bar:
            set_learning_rate(optimizers, schedule(step))
            value, parts = loss(step)
            if not bool(torch.isfinite(value)):
                raise DataError(f"the loss is {value.item()} at step {step}; the last save in {folder} is intact")
            parts["gradient"] = _update(module, optimizers, value, settings.clip)
            average.update(step)
            log.add(parts)
            done = step + 1
            if done % settings.log_every == 0:
                bar.set_postfix(log.write(done, settings.batch), refresh=False)
            if done % settings.save_every == 0 or done == settings.steps or stop:
                checkpointing.save(folder, done, _state(module, optimizers, average))
            if stop:
                raise Interrupted(f"stopped at step {done}, saved in {folder}; the same command goes on from there")
    return average


def _update(module: nn.Module, optimizers: list[torch.optim.Optimizer], loss: Tensor, clip: float) -> Tensor:
    """One step down the gradient; returns its norm before clipping."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()
    return norm


def _state(module: nn.Module, optimizers: list[torch.optim.Optimizer], average: AveragedWeights) -> dict[str, Any]:
    return {
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average.state_dict(),
    }


def _restore(folder: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], average: AveragedWeights) -> int:
    """Loads the newest save, if any; returns the number of steps done."""
    state = checkpointing.latest(folder)
    if state is None:
        return 0
    module.load_state_dict(state["module"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    average.load_state_dict(state["average"])
    return state["step"]


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop, so that the running step can end and be saved."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: received.append(n)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Log:
    """Means of the logged values since the last line, one JSON object a line."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.count = path, 0
        self.sums: dict[str, float] = {}
        self.step, self.time = step, time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, parts: dict[str, Tensor]) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1

    def write(self, step: int, batch: int) -> dict[str, str]:
        means = {name: total / self.count for name, total in self.sums.items()}
        now = time.perf_counter()
        speed = (step - self.step) * batch / (now - self.time)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "images_per_second": round(speed, 2), **means}) + "\n")
        self.sums, self.count, self.step, self.time = {}, 0, step, now
        return {name: f"{value:.3f}" for name, value in means.items()} | {"img/s": f"{speed:.1f}"}
