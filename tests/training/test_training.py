"""The minimal trainer, for real: tokenizer, cache, both generators, export, resume."""

import dataclasses
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import nvg_model
from training import checkpointing
from training.data.augmentation import (
    stream,
)
from training.distributed import Shard, World
from training.errors import TrainingError
from training.export import export
from training.generator import train_generator
from training.logging import Log
from training.loop import Phase, Task, train
from training.optim import cosine
from training.recipes import recipe
from training.recipes.base import Running
from training.stopping import Interrupted
from training.tokenizer import train_tokenizer

SMOKE = recipe("smoke")
LONGER = dataclasses.replace(
    SMOKE,
    tokenizer=dataclasses.replace(SMOKE.tokenizer, steps=60),
    generator=dataclasses.replace(SMOKE.generator, steps=150, batch=12),
)


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of smoke, long enough that it must learn something of three classes."""
    folder = tmp_path_factory.mktemp("run")
    train_tokenizer(LONGER, data, folder)
    train_generator(LONGER, data, folder)
    return folder


def test_from_pictures_to_checkpoint(run: Path) -> None:
    path = export(LONGER, run, run / "out.safetensors")
    model = nvg_model.load(path)
    assert model.provenance["generator_steps_done"] == LONGER.generator.steps
    images = model.decode(model.generate(["disc", "square"], seed=1))
    assert images.shape == (2, 3, 16, 16) and bool(torch.isfinite(images).all())
    assert float(model.content.canvas_scales[0]) == 1 and bool((model.content.canvas_scales[1:] != 1).all())
    report = json.loads((run / "tokenizer" / "report.json").read_text())
    assert report["pictures"] == 6 and len(report["codes_used_per_stage"]) == 5


def test_the_smoke_losses_fall(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "generator" / "log.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "entropy_0" in line]
    assert "held_out_loss" in lines[-1]
    assert all(rows[-1][f"entropy_{stage}"] < 0.8 * rows[0][f"entropy_{stage}"] for stage in range(5))
    assert rows[-1]["structure_mse"] < 0.9 * rows[0]["structure_mse"]


class _ToyObjective(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ballast", torch.zeros(100_000))  # so that a save takes some room
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value = (self.net(x) - x.flip(1)).square().mean()
        return value, {"loss": value}


class _Toy:
    """A small module with a loss that depends on the step number alone, for the loop's own tests."""

    def __init__(self, folder: Path, **settings: object) -> None:
        torch.manual_seed(3)
        self.folder = folder
        self.objective = _ToyObjective()
        self.optimizer = torch.optim.AdamW(self.objective.parameters(), lr=1e-2)
        self.at: dict[int, object] = {}
        self.step = -1
        self.settings = Running(steps=12, batch=16, save_every=4, log_every=3, ema=0.9, **settings)  # type: ignore[arg-type]

    def draw(self, step: int, share: Shard) -> torch.Tensor:
        self.step, action = step, self.at.get(step)
        if callable(action):
            action()
        x = share.of(torch.randn(16, 4, generator=stream(0, step)))
        return x * (torch.nan if action == "nan" else 1)

    def train(self, **watched: Any) -> dict[str, torch.Tensor]:
        job = Task(
            [Phase(self.objective, [self.optimizer], lambda step: cosine(step, 12, 3))],
            self.draw,
            names=lambda x: [f"{one:.0f}.png" for one in range(len(x))],
            sample=lambda: {"squares": Image.new("RGB", (8, 4), "red")},
            **watched,
        )
        average = train(job, self.settings, self.folder)
        return {**self.objective.state_dict(), **{f"average.{k}": v for k, v in average.state_dict().items()}}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _kill(folder: Path, at: int) -> None:
    """A training that dies when it draws the batch of step `at`."""

    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    broken = _Toy(folder)
    broken.at = {at: die}
    with pytest.raises(Killed):
        broken.train()


def test_a_killed_run_resumes_to_equal_weights(tmp_path: Path) -> None:
    whole = _Toy(tmp_path / "whole").train()
    _kill(tmp_path / "broken", at=10)  # the last save is that of step 8
    assert _same(_Toy(tmp_path / "broken").train(), whole)


