"""Small models and batches with random values, for the tests of the trainings."""

import dataclasses

import torch
from torch import Tensor

from nvg_model.config import PRESETS
from nvg_model.model import NVG
from training.data.generator_batch import Batch


def fresh(seed: int = 0) -> NVG:
    torch.manual_seed(seed)
    nvg = NVG(PRESETS["tiny"], ("disc", "ring", "square"))
    nvg.content.initialize()
    nvg.structure.initialize()
    nvg.tokenizer.quantizer.spread()
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg


def with_names(tiny_model: NVG) -> NVG:
    """The tiny model with the classes of the trainings' data."""
    named = NVG(tiny_model.config, ("disc", "ring", "square"))
    named.load_state_dict(tiny_model.state_dict())
    return named


def transparent_model(tiny_model: NVG, classes: tuple[str, ...], channels: tuple[int, ...] = ()) -> NVG:
    """The tiny model with a new decoder of these channels: pictures with opacity, twice as large."""
    config = dataclasses.replace(
        tiny_model.config.autoencoder, output_channels=4, output_scale=2, decoder_channels=channels
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NVG(dataclasses.replace(tiny_model.config, autoencoder=config), classes)
    others = {name: one for name, one in tiny_model.state_dict().items() if not name.startswith("tokenizer.decoder.")}
    model.load_state_dict(others, strict=False)
    return model.eval().requires_grad_(False)


def random_tokens(content_stages: Tensor, structure_stages: Tensor, generator: torch.Generator) -> Batch:
    """Random cached tokens of the tiny model, trained at these stages [B,n] and [B,m]."""
    count = len(content_stages)
    return Batch(
        classes=torch.randint(3, (count,), generator=generator),
        content_stages=content_stages,
        structure_stages=structure_stages,
        noise=torch.randn(count, 16, 4, generator=generator),
        times=torch.rand(structure_stages.shape, generator=generator),
        finest=torch.rand(count, 16, generator=generator).argsort(1),
        codes=tuple(torch.randint(32, (count, 2**stage), generator=generator) for stage in range(5)),
    )
