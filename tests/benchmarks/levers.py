"""What each way to save work is worth, all of them in turn in one run: the table of docs/speed.md.

    python tests/benchmarks/levers.py --data ~/nvg-data/emoji128 --rounds 100 --minutes 60

emoji64: every round draws and decodes a picture of each class with each way, so what else the machine does hits all
alike. From the same pictures come the processor seconds, the Frechet distance to the training pictures in features of
ImageNet networks, and the share that a linear probe on them takes for their class. Agreement: share of positions
that go to the same child as with 25 Euler steps, from the same canvas and noise of real pictures.
The checkpoint that ships has the guidance of its content inside: that is its last row. The others take two passes, by
the same network with the guidance taken out again, or by `--two-passes FILE`.
d16, random weights: the parts of a picture, in turn as well, and a picture computed from them, as a whole one takes
minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import torch

import nvg_model
from nvg_model import NVG, SamplingSettings, schedule
from nvg_model.cli.bench import random_model
from nvg_model.cli.levers import turns
from nvg_model.generation import count_evaluations
from nvg_model.render import to_pixels
from nvg_model.sampling import StageFlow, guidance_schedule
from training.metrics.judge import Judge
from training.metrics.lite import lite
from training.metrics.pictures import read_split
from training.schedule import passes, real_images
from training.split_agreement import Images, split, with_steps
from training.warm_start import without_conversions


class Way(NamedTuple):
    """A model and how it is sampled."""

    model: NVG
    settings: SamplingSettings


def ways(own: SamplingSettings, learned: str = "") -> dict[str, SamplingSettings]:
    """How the structure flow of a table is run; `learned` is the text of a schedule."""
    few = with_steps(own, 4)
    even = dataclasses.replace(few, time_shift=0.0, solver="multistep")
    now_and_then = dataclasses.replace(even, guidance_every=2)
    found = {
        "25 steps, as in the paper": with_steps(own, 25),
        "4 steps": few,
        "4 steps, `reuse`": dataclasses.replace(few, reuse=True),
        "4 even steps, multistep": even,
        "the same, guided every 2nd": now_and_then,
        "the same, `reuse`": dataclasses.replace(now_and_then, reuse=True),
        "2 even steps, multistep, guided every 2nd, `reuse`": dataclasses.replace(
            now_and_then, structure_steps=2, reuse=True
        ),
    }
    if learned:
        found["learned schedule"] = dataclasses.replace(few, **schedule.read_all(learned))
    return found


def rows(args: argparse.Namespace) -> dict[str, Way]:
    """The rows of emoji64: the levers one by one with two passes of content, then guidance inside, then few steps."""
    model = nvg_model.load("emoji64")
    plain = nvg_model.load(args.two_passes) if args.two_passes else without_conversions(model, "emoji64")
    found = {name: Way(plain, one) for name, one in ways(plain.settings, args.schedule).items()}
    if model.content.largest_guidance > 1:
        found["4 steps, content guidance inside"] = Way(model, with_steps(model.settings, 4))
        found["emoji64 as it is"] = Way(model, model.settings)
    if args.few_step:
        few = nvg_model.load(args.few_step)
        for steps in (2, 1):
            found[f"few-step flow, {steps} of them"] = Way(few, with_steps(few.settings, steps))
    return found


def agreements(images: Images, found: dict[str, Way]) -> dict[str, float]:
    """Of every way with the first, over all stages."""
    first, *others = found
    same: dict[str, list[float]] = {first: [1.0]} | {name: [] for name in others}
    for stage in range(found[first].model.config.splits - 1):
        wanted = split(found[first].model, images, found[first].settings, stage)
        for name in others:
            one = found[name]
            same[name].append(float((split(one.model, images, one.settings, stage) == wanted).float().mean()))
    return {name: sum(one) / len(one) for name, one in same.items()}


def draw_in_turn(
    found: dict[str, Way], rounds: int, minutes: float, folder: Path | None
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Processor seconds a picture and all pictures uint8 [N,3,H,W] of every way; `folder` keeps both of each round."""
    count, end = len(next(iter(found.values())).model.classes), time.monotonic() + 60 * minutes
    done: list[dict[str, tuple[float, torch.Tensor]]] = []
    while len(done) < rounds and (not done or time.monotonic() < end):
        path = folder / f"{len(done)}.pt" if folder else None
        drawn = torch.load(path) if path and path.is_file() else {}
        for name, (model, settings) in found.items():
            if name not in drawn:
                start = time.process_time()
                pictures = model.decode(model.generate(range(count), 0, settings, first_item=len(done) * count))
                drawn[name] = time.process_time() - start, to_pixels(pictures)
        if path:
            torch.save(drawn, path)
        done.append(drawn)
        print(f"round {len(done)}: " + ", ".join(f"{drawn[name][0] / count:.3f}" for name in found), flush=True)
    seconds = {name: sum(one[name][0] for one in done) / len(done) / count for name in found}
    return seconds, {name: torch.cat([one[name][1] for one in done]) for name in found}


