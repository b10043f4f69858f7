"""Fine-tuning a checkpoint on a folder of pictures, with the folder's classes."""

from __future__ import annotations

from nvg_model.config import PRESETS
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

FINETUNE = Recipe(
    name="finetune",
    config=PRESETS["emoji64"],  # of the tokenizer, should it be trained on; the generators have the checkpoint's sizes
    tokenizer=TokenizerRecipe(steps=1000, learning_rate=2e-4, soft_assignment_steps=0),
    generator=GeneratorRecipe(
        steps=1000,
        batch=32,
        learning_rate=2e-4,
        matrix_learning_rate=4e-4,
        head_learning_rate=5e-4,
        warmup=50,
        ema=0.99,
    ),
    start="emoji64",
)
