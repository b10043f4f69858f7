"""The training loop that the entries share: rates, steps, averages, log, samples and saves.

A step is a pure function of the weights and its number: its data and noise come from (seed, images seen), whatever the
number of processes, so resuming needs the saved state and nothing else.
"""

from __future__ import annotations

import math
import signal
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from training import checkpointing, stopping
from training.cpu.allocator import keep_freed_memory
from training.cpu.attention import use_plain_attention
from training.data.augmentation import stream
from training.data.loader import batches
from training.distributed import Shard, World, is_sharded, parts_callable, replicate
from training.errors import TrainingError
from training.logging import Log
from training.optim import AveragedWeights, set_learning_rate
from training.recipes.base import Running
from training.stopping import Interrupted

Batch = TypeVar("Batch")


def _names(batch: Any) -> Sequence[str]:
    return batch.names


@dataclass
class Phase:
    """A loss and the optimisers that lower it. The phases of a step follow each other."""

    objective: nn.Module
    """Its forward(batch, step) gives the loss to minimise and values to log."""
    optimizers: list[torch.optim.Optimizer]
    schedule: Callable[[int], float]
    """step -> factor on the learning rates."""
    start: int = 0
    """The first step that this phase takes part in."""


@dataclass
class Task(Generic[Batch]):
    """A training: its phases, where its batches come from, and how it is watched."""

    phases: list[Phase]
    draw: Callable[[int, Shard], Batch]
    """(step, shard) -> this shard of the step's batch; a pure function, run in worker processes if there are any."""
    names: Callable[[Batch], Sequence[str]] = _names
    """The files in a batch, to name them when its loss is NaN."""
    validate: Callable[[], dict[str, float]] | None = None
    """Numbers on held-out data, logged as held_out_NAME."""
    best: tuple[Literal["smallest", "largest"], str] = ("smallest", "loss")
    """Which of these numbers decides which save is the best, and how."""
    sample: Callable[[], dict[str, Image.Image]] | None = None
    """Pictures of what the averaged weights can do."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Plain values saved with the weights, for the export."""
    seed: int = 0
    """Of dropped paths and the like; the batches have noise of their own."""


def train(task: Task[Batch], settings: Running, folder: Path, world: World | None = None) -> AveragedWeights:
    """Runs or continues a training in `folder`.

    Returns:
        The averaged weights of the first phase's objective.
    Raises:
        Interrupted: after a save, when a process was asked to stop.
        TrainingError: no steps between saves or lines of the log; the loss became NaN (the last save is intact); a save
            could not be written.
    """
    world = world or World()
    for name in ("save_every", "log_every"):
        if (every := getattr(settings, name)) < 1:
            raise TrainingError(f"--{name.replace('_', '-')} is {every}; give 1 or more, in steps")
    if world.device.type == "cpu":
        keep_freed_memory()
        for phase in task.phases:
            use_plain_attention(phase.objective)
    stopping.check()
    run = _Run(task, settings, folder, world)
    start = run.restore()
    log = run.log = Log(folder, start, world, settings.track, run.pending, run.id)
    bar = tqdm(
        range(start, settings.steps),
        initial=start,
        total=settings.steps,
        unit="step",
        mininterval=5,
        disable=not world.first,
    )
    with _stop_requests() as stop, closing(run.batches(start)) as parts:
        for step in bar:
            log.add(run.step(step, [next(parts) for _ in range(settings.accumulate)]))
            done = step + 1
            last, asked = done == settings.steps, world.any(bool(stop))
            saved = run.report(done, log, bar, last or asked, last)
            if asked and not last:
                raise Interrupted(f"stopped at step {done}, saved in {saved}; the same command goes on from there")
    stopping.pass_on(stop)
    return run.average


