"""Pictures from tensors and back."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model import render


def random_images(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator) / 127.5 - 1


def colours(image: torch.Tensor) -> set[tuple[int, ...]]:
    """Every colour of an image [1,3,H,W], 0 to 255."""
    return {tuple(pixel) for pixel in ((image[0] + 1) * 127.5).round().long().flatten(1).T.tolist()}


@pytest.mark.parametrize("fit", render.FITS)
def test_round_trip_is_exact(fit):
    images = random_images(2, 8, 12)
    pictures = render.to_pil(images)
    assert [picture.size for picture in pictures] == [(12, 8)] * 2
    back = torch.cat([render.from_pil(picture, (8, 12), fit) for picture in pictures])
    assert torch.equal(back, images)


def test_to_pil_clamps():
    assert render.to_pil(torch.full((1, 3, 1, 1), 9.0))[0].getpixel((0, 0)) == (255, 255, 255)
    assert render.to_pil(torch.full((1, 3, 1, 1), -9.0, dtype=torch.bfloat16))[0].getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("images", "says"), [(torch.zeros(3, 8, 8), "shape"), (torch.full((1, 3, 2, 2), torch.nan), "NaN")]
)
def test_to_pil_refuses(images, says):
    with pytest.raises(nvg_model.NVGError, match=says):
        render.to_pil(images)


def test_fits():
    """A red picture with a blue edge on its left and right, twice as wide as high."""
    picture = Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (16, 0, 48, 32))
    red, blue, white = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    assert colours(render.from_pil(picture, (32, 32), "crop")) == {red}
    padded = render.from_pil(picture, (64, 64), "pad")
    assert colours(padded[..., :16, :]) == {white} == colours(padded[..., 48:, :])
    assert colours(padded[..., 16:48, :]) == {red, blue}
    stretched = render.from_pil(picture, (32, 32), "stretch")
    assert colours(stretched[..., :4]) == {blue}
    with pytest.raises(nvg_model.NVGError, match="crop, pad, stretch"):
        render.from_pil(picture, (32, 32), "squeeze")


def test_pad_keeps_a_very_long_picture():
    assert render.from_pil(Image.new("RGB", (3000, 1)), (16, 16), "pad").shape == (1, 3, 16, 16)


def test_exif_orientation(tmp_path):
    """A phone's picture, stored on its side."""
    picture = Image.new("RGB", (8, 4), "white")
    picture.paste("black", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    image = render.from_pil(Image.open(tmp_path / "turned.png"), (8, 4), "stretch")
    assert colours(image[..., :4, :]) == {(0, 0, 0)}
    assert colours(image[..., 4:, :]) == {(255, 255, 255)}


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "F", "LA", "RGBA", "I", "I;16", "I;16B"])
def test_modes(mode):
    image = render.from_pil(Image.new(mode, (8, 8)), (8, 8))
    assert image.shape == (1, 3, 8, 8) and image.dtype == torch.float32


def test_a_mode_without_conversion_is_refused():
    with pytest.raises(nvg_model.NVGError, match="mode La"):
        render.from_pil(Image.new("La", (8, 8)), (8, 8))


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    image = render.from_pil(Image.fromarray(ramp), (4, 4))
    torch.testing.assert_close(image[0, 0].flatten(), torch.linspace(-1, 1, 16), atol=0.01, rtol=0)


def test_transparency_lies_over_white(tmp_path):
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    layer.putpixel((0, 0), (0, 0, 0, 255))
    wanted = {(0, 0, 0), (255, 255, 255)}
    assert colours(render.from_pil(layer, (4, 4))) == wanted
    indexed = Image.new("P", (4, 4), 1)
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.putpixel((0, 0), 0)
    indexed.save(tmp_path / "indexed.png", transparency=1)
    assert colours(render.from_pil(Image.open(tmp_path / "indexed.png"), (4, 4))) == wanted


def test_palette_is_a_hierarchy():
    """Every hue lies between those of its two children, and no two clusters of a stage look the same."""
    for clusters in (1, 2, 4, 8, 16, 32, 64):
        parents, children = render.palette(clusters), render.palette(2 * clusters)
        assert len({tuple(colour) for colour in children.tolist()}) == 2 * clusters
        hues = [[colorsys.rgb_to_hsv(*(colour / 255))[0] for colour in part] for part in (parents, children)]
        for label, hue in enumerate(hues[0]):
            assert hues[1][2 * label] < hue + 0.01 and hue - 0.01 < hues[1][2 * label + 1]


def test_structure_image():
    labels = torch.tensor([0, 1, 3, 2])
    picture = render.structure_image(labels, 4, (2, 2), (8, 16))
    assert picture.size == (16, 8)
    wanted = render.palette(4)[[0, 1, 3, 2]].reshape(2, 2, 3).repeat(4, 0).repeat(8, 1)
    assert np.array_equal(np.asarray(picture), wanted)


def test_filmstrip_shows_every_stage(tiny_model):
    sequence = tiny_model.tokenize(random_images(2, 16, 16))
    strip = render.filmstrip(tiny_model, sequence, 1)
    stages, tile = tiny_model.config.num_stages, 128
    assert strip.width == stages * tile + (stages + 1) * render.MARGIN
    heading = strip.height - 2 * tile - 3 * render.MARGIN
    assert 8 < heading < 24
    for stage in range(stages):
        left, top = render.MARGIN + stage * (tile + render.MARGIN), render.MARGIN + heading
        image = render.enlarge(render.to_pil(tiny_model.decode(sequence.items([1]), stage))[0], 8)
        assert strip.crop((left, top, left + tile, top + tile)).tobytes() == image.tobytes()
        plan = render.structure_image(sequence.structure[1, stage], 2**stage, (4, 4), (tile, tile))
        top += tile + render.MARGIN
        assert strip.crop((left, top, left + tile, top + tile)).tobytes() == plan.tobytes()


def test_grid():
    red, blue = Image.new("RGB", (10, 10), "red"), Image.new("RGB", (20, 10), "blue")
    sheet = render.grid([red, blue, red], 2)
    gap = render.MARGIN
    assert sheet.size == (30 + 3 * gap, 20 + 3 * gap)
    assert sheet.getpixel((gap, gap)) == (255, 0, 0) == sheet.getpixel((gap, 2 * gap + 10))
    assert sheet.getpixel((2 * gap + 10, gap)) == (0, 0, 255)
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    captioned = render.grid([red, blue, red], 2, ["a caption wider than its picture"])
    assert captioned.width > sheet.width and sheet.height < captioned.height < sheet.height + 20
    with pytest.raises(nvg_model.NVGError, match="0 pictures"):
        render.grid([], 2)


def test_transparent_pictures_lie_on_the_white_of_a_sheet():
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    picture.putpixel((0, 0), (0, 0, 255, 0))
    sheet = render.grid([picture, picture], 2)
    found = {sheet.getpixel((x, y)) for x in range(sheet.width) for y in range(sheet.height)}
    assert found == {(255, 255, 255), (255, 127, 127)}
