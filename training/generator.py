"""Training of both generators from cached tokens: `python -m training generator RECIPE` (paper sections 2.2 and 3.1).

Shapes: B images, S = K+1 stages, L positions, C latent channels, R rows (one per image and stage trained in a step).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model import structure as hierarchy
from nvg_model.model import NVG
from nvg_model.quantizer import Quantizer
from nvg_model.structure_flow import known_channels
from training.data import DataError
from training.data.cache import TokenCache, load_or_make
from training.data.pictures import load_pictures
from training.data.views import stream
from training.loop import LoopSettings, train
from training.optim import warmup_stable_decay
from training.recipes.base import GeneratorRecipe, Recipe


@dataclass(frozen=True)
class Batch:
    """Teacher-forced stages of B images."""

    structure: Tensor
    """long [B,S,L]."""
    canvases: Tensor
    """float [B,S,L,C], after each stage."""
    codes: list[Tensor]
    """long [B,2^i] of each stage."""
    classes: Tensor
    """long [B], some of them dropped to the null class."""


def train_generator(recipe: Recipe, data: Path, run: Path) -> Path:
    """Trains, or goes on training, both generators of `recipe` in `run`/generator, on the tokenizer of `run`.

    Returns:
        The file with the averaged weights.
    """
    settings, folder = recipe.generator, run / "generator"
    pictures = load_pictures(data / "train", recipe.config.image_size, recipe.classes or None)
    torch.manual_seed(recipe.seed)  # the initial weights
    nvg = NVG(recipe.config, pictures.classes)
    nvg.tokenizer.load_state_dict(tokenizer_weights(run))
    nvg.tokenizer.requires_grad_(False).eval()
    cache = load_or_make(
        folder / "cache.safetensors", nvg.tokenizer, pictures, recipe.views, settings.views, recipe.seed
    )
    prepare(nvg, cache)
    networks = nn.ModuleDict({"content": nvg.content, "structure": nvg.structure})

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = stream(recipe.seed, 2, step * settings.batch)
        index = torch.randint(len(cache), (settings.batch,), generator=generator)
        batch = assemble(cache, index, nvg.tokenizer.quantizer)
        dropped = torch.rand(settings.batch, generator=generator) < settings.label_dropout
        batch.classes[dropped] = len(pictures.classes)
        content, parts = content_loss(nvg, batch, settings, generator)
        structure, more = structure_loss(nvg, batch, settings, generator)
        splits = recipe.config.splits
        return content + structure * (splits + 1) / (splits - 1), parts | more

    average = train(
        networks,
        optimizers(networks, settings),
        loss,
        lambda step: warmup_stable_decay(step, settings.steps, settings.warmup, settings.decay),
        LoopSettings(settings.steps, settings.batch, recipe.seed, settings.ema),
        folder,
    )
    path = folder / "generator.pt"
    torch.save(average.state_dict() | dict(networks.named_buffers()), path)
    print(f"generator: {path}")
    return path


def tokenizer_weights(run: Path) -> dict[str, Tensor]:
    """The averaged weights of the run's finished tokenizer. Raises DataError where there are none."""
    path = run / "tokenizer" / "tokenizer.pt"
    if not path.is_file():
        raise DataError(f"there is no trained tokenizer {path}; run `python -m training tokenizer` to its end first")
    return torch.load(path, weights_only=True)


