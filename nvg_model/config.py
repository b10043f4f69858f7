"""Sizes of the three networks, as frozen dataclasses, and the presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from nvg_model.errors import NVGError

HEAD_DIM = 64  # every attention head of every NVG network is 64 wide


@dataclass(frozen=True)
class AutoencoderConfig:
    """The convolutional autoencoder (paper section 2.1; released values as defaults)."""

    base_channels: int = 128
    """Channels of the finest level."""
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 4, 4)
    """Channels of each level, finest first, as multiples of `base_channels`. Each further level halves the size."""
    residual_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more per level."""
    latent_channels: int = 32
    """C, the channels of the latent and of every codebook vector."""
    norm_groups: int = 32
    """Groups of every GroupNorm; must divide the channels of every level."""
    codebook_size: int = 4096
    """N, the number of codebook vectors, shared by all stages."""
    output_channels: Literal[3, 4] = 3
    """Channels of the decoder's pictures: colours, or colours and opacity."""
    output_scale: int = 1
    """Pixels along each side of the decoder's pictures for one of the pictures that are encoded."""
    decoder_channels: tuple[int, ...] = ()
    """Channels of each level of the decoder, finest first; empty: as the encoder has."""

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along each side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Channels of each level of the encoder, finest first."""
        return tuple(self.base_channels * one for one in self.channel_multipliers)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of each level of the decoder, finest first."""
        return self.decoder_channels or self.encoder_widths

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without what older versions do not know where it is as they had it."""
        values = dataclasses.asdict(self)
        for name, usual in (("output_channels", 3), ("output_scale", 1), ("decoder_channels", ())):
            if values[name] == usual:
                del values[name]
        return values


@dataclass(frozen=True)
class GeneratorConfig:
    """The content and the structure generator (paper section 2.2)."""

    num_classes: int = 1000
    """Classes; the index `num_classes` is the null class of classifier-free guidance."""
    content_depth: int = 16
    """Blocks of the content generator."""
    content_width: int = 1024
    """Token width of the content generator, a multiple of 64 (the head size)."""
    structure_depth: int = 16
    """Blocks of the structure generator."""
    structure_width: int = 512
    """Token width of the structure generator, a multiple of 64 (the head size)."""
    time_factor: float = 1000.0
    """What the flow time in [0, 1] is multiplied by before its sinusoidal embedding; 1000 in the released models."""
    drop_path: float = 0.0
    """Drop-path rate of the last block in training; rates rise linearly from 0 over the depth."""
    flow: Literal["velocity", "average"] = "velocity"
    """What the structure generator gives: the velocity at a time, or the average velocity between two times, with
    the guidance in it (MeanFlow, Geng et al. 2025), for sampling in few steps."""
    largest_guidance: float = 1.0
    """The largest guidance scale that an average velocity was trained for; the smallest is 1."""
    largest_content_guidance: float = 1.0
    """The largest guidance scale that the content generator has inside, in one pass; the smallest is 1, and 1 here
    means none: guidance takes a second pass."""
    content_input: Literal["canvas", "noised", "interpolated"] = "canvas"
    """What the content generator sees of the canvas (ablation, paper appendix B.2): the canvas, the canvas plus
    noise, or a mixture of both whose variance stays; the share of noise falls linearly from stage 0 to K."""
    structure_input: Literal["partial", "noise"] = "partial"
    """What the structure flow starts from (ablation): noise with the known channels clean, or noise alone."""
    structure_rope: bool = True
    """Whether tokens are rotated by their place in the structure, beside row and column (ablation)."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without what older versions do not know where it is as they had it."""
        values = dataclasses.asdict(self)
        if self.largest_content_guidance == 1:
            del values["largest_content_guidance"]
        return values


_CHOICES = {
    "flow": ("velocity", "average"),
    "content_input": ("canvas", "noised", "interpolated"),
    "structure_input": ("partial", "noise"),
}


