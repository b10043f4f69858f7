"""Sample sheets show something even where the model's pictures are tiny."""

from pathlib import Path

import numpy as np
from PIL import Image

import nvg_model
from nvg_model import render
from nvg_model.sampling import SamplingSettings
from training.data.dataset import open_dataset
from training.samples import reconstruction_sheet, sample_sheets

MARGIN = render.MARGIN


def squares(sheet: Image.Image, left: int, top: int) -> np.ndarray:
    """A cell of 64 pixels as 16x16 squares of 4: [16,4,16,4,3]."""
    return np.asarray(sheet)[top : top + 64, left : left + 64].reshape(16, 4, 16, 4, 3)


def test_small_pictures_are_enlarged_by_whole_factors(tiny_model: nvg_model.NVG, data: Path) -> None:
    pictures = open_dataset(data, (16, 16), split="held-out")
    sheet = reconstruction_sheet(tiny_model.tokenizer, pictures, count=2)
    assert sheet.size == (MARGIN + 6 * (64 + MARGIN), MARGIN + 2 * (64 + MARGIN))  # the picture and five stages
    cell = squares(sheet, MARGIN, MARGIN)
    assert (cell == cell[:, :1, :, :1]).all() and cell.std() > 0


def test_the_sheets_name_their_classes(tiny_model: nvg_model.NVG) -> None:
    named = nvg_model.NVG(tiny_model.config, ("disc", "ring", "square"))
    named.load_state_dict(tiny_model.state_dict())
    settings = SamplingSettings(structure_steps=2)
    sheets = sample_sheets(named, settings, each=2)
    assert sheets["classes"].width == MARGIN + 2 * (64 + MARGIN)
    strip = np.asarray(render.filmstrip(named, named.generate(["disc"], seed=7, settings=settings)))
    stages = np.asarray(sheets["stages"])
    heading, body = np.split(stages, [len(stages) - len(strip) - MARGIN])
    assert (heading < 128).any()  # the class, in black
    assert np.array_equal(body[:-MARGIN, MARGIN:-MARGIN], strip)
