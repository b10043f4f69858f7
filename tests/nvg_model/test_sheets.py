"""Labelled sheets and comparisons."""

import numpy as np
import pytest
import torch
from PIL import Image

from nvg_model import SamplingSettings, sheets
from nvg_model.sheets import Axis, compare, jobs, labelled


def tile(colour, size=(16, 16)):
    return Image.new("RGB", size, colour)


def test_axes_are_read_from_text():
    assert Axis.read("class", "heart, cat face\nbird").values == ("heart", "cat face", "bird")
    assert Axis.read("content guidance", "1 4, 2").values == ((1.0, 4.0), (2.0, 2.0))
    assert Axis.read("gumbel", "on, off").values == (True, False)
    assert Axis.read("top-k", "1,5").captions == ["top k 1", "top k 5"]
    assert Axis.read("content_guidance", "1 4.5").captions == ["content guidance 1 to 4.5"]
    assert Axis.read("variation", "0, 0.25").captions == ["variation 0", "variation 0.25"]
    assert Axis.read("solver", "heun").values == ("heun",)


def test_every_cell_is_what_a_call_for_it_gives(tiny_model):
    settings = SamplingSettings(structure_steps=2)
    columns, rows = Axis("class", ("heart", "bird")), Axis("top_k", (1, 3))
    found = [tiny_model.generate(**job) for job in jobs(tiny_model, columns, rows, seed=4, settings=settings)]
    wanted = [
        tiny_model.generate(name, 4, SamplingSettings(structure_steps=2, top_k=top_k))
        for top_k in (1, 3)
        for name in ("heart", "bird")
    ]
    assert len(found) == 4
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.canvases, other.canvases)


def test_seeds_and_variations(tiny_model):
    columns, rows = Axis("variation", (0.0, 1.0)), Axis("seed", (4, 5))
    found = [tiny_model.generate(**job) for job in jobs(tiny_model, columns, rows, "heart", variation_seed=5)]
    assert torch.equal(found[1].tokens, found[3].tokens) and torch.equal(found[2].tokens, found[3].tokens)
    assert all(job["variation_seed"] == job["seed"] + 1 for job in jobs(tiny_model, columns, rows, "heart"))
    assert torch.equal(found[0].tokens, tiny_model.generate("heart", 4).tokens)


def test_tiles_stand_where_their_texts_say():
    colours = ["red", "green", "blue", "gold", "black", "pink"]
    sheet = labelled([tile(one) for one in colours], ["a", "b", "c"], ["first", "second row of a long name"])
    seen = [
        sheet.getpixel((x, y)) for y in (100, 232) for x in (sheet.width - 330, sheet.width - 200, sheet.width - 70)
    ]
    assert seen == [Image.new("RGB", (1, 1), one).getpixel((0, 0)) for one in colours]
    dark = np.array(sheet.convert("L")) < 128
    assert dark[:20].any() and dark[:, : sheet.width - 3 * 132].any()  # texts above, and to the left


@pytest.mark.parametrize("width", [128, 256, 512])
def test_texts_are_large_and_fit(width):
    text = sheets._text("content guidance 1 to 4.5", width)
    assert text.width <= width and text.height >= width // 7  # several lines of readable size
    assert sheets._text("cat", width).height >= width // 14


def test_compare():
    sheet = compare([tile("red", (8, 8))], [tile("blue"), tile("gold")])
    assert [sheet.getpixel((sheet.width - x, 100))[:3] for x in (200, 70)] == [(255, 0, 0), (0, 0, 255)]
    assert sheet.height > 2 * 128


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Axis.read("colour", "1"), "there is no axis 'colour'; there are class, seed"),
        (lambda: Axis.read("seed", " , "), "the axis seed has no values; give at least one, such as 1, 2, 3"),
        (lambda: Axis.read("seed", "one"), "'one' is no value of the axis seed; write a whole number"),
        (lambda: Axis.read("temperature", "hot"), "'hot' is no value of the axis temperature; write a number"),
        (lambda: Axis.read("top p", "1 x"), "'1 x' is no value of the axis top p; write a number, or two"),
        (lambda: Axis.read("gumbel", "maybe"), "write on or off"),
        (lambda: labelled([tile("red")], ["a", "b"], ["c"]), "1 pictures do not fill 1 rows of 2 columns"),
        (lambda: compare([], [tile("red")]), "0 pictures before and 1 after do not pair"),
    ],
)
def test_wrong_uses(refuses, call, message):
    with refuses(message):
        call()


def test_what_is_wrong_is_said_before_anything_is_drawn(tiny_model, refuses):
    for columns, rows, message in (
        (Axis("class", ("heart", "brid")), Axis("seed", (1,)), "did you mean bird"),
        (Axis("seed", (1,)), Axis("seed", (2,)), "both axes are seed"),
        (Axis("class", ("heart",)), Axis("top_p", ((0.5, 0.5), (2.0, 2.0))), "top_p is"),
    ):
        with refuses(message):
            jobs(tiny_model, columns, rows)
    with refuses("are several classes; a cell has one"):
        jobs(tiny_model, Axis("seed", (1,)), Axis("top_k", (1,)), ["heart", "bird"])
