"""Pictures that are named blind."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from training.data.emoji import CLASSES
from training.data.emoji_words import WORDS
from training.errors import TrainingError
from training.naming import KEY, PAGE, SHEET, NamingSettings, is_named, naming, score


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("naming")
    naming(NamingSettings(folder, checkpoint=str(tiny), per_class=3))
    return folder


def answers(folder: Path, names: list[str]) -> Path:
    path = folder / "names.csv"
    path.write_text("number,name\n" + "".join(f'{number + 1},"{name}"\n' for number, name in enumerate(names)))
    return path


def test_the_order_is_random_and_the_page_does_not_tell(made: Path) -> None:
    key = json.loads((made / KEY).read_text())
    assert sorted(key["pictures"]) == ["bird"] * 3 + ["boat"] * 3 + ["heart"] * 3
    assert key["pictures"] != ["heart"] * 3 + ["bird"] * 3 + ["boat"] * 3
    text = (made / PAGE).read_text()
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", text)
    shown = [Image.open(io.BytesIO(base64.b64decode(one))) for one in pictures]
    assert len(shown) == 9 and all(one.size == (128, 128) for one in shown)
    rest = re.sub(r"const pictures = .*\], names", "", text)
    assert not re.findall(r"heart|bird|boat", rest)
    assert Image.open(made / SHEET).width > 8 * 128


def test_the_page_suggests_names_where_that_is_wanted(tiny: Path, tmp_path: Path) -> None:
    naming(NamingSettings(tmp_path, checkpoint=str(tiny), per_class=1, choices=True))
    rest = re.sub(r"const pictures = .*\], names", "", (tmp_path / PAGE).read_text())
    assert re.findall(r"heart|bird|boat", rest) == ["bird", "boat", "heart"]


def test_names_are_scored(made: Path) -> None:
    truth = json.loads((made / KEY).read_text())["pictures"]
    assert "named: 9 of 9 (100.0%)" in score(made, answers(made, truth))
    given = [name.upper() if name != "bird" else "" for name in truth]
    text = score(made, answers(made, given))
    assert "named: 6 of 9 (66.7%)" in text and "bird: 0 of 3  nothing, nothing, nothing" in text
    assert json.loads((made / "score.json").read_text())["named"] == 6


@pytest.mark.parametrize(
    ("given", "name", "right"),
    [
        ("cat", "cat face", True),
        ("Cat Face", "cat face", True),
        ("face", "cat face", False),
        ("fruits", "fruit", True),
        ("animal", "animal face", True),
        ("cat face", "animal face", False),
        ("", "bird", False),
        ("a bird or a fish", "bird", False),
        ("a tree", "plant", True),
        ("Apples", "fruit", True),
        ("bus", "vehicle", True),
        ("glass", "drink", True),
        ("dog", "animal face", True),
        ("dog", "cat face", False),
    ],
)
def test_what_counts_as_named(given: str, name: str, right: bool) -> None:
    assert is_named(given, name) == right


def test_held_out_pictures_can_be_named(data: Path, tmp_path: Path) -> None:
    naming(NamingSettings(tmp_path, data=str(data), per_class=1))
    assert sorted(json.loads((tmp_path / KEY).read_text())["pictures"]) == ["disc", "ring", "square"]


@pytest.mark.parametrize("text", ["", "number,name\nx,y\n", "number,name\n99,bird\n", "name\nbird\n"])
def test_answers_that_cannot_be_read(made: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "names.csv"
    path.write_text(text)
    if not text:  # no answers at all: nothing is named
        assert "named: 0 of 9" in score(made, path)
        return
    with pytest.raises(TrainingError, match=re.escape(str(path))) as caught:
        score(made, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="make the page"):
        score(tmp_path, path)


def test_something_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="give a checkpoint or a data set"):
        naming(NamingSettings(tmp_path))


def test_the_words_are_those_of_the_classes() -> None:
    assert set(WORDS) == set(CLASSES)
    for name, words in WORDS.items():
        for other in set(WORDS) - {name}:
            assert not set(words.split()) & ({*WORDS[other].split(), *other.split()} - {"face"}), (name, other)
