"""The whole pipeline by its commands, as a user runs it: two processes, killed and resumed on the way.

A process takes seconds to start, so the runs are shared, commands that need none of their own run in this one, and one
of the pairs is started by torchrun, the others as it does (shared_forks.py).
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from shared_forks import train, trainings

import nvg_model
from training import checkpointing
from training.__main__ import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0", "-m", "training"]  # fmt: skip


def command(*arguments: object, status: int = 0) -> None:
    """`python -m training ...` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["training", *map(str, arguments)])
        assert main() == status


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "gradient" in line]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke run by one process, with every step in its log."""
    folder = tmp_path_factory.mktemp("alone")
    options = ["smoke", "--data", str(data), "--folder", str(folder), "--steps", "20", "--log-every", "1"]
    command("tokenizer", *options)
    train(["generator", *options], folder / "output")  # in a process as that which is killed, for equal bits
    return folder


@pytest.fixture(scope="module")
def pair(data: Path, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by two processes, which share every batch; the generators on the same tokenizer."""
    folder = tmp_path_factory.mktemp("pair")
    options = ["smoke", "--data", str(data), "--folder", str(folder), "--steps", "20", "--log-every", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, "tokenizer", *options], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    shutil.copy(alone / "tokenizer" / "tokenizer.pt", folder / "tokenizer")
    command("cache", "smoke", "--data", data, "--folder", folder)
    cache = folder / "generator" / "cache.safetensors"
    made = cache.stat().st_mtime_ns
    train(["generator", *options, "--save-every", "16"], folder / "output", count=2)
    assert cache.stat().st_mtime_ns == made, "the training did not take the cache that was made ahead"
    return folder


@pytest.mark.parametrize("network", ["tokenizer", "generator"])
def test_two_processes_have_the_loss_curve_of_one(alone: Path, pair: Path, network: str) -> None:
    one, two = losses(alone / network), losses(pair / network)
    assert len(one) == len(two) == 20
    for a, b in zip(one, two, strict=True):
        for name in ("l1", "psnr") if network == "tokenizer" else ("content_mse", "structure_mse", "gradient"):
            assert a[name] == pytest.approx(b[name], rel=2e-3), (a["step"], name)


@pytest.fixture(scope="module")
def checkpoints(data: Path, pair: Path) -> dict[str, Path]:
    """What the run of the pair ends with: the generators, exported, and their conversion to few steps."""
    command("export", "smoke", "--folder", pair, "--out", pair / "smoke.safetensors")
    command("few-step", "smoke", "--data", data, "--folder", pair, "--steps", 3, "--batch", 6, "--table-images", 6)
    return {"smoke": pair / "smoke.safetensors", "few-step": pair / "few-step" / "few-step.safetensors"}


@pytest.mark.parametrize("name", ["smoke", "few-step"])
def test_the_pair_makes_checkpoints_that_draw(checkpoints: dict[str, Path], name: str) -> None:
    model = nvg_model.load(checkpoints[name])
    assert (model.config.generator.flow, model.classes) == (
        "average" if name == "few-step" else "velocity",
        ("disc", "ring", "square"),
    )
    images = model.decode(model.generate(["disc", "ring"], seed=3))
    assert images.shape == (2, 3, 16, 16) and bool(torch.isfinite(images).all())


