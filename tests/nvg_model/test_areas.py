"""Areas of any size as regions of the structure, and pictures that go on at their opposite edge."""

import pytest
import torch
import torch.nn.functional as F

from nvg_model import Region, SamplingSettings, hierarchy
from nvg_model.areas import fitted, rounded
from nvg_model.seamless import mixed

ONE_STEP = SamplingSettings(structure_steps=1)


def disc(share, side=64):
    """A disc that covers a share of the picture."""
    place = torch.arange(side) - side / 2 + 0.5
    distance = (place[:, None] ** 2 + place**2).flatten()
    mask = torch.zeros(side * side)
    mask[distance.argsort()[: round(share * side * side)]] = 1
    return mask.view(side, side)


def is_union(labels, positions):
    """Whether the positions [L] are whole clusters of labels [L]."""
    return not set(labels[positions].tolist()) & set(labels[~positions].tolist())


@pytest.mark.parametrize(
    "share, wanted",
    [
        (0.5, (1, 32)),
        (0.25, (2, 16)),
        (0.375, (1, 32)),
        (0.3, (2, 16)),
        (0.6, (1, 32)),
        (0.65, (2, 48)),
        (0.125, (3, 8)),
        (0.0625, (4, 4)),
        (0.75, (2, 48)),
        (0.99, (6, 63)),
    ],
)
def test_the_stage_at_which_an_area_is_whole_regions(share, wanted):
    assert rounded(share, 64) == wanted


@pytest.mark.parametrize("share", [0.0625, 0.125, 0.25, 0.375, 0.5, 0.7])
def test_nested_halves_around_an_area(share):
    areas = fitted(disc(share), 1, (8, 8))
    structure = areas.structure()
    hierarchy.check(structure, 64)
    assert structure.shape[1] == areas.stage + 1 and is_union(structure[0, -1], areas.positions[0])
    assert not is_union(structure[0, -2], areas.positions[0])  # at no earlier stage


@pytest.mark.parametrize("rule", ["nested", "free"])
@pytest.mark.parametrize("share", [0.0625, 0.25, 0.375, 0.7])
def test_a_generated_structure_has_the_area_as_regions(either, share, rule):
    drawn = either.generate(["heart", "bird"], 3, ONE_STEP, area=disc(share), area_rule=rule)
    hierarchy.check(drawn.structure, either.config.positions)
    areas = fitted(disc(share), 2, either.config.grid)
    for item in range(2):
        assert is_union(drawn.structure[item, areas.stage], areas.positions[item])
    free = either.generate(["heart", "bird"], 3, ONE_STEP)
    assert not torch.equal(free.structure, drawn.structure)


def test_rules_that_give_the_structure(either):
    areas = fitted(disc(0.25), 1, either.config.grid)
    for rule, stages in (("nested", 3), ("half", 2)):
        drawn = either.generate("heart", 3, ONE_STEP, area=disc(0.25), area_rule=rule)
        same = either.generate("heart", 3, ONE_STEP, structure=areas.structure()[:, :stages])
        assert torch.equal(drawn.canvases, same.canvases)


