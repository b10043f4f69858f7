"""emoji64: the embedded 64x64 class-conditional model, made for two CPU cores."""

from nvg_model.config import PRESETS
from nvg_model.sampling import SamplingSettings
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

CLASSES = (
    "smiley", "cat face", "heart", "mammal", "bird", "sea life", "bug", "flower", "plant", "fruit", "vegetable", "meal",
    "dessert", "drink", "building", "ground vehicle", "aircraft", "boat", "sky", "clock", "sport", "flag", "clothing",
    "person",
)  # fmt: skip

EMOJI64 = Recipe(
    name="emoji64",
    config=PRESETS["emoji64"],
    tokenizer=TokenizerRecipe(steps=2000, batch=32, learning_rate=2e-3, bfloat16=True),
    generator=GeneratorRecipe(steps=1500, batch=32, ema=0.998, bfloat16=True),
    classes=CLASSES,
    # Chosen by eye from four settings on eight classes: a small model needs strong guidance of its first splits.
    sampling=SamplingSettings(
        content_guidance=(2.0, 4.0), structure_guidance=(5.0, 3.0), top_p=(0.8, 0.3), structure_steps=12
    ),
    licence="Apache-2.0 (weights); trained on Noto Emoji (Apache-2.0), Twemoji (CC-BY 4.0), Fluent Emoji (MIT)",
    attribution="docs/emoji64-attribution.md",
)
