"""Naming pictures blind: what a stranger sees in them, who is not told what they should be.

Pictures come in random order and without labels, as a page (one at a time) and as a numbered sheet; which class each is
stands in a file of its own. The names that were given are scored class by class.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

import nvg_model
from nvg_model import render
from training.data.augmentation import stream
from training.data.emoji_words import WORDS
from training.errors import TrainingError
from training.files import replacing
from training.metrics.pictures import read_split, to_images

PAGE, SHEET, KEY, SCORE = "naming.html", "naming.png", "key.json", "score.json"
CELL = 128
"""Pixels that a picture has at least along each side, for people to see something."""
COLUMNS = 8
LEFT_OUT = {"face"}
"""Words of a class's name that do not name it alone."""


@dataclass(frozen=True)
class NamingSettings:
    """What is to be named, or what names were given."""

    out: Path
    """Folder for the page, the sheet, the key and the score."""
    checkpoint: str = ""
    """Whose samples are to be named: what nvg_model.load reads."""
    data: str = ""
    """Instead of a checkpoint: the held-out pictures of a data set, to see how many of the real ones are named."""
    answers: Path | None = None
    """Names to score: the file that the page saves, or any CSV with the columns number and name."""
    choices: bool = False
    """The page suggests the names of the classes. A stranger does not know them: more is named with them."""
    per_class: int = 8
    """Pictures of every class."""
    seed: int = 0
    """Of the samples and of their order."""


def naming(settings: NamingSettings) -> None:
    """Writes the page, or scores the answers. Raises TrainingError."""
    if settings.answers is not None:
        print(score(settings.out, settings.answers))
        return
    if bool(settings.checkpoint) == bool(settings.data):
        raise TrainingError("give a checkpoint or a data set whose pictures are to be named, or --answers to be scored")
    pictures, labels, classes = _held_out(settings) if settings.data else _samples(settings)
    order = torch.randperm(len(pictures), generator=stream(settings.seed, 31)).tolist()
    shown = [pictures[one] for one in order]
    key = {"source": settings.checkpoint or settings.data, "seed": settings.seed, "classes": list(classes)}
    key["pictures"] = [classes[labels[one]] for one in order]
    with replacing(settings.out / KEY) as partial:
        partial.write_text(json.dumps(key, indent=1), encoding="utf-8")
    with replacing(settings.out / SHEET) as partial:
        render.grid(shown, COLUMNS, [str(number + 1) for number in range(len(shown))]).save(partial, format="PNG")
    with replacing(settings.out / PAGE) as partial:
        partial.write_text(page(shown, classes if settings.choices else ()), encoding="utf-8")
    print(
        f"{len(shown)} pictures to name: open {settings.out / PAGE} in a browser, or look at {settings.out / SHEET}; "
        f"then `python -m training naming --out {settings.out} --answers names.csv`"
    )


@torch.inference_mode()
def _samples(settings: NamingSettings) -> tuple[list[Image.Image], list[int], tuple[str, ...]]:
    """Samples of a checkpoint with its own settings, and the class of each."""
    nvg = nvg_model.load(settings.checkpoint)
    if nvg.config.generator is None:
        raise TrainingError(f"{settings.checkpoint} has a tokenizer but no generator; there is nothing to sample")
    labels = [index for index in range(len(nvg.classes)) for _ in range(settings.per_class)]
    pictures: list[Image.Image] = []
    for start in range(0, len(labels), 32):
        sequence = nvg.generate(labels[start : start + 32], settings.seed, first_item=start)
        pictures += _enlarged(render.to_pil(nvg.decode(sequence)))
    return pictures, labels, nvg.classes


def _held_out(settings: NamingSettings) -> tuple[list[Image.Image], list[int], tuple[str, ...]]:
    """At most so many held-out pictures of every class."""
    found = read_split(settings.data, "held-out", (CELL, CELL))
    shuffled = torch.randperm(len(found), generator=stream(settings.seed, 32))
    chosen = [
        one
        for index in range(len(found.classes))
        for one in shuffled[found.labels[shuffled] == index][: settings.per_class].tolist()
    ]
    pictures = render.to_pil(to_images(found.pixels[chosen]))
    return pictures, found.labels[chosen].tolist(), found.classes


