"""Fixtures for the nodes: run here without ComfyUI, with the tiny model, or the embedded one where there is one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import nvg_model
from nvg_nodes import host
from nvg_nodes.standalone import runner, workflow
from nvg_nodes.standalone.graph import inputs_of
from nvg_nodes.types import Model


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, tiny) -> Path:
    """The working directory: empty but for models/nvg with the tiny checkpoint."""
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models" / "nvg"
    models.mkdir(parents=True)
    shutil.copy(tiny, models / "tiny.safetensors")
    return tmp_path


@pytest.fixture
def model(tiny_model) -> Model:
    """The tiny model as it travels between nodes: 16x16 pixels, a grid of 4x4, 5 stages, 3 classes."""
    return Model("tiny", host.current().networks(tiny_model))


@pytest.fixture(scope="session")
def other_model() -> Model:
    """A tokenizer of another size, 8x8 positions, without generators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        small = nvg_model.preset("tiny").autoencoder
        nvg = nvg_model.NVG(nvg_model.NVGConfig(image_size=(32, 32), autoencoder=small, generator=None))
    return Model("other", host.current().networks(nvg.eval().requires_grad_(False)))


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[Any, ...]]:
    """`run("NVGDecode", model=..., ...)` executes a node as the host does: missing values are the schema's defaults."""

    def execute(node_id: str, **inputs: Any) -> tuple[Any, ...]:
        node = runner.KINDS[node_id]
        for name, _, options, _ in inputs_of(node.GET_NODE_INFO_V1()):
            if "default" in options:
                inputs.setdefault(name, options["default"])
        with torch.inference_mode():
            return node.execute(**inputs).args

    return execute


@pytest.fixture
def picture() -> torch.Tensor:
    """IMAGE [2,20,30,3]: two pictures of blobs, of another size than the model's."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 3, 3, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(20, 30), mode="bilinear").permute(0, 2, 3, 1)


@pytest.fixture
def disc() -> torch.Tensor:
    """MASK [1,40,40]: a disc left of the middle with a quarter of the area."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    return (torch.hypot(y - 20, x - 14) < 11.3).float()[None]


@pytest.fixture
def plain(folder):
    """input/plain.png and the workflow file; `start(content, *options)` runs nvg-run."""
    (folder / "input/sub").mkdir(parents=True)
    Image.new("RGB", (6, 4), (200, 100, 50)).save(folder / "input/plain.png")
    Image.new("RGB", (5, 3), (1, 2, 3)).save(folder / "input/sub/in.png")

    def start(content, *options, name="workflow.json"):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(data)
        return workflow.main([name, "--out", "out", "--quiet", *options])

    return start
