"""In-betweens, variations and shared noise."""

import math

import pytest
import torch

from nvg_model import SamplingSettings, hierarchy
from nvg_model.interpolation import structures_between
from nvg_model.sampling import Noise, Use, gumbel_noise, gumbel_to_normal, normal_to_gumbel, stream

ONE_STEP = SamplingSettings(structure_steps=1)


@pytest.fixture(scope="module")
def ends(either):
    return either.generate("heart", 1, ONE_STEP), either.generate("boat", 2, ONE_STEP)


@pytest.mark.parametrize("content", ["blend", "nearer", "stages"])
def test_the_ends_are_exact_and_every_frame_is_a_hierarchy(either, ends, content):
    between = either.interpolate(*ends, frames=5, content=content)
    hierarchy.check(between.structure, either.config.positions)
    for frame, end in ((0, ends[0]), (4, ends[1])):
        for name in ("structure", "tokens", "canvases"):
            assert torch.equal(getattr(between, name)[frame : frame + 1], getattr(end, name)), (frame, name)
    assert between.canvases.shape[0] == 5 and torch.isfinite(either.decode(between)).all()


def test_a_sequence_on_the_way_to_itself_does_not_change(either, ends):
    between = either.interpolate(ends[0], ends[0], frames=4)
    assert torch.equal(between.tokens, ends[0].tokens.expand(4, -1, -1))
    torch.testing.assert_close(between.canvases, ends[0].canvases.expand(4, -1, -1, -1))


def test_outlines_move(tiny_model):
    """A band that moves from the left to the right passes the middle."""
    columns = torch.arange(8).expand(8, 8)
    first, second = ((columns >= low) & (columns < low + 4) for low in (0, 4))
    both = [torch.stack([torch.zeros(64, dtype=torch.long), band.flatten().long()]) for band in (first, second)]
    middle = structures_between(*both, torch.tensor([0.25, 0.5, 0.75]), (8, 8))[:, 1].view(3, 8, 8)
    assert middle.flatten(1).sum(1).tolist() == [32, 32, 32]
    quarter, three = middle[0].float().mean(0), middle[2].float().mean(0)
    assert quarter[:4].sum() > quarter[4:].sum() and three[4:].sum() > three[:4].sum()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": 1}, "frames is 1"),
        ({"frames": 2.5}, "frames is 2.5"),
        ({"content": "slow"}, "content is 'slow'; it can be blend, nearer, stages"),
    ],
)
def test_wrong_in_betweens(either, ends, refuses, change, message):
    with refuses(message):
        either.interpolate(*ends, **({"frames": 3} | change))


def test_ends_that_do_not_fit(either, ends, refuses):
    with refuses("the sequences do not fit"):
        either.interpolate(ends[0], ends[1].first_stages(2), 3)
    with refuses("have 1 and 2 items"):
        either.interpolate(ends[0], either.generate(["heart", "boat"]), 3)


def test_variations_lead_from_one_seed_to_the_other(either):
    def draw(**noise):
        return either.generate(["heart", "boat"], 1, ONE_STEP, **noise)

    plain, other = draw(), either.generate(["heart", "boat"], 9, ONE_STEP)
    assert torch.equal(draw(variation_seed=9).tokens, plain.tokens)
    assert torch.equal(draw(variation_seed=9, variation=1).tokens, other.tokens)
    changed = [(draw(variation_seed=9, variation=share).tokens != plain.tokens).float().mean() for share in (0.05, 0.5)]
    assert 0 <= changed[0] < changed[1]
    alone = either.generate("boat", 1, ONE_STEP, first_item=1, variation_seed=9, variation=0.5)
    assert torch.equal(draw(variation_seed=9, variation=0.5).tokens[1:], alone.tokens)


@pytest.mark.parametrize("use", [Use.STRUCTURE, Use.TOKEN])
def test_noise_on_the_way_has_the_same_distribution(use):
    noise = Noise(seed=1, variation_seed=2, variation=0.3).draw((100_000,), use, 0, 1)
    mean, deviation = (0.0, 1.0) if use.is_normal else (0.5772, math.pi / math.sqrt(6))
    assert noise.mean().item() == pytest.approx(mean, abs=0.02)
    assert noise.std().item() == pytest.approx(deviation, rel=0.02)


def test_gumbel_noise_comes_back_from_normal():
    noise = gumbel_noise((10_000,), stream(3))
    assert (normal_to_gumbel(gumbel_to_normal(noise)) - noise).abs().max() < 1e-5


def test_shared_noise_gives_every_image_that_of_the_first(either):
    shared = either.generate(["heart"] * 3, 4, ONE_STEP, shared_noise=True)
    assert torch.equal(shared.tokens, shared.tokens[:1].expand(3, -1, -1))
    assert torch.equal(shared.tokens[:1], either.generate("heart", 4, ONE_STEP).tokens)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "half"])
def test_wrong_variations(tiny_model, refuses, share):
    with refuses("variation is .* between 0"):
        tiny_model.generate("heart", variation=share)