def test_the_checkpoint_is_evaluated(checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    parts = ("tokenizer", "distribution", "classifier", "memorisation", "adherence")
    command("evaluate", "--checkpoint", checkpoints["few-step"], "--data", data, "--out", tmp_path, "--per-class", 4,
            "--maps", 2, "--classifiers", tmp_path, "--classifier.steps", 4, "--parts", *parts)  # fmt: skip
    found = json.loads((tmp_path / "evaluation.json").read_text())["measured"]
    assert math.isfinite(found["tokenizer"]["PSNR"]["value"])
    assert found["distribution"]["Frechet distance"]["value"] > 0
    assert 0 <= found["structure adherence"]["held-out maps, agreement"]["value"] <= 1


def test_a_run_killed_at_any_moment_goes_on_to_equal_weights(data: Path, alone: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(alone / "tokenizer")
    arguments = ["generator", "smoke", "--data", data, "--folder", tmp_path, "--steps", 20,
                 "--save-every", 3, "--log-every", 1]  # fmt: skip
    with trainings(arguments, tmp_path / "killed"):
        deadline = time.monotonic() + 200
        while not list((tmp_path / "generator").glob("state-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.05)
    killed_at = checkpointing.latest(tmp_path / "generator")
    assert killed_at is not None and killed_at["step"] < 20
    train(arguments, tmp_path / "resumed")
    resumed = torch.load(tmp_path / "generator" / "generator.pt", weights_only=True)
    straight = torch.load(alone / "generator" / "generator.pt", weights_only=True)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_another_number_of_processes_goes_on(data: Path, alone: Path, pair: Path, tmp_path: Path) -> None:
    """One process goes on from a save of the pair. (Two go on from one below, with shared networks.)"""
    (tmp_path / "tokenizer").symlink_to(alone / "tokenizer")
    (tmp_path / "generator").mkdir()
    for name in ("cache.safetensors", "state-00000016.pt"):
        shutil.copy(pair / "generator" / name, tmp_path / "generator")
    command("generator", "smoke", "--data", data, "--folder", tmp_path, "--steps", 20, "--log-every", 1)
    steps = losses(tmp_path / "generator")
    assert [line["step"] for line in steps] == [17, 18, 19, 20]
    for a, b in zip(losses(alone / "generator")[16:], steps, strict=True):
        assert a["content_mse"] == pytest.approx(b["content_mse"], rel=2e-3)


@pytest.fixture(scope="module")
def sharded(data: Path, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six steps by one process; the last three of them again by two that share the networks (FSDP2)."""
    one, two = tmp_path_factory.mktemp("one") / "generator", tmp_path_factory.mktemp("two") / "generator"
    for folder in (one, two):
        folder.mkdir()
        (folder.parent / "tokenizer").symlink_to(alone / "tokenizer")
        shutil.copy(alone / "generator" / "cache.safetensors", folder)
    rest = ["generator", "smoke", "--data", str(data), "--log-every", "1", "--optimizer", "adamw", "--steps", "6"]
    command(*rest, "--folder", one.parent, "--save-every", 3)
    shutil.copy(one / "state-00000003.pt", two)
    train([*rest, "--folder", two.parent, "--sample-every", 5, "--parallel", "fsdp"], two.parent / "output", count=2)
    return one, two


def test_sharded_networks_go_on_with_the_loss_curve_of_one_process(sharded: tuple[Path, Path]) -> None:
    one, two = (losses(folder) for folder in sharded)
    assert [line["step"] for line in two] == [4, 5, 6]
    for a, b in zip(one[3:], two, strict=True):
        for name in ("content_mse", "structure_mse", "gradient"):
            assert a[name] == pytest.approx(b[name], rel=2e-3), (a["step"], name)


def test_sharded_networks_are_saved_whole(sharded: tuple[Path, Path]) -> None:
    one, two = (checkpointing.read(folder / "state-00000006.pt") for folder in sharded)
    a, b = flat([one["phases"], one["average"]]), flat([two["phases"], two["average"]])
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-2, atol=1e-3), name
    wanted, found = (torch.load(folder / "generator.pt", weights_only=True) for folder in sharded)
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(wanted[name], found[name], rtol=1e-2, atol=1e-3) for name in wanted)


def flat(state: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of nested containers by their path."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: value for key, one in items for name, value in flat(one, f"{prefix}/{key}").items()}


def test_a_batch_that_cannot_be_parted_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("tokenizer", "smoke", "--data", data, "--folder", tmp_path, "--accumulate", 4, status=2)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: a batch of 6 cannot be parted evenly among 4")
