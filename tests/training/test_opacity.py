"""Whether opacity is the silhouette."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shared_models import transparent_model

import nvg_model
from nvg_model.sampling import SamplingSettings
from training.data.dataset import open_dataset
from training.evaluate import evaluate
from training.metrics.classifier import ClassifierSettings
from training.metrics.evaluation import EvaluationSettings
from training.metrics.opacity import first_splits, overlap, reconstructed

CLASSES = ("disc", "ring", "square")


@pytest.fixture(scope="module")
def transparent(tiny_model: nvg_model.NVG) -> nvg_model.NVG:
    return transparent_model(tiny_model, CLASSES)


def with_opacity(model: nvg_model.NVG, opacity: float) -> None:
    """The same opacity everywhere."""
    head = model.tokenizer.decoder.head[2]
    head.weight[12:] = 0
    head.bias[12:] = opacity


def test_overlap() -> None:
    a = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    b = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert overlap(a, b).tolist() == [pytest.approx(1 / 3), 1, 1]


def test_of_pictures_that_are_opaque_or_transparent(transparent: nvg_model.NVG, data: Path) -> None:
    pictures = open_dataset(data, (32, 32), CLASSES, "held-out")
    covered = (pictures.load(torch.arange(len(pictures)))[:, 3] > 127).float().mean(dim=(1, 2))
    with_opacity(transparent, 1.0)
    torch.testing.assert_close(reconstructed(transparent, pictures), covered)
    few = SamplingSettings(structure_steps=1)
    assert first_splits(transparent, torch.arange(3), 0, few).tolist() == [0.5] * 3  # half of what is opaque
    with_opacity(transparent, -1.0)
    assert reconstructed(transparent, pictures).tolist() == [0.0] * len(pictures)


def test_an_evaluation_tells_it(transparent: nvg_model.NVG, data: Path, tmp_path: Path) -> None:
    path = nvg_model.save(transparent, tmp_path / "transparent.safetensors")
    settings = EvaluationSettings(
        str(path), str(data), tmp_path / "out", parts=("tokenizer",), maps=3, device="cpu",
        classifiers=tmp_path, classifier=ClassifierSettings(steps=2, batch=4),
        sampling=SamplingSettings(structure_steps=1),
    )  # fmt: skip
    assert evaluate(settings) is not None
    measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]["tokenizer"]
    assert {"PSNR", "PSNR, as encoded", "opacity, overlap", "opacity, overlap with the split"} <= measured.keys()
