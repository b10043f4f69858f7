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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nvg_model import checkpoint, schedule
from nvg_model.cli import levers
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
    processor_seconds: float
    """Of all threads; on a busy machine it says more than the clock on the wall."""
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
    settings: dict[str, Any] = field(default_factory=dict)
    levers: list[levers.Lever] = field(default_factory=list)

    def table(self) -> str:
        """The report as text."""
        lines = [
            f"{self.name}, batch {self.batch}, {platform.machine()}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}; matrix product peak {self.peak / 1e9:.0f} GFLOP/s",
            f"{'part':<12}{'seconds':>10}{'CPU s':>10}{'GFLOP':>11}{'GFLOP/s':>10}{'of peak':>9}",
        ]
        for row in self.rows:
            speed = row.flops / row.seconds
            times = f"{row.seconds:>10.3f}{row.processor_seconds:>10.3f}"
            numbers = f"{times}{row.flops / 1e9:>11.1f}{speed / 1e9:>10.1f}{speed / self.peak:>9.0%}"
            lines.append(f"{row.part:<12}{numbers}")
        lines.append(f"peak memory {self.memory / 2**20:.0f} MiB")
        flow = (f"{name} {schedule.shown(self.settings[name])}" for name in schedule.BY_STAGE)
        lines.append(f"structure flow: {'; '.join(flow)}")
        return "\n".join([*lines, levers.table(self.levers)] if self.levers else lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `nvg bench`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", choices=list(PRESETS), default="emoji64", help="sizes of the networks (emoji64)")
    which.add_argument("--model", help="a checkpoint instead: as for --model of `nvg generate`")
    parser.add_argument("--image-size", type=int, help="side of the images in pixels, instead of the preset's")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    own = "the checkpoint's own by default, the paper's where there is none"
    parser.add_argument("--steps", type=int, help=f"time steps of the structure flow; {own}")
    parser.add_argument("--solver", help=f"of the structure flow: {summary()}; {own}")
    parser.add_argument("--levers", action="store_true", help="also what a picture costs with each way to save work")
    parser.add_argument("--rounds", type=int, default=2, help="of --levers, each way in turn (2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs `nvg bench`."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    for option in ("batch", "rounds"):
        if getattr(args, option) < 1:
            raise NVGError(f"--{option} is {getattr(args, option)}; it must be at least 1")
    model, name = _model(args, device, dtype)
    changes = {"structure_steps": args.steps, "solver": args.solver}
    settings = dataclasses.replace(model.settings, **{key: one for key, one in changes.items() if one is not None})
    settings.check_stages(model.config.splits - 1)
    report = bench(model, name, args.batch, settings)
    if args.levers:
        report.levers = levers.measure(model, args.batch, settings, args.rounds)
    print(json.dumps(dataclasses.asdict(report), indent=1) if args.json else report.table())
    return 0


def _model(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> tuple[NVG, str]:
    """The checkpoint, or random weights of a preset; with a name for the table."""
    if args.model is not None:
        if args.image_size is not None:
            raise NVGError("--image-size is for random weights; a checkpoint has its own size")
        model = checkpoint.load(args.model, device, dtype)
        if model.config.generator is None:
            raise NVGError(f"{args.model} has a tokenizer but no generator; there is nothing to draw")
        return model, f"{args.model}, {model.config.image_size[0]}x{model.config.image_size[1]} pixels"
    config = preset(args.preset)
    if args.image_size is not None:
        config = dataclasses.replace(config, image_size=(args.image_size, args.image_size))
    model = random_model(config, device, dtype)
    if args.preset in checkpoint.embedded() and args.image_size is None:
        model.settings = SamplingSettings(**checkpoint.info(args.preset)["settings"])
    return model, f"{args.preset}, {config.image_size[0]}x{config.image_size[1]} pixels"


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
    report = Report(name, batch, matrix_peak(model.device, dtype), settings=dataclasses.asdict(settings))
    with torch.no_grad():
        report.rows += _tokenizer_rows(model, batch)
        report.rows += _generation_rows(model, batch, settings)
    report.peak = max(report.peak, matrix_peak(model.device, dtype))  # once more: other work may have disturbed it
    report.memory = _peak_memory(model.device)
    return report


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second of the fastest of several square matrix products."""
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(_seconds(lambda: a @ a, device)[0] for _ in range(repeats + 1))


def _seconds(function: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """On the wall, and of the processor."""
    _wait(device)
    start, processor = time.perf_counter(), time.process_time()
    function()
    _wait(device)
    return time.perf_counter() - start, time.process_time() - processor


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _row(part: str, function: Callable[[], object], device: torch.device, flops: float | None = None) -> Row:
    """Best of three runs, after one that counts the operations."""
    with FlopCounterMode(display=False) as counter:
        function()
    counted = counter.get_total_flops() if flops is None else flops
    wall, processor = zip(*(_seconds(function, device) for _ in range(3)), strict=True)
    return Row(part, min(wall), min(processor), counted)


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

    # Operations are proportional to the tokens that the flow computes, so one step a stage is counted.
    plain = dataclasses.replace(settings, structure_steps=1, guidance_every=1, solver="euler")
    with FlopCounterMode(display=False) as counter, _timed(parts, model.device) as once:
        image(plain)
    flops = {name: float(sum(counts.values())) for name, counts in counter.get_flop_counts().items()}
    counted = {"content": flops["ContentGenerator"], "structure": flops.get("Transformer", 0.0)}
    rest = flops["Global"] - sum(counted.values())
    with _timed(parts, model.device) as timed:
        whole = _seconds(lambda: image(settings), model.device)
    counted["structure"] *= timed["structure"].tokens / max(1, once["structure"].tokens)
    rows = [Row(part, timed[part].seconds, timed[part].processor, counted[part]) for part in parts]
    return [*rows, Row("whole image", *whole, sum(counted.values()) + rest)]


@dataclass
class _Clock:
    seconds: float = 0.0
    processor: float = 0.0
    tokens: int = 0
    """Of all rows."""
    started: tuple[float, float] = (0.0, 0.0)


@contextmanager
def _timed(parts: dict[str, nn.Module], device: torch.device) -> Iterator[dict[str, _Clock]]:
    """Adds up the time spent inside the given modules."""
    clocks = {name: _Clock() for name in parts}
    handles = []

    def start(clock: _Clock) -> Callable[..., None]:
        def hook(*_: object) -> None:
            _wait(device)
            clock.started = time.perf_counter(), time.process_time()

        return hook

    def stop(clock: _Clock) -> Callable[..., None]:
        def hook(_: object, inputs: tuple[Tensor, ...], __: object) -> None:
            _wait(device)
            clock.seconds += time.perf_counter() - clock.started[0]
            clock.processor += time.process_time() - clock.started[1]
            clock.tokens += inputs[0].shape[:2].numel()

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