def emoji64(args: argparse.Namespace, found: dict[str, Way]) -> None:
    """Prints the table."""
    model = next(iter(found.values())).model
    agreement = agreements(real_images(model, str(args.data), args.pictures), found)
    found = {name: found[name] for name in args.ways or found}
    seconds, pictures = draw_in_turn(found, args.rounds, args.minutes, args.out)
    train = read_split(args.data, "train", model.config.output_size, model.classes)
    extractors = {name: lite(name, torch.device("cpu")) for name in args.features}
    with torch.enable_grad():  # the judge fits a probe
        judges = {name: Judge(extract(train.pixels)[0].clone(), train) for name, extract in extractors.items()}
    count = len(next(iter(pictures.values())))
    print(f"\n{count} pictures of each way; agreement on {args.pictures} real pictures\n")
    judged = "".join(f" {name}: Frechet | probe |" for name in judges)
    print(f"| emoji64 | evaluations | seconds a picture | of 4 steps | agreement |{judged}")
    print("|---|---|---|---|---|" + "---|---|" * len(judges))
    labels, base = torch.arange(count) % len(model.classes), seconds["4 steps"]
    for name, (_, settings) in found.items():
        line = f"| {name} | {count_evaluations(settings, model.config.splits)} | {seconds[name]:.3f} | "
        line += f"{seconds[name] / base:.2f} | {agreement[name]:.3f} |"
        for features, judge in judges.items():
            numbers = judge.verdict(extractors[features](pictures[name])[0], labels).numbers
            line += f" {numbers['Frechet distance']:.1f} | {numbers['probe']:.1%} |"
        print(line, flush=True)


def d16_parts(rounds: int) -> tuple[NVG, dict[str, float]]:
    """Processor seconds of a structure step with and without guidance, whole and reused, of content and decoder."""
    nvg = random_model(nvg_model.preset("d16"))
    config, flow, stage = nvg.config, nvg.structure, 4
    labels = torch.arange(config.positions).expand(2, -1) >> (config.splits - stage)
    canvas = torch.randn(2, config.positions, config.autoencoder.latent_channels)
    z, classes = torch.randn(2, config.positions, config.splits), torch.tensor([0, 1000])
    calls = {}
    for rows in (1, 2):
        context = flow.context(canvas[:rows], labels[:rows], classes[:rows], torch.full_like(classes[:rows], stage))
        modulations = flow.modulations(context, torch.tensor([0.7]))
        memory = flow.transformer.memory()
        flow.step(z[:rows], context, modulations, memory)
        given = z[:rows], context, modulations
        calls[f"step of {rows}"] = lambda given=given: flow.step(*given)
        calls[f"reused step of {rows}"] = lambda given=given, memory=memory: flow.step(*given, memory)
    calls["content of 2"] = lambda: nvg.content.predict(canvas, labels, classes, stage)
    calls["content of 1"] = lambda: nvg.content.predict(canvas[:1], labels[:1], classes[:1], stage)
    calls["decoder"] = lambda: nvg.tokenizer.decode(canvas[:1])
    return nvg, {name: processor for name, (processor, _) in turns(calls, rounds).items()}


