"""NVG: Next Visual Granularity image generation.

An image is drawn from coarse to fine: at each stage a small rectified-flow transformer splits the canvas into finer
regions (structure), and a larger transformer fills every region with a token (content).

    nvg = nvg_model.load("emoji64")
    sequence = nvg.generate(["heart", "bird"], seed=7)
    images = nvg.decode(sequence)  # [2,3,64,64] in [-1,1]
"""

from nvg_model.checkpoint import embedded, info, load, save
from nvg_model.config import PRESETS, AutoencoderConfig, GeneratorConfig, NVGConfig, preset
from nvg_model.errors import CheckpointError, NVGError
from nvg_model.model import NVG
from nvg_model.released import load_released
from nvg_model.sampling import SamplingSettings
from nvg_model.sequence import VisualGranularitySequence
from nvg_model.structure import cluster

__all__ = [
    "NVG",
    "PRESETS",
    "AutoencoderConfig",
    "CheckpointError",
    "GeneratorConfig",
    "NVGConfig",
    "NVGError",
    "SamplingSettings",
    "VisualGranularitySequence",
    "cluster",
    "embedded",
    "info",
    "load",
    "load_released",
    "preset",
    "save",
]
