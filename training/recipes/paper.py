"""The paper's trainings on ImageNet at 256x256 (section 3.1 and appendix A)."""

from __future__ import annotations

import dataclasses

from nvg_model.config import PRESETS
from training.data.augmentation import AugmentationSettings
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

IMAGENET = 1_281_167
"""Training pictures."""
TOKENIZER_BATCH, GENERATOR_BATCH = 256, 768
PHOTOS = AugmentationSettings(margin=1.125, flip=0.0)


def steps(epochs: int, batch: int) -> int:
    """Steps of this many passes over ImageNet."""
    return round(epochs * IMAGENET / batch)


TOKENIZER = TokenizerRecipe(
    steps=steps(100, TOKENIZER_BATCH),
    batch=TOKENIZER_BATCH,
    learning_rate=1e-4,
    warmup=0,
    order="epochs",
    soft_assignment_steps=steps(1, TOKENIZER_BATCH),
    gradient_weight=0.0,
    lpips_weight=1.0,
    clamp_output=True,
    discriminator="dino",
    adversarial_weight=0.1,
    adversarial_by_image=True,
    ema=0.9999,
    ema_warmup=False,
    workers=12,
    save_every=2000,
    sample_every=20_000,
)


def generator(epochs: int, **changes: object) -> GeneratorRecipe:
    """The paper's generator training; the rate is 1e-4 for every 256 images."""
    settings = GeneratorRecipe(
        steps=steps(epochs, GENERATOR_BATCH),
        batch=GENERATOR_BATCH,
        cached_views=0,
        content_stages=9,
        structure_stages=7,
        optimizer="adamw",
        learning_rate=1e-4 * GENERATOR_BATCH / 256,
        head_learning_rate=1e-4 * GENERATOR_BATCH / 256,
        weight_decay=0.05,
        decay_all=True,
        warmup=1000,
        warmup_start=0.005,
        decay_after_warmup=True,
        initialisation="xavier",
        order="epochs",
        ema=0.9999,
        ema_warmup=False,
        repa_weight=0.5,
        repa_layer=8,
        bfloat16=True,
        compile=True,
        workers=12,
        save_every=2000,
        sample_every=20_000,
    )
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def _recipe(name: str, settings: GeneratorRecipe, preset: str) -> Recipe:
    return Recipe(name=name, config=PRESETS[preset], tokenizer=TOKENIZER, generator=settings, views=PHOTOS)


PAPER = {
    # The tokenizer is the same for all; `tokenizer d16` trains it as well.
    "tokenizer-f16": _recipe("tokenizer-f16", generator(200), "d16"),
    "d12": _recipe("d12", generator(40), "d12"),
    "d16": _recipe("d16", generator(200), "d16"),
    "d20": _recipe("d20", generator(250, checkpoint_blocks=True), "d20"),
    # The rate falls from epoch 200 on, and further, as the release's code has it.
    "d24": _recipe(
        "d24",
        generator(
            350,
            decay=150 / 350,
            decay_after_warmup=False,
            final_rate=0.01,
            checkpoint_blocks=True,
            parallel="fsdp",
        ),
        "d24",
    ),
}
"""d12 is the ablation of table 2: 40 epochs."""
