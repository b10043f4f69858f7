"""Choosing the sampling defaults of a checkpoint: `python -m training tune --checkpoint FILE --data DIR --out FOLDER`.

One setting after the other is tried with several values, the others staying at the best found so far. What decides is
the Frechet distance of generated pictures to the training pictures in the features of a classifier trained on those
(training/evaluate.py); the share of pictures that the classifier recognises stands beside it.

`--what schedule` chooses steps, guidance and solver of the structure flow at each stage instead (training/schedule.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nvg_model
from nvg_model import checkpoint
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from training.errors import TrainingError
from training.files import replacing
from training.metrics.classifier import ClassifierSettings
from training.metrics.evaluation import CLASSIFIERS
from training.schedule import ScheduleSearch, learn
from training.split_agreement import picture_measure

Pair = tuple[float, float]
RESULTS = "tune.json"


@dataclass(frozen=True)
class TuneSettings:
    """What to try on which checkpoint."""

    checkpoint: str
    """What nvg_model.load reads: an embedded name, a file, a folder, or a hub id."""
    data: str
    """The pictures that it was trained on."""
    out: Path
    """Folder for tune.json or schedule.json, and of the checkpoint with what was chosen."""
    what: Literal["pictures", "schedule"] = "pictures"
    """Choose by pictures the values below, or by splits the schedule of the structure flow."""
    schedule: ScheduleSearch = dataclasses.field(default_factory=ScheduleSearch)
    write: bool = False
    """Also write OUT/model.safetensors, the checkpoint with the chosen settings as its own."""
    content_guidance: tuple[Pair, ...] = ((1.0, 1.0), (1.0, 2.0), (1.5, 3.0), (2.0, 4.0), (3.0, 5.0))
    structure_guidance: tuple[Pair, ...] = ((1.0, 1.0), (2.0, 1.5), (3.0, 2.0), (5.0, 3.0))
    top_p: tuple[Pair, ...] = ((1.0, 0.5), (0.9, 0.3), (0.8, 0.3), (0.6, 0.2), (0.3, 0.1))
    structure_steps: tuple[int, ...] = ()
    """The values of each of the sampling settings that are tried, in this order; empty: it stays as it is."""
    per_class: int = 20
    """Pictures of every class for every value."""
    seed: int = 1_000
    """Of the pictures. The evaluation's seed is 0, so its pictures are others than those that were tuned on."""
    batch: int = 64
    """Pictures generated together."""
    classifier: ClassifierSettings = dataclasses.field(default_factory=ClassifierSettings)
    classifiers: Path = CLASSIFIERS
    """Folder where trained classifiers are kept."""

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise TrainingError(f"per_class is {self.per_class}; it must be at least 1")


@dataclass(frozen=True)
class Trial:
    """Sampling settings and what they reach."""

    sampling: SamplingSettings
    frechet_distance: float
    recognised: float
    """Share of the pictures that the classifier takes for their class."""

    def row(self) -> str:
        """Of the printed table."""
        values = (getattr(self.sampling, name) for name in TRIED)
        cells = [f"{one[0]:g} to {one[1]:g}" if isinstance(one, tuple) else f"{one}" for one in values]
        return f"| {' | '.join(cells)} | {self.frechet_distance:.3f} | {self.recognised:.1%} |"


TRIED = ("content_guidance", "structure_guidance", "top_p", "structure_steps")


def tune(settings: TuneSettings) -> SamplingSettings:
    """Tries the values, prints a table of them and writes tune.json, or the same for a schedule.

    Returns:
        The best settings found.
    Raises:
        NVGError: the checkpoint cannot be read, or a value fits no sampling. TrainingError: the data does not fit it,
            or the folder cannot be written.
    """
    nvg = nvg_model.load(settings.checkpoint).eval()
    if nvg.config.generator is None:
        raise TrainingError(f"{settings.checkpoint} has a tokenizer but no generator; there is nothing to sample")
    if settings.what == "schedule":
        chosen = learn(nvg, settings.data, settings.schedule, settings.out, settings.seed)
    else:
        chosen = _tune_by_pictures(nvg, settings)
    print(f"best: {chosen}")
    if settings.write:
        nvg.settings = chosen
        print(f"written: {checkpoint.save(nvg, settings.out / 'model.safetensors')}")
    return chosen


def _tune_by_pictures(nvg: NVG, settings: TuneSettings) -> SamplingSettings:
    """One setting after the other, by the Frechet distance."""
    count = settings.per_class * len(nvg.classes)
    pictures = picture_measure(
        nvg, settings.data, count, settings.classifier, settings.classifiers, seed=settings.seed, batch=settings.batch
    )

    def measure(sampling: SamplingSettings) -> Trial:
        trial = Trial(sampling, *pictures(nvg, sampling))
        print(trial.row(), flush=True)
        return trial

    print(f"| {' | '.join(TRIED)} | Frechet distance | recognised |".replace("_", " "))
    print("|---" * (len(TRIED) + 2) + "|")
    trials = [measure(nvg.settings)]
    for name in TRIED:
        best = min(trials, key=lambda trial: trial.frechet_distance)
        trials += [measure(sampling) for sampling in _others(best.sampling, name, getattr(settings, name))]
    best = min(trials, key=lambda trial: trial.frechet_distance)
    _write(settings, trials)
    return best.sampling


def _others(sampling: SamplingSettings, name: str, values: tuple[object, ...]) -> Iterator[SamplingSettings]:
    """The settings with one setting changed, once for each other value."""
    for value in values:
        if value != getattr(sampling, name):
            yield dataclasses.replace(sampling, **{name: value})  # type: ignore[arg-type]


def _write(settings: TuneSettings, trials: list[Trial]) -> None:
    about = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    about["classifier"] = dataclasses.asdict(settings.classifier)
    about["schedule"] = dataclasses.asdict(settings.schedule)
    content = {"about": about, "trials": [dataclasses.asdict(trial) for trial in trials]}
    with replacing(settings.out / RESULTS) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
