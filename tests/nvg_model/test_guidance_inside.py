"""A content generator that has its guidance inside: one pass, in every kind of run."""

import dataclasses
import json

import pytest
import torch

import nvg_model
from nvg_model import NVGConfig, Region, SamplingSettings, hierarchy
from nvg_model.cli import main
from nvg_model.generation import Request

SETTINGS = SamplingSettings(content_guidance=(1.0, 3.0), structure_steps=2, top_k=1)


@pytest.fixture(scope="module")
def inside(tiny_model) -> nvg_model.NVG:
    """The tiny model with lively random weights for the scale."""
    generator = dataclasses.replace(tiny_model.config.generator, largest_content_guidance=4.0)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator), tiny_model.classes)
    model.load_state_dict(tiny_model.state_dict(), strict=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.content.guidance_mlp.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


def at_stage(model: nvg_model.NVG, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Canvas before a stage and its labels, of a generated picture."""
    sequence = model.generate([1], seed=9, settings=SETTINGS)
    return sequence.canvases[:, stage - 1], sequence.structure[:, stage]


def test_sampling_takes_the_scores_of_the_stages_scale(inside):
    stage = 2
    canvas, labels = at_stage(inside, stage)
    run = inside.run(Request([0], 3, SETTINGS))
    _, wanted = inside.content.predict(canvas, labels, torch.tensor([0]), stage, guidance=2.0)  # 1 to 3 over 4 splits
    assert torch.equal(run.token_logits(canvas, labels, stage), wanted)
    _, plain = inside.content.predict(canvas, labels, torch.tensor([0]), stage)
    assert not torch.allclose(plain, wanted, atol=1e-2)


def test_a_larger_scale_takes_two_passes(inside):
    stage = 2
    canvas, labels = at_stage(inside, stage)
    settings = dataclasses.replace(SETTINGS, content_guidance=(1.0, 9.0))  # 5 here
    found = inside.run(Request([0], 3, settings)).token_logits(canvas, labels, stage)
    own, null = (inside.content.predict(canvas, labels, one, stage)[1] for one in (torch.tensor([0]), None))
    torch.testing.assert_close(found, null + 5 * (own - null), atol=1e-4, rtol=1e-4)


def test_regions_are_mixed_from_guided_predictions(inside):
    stage, size = 2, inside.config.image_size[0]
    canvas, labels = at_stage(inside, stage)
    mask = torch.zeros(size, size)
    mask[:, : size // 2] = 1
    found = inside.run(Request([0], 3, SETTINGS, regions=[Region(mask, 2)])).token_logits(canvas, labels, stage)
    base, own = (inside.content.predict(canvas, labels, torch.tensor([one]), stage, guidance=2.0)[0] for one in (0, 2))
    height, width = inside.config.grid
    left = (torch.arange(height * width) % width < width // 2)[None, :, None]
    change = hierarchy.cluster_means(torch.where(left, own, base) - canvas, labels, 2**stage)
    torch.testing.assert_close(found, inside.content.logits(change), atol=1e-4, rtol=1e-4)


def test_regions_with_scales_of_their_own_take_two_passes(inside):
    stage, size = 2, inside.config.image_size[0]
    canvas, labels = at_stage(inside, stage)
    everywhere = Region(torch.ones(size, size), 0, guidance=3.0)
    half = Region(torch.cat([torch.ones(size, size // 2), torch.zeros(size, size // 2)], 1), 0, guidance=3.0)
    own, null = (inside.content.predict(canvas, labels, one, stage)[1] for one in (torch.tensor([0]), None))
    found = inside.run(Request([1], 3, SETTINGS, regions=[half])).token_logits(canvas, labels, stage)
    assert found.shape == own.shape and bool(torch.isfinite(found).all())
    alone = inside.run(Request([1], 3, SETTINGS, regions=[everywhere])).token_logits(canvas, labels, stage)
    torch.testing.assert_close(alone, null + 3 * (own - null), atol=1e-4, rtol=1e-4)


def test_one_region_everywhere_is_a_plain_call(inside):
    size = inside.config.image_size[0]
    plain = inside.generate([2], seed=5, settings=SETTINGS)
    found = inside.generate([0], seed=5, settings=SETTINGS, regions=[Region(torch.ones(size, size), 2)])
    assert torch.equal(plain.tokens, found.tokens) and torch.equal(plain.canvases, found.canvases)


def test_save_and_load_and_info(inside, tmp_path, capsys):
    path = nvg_model.save(inside, tmp_path / "inside.safetensors")
    again = nvg_model.load(path)
    assert again.config == inside.config
    one, other = (model.generate([1], seed=4, settings=SETTINGS) for model in (inside, again))
    assert torch.equal(one.tokens, other.tokens)
    assert main(["info", str(path)]) == 0
    assert "content guidance      in one pass from 1 to 4" in capsys.readouterr().out


def test_checkpoints_without_it_stay_as_they_were(tiny_model, inside, tmp_path, capsys):
    """So that older versions read them too."""
    assert "largest_content_guidance" not in tiny_model.config.to_dict()["generator"]
    assert NVGConfig.from_dict(tiny_model.config.to_dict()) == tiny_model.config
    assert NVGConfig.from_dict(json.loads(json.dumps(inside.config.to_dict()))) == inside.config
    assert not hasattr(tiny_model.content, "guidance_mlp")


def test_a_scale_that_the_network_does_not_have_is_refused(tiny_model, inside, refuses):
    canvas, labels = at_stage(inside, 2)
    with refuses("guidance is 4.5; this content network has it inside from 1 to 4: choose another scale, or guide by"):
        inside.content.predict(canvas, labels, None, 2, guidance=4.5)
    with refuses("guidance is 2; this content network has it inside not at all: choose"):
        tiny_model.content.predict(canvas, labels, None, 2, guidance=2.0)