@dataclass(frozen=True)
class NVGConfig:
    """Everything that determines the shapes of one NVG model."""

    image_size: tuple[int, int] = (256, 256)
    """Height and width of the images, in pixels."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    generator: GeneratorConfig | None = field(default_factory=GeneratorConfig)
    """None for a tokenizer that has no generator yet."""

    def __post_init__(self) -> None:
        autoencoder = self.autoencoder
        for widths in (autoencoder.encoder_widths, autoencoder.decoder_widths):
            if not widths or any(width < 1 or width % autoencoder.norm_groups for width in widths):
                raise NVGError(
                    f"levels of {list(widths)} channels cannot be normalised in {autoencoder.norm_groups} groups"
                )
        if len(autoencoder.decoder_widths) != len(autoencoder.encoder_widths):
            raise NVGError(
                f"the decoder has {len(autoencoder.decoder_widths)} levels and the encoder "
                f"{len(autoencoder.encoder_widths)}; both need as many, output_scale makes larger pictures"
            )
        if autoencoder.output_channels not in (3, 4) or autoencoder.output_scale < 1:
            raise NVGError(
                f"pictures of {autoencoder.output_channels} channels and scale {autoencoder.output_scale} are not "
                "known; a decoder gives 3 channels or 4, at scale 1 or more"
            )
        factor = autoencoder.downsampling
        if any(side % factor for side in self.image_size):
            raise NVGError(f"image size {self.image_size} is not a multiple of the downsampling factor {factor}")
        if self.positions != 2**self.splits:
            raise NVGError(
                f"image size {self.image_size} gives {self.positions} latent positions; the stages need a power of two"
            )
        if self.generator is not None:
            for name in ("content_width", "structure_width"):
                width = getattr(self.generator, name)
                if width < HEAD_DIM or width % HEAD_DIM:
                    raise NVGError(f"{name} is {width}; it must be a multiple of the head size {HEAD_DIM}")
            for name, known in _CHOICES.items():
                if (value := getattr(self.generator, name)) not in known:
                    raise NVGError(f"{name} is {value!r}; this nvg knows {' and '.join(known)}")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), rows and columns of the latent."""
        factor = self.autoencoder.downsampling
        return self.image_size[0] // factor, self.image_size[1] // factor

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the decoder's pictures, in pixels."""
        scale = self.autoencoder.output_scale
        return self.image_size[0] * scale, self.image_size[1] * scale

    @property
    def positions(self) -> int:
        """L = h * w, positions of the latent, in row-major order."""
        return math.prod(self.grid)

    @property
    def splits(self) -> int:
        """K = log2(L), how often the canvas is split in two."""
        return self.positions.bit_length() - 1

    @property
    def num_stages(self) -> int:
        """S = K + 1 stages; stage i has 2^i clusters."""
        return self.splits + 1

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        generator = None if self.generator is None else self.generator.to_dict()
        return dataclasses.asdict(self) | {"autoencoder": self.autoencoder.to_dict(), "generator": generator}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NVGConfig:
        """The inverse of `to_dict`. Raises NVGError where a field is unknown (a newer version wrote it)."""
        try:
            autoencoder = dict(values["autoencoder"])
            for name in {"channel_multipliers", "decoder_channels"} & autoencoder.keys():
                autoencoder[name] = tuple(autoencoder[name])
            generator = values["generator"]
            return cls(
                image_size=tuple(values["image_size"]),
                autoencoder=AutoencoderConfig(**autoencoder),
                generator=None if generator is None else GeneratorConfig(**generator),
            )
        except (KeyError, TypeError) as error:
            raise NVGError(
                f"the model configuration does not fit this version of nvg ({error}); update nvg or convert again"
            ) from error


def _paper(depth: int, num_classes: int = 1000) -> NVGConfig:
    """The paper's family: content width 64 d, structure width 32 d, both d deep (section 3.1)."""
    return NVGConfig(
        generator=GeneratorConfig(
            num_classes=num_classes,
            content_depth=depth,
            content_width=64 * depth,
            structure_depth=depth,
            structure_width=32 * depth,
            drop_path=0.1 * depth / 24,
        )
    )


PRESETS: dict[str, NVGConfig] = {
    "d12": _paper(12),
    "d16": _paper(16),
    "d20": _paper(20),
    "d24": _paper(24),
    # The embedded 64x64 model: L = 64, K = 6.
    "emoji64": NVGConfig(
        image_size=(64, 64),
        autoencoder=AutoencoderConfig(
            base_channels=16,
            channel_multipliers=(1, 2, 4, 8),
            residual_blocks=1,
            latent_channels=16,
            norm_groups=8,
            codebook_size=512,
        ),
        generator=GeneratorConfig(
            num_classes=17,
            content_depth=4,
            content_width=384,
            structure_depth=8,
            structure_width=192,
            time_factor=4.0,  # few-step training differentiates by the time
        ),
    ),
    # The smallest model with every part in it, for tests: 16x16 pixels, L = 16, K = 4.
    "tiny": NVGConfig(
        image_size=(16, 16),
        autoencoder=AutoencoderConfig(
            base_channels=8,
            channel_multipliers=(1, 2, 2),
            residual_blocks=1,
            latent_channels=8,
            norm_groups=4,
            codebook_size=32,
        ),
        generator=GeneratorConfig(
            num_classes=3, content_depth=2, content_width=128, structure_depth=2, structure_width=64
        ),
    ),
}
"""Named configurations: the paper's four, that of the embedded model, and a tiny one for tests."""


def preset(name: str) -> NVGConfig:
    """The configuration of that name. Raises NVGError for an unknown one."""
    if name not in PRESETS:
        raise NVGError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
