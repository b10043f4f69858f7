"""`tests/device/train.sh`: trains a recipe from what `pack.py` packed for so many minutes, and leaves what there is."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tarfile
from pathlib import Path

import torch
from emoji_training import sheet

import nvg_model
from nvg_model.errors import NVGError
from training.errors import TrainingError
from training.export import export
from training.recipes import recipe
from training.recipes.base import Recipe
from training.stopping import Interrupted
from training.warm_start import has_trained_generator
from training.whole import train_all

PART = 15_000_000
"""Bytes of a part of the checkpoint: files above 16 MB are not brought back."""
LOGS = ("log.jsonl", "run.json", "report.json", "best.json")


def train(chosen: Recipe, pack: Path, work: Path, out: Path, minutes: float) -> bool:
    """Trains in `work` and leaves the results in `out`; returns whether all is done."""
    there = unpacked(pack, work / "pack")
    sys.path.insert(0, str(there / "packages"))  # the weights of the decoder's loss
    file, run = work / f"{chosen.name}.safetensors", work / "run"
    larger = there / "decoder-data"
    try:
        done = train_all(chosen, there / "data", run, file, larger if larger.is_dir() else None, minutes)
        if done is None and has_trained_generator(run):
            export(chosen, run, file)
    finally:
        keep_logs(run, out / "logs.tar.gz")
    if file.is_file():
        leave(file, out)
    return done is not None


def unpacked(pack: Path, folder: Path) -> Path:
    """The folder with what was packed. Raises TrainingError where there is no such file."""
    if not pack.is_file():
        raise TrainingError(f"there is no {pack}; make it with tests/device/pack.py and carry it along")
    content, mark = hashlib.sha256(pack.read_bytes()).hexdigest(), folder / "sha256"
    if not mark.is_file() or mark.read_text() != content:
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(pack) as tar:
            tar.extractall(folder, filter="data")
        mark.write_text(content)
    return folder


def leave(file: Path, out: Path) -> None:
    """The checkpoint in parts with its sum, and pictures of it."""
    for old in out.glob(f"{file.name}.part-*"):
        old.unlink()
    content = file.read_bytes()
    for number, start in enumerate(range(0, len(content), PART)):
        (out / f"{file.name}.part-{number}").write_bytes(content[start : start + PART])
    (out / f"{file.name}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    print(f"in {out}; to join: cat {file.name}.part-* > {file.name} && sha256sum -c {file.name}.sha256", flush=True)
    model = nvg_model.load(str(file), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    sheet(model, 2).save(out / "sheet.png")


def keep_logs(run: Path, path: Path) -> None:
    """What every part says of its training."""
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(one for name in LOGS for one in run.glob(f"*/{name}")):
            tar.add(file, file.relative_to(run))


def main() -> int:
    """From the command line: 0 done or out of time, 2 a mistake, 130 stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a name, or the path of a recipe that is a .py file")
    parser.add_argument("--pack", type=Path, help="build/carry/RECIPE.tar by default")
    parser.add_argument("--work", type=Path, help="where the training is kept: build/train/RECIPE by default")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/device")))
    parser.add_argument("--minutes", type=float, default=8.5, help="save and stop after so many; 0: when all is done")
    given = parser.parse_args()
    try:
        chosen = recipe(given.recipe)
        given.out.mkdir(parents=True, exist_ok=True)
        pack = given.pack or Path("build/carry") / f"{chosen.name}.tar"
        work = given.work or Path("build/train") / chosen.name
        done = train(chosen, pack, work, given.out, given.minutes)
        print("nothing is left to do" if done else "call it again to go on", flush=True)
    except (TrainingError, NVGError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
