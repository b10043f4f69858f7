"""Two minutes of the recipe emoji64: its generators from nothing, on the shipped tokenizer.

Where there are no data (`--data`), the shipped checkpoint draws them: the machine needs nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import statistics
import threading
import time
from pathlib import Path

import torch
from PIL import Image
from results import Cell, Options, Results

import nvg_model
from nvg_model import NVG, NVGConfig, render
from training import checkpointing
from training.generator import make_cache, train_generator
from training.recipes.base import Recipe
from training.recipes.emoji64 import EMOJI64
from training.stopping import Interrupted
from training.warm_start import trained_generator

SECONDS = 120.0


def measure(options: Options, results: Results, data: Path | None = None) -> None:
    """One cell, and a sheet of pictures."""
    results.measure("emoji64 from nothing", trained, options, data)


def trained(options: Options, data: Path | None) -> Cell:
    """Trains for the time, or until the clock's end if that is sooner, and draws."""
    nvg = nvg_model.load("emoji64", options.device)
    run = options.out / "emoji64-run"
    if data is None:
        data = drawn_pictures(nvg, options.out / "emoji64-data", options.tiny)
    recipe = recipe_of(options.tiny, nvg.config)
    weights = run / "tokenizer" / "tokenizer.pt"
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        checkpointing.write(weights, {name: one.cpu() for name, one in nvg.tokenizer.state_dict().items()})
    start = time.perf_counter()
    make_cache(recipe, data, run)
    cached = time.perf_counter() - start
    limit = min(1.0 if options.tiny else SECONDS, options.until - time.time())
    took = train_for(max(1.0, limit), recipe, data, run)
    cell = read_log(run / "generator" / "log.jsonl", options.tiny) | {"cache_s": cached, "trained_s": took}
    student, _ = trained_generator(recipe, run)
    sheet(student.to(options.device), 1 if options.tiny else 2).save(options.out / "emoji64.png")
    shutil.rmtree(run)  # the sheet and the numbers are what is kept
    return cell


def recipe_of(tiny: bool, config: NVGConfig) -> Recipe:
    """EMOJI64 with the sizes of the shipped checkpoint, and fewer views, so that the cache is soon there.

    Tiny: two blocks in each network.
    """
    if tiny:
        config = dataclasses.replace(
            config, generator=dataclasses.replace(config.generator, content_depth=2, structure_depth=2)
        )
    optimizer = "muon" if hasattr(torch.optim, "Muon") else "adamw"
    views, every, batch = (16, 1, 4) if tiny else (4096, 50, 32)
    changes: Cell = {"cached_views": views, "log_every": every, "batch": batch, "sample_every": 0}
    generator = dataclasses.replace(EMOJI64.generator, optimizer=optimizer, **changes)
    return dataclasses.replace(EMOJI64, config=config, generator=generator, classes=())  # those of the data


def drawn_pictures(nvg: NVG, folder: Path, tiny: bool) -> Path:
    """A data set of generated pictures, some of every class and one more held out."""
    each, steps, classes = (1, 1, nvg.classes[:2]) if tiny else (24, nvg.settings.structure_steps, nvg.classes)
    settings = dataclasses.replace(nvg.settings, structure_steps=steps)
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in classes:
            pictures = render.to_pil(nvg.decode(nvg.generate([name] * (each + 1), 1, settings)).cpu())
            for index, picture in enumerate(pictures):
                path = partial / ("train" if index < each else "held-out") / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
        partial.rename(folder)
    return folder


def train_for(seconds: float, recipe: Recipe, data: Path, run: Path) -> float:
    """As the command does that someone stops after a while: it saves, and could go on. Returns the seconds of training.

    The clock starts with the first line of the log: before that nobody would catch the signal.
    """
    log, begun, over = run / "generator" / "log.jsonl", time.time(), threading.Event()
    started: list[float] = []

    def watch() -> None:
        while not (log.is_file() and log.stat().st_mtime >= begun):
            if over.wait(0.1):
                return
        started.append(time.time())
        if not over.wait(seconds):
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        train_generator(recipe, data, run)
    except Interrupted as stopped:
        print(stopped, flush=True)
    finally:
        over.set()
        watcher.join()
    return time.time() - started[0]


def read_log(path: Path, tiny: bool) -> Cell:
    """Steps, speed and how far the content generator has come, which in a few steps of a test is nowhere."""
    lines = [line for line in map(json.loads, path.read_text().splitlines()) if "content_mse" in line]
    first, last = lines[0]["content_mse"], statistics.mean(line["content_mse"] for line in lines[-3:])
    return {
        "passed": math.isfinite(last) and (tiny or last < first),
        "steps": lines[-1]["step"],
        "images_per_second": statistics.median(line["images_per_second"] for line in lines),
        "content_mse_first": first,
        "content_mse_last": last,
    }


def sheet(nvg: NVG, each: int) -> Image.Image:
    """Pictures of every class."""
    names = [name for name in nvg.classes for _ in range(each)]
    return render.grid(render.to_pil(nvg.decode(nvg.generate(names, 7)).cpu()), columns=8)
