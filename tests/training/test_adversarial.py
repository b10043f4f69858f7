"""Adversarial losses by hand, LeCam, and all discriminators."""

import math
from pathlib import Path

import pytest
import torch
from shared_forks import finish, forked
from shared_images import pictures, small_vit
from torch import nn

from training.efficientnet_lite import load_lite
from training.errors import TrainingError
from training.losses.adversarial import (
    LeCam,
    frozen,
    hinge_discriminator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from training.losses.dino import DinoFeatures
from training.losses.discriminators import DinoDiscriminator, LiteDiscriminator, PatchDiscriminator

# The adversarial game


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (0.5 / 2 + 1 / 2))
    minus_log_sigmoid = [math.log1p(math.exp(-value)) for value in (2.0, 0.5, -2.0, 0.0)]
    assert non_saturating_generator(fake).item() == pytest.approx(sum(minus_log_sigmoid[2:]) / 2)
    expected = 0.5 * (sum(minus_log_sigmoid[:2]) / 2 + (math.log1p(math.exp(-2)) + math.log(2)) / 2)
    assert non_saturating_discriminator(real, fake).item() == pytest.approx(expected)


@pytest.mark.parametrize("discriminator", [hinge_discriminator, non_saturating_discriminator])
def test_the_two_sides_pull_apart(discriminator) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    pull = torch.autograd.grad(non_saturating_generator(fake), fake)[0]
    up, down = torch.autograd.grad(discriminator(real, fake), (real, fake))
    assert (pull < 0).all() and (up < 0).all() and (down > 0).all()
    torch.testing.assert_close(up, -down)


def test_half_precision_logits_are_averaged_in_full() -> None:
    logits = torch.full((1000,), 0.3, dtype=torch.bfloat16)
    for loss in (non_saturating_generator(logits), hinge_discriminator(logits, logits), LeCam()(logits, logits)):
        assert loss.dtype == torch.float32


def test_lecam_after_two_updates() -> None:
    lecam = LeCam(decay=0.9)
    lecam.update(torch.tensor([0.5, 1.5]), torch.tensor([-1.0, -1.0]))
    lecam.update(torch.tensor([3.0]), torch.tensor([0.0]))
    assert lecam.real_mean.item() == pytest.approx(0.9 * 0.1 * 1 + 0.1 * 3)
    assert lecam.fake_mean.item() == pytest.approx(0.9 * 0.1 * -1)
    real, fake = torch.tensor([1.0, -5.0], requires_grad=True), torch.tensor([0.0, 7.0], requires_grad=True)
    loss = lecam(real, fake)
    assert loss.item() == pytest.approx((1 + 0.09) ** 2 / 2 + 0.39**2 / 2)
    gradients = torch.autograd.grad(loss, (real, fake))
    torch.testing.assert_close(gradients[0], torch.tensor([1.09, 0.0]))
    torch.testing.assert_close(gradients[1], torch.tensor([-0.39, 0.0]))
    resumed = LeCam(decay=0.9)
    resumed.load_state_dict(lecam.state_dict())
    assert torch.equal(resumed(real, fake), loss)


