"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden tensors: $NVG_GOLDEN, else shared/golden beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("NVG_GOLDEN") or default)
    if not folder.is_dir():
        pytest.skip(f"no golden tensors at {folder} (set NVG_GOLDEN to their folder)")
    return folder
