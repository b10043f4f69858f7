"""Fixtures of the model's tests."""

import shlex

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared_sequences import FAST

import nvg_model
from nvg_model.cli import main


@pytest.fixture
def nvg(tiny, tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own, where TINY stands for the model; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        status = main(shlex.split(line.replace("TINY", f"--model {tiny} --steps 2")))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def emoji() -> nvg_model.NVG:
    """The checkpoint that comes with us. Tests must not change it."""
    return nvg_model.load("emoji64")


@pytest.fixture(scope="session", params=["tiny", "emoji64"])
def either(request) -> nvg_model.NVG:
    """The tiny model, then emoji64: what editing promises holds on both."""
    return request.getfixturevalue("tiny_model" if request.param == "tiny" else "emoji")


@pytest.fixture(scope="module")
def whole(tiny_model):
    """One run of two classes, with the default settings but for the steps."""
    return tiny_model.generate(["heart", "boat"], seed=7, settings=FAST)


@pytest.fixture
def rewrite(tiny, tmp_path):
    """Writes the tiny checkpoint again with changed weights or metadata, outside of nvg_model."""

    def write(weights=lambda w: w, **metadata):
        with safe_open(tiny, "pt") as file:
            kept = file.metadata() | metadata
        path = tmp_path / "changed.safetensors"
        save_file(weights(load_file(tiny)), path, {key: value for key, value in kept.items() if value is not None})
        return path

    return write
