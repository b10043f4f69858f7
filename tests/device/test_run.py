"""tests/device/run.sh in its tiny mode, on the CPU: as where the packages of the training commands are missing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nvg_model import NVGError
from nvg_model.compiling import check_compiler

RUN = Path(__file__).with_name("run.sh")
ABSENT = ("tyro", "msgspec", "tensorboard", "transformers")
TINY = ["--tiny", "--device", "cpu", "--out"]


@pytest.fixture
def again(tmp_path, monkeypatch, capsys):
    """Measures every group in this process, as the command does in one each; returns (status, output)."""
    for folder in (RUN.parent, RUN.parents[1] / "nvg_model"):
        monkeypatch.syspath_prepend(folder)
    import measure

    def run(seconds: float) -> tuple[int, str]:
        out = tmp_path / "results"
        out.mkdir(exist_ok=True)
        for group in measure.GROUPS:
            until = str(time.time() + seconds)
            monkeypatch.setattr("sys.argv", ["measure.py", *TINY, str(out), "--group", group, "--until", until])
            assert measure.main() == 0
        measure.hand_over(out)
        status = measure.report(out)
        return status, capsys.readouterr().out

    return run


def compiler_found() -> bool:
    """Whether the cells of compiled networks are measured."""
    try:
        check_compiler(torch.device("cpu"))
    except NVGError:
        return False
    return True


@pytest.mark.slow
def test_it_measures_everything_and_goes_on_where_it_stopped(tmp_path, again):
    compiles = compiler_found()
    status, output = again(0)
    assert status == 3 and "not measured: correctness: frozen numbers of the tiny model" in output, output
    (tmp_path / "absent").mkdir()
    for name in ABSENT:
        (tmp_path / "absent" / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    changed = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "absent"), "OUT": str(tmp_path / "back")}
    command = [RUN, *TINY, tmp_path / "results", "--seconds", "1800"]
    done = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "back" / "results.json").read_text())
    assert list(results) == ["correctness", "training", "speed", "emoji64"]
    assert {len(group["cells"]) for group in results.values()} == {8, 1, 2 + compiles}
    assert all(cell["passed"] for cell in results["correctness"]["cells"].values())
    assert all(cell["images_per_second"] > 0 for cell in results["speed"]["cells"].values())
    assert 0 < results["training"]["cells"]["tiny, bfloat16"]["share_of_peak"] < 1
    assert results["emoji64"]["cells"]["emoji64 from nothing"]["steps"] >= 1
    assert (tmp_path / "back" / "emoji64.png").is_file()
    status, output = again(60)
    assert status == 0 and output.count("done before") == 12 + compiles, output
