"""How a training of several parts is stopped: by SIGTERM, by Ctrl-C, or by the end of its time, which is the same.

The steps of a training take a request themselves, and save (`training.loop`). What takes long outside of them calls
`check` where it can be left: an exception from within a signal's handler might leave torch half imported.
"""

from __future__ import annotations

import _thread
import math
import signal
import threading
from types import FrameType, TracebackType

from training.distributed import World
from training.errors import TrainingError

KEPT = "stopped outside of the steps, all that was finished is kept; the same command goes on from there"
REPEAT = 0.5
"""Seconds after which several processes are asked again, until all are in a training's step."""


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived, or the time is over; the state has been saved."""


class Clock:
    """Within, requests to stop are noted, and the end of the time is one. Only one at a time, in the main thread.

    Of several processes, one waits for its next step when the time is over, where all stop together; a signal ends it
    outside of the steps as it would without this.

    Args:
        minutes: 0: no limit.
    Raises:
        TrainingError: `minutes` is negative or not a number.
    """

    def __init__(self, minutes: float, world: World) -> None:
        if not (math.isfinite(minutes) and minutes >= 0):
            raise TrainingError(f"the time limit is {minutes:g} minutes; give 0 for none, or more")
        self.world, self.over, self.asked = world, False, False
        self._seconds, self._left = 60 * minutes, threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> Clock:
        _CLOCKS.append(self)
        self._before = {one: signal.signal(one, self._note) for one in (signal.SIGTERM, signal.SIGINT)}
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _CLOCKS.remove(self)

    def over_for_all(self) -> bool:
        """Whether the time is over in some process; all must ask."""
        return self.world.any(self.over)

    def check(self) -> None:
        """Between two parts: raises Interrupted where some process is to stop. All must ask."""
        if self.world.any(self.asked or self.over):
            raise Interrupted(KEPT)

    def _wait(self) -> None:
        if self._left.wait(self._seconds):
            return
        self.over = True
        _thread.interrupt_main(signal.SIGTERM)
        while self.world.size > 1 and not self._left.wait(REPEAT):
            _thread.interrupt_main(signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.world.size == 1:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt  # Ctrl-C once more: at once
            self.asked = True
        elif not self.over:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)


_CLOCKS: list[Clock] = []


def check() -> None:
    """Raises Interrupted where a clock's process, if it is the only one, was asked to stop."""
    if any(clock.asked for clock in _CLOCKS):
        raise Interrupted(KEPT)


def pass_on(received: list[int]) -> None:
    """Gives a request that came in a training's last step to the clock, which knows whether there is more to do."""
    for number in received[:1]:
        for clock in _CLOCKS:
            clock._note(number, None)
