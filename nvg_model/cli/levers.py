"""What a picture costs with each way to save work: processor and wall seconds, all ways in turn in every round."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nvg_model.generation import count_evaluations
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings

OWN = "as it is"


@dataclass
class Lever:
    """One line of the table."""

    name: str
    evaluations: int
    """Of the networks, for a picture; one may be of two rows, with and without the class."""
    processor_seconds: float
    """Of all threads, for a picture."""
    seconds: float
    share: float
    """Processor seconds, of those of the settings as they are."""


def ways(settings: SamplingSettings, averages: bool = False) -> dict[str, SamplingSettings]:
    """The settings as they are, with each lever of the structure flow, and with all of them together.

    Args:
        averages: of a few-step network, which has its guidance inside and takes no other solver or times.
    """
    steps = settings.structure_steps
    fewer = tuple(max(1, one // 2) for one in steps) if isinstance(steps, tuple) else max(1, steps // 2)
    levers: dict[str, dict[str, Any]] = {"half the steps": {"structure_steps": fewer}, "reuse": {"reuse": True}}
    if not averages:
        levers |= {
            "even times, multistep": {"time_shift": 0.0, "solver": "multistep"},
            "guided every second time": {"guidance_every": 2},
        }
    levers["all of these"] = {name: value for change in levers.values() for name, value in change.items()}
    found = {OWN: settings}
    for name, change in levers.items():
        if (changed := dataclasses.replace(settings, **change)) not in found.values():
            found[name] = changed
    return found


def turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """The least processor and wall seconds of each call, after one call of each that does not count."""
    least = {name: (float("inf"), float("inf")) for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            found = time.process_time() - processor, time.perf_counter() - wall
            if number:
                least[name] = (min(least[name][0], found[0]), min(least[name][1], found[1]))
    return least


def measure(model: NVG, batch: int, settings: SamplingSettings, rounds: int) -> list[Lever]:
    """Whole pictures, decoded, with every lever."""
    chosen = ways(settings, model.structure.averages)

    def draw(one: SamplingSettings) -> Callable[[], object]:
        classes = [index % len(model.classes) for index in range(batch)]
        return lambda: model.decode(model.generate(classes, settings=one)).cpu()

    found = turns({name: draw(one) for name, one in chosen.items()}, rounds)
    own = found[OWN][0]
    return [
        Lever(
            name,
            count_evaluations(chosen[name], model.config.splits),
            processor / batch,
            wall / batch,
            processor / own,
        )
        for name, (processor, wall) in found.items()
    ]


def table(levers: list[Lever]) -> str:
    """The lines for people."""
    lines = [f"\n{'what a picture costs':<26}{'evaluations':>12}{'CPU seconds':>13}{'seconds':>10}{'of its own':>12}"]
    for one in levers:
        numbers = f"{one.evaluations:>12}{one.processor_seconds:>13.3f}{one.seconds:>10.3f}{one.share:>12.2f}"
        lines.append(f"{one.name:<26}{numbers}")
    return "\n".join(lines)
