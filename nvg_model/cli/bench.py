"""`nvg bench`: what every part of an image costs, against what this machine's matrix products could do.

Shapes: images [B,3,H,W]; L positions, C latent channels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nvg_model.config import PRESETS, NVGConfig, preset
from nvg_model.errors import NVGError
from nvg_model.hierarchy import cluster, num_splits
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from nvg_model.solvers import summary


@dataclass
class Row:
    """One line of the table."""

    part: str
    seconds: float
    flops: float = 0.0
    """Floating-point operations of matrix products, convolutions and attention (a multiply-add counts as two)."""


@dataclass
class Report:
    """What a run measured."""

    name: str
    batch: int
    peak: float
    """Fastest matrix product seen, in operations per second."""
    rows: list[Row] = field(default_factory=list)
    memory: int = 0
    """Highest memory of the process (CPU) or of the tensors (CUDA), in bytes."""

    def table(self) -> str:
        """The report as text."""
        lines = [
            f"{self.name}, batch {self.batch}, {platform.machine()}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}; matrix product peak {self.peak / 1e9:.0f} GFLOP/s",
            f"{'part':<12}{'seconds':>10}{'GFLOP':>11}{'GFLOP/s':>10}{'of peak':>9}",
        ]
        for row in self.rows:
            speed = row.flops / row.seconds
            numbers = f"{row.seconds:>10.3f}{row.flops / 1e9:>11.1f}{speed / 1e9:>10.1f}{speed / self.peak:>9.0%}"
            lines.append(f"{row.part:<12}{numbers}")
        return "\n".join([*lines, f"peak memory {self.memory / 2**20:.0f} MiB"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `nvg bench`."""
    parser.add_argument("--preset", choices=list(PRESETS), default="emoji64", help="sizes of the networks")
    parser.add_argument("--image-size", type=int, help="side of the images in pixels, instead of the preset's")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--steps", type=int, default=25, help="time steps of the structure flow")
    parser.add_argument("--solver", default="euler", help=f"of the structure flow: {summary()}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs `nvg bench`."""
    settings = SamplingSettings(structure_steps=args.steps, solver=args.solver)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    config = preset(args.preset)
    if args.image_size is not None:
        config = dataclasses.replace(config, image_size=(args.image_size, args.image_size))
    name = f"{args.preset}, {config.image_size[0]}x{config.image_size[1]} pixels"
    if args.batch < 1:
        raise NVGError(f"--batch is {args.batch}; it must be at least 1")
    report = bench(random_model(config, device, dtype), name, args.batch, settings)
    print(json.dumps(dataclasses.asdict(report), indent=1) if args.json else report.table())
    return 0


def random_model(config: NVGConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> NVG:
    """A model of random weights: costs do not depend on their values."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = NVG(config)
        model.content.initialize()
        model.structure.initialize()
        model.tokenizer.quantizer.spread()
    return model.to(dtype).eval().requires_grad_(False)


def bench(model: NVG, name: str, batch: int, settings: SamplingSettings) -> Report:
    """Times every part of tokenizing and of generating `batch` images."""
    dtype = model.tokenizer.encoder.stem.weight.dtype
    report = Report(name, batch, matrix_peak(model.device, dtype))
    with torch.no_grad():
        report.rows += _tokenizer_rows(model, batch)
        report.rows += _generation_rows(model, batch, settings)
    report.peak = max(report.peak, matrix_peak(model.device, dtype))  # once more: other work may have disturbed it
    report.memory = _peak_memory(model.device)
    return report


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second of the fastest of several square matrix products."""
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(_seconds(lambda: a @ a, device) for _ in range(repeats + 1))


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _row(part: str, function: Callable[[], object], device: torch.device, flops: float | None = None) -> Row:
    """Best of three runs, after one that counts the operations."""
    with FlopCounterMode(display=False) as counter:
        function()
    counted = counter.get_total_flops() if flops is None else flops
    return Row(part, min(_seconds(function, device) for _ in range(3)), counted)


def _tokenizer_rows(model: NVG, batch: int) -> list[Row]:
    tokenizer, device = model.tokenizer, model.device
    generator = torch.Generator().manual_seed(0)
    images = (2 * torch.rand(batch, 3, *model.config.image_size, generator=generator) - 1).to(device)
    latent = tokenizer.encode(images)
    structure = cluster(latent)
    return [
        _row("encode", lambda: tokenizer.encode(images), device),
        _row("cluster", lambda: cluster(latent), device, flops=_distance_flops(latent)),
        _row("quantise", lambda: tokenizer.quantizer(latent, structure), device),
        _row("decode", lambda: tokenizer.decode(latent), device),
    ]


def _distance_flops(latent: Tensor) -> float:
    """Of the distances between all pairs, at every level: difference, square, sum of C channels."""
    batch, positions, channels = latent.shape
    return sum(3.0 * batch * channels * (positions >> level) ** 2 for level in range(num_splits(positions)))


def _generation_rows(model: NVG, batch: int, settings: SamplingSettings) -> list[Row]:
    """Content, structure and the whole image, from one run of the real stage loop."""
    classes = [index % len(model.classes) for index in range(batch)]
    parts: dict[str, nn.Module] = {"content": model.content, "structure": model.structure.transformer}

    def image(chosen: SamplingSettings) -> Tensor:
        return model.decode(model.generate(classes, settings=chosen))

    # Operations are proportional to the evaluations of the flow, so one step a stage is counted.
    with FlopCounterMode(display=False) as counter, _timed(parts, model.device) as once:
        image(dataclasses.replace(settings, structure_steps=1))
    flops = {name: float(sum(counts.values())) for name, counts in counter.get_flop_counts().items()}
    counted = {"content": flops["ContentGenerator"], "structure": flops.get("Transformer", 0.0)}
    rest = flops["Global"] - sum(counted.values())
    with _timed(parts, model.device) as timed:
        seconds = _seconds(lambda: image(settings), model.device)
    counted["structure"] *= timed["structure"].calls / max(1, once["structure"].calls)
    rows = [Row(part, timed[part].seconds, counted[part]) for part in parts]
    return [*rows, Row("whole image", seconds, sum(counted.values()) + rest)]


@dataclass
class _Clock:
    seconds: float = 0.0
    calls: int = 0
    started: float = 0.0


@contextmanager
def _timed(parts: dict[str, nn.Module], device: torch.device) -> Iterator[dict[str, _Clock]]:
    """Adds up the time spent inside the given modules."""
    clocks = {name: _Clock() for name in parts}
    handles = []

    def start(clock: _Clock) -> Callable[..., None]:
        def hook(*_: object) -> None:
            _wait(device)
            clock.started = time.perf_counter()

        return hook

    def stop(clock: _Clock) -> Callable[..., None]:
        def hook(*_: object) -> None:
            _wait(device)
            clock.seconds += time.perf_counter() - clock.started
            clock.calls += 1

        return hook

    for name, module in parts.items():
        handles.append(module.register_forward_pre_hook(start(clocks[name])))
        handles.append(module.register_forward_hook(stop(clocks[name])))
    try:
        yield clocks
    finally:
        for handle in handles:
            handle.remove()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
