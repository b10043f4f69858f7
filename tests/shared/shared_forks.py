"""Code and commands of the training in processes of their own, which start at once: several as torchrun starts them.

A process needs three seconds to import torch and what its optimisers ask for. Here one has done so, and others are
forked from it. The tests that are about torchrun itself, or about what an import does, do without.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch.distributed as dist

SECONDS = 300  # until all have to be at their end
_IMPORTED = ["training.__main__", "torch._dynamo", "torch.distributed.fsdp"]
"""The last two are imported by the first optimiser that is made."""


_TRAINING = "import sys; from training.__main__ import main; sys.exit(main())"


def _run(code: str, arguments: Sequence[str], environment: dict[str, str], output: Path) -> None:
    """In the new process: what it prints comes into `output`.out and `output`.err."""
    os.environ.update(environment)
    for stream, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


@contextmanager
def forked(code: str, arguments: Sequence[object], output: Path, count: int = 1) -> Iterator[list[BaseProcess]]:
    """`python -c CODE ARGUMENTS` in `count` processes; those that live at the end are killed.

    Several find each other as under torchrun. What they print is in the folder `output`: 0.out, 0.err, 1.out, ...
    """
    output.mkdir(parents=True, exist_ok=True)
    environment = {}
    if count > 1:  # they meet in a store of this process, as in that of torchrun
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count)}
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(_IMPORTED)
    processes: list[BaseProcess] = []
    given = list(map(str, arguments))
    try:
        for rank in range(count):
            own = environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {})
            processes.append(forks.Process(target=_run, args=(code, given, own, output / str(rank))))
            with pytest.MonkeyPatch.context() as patch:  # the first start also starts the process that is forked
                patch.setenv("OMP_NUM_THREADS", "1")
                processes[-1].start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def trainings(arguments: Sequence[object], output: Path, count: int = 1) -> AbstractContextManager[list[BaseProcess]]:
    """`forked` with `python -m training ARGUMENTS`."""
    return forked(_TRAINING, arguments, output, count)


def train(arguments: Sequence[object], output: Path, count: int = 1) -> str:
    """The same to a good end. Returns what they printed, without what went to the standard error."""
    with trainings(arguments, output, count) as processes:
        finish(processes, output)
    return "".join(path.read_text() for path in sorted(output.glob("*.out")))


def finish(processes: Sequence[BaseProcess], output: Path) -> None:
    """Waits for the good end of all."""
    until = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    said = [path.read_text() for path in sorted(output.glob("*.err"))]
    assert [process.exitcode for process in processes] == [0] * len(processes), said
