"""What an evaluation measures, and what its parts share.

Shapes: N pictures, D features; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

import nvg_model
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from training.data.sources import Split
from training.distributed import World
from training.errors import TrainingError
from training.metrics.classifier import Classifier, ClassifierSettings, classify, load_or_train
from training.metrics.features import Extract, Space, inception
from training.metrics.lite import lite
from training.metrics.pictures import Labelled, read_split
from training.metrics.sampler import SampleSettings, read_samples, sample_classes, write_samples

Part = Literal["tokenizer", "distribution", "judge", "classifier", "memorisation", "adherence", "cost", "semantics"]


CLASSIFIERS = Path("~/nvg-runs/classifiers").expanduser()


@dataclass(frozen=True)
class EvaluationSettings:
    """What to measure of which checkpoint, on which data."""

    checkpoint: str
    """What nvg_model.load reads: an embedded name, a file, a folder, or a hub id."""
    data: str
    """The pictures that it was trained on, with the same classes: a data set of any kind that training reads."""
    out: Path
    """Folder for evaluation.json, evaluation.md, samples and sheets."""
    parts: tuple[Part, ...] = ("tokenizer", "distribution", "judge", "classifier", "memorisation", "adherence", "cost")
    """What to measure. The judge needs features of an ImageNet network, lite0 to lite2; semantics needs drawings."""
    features: Space = "data"
    """Feature space of the distances: `data` is a classifier trained on the training pictures, `inception` the
    network of the published numbers, through torch-fidelity; `lite0` to `lite2` are ImageNet networks that come as
    packages, with which there is a judge: what was trained with one of them is judged by another."""
    per_class: int = 100
    """Generated pictures of every class."""
    seeds: int = 1
    """Sets of so many pictures that the judge sees, to tell how much its numbers differ from seed to seed."""
    maps: int = 50
    """Structure maps taken from held-out pictures; drawings of the part semantics."""
    drawings: Path | None = None
    """For the part semantics: a folder of flat .svg files, or an Iconify package (`npm pack NAME`)."""
    margin: float | None = None
    """None: whole pictures. For photos 1 or more: the short side is resized to so many sizes, the centre is taken."""
    limit: int = 50_000
    """Pictures of a split that are read at most, spread evenly over it."""
    seed: int = 0
    batch: int = 64
    """Pictures generated together."""
    sampling: SamplingSettings | None = None
    """Instead of the checkpoint's own."""
    lpips: bool = False
    """Also measure LPIPS, whose weights are a download of 528 MB."""
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    classifiers: Path = CLASSIFIERS
    """Folder where trained classifiers are kept."""
    device: str = ""
    """cpu, cuda, cuda:1; empty: a GPU if there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        if not self.parts:
            raise TrainingError(f"no part was chosen; give at least one of {', '.join(get_args(Part))}")
        for name in ("per_class", "seeds", "maps", "limit"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Evaluation:
    """What the parts share, made when it is first needed."""

    def __init__(self, settings: EvaluationSettings, world: World) -> None:
        self.settings, self.world = settings, world
        self.nvg = load(settings.checkpoint, settings.device, settings.dtype, world)

    def about(self) -> dict[str, object]:
        """What the numbers belong to."""
        settings = dataclasses.asdict(self.settings)
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        sampling = dataclasses.asdict(self.settings.sampling or self.nvg.settings)
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": str(self.nvg.device)}
        return plain | {"sampling": sampling} | versions

    @cached_property
    def train(self) -> Labelled:
        return self._read("train")

    @cached_property
    def held_out(self) -> Labelled:
        return self._read("held-out")

    def _read(self, split: Split) -> Labelled:
        settings, size = self.settings, self.nvg.config.output_size
        classes = self.nvg.classes if self.nvg.config.generator is not None else ()
        return read_split(settings.data, split, size, classes, margin=settings.margin, limit=settings.limit)

    @cached_property
    def network(self) -> Classifier:
        return load_or_train(self.settings.classifiers, self.train, self.settings.classifier)

    @cached_property
    def extract(self) -> Extract:
        """Pixels -> features and logits in the chosen space."""
        features = self.settings.features
        if features == "inception":
            return inception(self.nvg.device)
        if features != "data":
            return lite(features, self.nvg.device)
        return lambda pixels: classify(self.network, pixels)

    def sample(self, number: int = 0) -> Path | None:
        """Makes this process's share of the samples. A number above 0 is another seed."""
        settings = self.settings
        count = settings.per_class * len(self.nvg.classes)
        wanted = SampleSettings(count, settings.seed + number, settings.batch, settings.sampling)
        folder = f"samples-seed-{wanted.seed}" if number else "samples"
        return write_samples(self.nvg, settings.out / folder, wanted, self.world)

    @cached_property
    def generated(self) -> Labelled:
        return self.generated_again(0)

    def generated_again(self, number: int) -> Labelled:
        """The samples of seed number `number`."""
        path = self.sample(number)
        assert path is not None, "only the first process measures"
        pixels = read_samples(path)
        return Labelled(pixels, sample_classes(len(pixels), len(self.nvg.classes)), self.nvg.classes)

    @cached_property
    def train_features(self) -> Tensor:
        return self.extract(self.train.pixels)[0]

    @cached_property
    def generated_features(self) -> tuple[Tensor, Tensor]:
        """Features [N,D] and logits."""
        return self.extract(self.generated.pixels)


def load(checkpoint: str, device: str, dtype: str, world: World) -> NVG:
    """The model for evaluation; on the process's own GPU if none is named."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if place == "cuda" and world.device.type == "cuda":
        place = str(world.device)
    return nvg_model.load(checkpoint, place, getattr(torch, dtype)).eval()
