"""Batches prepared ahead in worker processes: batch of step s is `draw(s)`, a pure function, whoever computes it."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from training.errors import TrainingError

T = TypeVar("T")

AHEAD = 2  # batches that every worker prepares in advance
GRACE = 60  # seconds that a worker lives on after SIGTERM


def batches(draw: Callable[[int], T], start: int, stop: int, workers: int = 0) -> Generator[T, None, None]:
    """draw(start), draw(start + 1), ... draw(stop - 1), in this order.

    Workers are forked, so `draw` may be a closure; what it reads is shared, what it changes is lost. It must not use
    a GPU. They ignore SIGINT and, for a minute, SIGTERM: stopping is for the main process, which may want to finish
    its step and save. They end when the iterator is closed or that process ends.

    Args:
        workers: processes that prepare batches ahead; 0: they are drawn here, when they are asked for.
    Raises:
        TrainingError: raised by `draw`, or a worker died.
    """
    if workers <= 0:
        yield from map(draw, range(start, stop))
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise TrainingError(f"this system cannot fork the {workers} workers asked for; set workers to 0")
    loader: DataLoader[Any] = DataLoader(
        _Draws(draw),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_same,
        worker_init_fn=_leave_signals_to_the_parent,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # or it would draw from the global one
    )
    iterator = _start(loader)
    end = iterator._shutdown_workers  # not left to `del`: an exception on its way out keeps the iterator alive
    atexit.register(end)  # nor to whoever forgets to close this generator
    try:
        for step in range(start, stop):
            batch = _next(iterator, step)
            if isinstance(batch, _Refusal):
                raise TrainingError(batch.reason)
            yield batch
    finally:
        end()
        atexit.unregister(end)


class _Refusal:
    """A TrainingError on its way from a worker; raised there, it would arrive with the text of a whole traceback."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Draws(Dataset[Any], Generic[T]):
    """`draw` as the data set that DataLoader asks for."""

    def __init__(self, draw: Callable[[int], T]) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> T | _Refusal:
        try:
            return self.draw(step)
        except TrainingError as error:
            return _Refusal(str(error))


def _same(batch: T) -> T:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: object) -> None:
    """Not never: a worker that ignores SIGTERM for good would keep a parent that waits for it at its exit."""
    signal.alarm(GRACE)


def _start(loader: DataLoader[Any]) -> Any:
    """Starts the workers, and keeps torch's SIGCHLD handler out: it raises wherever the main process happens to be.

    Without it a dead worker is noticed, a few seconds later, when the next batch is asked for.
    """
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
    return iterator


def _next(iterator: Iterator[Any], step: int) -> Any:
    try:
        return next(iterator)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a worker that prepares batches died before step {step} ({str(error).splitlines()[0]}); memory or "
            "/dev/shm may have run out: use fewer workers, or 0 to prepare the batches in the training process"
        ) from error
