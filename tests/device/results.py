"""Results of a group of measurements: cells by name in a JSON file, written after each, so that a run can go on."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nvg_model.errors import NVGError
from training.errors import TrainingError

ROOT = Path(__file__).resolve().parents[2]
Cell = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a group is measured."""

    device: torch.device
    tiny: bool
    out: Path
    until: float
    """Clock time (seconds since 1970) after which nothing new is begun."""


class Results:
    """The cells of one group. A cell with an error, or one that did not pass, is measured again by the next call."""

    def __init__(self, options: Options, group: str) -> None:
        self.options, self.path = options, options.out / f"{group}.json"
        about = {
            "device": device_name(options.device),
            "torch": torch.__version__,
            "tiny": options.tiny,
            "code": code(),
        }
        found = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.content: dict[str, Any] = {"about": about, "cells": {}, "left_out": []}
        if found.get("about") == about:
            done = {name: cell for name, cell in found["cells"].items() if is_good(cell)}
            self.content["cells"] = done

    def measure(self, name: str, call: Callable[..., Cell], *given: Any) -> None:
        """Adds the cell call(*given), unless it is there or the time is over; an error is noted, the others go on."""
        if name in self.content["cells"]:
            print(f"{name}: done before", flush=True)
            return
        if time.time() >= self.options.until:
            self.content["left_out"].append(name)
            self.write()
            return
        start = time.perf_counter()
        try:
            cell = call(*given)
        except (RuntimeError, NVGError, TrainingError) as error:  # RuntimeError: out of memory, and what CUDA says
            cell = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
        cell["took_s"] = round(time.perf_counter() - start, 2)
        self.content["cells"][name] = cell
        self.write()
        print(f"{name}: {json.dumps(cell)}", flush=True)

    def write(self) -> None:
        """To a temporary file, then renamed."""
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)


def is_good(cell: Cell) -> bool:
    """Whether a cell was measured and is as it should be."""
    return "error" not in cell and cell.get("passed", True)


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def code() -> str:
    """Digest of all code that a result depends on."""
    digest = hashlib.sha256()
    for folder in ("nvg_model", "training", "tests/device"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def memory(device: torch.device) -> int | None:
    """Most bytes that tensors took since `forget_memory`; None where nobody counts them."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget_memory(device: torch.device) -> None:
    """Gives freed memory back and counts anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def use_tf32(allowed: bool) -> None:
    """Whether float32 products may be made in TF32, convolutions included."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([str(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def options_of(args: argparse.Namespace) -> Options:
    """From the command line."""
    return Options(torch.device(args.device), args.tiny, args.out, args.until)
