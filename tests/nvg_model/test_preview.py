"""Previews: a linear map from latent to colour, fitted on the decoder, kept in the checkpoint."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

import nvg_model
from nvg_model import CheckpointError, preview


@pytest.fixture(scope="module")
def emoji64() -> nvg_model.NVG:
    return nvg_model.load("emoji64")


def test_previews_show_what_the_decoder_makes(emoji64):
    """18 dB: blurred, but in the right colours; a blank picture of the mean colour has 10."""
    state = torch.get_rng_state()
    *_, last = emoji64.stages(["heart", "fish", "flag"], seed=7)
    small = emoji64.preview(last)
    assert small.shape == (3, 3, *emoji64.config.grid)
    wanted = F.adaptive_avg_pool2d(emoji64.decode(last), emoji64.config.grid)
    blank = wanted.mean((2, 3), keepdim=True)
    error = (small - wanted).square().mean()
    assert 10 * torch.log10(4 / error) > 18 and error < (blank - wanted).square().mean() / 4
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(preview.fit(emoji64.tokenizer), emoji64.preview_map, rtol=0, atol=2e-6)


def test_a_map_costs_no_run_of_the_decoder(tiny, monkeypatch):
    model = nvg_model.load(tiny)
    *_, last = model.stages("heart", seed=1)
    first = model.preview(last)
    monkeypatch.setattr(model.tokenizer, "decode", None)
    assert torch.equal(model.preview(last), first)


def test_drawing_is_linear():
    colours = torch.tensor([[0.5, 0.0, 0.0], [0.0, -0.25, 0.0], [0.0, 0.0, 1.0]])
    canvas = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    drawn = preview.draw(canvas, colours, (1, 2))
    assert drawn[0, :, 0, 0].tolist() == [0.5, 0.0, 1.0] and drawn[0, :, 0, 1].tolist() == [0.0, -0.5, 1.0]


def test_a_checkpoint_keeps_it(tiny, tmp_path):
    model = nvg_model.load(tiny)
    model.preview_map = preview.fit(model.tokenizer)
    again = nvg_model.load(nvg_model.save(model, tmp_path / "with.safetensors"))
    torch.testing.assert_close(again.preview_map, model.preview_map, atol=1e-6, rtol=0)
    assert nvg_model.load(nvg_model.save(again, tmp_path / "again.safetensors")).preview_map is not None
    with safe_open(tmp_path / "with.safetensors", "pt") as file:
        assert len(json.loads(file.metadata()["preview"])) == model.config.autoencoder.latent_channels + 1


@pytest.mark.parametrize("text", ["red", "[[1, 2, 3]]", "[[1], [2, 3]]", '{"a": 1}', "null"])
def test_a_damaged_map_is_one_sentence(tiny, tmp_path, text, refuses):
    model = nvg_model.load(tiny)
    with safe_open(tiny, "pt") as file:
        metadata = file.metadata() | {"preview": text}
    save_file(model.state_dict(), tmp_path / "odd.safetensors", metadata)
    with refuses(r"odd\.safetensors: preview ", CheckpointError):
        nvg_model.load(tmp_path / "odd.safetensors")
