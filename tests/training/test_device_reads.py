"""Between log lines a training step reads nothing from the device, so that a GPU is never waited for.

Meta tensors have a device and shapes but no values: reading one (`.item()`, `bool(...)`, `nonzero`, a mask as index)
fails. The batch itself is on the CPU, as the loop hands it over.
"""

import contextlib
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from nvg_model.config import PRESETS
from nvg_model.model import NVG
from nvg_model.tokenizer import Tokenizer
from training import decoder, guidance
from training.data.conversion_batch import FewStepBatch, GuidanceBatch, draw_parts, draw_spans
from training.data.decoder_batch import Batch as DecoderBatch
from training.data.generator_batch import Batch
from training.data.tokenizer_batch import Batch as TokenizerBatch
from training.distributed import World
from training.few_step import converted
from training.losses.autoencoder import TokenizerObjective
from training.losses.average_velocity import FewStepObjective
from training.losses.decoder import DecoderObjective
from training.losses.generators import GeneratorObjective
from training.losses.guidance import GuidanceObjective
from training.optim import trained
from training.recipes.base import DecoderRecipe, FewStepRecipe, GeneratorRecipe, GuidanceRecipe, TokenizerRecipe
from training.tokenizer import training_phases

TINY = PRESETS["tiny"]
COUNT = 6


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the meta device has not."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def tokens(splits_each: int = 2) -> Batch:
    """Random cached tokens, with mistakes and tokens to draw."""
    splits, positions = TINY.splits, TINY.positions
    return Batch(
        classes=torch.zeros(COUNT, dtype=torch.long),
        content_stages=numbers(COUNT, splits + 1).argsort(1)[:, :3],
        structure_stages=numbers(COUNT, splits - 1).argsort(1)[:, :splits_each],
        noise=numbers(COUNT, positions, splits),
        times=numbers(COUNT, splits_each),
        finest=numbers(COUNT, positions).argsort(1),
        codes=tuple(torch.zeros(COUNT, 2**stage, dtype=torch.long) for stage in range(splits + 1)),
        wrong=numbers(COUNT, 2 ** (splits + 1) - 1) < 0.1,
        start=torch.arange(COUNT) % (splits + 1),
        chance=numbers(COUNT, 2 ** (splits + 1) - 1),
    )


def check(objective: nn.Module, batch: object, step: int = 1) -> None:
    """A loss, its gradient and the values to log, without values."""
    loss, values = objective(batch, step)
    loss.backward()
    assert loss.device.type == "meta" and {one.device.type for one in values.values()} == {"meta"}
    assert [name for name, one in objective.named_parameters() if one.requires_grad and one.grad is None] == []


def test_generators() -> None:
    settings = GeneratorRecipe(steps=1, batch=COUNT, own_tokens=0.5, content_stage_weights=(1.0,) * TINY.num_stages)
    nvg = NVG(TINY).to("meta")
    nvg.tokenizer.requires_grad_(False)
    check(GeneratorObjective(nvg, settings).train(), tokens())


@pytest.mark.parametrize("objective", ["trajectory", "meanflow", "shortcut"])
def test_few_steps(objective: str) -> None:
    settings = FewStepRecipe(steps=1, batch=COUNT, objective=objective, teacher_steps=4, spans=2)  # type: ignore[arg-type]
    assert TINY.generator is not None
    generator = dataclasses.replace(TINY.generator, time_factor=4.0)
    teacher = NVG(dataclasses.replace(TINY, generator=generator)).eval().requires_grad_(False)
    student = converted(teacher, 4.0)
    rows, random = (COUNT, 2), torch.Generator().manual_seed(0)
    batch = FewStepBatch(
        dataclasses.replace(tokens(), wrong=None, start=None, chance=None),
        1 + numbers(*rows),
        draw_spans(rows, random),
        numbers(*rows, settings.teacher_steps - 1),
        draw_parts((*rows, settings.spans), settings.teacher_steps, random),
    )
    check(FewStepObjective(teacher.to("meta"), student.to("meta"), settings), batch)


def test_guidance_inside() -> None:
    teacher = NVG(TINY).eval().requires_grad_(False)
    student = guidance.converted(teacher, 4.0)
    batch = GuidanceBatch(dataclasses.replace(tokens(), start=None, chance=None), 1 + numbers(COUNT, 3))
    settings = GuidanceRecipe(steps=1, batch=COUNT)
    check(GuidanceObjective(teacher.to("meta"), student.to("meta"), settings), batch)


def test_tokenizer_and_discriminator() -> None:
    """All terms but those that need weights of others, and the separation, whose eigenvectors a GPU checks itself."""
    settings = TokenizerRecipe(
        steps=9, batch=COUNT, lpips_weight=0.0, ssim_weight=1.0, gradient_weight=1.0, cycle_weight=1.0,
        discriminator="patch", discriminator_layers=1, adversarial_start=0, soft_assignment_steps=5,
        separation_start=0,
    )  # fmt: skip
    batch = TokenizerBatch(numbers(COUNT, 3, *TINY.image_size) * 2 - 1, (), numbers(COUNT, 3, 7), numbers(COUNT, 3, 3))
    for phase in training_phases(Tokenizer(TINY).to("meta"), settings, World(device=torch.device("meta"))):
        check(phase.objective, batch)


def test_decoder_and_discriminator() -> None:
    settings = DecoderRecipe(
        steps=9, batch=COUNT, perceptual_weight=0.0, ssim_weight=1.0, gradient_weight=1.0, cycle_weight=1.0,
        discriminator="patch", discriminator_layers=1, adversarial_start=0, output_channels=4,
    )  # fmt: skip
    before = NVG(dataclasses.replace(TINY, generator=None))
    config = decoder.with_output(TINY, settings)
    tokenizer = decoder.new_tokenizer(before, config).to("meta")
    batch = DecoderBatch(
        numbers(COUNT, TINY.positions, TINY.autoencoder.latent_channels), numbers(COUNT, 4, *config.output_size),
        numbers(COUNT, 3), numbers(COUNT, 3), numbers(COUNT, 5, 7), (),
        generated=numbers(2, TINY.positions, TINY.autoencoder.latent_channels),
    )  # fmt: skip
    objective = DecoderObjective(tokenizer, settings)
    for phase in decoder.training_phases(objective, settings, World(device=torch.device("meta"))):
        check(phase.objective, batch)


@pytest.mark.parametrize("read", [lambda x: x.item(), lambda x: bool(x), lambda x: x[None].nonzero()])
def test_a_read_would_be_noticed(read) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|Meta"):
        read(torch.zeros((), device="meta"))


def test_what_is_trained_is_checked() -> None:
    """The objectives above have parameters, so that `check` looks at something."""
    assert trained(TokenizerObjective(Tokenizer(TINY), TokenizerRecipe(steps=1, lpips_weight=0.0)))
