"""Training of another decoder on a finished tokenizer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import nvg_model
from nvg_model import preview
from nvg_model.tokenizer import Decoder
from training.data.augmentation import AugmentationSettings, on_colour, stream
from training.data.canvases import DRAWN_STAGES, load_or_make
from training.data.dataset import open_dataset
from training.decoder import train_decoder, with_output
from training.errors import TrainingError
from training.losses.decoder import laid_on
from training.recipes import recipe
from training.recipes.base import DecoderRecipe, Recipe
from training.warm_start import widened

CLASSES = ("disc", "ring", "square")
SMALL = DecoderRecipe(steps=3, batch=8, warmup=1, cached_views=64, gradient_weight=0.5, log_every=1)


@pytest.fixture(scope="module")
def start(tiny_model: nvg_model.NVG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the classes of the data."""
    model = nvg_model.NVG(tiny_model.config, CLASSES, tiny_model.settings)
    model.load_state_dict(tiny_model.state_dict())
    return nvg_model.save(model, tmp_path_factory.mktemp("start") / "start.safetensors")


def with_decoder(start: Path | str = "", **changed: object) -> Recipe:
    decoder = dataclasses.replace(SMALL, **changed)  # type: ignore[arg-type]
    return dataclasses.replace(recipe("smoke"), decoder=decoder, start=str(start))


def test_a_wider_transparent_decoder_for_a_checkpoint(data: Path, start: Path, tmp_path: Path) -> None:
    wider = (12, 24, 24)
    settings = {"output_channels": 4, "output_scale": 2, "decoder_channels": wider, "drawn": 0.5, "generated": 6}
    adversarial = {"discriminator": "patch", "discriminator_layers": 1, "adversarial_start": 1, "ssim_weight": 0.1}
    path = train_decoder(with_decoder(start, cycle_weight=0.1, **settings, **adversarial), data, tmp_path)
    before, after = nvg_model.load(start), nvg_model.load(path)
    autoencoder = after.config.autoencoder
    assert (autoencoder.output_channels, autoencoder.output_scale, autoencoder.decoder_channels) == (4, 2, wider)
    old, new = before.state_dict(), after.state_dict()
    same = [name for name in old if not name.startswith("tokenizer.decoder.")]
    assert all(torch.allclose(old[name], new[name], atol=1e-3, rtol=1e-3) for name in same)  # kept in half precision
    torch.testing.assert_close(preview.fit(after.tokenizer), after.preview_map, rtol=0, atol=2e-6)
    assert after.decode_rgba(after.generate("ring", seed=1)).shape == (1, 4, 32, 32)
    lines = (tmp_path / "decoder" / "log.jsonl").read_text().splitlines()
    last = {"l1", "opacity", "cycle", "adversarial", "adversarial_generated", "discriminator", "gradient_loss"}
    assert last <= set(json.loads(lines[2])) and "adversarial" not in lines[0]
    assert after.provenance["decoder"]["drawn"] == 0.5
    assert after.provenance["commands"][-1] == "python -m training decoder smoke"


def test_a_decoder_for_a_run_without_generators(data: Path, tmp_path: Path) -> None:
    from training.tokenizer import train_tokenizer
    from training.warm_start import use_trained_decoder

    chosen = dataclasses.replace(
        with_decoder(), tokenizer=dataclasses.replace(recipe("smoke").tokenizer, steps=1, batch=4)
    )
    train_tokenizer(chosen, data, tmp_path)
    train_decoder(chosen, data, tmp_path)
    model = nvg_model.NVG(dataclasses.replace(chosen.config, generator=None))
    from training.warm_start import tokenizer_weights

    model.tokenizer.load_state_dict(tokenizer_weights(tmp_path))
    assert use_trained_decoder(model.tokenizer, tmp_path)
    shutil.rmtree(tmp_path / "decoder")  # a finished run would only say so
    with pytest.raises(TrainingError, match="need generators"):
        train_decoder(with_decoder(drawn=0.5), data, tmp_path)
    with pytest.raises(TrainingError, match="the batch is 24"):
        train_decoder(with_decoder(batch=24), data, tmp_path)


