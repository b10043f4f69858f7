"""Memory: what a row of network input takes, and what is free, so that too much is said before it runs.

Shapes: M rows at once, L positions, V codes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError

_LIVE = 16
"""Tensors of a block's tokens that live at once: input, normalised, queries, keys, values, four of the MLP twice."""
_LOGITS = 4
"""Copies of the logits, float32, while tokens are chosen."""


def row_bytes(config: NVGConfig, element: int) -> int:
    """Bytes per row of a batch while a network runs, without weights.

    Args:
        element: bytes of a number in the precision of the weights.
    """
    generator, positions = config.generator, config.positions
    assert generator is not None
    tokens = (1 + 2 * positions) * generator.structure_width, (1 + positions) * generator.content_width
    logits = _LOGITS * 4 * positions * config.autoencoder.codebook_size
    return max(_LIVE * element * tokens[0], _LIVE * element * tokens[1] + logits)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where it does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.is_file():
        return None
    lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def check_regions(rows: int, images: int, each: int, free: int | None) -> None:
    """Raises NVGError where the rows of all regions do not fit, with the number of regions that do.

    Args:
        rows: M, of all regions, the rest of the pictures, and the null class.
        images: of the batch; the rest and the null class take a row for each.
        each: bytes of a row.
        free: bytes; None: unknown, which is no reason to refuse.
    """
    if free is None or rows * each <= free:
        return
    fit = max(0, free // (each * images) - 2)
    fewer = f"{fit} region{'s' * (fit != 1)} an image fit" if fit else "not one region an image fits"
    raise NVGError(
        f"the regions of {images} image{'s' * (images != 1)} are {rows} network inputs at once, about "
        f"{rows * each / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; {fewer}: use fewer regions or images"
    )
