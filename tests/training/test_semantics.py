"""Structure against true regions: maps of drawings' shapes, both scores, and the part of the evaluation."""

import json

import numpy as np
import pytest
import torch

import nvg_model
from nvg_model.render import COVERED, from_pil
from training.data.shapes import picture_and_map, read_drawings
from training.errors import TrainingError
from training.evaluate import evaluate
from training.metrics.evaluation import EvaluationSettings
from training.metrics.semantics import best_match, boundary_score, drawings

FACE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<circle cx="16" cy="16" r="12" fill="#fc0"/>'
    '<g fill="#000" opacity="0.5"><rect x="8" y="10" width="6" height="6"/><rect x="18" y="10"'
    ' width="6" height="6"/></g>'
    '<path d="M16 22h9" fill="none" stroke="#f00" stroke-width="2"/></svg>'
)


def test_every_shape_of_a_drawing_is_a_region():
    picture, regions = picture_and_map(FACE, 64)
    assert picture.size == (64, 64) and regions.shape == (64, 64)
    assert set(np.unique(regions)) == {0, 1, 2, 3, 4}, "background, face, two eyes, mouth"
    covered = (regions > 0).mean()
    assert covered == pytest.approx(COVERED, abs=0.01), "as large as the emoji of the data sets"
    unit = 64 * 64 * covered / (np.pi * 12**2)  # pixels of a square of the drawing's
    assert (regions == 2).sum() == pytest.approx(36 * unit, rel=0.15) == pytest.approx((regions == 3).sum(), rel=0.15)
    pixels = ((from_pil(picture, (64, 64))[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert (pixels[regions == 0].mean() > 250) and pixels[regions == 1].mean(0)[2] < 30


def test_drawings_whose_shapes_cannot_be_told_apart_are_left_out():
    clipped = FACE.replace("<circle", '<circle clip-path="url(#a)"')
    repeated = FACE.replace("</svg>", '<use href="#b"/></svg>')
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"></svg>'
    assert [picture_and_map(svg, 16) for svg in (clipped, repeated, empty)] == [None] * 3


def test_drawings_come_from_a_folder_or_an_iconify_package(tmp_path):
    (tmp_path / "face.svg").write_text(FACE)
    assert read_drawings(tmp_path) == {"face": FACE}
    with pytest.raises(TrainingError, match="npm pack"):
        read_drawings(tmp_path / "missing.tgz")
    (tmp_path / "no.tgz").write_text("no archive")
    with pytest.raises(TrainingError, match="is no Iconify package"):
        read_drawings(tmp_path / "no.tgz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"holds no \.svg"):
        read_drawings(tmp_path / "empty")


def test_the_best_match_is_that_of_all_pairs():
    random = np.random.default_rng(0)
    for _ in range(5):
        found, true = random.integers(0, 5, (16, 16)), random.integers(3, 7, (16, 16))
        expected = [
            max(((found == a) & (true == b)).sum() / ((found == a) | (true == b)).sum() for a in np.unique(found))
            for b in np.unique(true)
        ]
        assert best_match(found, true) == pytest.approx(np.mean(expected))
    assert best_match(true, true) == 1
    with_speck = true.copy()
    with_speck[0, 0] = 99
    assert best_match(true, with_speck) > 0.98, "a single pixel is no region that counts"


def test_outlines_within_reach_are_the_same():
    half = np.zeros((64, 64), dtype=np.int64)
    half[:, 32:] = 1
    near, far = np.roll(half, 3, axis=1), np.zeros_like(half)
    near[:, :3] = 0
    far[40:] = 1
    assert boundary_score(half, half) == 1 == boundary_score(near, half)
    assert boundary_score(far, half) < 0.3
    assert boundary_score(np.zeros_like(half), half) == 0


def test_drawings_are_drawn_by_the_seed(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.svg").write_text(FACE.replace("#fc0", f"#fc{index}"))
    first, again = (list(drawings(tmp_path, 16, 3, seed=1)) for _ in range(2))
    other = list(drawings(tmp_path, 16, 3, seed=2))
    assert len(first) == 3 and all(a[0] == b[0] for a, b in zip(first, again, strict=True))
    assert any(a[0] != b[0] for a, b in zip(first, other, strict=True))


def test_the_part_writes_tables_and_a_sheet(tiny_model, tmp_path):
    (tmp_path / "svg").mkdir()
    for index in range(3):
        (tmp_path / "svg" / f"{index}.svg").write_text(FACE.replace("#fc0", f"#{index}c0"))
    checkpoint = nvg_model.save(tiny_model, tmp_path / "tiny.safetensors", {"licence": "none"})
    settings = EvaluationSettings(
        str(checkpoint), "unread", tmp_path / "out", ("semantics",), maps=3,
        drawings=tmp_path / "svg",
    )  # fmt: skip
    report = evaluate(settings)
    overlap, outlines = report.tables.values()
    assert len(overlap) == len(outlines) == 6
    assert list(overlap[0]) == ["regions of", "2", "4", "8", "16"]
    grid = [row for row in overlap if "SLIC" not in row["regions of"]]
    assert len({row["16"] for row in grid}) == 1, "where every position is a region, all ways are one"
    assert all(0 < float(row["2"]) < 1 for row in grid)
    assert (tmp_path / "out" / "semantics.png").exists()
    tables = json.dumps(report.tables)
    torch.rand(7)  # whatever was drawn before: the encoder that is not trained is the seed's
    assert json.dumps(evaluate(settings).tables) == tables
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["tables"]


def test_without_drawings_it_says_what_is_missing(tiny_model, tmp_path):
    checkpoint = nvg_model.save(tiny_model, tmp_path / "tiny.safetensors", {"licence": "none"})
    with pytest.raises(TrainingError, match="--drawings"):
        evaluate(EvaluationSettings(str(checkpoint), "unread", tmp_path / "out", ("semantics",)))