@pytest.mark.parametrize("stops_at", [7, 10, 12])
def test_the_log_has_every_step_once_after_a_kill(stops_at: int, tmp_path: Path) -> None:
    """Saves at 4 and 8, lines at 3, 6, 9 and 12: what was logged after the last save is made, and logged, again."""

    def lines(folder: Path) -> list[tuple[int, float]]:
        text = (folder / "log.jsonl").read_text().splitlines()
        return [(line["step"], line["loss"]) for line in map(json.loads, text)]

    _Toy(tmp_path / "whole").train()
    _kill(tmp_path / "broken", at=stops_at - 1)
    with (tmp_path / "broken" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # cut off
    _Toy(tmp_path / "broken").train()
    assert [step for step, _ in lines(tmp_path / "broken")] == [3, 6, 9, 12]
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole"), "means over the steps on both sides of the kill"


@pytest.mark.parametrize("name", ["save_every", "log_every"])
def test_no_step_at_all_between_saves_or_lines_is_refused(name: str, tmp_path: Path) -> None:
    toy = _Toy(tmp_path)
    toy.settings = dataclasses.replace(toy.settings, **{name: 0})
    with pytest.raises(TrainingError, match=f"^--{name.replace('_', '-')} is 0; give 1 or more, in steps$"):
        toy.train()


def test_a_resumed_run_has_the_rates_that_it_is_given(tmp_path: Path) -> None:
    _kill(tmp_path, at=10)
    saved = checkpointing.latest(tmp_path)
    still = _Toy(tmp_path)
    still.optimizer.param_groups[0]["lr"] = 0.0
    still.train()
    assert saved is not None and _same(still.objective.state_dict(), saved["phases"][0]["module"])


def test_sigterm_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = _Toy(tmp_path / "whole").train()
    stopped = _Toy(tmp_path / "stopped")
    stopped.at = {5: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="step 6"):
        stopped.train()
    assert signal.getsignal(signal.SIGTERM) is before
    assert _same(_Toy(tmp_path / "stopped").train(), whole)


def test_a_generator_run_resumes_to_equal_weights(run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    short = dataclasses.replace(SMOKE, generator=dataclasses.replace(SMOKE.generator, steps=5, decay=0.0))
    long = dataclasses.replace(SMOKE, generator=dataclasses.replace(SMOKE.generator, steps=9, decay=0.0))
    train_generator(short, data, tmp_path)
    resumed = torch.load(train_generator(long, data, tmp_path), weights_only=True)
    (tmp_path / "straight").mkdir()
    (tmp_path / "straight" / "tokenizer").symlink_to(run / "tokenizer")
    straight = torch.load(train_generator(long, data, tmp_path / "straight"), weights_only=True)
    assert _same(resumed, straight)


def test_a_nan_loss_stops_with_the_last_save_intact(tmp_path: Path) -> None:
    toy = _Toy(tmp_path)
    toy.at = {6: "nan"}
    with pytest.raises(TrainingError, match=r"nan at step 6 with the files 0\.png, 1\.png.*and 8 more; the last save"):
        toy.train()
    state = checkpointing.latest(tmp_path)
    assert state is not None and state["step"] == 4


def test_what_fails_after_a_nan_is_told_by_the_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses are read at the next line of the log, and by then NaN weights may have broken something else."""
    toy = _Toy(tmp_path)

    def fail() -> None:
        monkeypatch.setattr(toy.optimizer, "step", lambda: torch.linalg.eigh(torch.full((2, 2), torch.nan)))

    toy.at = {6: "nan", 7: fail}
    with pytest.raises(TrainingError, match=r"nan at step 6 with the files 0\.png"):
        toy.train()


def test_nothing_is_read_from_the_device_between_lines_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, reads = _Toy(tmp_path), []
    toy.optimizer = torch.optim.SGD(toy.objective.parameters(), lr=1e-2)  # AdamW reads its count of steps, on the CPU
    for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        method = getattr(torch.Tensor, name)

        def read(value: torch.Tensor, *others: Any, method: Any = method) -> Any:
            reads.append(toy.step)
            return method(value, *others)

        monkeypatch.setattr(torch.Tensor, name, read)
    toy.train()
    assert reads, "the lines of the log are read"
    assert {step for step in reads if (step + 1) % 3 and (step + 1) % 4} <= {-1}  # the start; a line, or a save


def test_a_full_disk_leaves_the_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = _Toy(tmp_path / "whole").train()
    toy = _Toy(tmp_path / "full")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    toy.at = {6: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))}  # half of what a save takes
    try:
        with pytest.raises(
            TrainingError, match=r"00000008\.pt could not be written \(.*File too large\); free some room"
        ):
            toy.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "full").iterdir() if path.suffix != ".jsonl"] == ["state-00000004.pt"]
    assert _same(_Toy(tmp_path / "full").train(), whole)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_save_is_named_and_the_one_before_it_serves(tmp_path: Path, damage: str) -> None:
    whole = _Toy(tmp_path).train()
    newest = tmp_path / "state-00000012.pt"
    content = newest.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + b"?" + content[middle + 1 :]
    newest.write_bytes({"truncated": content[:middle], "changed": changed, "empty": b""}[damage])
    with pytest.raises(TrainingError, match=r"state-00000012\.pt cannot be read \(.+\); remove it") as caught:
        _Toy(tmp_path).train()
    assert "\n" not in str(caught.value)
    newest.unlink()
    assert _same(_Toy(tmp_path).train(), whole)


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which the state is saved."""
    steps: list[int] = []
    save = checkpointing.save

    def note(folder: Path, step: int, state: dict[str, Any]) -> Path:
        steps.append(step)
        return save(folder, step, state)

    monkeypatch.setattr(checkpointing, "save", note)
    return steps


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_the_best_save_is_kept(which: str, saves: list[int], tmp_path: Path) -> None:
    """Saves at 4, 8 and 12; numbers at 3, 6, 9 and 12, of which the one at 6 is the best."""
    sign = 1 if which == "smallest" else -1
    numbers = iter([5.0, 2.0, 3.0, 4.0])
    _Toy(tmp_path, sample_every=3).train(
        validate=lambda: {"other": 0.0, "score": sign * next(numbers)}, best=(which, "score")
    )
    assert saves == [3, 4, 6, 8, 12]
    assert checkpointing.read(tmp_path / "best.pt")["step"] == 6
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 6, "other": 0, "score": sign * 2}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["held_out_score"] * sign for line in lines if "held_out_score" in line] == [5, 2, 3, 4]


