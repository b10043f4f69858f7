"""The paper's tokenizer: its adversarial loss and what the discriminator sees, against the text of section 8."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model.config import PRESETS
from nvg_model.hierarchy import cluster
from nvg_model.tokenizer import Tokenizer
from training.data.tokenizer_batch import Batch
from training.distributed import World
from training.losses import discriminators
from training.losses.adversarial import non_saturating_generator
from training.losses.diffaug import augment
from training.losses.dino import DinoFeatures
from training.losses.discriminators import DinoDiscriminator
from training.recipes.paper import TOKENIZER
from training.tokenizer import training_phases

# The autoencoder's adversarial loss, and what the discriminator sees


def test_an_image_is_judged_by_the_mean_of_its_logits() -> None:
    logits = [[4.0, -2.0, 1.0], [0.5, -3.0, -2.0]]
    expected = -sum(math.log(1 / (1 + math.exp(-sum(row) / 3))) for row in logits) / 2
    found = torch.tensor(logits, requires_grad=True)
    loss = non_saturating_generator(found, by_image=True)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert found.grad is not None and all(len(set(row)) == 1 for row in found.grad.tolist())  # all patches alike
    assert non_saturating_generator(torch.tensor(logits)).item() > expected + 0.1  # Jensen: every patch by itself


class Halves(nn.Module):
    """Stands where the discriminator does: logits that are the means of an image's two halves."""

    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        return torch.stack([half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=2)], dim=1)


def tokenizer_step() -> tuple[Tokenizer, Batch, dict[str, Tensor]]:
    """A step of the paper's autoencoder losses, without downloads: tokenizer, batch, logged values."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(PRESETS["tiny"])
    tokenizer.quantizer.spread()
    (phase,) = training_phases(tokenizer, dataclasses.replace(TOKENIZER, lpips_weight=0.0, discriminator=""), World())
    phase.objective._discriminator = (Halves(),)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    batch = Batch(images, ("a",) * 4, torch.rand(4, 3, 7), torch.rand(4, 3, 3))
    loss, values = phase.objective(batch, 0)
    loss.backward()
    return tokenizer, batch, values


def test_the_autoencoders_turn_takes_that_mean() -> None:
    _, batch, values = tokenizer_step()
    assert batch.output is not None
    means = augment(batch.output, batch.augmentation[:, 0]).mean(dim=(1, 2, 3))
    assert float(values["adversarial"]) == pytest.approx(float(-F.logsigmoid(means).mean()), rel=1e-5)


def test_the_reconstruction_is_clamped_before_it_is_judged() -> None:
    def beyond_white(clamp: bool) -> tuple[Tensor, float]:
        torch.manual_seed(0)
        settings = dataclasses.replace(
            TOKENIZER, lpips_weight=0.0, discriminator="", quantizer_weight=0.0, clamp_output=clamp
        )
        tokenizer = Tokenizer(PRESETS["tiny"])
        last = tokenizer.decoder.head[2]
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 3.0)
        (phase,) = training_phases(tokenizer, settings, World())
        images = torch.rand(2, 3, 16, 16) * 2 - 1
        loss, values = phase.objective(Batch(images, ("a", "b"), torch.rand(2, 3, 7), torch.rand(2, 3, 3)), 10**6)
        loss.backward()
        white = 1.0 if clamp else 3.0
        assert float(values["l1"]) == pytest.approx(float((white - images).mean()), rel=1e-6)
        return last.bias.grad, float(values["l1"])

    (clamped, small), (free, large) = beyond_white(True), beyond_white(False)
    assert small < large and not clamped.any() and bool((free > 0).all())


def test_in_the_warm_up_codes_and_refiners_learn_from_the_quantisers_loss_alone() -> None:
    """Their gradient is that of this loss written with the softmax itself, whatever the decoder wants."""
    tokenizer, batch, _ = tokenizer_step()
    quantizer = tokenizer.quantizer
    trained = [
        quantizer.codebook,
        *(one.weight for one in quantizer.refiners),
        *(one.bias for one in quantizer.refiners),
    ]
    found = [one.grad for one in trained]
    latent = tokenizer.encode(batch.images).detach()
    structure, canvas, loss = cluster(latent), torch.zeros_like(latent), torch.zeros(())
    for stage in range(structure.shape[1]):
        inside = F.one_hot(structure[:, stage], 2**stage).float()  # [B,L,N]
        means = inside.mT @ (latent - canvas.detach()) / inside.sum(1)[..., None]
        distance = (means[:, :, None] - quantizer.codebook[None, None]).square().sum(-1)
        soft = (-distance).softmax(-1)
        hard = F.one_hot(distance.argmin(-1), len(quantizer.codebook)).float()
        placed = inside @ ((hard + soft - soft.detach()) @ quantizer.codebook)
        refined = quantizer.refiners[stage](placed.mT.unflatten(2, tokenizer.grid)).flatten(2).mT
        canvas = canvas + placed + 0.5 * refined
        loss = loss + (canvas - latent).square().mean() / structure.shape[1]
    for one, expected in zip(found, torch.autograd.grad(loss, trained), strict=True):
        assert one is not None
        torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-6)
    assert bool(found[0].abs().sum(1).gt(0).all())  # every code learns


def test_translation_comes_before_colour_before_cutout() -> None:
    """What moves in is coloured too, what is cut out is not; by a plain loop over the pixels."""
    image = torch.rand(1, 3, 10, 10) * 2 - 1
    numbers = torch.tensor([[0.9, 0.3, 0.8, 0.99, 0.0, 0.2, 0.6]])  # a pixel down and one to the left
    expected = torch.zeros(3, 10, 10)
    for row in range(1, 10):
        for column in range(9):
            expected[:, row, column] = image[0, :, row - 1, column + 1]
    expected = expected + 0.4
    grey = expected.mean(0)
    expected = torch.stack([grey + 0.6 * (channel - grey) for channel in expected])
    expected = expected.mean() + 1.3 * (expected - expected.mean())
    for row in (1, 2):  # 2 pixels, the middle at int(0.2 * 11) = 2 down and int(0.6 * 11) = 6 to the right
        for column in (5, 6):
            expected[:, row, column] = 0
    torch.testing.assert_close(augment(image, numbers)[0], expected)


def dino(**options: bool) -> tuple[nn.Module, DinoFeatures]:
    """A small random ViT that sees 32x32 pixels, and features of it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    vit = transformers.ViTModel(transformers.ViTConfig(**sizes, intermediate_size=64)).eval()
    return vit, DinoFeatures(vit, (0, 1, 3), grid=(4, 4), **options)


