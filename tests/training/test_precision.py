"""bfloat16 gives way to float32 where the machine has no units for it, whatever a recipe says."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import checkpointing, precision
from training.__main__ import options
from training.cpu.muon import Float32Muon, orthogonalised
from training.distributed import World
from training.optim import muon
from training.precision import with_precision
from training.recipes import recipe
from training.tokenizer import train_tokenizer

FAST = dataclasses.replace(recipe("smoke").generator, bfloat16=True)


@pytest.fixture(params=[0.4, 11.7, float("inf")])
def factor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """What the measurement says: that of a processor with units, of one without, of a GPU without."""
    monkeypatch.setattr(precision, "slowdown", lambda device="cpu": request.param)
    return request.param


def test_a_recipes_bfloat16_gives_way_where_it_is_slow(factor: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert with_precision(FAST, World()).bfloat16 == (factor < 1)
    said = capsys.readouterr().err
    assert ("takes 11.7 times as long as float32 on this machine, so float32 is used" in said) == (factor == 11.7)
    assert ("computed in software on this machine, so float32 is used" in said) == (factor > 1e9)
    assert said.count("\n") == (factor > 1)


def test_what_is_asked_for_stays(factor: float, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = options("generator", "generator", ["emoji64", "--bfloat16"])
    asked = options("generator", "generator", ["emoji64", "--bfloat16"])[0].generator
    assert with_precision(asked, World()) == asked and asked.bfloat16
    usual = options("generator", "generator", ["emoji64"])[0].generator
    assert usual.bfloat16 and with_precision(usual, World()).bfloat16 == (factor < 1)
    without = dataclasses.replace(FAST, bfloat16=False)
    capsys.readouterr()
    assert with_precision(without, World()) == without and not capsys.readouterr().err


def test_muon_is_torchs_where_bfloat16_is_fast(factor: float) -> None:
    kind = type(muon([torch.nn.Parameter(torch.eye(3))], 1e-3, 0.0))
    assert kind is (torch.optim.Muon if factor < 1 else Float32Muon)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_orthogonalised_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    """The iteration's map of singular values, applied to those of an SVD instead of to the matrix."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    assert torch.allclose(orthogonalised(matrix, coefficients, 5), left @ values.diag() @ right, atol=1e-9)


def test_muon_in_float32_is_torchs_but_for_the_rounding() -> None:
    generator = torch.Generator().manual_seed(2)
    start = [torch.randn(shape, generator=generator) for shape in ((32, 16), (16, 40))]
    gradients = [[torch.randn(one.shape, generator=generator) for one in start] for _ in range(4)]
    ends, states = [], []
    for kind in (torch.optim.Muon, Float32Muon):
        matrices = [torch.nn.Parameter(one.clone()) for one in start]
        optimizer = kind(matrices, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for step in gradients:
            for matrix, gradient in zip(matrices, step, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()
        ends.append(matrices)
        states.append(optimizer.state_dict())
    for plain, ours, before in zip(*ends, start, strict=True):
        assert torch.nn.functional.mse_loss(plain, ours).sqrt() < 0.02 * (plain - before).square().mean().sqrt()
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for number, state in states[0]["state"].items():
        assert torch.equal(state["momentum_buffer"], states[1]["state"][number]["momentum_buffer"])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variables are of x86 processors")
def test_it_is_measured_on_this_machine() -> None:
    """With oneDNN and ATen told that there is nothing above AVX2, products in bfloat16 are computed in software."""
    code = "from training.precision import slowdown; print(slowdown())"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) > 5  # 68 on an EPYC whose units were switched off, 0.4 with them


def test_a_run_writes_down_what_it_really_computed_with(factor: float, data: Path, tmp_path: Path) -> None:
    smoke = recipe("smoke")
    settings = dataclasses.replace(smoke.tokenizer, steps=1, bfloat16=True)
    train_tokenizer(dataclasses.replace(smoke, tokenizer=settings), data, tmp_path)
    written = json.loads((tmp_path / "tokenizer" / "run.json").read_text())
    saved = checkpointing.latest(tmp_path / "tokenizer")
    assert saved is not None and saved["meta"]["recipe"]["tokenizer"]["bfloat16"] == (factor < 1)
    assert f'"bfloat16": {str(factor < 1).lower()}' in json.dumps(written)
