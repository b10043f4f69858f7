"""How far cheap ways to run the structure flow agree with many steps: the splits they make, not their velocities.

At every stage of generated images each way splits the regions from the same canvas and the same noise. The agreement
is the share of positions that go to the same child; by chance it is a half.
Shapes: B images, K splits, L positions, n time steps.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nvg_model import hierarchy
from nvg_model.generation import Request
from nvg_model.model import NVG
from nvg_model.render import to_pixels
from nvg_model.sampling import SamplingSettings
from nvg_model.schedule import BY_STAGE
from nvg_model.tokenizer import VisualGranularitySequence
from training.files import replacing
from training.metrics.classifier import ClassifierSettings, classify, load_or_train
from training.metrics.distribution import frechet_distance, gaussian
from training.metrics.evaluation import CLASSIFIERS
from training.metrics.pictures import read_split
from training.metrics.sampler import sample_classes


class PictureScores(NamedTuple):
    """What generated pictures are worth."""

    frechet_distance: float
    """From the real ones, in the features of the classifier."""
    recognised: float
    """Share of the pictures that the classifier takes for their class."""


Measure = Callable[[NVG, SamplingSettings], PictureScores]
"""Of a model's pictures, sampled so."""
METHODS = {
    "euler": (25, 8, 4, 2, 1),
    "multistep": (8, 4, 2),
    "multistep, even times": (8, 4, 2),
    "average velocity": (8, 4, 2, 1),
}
"""Ways to run the structure flow that are compared, with their numbers of steps. A step of a trained flow takes two
passes, with and without class, one of average velocities a single one."""


@dataclass(frozen=True)
class Images:
    """Generated images, every class equally often, with the noise that their structure came from."""

    classes: Tensor
    """long [B]."""
    noise: Tensor
    """float [B,L,K]."""
    sequence: VisualGranularitySequence

    @classmethod
    def generate(cls, model: NVG, count: int, settings: SamplingSettings, seed: int = 0) -> Images:
        """With the solver and the steps of `settings`."""
        classes = torch.arange(count) % len(model.classes)
        shape = (count, model.config.positions, model.config.splits)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
        sequence = model.generate(classes, seed=seed, settings=settings, structure_noise=noise)
        return cls(classes.to(model.device), noise, sequence)


@torch.no_grad()
def splits(model: NVG, images: Images, settings: SamplingSettings, grids: Sequence[Tensor] = ()) -> Tensor:
    """Which child every position goes to at the stages that the flow splits: bool [B,K-1,L].

    Args:
        grids: the times of each stage [n+1] instead of the usual ones.
    """
    stages = [
        split(model, images, settings, stage, grids[stage] if grids else None)
        for stage in range(model.config.splits - 1)
    ]
    return torch.stack(stages, dim=1)


@torch.no_grad()
def split(model: NVG, images: Images, settings: SamplingSettings, stage: int, grid: Tensor | None = None) -> Tensor:
    """The same for one stage: bool [B,L]."""
    canvas, labels = images.sequence.canvases[:, stage], images.sequence.structure[:, stage]
    run = model.run(Request(images.classes, settings=settings))
    end = run.integrate(canvas, labels, images.noise, stage, None if grid is None else grid.tolist())
    return hierarchy.split(labels, end[..., stage]) % 2 == 1


def agreement(found: Tensor, wanted: Tensor) -> list[float]:
    """Share of positions of each stage that go to the same child, for splits [B,K-1,L]."""
    return (found == wanted).float().mean(dim=(0, 2)).tolist()


def with_steps(settings: SamplingSettings, steps: int, solver: str = "euler") -> SamplingSettings:
    """Settings with another way to run the structure flow, the same at every stage and guided at every step."""
    usual: dict[str, Any] = {name: getattr(SamplingSettings(), name) for name in BY_STAGE}
    return dataclasses.replace(settings, **usual | {"structure_steps": steps, "solver": solver})