def d16(args: argparse.Namespace) -> None:
    """Prints the parts and the pictures that they make; d16 has guidance from 1 to 2.5, so its first stage is free."""
    found = ways(SamplingSettings(), args.schedule)
    nvg, parts = d16_parts(args.part_rounds)
    print("\n| part of d16 | seconds |\n|---|---|")
    print("".join(f"| {name} | {seconds:.2f} |\n" for name, seconds in parts.items()))
    splits, scales = nvg.config.splits, guidance_schedule(nvg.settings.structure_guidance, nvg.config.splits)
    rest = parts["content of 1"] + splits * parts["content of 2"] + parts["decoder"]
    inside = (splits + 1) * parts["content of 1"] + parts["decoder"]
    print("| d16 from its parts | passes of structure | seconds a picture | of 25 steps |\n|---|---|---|---|")
    base = None
    for name, settings in found.items():
        flows = [stretched(settings, splits - 1).at(stage) for stage in range(splits - 1)]
        seconds, count = rest, 0.0
        for one, scale in zip(flows, scales, strict=False):
            seconds += flow_seconds(one, parts, scale != 1)
            count += passes(one, nvg.config.positions, scale != 1)
        base = base or seconds
        print(f"| {name} | {count:.1f} | {seconds:.1f} | {seconds / base:.3f} |", flush=True)
        seconds += inside - rest
        print(f"| the same, guidance inside the content | {count:.1f} | {seconds:.1f} | {seconds / base:.3f} |")
    for steps in (2, 1):  # of average velocities, one pass each
        seconds, count = inside + (splits - 1) * steps * parts["step of 1"], (splits - 1) * steps
        name = f"few-step flow, {steps} a stage, guidance inside both"
        print(f"| {name} | {count} | {seconds:.1f} | {seconds / base:.3f} |", flush=True)


def flow_seconds(one: StageFlow, parts: dict[str, float], guided: bool) -> float:
    """Of a stage, from the parts."""
    total = 0.0
    for number in range(nvg_model.solvers.evaluations(one.solver, one.structure_steps)):
        rows = 2 if guided and number % one.guidance_every == 0 else 1
        total += parts[f"{'reused ' if one.reuse and number else ''}step of {rows}"]
    return total


def stretched(settings: SamplingSettings, flows: int) -> SamplingSettings:
    """Settings by stage of a model with fewer stages: every stage as the one at the same share of the way."""
    changes = {}
    for name in schedule.BY_STAGE:
        if isinstance(value := getattr(settings, name), tuple):
            changes[name] = tuple(value[round(stage * (len(value) - 1) / (flows - 1))] for stage in range(flows))
    return dataclasses.replace(settings, **changes)


@torch.no_grad()
def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("~/nvg-data/emoji128").expanduser())
    parser.add_argument("--two-passes", default="", help="the checkpoint of all rows but the last ones")
    parser.add_argument("--few-step", default="", help="a checkpoint of `python -m training few-step`")
    parser.add_argument("--schedule", default="", help='learned, such as "structure_steps 4 4 2 2 1; guidance_every 2"')
    parser.add_argument("--pictures", type=int, default=34, help="real ones that the agreement is measured on")
    parser.add_argument("--ways", nargs="+", help="rows to draw, '4 steps' among them; default: all")
    parser.add_argument("--rounds", type=int, default=100, help="a picture of each class and way in each")
    parser.add_argument("--minutes", type=float, default=60, help="no round begins after so many")
    parser.add_argument("--part-rounds", type=int, default=2, help="of d16")
    parser.add_argument("--features", nargs="+", default=["lite0", "lite1"])
    parser.add_argument("--out", type=Path, help="a folder that keeps the pictures, from where a run goes on")
    parser.add_argument("--only", choices=("emoji64", "d16"))
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    if args.only != "d16":
        emoji64(args, rows(args))
    if args.only != "emoji64":
        d16(args)


if __name__ == "__main__":
    main()
