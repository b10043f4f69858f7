"""Processes that train together end, with one sentence, when one is frozen, or dead (under torchrun)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from shared_forks import trainings

from training import checkpointing

TIMEOUT = 5
DEADLINE = 240  # of the test, should nothing end

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")


def environment(process: int) -> dict[str, str]:
    items = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return dict(item.split("=", 1) for item in items if "=" in item)


def workers(torchrun: int) -> dict[int, int]:
    """Process of each rank."""
    found = {}
    for listing in Path(f"/proc/{torchrun}/task").glob("*/children"):
        for child in listing.read_text().split():
            rank = environment(int(child)).get("RANK")
            if rank is not None:
                found[int(rank)] = int(child)
    return found


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(what: str, condition: object) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)


def arguments(data: Path, folder: Path) -> list[str]:
    """Of an endless training with frequent saves."""
    return ["tokenizer", "smoke", "--data", str(data), "--folder", str(folder), "--steps", "1000000",
            "--save-every", "5", "--timeout", str(TIMEOUT)]  # fmt: skip


def until_saved(folder: Path) -> None:
    until("a save", lambda: checkpointing.newest(folder / "tokenizer") is not None)


@contextmanager
def under_torchrun(data: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[int, int]]]:
    """torchrun and its two processes in the midst of a training, their output in `folder`/output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "--log-dir", str(folder / "output"), "--redirects", "3",
               "-m", "training", *arguments(data, folder)]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ranks: dict[int, int] = {}
    try:
        until_saved(folder)
        ranks = workers(process.pid)
        assert sorted(ranks) == [0, 1]
        yield process, ranks
    finally:
        for one in (*ranks.values(), process.pid):
            if not gone(one):
                os.kill(one, signal.SIGKILL)
        process.wait()


def require_one_sentence(text: str, start: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith(start), text
    assert lines[0].endswith("the saves are intact, and the same command goes on from the last one")
    assert "Traceback" not in text and "gloo" not in text, text


def test_a_frozen_process_ends_the_others(data: Path, tmp_path: Path) -> None:
    """The first of two, and the second of two others, which start while the first pair waits."""
    with ExitStack() as stack:
        pairs = []
        for frozen in (0, 1):
            folder = tmp_path / str(frozen)
            pairs.append(stack.enter_context(trainings(arguments(data, folder), folder / "output", count=2)))
            until_saved(folder)
            os.kill(pairs[frozen][frozen].pid or 0, signal.SIGSTOP)
        for frozen, pair in enumerate(pairs):
            other = 1 - frozen
            pair[other].join(DEADLINE)
            assert pair[other].exitcode, "it ends, and not well"
            silent = f"error: process {frozen} of 2 has given no sign of life for {TIMEOUT} s (it is frozen or dead), "
            require_one_sentence((tmp_path / str(frozen) / "output" / f"{other}.err").read_text(), f"{silent}so this")
            assert pair[frozen].is_alive()
    for frozen in (0, 1):
        assert checkpointing.latest(tmp_path / str(frozen) / "tokenizer") is not None


def test_a_killed_process_ends_the_others(data: Path, tmp_path: Path) -> None:
    with under_torchrun(data, tmp_path) as (process, ranks):
        os.kill(ranks[1], signal.SIGKILL)
        assert process.wait(DEADLINE) != 0
        (said,) = (tmp_path / "output").glob("*/attempt_0/0/stderr.log")
        require_one_sentence(said.read_text(), "error: another process of this training has ended or does not answer")
    assert checkpointing.latest(tmp_path / "tokenizer") is not None
