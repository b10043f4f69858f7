"""The painter's Python side: what the widget keeps, as a structure and as regions with classes."""

import base64
import io
import json

import pytest
import torch
from PIL import Image, ImageDraw

from nvg_model import NVGError, hierarchy
from nvg_nodes import colours, layout
from nvg_nodes.painting import read_painting

AMBER, BLUE, GREEN = "#e3a23b", "#4a90d9", "#5fa84f"
SIDE = 256
GRIDS = [(4, 4), (8, 4), (8, 8), (16, 16), (1, 8)]


def url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def strokes(box, mode="RGBA") -> str:
    """A map."""
    picture = Image.new(mode, (64, 64))
    ImageDraw.Draw(picture).rectangle(box, fill="white")
    return url(picture)


def coloured(*areas, masks=(None,), legend=None) -> str:
    """A painting of rectangles (colour, class, box), in the order of the legend."""
    picture = Image.new("RGBA", (SIDE, SIDE))
    for colour, _, box in areas:
        ImageDraw.Draw(picture).rectangle(box, fill=colour)
    legend = legend or [{"colour": colour, "class": name} for colour, name, _ in areas]
    return json.dumps({"version": 1, "masks": masks, "colours": {"picture": url(picture), "legend": legend}})


LEFT, RIGHT = (0, 0, 127, 255), (128, 0, 255, 255)
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT = (0, 0, 127, 127), (128, 0, 255, 127), (0, 128, 127, 255)
CORNER, BELOW = (0, 0, 63, 63), (0, 192, 255, 255)


# ------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L"])
def test_a_painting_is_a_mask(run, other_model, mode):
    painting = strokes((0, 0, 31, 63), mode)
    structure, preview, mask, regions = run("NVGPaintStructure", model=other_model, painting=painting)
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    assert torch.equal(mask, left) and len(preview) == 1 and not regions.items
    expected, _ = run("NVGStructureFromMask", model=other_model, mask=left)
    assert torch.equal(structure.labels, expected.labels)


def test_a_painting_has_a_map_per_split(run, other_model):
    maps = [strokes((0, 0, 31, 63)), None, strokes((0, 0, 63, 31))]
    painting = json.dumps({"version": 1, "masks": maps})
    structure, _, mask, _ = run("NVGPaintStructure", model=other_model, painting=painting, stages=5)
    assert structure.stages == 5 and torch.equal(mask[0], mask[1]) and len(mask) == 3


def test_maps_give_the_structure_and_colours_the_regions(run, model):
    painting = coloured((AMBER, "bird", CORNER), masks=[strokes((0, 0, 63, 31))])
    structure, _, mask, regions = run("NVGPaintStructure", model=model, painting=painting)
    expected, *_ = run("NVGPaintStructure", model=model, painting=strokes((0, 0, 63, 31)))
    assert torch.equal(structure.labels, expected.labels) and len(mask) == 1
    assert [one.class_name for one in regions.items] == ["bird"]


# ----------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("stages", [0, 2, 5])
def test_one_colour_is_as_good_as_one_map(run, model, stages):
    box = (10, 30, 120, 140)
    picture = Image.new("RGBA", (SIDE, SIDE))
    ImageDraw.Draw(picture).rectangle(box, fill="white")
    expected, _, mask, _ = run("NVGPaintStructure", model=model, painting=url(picture), stages=stages)
    made, _, area, _ = run("NVGPaintStructure", model=model, painting=coloured((AMBER, "", box)), stages=stages)
    assert torch.equal(made.labels, expected.labels) and torch.equal(area, mask)


@pytest.mark.parametrize("area", ["nested", "half"])
@pytest.mark.parametrize("stages", [0, 3])
def test_a_map_is_as_good_as_a_mask(run, other_model, stages, area):
    box = (0, 0, 31, 31)
    mask = torch.zeros(1, 64, 64)
    mask[..., :32, :32] = 1
    given = {"model": other_model, "stages": stages, "area": area}
    made, *_ = run("NVGPaintStructure", painting=strokes(box), **given)
    expected, _ = run("NVGStructureFromMask", mask=mask, **given)
    assert torch.equal(made.labels, expected.labels)
    assert made.stages == (stages or (3 if area == "nested" else 2))