def optimizers(networks: nn.Module, settings: GeneratorRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else; weight decay on matrices only."""
    matrices, tables, vectors, head = [], [], [], []
    for name, parameter in networks.named_parameters():
        if ".code_head." in name:
            head.append(parameter)
        elif parameter.dim() < 2 or name.endswith(("qk_scale", "start_canvas")):
            vectors.append(parameter)
        elif ".linear_" in name:
            matrices.append(parameter)
        else:
            tables.append(parameter)
    decay = settings.weight_decay
    return [
        torch.optim.Muon(
            matrices, lr=settings.matrix_learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": tables, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
                {"params": head, "weight_decay": 0.0, "lr": settings.head_learning_rate},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
        ),
    ]


@torch.no_grad()
def prepare(nvg: NVG, cache: TokenCache, sample: int = 512) -> None:
    """Initial weights, and what is measured on the data: the canvases' scales and a useful first code head."""
    nvg.content.initialize()
    nvg.structure.initialize()
    batch = assemble(cache, torch.arange(min(sample, len(cache))), nvg.tokenizer.quantizer)
    scales = 1 / batch.canvases.std(dim=(0, 2, 3))
    nvg.content.canvas_scales[0] = 1.0
    nvg.content.canvas_scales[1:] = scales
    # Scores by squared distance, 2 z.e - |e|^2: the nearest code is a little likelier from the start. Sharper scores
    # would punish the first, wrong predictions (on emoji64 a tenth starts at 6.5 nats, the whole at 20).
    codebook = nvg.tokenizer.quantizer.codebook
    sharpness = 0.1 / codebook.square().sum(-1).mean()
    nvg.content.code_head.weight.copy_(2 * sharpness * codebook)
    nvg.content.code_head.bias.copy_(-sharpness * codebook.square().sum(-1))


@torch.no_grad()
def assemble(cache: TokenCache, index: Tensor, quantizer: Quantizer) -> Batch:
    """Structure, canvases and codes of the cached views `index` [B]."""
    structure = hierarchy.all_stages(cache.finest[index].long())
    codes = [cache.codes(index, stage) for stage in range(structure.shape[1])]
    canvas = torch.zeros(*structure.shape[::2], quantizer.codebook.shape[1])
    canvases = []
    for stage, code in enumerate(codes):
        canvas = quantizer.add_stage(canvas, code, structure[:, stage], stage)
        canvases.append(canvas)
    return Batch(structure, torch.stack(canvases, 1), codes, cache.classes[index].long())


def draw_stages(
    batch: int, stages: int, count: int, generator: torch.Generator, odds: tuple[float, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Rows of a step: `count` different stages of every image; (image [R], stage [R]), R = batch * count.

    Args:
        odds: how likely each of the `stages` is drawn first, relative to the others; empty: all alike.
    Raises:
        DataError: not as many odds as stages, or one that is not positive.
    """
    if odds and (len(odds) != stages or min(odds) <= 0):
        raise DataError(f"{len(odds)} stage odds {odds} for {stages} stages; give one positive number for each")
    # The smallest of exponential times with these rates: drawing without replacement.
    times = -torch.rand(batch, stages, generator=generator).log() / torch.tensor(odds or (1.0,))
    order = times.argsort(dim=1)[:, : min(count, stages)]
    return torch.arange(batch).repeat_interleave(order.shape[1]), order.flatten()


def content_loss(
    nvg: NVG, batch: Batch, settings: GeneratorRecipe, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over rows of mse(x_hat, final canvas) + cross-entropy of the tokens, and its parts for the log."""
    stages = batch.structure.shape[1]
    row, stage = draw_stages(
        len(batch.classes), stages, settings.content_stages, generator, settings.content_stage_odds
    )
    before = torch.where(stage[:, None, None] > 0, batch.canvases[row, stage - 1], 0.0)
    with torch.autocast(before.device.type, torch.bfloat16, enabled=settings.bfloat16):
        final = nvg.content(before, batch.structure[row, stage], batch.classes[row], stage)
    mse = F.mse_loss(final, batch.canvases[row, -1])
    entropy, parts = mse.new_zeros(()), {"content_mse": mse.detach()}
    for one in range(stages):
        rows = (stage == one).nonzero().squeeze(1)
        if len(rows):
            image = row[rows]
            change = hierarchy.cluster_means(final[rows] - before[rows], batch.structure[image, one], 2**one)
            value = F.cross_entropy(nvg.content.logits(change).flatten(0, 1), batch.codes[one][image].flatten())
            entropy = entropy + value * (len(rows) / len(row))
            parts[f"entropy_{one}"] = value.detach()
    return mse + entropy, parts


def structure_loss(
    nvg: NVG, batch: Batch, settings: GeneratorRecipe, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rectified-flow loss: mse between noise - v and the embedding s, the channels before the stage known."""
    images, splits = len(batch.classes), nvg.config.splits
    row, stage = draw_stages(images, splits - 1, settings.structure_stages, generator, settings.structure_stage_odds)
    clean = known_channels(batch.structure[:, -1], splits, splits)
    noise = torch.randn(clean.shape, generator=generator)  # one per image, for all of its stages
    t = torch.randn(len(row), generator=generator).sigmoid()
    known = torch.arange(splits) < stage[:, None, None]
    noise, clean = torch.where(known, clean[row], noise[row]), clean[row]
    z = torch.lerp(clean, noise, t[:, None, None])
    with torch.autocast(z.device.type, torch.bfloat16, enabled=settings.bfloat16):
        velocity = nvg.structure(
            z, t, batch.canvases[row, stage], batch.structure[row, stage], batch.classes[row], stage
        )
    error = (noise - velocity - clean).square()
    decides = error.gather(2, stage[:, None, None].expand(-1, clean.shape[1], 1))  # the channel that is used
    return error.mean(), {"structure_mse": error.detach().mean(), "structure_split_mse": decides.detach().mean()}
