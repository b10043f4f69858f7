"""The random weights that the paper's release starts from; ours stand in `nvg_model.transformer.initialize`."""

from __future__ import annotations

from torch import nn

from nvg_model.model import NVG


def as_released(nvg: NVG) -> None:
    """Both generators: Xavier-uniform matrices, zero biases, embeddings normal 0.02, a standard normal start canvas."""
    for network in (nvg.content, nvg.structure):
        xavier(network)
    nn.init.normal_(nvg.content.start_canvas)


def xavier(module: nn.Module) -> None:
    """Linear layers and embeddings of a module; everything else stays as it is."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
