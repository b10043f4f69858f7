"""The generators' loss and its gradients against those of the paper's release, on the golden pictures and weights.

Skipped where the folder is absent; sizes come from the tensors (see tests/conftest.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import nvg_model
from nvg_model import released
from nvg_model.model import NVG
from training.data.generator_batch import Batch, assemble
from training.losses.generators import GeneratorObjective, content_loss, structure_loss
from training.recipes import recipe

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, Tensor]:
    """The tensors of training.safetensors."""
    path = golden / "training.safetensors"
    if not path.is_file():
        pytest.skip(f"this set of golden tensors has no {path.name}")
    return load_file(path)


@pytest.fixture(scope="module")
def nvg(golden: Path) -> NVG:
    return nvg_model.load_released(golden / "ae_weights.safetensors", golden / "gen_weights.safetensors")


@pytest.fixture(scope="module")
def batch(nvg: NVG, vectors: dict[str, Tensor], golden: Path) -> Batch:
    """The golden pictures as cached tokens, with all stages of both generators."""
    outputs = load_file(golden / "ae_outputs.safetensors")
    structure, tokens = outputs["ae.labels"].long(), outputs["ae.tokens"].long()
    images = len(structure)
    codes = []
    for stage in range(nvg.config.num_stages):
        code = torch.empty(images, 2**stage, dtype=torch.long)
        codes.append(code.scatter(1, structure[:, stage], tokens[:, stage]))
    return Batch(
        classes=vectors["train.class_label"],
        content_stages=torch.arange(nvg.config.splits + 1).expand(images, -1),
        structure_stages=torch.arange(nvg.config.splits - 1).expand(images, -1),
        noise=vectors["train.noise"],
        times=vectors["train.time"],
        finest=structure[:, -1],
        codes=tuple(codes),
    )


def objective_of(nvg: NVG) -> GeneratorObjective:
    """With fresh gradients, as the paper's recipe trains but for REPA."""
    settings = dataclasses.replace(recipe("d16").generator, repa_weight=0.0, bfloat16=False, compile=False)
    objective = GeneratorObjective(nvg, settings).requires_grad_(True).train()
    objective.zero_grad()
    return objective


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to what is expected."""
    return float((found.detach() - expected).norm() / expected.norm())


def by_our_names(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of the release, its names translated as a checkpoint's."""
    theirs = {name.removeprefix("grad."): value for name, value in vectors.items() if name.startswith("grad.")}
    return released._rename(released._join_scales(theirs), released._GENERATOR_NAMES)


def test_the_terms_of_every_stage(nvg: NVG, batch: Batch, vectors: dict[str, Tensor]) -> None:
    settings, stages = objective_of(nvg).settings, assemble(batch, nvg.tokenizer)
    with torch.no_grad():
        for stage, (mse, entropy) in enumerate(zip(vectors["train.mse"], vectors["train.cross_entropy"], strict=True)):
            one = dataclasses.replace(batch, content_stages=batch.content_stages[:, stage : stage + 1])
            loss, values = content_loss(nvg.content, one, stages, settings)
            assert float(values["content_mse"]) == pytest.approx(float(mse), rel=RELATIVE)
            assert float(values[f"entropy_{stage}"]) == pytest.approx(float(entropy), rel=RELATIVE)
            assert float(loss) == pytest.approx(float(mse + entropy), rel=RELATIVE)
        for stage, mse in enumerate(vectors["train.structure_mse"]):
            one = dataclasses.replace(
                batch,
                structure_stages=batch.structure_stages[:, stage : stage + 1],
                times=batch.times[:, stage : stage + 1],
            )
            loss, _ = structure_loss(nvg.structure, one, stages, settings)
            assert float(loss) == pytest.approx(float(mse), rel=RELATIVE)


def test_the_total_and_its_gradients(nvg: NVG, batch: Batch, vectors: dict[str, Tensor]) -> None:
    objective = objective_of(nvg)
    loss, _ = objective(batch, 0)
    loss.backward()
    total = float(loss.detach())
    assert total == pytest.approx(float(vectors["train.total"]), rel=RELATIVE)
    mean = sum(float(vectors[f"train.{name}"].mean()) for name in ("mse", "cross_entropy", "structure_mse"))
    assert total == pytest.approx(mean, rel=RELATIVE)  # nothing counts twice
    found = {name: value.grad for name, value in objective.named_parameters() if value.grad is not None}
    norm = torch.stack([value.norm() for value in found.values()]).norm()
    assert float(norm) == pytest.approx(float(vectors["train.grad_norm_all"]), rel=RELATIVE)
    expected = by_our_names(vectors)
    assert expected and expected.keys() <= found.keys()
    assert {name: value for name, one in expected.items() if (value := difference(found[name], one)) > RELATIVE} == {}