class _Run(Generic[Batch]):
    """A training under way."""

    def __init__(self, task: Task[Batch], settings: Running, folder: Path, world: World) -> None:
        self.task, self.settings, self.folder, self.world = task, settings, folder, world
        self.calls = [replicate(phase.objective, world) for phase in task.phases]
        self.average = AveragedWeights(task.phases[0].objective, settings.ema, settings.ema_warmup)
        self.lowest = float("inf")
        self.id = uuid.uuid4().hex[:12]
        self.pending: dict[str, tuple[float, int]] = {}
        self.unchecked: list[tuple[int, Sequence[str], Tensor]] = []
        """Step, files and loss of every part of a batch since the losses were last read."""
        self.log: Log | None = None

    def batches(self, start: int) -> Generator[Batch, None, None]:
        """This process's parts of all steps from `start` on, `accumulate` a step."""
        accumulate = self.settings.accumulate
        parts = self.world.size * accumulate

        def draw(index: int) -> Batch:
            step, part = divmod(index, accumulate)
            return self.task.draw(step, Shard(self.world.rank * accumulate + part, parts))

        return batches(draw, start * accumulate, self.settings.steps * accumulate, self.settings.workers)

    def step(self, step: int, parts: list[Batch]) -> dict[str, Tensor]:
        """All phases of a step; returns the values to log."""
        try:
            return self._step(step, parts)
        except (RuntimeError, ValueError):
            self.require_finite()  # what follows from a NaN of the steps before
            raise

    def _step(self, step: int, parts: list[Batch]) -> dict[str, Tensor]:
        logged: dict[str, Tensor] = {}
        for number, phase in enumerate(self.task.phases):
            if step >= phase.start:
                set_learning_rate(phase.optimizers, phase.schedule(step), step)
                values = self._phase(number, phase, step, parts)
                logged |= values
        self.average.update(step)
        return logged

    def _phase(self, number: int, phase: Phase, step: int, parts: list[Batch]) -> dict[str, Tensor]:
        """One step down the gradient of a phase's loss over the parts of the batch."""
        for optimizer in phase.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: dict[str, list[Tensor]] = {}
        for index, part in enumerate(parts):
            # Dropped paths and the like; everything else has noise of its own in the batch.
            torch.manual_seed(stream(self.task.seed, 3, number, step, self.world.rank, index).initial_seed())
            with self._synchronised(number, index + 1 == len(parts)):
                loss, values = self.calls[number](part, step)
                self.unchecked.append((step, self.task.names(part), loss.detach()))
                (loss / len(parts)).backward()
            for name, value in values.items():
                sums.setdefault(name, []).append(value.detach())
        norm = nn.utils.clip_grad_norm_(phase.objective.parameters(), self.settings.clip)
        for optimizer in phase.optimizers:
            optimizer.step()
        sums["gradient" if number == 0 else f"gradient_{number}"] = [checkpointing.whole(norm.detach())]
        return {name: torch.stack(values).mean() for name, values in sums.items()}

    def _synchronised(self, number: int, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over the processes once a step, with the last part."""
        call = self.calls[number]
        if not last and isinstance(call, nn.parallel.DistributedDataParallel):
            return call.no_sync()
        if is_sharded(call):
            call.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def require_finite(self) -> None:
        """Checks the losses since the last check, all at once: reading one from a GPU waits for everything before it.

        Raises:
            TrainingError: one is infinite or NaN, in some process; names the files of the first such batch.
        """
        unchecked, self.unchecked = self.unchecked, []
        values = torch.stack([loss for _, _, loss in unchecked]).tolist() if unchecked else []
        bad = [index for index, value in enumerate(values) if not math.isfinite(value)][:1]
        if not self.world.any(bool(bad)):
            return
        own = [(unchecked[index][0], values[index], list(unchecked[index][1])) for index in bad]
        found = [one for process in self.world.gather(own) for one in process]
        step, value, _ = min(found, key=lambda one: one[0])
        names = sorted({name for when, _, files in found if when == step for name in files})
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        where = f" with the files {shown}" if names else ""
        raise TrainingError(
            f"the loss is {value} at step {step}{where}; the last save in {self.folder} is intact: "
            "look at these files, or go on with a lower learning rate"
        )

    def report(self, done: int, log: Log, bar: tqdm[int], saves: bool, watches: bool) -> Path | None:
        """The line of the log, the save and the samples that are due after this many steps; returns the save.

        Only here is anything read from the device.
        """
        settings = self.settings
        logs, saves = done % settings.log_every == 0, saves or done % settings.save_every == 0
        watches = watches or settings.watches_after(done)
        if logs or saves or watches:
            self.require_finite()
        if logs:
            bar.set_postfix(log.write(done, settings.batch), refresh=False)
        with log.paused():
            saved = self.save(done) if saves else None
            if watches:
                self.watch(done, log, saved)
        return saved

    def save(self, done: int) -> Path:
        """Writes the resumable state; every process takes part, the first one writes."""
        phases = [
            {
                "module": checkpointing.module_state(phase.objective),
                "optimizers": [checkpointing.optimizer_state(one, phase.objective) for one in phase.optimizers],
            }
            for phase in self.task.phases
        ]
        state = {"phases": phases, "average": self.average.state_dict(), "meta": self.task.meta, "run": self.id}
        if self.log is not None:
            state["pending"] = {name: list(sums) for name, sums in self.log.pending().items()}
        outcome: Path | TrainingError | None = None
        if self.world.first:
            try:
                outcome = checkpointing.save(self.folder, done, state)
            except TrainingError as error:
                outcome = error
        outcome = self.world.gather(outcome)[0]
        if not isinstance(outcome, Path):
            raise TrainingError(str(outcome))
        return outcome

    def restore(self) -> int:
        """Loads the newest save, if any; returns the number of steps done."""
        state = checkpointing.latest(self.folder)
        if state is None:
            return 0
        if len(state["phases"]) != len(self.task.phases):
            raise TrainingError(
                f"the saves in {self.folder} come from another kind of training; choose another --folder"
            )
        try:
            for phase, saved in zip(self.task.phases, state["phases"], strict=True):
                checkpointing.load_module(phase.objective, saved["module"])
                for optimizer, one in zip(phase.optimizers, saved["optimizers"], strict=True):
                    checkpointing.load_optimizer(optimizer, one)
            self.average.load_state_dict(state["average"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"the saves in {self.folder} do not fit the recipe ({str(error).splitlines()[0]}); "
                "choose another --folder"
            ) from error
        self.id = state.get("run", self.id)
        self.pending = {name: (total, count) for name, (total, count) in state.get("pending", {}).items()}
        numbers = checkpointing.best_numbers(self.folder)
        if numbers is not None:
            self.lowest = self._loss(numbers)
        return state["step"]

    def watch(self, done: int, log: Log, saved: Path | None) -> None:
        """Validation and sample pictures with the averaged weights; the best save is kept.

        Args:
            saved: the save of this step, if there is one; else one is made should it be the best.
        """
        objective = self.task.phases[0].objective
        training = objective.training
        objective.eval()
        with self.average.applied(), parts_callable(objective), torch.no_grad():
            values = self.task.validate() if self.task.validate else {}
            pictures = self.task.sample() if self.task.sample else {}
        objective.train(training)
        if values:
            log.record(done, {f"held_out_{name}": value for name, value in values.items()})
            if self.world.any(self._loss(values) < self.lowest):
                self.lowest = self._loss(values)
                path = saved or self.save(done)
                if self.world.first:
                    checkpointing.keep_best(path, {"step": done, **values})
        log.pictures(done, pictures)

    def _loss(self, numbers: dict[str, float]) -> float:
        """The lower, the better."""
        which, name = self.task.best
        return numbers[name] if which == "smallest" else -numbers[name]


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
