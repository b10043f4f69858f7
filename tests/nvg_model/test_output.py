"""Decoders with opacity, larger pictures and channels of their own."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from shared_models import transparent_model

import nvg_model
from nvg_model import render
from nvg_model.cli import main
from nvg_model.tokenizer import from_white, on_white, without_haze

TINY = nvg_model.preset("tiny")


def with_output(**changed: object) -> nvg_model.NVGConfig:
    return dataclasses.replace(TINY, autoencoder=dataclasses.replace(TINY.autoencoder, **changed))


@pytest.fixture(scope="module")
def transparent(tiny_model: nvg_model.NVG) -> nvg_model.NVG:
    return transparent_model(tiny_model, tiny_model.classes, (12, 16, 24))


def test_a_configuration_without_them_is_written_as_before() -> None:
    assert set(TINY.to_dict()["autoencoder"]) == {
        "base_channels", "channel_multipliers", "residual_blocks", "latent_channels", "norm_groups", "codebook_size",
    }  # fmt: skip
    assert nvg_model.NVGConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY


def test_a_configuration_with_them_comes_back(transparent: nvg_model.NVG) -> None:
    config = transparent.config
    assert nvg_model.NVGConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.image_size, config.output_size, config.grid) == ((16, 16), (32, 32), (4, 4))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"output_channels": 2}, "2 channels"),
        ({"output_scale": 0}, "scale 0"),
        ({"decoder_channels": (8, 16)}, "2 levels"),
        ({"decoder_channels": (8, 10, 16)}, "normalised in 4 groups"),
    ],
)
def test_impossible_ones_are_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(nvg_model.NVGError, match=words):
        with_output(**changed)


def test_pictures_are_larger_and_have_opacity(transparent: nvg_model.NVG) -> None:
    sequence = transparent.generate(["heart", "bird"], seed=1)
    images, rgba = transparent.decode(sequence), transparent.decode_rgba(sequence)
    assert images.shape == (2, 3, 32, 32) and rgba.shape == (2, 4, 32, 32)
    assert float(rgba.min()) >= -1 and float(rgba.max()) <= 1
    opaque = rgba[:, 3:].expand(-1, 3, -1, -1) > -0.5
    inside = opaque & (rgba[:, :3].abs() < 1)  # not cut off
    torch.testing.assert_close(on_white(rgba)[inside], images[inside], atol=1e-5, rtol=0)
    strip = render.filmstrip(transparent, sequence)
    assert strip.height > 64


def test_what_is_nearly_clear_is_clear_and_white() -> None:
    colours = torch.tensor([0.9, 0.2, 0.2, 0.2])  # on white
    opacity = torch.tensor([0.05, 0.3, 0.5, 0.97]) * 2 - 1
    made = without_haze(torch.stack([colours, colours, colours, opacity])[None, :, None])[0, :, 0]
    assert made[:, 0].tolist() == [1, 1, 1, -1]
    assert -1 < float(made[3, 1]) < float(opacity[1]) and float(made[3, 2]) == 0 and float(made[3, 3]) == 1
    assert float(made[0, 1]) > 0.25
    torch.testing.assert_close(made[:3, 2:], torch.full((3, 2), 0.2))
    torch.testing.assert_close(on_white(from_white(made[None, :, None]))[0, :, 0, 2:], made[:3, 2:])


def test_a_model_without_opacity_is_opaque(tiny_model: nvg_model.NVG) -> None:
    sequence = tiny_model.generate("heart", seed=1)
    rgba = tiny_model.decode_rgba(sequence)
    assert torch.equal(rgba[:, :3], tiny_model.decode(sequence)) and bool((rgba[:, 3] == 1).all())


def test_colours_leave_white_and_come_back() -> None:
    images = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[:, 3] = images[:, 3].clamp(min=-0.9)
    on = torch.cat([on_white(images), images[:, 3:]], dim=1)
    torch.testing.assert_close(from_white(on), images, atol=1e-4, rtol=0)
    on[0, :, 0, 0] = torch.tensor([1.0, 1.0, 1.0, -1.0])
    assert from_white(on)[0, :, 0, 0].tolist() == [1, 1, 1, -1]


def test_tokenizing_takes_opacity_and_its_own_pictures(transparent: nvg_model.NVG) -> None:
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    opaque = torch.cat([small, torch.ones(1, 1, 16, 16)], dim=1)
    expected = transparent.tokenize(small).tokens
    for images in (large, opaque):
        assert torch.equal(transparent.tokenize(images).tokens, expected)
    unseen = torch.cat([small, -torch.ones(1, 1, 16, 16)], dim=1)
    assert torch.equal(transparent.tokenize(unseen).tokens, transparent.tokenize(torch.ones_like(small)).tokens)
    with pytest.raises(nvg_model.NVGError, match=r"takes \[batch, 3, 16, 16\]"):
        transparent.tokenize(torch.zeros(1, 3, 64, 64))


def test_it_is_saved_and_read(transparent: nvg_model.NVG, tmp_path) -> None:
    path = nvg_model.save(transparent, tmp_path / "with-opacity.safetensors")
    again = nvg_model.load(path)
    sequence = transparent.generate("boat", seed=2)
    assert again.config == transparent.config
    assert torch.equal(again.decode_rgba(sequence), transparent.decode_rgba(sequence))


def test_the_command_line_saves_opacity(transparent: nvg_model.NVG, tmp_path, capsys) -> None:
    path = nvg_model.save(transparent, tmp_path / "with-opacity.safetensors")
    picture, sheet = tmp_path / "one.png", tmp_path / "two.png"
    common = ["generate", "--model", str(path), "--class", "bird", "--seed", "5", "--quiet"]
    assert main([*common, "--out", str(picture)]) == 0
    with Image.open(picture) as image:
        assert (image.size, image.mode) == ((32, 32), "RGBA")
        expected = render.to_pil(nvg_model.load(path).decode_rgba(nvg_model.load(path).generate("bird", seed=5)))[0]
        assert image.tobytes() == expected.tobytes()
    assert main([*common, "--count", "2", "--out", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.mode == "RGB"
    assert main(["tokenize", str(picture), "--model", str(path), "--out", str(tmp_path / "one.safetensors")]) == 0
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert "PSNR" in told and "32 x 32 pixels (height x width), with opacity; encoded at 16 x 16 pixels" in told
