"""`python -m training all`: stopped by its time limit, gone on with, finished; what a request to stop does where."""

import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from shared_forks import train as training_processes
from torch import nn

import nvg_model
from nvg_model import render
from training.__main__ import main
from training.distributed import World
from training.errors import TrainingError
from training.loop import Phase, Task, train
from training.optim import adamw
from training.recipes.base import Running
from training.stopping import Clock, Interrupted, check

RECIPE = """
from dataclasses import replace
from training.recipes.base import DecoderRecipe, GuidanceRecipe
from training.recipes.smoke import SMOKE
RECIPE = replace(
    SMOKE,
    name="whole",
    tokenizer=replace(SMOKE.tokenizer, steps=2),
    generator=replace(SMOKE.generator, steps={steps}),
    guidance=GuidanceRecipe(steps=2, batch=8),
    decoder=DecoderRecipe(steps=2, batch=8, cached_views=64, drawn=0.5, output_channels=4, output_scale=2),
)
"""
LONG, SHORT = 1_000_000, 2


@pytest.fixture
def larger(data: Path, tmp_path: Path) -> Path:
    """The test data at twice the size."""
    for path in data.rglob("*.png"):
        there = tmp_path / "larger" / path.relative_to(data)
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32)).save(there)
    return tmp_path / "larger"


def arguments(folder: Path, data: Path, larger: Path, steps: int, *more: str) -> list[str]:
    """Of a call with a generator of so many steps."""
    file = folder / "whole.py"
    file.write_text(RECIPE.format(steps=steps))
    given = {
        "--data": data,
        "--decoder-data": larger,
        "--folder": folder / "run",
        "--out": folder / "whole.safetensors",
    }
    return ["all", str(file), *(str(one) for pair in given.items() for one in pair), *more]


def test_it_stops_in_time_and_goes_on_to_a_checkpoint(
    data: Path, larger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*given: object) -> str:
        monkeypatch.setattr("sys.argv", ["training", *arguments(tmp_path, data, larger, *given)])  # type: ignore[arg-type]
        assert main() == 0
        return capsys.readouterr().out

    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    last = call(LONG, "--minutes", "0.02").splitlines()[-1]
    assert last.startswith("the limit of 0.02 minutes is over: stopped"), last
    assert "the same command goes on from there" in last
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not (tmp_path / "whole.safetensors").exists()
    call(SHORT)
    model = nvg_model.load(str(tmp_path / "whole.safetensors"))
    picture = render.to_pil(model.decode_rgba(model.generate(["disc"], 1)))[0]
    assert (picture.size, picture.mode) == ((32, 32), "RGBA")
    assert model.content.largest_guidance == 6
    again = call(SHORT)
    for part in ("tokenizer", "generator", "guidance", "decoder"):
        assert f"{part}: finished at step" in again, again


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(data: Path, larger: Path, tmp_path: Path) -> None:
    for steps, more, said in ((LONG, ("--minutes", "0.05"), "is over: stopped"), (SHORT, (), "MiB; generators")):
        output = training_processes(arguments(tmp_path, data, larger, steps, *more), tmp_path / str(steps), count=2)
        assert output.count(said) == 1, output
    assert nvg_model.load(str(tmp_path / "whole.safetensors")).config.autoencoder.output_channels == 4


def test_a_request_outside_of_the_steps_stops_at_the_next_good_place() -> None:
    check()
    with pytest.raises(Interrupted, match="the same command goes on"), Clock(0, World()):
        check()
        signal.raise_signal(signal.SIGTERM)
        check()
    check()


def test_ctrl_c_twice_does_not_wait_for_a_good_place() -> None:
    with pytest.raises(KeyboardInterrupt), Clock(0, World()):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_one_of_several_goes_on_to_its_next_step_when_the_time_is_over() -> None:
    with Clock(0, World(1, 2)) as clock:
        clock.over = True
        signal.raise_signal(signal.SIGTERM)
        check()


def test_a_request_in_the_last_step_of_a_part_stops_what_comes_after(tmp_path: Path) -> None:
    class Square(nn.Linear):
        def forward(self, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # type: ignore[override]
            return super().forward(batch).square().mean(), {}

    def ask() -> dict[str, Image.Image]:
        signal.raise_signal(signal.SIGTERM)
        return {}

    module = Square(1, 1)
    phase = Phase(module, [adamw([{"params": module.parameters(), "weight_decay": 0.0}], 1e-3)], lambda _: 1.0)
    task = Task([phase], lambda step, shard: torch.ones(1, 1), names=lambda _: (), sample=ask)
    with Clock(0, World()) as clock:
        train(task, Running(steps=1, batch=1), tmp_path)
        with pytest.raises(Interrupted):
            clock.check()
    assert (tmp_path / "state-00000001.pt").is_file()


@pytest.mark.parametrize("minutes", [-1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(minutes: float) -> None:
    with pytest.raises(TrainingError, match="time limit"):
        Clock(minutes, World())