def test_an_export_has_the_decoder_that_the_run_trained(data: Path, tmp_path: Path) -> None:
    from training.export import export
    from training.generator import train_generator
    from training.tokenizer import train_tokenizer

    smoke = recipe("smoke")
    chosen = dataclasses.replace(
        with_decoder(output_channels=4, output_scale=2, decoder_channels=(16, 16, 16), drawn=0.5),
        tokenizer=dataclasses.replace(smoke.tokenizer, steps=1, batch=4),
        generator=dataclasses.replace(smoke.generator, steps=1, batch=4, cached_views=8),
    )
    train_tokenizer(chosen, data, tmp_path)
    train_generator(chosen, data, tmp_path)
    plain = nvg_model.load(export(chosen, tmp_path, tmp_path / "plain.safetensors"))
    assert plain.config.output_size == (16, 16)
    train_decoder(chosen, data, tmp_path)
    model = nvg_model.load(export(smoke, tmp_path, tmp_path / "large.safetensors"))
    assert model.config.output_size == (32, 32) and model.config.autoencoder.output_channels == 4
    sequence = model.generate("ring", seed=1)
    assert torch.equal(sequence.tokens, plain.generate("ring", seed=1).tokens)
    assert model.decode_rgba(sequence).shape == (1, 4, 32, 32)


def test_cached_canvases_are_those_of_the_views(data: Path, start: Path, tmp_path: Path) -> None:
    nvg = nvg_model.load(start)
    pictures = open_dataset(data, (16, 16), CLASSES)
    views = AugmentationSettings(shift=0.1, white=0.5)
    path = tmp_path / "canvases.safetensors"
    cache = load_or_make(path, nvg, pictures, views, 128, 3, drawn=True)
    assert cache.canvases.shape == (128, 2, 16, 8) and cache.parts(16) == 8
    canvases, pixels, background, index = cache.part(6, 16)  # the third quarter of the second chunk
    sequence = nvg.tokenize(on_colour(pixels, background))
    torch.testing.assert_close(canvases[:, 0], sequence.canvases[:, -1], atol=2e-3, rtol=1e-3)
    kept = nvg.config.num_stages - DRAWN_STAGES[1]
    again = nvg.generate(
        pictures.labels[index], 3, sequence=sequence, keep_structure=nvg.config.num_stages, keep_content=kept,
        first_item=96,
    )  # fmt: skip
    torch.testing.assert_close(canvases[:, 1], again.canvases[:, -1], atol=2e-3, rtol=1e-3)
    assert not torch.equal(canvases[:, 0], canvases[:, 1])
    made = path.stat().st_mtime_ns
    load_or_make(path, nvg, pictures, views, 128, 3, drawn=True)
    assert path.stat().st_mtime_ns == made
    nvg.tokenizer.decoder.head[2].bias.add_(1)  # another decoder can use them too
    load_or_make(path, nvg, pictures, views, 128, 3, drawn=True)
    assert path.stat().st_mtime_ns == made
    load_or_make(path, nvg, pictures, views, 128, 4, drawn=True)
    assert path.stat().st_mtime_ns != made


@pytest.mark.parametrize(
    "changed", [{}, {"output_scale": 2}, {"decoder_channels": (16, 32, 32)}, {"output_channels": 4}]
)
def test_a_wider_decoder_draws_what_the_smaller_one_did(changed: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = nvg_model.preset("tiny")
    small = Decoder(config.autoencoder)
    other = with_output(config, dataclasses.replace(SMALL, **changed)).autoencoder  # type: ignore[arg-type]
    large = Decoder(other)
    weights = widened(small.state_dict(), large, other.norm_groups)
    assert weights is not None
    large.load_state_dict(weights)
    latent = torch.randn(4, 8, 4, 4, generator=stream(1))
    with torch.no_grad():
        expected, found = small(latent), large(latent)
    found = torch.nn.functional.avg_pool2d(found, other.output_scale)[:, :3]
    assert float((found - expected).abs().mean()) < 0.15 * float(expected.abs().mean())
    if changed != {"decoder_channels": (16, 32, 32)}:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [(4, 8, 8), (16, 16, 16)])  # fewer; no shortcut where the smaller one has one
def test_a_decoder_that_is_no_wider_one_starts_anew(channels: tuple[int, ...]) -> None:
    config = nvg_model.preset("tiny")
    other = with_output(config, dataclasses.replace(SMALL, decoder_channels=channels)).autoencoder
    assert widened(Decoder(config.autoencoder).state_dict(), Decoder(other), other.norm_groups) is None


def test_what_is_transparent_shows_the_background() -> None:
    pixels = torch.rand(2, 4, 3, 3, generator=stream(2))
    pixels[:, :3] *= pixels[:, 3:]
    white, colour = torch.ones(2, 3), torch.rand(2, 3, generator=stream(3))
    output = torch.cat([on_colour(pixels, white), 2 * pixels[:, 3:] - 1], dim=1)
    torch.testing.assert_close(laid_on(output, colour), on_colour(pixels, colour))
