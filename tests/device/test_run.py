"""tests/device/run.sh in its tiny mode, on the CPU: as where the packages of the training commands are missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.sh")
ABSENT = ("tyro", "msgspec", "tensorboard", "transformers")


def run(folder, *more):
    """(status, output) of a call whose results go to `folder`/results, and to $OUT."""
    (folder / "absent").mkdir(exist_ok=True)
    for name in ABSENT:
        (folder / "absent" / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    changed = {"PYTHON": sys.executable, "PYTHONPATH": str(folder / "absent"), "OUT": str(folder / "back")}
    command = [RUN, "--tiny", "--device", "cpu", "--out", folder / "results", *more]
    done = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_it_measures_everything_and_goes_on_where_it_stopped(tmp_path):
    status, output = run(tmp_path, "--seconds", "40.1")  # 0.1 s to begin something in: time is short everywhere
    assert status == 3 and "not measured: correctness: frozen numbers of the tiny model" in output, output
    status, output = run(tmp_path, "--seconds", "1800")
    assert status == 0, output
    results = json.loads((tmp_path / "back" / "results.json").read_text())
    assert list(results) == ["correctness", "training", "speed", "emoji64"]
    assert {len(group["cells"]) for group in results.values()} == {8, 1, 4}
    assert all(cell["passed"] for cell in results["correctness"]["cells"].values())
    assert all(cell["images_per_second"] > 0 for cell in results["speed"]["cells"].values())
    assert 0 < results["training"]["cells"]["tiny, bfloat16"]["share_of_peak"] < 1
    assert results["emoji64"]["cells"]["emoji64 from nothing"]["steps"] >= 1
    assert (tmp_path / "back" / "emoji64.png").is_file()
    status, output = run(tmp_path, "--seconds", "1800")
    assert status == 0 and output.count("done before") == 14, output
