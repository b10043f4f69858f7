"""What each way to save work is worth, in processor seconds, all of them in turn in every round (docs/speed.md):

    python tests/benchmarks/levers.py --rounds 2

emoji64: whole pictures. d16, random weights: the parts of a picture, from which its cost follows, as a whole one takes
minutes: a structure step with and without guidance, the first and a later one, a pass of content, the decoder.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import nvg_model
from nvg_model import NVG, SamplingSettings
from nvg_model.cli.bench import random_model
from nvg_model.generation import count_evaluations
from nvg_model.tokenizer import Upsample


def turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least processor seconds of each way, after one call of each that does not count."""
    least = dict.fromkeys(ways, float("inf"))
    for number in range(rounds + 1):
        for name, call in ways.items():
            start = time.process_time()
            call()
            if number:
                least[name] = min(least[name], time.process_time() - start)
    return least


def emoji64(rounds: int, pictures: int = 2) -> None:
    """Whole pictures, decoded."""
    nvg = nvg_model.load("emoji64")
    default = nvg.settings
    settings = {
        "25 steps, as in the paper": dataclasses.replace(default, structure_steps=25),
        "default: 4 steps": default,
        "4 steps, reuse": dataclasses.replace(default, reuse=True),
        "2 steps, multistep": dataclasses.replace(default, structure_steps=2, solver="multistep"),
        "2 steps, multistep, reuse": dataclasses.replace(default, structure_steps=2, solver="multistep", reuse=True),
    }

    def draw(chosen: SamplingSettings) -> Callable[[], object]:
        return lambda: nvg.decode(nvg.generate([0] * pictures, 7, chosen))

    found = turns({name: draw(chosen) for name, chosen in settings.items()}, rounds)
    base = found["default: 4 steps"]
    print("| emoji64 | evaluations | seconds a picture | of the default |\n|---|---|---|---|")
    for name, seconds in found.items():
        evaluations = count_evaluations(settings[name], nvg.config.splits)
        print(f"| {name} | {evaluations} | {seconds / pictures:.2f} | {seconds / base:.2f} |", flush=True)


def d16(rounds: int) -> None:
    """The parts, and the picture that they make at several settings."""
    nvg = random_model(nvg_model.preset("d16"))
    config, flow, stage = nvg.config, nvg.structure, 4
    labels = torch.arange(config.positions).expand(2, -1) >> (config.splits - stage)
    canvas = torch.randn(2, config.positions, config.autoencoder.latent_channels)
    z, classes = torch.randn(2, config.positions, config.splits), torch.tensor([0, 1000])
    context = flow.context(canvas, labels, classes, torch.full_like(classes, stage))
    modulations = flow.modulations(context, torch.tensor([0.7]))
    memory = flow.transformer.memory()
    flow.step(z, context, modulations, memory)
    parts = turns(
        {
            "structure step": lambda: flow.step(z, context, modulations),
            "structure step, reused": lambda: flow.step(z, context, modulations, memory),
            "content": lambda: nvg.content.predict(canvas, labels, classes, stage),
            "decoder": lambda: nvg.tokenizer.decode(canvas[:1]),
            "decoder, plain upsampling": lambda: plain_decoder(nvg, canvas[:1]),
        },
        rounds,
    )
    print("\n| part of d16, with guidance | seconds |\n|---|---|")
    print("".join(f"| {name} | {seconds:.2f} |\n" for name, seconds in parts.items()))
    stages = config.splits - 1
    rest = parts["content"] * (config.splits + 1 - 0.5)  # the first stage is unguided

    def whole(steps: int, reuse: bool) -> float:
        later = parts["structure step, reused" if reuse else "structure step"]
        return rest + parts["decoder"] + (stages - 0.5) * (parts["structure step"] + (steps - 1) * later)

    base = whole(25, False)
    print("| d16 from its parts | seconds a picture | of 25 steps |\n|---|---|---|")
    for steps in (25, 8, 4, 2):
        for reuse in (False, True):
            seconds = whole(steps, reuse)
            print(f"| {steps} steps{', reuse' if reuse else ''} | {seconds:.1f} | {seconds / base:.3f} |", flush=True)


def plain_decoder(nvg: NVG, canvas: torch.Tensor) -> None:
    """With the upsampling that is used with gradients."""

    def plain(self: Upsample, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    fast, Upsample.forward = Upsample.forward, plain  # type: ignore[method-assign]
    try:
        nvg.tokenizer.decode(canvas)
    finally:
        Upsample.forward = fast  # type: ignore[method-assign]


@torch.inference_mode()
def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("emoji64", "d16"))
    args = parser.parse_args()
    if args.only != "d16":
        emoji64(args.rounds)
    if args.only != "emoji64":
        d16(args.rounds)


if __name__ == "__main__":
    main()
