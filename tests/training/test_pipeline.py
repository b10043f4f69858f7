"""The whole pipeline by its commands, as a user runs it: two processes, killed and resumed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import nvg_model
from training import checkpointing

ALONE = [sys.executable, "-m", "training"]
PAIR = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", "-m", "training"]  # fmt: skip


def run(command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "gradient" in line]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke run by one process, with every step in its log."""
    folder = tmp_path_factory.mktemp("alone")
    for command in ("tokenizer", "generator"):
        run(
            [
                *ALONE,
                command,
                "smoke",
                "--data",
                str(data),
                "--folder",
                str(folder),
                "--steps",
                "20",
                "--log-every",
                "1",
            ]
        )
    return folder


@pytest.fixture(scope="module")
def pair(data: Path, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by two processes, which share every batch; the generators on the same tokenizer."""
    folder = tmp_path_factory.mktemp("pair")
    options = ["smoke", "--data", str(data), "--folder", str(folder), "--steps", "20", "--log-every", "1"]
    run([*PAIR, "tokenizer", *options])
    (folder / "tokenizer" / "tokenizer.pt").write_bytes((alone / "tokenizer" / "tokenizer.pt").read_bytes())
    run([*PAIR, "generator", *options])
    return folder


@pytest.mark.parametrize("network", ["tokenizer", "generator"])
def test_two_processes_have_the_loss_curve_of_one(alone: Path, pair: Path, network: str) -> None:
    one, two = losses(alone / network), losses(pair / network)
    assert len(one) == len(two) == 20
    for a, b in zip(one, two, strict=True):
        for name in ("l1", "psnr") if network == "tokenizer" else ("content_mse", "structure_mse", "gradient"):
            assert a[name] == pytest.approx(b[name], rel=2e-3), (a["step"], name)


def test_the_pair_makes_a_checkpoint_that_draws(pair: Path, tmp_path: Path) -> None:
    out = tmp_path / "smoke.safetensors"
    run([*ALONE, "export", "smoke", "--folder", str(pair), "--out", str(out)])
    model = nvg_model.load(out)
    images = model.decode(model.generate(["disc", "ring"], seed=3))
    assert images.shape == (2, 3, 16, 16) and bool(torch.isfinite(images).all())


def test_a_run_killed_at_any_moment_goes_on_to_equal_weights(data: Path, alone: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(alone / "tokenizer")
    command = [*ALONE, "generator", "smoke", "--data", str(data), "--folder", str(tmp_path), "--steps", "20",
               "--save-every", "3", "--log-every", "1"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 200
    while not list((tmp_path / "generator").glob("state-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = checkpointing.latest(tmp_path / "generator")
    assert killed_at is not None and killed_at["step"] < 20
    run(command)
    resumed = torch.load(tmp_path / "generator" / "generator.pt", weights_only=True)
    straight = torch.load(alone / "generator" / "generator.pt", weights_only=True)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_another_number_of_processes_goes_on(data: Path, alone: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(alone / "tokenizer")
    rest = ["generator", "smoke", "--data", str(data), "--folder", str(tmp_path), "--log-every", "1"]
    run([*PAIR, *rest, "--steps", "8", "--decay", "0"])
    run([*ALONE, *rest, "--steps", "12", "--decay", "0"])
    steps = losses(tmp_path / "generator")
    assert [line["step"] for line in steps] == list(range(1, 13))
    for a, b in zip(losses(alone / "generator"), steps, strict=False):
        assert a["content_mse"] == pytest.approx(b["content_mse"], rel=2e-3)


def test_a_batch_that_cannot_be_parted_is_one_sentence(data: Path, tmp_path: Path) -> None:
    done = run(
        [*ALONE, "tokenizer", "smoke", "--data", str(data), "--folder", str(tmp_path), "--accumulate", "4"], False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: a batch of 6 cannot be parted evenly among 4")