def by_area(images: Tensor, size: int) -> Tensor:
    """Mean over the pixels that a cell touches, cell by cell."""
    height, width = images.shape[2:]
    cells = []
    for r in range(size):
        rows = slice(r * height // size, -(-(r + 1) * height // size))
        for c in range(size):
            columns = slice(c * width // size, -(-(c + 1) * width // size))
            cells.append(images[:, :, rows, columns].mean(dim=(2, 3)))
    return torch.stack(cells, dim=2).unflatten(2, (size, size))


def test_the_discriminator_reads_out_the_class_token() -> None:
    """Every patch plus the class token, after the patch embedding and several blocks; pictures resized by area."""
    vit, features = dino(readout=True, area=True)
    images = torch.rand(2, 3, 40, 48) * 2 - 1
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    states = vit((by_area(images, 32) / 2 + 0.5 - mean) / deviation, output_hidden_states=True).hidden_states
    for found, depth in zip(features(images), (0, 1, 3), strict=True):
        for patch in range(16):
            torch.testing.assert_close(found[:, patch], states[depth][:, 1 + patch] + states[depth][:, 0])


def test_the_papers_discriminator_looks_so(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=64, num_attention_heads=1, intermediate_size=64)
    monkeypatch.setattr(discriminators, "load_vit", lambda name, published: transformers.ViTModel(config))
    features = discriminators.dino_discriminator().features
    assert (features.depths, features.size) == ((0, 3, 6, 9, 12), (224, 224))
    assert features.readout and features.area and not features.final_norm


def test_half_of_the_time_the_discriminator_looks_at_a_crop() -> None:
    discriminator = DinoDiscriminator(dino(readout=True, area=True)[1]).eval()
    images = torch.rand(3, 3, 40, 37) * 2 - 1
    places = torch.tensor([[0.49, 0.0, 0.99], [0.5, 0.3, 0.3], [0.0, 0.99, 0.5]])
    seen = discriminator.look(images, places)
    assert torch.equal(seen[0], images[0, :, :32, 5:]) and torch.equal(seen[2], images[2, :, 8:, 3:35])
    torch.testing.assert_close(seen[1:2], by_area(images[1:2], 32))
    torch.testing.assert_close(discriminator(images, places), discriminator(seen))
    small = torch.rand(1, 3, 20, 40)
    assert torch.equal(discriminator.look(small, places[:1]), discriminator.features.resized(small))


def test_repas_pictures_are_resized_without_antialiasing() -> None:
    """Cubic convolution (Keys 1981, a = -3/4) over four neighbours, before DINOv2 sees the picture."""
    _, features = dino(final_norm=True)
    line = torch.rand(48)

    def cubic(x: float) -> float:
        x, a = abs(x), -0.75
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    expected = []
    for place in range(32):
        centre = (place + 0.5) * 48 / 32 - 0.5
        neighbours = range(math.floor(centre) - 1, math.floor(centre) + 3)
        expected.append(sum(cubic(centre - one) * float(line[min(max(one, 0), 47)]) for one in neighbours))
    resized = features.resized(line.expand(1, 3, 48, 48))
    torch.testing.assert_close(resized[0, 0, 7], torch.tensor(expected), rtol=1e-4, atol=1e-5)
