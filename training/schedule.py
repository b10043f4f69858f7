"""Learning how the structure flow runs at each stage: the splits of many steps, for as few passes as possible.

At every stage each way splits the regions of real pictures from the same canvas and noise as many guided Euler steps
do. The stages do not depend on each other then: each way is measured once for each stage, and the passes go one after
the other to where they gain the most agreement.
Shapes: B pictures, K splits, L positions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings, StageFlow, guidance_schedule
from nvg_model.schedule import BY_STAGE, shown
from nvg_model.solvers import SOLVERS, evaluations
from training.errors import TrainingError
from training.files import replacing
from training.metrics.pictures import read_split, to_images
from training.split_agreement import Images, split, with_steps

RESULTS = "schedule"


@dataclass(frozen=True)
class ScheduleSearch:
    """What is tried at every stage."""

    pictures: int = 34
    """Real pictures, every class equally often."""
    steps: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    solvers: tuple[str, ...] = ("multistep",)
    guidance_every: tuple[int, ...] = (1, 2, 3, 4)
    time_shifts: tuple[float, ...] = (0.0,)
    reuse: tuple[bool, ...] = (False, True)
    most_passes: float = 8.0
    """Of a stage, for each picture; more expensive ways are left out."""
    agreement: float = 0.945
    """The cheapest schedule that agrees so well is the one that is chosen."""
    reference_steps: int = 25
    """Euler steps that give the wanted splits."""

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise TrainingError(f"schedule.pictures is {self.pictures}; it must be at least 1")
        if not 0 < self.agreement <= 1:
            raise TrainingError(f"schedule.agreement is {self.agreement}; it must lie above 0 and at most at 1")
        for name in self.solvers:
            if name not in SOLVERS:
                raise TrainingError(f"schedule.solvers names {name!r}; there are {', '.join(SOLVERS)}")

    def ways(self, positions: int, guided: bool) -> list[StageFlow]:
        """All that is tried at a stage, the cheapest first; without guidance there is none to leave out."""
        found: dict[StageFlow, None] = {}
        for steps, solver, reuse, every, shift in product(
            self.steps, self.solvers, self.reuse, self.guidance_every, self.time_shifts
        ):
            count = evaluations(solver, steps)
            if (every > 1 and (every > count or not guided)) or (reuse and count == 1):
                continue  # the same as a smaller number, or as without
            way = StageFlow(steps, solver, reuse, every, shift)
            if passes(way, positions, guided) <= self.most_passes:
                found[way] = None
        return sorted(found, key=lambda way: passes(way, positions, guided))


def passes(way: StageFlow, positions: int, guided: bool) -> float:
    """Passes of the structure network at a stage for each picture. One that reuses canvas and class counts by its
    tokens: L of 2L + 1."""
    count = evaluations(way.solver, way.structure_steps)
    rows = [1 + (guided and number % way.guidance_every == 0) for number in range(count)]
    share = positions / (2 * positions + 1) if way.reuse else 1.0
    return rows[0] + share * sum(rows[1:])


@dataclass(frozen=True)
class Found:
    """A way at a stage, and how well it agrees."""

    way: StageFlow
    passes: float
    agreement: float


def real_images(model: NVG, data: str, count: int, seed: int = 0) -> Images:
    """Training pictures, taken apart, with random noise; every class equally often. Raises TrainingError."""
    pictures = read_split(data, "train", model.config.image_size, model.classes)
    random, rows = torch.Generator().manual_seed(seed), []
    by_class = [(pictures.labels == label).nonzero()[:, 0] for label in range(len(model.classes))]
    filled = [one for one in by_class if len(one)]
    for number in range(count):
        mine = filled[number % len(filled)]
        rows.append(int(mine[torch.randint(len(mine), (1,), generator=random)]))
    chosen = pictures.at(torch.tensor(rows))
    noise = torch.randn(count, model.config.positions, model.config.splits, generator=random)
    sequence = model.tokenize(to_images(chosen.pixels))
    return Images(chosen.labels.to(model.device), noise.to(model.device), sequence)


def measure(model: NVG, images: Images, search: ScheduleSearch) -> list[list[Found]]:
    """Every way at every stage, the cheapest first. Prints a table as it goes."""
    positions, settings, found = model.config.positions, model.settings, []
    scales = guidance_schedule(settings.structure_guidance, model.config.splits)
    print("| stage | way | passes | agreement |\n|---|---|---|---|", flush=True)
    for stage in range(model.config.splits - 1):
        wanted = split(model, images, with_steps(settings, search.reference_steps), stage)
        guided, tried = scales[stage] != 1, []
        for way in search.ways(positions, guided):
            same = split(model, images, dataclasses.replace(settings, **vars(way)), stage) == wanted
            tried.append(Found(way, passes(way, positions, guided), float(same.float().mean())))
            print(f"| {stage} | {_words(way)} | {tried[-1].passes:.1f} | {tried[-1].agreement:.3f} |", flush=True)
        found.append(tried)
    return found


def choose(found: Sequence[Sequence[Found]]) -> list[list[Found]]:
    """Schedules of growing cost: each gives one stage the way that gains most agreement for each pass."""
    chosen = [min(tried, key=lambda one: one.passes) for tried in found]
    schedules = [list(chosen)]
    while True:
        best, gain = None, 0.0
        for stage, tried in enumerate(found):
            for one in tried:
                more = one.passes - chosen[stage].passes
                better = one.agreement - chosen[stage].agreement
                if better > 0 and (rate := better / max(more, 1e-6)) > gain:
                    best, gain = (stage, one), rate
        if best is None:
            return schedules
        chosen[best[0]] = best[1]
        schedules.append(list(chosen))


def settings_of(settings: SamplingSettings, chosen: Sequence[Found]) -> SamplingSettings:
    """The settings with a schedule in them; what all stages have in common is one value."""
    columns = {name: tuple(getattr(one.way, name) for one in chosen) for name in BY_STAGE}
    values: dict[str, Any] = {name: one[0] if len(set(one)) == 1 else one for name, one in columns.items()}
    return dataclasses.replace(settings, **values)


def learn(model: NVG, data: str, search: ScheduleSearch, out: Path, seed: int = 0) -> SamplingSettings:
    """The cheapest schedule that agrees well enough, or the one that agrees best; writes schedule.json and .md.

    Raises:
        TrainingError: the data does not fit the model, or there is nothing to learn.
    """
    if model.config.splits < 2 or model.structure.averages:
        raise TrainingError("the structure flow of this checkpoint has no steps to choose; few-step ones take them all")
    found = measure(model, real_images(model, data, search.pictures, seed), search)
    schedules = choose(found)
    good = [one for one in schedules if mean_agreement(one) >= search.agreement]
    chosen = settings_of(model.settings, good[0] if good else schedules[-1])
    text = _table(schedules)
    print(text)
    if not good:
        print(f"no schedule agrees in {search.agreement:.1%} of the positions; the best one is taken")
    content = {"about": vars(search), "tried": found, "schedules": schedules, "chosen": chosen.to_dict()}
    for name, written in (("json", json.dumps(content, indent=1, default=dataclasses.asdict)), ("md", text)):
        with replacing(out / f"{RESULTS}.{name}") as partial:
            partial.write_text(written + "\n", encoding="utf-8")
    return chosen


def mean_agreement(chosen: Sequence[Found]) -> float:
    """Over the stages."""
    return sum(one.agreement for one in chosen) / len(chosen)


def _table(schedules: Sequence[Sequence[Found]]) -> str:
    """Agreement against passes."""
    lines = ["| passes | agreement | by stage | schedule |", "|---|---|---|---|"]
    for one in schedules:
        by_stage = " ".join(f"{stage.agreement:.3f}" for stage in one)
        words = "; ".join(f"{name} {shown(value)}" for name, value in _plain(settings_of(SamplingSettings(), one)))
        lines.append(f"| {sum(stage.passes for stage in one):.1f} | {mean_agreement(one):.3f} | {by_stage} | {words} |")
    return "\n".join(lines)


def _plain(settings: SamplingSettings) -> list[tuple[str, Any]]:
    return [(name, getattr(settings, name)) for name in BY_STAGE]


def _words(way: StageFlow) -> str:
    return "; ".join(f"{name} {shown(value)}" for name, value in vars(way).items())
