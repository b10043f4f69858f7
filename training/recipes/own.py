"""Trainings from scratch on your own pictures: three sizes of the networks, for pictures of any usual size."""

from __future__ import annotations

import re

from nvg_model.config import AutoencoderConfig, GeneratorConfig, NVGConfig
from training.errors import TrainingError
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

SIZES = (16, 32, 64, 128, 256, 512)
"""Pixels of a side. The stages need a power of two of positions."""
OWN = ("small", "medium", "large")
IMAGE_SIZE = 64

_GENERATORS = {
    # As emoji64, for two CPU cores.
    "small": GeneratorConfig(
        content_depth=4, content_width=384, structure_depth=8, structure_width=192, time_factor=4.0
    ),
    # For a GPU.
    "medium": GeneratorConfig(
        content_depth=8, content_width=512, structure_depth=8, structure_width=256, time_factor=4.0
    ),
    # As the paper's d12.
    "large": GeneratorConfig(
        content_depth=12, content_width=768, structure_depth=12, structure_width=384, time_factor=4.0, drop_path=0.05
    ),
}
# Channels of the finest level, their multiples, residual blocks, latent channels, groups of the norms, codes.
_AUTOENCODERS = {
    "small": (16, (1, 2, 4, 8, 8), 1, 16, 8, 512),
    "medium": (32, (1, 2, 4, 4, 4), 1, 16, 16, 1024),
    "large": (64, (1, 2, 4, 4, 4), 2, 32, 32, 4096),
}
_TOKENIZERS = {
    "small": TokenizerRecipe(steps=3000, soft_assignment_steps=500, bfloat16=True, sample_every=250),
    "medium": TokenizerRecipe(steps=10_000, soft_assignment_steps=1000, bfloat16=True, sample_every=500),
    "large": TokenizerRecipe(
        steps=40_000, batch=64, learning_rate=4e-4, soft_assignment_steps=2000, bfloat16=True, sample_every=1000
    ),
}
_TRAININGS = {
    "small": GeneratorRecipe(steps=6000, batch=32, bfloat16=True, sample_every=500),
    "medium": GeneratorRecipe(steps=20_000, batch=64, bfloat16=True, sample_every=500),
    "large": GeneratorRecipe(
        steps=60_000,
        batch=128,
        learning_rate=5e-4,
        matrix_learning_rate=1e-3,
        ema=0.9998,
        bfloat16=True,
        sample_every=1000,
    ),
}


def own(name: str) -> Recipe | None:
    """The recipe of a name like small-64 (or small: at 64 pixels); None for another name.

    Raises:
        TrainingError: there are no pictures of that size.
    """
    match = re.fullmatch(rf"({'|'.join(OWN)})(?:-(\d+))?", name)
    if match is None:
        return None
    preset, side = match[1], int(match[2] or IMAGE_SIZE)
    if side not in SIZES:
        raise TrainingError(
            f"the image size {side} is none of {', '.join(map(str, SIZES))}; larger pictures are made smaller"
        )
    return Recipe(
        name=f"{preset}-{side}",
        config=NVGConfig((side, side), _autoencoder(preset, side), _GENERATORS[preset]),
        tokenizer=_TOKENIZERS[preset],
        generator=_TRAININGS[preset],
    )


def _autoencoder(preset: str, side: int) -> AutoencoderConfig:
    """Latents of 8x8 positions up to 64 pixels, 16x16 up to 256, and 32x32 (of 16 pixels: 4x4)."""
    levels = 3 if side <= 32 else 4 if side <= 128 else 5
    base, multipliers, blocks, channels, groups, codes = _AUTOENCODERS[preset]
    return AutoencoderConfig(base, multipliers[:levels], blocks, channels, groups, codes)
