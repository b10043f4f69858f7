"""Fine-tuning a checkpoint on a folder of pictures, with the folder's classes."""

from __future__ import annotations

from nvg_model.config import PRESETS
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

FINETUNE = Recipe(
    name="finetune",
    config=PRESETS["emoji64"],  # of the tokenizer, should it be trained on; the generators have the checkpoint's sizes
    tokenizer=TokenizerRecipe(steps=1000, learning_rate=2e-4, soft_assignment_steps=0),
    # New classes take their place first, at a rate of their own; tried on 40 icons (docs/training.md).
    generator=GeneratorRecipe(
        steps=300,
        batch=16,
        split_weight=0.75,  # as emoji64 was trained: its flow takes four steps, of which the first counts
        time_logit=(0.5, 1.2),
        learning_rate=5e-4,
        matrix_learning_rate=1e-3,
        head_learning_rate=1e-3,
        class_learning_rate=1e-2,
        class_steps=40,
        warmup=20,
        ema=0.98,
        bfloat16=True,
        sample_every=100,
        save_every=100,
    ),
    start="emoji64",
)