LECAM_PROCESS = """
import os, torch, torch.distributed as dist
from training.distributed import World
from training.losses.adversarial import LeCam
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
lecam = LeCam(decay=0.5, world=World(rank, 2))
lecam.update(torch.tensor([1.0, 4.0])[rank:rank + 1], torch.tensor([-2.0, 1.0])[rank:rank + 1])
assert abs(lecam.real_mean.item() - 1.25) < 1e-6 and abs(lecam.fake_mean.item() + 0.25) < 1e-6, lecam.state_dict()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_lecam_averages_over_processes(tmp_path: Path) -> None:
    with forked(LECAM_PROCESS, (), tmp_path, count=2) as processes:
        finish(processes, tmp_path)


# Discriminators


def patch_discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(width=8, layers=2)


@pytest.fixture(params=["patch", "lite", "dino", "dinov2"])
def discriminator(request: pytest.FixtureRequest) -> nn.Module:
    """Every kind, small."""
    if request.param == "patch":
        return patch_discriminator()
    if request.param == "lite":
        torch.manual_seed(0)
        return LiteDiscriminator(load_lite("lite0"), depths=(2, 4), width=16, size=32)
    return DinoDiscriminator(DinoFeatures(small_vit(request.param), (0, 1, 3), grid=(4, 4)))


def test_generator_gradient_does_not_reach_the_discriminator(discriminator: nn.Module) -> None:
    """The rule: after the autoencoder's backward the image has a gradient, and nothing of the discriminator moved."""
    discriminator.train()
    trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    output = pictures(2, 3, 32, 32).requires_grad_()
    with frozen(discriminator):
        loss = non_saturating_generator(discriminator(output))
    loss.backward()
    assert output.grad is not None and output.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())
    assert trained and all(parameter.requires_grad for parameter in trained)
    assert [parameter for parameter in discriminator.parameters() if parameter.requires_grad] == trained

    hinge_discriminator(*discriminator(torch.cat([output.detach(), -output.detach()])).chunk(2)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


def test_frozen_gives_the_true_gradient(discriminator: nn.Module) -> None:
    discriminator.eval()
    images = pictures(2, 3, 32, 32).requires_grad_()
    with frozen(discriminator):
        inside = torch.autograd.grad(discriminator(images).sum(), images)[0]
    torch.testing.assert_close(inside, torch.autograd.grad(discriminator(images).sum(), images)[0])


def test_frozen_restores_after_an_error() -> None:
    discriminator = patch_discriminator().train()
    discriminator.blocks[0].eval().weight.requires_grad_(False)
    with pytest.raises(TrainingError, match="at least 12x12"), frozen(discriminator):
        discriminator(torch.zeros(1, 3, 8, 8))
    assert [part.training for part in discriminator.blocks[:2]] == [False, True]
    assert not discriminator.blocks[0].weight.requires_grad and discriminator.blocks[0].bias.requires_grad


def test_logits_do_not_depend_on_the_batch(discriminator: nn.Module) -> None:
    discriminator.eval()
    images = pictures(3, 3, 32, 32)
    together = discriminator(images)
    assert together.ndim == 2 and len(together) == 3
    torch.testing.assert_close(discriminator(images[1:2]), together[1:2], rtol=1e-4, atol=1e-5)


def test_discriminators_under_autocast(discriminator: nn.Module) -> None:
    images = pictures(2, 3, 32, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = hinge_discriminator(*discriminator(images).chunk(2))
    loss.backward()
    assert loss.dtype == torch.float32 and images.grad is not None and images.grad.isfinite().all()


def test_discriminators_learn_to_tell_apart(discriminator: nn.Module) -> None:
    """Stripes from checks, of the same mean and contrast."""
    columns = torch.arange(32) // 4 % 2 * 2.0 - 1
    stripes, checks = columns.expand(4, 3, 32, 32), (columns * columns[:, None]).expand(4, 3, 32, 32)
    noise = 0.1 * pictures(8, 3, 32, 32)
    optimizer = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss = hinge_discriminator(*discriminator(torch.cat([stripes, checks]) + noise).chunk(2))
        loss.backward()
        optimizer.step()
    real, fake = discriminator(torch.cat([stripes, checks]) - noise).chunk(2)
    assert real.mean() > 0.3 > -0.3 > fake.mean()


def test_dino_heads_are_spectrally_normalised(vit: nn.Module) -> None:
    discriminator = DinoDiscriminator(DinoFeatures(vit, (1, 3), grid=(4, 4)))
    for part in discriminator.heads.modules():
        if isinstance(part, nn.Conv1d):
            assert torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


def test_every_depth_of_lite_counts_about_alike() -> None:
    """8 x 8 logits where 32, 16 and 8 rows are left of 128, 4 x 4 after the last block; only heads are trained."""
    discriminator = LiteDiscriminator(load_lite("lite0"))
    assert discriminator(pictures(1, 3, 64, 64)).shape == (1, 3 * 8 * 8 + 4 * 4)
    trained = {name.split(".")[0] for name, one in discriminator.named_parameters() if one.requires_grad}
    assert trained == {"heads"}


@pytest.mark.parametrize(("layers", "side", "grid"), [(3, 64, 6), (3, 24, 1), (2, 64, 14), (2, 12, 1)])
def test_patch_discriminator_sizes(layers: int, side: int, grid: int) -> None:
    discriminator = PatchDiscriminator(width=8, layers=layers)
    assert discriminator(torch.zeros(2, 3, side, side)).shape == (2, grid * grid)


def test_patch_discriminator_judges_patches_of_the_stated_size() -> None:
    """Without normalisation (which sees the whole image) the middle logit depends on exactly 70 pixels."""
    discriminator = PatchDiscriminator(width=8, layers=3)
    layers = [nn.Identity() if isinstance(part, nn.GroupNorm) else part for part in discriminator.blocks]
    image = pictures(1, 3, 160, 160).requires_grad_()
    logits = nn.Sequential(*layers)(image)[0, 0]
    logits[9, 9].backward()
    assert image.grad is not None
    touched = image.grad[0].abs().sum(0) > 0
    assert touched.any(0).sum() == touched.any(1).sum() == 70


def test_patch_discriminator_refusals() -> None:
    discriminator = PatchDiscriminator(width=8, layers=3)
    with pytest.raises(TrainingError, match="at least 24x24 pixels; these have 1x1: give it fewer layers"):
        discriminator(torch.zeros(1, 3, 1, 1))
    with pytest.raises(ValueError, match=r"not \[1, 1, 64, 64\]"):
        discriminator(torch.zeros(1, 1, 64, 64))
