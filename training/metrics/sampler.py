"""Many samples of a generator, split over processes, interruptible, as the .npz that OpenAI's evaluator reads.

Sample i has class i modulo the number of classes, and its noise comes from (seed, i): it does not depend on who makes
it. The samples are made in shards of `batch`, shard s by the process s modulo the number of processes; a shard is
written to a temporary file and renamed, so a run that was killed goes on with the shards that are missing, on as many
processes as it then has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nvg_model.model import NVG
from nvg_model.render import to_pixels
from nvg_model.sampling import SamplingSettings
from training.distributed import World
from training.errors import TrainingError
from training.files import remove_partials, replacing
from training.run_folder import alone_in

MEMBER = "arr_0.npy"  # what OpenAI's evaluator looks for (guided-diffusion, evaluations/evaluator.py)
ALONE = World()


@dataclass(frozen=True)
class SampleSettings:
    """What to sample."""

    count: int = 50_000
    """Samples; every class gets as many as the others, but for one."""
    seed: int = 0
    batch: int = 64
    """Samples made together, and saved together."""
    sampling: SamplingSettings | None = None
    """Instead of the checkpoint's own."""

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("seed", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def shards(self) -> list[range]:
        """The numbers of the samples in each shard."""
        return [range(start, min(start + self.batch, self.count)) for start in range(0, self.count, self.batch)]


def sample_classes(count: int, num_classes: int) -> Tensor:
    """Class long [count] of every sample."""
    return torch.arange(count) % num_classes


def write_samples(model: NVG, folder: Path, settings: SampleSettings, world: World = ALONE) -> Path | None:
    """Makes this process's share of the samples; the first process then waits for the others and merges all.

    Returns:
        samples.npz in `folder`, with `arr_0` uint8 [N,H,W,3] in the order of the samples; None in the other processes.
    Raises:
        TrainingError: the folder holds samples of another model or with other settings, or it cannot be written.
    """
    if model.config.generator is None:
        raise TrainingError("this checkpoint has a tokenizer but no generator; there is nothing to sample")
    with alone_in(folder, ALONE) if world.first else nullcontext():
        return _write_share(model, folder, settings, world)


def _write_share(model: NVG, folder: Path, settings: SampleSettings, world: World) -> Path | None:
    merged = folder / "samples.npz"
    _claim(folder, _identity(model, settings), world)
    if merged.is_file():
        return merged if world.first else None
    mine = settings.shards()[world.rank :: world.size]
    for numbers in tqdm(mine, desc=f"sampling, process {world.rank}", unit="shard", mininterval=5):
        if not _path(folder, numbers).is_file():
            with replacing(_path(folder, numbers)) as partial, partial.open("wb") as file:
                np.save(file, _sample(model, numbers, settings))
    if not world.first:
        return None
    _wait(folder, settings)
    _merge(folder, settings, merged)
    return merged


def read_samples(path: Path) -> Tensor:
    """Pixels uint8 [N,3,H,W] of the samples in an .npz."""
    with np.load(path) as file:
        return torch.from_numpy(file[MEMBER.removesuffix(".npy")]).permute(0, 3, 1, 2).contiguous()


def weights_hash(model: torch.nn.Module) -> str:
    """A short hash of all weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _identity(model: NVG, settings: SampleSettings) -> dict[str, object]:
    """What determines every sample."""
    sampling = (settings.sampling or model.settings).to_dict()
    plain = dataclasses.asdict(dataclasses.replace(settings, sampling=None))
    return json.loads(json.dumps({**plain, "sampling": sampling, "weights": weights_hash(model)}))


def _claim(folder: Path, identity: dict[str, object], world: World) -> None:
    """Notes in the folder which samples it holds, or checks that they are the wanted ones."""
    path = folder / "sampling.json"
    if path.is_file():
        found = json.loads(path.read_text())
        different = sorted(key for key in identity | found if identity.get(key) != found.get(key))
        if different:
            raise TrainingError(
                f"{folder} holds samples of another run (they differ in {', '.join(different)}); "
                "delete it or choose another folder"
            )
    elif world.first:
        with replacing(path) as partial:
            partial.write_text(json.dumps(identity, indent=1))


def _path(folder: Path, numbers: range) -> Path:
    return folder / f"samples-{numbers.start:08d}-{numbers.stop:08d}.npy"


@torch.inference_mode()
def _sample(model: NVG, numbers: range, settings: SampleSettings) -> np.ndarray:
    """Pixels uint8 [n,H,W,3] of a shard."""
    classes = [number % len(model.classes) for number in numbers]
    sequence = model.generate(classes, settings.seed, settings.sampling, first_item=numbers.start)
    return to_pixels(model.decode(sequence)).permute(0, 2, 3, 1).cpu().numpy()


def _wait(folder: Path, settings: SampleSettings) -> None:
    """Until the other processes have written their shards."""
    told = False
    while missing := sum(not _path(folder, numbers).is_file() for numbers in settings.shards()):
        if not told:
            print(f"waiting for {missing} shards of the other processes in {folder}", flush=True)
            told = True
        time.sleep(0.5)


def _merge(folder: Path, settings: SampleSettings, merged: Path) -> None:
    """Joins the shards without holding them all in memory, then removes them."""
    paths = [_path(folder, numbers) for numbers in settings.shards()]
    shape = np.load(paths[0], mmap_mode="r").shape[1:]
    header = {"descr": "|u1", "fortran_order": False, "shape": (settings.count, *shape)}
    with (
        replacing(merged) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        for path in paths:
            member.write(np.load(path).tobytes())
    for path in paths:
        path.unlink(missing_ok=True)
    remove_partials(folder)
