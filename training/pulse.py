"""Signs of life between the processes of a training, so that none waits forever for a frozen or dead one.

A thread of every process counts up a number in the shared store and watches the numbers of the others. A time limit on
common work would not do: the first process may write files or measure for an hour while the others wait for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

JOIN = 600.0
"""Seconds until all must have started."""
LOOKS = 10
"""Signs of life within the timeout."""
INTACT = "the saves are intact, and the same command goes on from the last one"
STATUS = 2
GRACE = 10.0
"""Seconds after the loss of the store that the main thread has to end by itself, well or with an error."""


def end(sentence: str) -> NoReturn:
    """Ends this process, whatever it waits for, with one sentence."""
    print(f"\nerror: {sentence}", file=sys.stderr, flush=True)
    os._exit(STATUS)


class Pulse(threading.Thread):
    """This process's signs of life, and its watch over the others'.

    Args:
        timeout: seconds without a sign of life after which this process ends.
    """

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        super().__init__(name="pulse", daemon=True)
        self.rank, self.size, self.timeout = rank, size, timeout
        self.store: dist.Store | None = None
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        try:
            self.store = self._connect()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            end(f"the {self.size} processes could not find each other ({reason}); start them with torchrun")
        counts, seen = [0] * self.size, [time.monotonic()] * self.size
        while True:
            try:
                self.store.add(f"pulse/{self.rank}", 1)
                now = [self.store.add(f"pulse/{one}", 0) for one in range(self.size)]
                left = [self.store.add(f"left/{one}", 0) > 0 for one in range(self.size)]
            except RuntimeError:
                if not self.stopping.wait(GRACE):  # the first process may just have ended, as this one is about to
                    end(f"torchrun, or the first process, does not answer any more, so this one ends too; {INTACT}")
                return
            for one in range(self.size):
                if now[one] != counts[one] or left[one]:
                    counts[one], seen[one] = now[one], time.monotonic()
                elif time.monotonic() - seen[one] > (self.timeout if counts[one] else max(JOIN, self.timeout)):
                    self._end_for(one, bool(counts[one]))
            if self.stopping.wait(self.timeout / LOOKS):
                return

    def _connect(self) -> dist.Store:
        """A separate connection: the main thread may be waiting on the other."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        client = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=JOIN))
        client.set_timeout(timedelta(seconds=self.timeout))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"nvg/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}", client)

    def _end_for(self, other: int, started: bool) -> None:
        if self.stopping.is_set():
            return
        if not started:
            end(f"process {other} of {self.size} has not started for {JOIN:g} s, so this one ends too")
        silent = f"process {other} of {self.size} has given no sign of life for {self.timeout:g} s"
        end(f"{silent} (it is frozen or dead), so this one ends too; {INTACT}")

    def stop(self, orderly: bool) -> None:
        """Ends the thread.

        Args:
            orderly: the work is done, and the others need not miss this process.
        """
        self.stopping.set()
        if orderly and self.store is not None and self.is_alive():
            try:
                self.store.add(f"left/{self.rank}", 1)
            except RuntimeError:  # they have gone before
                return
