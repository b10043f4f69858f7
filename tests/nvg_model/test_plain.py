"""The whole generation against the plain loop of tests/benchmarks, which shares no network code with nvg_model."""

import dataclasses

import plain
import pytest
import torch

from nvg_model import NVGConfig, SamplingSettings, preset
from nvg_model.cli.bench import random_model

WIDE = dataclasses.replace(  # K = 5: not a square, and an odd number of splits
    preset("tiny"), image_size=(16, 32), generator=dataclasses.replace(preset("tiny").generator, structure_width=128)
)


@pytest.mark.parametrize("config", [preset("tiny"), WIDE], ids=["tiny", "wide"])
@pytest.mark.parametrize("guidance", [(1.0, 3.5), (2.0, 2.0), (0.0, 1.0)])
def test_greedy_generation_equals_the_plain_loop(config: NVGConfig, guidance: tuple[float, float]) -> None:
    model = random_model(config)
    for parameter in model.parameters():  # far from the start of training, where all gates are nearly shut
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    settings = SamplingSettings(
        top_k=1, structure_steps=3, content_guidance=guidance, structure_guidance=(guidance[1], guidance[0])
    )
    noise = torch.randn(2, config.positions, config.splits, generator=torch.Generator().manual_seed(1))
    structure, tokens, image = plain.generate(model, torch.tensor([0, 2]), noise, settings)
    ours = model.generate([0, 2], settings=settings, structure_noise=noise)
    assert torch.equal(ours.structure, structure)
    assert torch.equal(ours.tokens, tokens)
    assert torch.allclose(model.decode(ours), image, atol=2e-4)
    assert len(tokens.unique()) > 1 and len(structure[:, 1].unique()) == 2  # the comparison says something
