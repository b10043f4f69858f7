"""What the README says of emoji64 is what its card says, and both are of the checkpoint that is embedded."""

import dataclasses
import re
from pathlib import Path

import nvg_model
from training.decoder import with_output
from training.recipes import recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = (ROOT / "docs" / "emoji64.md").read_text(encoding="utf-8")


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def test_the_numbers_of_the_readme_are_those_of_the_evaluation() -> None:
    table = README[README.index("| emoji64 | | command |") :].partition("\n\n")[0]
    said = set().union(*(numbers(value) for value in re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE)))
    evaluation = CARD[CARD.index("| tokenizer | value") : CARD.index("In words: layouts")]
    assert len(said) > 10 and said - numbers(evaluation) == set()


def test_the_commands_of_the_readme_are_those_of_the_card() -> None:
    start = "pip install -e '.[train"
    commands = [text[text.index(start) :].partition("\n```")[0] for text in (README, CARD)]
    assert commands[0] == commands[1]


def test_the_embedded_checkpoint_is_the_recipes() -> None:
    made, nvg = recipe("emoji64"), nvg_model.load("emoji64")
    config = with_output(made.config, made.decoder)
    guided = dataclasses.replace(config.generator, largest_content_guidance=made.guidance.largest_guidance)
    config = dataclasses.replace(config, generator=guided)
    assert (nvg.config, nvg.classes, nvg.settings) == (config, made.classes, made.sampling)
    listed = CARD[CARD.index("The classes: ") + 13 :].partition(".")[0]
    assert tuple(" ".join(listed.split()).split(", ")) == made.classes
