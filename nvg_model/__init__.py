"""NVG: Next Visual Granularity image generation.

An image is drawn from coarse to fine: at each stage a small rectified-flow transformer splits the canvas into finer
regions (structure), and a larger transformer fills every region with a token (content).

    nvg = nvg_model.load("emoji64")
    sequence = nvg.generate(["heart", "bird"], seed=7)
    images = nvg.decode(sequence)  # [2,3,64,64] in [-1,1]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvg_model.checkpoint import embedded, info, load, save
    from nvg_model.config import PRESETS, AutoencoderConfig, GeneratorConfig, NVGConfig, preset
    from nvg_model.errors import CheckpointError, NVGError
    from nvg_model.hierarchy import cluster
    from nvg_model.hub import download
    from nvg_model.model import NVG
    from nvg_model.regions import Region
    from nvg_model.released import load_released
    from nvg_model.sampling import SamplingSettings
    from nvg_model.tokenizer import VisualGranularitySequence

_HOMES = {
    "checkpoint": ("embedded", "info", "load", "save"),
    "regions": ("Region",),
    "config": ("PRESETS", "AutoencoderConfig", "GeneratorConfig", "NVGConfig", "preset"),
    "hub": ("download",),
    "errors": ("CheckpointError", "NVGError"),
    "model": ("NVG",),
    "released": ("load_released",),
    "sampling": ("SamplingSettings",),
    "tokenizer": ("VisualGranularitySequence",),
    "hierarchy": ("cluster",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "NVG",
    "PRESETS",
    "AutoencoderConfig",
    "CheckpointError",
    "GeneratorConfig",
    "NVGConfig",
    "NVGError",
    "Region",
    "SamplingSettings",
    "VisualGranularitySequence",
    "cluster",
    "download",
    "embedded",
    "info",
    "load",
    "load_released",
    "preset",
    "save",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that importing the package does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'nvg_model' has no attribute {name!r}")
    value = getattr(import_module(f"nvg_model.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
