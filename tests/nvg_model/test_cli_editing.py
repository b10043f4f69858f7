"""Regions, inpainting, variations and in-betweens on the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model import Region, render
from nvg_model.cli.pictures import read_pixels

SETTINGS = nvg_model.SamplingSettings(structure_steps=2)


@pytest.fixture
def files(tmp_path):
    """A photo with a transparent corner, one without, and a mask of its left half; all of odd sizes."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), np.uint8)
    noise[..., 3] = 255
    Image.fromarray(noise[..., :3]).save(tmp_path / "photo.png")
    noise[:20, :30, 3] = 0
    Image.fromarray(noise).save(tmp_path / "cut.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    return tmp_path


def array(path):
    with Image.open(path) as image:
        return np.array(image)


def test_regions_equal_the_library(nvg, tiny_model, files):
    assert nvg('generate --class heart --region left.png="bird" --seed 3 TINY')[0] == 0
    mask = torch.zeros(40, 40)
    mask[:, :20] = 1
    drawn = tiny_model.generate("heart", 3, SETTINGS, regions=[Region(mask, "bird")])
    assert np.array_equal(array(files / "heart-3.png"), np.array(render.to_pil(tiny_model.decode(drawn))[0]))
    with Image.open(files / "heart-3.png") as image:
        assert json.loads(image.info["nvg"])["regions"] == [["left.png", "bird"]]


def test_inpainting_keeps_the_pixels_of_the_file(nvg, files):
    assert nvg("inpaint photo.png --mask left.png --class heart --out new.png TINY") == (0, "new.png\n", "")
    old, new = array(files / "photo.png")[:, 10:60], array(files / "new.png")  # the square in the middle
    assert new.shape == (50, 50, 3)
    assert np.array_equal(new[:, 25:], old[:, 25:]) and not np.array_equal(new[:, :25], old[:, :25])


def test_what_is_transparent_is_drawn(nvg, files):
    assert nvg("inpaint cut.png --class heart --fit pad --out new.png TINY")[0] == 0
    old, new = array(files / "cut.png"), array(files / "new.png")
    assert new.shape == (70, 70, 4)
    kept = old[..., 3] == 255
    assert np.array_equal(new[10:60][kept], old[kept]) and (new[10:30, :30, 3] > 0).any()


def test_outpainting(nvg, files):
    assert nvg("inpaint photo.png --place 1 10 0 --class heart --count 2 --compare --out new.png TINY")[0] == 0
    assert array(files / "new.png").shape[1] > 2 * 50


def test_variations(nvg, tiny_model, files):
    assert nvg("generate --class heart --seed 3 --variation 5 0.3 TINY")[0] == 0
    drawn = tiny_model.generate("heart", 3, SETTINGS, variation_seed=5, variation=0.3)
    assert np.array_equal(array(files / "heart-3.png"), np.array(render.to_pil(tiny_model.decode(drawn))[0]))


def test_transparent_pictures_equal_the_library(nvg, tiny_model, files):
    status, out, _ = nvg("generate --class heart --count 2 --seed 3 --transparent TINY")
    assert (status, out) == (0, "heart-3-0.png\nheart-3-1.png\n")
    cut = tiny_model.cut_out(tiny_model.generate(["heart"] * 2, 3, SETTINGS))
    for item, picture in enumerate(render.to_pil(cut)):
        assert np.array_equal(array(files / f"heart-3-{item}.png"), np.array(picture))
    with Image.open(files / "heart-3-1.png") as image:
        recipe = json.loads(image.info["nvg"])
    assert (recipe["classes"], recipe["first_item"]) == (["heart"], 1)


def test_a_picture_is_cut_out_at_its_own_size(nvg, tiny, files):
    assert nvg(f"cutout photo.png --model {tiny}")[:2] == (0, "photo-cutout.png\n")
    assert array(files / "photo-cutout.png").shape == (50, 50, 4)  # the square in the middle
    assert nvg(f"cutout cut.png --model {tiny} --out own.png")[0] == 0
    assert np.array_equal(array(files / "own.png"), array(files / "cut.png")[:, 10:60])  # it has its own opacity


def test_areas_and_seamless_pictures_equal_the_library(nvg, tiny_model, files):
    mask = torch.zeros(40, 40)
    mask[:, :20] = 1
    for option, more, decoding in (
        ("--area left.png", {"area": mask}, {}),
        ("--area left.png --area-rule free", {"area": mask, "area_rule": "free"}, {}),
        ("--seamless", {"seamless": True}, {"seamless": True}),
    ):
        assert nvg(f"generate --class heart --seed 3 {option} TINY")[0] == 0
        wanted = tiny_model.decode(tiny_model.generate("heart", 3, SETTINGS, **more), **decoding)
        assert np.array_equal(array(files / "heart-3.png"), np.array(render.to_pil(wanted)[0]))


def test_inpainting_along_an_area_and_seamless_equals_the_library(nvg, tiny_model, files):
    line = "inpaint cut.png --class heart --area left.png --area-rule half --seamless --seed 2 --out new.png TINY"
    assert nvg(line)[0] == 0
    images = read_pixels(files / "cut.png", (16, 16), "crop")
    area, free = torch.zeros(40, 40), (images[0, 3] < 0).float()
    area[:, :20] = 1
    layout = {"area": area, "area_rule": "half", "seamless": True}
    new = tiny_model.inpaint(images, free, "heart", 2, settings=SETTINGS, **layout)
    assert np.array_equal(array(files / "new.png"), np.array(render.to_pil(new)[0]))
    plain = tiny_model.inpaint(images, free, "heart", 2, settings=SETTINGS)
    assert not torch.equal(new, plain) and torch.equal(new[..., free == 0], plain[..., free == 0])


def test_inpainting_keeps_stages_inside_the_mask(nvg, tiny_model, files):
    assert nvg("inpaint cut.png --class heart --keep-structure 3 --keep-content 4 --seed 2 --out new.png TINY")[0] == 0
    images = read_pixels(files / "cut.png", (16, 16), "crop")
    free, kept = (images[0, 3] < 0).float(), {"keep_structure": 3, "keep_content": 4}
    new = tiny_model.inpaint(images, free, "heart", 2, settings=SETTINGS, **kept)
    assert np.array_equal(array(files / "new.png"), np.array(render.to_pil(new)[0]))
    assert not torch.equal(new, tiny_model.inpaint(images, free, "heart", 2, settings=SETTINGS, keep_structure=3))


@pytest.mark.parametrize("command", ["interpolate --class bird --frames 2", "generate --filmstrip", "generate"])
def test_every_drawing_command_is_seamless(nvg, files, command):
    pictures = []
    for index, option in enumerate(("", "--seamless")):
        assert nvg(f"{command} --class heart {option} --seed 2 --out {index}.png TINY")[0] == 0
        pictures.append(array(files / f"{index}.png"))
    assert pictures[0].shape == pictures[1].shape and not np.array_equal(*pictures)


def test_a_grid_has_a_picture_for_every_pair(nvg, tiny_model, files):
    assert nvg("grid --columns class=heart,bird --rows seed=3,4 TINY")[:2] == (0, "class-seed-0.png\n")
    found = array(files / "class-seed-0.png")
    for row, seed in enumerate((3, 4)):
        for column, name in enumerate(("heart", "bird")):
            picture = render.to_pil(tiny_model.decode(tiny_model.generate(name, seed, SETTINGS)))[0]
            wanted = np.array(render.enlarge(picture, 8))
            bottom, right = (2 - row) * 132, (2 - column) * 132
            tile = found[len(found) - bottom :][:128, found.shape[1] - right :][:, :128]
            assert np.array_equal(tile, wanted)
    with Image.open(files / "class-seed-0.png") as image:
        assert json.loads(image.info["nvg"])["axes"] == {"class": ["heart", "bird"], "seed": [3, 4]}


@pytest.mark.parametrize(
    "axes", ["--columns top_k=1,3 --rows content-guidance='1,1 4'", "--columns variation=0,0.5 --rows seed=1"]
)
def test_grids_of_settings(nvg, files, axes):
    assert nvg(f"grid --class heart {axes} --out grid.png TINY") == (0, "grid.png\n", "")


@pytest.mark.parametrize("out", ["way.webp", "way.gif", "way.png"])
def test_in_betweens(nvg, files, out):
    assert nvg(f"interpolate --class heart --class bird --frames 3 --out {out} TINY") == (0, f"{out}\n", "")
    with Image.open(files / out) as image:
        assert out.endswith("png") or image.n_frames == 4  # there and back


@pytest.mark.parametrize(
    "line, says",
    [
        ("inpaint photo.png --class heart TINY", "photo.png has no transparency; say with --mask or --place"),
        ("inpaint no.png --mask left.png --class heart TINY", "there is no picture no.png"),
        ("inpaint photo.png --mask no.png --class heart TINY", "there is no picture no.png"),
        ("inpaint photo.png --place 0 0 0 --class heart TINY", "scale is 0"),
        ("generate --class heart --region left.png TINY", "'left.png' is no region; write the mask and its class"),
        ("generate --class heart --region left.png=brid TINY", "did you mean bird"),
        ("generate --class heart --region left.png=bird --region left.png=boat TINY", "sum to 2.00"),
        ("generate --class heart --variation 1.5 0 TINY", "the first number is a seed"),
        ("generate --class heart --variation 1 2 TINY", "variation is 2.0; it must lie between 0"),
        ("interpolate --class heart TINY", "1 classes are given; name two"),
        ("interpolate --class heart --class bird --frames 1 TINY", "frames is 1"),
        ("interpolate --class heart --class bird --content soon TINY", "content is 'soon'; it can be blend"),
        ("interpolate --class heart --class bird --out way.bmp TINY", "does not end in .png, .webp or .gif"),
        ("generate --class heart --transparent --filmstrip TINY", "--transparent is for the pictures themselves"),
        ("grid --columns class=heart --rows seed TINY", "'seed' is no axis; write a name and its values"),
        ("grid --columns class=heart --rows colour=1 TINY", "there is no axis 'colour'"),
        ("grid --columns top_k=1 --rows seed=1 TINY", "0 classes are given for one sheet; name one with --class"),
        ("grid --class bird --columns class=heart --rows seed=1 TINY", "the classes are on an axis; leave out --class"),
        ("generate --class heart --area left.png --area-rule best TINY", "area_rule is 'best'; it can be nested"),
        ("cutout no.png", "there is no picture no.png"),
        ("generate --class heart --out way.gif TINY", "does not end in .png"),
    ],
)
def test_wrong_use_is_one_sentence(nvg, files, line, says):
    status, out, error = nvg(line)
    assert status == 2 and not out
    assert says in error and error.count("\n") == 1
