"""Random structures, and comparisons of sequences, that several test files of the model share."""

import torch

from nvg_model import SamplingSettings
from nvg_model.hierarchy import all_stages

FAST = SamplingSettings(structure_steps=3)
STAGES = 5  # of the tiny model: K = 4


def assert_same(a, b):
    assert torch.equal(a.structure, b.structure)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.canvases, b.canvases)


def differs(a, b):
    return not torch.equal(a.structure, b.structure) and not torch.equal(a.tokens, b.tokens)


def random_structure(batch, stages=STAGES, positions=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    finest = torch.stack([torch.randperm(positions, generator=generator) for _ in range(batch)])
    return all_stages(finest)[:, :stages]


def generator_of(seed=0):
    return torch.Generator().manual_seed(seed)
