"""What a recipe says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nvg_model
from nvg_model.config import NVGConfig
from nvg_model.sampling import SamplingSettings
from training.data.augmentation import AugmentationSettings
from training.data.dataset import ImageDataset, open_dataset
from training.data.sources import Split
from training.losses.dino_weights import DINO_SMALL, DINOV2_BASE

Order = Literal["balanced", "epochs"]


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a training runs, whatever it trains: sizes, saves, and what the machine can do."""

    steps: int
    batch: int
    """Images of a step, over all processes and accumulation steps."""
    accumulate: int = 1
    """Parts that a process computes its share of a step in, one after the other, to save memory."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the averaged weights, a step."""
    ema_warmup: bool = True
    """That decay rises from 0.1, so that the averages forget the start quickly; the release's is constant."""
    bfloat16: bool = False
    """Matrix products in bfloat16; weights stay in float32. Where that is slower, which is measured at the start,
    float32 is used and a sentence says so; given on the command line bfloat16 stays."""
    bfloat16_anyway: bool = False
    """Keeps a recipe's bfloat16 where it is slow."""
    compile: bool = False
    """torch.compile for the networks."""
    workers: int = 0
    """Processes that prepare batches ahead; 0: none, the data is in memory and cheap to prepare."""
    save_every: int = 500
    """Steps between saves."""
    sample_every: int = 250
    """Steps between sample pictures and numbers on held-out data, the first of them at a tenth of it; 0: at the end
    only."""
    log_every: int = 50
    """Steps between lines of the log."""
    track: tuple[str, ...] = ()
    """More than log.jsonl: tensorboard, wandb."""
    timeout: float = 600.0
    """Of several processes: seconds without a sign of life of one (it is frozen or dead) after which the others end."""

    def watches_after(self, step: int) -> bool:
        """Whether sample pictures are made after so many steps: early once, to see what is wrong with the data."""
        return self.sample_every > 0 and (step % self.sample_every == 0 or step == self.sample_every // 10)


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(Running):
    """Settings of the tokenizer's training (paper section 3.1; sizes for small machines)."""

    batch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 100
    order: Order = "balanced"
    """Of the pictures: every class equally often, or epochs, in which every picture comes once (the paper's)."""
    soft_assignment_steps: int = 1000
    """Steps at the start with IBQ's soft assignment, by which every code receives gradient."""
    gradient_weight: float = 1.0
    """Weight of the multi-scale gradient loss beside L1."""
    ssim_weight: float = 0.0
    """Weight of 1 - SSIM."""
    lpips_weight: float = 0.0
    """Weight of LPIPS (needs downloaded weights)."""
    lpips_backbone: str = ""
    """File of LPIPS's VGG16 (torchvision's vgg16-397923af.pth); empty: in PyTorch's cache, else downloaded."""
    lpips_calibration: str = ""
    """File of LPIPS's own weights (vgg.pth of version 0.1); empty: as before, or of an installed package lpips."""
    clamp_output: bool = False
    """The losses see the decoder's output clamped to [-1,1], as in the release; else they draw back what is outside."""
    quantizer_weight: float = 1.0
    cycle_weight: float = 0.0
    """Weight of the cycle loss: the output, encoded again, should be the canvas that it was decoded from. With it a
    picture that was made with a structure has that structure when it is tokenized."""
    discriminator: Literal["", "patch", "lite", "dino"] = ""
    """Adversarial loss: none, a PatchGAN that needs no weights, or heads on frozen features of EfficientNet-Lite0 (of
    the extra `judge`) or of DINO."""
    discriminator_encoder: str = DINO_SMALL.name
    """The DINO discriminator's transformer: a hub id, a folder, or a file of torch.hub."""
    adversarial_weight: float = 0.1
    adversarial_by_image: bool = False
    """The autoencoder's adversarial loss takes the mean of an image's logits first, as in the release; else every patch
    must look real by itself."""
    adversarial_start: int = 0
    """The step from which there is an adversarial loss."""
    discriminator_loss: Literal["hinge", "non-saturating"] = "hinge"
    discriminator_learning_rate: float = 1e-4
    discriminator_weight_decay: float = 5e-4
    discriminator_width: int = 32
    """Channels of the PatchGAN's first layer."""
    discriminator_layers: int = 3
    """Halvings of the PatchGAN: 3 judge patches of 70 pixels, 2 of 34, 1 of 16."""
    lecam_weight: float = 0.001
    separation_weight: float = 0.0
    """Weight of the separation loss, by which the latents of a picture fall into two parts that lie apart. With it the
    first split shows what stands out, and survives small changes of the picture. Beside the cycle loss also of the
    output, encoded again."""
    separation_by: Literal["spread", "subject"] = "spread"
    """The two parts: halves along the latents' largest spread, or the subject and its background, by the opacity of
    the pictures."""
    separation_within: float = 0.03
    """Parts are far enough apart where no larger share of the latents' variance lies within them."""
    separation_start: int = 0
    """The step at which the cycle and separation losses set in and the learning rate starts again from its peak.
    Before the latents show anything these losses would make them all alike."""
    decoder_only: bool = False
    """Leaves encoder and codes as they are, so that generators trained on them stay valid: an adversarial finish."""


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe(TokenizerRecipe):
    """Settings of the training of a decoder for a tokenizer that stays as it is."""

    cached_views: int = 0
    """Random views whose canvases are cached, every class equally often; 0: tokenizes images in every step, with the
    losses of the tokenizer."""
    perceptual_weight: float = 0.0
    """Weight of the distance in the features of EfficientNet-Lite0 (needs the extra `judge`)."""
    drawn: float = 0.0
    """Share of the canvases whose last stages the content generator draws, as sampling does, so that the decoder
    learns to make clean pictures of them (needs a checkpoint with generators to start from)."""
    generated: int = 0
    """Generated pictures whose canvases are kept; half as many of them as of views come into every step, and need only
    convince the discriminator (needs a checkpoint with generators to start from)."""
    opacity_weight: float = 0.5
    """Weight of the error of the opacity."""
    output_channels: Literal[3, 4] = 3
    """Channels of the decoder's pictures: colours, or colours and opacity."""
    output_scale: int = 1
    """Pixels along each side of the decoder's pictures for one of the pictures that are encoded."""
    decoder_channels: tuple[int, ...] = ()
    """Channels of each level of the decoder, finest first; empty: as the tokenizer's own. One that is wider everywhere
    starts from what that has learnt, others anew."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe(Running):
    """Settings of the generators' training (paper section 3.1; sizes for small machines)."""

    batch: int = 64
    ema: float = 0.9995
    networks: Literal["both", "content", "structure"] = "both"
    """Which of the two generators is trained."""
    content_depth: int = 0
    """Blocks of the content generator; 0: as the recipe or the checkpoint to fine-tune has. What is more than the
    checkpoint has changes nothing until it is trained; what is less is left out, evenly."""
    structure_depth: int = 0
    """The same of the structure generator."""
    cached_views: int | None = None
    """Random views whose tokens are cached, every class equally often; 0: straight from images, without a cache. None:
    32 of every picture, but no more than 24,000 of a set that has fewer pictures."""
    content_stages: int = 3
    """Stages of the content generator trained per image and step."""
    structure_stages: int = 2
    """Stages of the structure generator trained per image and step."""
    content_stage_odds: tuple[float, ...] = ()
    """How likely each stage is drawn, relative to the others; empty: all alike."""
    structure_stage_odds: tuple[float, ...] = ()
    """The same for the structure generator's splits."""
    content_stage_weights: tuple[float, ...] = ()
    """Weight of each stage in the loss, relative to the others; empty: all alike."""
    structure_stage_weights: tuple[float, ...] = ()
    """The same for the structure generator's splits."""
    split_weight: float = 0.0
    """Share of the structure generator's loss that looks only at the channel by which the positions are split. The
    paper's loss is the mean over all channels, most of which are finer splits that nothing tells yet."""
    time_logit: tuple[float, float] = (0.0, 1.0)
    """Mean and deviation of the logit of the structure flow's times in training; the paper's draw almost none near 1,
    where sampling in few steps begins."""
    token_noise: float = 0.0
    """Largest share of the tokens of an image that are exchanged for wrong ones on the canvases that the generators
    see, so that they learn to make up for mistakes as sampling makes them (every image has a share between 0 and
    this one)."""
    own_tokens: float = 0.0
    """Share of the images for which the content generator itself draws, from a random one of the later stages on, the
    tokens of the canvases that are seen, so that it learns to make up for its own mistakes."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Of the blocks' matrices; everything else has AdamW."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    matrix_learning_rate: float = 2e-3
    """Of Muon."""
    head_learning_rate: float = 5e-3
    """Of AdamW, for the code head: codes of late stages are small vectors, so its weights have far to grow."""
    class_learning_rate: float = 0.0
    """Of AdamW, for the class embeddings; 0: as for everything else."""
    class_steps: int = 0
    """Steps at the start, but no more than a fifth of all, in which the class embeddings alone are trained: in
    fine-tuning, what is new takes its place before the networks change for it."""
    weight_decay: float = 0.05
    """Of the matrices."""
    decay_all: bool = False
    """Of the code head and the start canvas too, as in the release."""
    warmup: int = 200
    warmup_start: float = 0.0
    """Factor on the rate at step 0 (the release's: 0.005); 0: 1/warmup."""
    decay: float = 0.2
    """Share of the steps, at the end, over which the rate falls."""
    decay_after_warmup: bool = False
    """The rate starts to fall as many steps later as the warm-up takes, as in the release."""
    final_rate: float = 0.1
    """Factor on the rate at the end."""
    initialisation: Literal["normal", "xavier"] = "normal"
    """Of the weights: normal with a deviation of 0.02 and a code head made of the codes, or the release's
    (`training.warm_start`)."""
    order: Order = "balanced"
    """Of the pictures, or of the cached views: drawn with replacement, every class of pictures equally often, or
    epochs, in which every one comes once (the paper's)."""
    label_dropout: float = 0.1
    repa_weight: float = 0.0
    """Weight of REPA, which aligns the content generator's tokens with the features of a frozen DINOv2."""
    repa_layer: int = 8
    """The block after which the tokens are aligned."""
    repa_encoder: str = DINOV2_BASE.name
    """A hub id, a folder, or a file of torch.hub."""
    lora_rank: int = 0
    """Trains low-rank changes of the blocks' matrices instead of all weights; 0: all weights."""
    checkpoint_blocks: bool = False
    """Computes the blocks' activations again in the backward pass, to save memory."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: copies of the networks, or the networks parted among the processes."""


@dataclass(frozen=True, kw_only=True)
class ConversionRecipe(Running):
    """Settings of a training that makes a trained network cheaper to run."""

    batch: int = 32
    ema: float = 0.995
    teacher: str = ""
    """A checkpoint to convert (a name, a file or a hub id) instead of the run's own generator."""
    largest_guidance: float = 6.0
    """The converted network knows the guidance scales from 1 to this one."""
    label_dropout: float = 0.1
    learning_rate: float = 5e-4
    """Of AdamW."""
    matrix_learning_rate: float = 1e-3
    """Of Muon, for the blocks' matrices."""
    warmup: int = 50


@dataclass(frozen=True, kw_only=True)
class GuidanceRecipe(ConversionRecipe):
    """Settings of the conversion of a trained content generator into one that has its guidance inside."""

    steps: int = 1500
    content_stages: int = 2
    """Stages trained per image and step."""
    token_noise: float = 0.15
    """Largest share of the tokens of an image that are exchanged for wrong ones on the canvases that are seen, so that
    canvases as sampling makes them are among them."""


@dataclass(frozen=True, kw_only=True)
class FewStepRecipe(ConversionRecipe):
    """Settings of the conversion of a trained structure flow into one of few steps."""

    steps: int = 2000
    objective: Literal["trajectory", "meanflow", "shortcut"] = "trajectory"
    """Where the average velocity comes from: the teacher's path, its derivative, or its own two halves."""
    structure_stages: int = 1
    """Splits trained per image and step."""
    teacher_steps: int = 8
    """Steps of the teacher's path, for the objective trajectory."""
    spans: int = 4
    """Spans of each of these paths that are learned at once."""
    split_weight: float = 0.5
    """Share of the loss that looks at the one channel by which the positions are split."""
    adaptive_power: float = 0.5
    """Rows weigh 1 / error^power (MeanFlow); 0: all alike."""
    sampling_steps: int = 2
    """Default number of steps of the converted checkpoint."""
    table_images: int = 48
    """Generated images on which the splits are compared."""
    frechet_pictures: int = 0
    """Pictures generated for every Frechet distance of the table, some thousands; 0: leaves it out."""


FINISH = DecoderRecipe(
    steps=1000, learning_rate=3e-4, soft_assignment_steps=0, discriminator="patch", discriminator_layers=2
)
"""An adversarial finish that needs no downloads."""


@dataclass(frozen=True)
class Recipe:
    """A whole training: data, tokenizer, generator."""

    name: str
    config: NVGConfig
    tokenizer: TokenizerRecipe
    generator: GeneratorRecipe
    decoder: DecoderRecipe = FINISH
    """Training of the tokenizer's decoder once more, with encoder and codes as they are."""
    few_step: FewStepRecipe = field(default_factory=FewStepRecipe)
    guidance: GuidanceRecipe = field(default_factory=GuidanceRecipe)
    views: AugmentationSettings = field(default_factory=AugmentationSettings)
    tokenizer_views: AugmentationSettings | None = None
    """Those of the tokenizer's training, if it has others."""
    classes: tuple[str, ...] = ()
    """Class names in order; empty: those of the data."""
    start: str = ""
    """A checkpoint to fine-tune: its tokenizer is kept, its generators are trained on, with the data's classes."""
    sampling: SamplingSettings | None = None
    """Sampling defaults, written into the exported checkpoint; None: those of the checkpoint that it starts from, or
    the paper's."""
    seed: int = 0
    licence: str = ""
    """Licence of the weights, written into the exported checkpoint."""
    attribution: str = ""

    def views_of(self, part: str) -> AugmentationSettings:
        """Those of a part's training, by the name of its field."""
        return (self.tokenizer_views if part == "tokenizer" else None) or self.views

    def dataset(self, data: Path | str, split: Split, classes: Sequence[str] = ()) -> ImageDataset:
        """The pictures of `data` as this recipe wants them. Raises TrainingError (`open_dataset`)."""
        wanted = classes or self.classes or None
        return open_dataset(data, self.config.image_size, wanted, split, margin=self.views.margin)

    def resolved(self) -> Recipe:
        """With the sizes of the checkpoint that it starts from, if it does."""
        return dataclasses.replace(self, config=nvg_model.load(self.start).config) if self.start else self
