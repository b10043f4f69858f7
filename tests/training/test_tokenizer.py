"""The tokenizer's losses in a training step: phases, the discriminator's turn, and the switches."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model.config import PRESETS
from nvg_model.hierarchy import cluster
from nvg_model.model import NVG
from nvg_model.tokenizer import Tokenizer
from training import checkpointing
from training.data.cache import fingerprint
from training.data.tokenizer_batch import Batch
from training.distributed import World
from training.errors import TrainingError
from training.losses.separation import principal_halves, settled, shared_by_images, strays, subject_sides, within_parts
from training.recipes import recipe
from training.recipes.base import Recipe
from training.tokenizer import finish_decoder, train_tokenizer, training_phases
from training.warm_start import tokenizer_weights, use_trained_decoder


def changed(**settings: object) -> Recipe:
    base = recipe("smoke")
    return dataclasses.replace(base, tokenizer=dataclasses.replace(base.tokenizer, **settings))  # type: ignore[arg-type]


def batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    augmentation = torch.rand(count, 3, 7, generator=generator)
    opacity = torch.rand(count, 16, 16, generator=generator)
    return Batch(images, ("a",) * count, augmentation, torch.rand(count, 3, 3, generator=generator), opacity)


def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(PRESETS["tiny"])


def test_an_adversarial_training_learns_in_turns_and_resumes(data: Path, tmp_path: Path) -> None:
    settings = {"discriminator": "patch", "discriminator_width": 8, "discriminator_layers": 1, "adversarial_start": 3}
    train_tokenizer(changed(**settings, steps=4, save_every=2, log_every=1), data, tmp_path / "a")
    train_tokenizer(changed(**settings, steps=6, save_every=2, log_every=1), data, tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a/tokenizer/log.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if "l1" in line}
    assert "adversarial" not in steps[3] and {"adversarial", "discriminator", "gradient_1"} <= steps[4].keys()
    state = checkpointing.latest(tmp_path / "a/tokenizer")
    assert state is not None and len(state["phases"]) == 2
    assert float(state["phases"][1]["module"]["lecam.real_mean"]) != 0
    assert not any("discriminator" in name for name in state["phases"][0]["module"])


def test_the_autoencoders_turn_leaves_the_discriminator_alone() -> None:
    settings = changed(discriminator="patch", discriminator_width=8, discriminator_layers=1).tokenizer
    first, second = training_phases(tokenizer(), settings, World())
    one = batch()
    loss, values = first.objective(one, 20)
    loss.backward()
    assert "adversarial" in values and all(value.grad is None for value in second.objective.parameters())
    first.objective.zero_grad()
    second.objective(one, 20)[0].backward()
    assert all(value.grad is None for value in first.objective.parameters())
    assert all(value.grad is not None for value in second.objective.parameters())


def test_decoder_only_keeps_encoder_and_codes(data: Path, tmp_path: Path) -> None:
    start = NVG(dataclasses.replace(PRESETS["tiny"], generator=None))
    start.tokenizer.load_state_dict(tokenizer().state_dict())
    nvg_model.save(start, tmp_path / "start.safetensors", dtype=torch.float32)
    chosen = dataclasses.replace(changed(decoder_only=True, steps=3), start=str(tmp_path / "start.safetensors"))
    train_tokenizer(chosen, data, tmp_path)
    before, after = tokenizer().state_dict(), tokenizer_weights(tmp_path)
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder"}


def test_a_decoder_trained_once_more_leaves_the_tokens_as_they_are(data: Path, tmp_path: Path) -> None:
    train_tokenizer(changed(steps=2), data, tmp_path)
    finish = dataclasses.replace(recipe("smoke").decoder, steps=2, batch=4, discriminator_layers=1, warmup=1)
    chosen = dataclasses.replace(changed(), decoder=finish)
    plain = tokenizer()
    plain.load_state_dict(tokenizer_weights(tmp_path))
    assert not use_trained_decoder(plain, tmp_path)
    finish_decoder(chosen, data, tmp_path)
    finished = tokenizer()
    finished.load_state_dict(tokenizer_weights(tmp_path))
    assert use_trained_decoder(finished, tmp_path)
    before, after = plain.state_dict(), finished.state_dict()
    assert {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"decoder"}
    assert fingerprint(plain) == fingerprint(finished)  # so tokens that were cached before still serve
    with torch.no_grad():
        next(plain.quantizer.parameters()).add_(1)
    assert fingerprint(plain) != fingerprint(finished)
    with pytest.raises(TrainingError, match="another tokenizer"):
        use_trained_decoder(plain, tmp_path)


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({"cycle_weight": 0.1}, {"cycle"}),
        ({"separation_weight": 0.2}, {"separation", "strays", "common"}),
        ({"ssim_weight": 0.5}, {"ssim_loss"}),
        ({"gradient_weight": 0.0}, set()),
    ],
)
def test_losses_are_switched_by_their_weights(settings: dict[str, object], logged: set[str]) -> None:
    (phase,) = training_phases(tokenizer(), changed(**settings).tokenizer, World())
    (plain,) = training_phases(tokenizer(), changed().tokenizer, World())
    loss, values = phase.objective(batch(), 20)
    usual = plain.objective(batch(), 20)[1].keys()
    assert values.keys() == (usual | logged) - ({"gradient_loss"} if settings == {"gradient_weight": 0.0} else set())
    loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in phase.objective.parameters() if value.grad is not None)


def test_separation_reaches_the_decoder_through_the_cycle() -> None:
    """With the cycle loss the output, too, is pulled apart along the maps: else only the encoder is."""
    gradients = []
    for cycle_weight in (0.0, 1e-9):
        settings = changed(separation_weight=1e3, cycle_weight=cycle_weight).tokenizer
        (phase,) = training_phases(tokenizer(), settings, World())
        loss, _ = phase.objective(batch(), 20)
        loss.backward()
        gradients.append(max(float(one.grad.abs().max()) for one in phase.objective.tokenizer.decoder.parameters()))
    assert gradients[1] > 10 * gradients[0]


def test_separation_sets_in_late_with_a_fresh_learning_rate() -> None:
    settings = changed(separation_weight=1.0, cycle_weight=1.0, separation_start=30, steps=50, warmup=5).tokenizer
    (phase,) = training_phases(tokenizer(), settings, World())
    assert not {"cycle", "separation"} & phase.objective(batch(), 29)[1].keys()
    assert {"cycle", "separation"} <= phase.objective(batch(), 30)[1].keys()
    rates = [phase.schedule(step) for step in range(50)]
    assert max(rates[29], rates[49]) < 0.02 and rates[5] == rates[35] == 1


def sides_of(halves: torch.Tensor) -> torch.Tensor:
    return torch.where(halves, 1.0, -1.0)


def test_halves_that_lie_apart_are_those_of_the_clustering() -> None:
    generator = torch.Generator().manual_seed(0)
    halves = torch.rand(5, 16, generator=generator).argsort(1) >= 8
    latent = halves[..., None].float() * 5 + 1e-3 * torch.randn(5, 16, 4, generator=generator)
    assert float(within_parts(latent, sides_of(halves)).max()) < 1e-5
    for found in (principal_halves(latent), cluster(latent)[:, 1] == 1):
        same = (found == halves).all(1) | (found != halves).all(1)
        assert bool(same.all())
    noise = torch.randn(64, 16, 4, generator=generator)
    found, other = principal_halves(noise), torch.rand(64, 16, generator=generator).argsort(1) >= 8
    assert found.sum(1).eq(8).all()
    within, by_chance = (within_parts(noise, sides_of(one)) for one in (found, other))
    assert float(within.max()) < float(by_chance.mean()) < 1


def test_a_subject_and_its_edge() -> None:
    opacity = torch.zeros(1, 16, 16)
    opacity[0, :4] = 1  # the first row of a 4x4 grid, half of the second
    opacity[0, 4:6] = 1
    sides = subject_sides(opacity, (4, 4)).view(4, 4)
    assert sides[:, 0].tolist() == [1, 0, -1, -1] and (sides == sides[:, :1]).all()
    latent = sides.flatten()[None, :, None] * torch.tensor([3.0, 4.0])
    latent[0, 4], latent[0, 5] = torch.tensor([0.3, 0.4]), torch.tensor([-0.3, -0.4])  # both at the edge
    found = settled(latent, sides.view(1, -1))[0]
    assert found[4:6].tolist() == [1, -1] and found[:4].eq(1).all() and found[8:].eq(-1).all()


def test_a_picture_without_a_subject_has_finite_losses() -> None:
    latent = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))
    for side in (1.0, -1.0):
        sides = torch.full((2, 16), side)
        assert settled(latent, torch.zeros(2, 16)).abs().eq(1).all()
        assert torch.isfinite(strays(latent, sides)).all() and torch.isfinite(within_parts(latent, sides)).all()


def test_separation_by_the_subject() -> None:
    settings = changed(separation_weight=1.0, separation_by="subject", separation_within=0.5).tokenizer
    (phase,) = training_phases(tokenizer(), settings, World())
    data = batch()
    data.opacity = torch.zeros(4, 16, 16)
    data.opacity[:, :10] = 1
    _, values = phase.objective(data, 20)
    assert "common" not in values  # pictures may well have their subjects in the same place
    latent = phase.objective.tokenizer.encode(data.images)
    sides = settled(latent, subject_sides(data.opacity, phase.objective.tokenizer.grid))
    wanted = float((within_parts(latent, sides) - 0.5).clamp(min=0).mean())
    assert float(values["separation"]) == pytest.approx(wanted, rel=1e-4)
    assert float(values["strays"]) == pytest.approx(float(strays(latent, sides).mean()), rel=1e-4)


def test_separation_by_the_subject_needs_transparency(tmp_path: Path) -> None:
    for split in ("train", "held-out"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(tmp_path / split / "a" / "0.png")
    chosen = changed(separation_weight=1.0, separation_by="subject")
    with pytest.raises(TrainingError, match=r"have no transparency.*--separation-by spread"):
        train_tokenizer(chosen, tmp_path, tmp_path / "run")


def test_strays_are_positions_short_of_their_own_side() -> None:
    sides = sides_of(torch.arange(16) >= 8)
    latent = sides[None, :, None] * torch.tensor([3.0, 4.0])
    assert float(strays(latent, sides[None])) == 0
    latent[0, 15] = 0  # one of 16 is midway: the mean of its side is 7/8, so it is 1/15 of the way to the other
    assert float(strays(latent, sides[None])) == pytest.approx((0.7 + 1 / 15 - 2 / 15) ** 2 / 16, rel=1e-3)


def test_what_all_images_share() -> None:
    generator = torch.Generator().manual_seed(0)
    pattern, noise = torch.randn(1, 16, 4, generator=generator), torch.randn(64, 16, 4, generator=generator)
    assert float(shared_by_images(pattern.expand(64, -1, -1))) == pytest.approx(1, rel=1e-4)
    assert float(shared_by_images(noise)) < 0.05
    assert float(shared_by_images(pattern + noise)) == pytest.approx(0.5, abs=0.1)
