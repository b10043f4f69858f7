"""Fixtures of the model's tests."""

import shlex

import pytest

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
