"""emoji64: the embedded 64x64 class-conditional model, made for two CPU cores."""

from nvg_model.config import PRESETS
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

EMOJI64 = Recipe(
    name="emoji64",
    config=PRESETS["emoji64"],
    tokenizer=TokenizerRecipe(steps=2600, batch=32, learning_rate=2e-3, bfloat16=True),
    generator=GeneratorRecipe(steps=4000, batch=64),
    licence="Apache-2.0 (weights); trained on Noto Emoji (Apache-2.0), Twemoji (CC-BY 4.0), Fluent Emoji (MIT)",
    attribution="docs/emoji64-attribution.md",
)
