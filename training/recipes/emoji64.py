"""emoji64: the embedded 64x64 class-conditional model, made for two CPU cores."""

import dataclasses

from nvg_model.config import PRESETS
from nvg_model.sampling import SamplingSettings
from training.data.augmentation import AugmentationSettings
from training.recipes.base import DecoderRecipe, GeneratorRecipe, GuidanceRecipe, Recipe, TokenizerRecipe

CLASSES = (
    "smiley", "cat face", "animal face", "person", "heart", "bird", "fish", "flower", "plant", "fruit", "drink",
    "vehicle", "boat", "moon", "weather", "clock", "flag",
)  # fmt: skip

TOKENIZER = TokenizerRecipe(
    steps=2800, batch=32, learning_rate=1e-3, soft_assignment_steps=0, bfloat16=True,
    # So that the first maps are the object's silhouette, and come back when a picture is tokenized again.
    separation_weight=1.0, separation_by="subject", separation_within=0.07, cycle_weight=0.3,
)  # fmt: skip

VIEWS = AugmentationSettings(shift=0.1, scale=(0.92, 1.06), whole=True, flip=0.25, still=0.7, white=0.9)
# The tokenizer is to know every place, both directions and other backgrounds.
TOKENIZER_VIEWS = dataclasses.replace(VIEWS, flip=0.5, still=0.0, white=0.7)

EMOJI64 = Recipe(
    name="emoji64",
    config=PRESETS["emoji64"],
    tokenizer=TOKENIZER,
    # From larger pictures (`data emoji128`): transparent, twice as large, and clean although the last tokens of a third
    # of the canvases are drawn as in sampling. What was tried before: docs/training.md.
    decoder=DecoderRecipe(
        steps=7000, batch=16, learning_rate=6e-4, cached_views=8192, bfloat16=True,
        drawn=0.35, perceptual_weight=0.7, opacity_weight=1.0,
        output_channels=4, output_scale=2, decoder_channels=(24, 48, 96, 192),
    ),
    generator=GeneratorRecipe(
        steps=6400, batch=32, cached_views=36_000, warmup=100, decay=0.25, ema=0.998, bfloat16=True,
        # The first splits and tokens decide what the picture shows.
        content_stages=2, content_stage_odds=(1, 2, 2, 1.5, 1, 1, 1),
        structure_stages=2, structure_stage_odds=(4, 2, 1, 0.5, 0.5),
        split_weight=0.75,
        # Sampling starts at 1 and takes four steps: its first, which must know the class's silhouette, counts.
        time_logit=(0.5, 1.2),
        matrix_learning_rate=3e-3,
    ),
    guidance=GuidanceRecipe(steps=1000, bfloat16=True, save_every=200, sample_every=200),
    classes=CLASSES,
    # About half of the positions show the emoji. Most stand still: a small model that must draw every outline at every
    # place and size draws none of them well. The others teach it to follow layouts that stand elsewhere.
    views=VIEWS,
    tokenizer_views=TOKENIZER_VIEWS,
    # Chosen with `tune` and by how well given layouts are followed (docs/emoji64.md).
    # How the structure flow runs is from the table in docs/speed.md: half the time of four guided Euler steps.
    sampling=SamplingSettings(
        content_guidance=(1.0, 4.0), structure_guidance=(3.0, 2.0), top_p=(0.8, 0.3),
        structure_steps=2, solver="multistep", time_shift=0.0, guidance_every=2,
    ),
    licence="Apache-2.0 (weights); trained on Noto Emoji (Apache-2.0), Twemoji (CC-BY 4.0), Fluent Emoji (MIT), "
    "EmojiOne 2.2.7 (CC-BY 4.0)",
    attribution="docs/emoji64-attribution.md",
)  # fmt: skip
