"""Workflow files as they come: encodings, pictures that carry one, paths, frames, words in file names."""

import base64
import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shared_graphs import (
    API,
    chain,
    saved_to,
    scale,
)

from nvg_nodes.painting import read_painting
from nvg_nodes.standalone import runner, words, workflow
from nvg_nodes.standalone.core_nodes import Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(plain, folder, encoding):
    content = API | {"2": API["2"] | {"_meta": {"title": "Bilder für Zoë 画像"}}}
    assert plain(json.dumps(content, ensure_ascii=False).encode(encoding)) == 0


def test_text_in_another_encoding_is_a_sentence(plain, capsys):
    assert plain('{"1": "für"}'.encode("cp1252")) == 2
    assert "is not text in UTF-8" in capsys.readouterr().err


def test_a_picture_is_a_workflow(plain, folder, capsys):
    assert plain(chain(scale("4", 1))) == 0
    (folder / "moved").mkdir()
    (folder / "out/x_00001_.png").rename(folder / "moved/picture.png")
    assert workflow.main(["moved/picture.png", "--out", "out", "--quiet"]) == 0
    with Image.open(folder / "out/x_00001_.png") as again, Image.open(folder / "moved/picture.png") as first:
        assert again.info == first.info and (np.array(again) == np.array(first)).all()
    capsys.readouterr()
    assert workflow.main(["input/plain.png"]) == 2
    assert "input/plain.png is a picture without a workflow" in capsys.readouterr().err


def test_pictures_of_other_forms(plain, folder):
    text = PngInfo()
    text.add_itxt("prompt", json.dumps(API))
    Image.new("RGB", (3, 3)).save(folder / "only-prompt.png", pnginfo=text)
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(API)
    Image.new("RGB", (3, 3)).save(folder / "animated.webp", exif=exif)
    for number, name in enumerate(("only-prompt.png", "animated.webp"), 1):
        assert workflow.main([name, "--out", "out", "--quiet"]) == 0
        assert (folder / f"out/x_0000{number}_.png").is_file()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer.*fetch the file"),
        (b"<!DOCTYPE html><html>", "is no workflow: it is a web page"),
        (b"\x89PNG\r\n\x1a\ncut", "is a damaged picture"),
        (b"[" * 100_000, "nested too deeply"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
def test_files_that_are_no_workflow(plain, capsys, content, complaint):
    assert plain(content) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(complaint, said), said


def test_a_picture_with_too_many_pixels(plain, huge_png, capsys):
    loading = API | {"1": {"class_type": "LoadImage", "inputs": {"image": str(huge_png)}}}
    for run in (lambda: plain(loading), lambda: workflow.main([str(huge_png)])):
        assert run() == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "has 400 million pixels, and 179 million is the most" in said, said


def test_a_painting_with_too_many_pixels(huge_png, refuses):
    painting = "data:image/png;base64," + base64.b64encode(huge_png.read_bytes()).decode()
    with refuses("the painting is too large"):
        read_painting(painting)


def test_windows_paths(plain, folder, model):
    Path("models/nvg/deep").mkdir()
    Path("models/nvg/tiny.safetensors").rename("models/nvg/deep/tiny.safetensors")
    content = saved_to("some\\where\\x")
    content["1"] = {"class_type": "LoadImage", "inputs": {"image": "sub\\in.png"}}
    assert plain(content) == 0
    with Image.open(folder / "out/some/where/x_00001_.png") as picture:
        assert picture.size == (5, 3)
    loading = {"class_type": "NVGLoadModel", "inputs": {"checkpoint": "deep\\tiny.safetensors", "dtype": "auto"}}
    show = {"class_type": "NVGStructureShape", "inputs": {"model": ["1", 0]}}
    preview = {"class_type": "NVGStructurePreview", "inputs": {"structure": ["2", 0]}}
    assert plain({"1": loading, "2": show, "3": preview}) == 0


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_every_frame_is_a_picture(folder, suffix):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (20, 10), colour) for colour in colours]
    frames[0].save(folder / f"moving.{suffix}", save_all=True, append_images=frames[1:])
    load_image = type("Load", (runner.KINDS["LoadImage"],), {"files": Files([folder], folder)})
    images, masks = load_image.execute(f"moving.{suffix}").args
    assert images.shape == (3, 10, 20, 3) and masks.shape == (3, 64, 64)
    assert (images[:, 5, 5] * 255 - torch.tensor(colours)).abs().max() < 10


def test_frames_with_transparency(folder):
    frames = [Image.new("RGBA", (20, 10), (250, 0, 0, alpha)) for alpha in (255, 0)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    load_image = type("Load", (runner.KINDS["LoadImage"],), {"files": Files([folder], folder)})
    _, masks = load_image.execute("moving.webp").args
    assert masks.shape == (2, 10, 20) and masks[0].max() == 0 and masks[1].min() == 1


# ------------------------------------------------------------------------------------------------- words in file names


NOW = datetime(2026, 3, 7, 5, 4, 9)
NAMED = [
    words.Named("1", "LoadImage", "Photo", {"image": "sub/in.png"}),
    words.Named("2", "ImageScaleBy", None, {"scale_by": 4.0, "on": True, "none": None}),
    words.Named("3", None, "LoadImage", {"image": "other"}),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%date:yyyy-MM-dd%/a", "2026-03-07/a"),
        ("%date:yy M d h m s%", "26 3 7 5 4 9"),
        ("%date:hhmmss%", "050409"),
        ("%LoadImage.image%", "sub_in.png"),
        ("%Photo.image%_%ImageScaleBy.scale_by%", "sub_in.png_4"),
        ("%ImageScaleBy.on%%ImageScaleBy.none%", "true"),
        ("%Nobody.image%_%LoadImage.nothing%", "%Nobody.image%_%LoadImage.nothing%"),
        ("100%_%width%", "100%_%width%"),
    ],
)
def test_words(text, expected):
    assert words.filled(text, NAMED, NOW) == expected


def test_words_in_a_run(plain, folder):
    now = datetime.now()
    named = chain(scale("4", 1, title="Big"), title="x")
    named["nodes"][2]["widgets_values"] = ["%year%/%Big.scale_by%-%LoadImage.image%-%width%"]
    assert plain(named, "--set", "4.scale_by=3") == 0
    assert (folder / f"out/{now.year}/3-plain.png-18_00001_.png").is_file()
    assert plain(saved_to("%date:yyyy%/%LoadImage.image%")) == 0
    assert (folder / f"out/{now.year}/plain.png_00001_.png").is_file()


@pytest.mark.parametrize("prefix", ["a\0b", "half \ud800", "long" * 100])
def test_prefixes_that_no_file_can_have(plain, capsys, prefix):
    assert plain(saved_to(prefix)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "filename_prefix" in said
