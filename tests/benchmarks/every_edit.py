"""Every way of editing once, on a model of random weights of any size:

python tests/benchmarks/every_edit.py --preset d12 --guided
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import nvg_model
from nvg_model import NVG, Region, SamplingSettings, hierarchy
from nvg_model.cli.bench import random_model

GUIDED = SamplingSettings(structure_steps=1)
QUICK = SamplingSettings(structure_steps=1, content_guidance=(1, 1), structure_guidance=(1, 1))


def every_edit(
    model: NVG,
    report: Callable[[str, float], None] = lambda name, seconds: None,
    settings: SamplingSettings = QUICK,
) -> None:
    """Runs each, and looks at the promises that can be seen in the result; `report` gets the seconds of each
    (of processor time)."""
    height, width = model.config.image_size
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def timed(name: str, function: Callable[[], Tensor | nvg_model.VisualGranularitySequence]):
        start = time.process_time()
        result = function()
        report(name, time.process_time() - start)
        if isinstance(result, nvg_model.VisualGranularitySequence):
            hierarchy.check(result.structure, model.config.positions)
            assert result.is_whole and bool(result.canvases.isfinite().all())
        return result

    more = {"regions": [Region(mask, 1)], "area": mask, "variation_seed": 4, "variation": 0.5}
    drawn = timed("region, area, variation", lambda: model.generate(0, 3, settings, **more))
    seamless = timed("seamless", lambda: model.generate(0, 3, settings, seamless=True))
    between = timed("interpolate", lambda: model.interpolate(drawn, seamless, 3))
    assert torch.equal(between.structure[0], drawn.structure[0])
    new = timed("inpaint", lambda: model.inpaint(images, mask, 1, settings=settings))
    assert torch.equal(new[..., width // 2 :], images[..., width // 2 :]) and not torch.equal(new, images)
    size = model.config.output_size
    assert timed("cut out", lambda: model.cut_out(drawn)).shape == (1, 4, *size)
    assert timed("decode without seam", lambda: model.decode(seamless, seamless=True)).shape == (1, 3, *size)


def main() -> None:
    """Prints the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="d12", choices=nvg_model.PRESETS)
    parser.add_argument("--guided", action="store_true", help="with the guidance of the paper")
    parser.add_argument(
        "--side", type=int, help="pixels along each side, instead of the preset's: 512 is K = 10 of d12"
    )
    args = parser.parse_args()
    config = nvg_model.preset(args.preset)
    model = random_model(replace(config, image_size=(args.side, args.side)) if args.side else config)
    settings = GUIDED if args.guided else QUICK
    print(f"{args.preset}, K = {model.config.splits}, one step of the structure flow, guided: {args.guided}")
    every_edit(model, lambda name, seconds: print(f"{name:<26}{seconds:>8.1f} s", flush=True), settings)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
