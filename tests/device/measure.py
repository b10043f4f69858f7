"""`tests/device/run.sh`: correctness, speed, training steps and a short training, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import correctness
import emoji_training
import speed
import torch
import training_step
from results import Results, is_good, options_of, table

GROUPS = {"correctness": 90, "training": 70, "speed": 130, "emoji64": 170}
"""In this order, with the seconds that each may take; what one leaves is the next one's. Less than 480 in all."""
GRACE = 40
"""Seconds that a cell begun in time may take longer before its group is ended."""
RESULTS = "results.json"
MOST_BYTES = 15 * 2**20  # of a file that comes back from a lent machine


def main() -> int:
    """0: all is measured and right; 1: something is wrong; 3: time was short, and the same command goes on."""
    args = arguments().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.group:
        measure_group(args)
        return 0
    end = time.time() + args.seconds
    left = sum(GROUPS.values())
    for name, share in GROUPS.items():
        until = time.time() + (end - GRACE - time.time()) * share / left
        left -= share
        run_group(name, until, end, args)
        hand_over(args.out)
    return report(args.out)


def arguments() -> argparse.ArgumentParser:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small models and few pictures, also on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("build/device"), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=470.0, help="after which nothing runs any more (470)")
    parser.add_argument("--data", type=Path, help="pictures to train emoji64 on; by default it draws them itself")
    parser.add_argument("--group", choices=list(GROUPS), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser


def measure_group(args: argparse.Namespace) -> None:
    """In this process."""
    options = options_of(args)
    results = Results(options, args.group)
    if args.group == "emoji64":
        emoji_training.measure(options, results, args.data)
    else:
        {"correctness": correctness, "training": training_step, "speed": speed}[args.group].measure(options, results)
    results.write()


def run_group(name: str, until: float, end: float, args: argparse.Namespace) -> None:
    """In a process of its own: a card that hangs, or an error of it that stays, spoils one group only."""
    command = [sys.executable, __file__, "--group", name, "--until", str(until), "--out", str(args.out)]
    command += ["--device", args.device, *(["--tiny"] if args.tiny else [])]
    command += ["--data", str(args.data)] if args.data else []
    print(f"== {name}: until {time.strftime('%H:%M:%S', time.localtime(until))}", flush=True)
    path = args.out / f"{name}.json"
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {}  # training takes a GPU where it sees one
    limit = max(1.0, min(until + GRACE, end) - time.time())
    try:
        status = subprocess.run(command, timeout=limit, env={**os.environ, **hidden}).returncode
        trouble = f"the process ended with status {status}" if status else None
    except subprocess.TimeoutExpired:
        trouble = "ended by the clock in the middle of a cell"
    if trouble:
        content = read(path) or {"about": {}, "cells": {}, "left_out": []}
        content["trouble"] = trouble
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(f"{name}: {trouble}", flush=True)


def read(path: Path) -> dict[str, Any] | None:
    """A group's results, if there are any."""
    return json.loads(path.read_text()) if path.is_file() else None


def hand_over(out: Path) -> None:
    """Copies what is there so far to $OUT, from where a lent machine's files come back."""
    target = os.environ.get("OUT")
    merged = {name: content for name in GROUPS if (content := read(out / f"{name}.json")) is not None}
    (out / RESULTS).write_text(json.dumps(merged, indent=1) + "\n")
    if target and Path(target).resolve() != out.resolve():
        Path(target).mkdir(parents=True, exist_ok=True)
        for path in (out / RESULTS, out / "emoji64.png"):
            if path.is_file() and path.stat().st_size <= MOST_BYTES:
                shutil.copy(path, target)


def report(out: Path) -> int:
    """Prints the tables; returns the status."""
    merged = json.loads((out / RESULTS).read_text())
    wrong, missing = [], []
    for name in GROUPS:
        content = merged.get(name, {"cells": {}, "left_out": [], "trouble": "nothing was measured"})
        rows = [(cell, *shown(values)) for cell, values in content["cells"].items()]
        print(f"\n{name}\n\n{table(('what', 'result', 'seconds'), rows)}")
        wrong += [f"{name}: {cell}" for cell, values in content["cells"].items() if not is_good(values)]
        missing += [f"{name}: {cell}" for cell in content["left_out"]]
        missing += [f"{name}: {content['trouble']}"] if "trouble" in content else []
    for title, names in (("wrong", wrong), ("not measured", missing)):
        if names:
            print(f"{title}: {'; '.join(names)}")
    print(f"results: {out / RESULTS}")
    return 1 if wrong else 3 if missing else 0


def shown(values: dict[str, Any]) -> tuple[str, str]:
    """A cell's numbers in one line, and what it took."""
    if "error" in values:
        return values["error"].splitlines()[0], f"{values['took_s']:g}"
    words = [f"{name} {brief(value)}" for name, value in values.items() if name != "took_s" and value is not None]
    return ", ".join(words).replace("_", " "), f"{values['took_s']:g}"


def brief(value: Any) -> str:
    """A number in four digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {brief(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
