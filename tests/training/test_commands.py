"""The training's commands: recipes, help, and one sentence for a mistake."""

from pathlib import Path

import pytest

from training.__main__ import main
from training.data.dataset import open_dataset
from training.errors import TrainingError
from training.recipes import RECIPES


def test_recipes_fit_their_models() -> None:
    for name, one in RECIPES.items():
        assert one.name == name and one.config.generator is not None
        assert len(one.classes) in (0, one.config.generator.num_classes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tokenizer", "nothing"], "there is no recipe 'nothing'; there are emoji64, emoji128, finetune, smoke"),
        (["tokenizer", "smoke", "--data", "/nowhere"], "/nowhere"),
        (["generator", "smoke", "--data", "{data}", "--folder", "{empty}"], "there is no trained tokenizer"),
        (["export", "smoke", "--folder", "{empty}"], "there is no saved generator"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str],
    said: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled = [argument.format(data=data, empty=tmp_path) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["training", *filled])
    assert main() == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error and "Traceback" not in error


@pytest.mark.parametrize("command", ["tokenizer", "cache", "generator", "few-step"])
def test_a_command_explains_itself(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, said in (([], "RECIPE [options]\nrecipes: emoji64"), (["smoke"], "smoke [-h]")):
        monkeypatch.setattr("sys.argv", ["training", command, *arguments, "--help"])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
        assert capsys.readouterr().out.startswith(f"usage: python -m training {command} {said}")


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"broken\.png cannot be read as a picture"):
        open_dataset(tmp_path, (16, 16), split="all")
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "broken.png").unlink()
    with pytest.raises(TrainingError, match="class 'a' has no pictures"):
        open_dataset(tmp_path, (16, 16), split="all")
