"""Memory: what a row of network input takes, and what is free, so that too much is said before it runs.

MiB of a further row, float32 on a CPU (`tests/benchmarks/memory.py`: growth of the largest resident size from 1 to 8
regions; d12's structure in another run: 16.1), beside what is said here:

    =========  =======  =========  ======
    weights    content  structure  said
    =========  =======  =========  ======
    emoji64    2.1      2.9        3.6
    d12        15.1     28.2       28.6
    =========  =======  =========  ======

Shapes: B images, M rows at once, L positions, V codes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError

_LIVE = 38
"""Tensors of a block's tokens that live at once: 16 to 37 by measured peaks, which the allocator makes uneven."""
_LOGITS = 8
"""Copies of an image's logits, float32, while tokens are chosen: four, with and without class."""


def row_bytes(config: NVGConfig, element: int) -> int:
    """Bytes per row of a batch while a network runs, without weights.

    Args:
        element: bytes of a number in the precision of the weights.
    """
    generator, positions = config.generator, config.positions
    assert generator is not None
    tokens = (1 + 2 * positions) * generator.structure_width, (1 + positions) * generator.content_width
    return _LIVE * element * max(tokens)


def image_bytes(config: NVGConfig) -> int:
    """Bytes that an image takes while its tokens are chosen, however many rows it has."""
    return _LOGITS * 4 * config.positions * config.autoencoder.codebook_size


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


def check_regions(rows: int, images: int, each: int, image: int, free: int | None) -> None:
    """Raises NVGError where the rows of all regions do not fit, with the number of regions that do.

    Args:
        rows: M, of all regions, the rest of the pictures, and the null class.
        images: of the batch; the rest and the null class take a row for each.
        each: bytes of a row.
        image: bytes of an image besides.
        free: bytes; None: unknown, which is no reason to refuse.
    """
    wanted = rows * each + images * image
    if free is None or wanted <= free:
        return
    fit = max(0, (free // images - image) // each - 2)
    fewer = f"{fit} region{'s' * (fit != 1)} an image fit" if fit else "not one region an image fits"
    raise NVGError(
        f"the regions of {images} image{'s' * (images != 1)} are {rows} network inputs at once, about "
        f"{wanted / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; {fewer}: use fewer regions or images"
    )
