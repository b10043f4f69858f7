"""Batches from worker processes: the same, in order, and with an end when a worker dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from training.data.augmentation import stream
from training.data.loader import batches
from training.errors import TrainingError

fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")


def draw(step: int) -> tuple[int, torch.Tensor]:
    time.sleep(0.03 * (step % 2))  # so that an unordered loader would show
    return step, torch.randn(3, generator=stream(1, step))


@fork
def test_workers_give_the_same_in_the_same_order() -> None:
    before = torch.get_rng_state()
    alone, helped = list(batches(draw, 3, 12)), list(batches(draw, 3, 12, workers=2))
    assert [step for step, _ in alone] == [step for step, _ in helped] == list(range(3, 12))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(alone, helped, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_is_drawn_before_it_is_asked_for() -> None:
    drawn: list[int] = []
    iterator = batches(drawn.append, 0, 5)
    next(iterator)
    assert drawn == [0]


@fork
def test_work_happens_elsewhere_and_the_workers_end() -> None:
    iterator = batches(lambda step: os.getpid(), 0, 100, workers=2)
    pids = {next(iterator) for _ in range(4)}
    assert len(pids) == 2 and os.getpid() not in pids
    iterator.close()  # type: ignore[attr-defined]
    assert not [child for child in multiprocessing.active_children() if child.pid in pids]


@fork
def test_a_program_that_forgets_them_ends_all_the_same() -> None:
    code = "from training.data.loader import batches; it = batches(abs, 0, 99, workers=2); next(it)"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - start < 30


@fork
def test_a_killed_worker_is_an_error_within_seconds() -> None:
    """Wherever the main process is when it happens, the error comes when it asks for the next batch."""
    iterator = batches(lambda step: (time.sleep(0.05), os.getpid())[1], 0, 1000, workers=2)
    os.kill(next(iterator), signal.SIGKILL)
    time.sleep(0.3)  # where torch's own SIGCHLD handler would raise
    start = time.monotonic()
    with pytest.raises(TrainingError, match="a worker that prepares batches died before step") as caught:
        for _ in iterator:
            pass
    assert time.monotonic() - start < 15 and "\n" not in str(caught.value)


@fork
def test_workers_leave_the_signals_to_the_main_process() -> None:
    iterator = batches(lambda step: (time.sleep(0.02), os.getpid())[1], 0, 12, workers=1)
    pid = next(iterator)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert set(iterator) == {pid}


@fork
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_arrives_as_it_was(workers: int) -> None:
    def fail(step: int) -> int:
        if step == 2:
            raise TrainingError("a.png is broken; repair it")
        return step

    iterator = batches(fail, 0, 5, workers)
    assert [next(iterator), next(iterator)] == [0, 1]
    with pytest.raises(TrainingError, match=r"^a\.png is broken; repair it$"):
        next(iterator)


@fork
def test_a_mistake_in_the_program_keeps_its_kind() -> None:
    with pytest.raises(ZeroDivisionError):
        list(batches(lambda step: 1 // step, 0, 2, workers=1))