def table(teacher: NVG, student: NVG, images: Images, measure: Measure | None = None) -> list[dict[str, Any]]:
    """The comparison of few steps with 25 of the trained flow, in its sampling defaults: rows of plain values.

    Args:
        teacher, student: the trained flow, and its conversion to average velocities.
        images: on which the splits are compared.
        measure: adds the Frechet distance of the pictures, which takes long.
    """
    settings = teacher.settings
    wanted = splits(teacher, images, with_steps(settings, 25))
    rows = []
    ways = [(name, number) for name, numbers in METHODS.items() for number in numbers]
    for method, steps in tqdm(ways, "comparing ways to sample", mininterval=5):
        model = student if method == "average velocity" else teacher
        chosen = with_steps(settings, steps, "multistep" if method.startswith("multistep") else "euler")
        even = method.endswith("even times")
        grids = [torch.linspace(1, 0, steps + 1)] * wanted.shape[1] if even else ()
        stages = agreement(splits(model, images, chosen, grids), wanted)
        row = {"method": method, "steps": steps, "agreement": sum(stages) / len(stages), "by_stage": stages}
        if not even:  # which costs the same, and is no choice of the sampling settings
            row["seconds_per_image"] = seconds_per_image(model, chosen)
            if measure is not None:
                row["frechet_distance"] = measure(model, chosen).frechet_distance
        rows.append(row)
    return rows


def seconds_per_image(model: NVG, settings: SamplingSettings, batch: int = 4) -> float:
    """Time of a whole image, content and all but the decoder, in a small batch."""
    classes = torch.arange(batch) % len(model.classes)
    start = time.perf_counter()
    model.generate(classes, settings=settings)
    return (time.perf_counter() - start) / batch


def picture_measure(
    model: NVG,
    data: Path | str,
    count: int,
    settings: ClassifierSettings | None = None,
    folder: Path = CLASSIFIERS,
    *,
    margin: float | None = None,
    seed: int = 0,
    batch: int = 32,
) -> Measure:
    """Measures `count` generated pictures with a classifier trained on `data`, against its pictures.

    Args:
        model: for the size of the pictures and the classes.
        settings, folder: how the classifier is trained, and where it is kept.
        margin: None: whole pictures; a number for photos, of which the centre is taken (see `open_dataset`).
        seed: of the pictures.
        batch: how many are generated together.
    """
    real = read_split(data, "train", model.config.image_size, model.classes, margin=margin)
    classifier = load_or_train(folder, real, settings or ClassifierSettings())
    wanted = gaussian(classify(classifier, real.pixels)[0], real.weights)

    def measure(model: NVG, settings: SamplingSettings) -> PictureScores:
        classes = sample_classes(count, len(model.classes))
        parts = []
        for start in range(0, count, batch):
            sequence = model.generate(classes[start : start + batch], seed, settings, first_item=start)
            parts.append(classify(classifier, to_pixels(model.decode(sequence)).cpu()))
        features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        recognised = float((logits.argmax(1) == classes).double().mean())
        return PictureScores(frechet_distance(gaussian(features), wanted), recognised)

    return measure


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    titles = {"seconds_per_image": ("seconds an image", ".3f"), "frechet_distance": ("Frechet distance", ".2f")}
    measured = {name: title for name, title in titles.items() if name in rows[0]}
    heads = ["method", "steps", "splits as with 25 Euler steps", "by stage", *(title for title, _ in measured.values())]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        stages = " ".join(f"{value:.1%}" for value in row["by_stage"])
        numbers = [format(row[name], form) if name in row else "" for name, (_, form) in measured.items()]
        lines.append([row["method"], str(row["steps"]), f"{row['agreement']:.1%}", stages, *numbers])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Prints the table and writes table.json and table.md."""
    text = to_markdown(rows)
    print(text)
    for name, content in (("table.json", json.dumps(rows, indent=1)), ("table.md", text)):
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
