"""Training of the tokenizer: `python -m training tokenizer RECIPE` (paper sections 2.1 and 3.1).

Shapes: images [B,3,H,W] in [-1,1]; latent [B,L,C]; S stages.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.quantizer import quantizer_loss, straight_through
from nvg_model.structure import cluster
from nvg_model.tokenizer import Tokenizer
from training.data.pictures import Pictures, load_pictures
from training.data.views import draw_balanced, draw_views, plain_views, stream
from training.loop import LoopSettings, train
from training.losses.reconstruction import multiscale_gradient, psnr
from training.optim import cosine
from training.recipes.base import Recipe, TokenizerRecipe


def train_tokenizer(recipe: Recipe, data: Path, run: Path) -> Path:
    """Trains, or goes on training, the tokenizer of `recipe` on `data`/train in `run`/tokenizer.

    Returns:
        The file with the averaged weights. `report.json` beside it holds PSNR and code usage on the held-out set.
    """
    settings, folder = recipe.tokenizer, run / "tokenizer"
    pictures = load_pictures(data / "train", recipe.config.image_size, recipe.classes or None)
    torch.manual_seed(recipe.seed)  # the initial weights only; nothing else here uses the global generator
    tokenizer = Tokenizer(recipe.config)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times faster on CPUs
    optimizer = torch.optim.AdamW(
        tokenizer.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = stream(recipe.seed, step * settings.batch)
        index = draw_balanced(pictures.labels, len(pictures.classes), settings.batch, generator)
        images = draw_views(pictures, index, recipe.views, generator)
        return tokenizer_loss(tokenizer, images, settings, soft_assignment=step < settings.soft_assignment_steps)

    average = train(
        tokenizer,
        [optimizer],
        loss,
        lambda step: cosine(step, settings.steps, settings.warmup),
        LoopSettings(settings.steps, settings.batch, recipe.seed, settings.ema),
        folder,
    )
    return _finish(tokenizer, average.state_dict(), recipe, data, folder)


def tokenizer_loss(
    tokenizer: Tokenizer, images: Tensor, settings: TokenizerRecipe, soft_assignment: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 + multi-scale gradient + quantiser loss of a batch of images, and its parts for the log."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
        latent = tokenizer.encode(images)
    _, canvases = tokenizer.quantizer(latent, cluster(latent), soft_assignment)
    canvas = canvases[:, -1]
    if soft_assignment:  # the soft assignment has a gradient of its own to the codebook
        canvas = canvas + (latent - latent.detach())
    else:
        canvas = straight_through(latent, canvas)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
        output = tokenizer.decoder(canvas.mT.unflatten(2, tokenizer.grid)).float()
    parts = {
        "l1": F.l1_loss(output, images),
        "gradient_loss": multiscale_gradient(output, images),
        "quantizer": quantizer_loss(latent, canvases),
    }
    total = (
        parts["l1"] + settings.gradient_weight * parts["gradient_loss"] + settings.quantizer_weight * parts["quantizer"]
    )
    parts["psnr"] = psnr(output, images).mean()
    return total, {name: value.detach() for name, value in parts.items()}


def _finish(tokenizer: Tokenizer, weights: dict[str, Tensor], recipe: Recipe, data: Path, folder: Path) -> Path:
    """Saves the averaged weights and the report on the held-out pictures."""
    tokenizer.load_state_dict(weights)
    path = folder / "tokenizer.pt"
    torch.save(weights, path)
    held_out = load_pictures(data / "held-out", recipe.config.image_size, recipe.classes or None)
    report = evaluate_tokenizer(tokenizer, held_out)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    print(f"tokenizer: {path}; held out: {json.dumps(report)}")
    return path


@torch.inference_mode()
def evaluate_tokenizer(tokenizer: Tokenizer, pictures: Pictures, batch: int = 64) -> dict[str, object]:
    """Mean PSNR in decibels and, per stage, the share of codes used, on pictures over white."""
    tokenizer.eval()
    values, used = [], torch.zeros(len(tokenizer.quantizer.refiners), len(tokenizer.quantizer.codebook))
    for start in range(0, len(pictures), batch):
        images = plain_views(pictures, torch.arange(start, min(start + batch, len(pictures))))
        sequence = tokenizer.tokenize(images)
        values.append(psnr(tokenizer.decode(sequence.canvases[:, -1]), images))
        for stage in range(sequence.num_stages):
            used[stage].scatter_(0, sequence.tokens[:, stage].flatten(), 1.0)
    return {
        "pictures": len(pictures),
        "psnr": round(float(torch.cat(values).mean()), 2),
        "codes_used": round(float(used.amax(0).mean()), 4),
        "codes_used_per_stage": [round(float(share), 4) for share in used.mean(1)],
    }