def _enlarged(pictures: list[Image.Image]) -> list[Image.Image]:
    """Small ones by a whole factor."""
    factor = -(-CELL // min(pictures[0].size))
    return [render.enlarge(picture, factor) for picture in pictures]


def page(pictures: list[Image.Image], classes: tuple[str, ...]) -> str:
    """A page that stands alone: one picture at a time, a name for each, and a file of names at the end.

    Args:
        classes: names that it suggests.
    """
    sources = []
    for picture in pictures:
        stored = io.BytesIO()
        picture.save(stored, format="PNG")
        sources.append(f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}")
    options = "".join(f'<option value="{html.escape(name)}">' for name in sorted(classes))
    return _PAGE.replace("{{options}}", options).replace("{{pictures}}", json.dumps(sources))


def score(folder: Path, answers: Path) -> str:
    """How many pictures were named, class by class, as a table; written to score.json as well. Raises TrainingError."""
    try:
        key = json.loads((folder / KEY).read_text(encoding="utf-8"))
        classes, truth = key["classes"], key["pictures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder / KEY} is missing or damaged ({error}); make the page in that folder first"
        ) from error
    names = read_answers(answers, len(truth))
    missed = [(names[number], one) for number, one in enumerate(truth) if not is_named(names[number], one)]
    rows = []
    for name in classes:
        count = truth.count(name)
        others = sorted(given or "nothing" for given, one in missed if one == name)
        rows.append({"class": name, "named": count - len(others), "of": count, "otherwise": ", ".join(others)})
    named = len(truth) - len(missed)
    result = {"source": key["source"], "named": named, "of": len(truth), "classes": rows}
    with replacing(folder / SCORE) as partial:
        partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    lines = [f"{one['class']}: {one['named']} of {one['of']}  {one['otherwise']}".rstrip() for one in rows]
    return "\n".join([*lines, f"named: {named} of {len(truth)} ({named / len(truth):.1%})"])


def read_answers(path: Path, count: int) -> list[str]:
    """The name of each of `count` pictures, empty where none was given. Raises TrainingError."""
    names = [""] * count
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                number = int(row["number"])
                if not 1 <= number <= count:
                    raise TrainingError(f"{path} has an answer for picture {number}; there are pictures 1 to {count}")
                names[number - 1] = (row["name"] or "").strip()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error}); it must be a CSV with the columns number and name"
        ) from error
    return names


def is_named(given: str, name: str) -> bool:
    """Whether a class was named: its whole name, or a word that names it, of its own or of those that are known for the
    classes of emoji64; in any case, singular or plural, with an article or without."""

    def singular(word: str) -> str:
        return word.removesuffix("s")

    words = [singular(word) for word in name.casefold().split()]
    answer = [singular(word) for word in given.casefold().split() if word not in ("a", "an", "the")]
    known = set(words) - LEFT_OUT | {singular(word) for word in WORDS.get(name, "").split()}
    return bool(answer) and (answer == words or (len(answer) == 1 and answer[0] in known))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>What is it?</title>
<style>
body { font: 18px sans-serif; max-width: 32rem; margin: 2rem auto; padding: 0 1rem; text-align: center }
img { width: 256px; height: 256px; image-rendering: auto; border: 1px solid #ccc }
input, button { font: inherit; padding: .4rem .6rem; margin: .4rem }
</style>
<h1>What is it?</h1>
<p>Write what you see, or leave it empty. Enter goes on.</p>
<p id="place"></p>
<img id="picture" alt="a picture to name">
<form><label>Name <input id="name" list="names" autocomplete="off" autofocus></label>
<datalist id="names">{{options}}</datalist>
<div><button type="button" id="back">Back</button><button>Next</button>
<button type="button" id="save">Save names.csv</button></div></form>
<script>
const pictures = {{pictures}}, names = pictures.map(() => ""), at = id => document.getElementById(id);
let place = 0;
function show() {
  at("picture").src = pictures[place]; at("name").value = names[place]; at("name").focus();
  at("place").textContent = `Picture ${place + 1} of ${pictures.length}`;
}
function go(step) {
  names[place] = at("name").value.trim();
  if (place + step >= pictures.length) return save();
  place = Math.max(0, place + step); show();
}
function save() {
  names[place] = at("name").value.trim();
  const quoted = text => `"${text.replaceAll('"', '""')}"`;
  const rows = names.map((name, number) => `${number + 1},${quoted(name)}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["number,name", ...rows].join("\\n") + "\\n"], { type: "text/csv" }));
  link.download = "names.csv"; link.click();
}
document.querySelector("form").addEventListener("submit", event => { event.preventDefault(); go(1) });
at("back").addEventListener("click", () => go(-1)); at("save").addEventListener("click", save);
window.addEventListener("beforeunload", event => { if (names.some(name => name)) event.preventDefault() });
show();
</script></html>
"""
