"""A small model with random weights, for the tests of the trainings."""

import torch

from nvg_model.config import PRESETS
from nvg_model.model import NVG


def fresh(seed: int = 0) -> NVG:
    torch.manual_seed(seed)
    nvg = NVG(PRESETS["tiny"], ("disc", "ring", "square"))
    nvg.content.initialize()
    nvg.structure.initialize()
    torch.nn.init.normal_(nvg.tokenizer.quantizer.codebook)
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg
