"""What the paper's trainings cost, estimated from counted operations: `python tests/benchmarks/training_cost.py`.

Counted: the matrix products and attention of the forward passes on the meta device (nothing is computed), times three
for the backward pass. Assumed: the share of a GPU's bfloat16 peak that such a training reaches.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from nvg_model.config import PRESETS, NVGConfig
from nvg_model.model import NVG
from training.recipes import recipe

PEAK = 312e12
"""Of an A100 in bfloat16, operations a second."""
SHARE = 0.4
FORWARD_AND_BACKWARD = 3
BYTES = 4 * (1 + 1 + 2 + 1)
"""Per parameter, float32: weight, gradient, AdamW's two moments, average."""


def operations(config: NVGConfig) -> tuple[int, int, int]:
    """Operations of one forward pass for one row: content, structure, and of tokenizing an image."""
    with torch.device("meta"):
        nvg = NVG(config)
        L, K, C = config.positions, config.splits, config.autoencoder.latent_channels
        labels, one = torch.zeros(1, L, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        canvas = torch.zeros(1, L, C)
        counts = []
        for call in (
            lambda: nvg.content.logits(nvg.content(canvas, labels, one, one)),
            lambda: nvg.structure(torch.zeros(1, L, K), torch.zeros(1), canvas, labels, one, one),
            lambda: nvg.tokenizer.encoder(torch.zeros(1, 3, *config.image_size)),
        ):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                call()
            counts.append(counter.get_total_flops())
    return counts[0], counts[1], counts[2]


def main() -> None:
    """Prints the table of docs/training.md."""
    print("| preset | parameters | images | operations an image | A100 hours | weights and optimiser |")
    print("|---|---|---|---|---|---|")
    for name in ("d12", "d16", "d20", "d24"):
        config, settings = PRESETS[name], recipe(name).generator
        content, structure, encode = operations(config)
        rows = config.num_stages, config.splits - 1
        image = FORWARD_AND_BACKWARD * (rows[0] * content + rows[1] * structure) + encode
        images = settings.steps * settings.batch
        with torch.device("meta"):
            nvg = NVG(config)
        count = sum(one.numel() for network in (nvg.content, nvg.structure) for one in network.parameters())
        hours = image * images / (PEAK * SHARE) / 3600
        print(
            f"| {name} | {count / 1e6:.0f}M | {images / 1e6:.0f}M | {image / 1e12:.2f} T | {hours:,.0f} | "
            f"{count * BYTES / 2**30:.1f} GiB |"
        )


if __name__ == "__main__":
    main()
