"""Fixtures that several test files share."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

import nvg_model


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden tensors: $NVG_GOLDEN, else shared/golden beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("NVG_GOLDEN") or default)
    if not folder.is_dir():
        pytest.skip(f"no golden tensors at {folder} (set NVG_GOLDEN to their folder)")
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> nvg_model.NVG:
    """A tiny model with random weights, large enough that classes and canvases matter. Tests must not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nvg_model.NVG(nvg_model.preset("tiny"), classes=("heart", "bird", "boat"))
        for generator in (model.content, model.structure):
            generator.initialize()
            for part in generator.modules():
                if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
                    part.weight.data *= 8
        torch.nn.init.normal_(model.tokenizer.quantizer.codebook)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny(tiny_model, tmp_path_factory) -> Path:
    """The tiny model as a checkpoint in our format."""
    return nvg_model.save(tiny_model, tmp_path_factory.mktemp("tiny") / "tiny.safetensors", {"licence": "none"})


@pytest.fixture(scope="session")
def refuses() -> Callable[[str], AbstractContextManager[None]]:
    """`with refuses("regex"):` expects an NVGError whose message is one line and matches."""

    @contextlib.contextmanager
    def expect(match: str, error: type[nvg_model.NVGError] = nvg_model.NVGError):
        with pytest.raises(error, match=match) as caught:
            yield
        message = str(caught.value)
        assert message.strip() and "\n" not in message, f"not one line: {message!r}"

    return expect
