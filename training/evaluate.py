"""Evaluation of a checkpoint: `evaluate`, `write_samples_of` and `train_classifier`, one command each.

Everything is a function of the checkpoint, the data, the settings and the seed. Samples and the classifier are kept in
files, so that an evaluation that was interrupted goes on.
Shapes: N pictures, D features, C classes; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

from pathlib import Path

from training.distributed import World
from training.errors import TrainingError
from training.metrics.classifier import ClassifierSettings, classify, load_or_train
from training.metrics.evaluation import CLASSIFIERS, Evaluation, EvaluationSettings, load
from training.metrics.lite import LITE
from training.metrics.parts import PARTS, accuracy
from training.metrics.pictures import read_split
from training.metrics.report import Report
from training.metrics.sampler import ALONE, SampleSettings, write_samples


def evaluate(settings: EvaluationSettings, world: World = ALONE) -> Report | None:
    """Measures a checkpoint, prints the tables and writes evaluation.json and evaluation.md.

    Under torchrun the processes share the sampling; the first one does the rest.

    Returns:
        The report; None in the other processes, and for a checkpoint without generator whose parts all need one.
    Raises:
        NVGError: the checkpoint cannot be read. TrainingError: the data does not fit it, or something is not to be had.
    """
    work = Evaluation(settings, world)
    parts = settings.parts
    if work.nvg.config.generator is None:
        parts = tuple(part for part in parts if part in ("tokenizer", "semantics"))
        if not parts:
            raise TrainingError(f"{settings.checkpoint} has no generator; choose --parts tokenizer or semantics")
    if settings.features not in LITE:
        parts = tuple(part for part in parts if part != "judge")
    if not parts:
        raise TrainingError("the judge needs features of an ImageNet network; choose --features lite0")
    if not world.first:
        if set(parts) & {"distribution", "judge", "classifier", "memorisation"}:
            work.sample()
        for number in range(1, settings.seeds if "judge" in parts else 1):
            work.sample(number)
        return None
    report = Report(work.about())
    for part in parts:
        PARTS[part](work, report)
        report.write(settings.out)  # after every part: the next may take long
    print(report.to_markdown())
    print(f"written: {settings.out / 'evaluation.json'}, {settings.out / 'evaluation.md'}")
    return report


def write_samples_of(
    checkpoint: str, out: Path, settings: SampleSettings, device: str = "", dtype: str = "float32", world: World = ALONE
) -> Path | None:
    """Writes samples of a checkpoint as the .npz that OpenAI's evaluator reads; see training/metrics/sampler.py."""
    path = write_samples(load(checkpoint, device, dtype, world), out, settings, world)
    if path is not None:
        print(f"{settings.count} samples: {path}")
    return path


def train_classifier(
    data: str,
    size: tuple[int, int] = (64, 64),
    settings: ClassifierSettings | None = None,
    folder: Path = CLASSIFIERS,
    margin: float | None = None,
) -> dict[str, float]:
    """Trains the classifier of the training pictures of `data`, or finds it; reports its accuracy on the held-out ones.

    Returns:
        `accuracy` over all held-out pictures, and `class_mean`, where every class counts alike.
    """
    train = read_split(data, "train", size, margin=margin)
    held_out = read_split(data, "held-out", size, train.classes, margin=margin)
    _, logits = classify(load_or_train(folder, train, settings or ClassifierSettings()), held_out.pixels)
    result = accuracy(logits, held_out)
    print(
        f"classifier of {len(train)} pictures in {len(train.classes)} classes: {result['accuracy']:.1%} of "
        f"{len(held_out)} held-out pictures are right, {result['class_mean']:.1%} as a mean over the classes"
    )
    return result
