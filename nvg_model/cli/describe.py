"""`nvg info`: a checkpoint in words."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvg_model.config import NVGConfig


def info(args: argparse.Namespace) -> int:
    """`nvg info`: what a checkpoint's metadata says."""
    from nvg_model import checkpoint

    found = checkpoint.info(args.checkpoint)
    print(json.dumps(found, indent=1) if args.json else _describe(found))
    return 0


def _beside(config: NVGConfig) -> str:
    """What the decoder's pictures have beside their size."""
    transparency = ", with opacity" if config.autoencoder.output_channels == 4 else ""
    encoded = "{} x {} pixels".format(*config.image_size)
    return transparency + (f"; encoded at {encoded}" if config.output_size != config.image_size else "")


def _describe(found: dict[str, Any]) -> str:
    """The result of `checkpoint.info` for people."""
    from nvg_model.config import NVGConfig

    config, provenance = NVGConfig.from_dict(found["config"]), dict(found["provenance"])
    codebook, generator = config.autoencoder, found["config"]["generator"]
    lines = {
        "file": found["file"],
        "parameters": f"{found['parameters'] / 1e6:.2f} million",
        "images": "{} x {} pixels (height x width)".format(*config.output_size) + _beside(config),
        "stages": f"{config.num_stages} (K = {config.splits}, {config.positions} positions)",
        "codebook": f"{codebook.codebook_size} vectors of {codebook.latent_channels} channels",
        "generators": "none: a tokenizer only",
    }
    if generator:
        lines["generators"] = " and ".join(
            f"{name} {generator[f'{name}_depth']} deep, {generator[f'{name}_width']} wide"
            for name in ("content", "structure")
        )
        if generator["flow"] == "average":
            lines["structure flow"] = f"in few steps, with guidance from 1 to {generator['largest_guidance']:g} inside"
        if (largest := generator.get("largest_content_guidance", 1.0)) > 1:
            lines["content guidance"] = f"in one pass from 1 to {largest:g}"
        lines["classes"] = f"{len(found['classes'])}: {textwrap.shorten(', '.join(found['classes']), 1000)}"
        lines["sampling"] = _plain(found["settings"])
    lines["licence"] = provenance.pop("licence", "not stated")
    lines |= {name: _plain(value) for name, value in provenance.items()}
    return "\n".join(_field(name, text) for name, text in lines.items())


def _plain(value: Any) -> str:
    """A value of JSON without its brackets and quotes."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _field(name: str, text: str) -> str:
    line = f"{name.replace('_', ' '):<22}{text}"
    return textwrap.fill(line, 110, subsequent_indent=" " * 22, break_long_words=False, break_on_hyphens=False)