def test_nested_colours_keep_their_sizes(run, other_model):
    """Two of a sixteenth and one of an eighth, all in the middle of what is free."""
    boxes = [(32, 32, 95, 95), (160, 32, 223, 95), (64, 160, 191, 223)]
    painting = coloured(*zip((AMBER, BLUE, GREEN), ("", "", ""), boxes, strict=True))
    made, _, masks, _ = run("NVGPaintStructure", model=other_model, painting=painting)
    labels, sizes = made.labels[0, -1], [4, 4, 8]
    assert made.stages == 5
    regions = [set(labels[mask[2::4, 2::4].flatten() > 0].tolist()) for mask in masks]
    assert [len(one) for one in regions] == [1, 1, 2] and len(set.union(*regions)) == 4
    assert [int(torch.isin(labels, torch.tensor([*one])).sum()) for one in regions] == sizes
    halved, *_ = run("NVGPaintStructure", model=other_model, painting=painting, area="half")
    labels = halved.labels[0, -1]
    regions = [set(labels[mask[2::4, 2::4].flatten() > 0].tolist()) for mask in masks]
    grown = [int(torch.isin(labels, torch.tensor([*one])).sum()) for one in regions]
    assert grown == [8, 8, 8]  # the smaller ones are twice as large


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_nested_colours_are_a_hierarchy_for_any_areas(count):
    """Of any areas, from the start and after another structure."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        grid = GRIDS[seed % len(GRIDS)]
        scores = torch.nn.functional.interpolate(
            torch.rand(1, count, 3, 3, generator=generator), (SIDE, SIDE), mode="bilinear"
        )[0] * torch.rand(count, 1, 1, generator=generator)
        masks = [(scores.argmax(0) == index).float() for index in range(1, count)]
        if len(scores.argmax(0).unique()) < 2:
            continue
        areas = colours.areas_of(masks, grid)
        start = torch.zeros(1, grid[0] * grid[1], dtype=torch.long)
        made = colours.nest(areas, start, 0)
        hierarchy.check(made[None], start.shape[1])
        further = colours.nest(areas, layout.grow(start[None], [areas.shares[0][None]], 3)[0], 0)
        hierarchy.check(further[None], start.shape[1])


def test_colours_of_equal_areas_are_the_regions(run, other_model):
    painting = coloured((AMBER, "", TOP_LEFT), (BLUE, "", TOP_RIGHT), (GREEN, "", BOTTOM_LEFT))
    structure, _, mask, _ = run("NVGPaintStructure", model=other_model, painting=painting)
    free, amber, blue, green = range(4)  # free first, then in the order of the legend
    expected = torch.tensor([[amber, blue], [green, free]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert structure.stages == 3 and torch.equal(structure.labels[0, -1].view(8, 8), expected)
    assert mask.shape == (3, 32, 32) and torch.equal(mask.sum(0)[16:, 16:], torch.zeros(16, 16))


def test_small_colours_get_regions_of_their_own(run, other_model):
    """Three colours of a sixteenth each: every one is the deepest part of a region that no other colour has."""
    corners = [(0, 0, 63, 63), (192, 0, 255, 63), (0, 192, 63, 255)]
    painting = coloured(*zip((AMBER, BLUE, GREEN), ("", "", ""), corners, strict=True))
    structure, _, mask, _ = run("NVGPaintStructure", model=other_model, painting=painting)
    labels = structure.labels[0, -1].view(8, 8)
    regions = [set(labels[rows, columns].unique().tolist()) for rows, columns in
               ((slice(2), slice(2)), (slice(2), slice(6, 8)), (slice(6, 8), slice(2)))]  # fmt: skip
    assert all(len(one) == 1 for one in regions) and len(set.union(*regions)) == 3


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("splits", [1, 2, 3, 4])
def test_an_opened_structure_comes_back_as_it_was(grid, splits):
    """Regions of any shape, painted as flat colours in the order of their labels, are the structure again."""
    positions = grid[0] * grid[1]
    if 2**splits > positions:
        return
    generator = torch.Generator().manual_seed(splits)
    start = torch.zeros(1, positions, dtype=torch.long)
    for _ in range(5):
        scores = [torch.rand(1, positions, generator=generator) for _ in range(splits)]
        labels = layout.from_order(scores, splits + 1)[0]
        picture = labels[-1].view(grid)
        picture = picture.repeat_interleave(SIDE // grid[0], 0).repeat_interleave(SIDE // grid[1], 1)
        areas = colours.areas_of([(picture == label).float() for label in range(2**splits)], grid)
        assert torch.equal(colours.grow(areas, start, 0), labels)


def test_any_painting_is_a_hierarchy_of_halves(run, other_model):
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        corners = torch.randint(0, 200, (5, 2), generator=generator).tolist()
        sizes = torch.randint(8, 56, (5, 2), generator=generator).tolist()
        names = ["#%02x8040" % (40 * index) for index in range(5)]
        boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
        painting = coloured(*zip(names, [""] * 5, boxes, strict=True))
        structure, *_ = run("NVGPaintStructure", model=other_model, painting=painting)  # checks itself
        assert 2 <= structure.stages <= 7


def test_colours_go_on_from_a_structure(run, model, other_model):
    before, _ = run("NVGStructureShape", model=other_model, shape="gradient", stages=2)
    painting = coloured((AMBER, "", LEFT), (BLUE, "", (128, 0, 255, 63)))
    made, *_ = run("NVGPaintStructure", model=other_model, painting=painting, structure=before)
    assert torch.equal(made.labels[:, :2], before.labels) and made.stages > 2
    with pytest.raises(NVGError, match="has 2 stages already, more than 1"):
        run("NVGPaintStructure", model=other_model, painting=painting, structure=before, stages=1)


# ----------------------------------------------------------------------------------------------------- regions


def test_classes_of_colours_are_regions(run, model):
    painting = coloured((AMBER, "bird", LEFT), (BLUE, "", TOP_RIGHT), (GREEN, " Boat ", (128, 128, 255, 191)))
    *_, regions = run("NVGPaintStructure", model=model, painting=painting)
    assert [one.class_name for one in regions.items] == ["bird", "boat"]
    left, lower = (one.mask for one in regions.items)
    assert left.shape == lower.shape == (1, 16, 16)
    assert left[0, :, :8].min() == 1 and left[0, :, 8:].max() == 0
    assert lower[0, 8:12, 8:].min() == 1 and lower.sum() == 32


def test_no_colour_without_a_class_is_a_region(run, model):
    *_, regions = run("NVGPaintStructure", model=model, painting=coloured((AMBER, "", LEFT)))
    assert regions.items == ()


def test_a_class_may_be_a_number_or_none_at_all(run, model):
    painting = coloured((AMBER, "1", LEFT), (BLUE, "unconditional", RIGHT))
    *_, regions = run("NVGPaintStructure", model=model, painting=painting)
    assert [one.class_name for one in regions.items] == ["bird", None]


WRONG = {
    "class that the model lacks": (coloured((AMBER, "brid", LEFT)), "colour 1 of the painting: .*brid.*bird"),
    "two classes": (
        coloured((AMBER, "bird, boat", LEFT)),
        "colour 1 of the painting: a region has one class, and 'bird, boat' names 2",
    ),
    "class of a colour that is not there": (
        coloured((AMBER, "bird", LEFT), (BLUE, "boat", CORNER), (GREEN, "", (0, 0, 100, 255))),
        "colour 2 of the painting has the class 'boat', but nothing is painted in it; paint it, or empty its class",
    ),
    "colour that the legend lacks": (
        coloured((AMBER, "", LEFT), legend=[{"colour": BLUE, "class": ""}]),
        "the painting has pixels of #e3a23b, which is not in its legend",
    ),
    "one colour everywhere": (coloured((AMBER, "", (0, 0, 255, 255))), "one colour covers everything"),
    "colour twice": (
        coloured((AMBER, "", LEFT), legend=[{"colour": AMBER}, {"colour": AMBER.upper()}]),
        "the legend has a colour twice",
    ),
    "no colour": (coloured((AMBER, "", LEFT), legend=[{"colour": "amber"}]), "'amber' in the legend is no colour"),
    "legend of text": (coloured((AMBER, "", LEFT), legend=["amber"]), "an entry of the legend must have a colour"),
    "colours of text": (
        '{"version": 1, "masks": [null], "colours": "red"}',
        "colours must have a picture and a legend",
    ),
    "no legend": ('{"version": 1, "masks": [null], "colours": {"picture": null}}', "must be a list"),
    "nothing painted": (
        '{"version": 1, "masks": [null], "colours": {"picture": null, "legend": [{"colour": "#e3a23b", '
        '"class": "boat"}]}}',
        "nothing is painted yet",
    ),
    "damaged colours": (
        '{"version": 1, "masks": [null], "colours": {"picture": "data:image/png;base64,AAAA", "legend": []}}',
        "the painting is damaged",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_paintings_say_what_is_wrong(run, model, case):
    painting, words = WRONG[case]
    with pytest.raises(NVGError, match=words) as raised:
        run("NVGPaintStructure", model=model, painting=painting)
    assert "\n" not in str(raised.value)


def test_a_picture_of_another_size_is_read(run, model):
    picture = Image.new("RGBA", (30, 50), (0, 0, 0, 0))
    ImageDraw.Draw(picture).rectangle((0, 0, 29, 24), fill=BLUE)
    legend = [{"colour": BLUE, "class": "boat"}]
    text = json.dumps({"version": 1, "masks": [None], "colours": {"picture": url(picture), "legend": legend}})
    (colour,) = read_painting(text).colours
    assert colour.mask.shape == (50, 30) and colour.mask.mean() == 0.5 and colour.class_name == "boat"
    structure, *_ = run("NVGPaintStructure", model=model, painting=text)
    assert structure.labels[0, -1].tolist() == [1] * 8 + [0] * 8
