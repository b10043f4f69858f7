"""emoji128: 128x128 class-conditional pictures with opacity, in the paper's geometry, for 25 minutes of one GPU.

What is not named here is as in emoji64.
"""

import dataclasses

from nvg_model.config import AutoencoderConfig, GeneratorConfig, NVGConfig
from training.recipes.emoji64 import EMOJI64

# L = 256 positions on a 16x16 grid, K = 8, as the paper's 256x256 models have.
CONFIG = NVGConfig(
    image_size=(128, 128),
    autoencoder=AutoencoderConfig(
        base_channels=24, channel_multipliers=(1, 2, 4, 4), residual_blocks=1, latent_channels=16, norm_groups=8,
        codebook_size=1024,
    ),
    generator=GeneratorConfig(
        num_classes=17, content_depth=6, content_width=320, structure_depth=8, structure_width=192, time_factor=4.0
    ),
)  # fmt: skip

# A core draws 64 views in 0.09 s; the machine that this is for has 16, and its GPU is not to wait.
WORKERS = 10

EMOJI128 = dataclasses.replace(
    EMOJI64,
    name="emoji128",
    config=CONFIG,
    tokenizer=dataclasses.replace(EMOJI64.tokenizer, steps=2500, batch=64, workers=WORKERS, sample_every=500),
    # Steps: what fits into 25 minutes of an H100, by the estimate in docs/training.md.
    generator=dataclasses.replace(
        EMOJI64.generator, steps=4800, batch=128, cached_views=36_864, warmup=200, ema=0.9995, workers=4,
        content_stage_odds=(1, 2, 2, 1.5, 1, 1, 1, 1, 1),
        structure_stage_odds=(4, 2, 1, 0.7, 0.5, 0.5, 0.5),
        # Without it the networks learn the canvases of the data by heart, and not how their own go on.
        token_noise=0.15, own_tokens=0.5,
        save_every=1000, sample_every=1600,
    ),
    # Wider than the tokenizer's own, with opacity, by features of an ImageNet network, on canvases as sampling draws
    # them. Not adversarial: in so few steps that drew haloes (docs/training.md).
    decoder=dataclasses.replace(
        EMOJI64.decoder, steps=6000, batch=32, cached_views=12_288, workers=WORKERS,
        perceptual_weight=0.5, opacity_weight=0.5, drawn=0.5,
        output_scale=1, decoder_channels=(48, 64, 128, 192),
        save_every=1000, sample_every=1500,
    ),
)  # fmt: skip
