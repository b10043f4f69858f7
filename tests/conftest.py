"""Fixtures that several test files share.

torch and nvg_model are imported by the fixtures: the process that starts the others and reads no tests does without.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import nvg_model

FRONT_END = re.compile(r"tests/frontend/.*\[(?:classic-|vue-)?([\d.]+)")
LONGEST = (
    "tests/frontend 1.58.1",
    "tests/nvg_model/test_compile.py",
    "tests/device/test_run.py",
    "tests/training/test_pipeline.py",
    "tests/frontend 1.35.9",
    "tests/training/test_few_step.py",
    "tests/training/test_training.py",
    "tests/training/test_run_folder.py",
    "tests/training/test_pulse.py",
    "tests/training/test_recipes.py",
    "tests/training/test_whole.py",
    "tests/training/test_generator.py",
    "tests/device/test_train.py",
    "tests/training/test_guidance.py",
    "tests/training/test_fine_tuning.py",
    "tests/training/test_evaluate.py",
)
"""What takes longest, of the rest what comes late. Processes take files in this order, so that they end together."""


def _scope(nodeid: str) -> str:
    """What one process runs in one piece: a file, or all tests of a version of the front end, which share a page."""
    found = FRONT_END.match(nodeid)
    return f"tests/frontend {found[1]}" if found else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, the others in their order; of a front end the tests with classic nodes before those in Vue."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(_scope(item.nodeid), len(LONGEST)), "[vue-" in item.nodeid))


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers():
    """One process more than `-n auto` takes: one often waits for its browser (0.92 of the time on two cores)."""
    return (yield) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Who of the processes runs what."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return Scheduling(config, log)


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
    import torch

    import nvg_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nvg_model.NVG(nvg_model.preset("tiny"), classes=("heart", "bird", "boat"))
        for generator in (model.content, model.structure):
            generator.initialize()
            for part in generator.modules():
                if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
                    part.weight.data *= 8
        model.tokenizer.quantizer.spread()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny(tiny_model, tmp_path_factory) -> Path:
    """The tiny model as a checkpoint in our format."""
    import nvg_model

    return nvg_model.save(tiny_model, tmp_path_factory.mktemp("tiny") / "tiny.safetensors", {"licence": "none"})


@pytest.fixture(scope="session")
def refuses() -> Callable[[str], AbstractContextManager[None]]:
    """`with refuses("regex"):` expects an NVGError whose message is one line and matches."""
    import nvg_model

    @contextlib.contextmanager
    def expect(match: str, error: type[nvg_model.NVGError] = nvg_model.NVGError):
        with pytest.raises(error, match=match) as caught:
            yield
        message = str(caught.value)
        assert message.strip() and "\n" not in message, f"not one line: {message!r}"

    return expect


@pytest.fixture(scope="session")
def huge_png(tmp_path_factory) -> Path:
    """A whole PNG of 20,000 x 20,000 black pixels, in a file of 50 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 20_000
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side), 1))
    path = tmp_path_factory.mktemp("huge") / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    return path
