"""emoji64: the embedded 64x64 class-conditional model, made for two CPU cores."""

from nvg_model.config import PRESETS
from nvg_model.sampling import SamplingSettings
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

CLASSES = (
    "smiley", "cat face", "animal face", "person", "heart", "bird", "fish", "bug", "flower", "plant", "fruit",
    "dessert", "drink", "building", "vehicle", "aircraft", "boat", "moon", "weather", "clock", "ball", "flag",
    "clothes", "shoe",
)  # fmt: skip

EMOJI64 = Recipe(
    name="emoji64",
    config=PRESETS["emoji64"],
    tokenizer=TokenizerRecipe(
        steps=10_000,
        batch=32,
        learning_rate=2e-3,
        # So that the first maps are the object's silhouette, and come back when a picture is tokenized again.
        separation_weight=1.0,
        separation_start=3000,
        cycle_weight=0.3,
        bfloat16=True,
    ),
    generator=GeneratorRecipe(
        steps=24_000,
        batch=32,
        views=48_000,
        # The first splits and tokens decide what the picture shows.
        content_stage_odds=(2, 2, 2, 1.5, 1, 1, 1),
        structure_stage_odds=(2, 2, 1.5, 1, 1),
        bfloat16=True,
    ),
    classes=CLASSES,
    # Chosen by eye from four settings on eight classes: a small model needs strong guidance of its first splits.
    # The number of steps is from the table in docs/training.md.
    sampling=SamplingSettings(
        content_guidance=(2.0, 4.0), structure_guidance=(5.0, 3.0), top_p=(0.8, 0.3), structure_steps=4
    ),
    licence="Apache-2.0 (weights); trained on Noto Emoji (Apache-2.0), Twemoji (CC-BY 4.0), Fluent Emoji (MIT)",
    attribution="docs/emoji64-attribution.md",
)
