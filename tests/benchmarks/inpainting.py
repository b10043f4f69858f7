"""What inpainting does to pictures, in numbers:

    python tests/benchmarks/inpainting.py ~/nvg-data/emoji128

The second held-out picture of every class, with a part of it drawn anew as its own class by two seeds: the right half,
a corner, a hole of about the size of an eye. `--coarse` gives the numbers of first stages in which clusters with kept
positions have tokens of the reference (`editing.COARSE`).

colour     Difference of the part's mean colour from that of the real one (0 to 2, mean of red, green and blue).
pixels     Difference of its pixels from the real ones.
seam       Difference of neighbouring pixels across the border of the part, over that of all other neighbours.
diversity  Difference of the pixels of both seeds inside the part.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import nvg_model
from nvg_model import editing
from nvg_model.render import grid, to_pil
from nvg_model.tokenizer import on_white

PARTS = {"half": (0, 1 / 2, 1, 1), "corner": (1 / 2, 1 / 2, 1, 1), "hole": (5 / 16, 9 / 16, 1 / 2, 3 / 4)}
"""Top, left, bottom and right as shares of a side."""


def pictures(data: str, classes: tuple[str, ...]) -> Tensor:
    """One of every class, on white: [C,3,H,W]."""
    files = [sorted(Path(data, "held-out", name).glob("*.png"))[1] for name in classes]
    values = [torch.from_numpy(np.array(Image.open(file).convert("RGBA"))) for file in files]
    return on_white(torch.stack(values).permute(0, 3, 1, 2).float() / 127.5 - 1)


def mask_of(part: str, size: tuple[int, int]) -> Tensor:
    """float [H,W]."""
    (height, width), (top, left, bottom, right) = size, PARTS[part]
    mask = torch.zeros(size)
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = 1
    return mask


def seam_ratio(images: Tensor, mask: Tensor) -> float:
    """Of neighbours across the border of the mask [H,W], to all others."""
    steps = torch.cat([images.diff(dim=axis).abs().mean((0, 1)).flatten() for axis in (2, 3)])
    border = torch.cat([mask.diff(dim=axis).abs().flatten() for axis in (0, 1)]) > 0
    return float(steps[border].mean() / steps[~border].mean())


def measured(real: Tensor, drawn: list[Tensor], mask: Tensor) -> dict[str, float]:
    """Of pictures [B,3,H,W] drawn by two seeds."""
    inside, both = mask > 0, torch.stack(drawn)
    difference = (both - real)[..., inside]
    return {
        "colour": float(difference.mean(-1).abs().mean()),
        "pixels": float(difference.abs().mean()),
        "seam": sum(seam_ratio(one, mask) for one in drawn) / len(drawn),
        "diversity": float((both[0] - both[1])[..., inside].abs().mean()),
    }


def main() -> None:
    """Prints a row for every part and rule; writes sheets of what was measured, real pictures first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="pictures with opacity, as training reads them: DATA/held-out/CLASS/*.png")
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--coarse", nargs="+", type=int, default=[0, editing.COARSE])
    parser.add_argument("--sheets", help="a folder for pictures")
    args = parser.parse_args()
    model = nvg_model.load(args.model)
    real = pictures(args.data, model.classes)
    for part in args.parts:
        mask = mask_of(part, tuple(real.shape[2:]))
        print(f"{part:<8}{'real':<8}seam {seam_ratio(real, mask):.2f}", flush=True)
        tiles = to_pil(real)
        for stages in args.coarse:
            editing.COARSE = stages  # no setting: only measured here
            start = time.process_time()
            drawn = [model.inpaint(real, mask, model.classes, seed) for seed in range(2)]
            assert all(torch.equal(one[..., mask == 0], real[..., mask == 0]) for one in drawn)
            found = ", ".join(f"{name} {value:.3f}" for name, value in measured(real, drawn, mask).items())
            seconds = time.process_time() - start
            print(f"{part:<8}{stages:<8}{found}  ({seconds:.0f} s)", flush=True)
            tiles += [tile for one in drawn for tile in to_pil(one)]
        if args.sheets:
            grid(tiles, len(real)).save(f"{args.sheets}/inpaint-{part}.png")


if __name__ == "__main__":
    main()