def test_the_best_is_a_save_just_made_and_is_known_after_a_stop(saves: list[int], tmp_path: Path) -> None:
    best, numbers = tmp_path / "best.pt", iter([1.0, 2.0])
    toy = _Toy(tmp_path, sample_every=4)
    toy.at = {9: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Interrupted):
        toy.train(validate=lambda: {"loss": next(numbers)})
    assert saves == [4, 8, 10] and not (tmp_path / "state-00000004.pt").exists()
    assert checkpointing.read(best)["step"] == 4
    _Toy(tmp_path, sample_every=4).train(validate=lambda: {"loss": 1.5})
    assert checkpointing.read(best)["step"] == 4
    (tmp_path / "state-00000012.pt").unlink()
    _Toy(tmp_path, sample_every=4).train(validate=lambda: {"loss": 0.5})
    assert saves == [4, 8, 10, 12, 12] and best.samefile(tmp_path / "state-00000012.pt")  # one file of two names


def test_the_best_save_is_kept_where_files_have_no_second_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as on exFAT

    monkeypatch.setattr(os, "link", link)
    numbers = iter([1.0, 2.0, 3.0])
    _Toy(tmp_path, sample_every=4).train(validate=lambda: {"loss": next(numbers)})
    assert checkpointing.read(tmp_path / "best.pt")["step"] == 4


def test_tensorboard_has_the_losses_and_the_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _Toy(tmp_path, track=("tensorboard",)).train()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in losses] == [3, 6, 9, 12]
    assert [value for _, value in losses] == pytest.approx([line["loss"] for line in lines], rel=1e-5)
    (picture,) = events.Images("squares")
    assert (picture.step, picture.width, picture.height) == (12, 8, 4)


def test_a_tracked_run_has_an_id_of_its_own_which_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in folders of the same names must not be drawn in one chart; wandb itself needs an account."""
    starts: list[dict[str, Any]] = []

    class Run:
        def log(self, values: object, step: int) -> None: ...

    def init(**given: Any) -> Run:
        starts.append(given)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda picture: picture))
    folders = [tmp_path / one / "run" / "generator" for one in "ab"]
    for folder in (*folders, folders[0]):
        _Toy(folder, track=("wandb",)).train()
    first, second, again = (start["id"] for start in starts)
    assert first == again != second and {start["name"] for start in starts} == {"run-generator"}


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_tracker_is_one_sentence(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(TrainingError, match=f"^--track {name} needs the package {name}, .* or leave it out$"):
        _Toy(tmp_path, track=(name,)).train()


def test_samples_do_not_count_as_training_time(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, World())
    with log.paused():
        time.sleep(0.5)
    log.write(1, batch=100)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["images_per_second"] > 250  # 200 and less if the half second counted


def test_saves_keep_the_latest_two_and_leave_no_partial(tmp_path: Path) -> None:
    (tmp_path / ".state-00000001.pt.123.partial").write_bytes(b"of a process that was killed")
    for step in (1, 2, 3):
        checkpointing.save(tmp_path, step, {"x": torch.ones(1) * step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000002.pt", "state-00000003.pt"]
