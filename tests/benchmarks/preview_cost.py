"""What previews cost: whole images through NVG Generate with ComfyUI's previews on and off, and without ComfyUI.

    COMFYUI_PATH=... python tests/benchmarks/preview_cost.py [--repeats 3] [--presets emoji64 d12]

Needs ComfyUI's requirements beside ours. CPU seconds of one image, all variants in turn in each repeat, the least of
them counts; "decoder" is what previews were before: a run of the decoder after every stage. d12 has random weights.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable

import torch

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv, given = [sys.argv[0], "--cpu"], sys.argv[1:]  # ComfyUI reads them when it is imported

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.utils  # noqa: E402
from comfy.cli_args import LatentPreviewMethod, args  # noqa: E402

import nvg_model  # noqa: E402
from nvg_nodes import host, images, nodes_generate  # noqa: E402
from nvg_nodes.types import Model, Settings  # noqa: E402


def send(value: int, total: int, preview: tuple | None, **others: object) -> None:
    """What ComfyUI's server does with a preview: a JPEG, no larger than asked for."""
    if preview is not None:
        kind, picture, most = preview
        picture.thumbnail((most, most))
        picture.save(io.BytesIO(), kind, quality=95)


def loaded(preset: str) -> nvg_model.NVG:
    """emoji64 as shipped, another preset with random weights."""
    if preset in nvg_model.embedded():
        return nvg_model.load(preset)
    torch.manual_seed(0)
    model = nvg_model.NVG(nvg_model.preset(preset))
    model.content.initialize()
    model.structure.initialize()
    model.tokenizer.quantizer.spread()
    return model.eval().requires_grad_(False)


def variants(nvg: nvg_model.NVG, steps: int) -> dict[str, Callable[[], object]]:
    """One whole image each way."""
    hosted = host.current()
    model = Model("model", hosted.networks(nvg))
    settings = Settings({"structure_steps": steps} if steps else {})
    cheap = images.preview

    def draw() -> object:
        return nodes_generate.NVGGenerate.execute(model, nvg.classes[0], 7, 1, settings=settings)

    def by(method: LatentPreviewMethod, preview: Callable = cheap) -> Callable[[], object]:
        def run() -> object:
            args.preview_method, images.preview = method, preview
            return draw()

        return run

    def decoded(nvg: nvg_model.NVG, state: nvg_model.VisualGranularitySequence) -> object:
        images.decode(nvg, state)
        return cheap(nvg, state)

    def alone() -> object:
        host.current = host.Host  # as where there is no ComfyUI
        try:
            return draw()
        finally:
            host.current = lambda: hosted

    off, on = LatentPreviewMethod.NoPreviews, LatentPreviewMethod.Auto
    return {"without host": alone, "off": by(off), "on": by(on), "decoder": by(on, decoded)}


def main() -> None:
    """Prints a line per preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=["emoji64", "d12"])
    parser.add_argument("--steps", type=int, default=0, help="of the structure flow; 0: as the checkpoint says")
    options = parser.parse_args(given)
    comfy.utils.set_progress_bar_global_hook(send)
    for preset in options.presets:
        nvg = loaded(preset)
        nvg.preview_map = None
        started = time.process_time()
        with torch.inference_mode():
            nvg.preview_map = nvg_model.preview.fit(nvg.tokenizer)
            fitted = time.process_time() - started
            seconds: dict[str, list[float]] = {}
            for _ in range(options.repeats):
                for name, run in variants(nvg, options.steps).items():
                    started = time.process_time()
                    run()
                    seconds.setdefault(name, []).append(time.process_time() - started)
        least = {name: min(each) for name, each in seconds.items()}
        ratios = ", ".join(f"{name} {one / least['off']:.3f}" for name, one in least.items())
        print(
            f"{preset} (K = {nvg.config.splits}): previews off {least['off']:.2f} CPU s; "
            f"ratios to that: {ratios}; fitting the map, once a load: {fitted / least['off']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
