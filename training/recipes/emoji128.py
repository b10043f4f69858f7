"""emoji128: 128x128 class-conditional pictures with opacity, in the paper's geometry, for 25 minutes of one GPU."""

from nvg_model.config import AutoencoderConfig, GeneratorConfig, NVGConfig
from nvg_model.sampling import SamplingSettings
from training.recipes.base import DecoderRecipe, GeneratorRecipe, Recipe, TokenizerRecipe
from training.recipes.emoji64 import EMOJI64

# L = 256 positions on a 16x16 grid, K = 8, as the paper's 256x256 models have.
CONFIG = NVGConfig(
    image_size=(128, 128),
    autoencoder=AutoencoderConfig(
        base_channels=24,
        channel_multipliers=(1, 2, 4, 4),
        residual_blocks=1,
        latent_channels=16,
        norm_groups=8,
        codebook_size=1024,
    ),
    generator=GeneratorConfig(
        num_classes=17,
        content_depth=6,
        content_width=320,
        structure_depth=8,
        structure_width=192,
        time_factor=4.0,
    ),
)

# A core draws 64 views in 0.09 s; the machine that this is for has 16, and its GPU is not to wait.
WORKERS = 10

EMOJI128 = Recipe(
    name="emoji128",
    config=CONFIG,
    tokenizer=TokenizerRecipe(
        steps=2500,
        batch=64,
        learning_rate=1e-3,
        soft_assignment_steps=0,
        separation_weight=1.0,
        separation_by="subject",
        separation_within=0.07,
        cycle_weight=0.3,
        bfloat16=True,
        workers=WORKERS,
        sample_every=500,
    ),
    # Steps: what fits into 25 minutes of an H100, by the estimate in docs/training.md.
    generator=GeneratorRecipe(
        steps=4800,
        batch=128,
        cached_views=36_864,
        content_stages=2,
        # The first splits and tokens decide what the picture shows.
        content_stage_odds=(1, 2, 2, 1.5, 1, 1, 1, 1, 1),
        structure_stages=2,
        structure_stage_odds=(4, 2, 1, 0.7, 0.5, 0.5, 0.5),
        split_weight=0.75,
        time_logit=(0.5, 1.2),
        # Without it the networks learn the canvases of the data by heart, and not how their own go on.
        token_noise=0.15,
        own_tokens=0.5,
        matrix_learning_rate=3e-3,
        warmup=200,
        decay=0.25,
        ema=0.9995,
        bfloat16=True,
        workers=4,
        save_every=1000,
        sample_every=1600,
    ),
    # Wider than the tokenizer's own, with opacity, by features of an ImageNet network, on canvases as sampling draws
    # them. Not adversarial: in so few steps that drew haloes (docs/training.md).
    decoder=DecoderRecipe(
        steps=6000,
        batch=32,
        learning_rate=6e-4,
        cached_views=12_288,
        perceptual_weight=0.5,
        drawn=0.5,
        output_channels=4,
        decoder_channels=(48, 64, 128, 192),
        bfloat16=True,
        workers=WORKERS,
        save_every=1000,
        sample_every=1500,
    ),
    classes=EMOJI64.classes,
    views=EMOJI64.views,
    tokenizer_views=EMOJI64.tokenizer_views,
    sampling=SamplingSettings(
        content_guidance=(1.0, 4.0), structure_guidance=(3.0, 2.0), top_p=(0.8, 0.3), structure_steps=4
    ),
    licence=EMOJI64.licence,
    attribution=EMOJI64.attribution,
)