@pytest.mark.parametrize("rule", ["nested", "free"])
def test_kept_positions_come_before_areas(either, rule):
    reference = either.generate("bird", 1, ONE_STEP)
    keep = torch.zeros(either.config.grid)
    keep[:, : len(keep) // 2] = 1
    drawn = either.generate("heart", 3, ONE_STEP, sequence=reference, keep=keep, area=disc(0.25), area_rule=rule)
    hierarchy.check(drawn.structure, either.config.positions)
    kept = keep.flatten() > 0
    assert torch.equal(drawn.canvases[0, -1][kept], reference.canvases[0, -1][kept])


@pytest.mark.parametrize(
    "area, message",
    [
        (torch.zeros(8, 8), "the area is empty, so it has no outline"),
        (torch.ones(8, 8), "the area covers everything"),
        (torch.full((8, 8), 2.0), "the area has values from 2 to 2"),
        (torch.zeros(3, 8, 8), "the area has 3 items for 1 images"),
    ],
)
def test_wrong_areas(tiny_model, refuses, area, message):
    with refuses(message):
        tiny_model.generate("heart", area=area)


def test_one_layout_only(tiny_model, refuses):
    with refuses("area_rule is 'best'; it can be nested, free, half"):
        tiny_model.generate("heart", area=disc(0.25), area_rule="best")
    with refuses("give either a structure or an area"):
        tiny_model.generate("heart", area=disc(0.25), structure=fitted(disc(0.25), 1, (4, 4)).structure())


def rolled(x, steps):
    return x.roll(steps, (-2, -1))


def random_canvas(nvg):
    shape = 1, nvg.config.positions, nvg.config.autoencoder.latent_channels
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_decoder_goes_on_at_the_opposite_edge(either):
    """A moved canvas gives the moved picture, which no padding with zeros does."""
    canvas, tokenizer = random_canvas(either), either.tokenizer
    moved = rolled(canvas.mT.unflatten(2, either.config.grid), (1, 2)).flatten(2).mT
    step = either.config.output_size[0] // either.config.grid[0]
    picture, other = (tokenizer.decode(one, seamless=True) for one in (canvas, moved))
    torch.testing.assert_close(other, rolled(picture, (step, 2 * step)), atol=1e-4, rtol=0)
    with torch.no_grad():  # the way by sub-pixels
        torch.testing.assert_close(tokenizer.decode(canvas, seamless=True), picture, atol=1e-4, rtol=0)
    rgba = tokenizer.decode_rgba(canvas, seamless=True)
    shown, opacity = tokenizer.decode_with_opacity(canvas, seamless=True)
    torch.testing.assert_close((rgba[:, 3] + 1) / 2, opacity)
    assert torch.equal(shown, picture) and (bool(opacity.min() < 1) or torch.equal(rgba[:, :3], picture))
    assert not torch.allclose(tokenizer.decode(moved), rolled(tokenizer.decode(canvas), (step, 2 * step)), atol=1e-2)
    assert not any(
        part.padding_mode != "zeros" for part in tokenizer.decoder.modules() if hasattr(part, "padding_mode")
    )


def test_refiners_go_on_at_the_opposite_edge(either):
    placed, grid = random_canvas(either), either.config.grid
    moved = rolled(placed.mT.unflatten(2, grid), (1, 1)).flatten(2).mT
    refined, other = (either.tokenizer.quantizer.refine(one, 2, seamless=True) for one in (placed, moved))
    torch.testing.assert_close(other, rolled(refined.mT.unflatten(2, grid), (1, 1)).flatten(2).mT)


def test_a_picture_moved_by_half_is_drawn_alike(either):
    """So what lies across the edges is drawn as what lies in the middle; a plain picture depends on its place."""
    shape, grid = (1, either.config.positions, either.config.splits), either.config.grid
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def moved(values, axis):
        half = grid[0] // 2, grid[1] // 2
        return values.unflatten(axis, grid).roll(half, (axis, axis + 1)).flatten(axis, axis + 1)

    def pair(seamless):
        return (
            either.generate("heart", 3, ONE_STEP, structure_noise=one, seamless=seamless)
            for one in (noise, moved(noise, 1))
        )

    first, second = pair(seamless=True)
    assert torch.equal(second.structure, moved(first.structure, 2))
    assert torch.equal(second.tokens, moved(first.tokens, 2))
    torch.testing.assert_close(second.canvases, moved(first.canvases, 2))
    plain, other = pair(seamless=False)
    assert not torch.allclose(other.canvases, moved(plain.canvases, 2), atol=1e-2)


@pytest.mark.parametrize("grid", [(4, 4), (2, 8), (1, 16)])
def test_views_of_a_seamless_picture_sum_to_one(grid):
    values = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed(grid, lambda view: view.move(values)), values)


def test_seamless_pictures_with_everything_else(either):
    reference = either.generate("bird", 1, ONE_STEP)
    keep = torch.zeros(4, 4)
    keep[:, :2] = 1
    plain = either.generate("heart", 3, ONE_STEP)
    options = (
        {"regions": [Region(disc(0.25), "bird")]},
        {"sequence": reference, "keep": keep},
        {"area": disc(0.25), "area_rule": "free"},
    )
    for more in ({}, *options):
        drawn = either.generate("heart", 3, ONE_STEP, seamless=True, **more)
        hierarchy.check(drawn.structure, either.config.positions)
        assert not torch.equal(drawn.canvases, plain.canvases)
    both = either.generate(["heart", "bird"], 3, ONE_STEP, seamless=True)
    alone = either.generate("bird", 3, ONE_STEP, first_item=1, seamless=True)
    torch.testing.assert_close(both.canvases[1:], alone.canvases, atol=1e-4, rtol=1e-4)


def test_a_region_moves_with_the_picture(either):
    """A region of everything is a plain call, in a seamless picture as well."""
    full = F.pad(torch.ones(2, 2), (1, 1, 1, 1), value=1.0)
    first = either.generate("bird", 3, ONE_STEP, seamless=True)
    second = either.generate("heart", 3, ONE_STEP, seamless=True, regions=[Region(full, "bird")])
    assert torch.equal(first.tokens, second.tokens)
    torch.testing.assert_close(first.canvases, second.canvases)
