"""Cut-outs and sheets by nodes, and the animations that nvg-run saves."""

import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model import sheets
from nvg_nodes import host, images
from nvg_nodes.standalone import workflow
from nvg_nodes.types import Model


@pytest.fixture(scope="module")
def emoji() -> Model:
    return Model("emoji64", host.current().networks(nvg_model.load("emoji64")))


# ---------------------------------------------------------------------------------------------------------- cut-outs


def test_a_cut_out_is_that_of_the_model(run, emoji):
    picture, sequence, *_ = run("NVGGenerate", model=emoji, class_name="heart", seed=7, settings=None)
    image, mask = run("NVGCutOut", model=emoji, sequence=sequence)
    assert torch.equal(image, images.from_model(emoji.nvg.cut_out(sequence)))
    assert torch.equal(mask, image[..., 3])
    assert float(mask[:, :3, :3].max()) == 0 and float(mask[:, 60:68, 60:68].min()) == 1, "a heart, but no corner"
    _, again = run("NVGCutOut", model=emoji, image=picture, sequence=sequence)
    own = images.from_model(emoji.nvg.cut_out(sequence, emoji.nvg.decode(sequence)))[..., 3]
    assert float((again - own).abs().mean()) < 0.01, "the picture is rounded to 8 bits, and otherwise the same"


def test_pictures_of_any_size_are_cut_out_a_few_at_a_time(run, emoji):
    picture = torch.ones(9, 90, 120, 3)
    picture[:, 30:60, 40:80] = torch.tensor([1.0, 0, 0])
    image, mask = run("NVGCutOut", model=emoji, image=picture)
    assert image.shape == (9, 90, 120, 4) and float(mask[:, :20].max()) == 0 and float(mask[:, 40:50, 50:70].min()) == 1
    assert torch.equal(run("NVGCutOut", model=emoji, image=image)[0], image), "what has opacity keeps it"


# ------------------------------------------------------------------------------------------------------------- sheets


def grey(count, size=8):
    return (torch.arange(count) / 10).view(-1, 1, 1, 1).expand(-1, size, size, 3)


@pytest.mark.parametrize(
    ("count", "given", "columns", "rows"),
    [
        (6, {"columns": 3}, 3, 2),
        (6, {"column_texts": "heart, bird"}, 2, 3),
        (6, {"row_texts": "heart\ncat, black\nboat"}, 2, 3),
        (9, {}, 3, 3),
        (5, {"columns": 2}, 2, 3),
    ],
)
def test_a_sheet_has_a_place_for_every_picture(run, count, given, columns, rows):
    (sheet,) = run("NVGGrid", image=grey(count), **given)
    tiles = [Image.new("RGB", (8, 8), (round(255 * one / 10),) * 3) for one in range(count)]
    tiles += [Image.new("RGB", (8, 8), "white")] * (columns * rows - count)
    texts = {"column_texts": ["heart", "bird"], "row_texts": ["heart", "cat, black", "boat"]}
    above, before = (
        texts[name] if name in given else [""] * n for name, n in (("column_texts", columns), ("row_texts", rows))
    )
    assert torch.equal(sheet, images.from_pil([sheets.labelled(tiles, above, before)]))


def test_before_and_after(run):
    (sheet,) = run("NVGGrid", image=grey(1), after=grey(3, 16))
    to = [Image.fromarray((one * 255).round().byte().numpy()) for one in grey(3, 16)]
    assert torch.equal(sheet, images.from_pil([sheets.compare([Image.new("RGB", (8, 8))], to)]))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"columns": 2, "column_texts": "a,b,c"}, "there are 3 texts for 2 columns; give one for each, or none"),
        ({"row_texts": "a,b,c,d,e,f"}, "there are 6 texts for 4 rows"),
        ({"after": grey(3)}, "image has 4 pictures and after 3; give equally many, or one before"),
    ],
)
def test_sheets_that_cannot_be(run, refuses, given, complaint):
    with refuses(complaint):
        run("NVGGrid", image=grey(4), **given)


# --------------------------------------------------------------------------------------------------------- animations


def test_an_animation_is_saved_with_its_graph(plain, folder, capsys):
    made = {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 2}}
    save = {"images": ["2", 0], "filename_prefix": "moving/x", "fps": 10.0, "lossless": True, "quality": 80}
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "frames.gif"}},
        "2": made,
        "3": {"class_type": "SaveAnimatedWEBP", "inputs": save | {"method": "default"}},
    }
    frames = [Image.new("RGB", (6, 4), (value, 0, 0)) for value in (0, 120, 250)]
    frames[0].save(folder / "input/frames.gif", save_all=True, append_images=frames[1:])
    assert plain(prompt) == 0 and plain(prompt) == 0
    path = folder / "out/moving/x_00002_.webp"
    with Image.open(path) as animation:
        assert animation.n_frames == 3 and animation.size == (12, 8)
        animation.seek(1)
        animation.load()
        assert animation.info["duration"] == 100
    assert workflow.main([str(path), "--list"]) == 0 and "SaveAnimatedWEBP" in capsys.readouterr().out
