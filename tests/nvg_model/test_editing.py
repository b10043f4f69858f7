"""Regions and kept pixels: equalities and invariances, on the tiny model and on emoji64 (`either`)."""

import dataclasses
from collections import Counter

import pytest
import torch

from nvg_model import Region, SamplingSettings, hierarchy
from nvg_model.editing import COARSE, Kept, kept_positions, paste, place, resized, seam_weights
from nvg_model.generation import Request, count_evaluations
from nvg_model.networks import known_channels
from nvg_model.regions import grid_mask, regional

ONE_STEP = SamplingSettings(structure_steps=1)


def half(size, side="left"):
    mask = torch.zeros(size, size)
    cut = size // 2
    mask[:, :cut] = 1
    return mask if side == "left" else 1 - mask


def same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("structure", "tokens", "canvases"))


def size_of(nvg):
    return nvg.config.image_size[0]


def test_one_region_of_everything_is_a_plain_call(either):
    full = torch.ones(size_of(either), size_of(either))
    plain = either.generate(["bird", "bird"], 3, ONE_STEP)
    assert same(plain, either.generate(["heart", "boat"], 3, ONE_STEP, regions=[Region(full, "bird")]))
    assert same(plain, either.generate(["heart", "boat"], 3, ONE_STEP, regions=[Region(torch.ones(5, 5), "bird")]))
    assert not same(plain, either.generate(["heart", "boat"], 3, ONE_STEP))


def test_a_region_of_nothing_changes_and_costs_nothing(either):
    size, rows = size_of(either), []
    handles = [
        network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
        for network in (either.content, either.structure)
    ]
    plain = either.generate("heart", 3, ONE_STEP)
    before, rows[:] = list(rows), []
    assert same(plain, either.generate("heart", 3, ONE_STEP, regions=[Region(torch.zeros(size, size), "bird")]))
    for handle in handles:
        handle.remove()
    assert rows == before and len(rows) > either.config.splits


def test_the_order_of_regions_does_not_matter(either):
    size = size_of(either)
    first, second = Region(half(size) * 0.5, "bird"), Region(half(size, "right"), "boat", guidance=2.0)
    results = [either.generate(["heart"], 3, ONE_STEP, regions=order) for order in ([first, second], [second, first])]
    assert same(*results)


def test_an_item_is_the_same_alone(either):
    masks = torch.stack([half(8), half(8, "right"), torch.ones(8, 8)])
    both = either.generate(["heart", "bird", "boat"], 3, ONE_STEP, regions=[Region(masks, "boat")])
    alone = either.generate(["bird"], 3, ONE_STEP, first_item=1, regions=[Region(masks[1], "boat")])
    assert torch.equal(both.tokens[1:2], alone.tokens)
    torch.testing.assert_close(both.canvases[1:2], alone.canvases, atol=1e-4, rtol=1e-4)


def test_a_kept_item_is_the_same_alone(either):
    size = either.config.output_size[0]
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.stack([half(size), half(size, "right"), half(size).mT])
    both = either.inpaint(images, masks, ["heart", "bird", "boat"], 3, settings=ONE_STEP)
    alone = either.inpaint(images[1:2], masks[1], "bird", 3, settings=ONE_STEP, first_item=1)
    torch.testing.assert_close(both[1:2], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("edit", ["regions", "keep", "area", "seamless"])
def test_evaluations_are_those_of_a_plain_call(either, edit):
    """All classes and both views are rows of one evaluation, so the count of the progress is the same."""
    mask, counted = half(8), []
    more = {
        "regions": {"regions": [Region(mask * 0.5, "bird"), Region(mask * 0.5, "boat")]},
        "keep": {"sequence": either.generate("boat", 1, ONE_STEP), "keep": mask},
        "area": {"area": mask, "area_rule": "free"},
        "seamless": {"seamless": True},
    }[edit]
    either.generate("heart", 3, ONE_STEP, on_evaluation=lambda: counted.append(1), **more)
    assert len(counted) == count_evaluations(ONE_STEP, either.config.splits)


def mixing(nvg, settings):
    """A soft region of birds among hearts: the run, its share [1,L,1], and a state after stage 2 to go on from."""
    size = size_of(nvg)
    mask = torch.linspace(0, 1, size).expand(size, size)
    run = nvg.run(Request(["heart"], 3, settings, regions=[Region(mask, "bird", guidance=settings.content_guidance)]))
    state = nvg.generate("boat", 9, ONE_STEP)
    share = grid_mask(mask, 1, nvg.config.grid, "mask")[..., None]
    return run, share, state.canvases[:, 1], state.structure[:, 2]


def test_predictions_are_mixed_by_the_masks(tiny_model):
    """Against the formula, written with one network call a class."""
    nvg, stage = tiny_model, 2
    run, share, canvas, labels = mixing(nvg, SamplingSettings(content_guidance=(1, 3)))
    final = {name: nvg.content.predict(canvas, labels, nvg.class_indices(name), stage)[0] for name in ("heart", "bird")}
    null = nvg.content.predict(canvas, labels, None, stage)[1]
    mixed = share * final["bird"] + (1 - share) * final["heart"]
    own = nvg.content.logits(hierarchy.cluster_means(mixed - canvas, labels, 2**stage))
    scale = 1 + 2 * stage / nvg.config.splits
    torch.testing.assert_close(run.token_logits(canvas, labels, stage), null + scale * (own - null))


def test_velocities_are_mixed_by_the_masks(either):
    """One step of Euler, against the formula with one network call a class."""
    nvg, stage = either, 2
    settings = SamplingSettings(structure_guidance=(1, 3), structure_steps=1)
    run, share, canvas, labels = mixing(nvg, settings)
    splits = nvg.config.splits
    noise = torch.randn(1, nvg.config.positions, splits, generator=torch.Generator().manual_seed(0))
    if nvg.structure.partial:
        noise[..., :stage] = known_channels(labels, stage, splits)[..., :stage]
    heart, bird, null = (
        nvg.structure.velocity(noise, 1.0, canvas, labels, name and nvg.class_indices(name), stage)
        for name in ("heart", "bird", None)
    )
    velocity = null + (1 + 2 * stage / splits) * (share * bird + (1 - share) * heart - null)
    wanted = (noise - velocity)[..., stage]
    torch.testing.assert_close(run.integrate(canvas, labels, noise, stage)[..., stage], wanted, atol=1e-4, rtol=1e-4)


def test_a_region_has_guidance_of_its_own(either):
    mask = half(8)
    settings = SamplingSettings(content_guidance=(3, 3), structure_steps=1)
    plain = either.generate("heart", 3, settings)
    assert same(plain, either.generate("heart", 3, settings, regions=[Region(mask, "heart", guidance=3)]))
    assert not same(plain, either.generate("heart", 3, settings, regions=[Region(mask, "heart", guidance=0)]))


@pytest.mark.parametrize(
    "regions, message",
    [
        ([Region(torch.ones(4, 4), "bird"), Region(torch.ones(4, 4), "boat")], "sum to 2.00 at row 0, column 0"),
        ([Region(torch.ones(3, 4, 4), "bird")], "the mask of region 1 has 3 items for 2 images"),
        ([Region(torch.ones(1, 1, 4, 4), "bird")], "has shape .* give .height, width."),
        ([Region(torch.full((4, 4), 1.5), "bird")], "values from 1.5 to 1.5"),
        ([Region(torch.full((4, 4), torch.nan), "bird")], "between 0 and 1"),
        ([Region(torch.ones(4, 4), "brid")], "did you mean bird"),
        ([Region(torch.ones(4, 4), "bird", guidance=-1)], "guidance of region 1 is -1"),
        ([Region(torch.ones(4, 4), "bird", guidance=float("nan"))], "guidance of region 1 is nan"),
    ],
)
def test_wrong_regions(tiny_model, refuses, regions, message):
    with refuses(message):
        tiny_model.generate(["heart", "heart"], regions=regions)


def test_masks_of_any_size_and_their_shares():
    mask = torch.zeros(6, 6)
    mask[:3] = 1
    classes = regional(torch.tensor([5]), [Region(mask, "any")], [2], (4, 4))
    assert classes.weights[:, 0].view(2, 4, 4)[1, :, 0].tolist() == [1, 1, 0, 0]
    assert torch.equal(classes.weights.sum(0), torch.ones(1, 16))


def random_mask(generator, size):
    """Boxes, half-planes, noise."""
    kind = int(torch.randint(3, (), generator=generator))
    mask = torch.zeros(size, size)
    if kind == 0:
        top, left = torch.randint(size - 1, (2,), generator=generator).tolist()
        mask[top : top + size // 2, left : left + size // 2] = 1
    elif kind == 1:
        mask[:, : int(torch.randint(1, size, (), generator=generator))] = 1
    else:
        mask = (torch.rand(size, size, generator=generator) > 0.8).float()
        mask[0, 0] = 1
    return mask


def test_kept_pixels_never_change_and_structures_stay_balanced(tiny_model):
    """200 random masks on random pictures."""
    generator, size = torch.Generator().manual_seed(0), size_of(tiny_model)
    for batch in range(20):
        images = torch.rand(10, 3 + batch % 2, size, size, generator=generator) * 2 - 1
        masks = torch.stack([random_mask(generator, size) for _ in images])
        new = tiny_model.inpaint(images, masks, "bird", seed=batch, settings=ONE_STEP)
        kept = (masks == 0)[:, None].expand_as(images)
        assert torch.equal(new[kept], images[kept])


def test_structures_with_kept_positions(either):
    """They are hierarchies, and kept positions have the reference's side wherever it fits."""
    generator, size = torch.Generator().manual_seed(1), size_of(either)
    images = torch.rand(20, 3, size, size, generator=generator) * 2 - 1
    masks = torch.stack([random_mask(generator, size) for _ in images])
    reference = either.tokenize(images)
    new = either.generate(["bird"] * 20, 5, ONE_STEP, sequence=reference, keep=(masks == 0).float())
    hierarchy.check(new.structure, either.config.positions)
    kept = kept_positions(masks, either.config.grid)
    first, wanted = new.structure[:, 1], reference.structure[:, 1]
    assert torch.equal(first[kept], wanted[kept])  # the reference's halves leave room for all of them
    stays = kept[:, None, :, None]
    assert torch.equal(new.canvases * stays, reference.canvases * stays)
    assert not torch.equal(new.tokens, reference.tokens)


def test_mixed_clusters_of_the_first_stages_have_the_commonest_kept_token(tiny_model):
    tokens = torch.tensor([[3, 7, 7, 9], [9, 9, 9, 9]]).repeat_interleave(4, 1).view(2, 1, 16)
    reference = tiny_model.tokenize(torch.zeros(2, 3, 16, 16))
    stages = tokens.expand(-1, reference.num_stages, -1)
    positions = torch.ones(2, 16, dtype=torch.bool)
    positions[0, 8:] = False  # the halves: 3 3 3 3 7 7 7 7 kept, 7 and 9 new
    kept = Kept(dataclasses.replace(reference, tokens=stages), positions)
    halves = torch.arange(2).repeat(2, 8)
    drawn = torch.tensor([[1, 2], [1, 2]])
    # item 0: both clusters keep 3 and 7 equally often, and the first of them counts; item 1 is kept as a whole
    for stage, wanted in ((COARSE - 1, [[3, 3], [9, 9]]), (COARSE, [[1, 2], [9, 9]])):
        assert kept.codes(drawn, halves, stage).tolist() == wanted
    positions[0, 0] = False
    assert kept.codes(drawn, halves, 1).tolist() == [[7, 3], [9, 9]]
    positions[0, :8:2] = False  # nothing of the first cluster is kept: its token is the drawn one
    assert kept.codes(drawn, halves, 1).tolist() == [[1, 3], [9, 9]]


@pytest.mark.parametrize("name", ["tiny", "emoji64"])
def test_the_colours_of_a_part_are_those_of_the_picture(tiny_model, emoji, name):
    """Against a count with Python's own means, cluster by cluster."""
    nvg = tiny_model if name == "tiny" else emoji
    settings = SamplingSettings(structure_steps=1, content_guidance=(1, 1), structure_guidance=(1, 1))
    reference, keep = nvg.generate("boat", 1, settings), half(size_of(nvg))
    drawn = nvg.generate("bird", 2, settings, sequence=reference, keep=keep)
    kept = kept_positions(1 - keep[None], nvg.config.grid)[0].tolist()
    for stage in range(COARSE):
        labels, tokens = drawn.structure[0, stage].tolist(), reference.tokens[0, stage].tolist()
        for cluster in set(labels):
            inside = [
                token for token, label, stays in zip(tokens, labels, kept, strict=True) if stays * (label == cluster)
            ]
            found = {t for t, label in zip(drawn.tokens[0, stage].tolist(), labels, strict=True) if label == cluster}
            assert len(found) == 1
            if inside:
                assert Counter(inside)[found.pop()] == max(Counter(inside).values())
    assert not torch.equal(drawn.tokens[:, COARSE:], reference.tokens[:, COARSE:])


def test_split_with_sides():
    labels = torch.zeros(1, 8, dtype=torch.long)
    scores = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]])
    sides = torch.tensor([[0, 0, -1, -1, -1, -1, 1, 1]])
    assert hierarchy.split(labels, scores, sides=sides).tolist() == [[0, 0, 1, 1, 0, 0, 1, 1]]
    all_up = torch.ones_like(sides)  # more than half: those with the best scores
    assert hierarchy.split(labels, scores, sides=all_up).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_means_over_weighted_members():
    x = torch.arange(4.0).view(1, 4, 1)
    labels = torch.tensor([[0, 0, 1, 1]])
    weights = torch.tensor([[1.0, 0, 0, 0]])
    assert hierarchy.cluster_means(x, labels, 2, weights).flatten().tolist() == [0, 2.5]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"mask": torch.zeros(8, 8)}, "the mask is 0 everywhere"),
        ({"mask": torch.ones(3, 8, 8)}, "the mask has 3 items for 1 images"),
        ({"mask": torch.ones(8)}, "the mask has shape .8."),
    ],
)
def test_wrong_masks(tiny_model, refuses, given, message):
    size = size_of(tiny_model)
    with refuses(message):
        tiny_model.inpaint(torch.zeros(1, 3, size, size), classes="bird", **given)


def test_keep_needs_a_sequence_and_something_to_draw(either, refuses):
    size = size_of(either)
    reference = either.tokenize(torch.zeros(1, 3, size, size))
    with refuses("keep needs the whole sequence"):
        either.generate("bird", keep=torch.ones(size, size))
    with refuses("keep needs the whole sequence"):
        either.generate("bird", sequence=reference.first_stages(2), keep=torch.ones(size, size))
    with refuses("keep covers everything"):
        either.generate("bird", sequence=reference, keep=torch.ones(size, size))
    plain = either.generate("bird", 2, ONE_STEP)
    assert same(plain, either.generate("bird", 2, ONE_STEP, sequence=reference, keep=torch.zeros(size, size)))


def test_stages_kept_inside_the_mask(either):
    """Image to image: structure and content of the first stages stay there too."""
    size = either.config.output_size[0]
    images = either.decode(either.generate("boat", 1, ONE_STEP))
    reference, mask = either.tokenize(resized(images, either.config)), half(size)
    kept = {"keep_structure": 3, "keep_content": 2}
    drawn = either.generate("bird", 2, ONE_STEP, sequence=reference, keep=1 - mask, **kept)
    assert torch.equal(drawn.structure[:, :3], reference.structure[:, :3])
    assert torch.equal(drawn.tokens[:, :2], reference.tokens[:, :2])
    assert not torch.equal(drawn.tokens[:, 3:], reference.tokens[:, 3:])
    new = either.inpaint(images, mask, "bird", 2, settings=ONE_STEP, **kept)
    assert torch.equal(new, paste(either.decode(drawn), images, mask[None]))


def test_the_whole_picture_may_be_drawn_anew(either):
    size = either.config.output_size[0]
    images = torch.zeros(1, 3, size, size)
    plain = either.decode(either.generate("bird", 2, ONE_STEP))
    new = either.inpaint(images, torch.ones(size, size), "bird", 2, settings=ONE_STEP)
    assert torch.equal(new, plain)


def test_the_seam_lies_inside_the_new_part():
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    assert seam_weights(mask, 2)[0, 0].tolist() == pytest.approx([0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1])
    assert seam_weights(mask, 0)[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    new, old = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    assert paste(new, old, mask, 1)[0, 0, 0].tolist() == [0, 0, 0, 0, 0.5, 1, 1, 1]


def test_placing_a_picture_for_outpainting(refuses):
    images = torch.rand(1, 3, 8, 8)
    placed, mask = place(images, right=3)
    assert torch.equal(placed[..., 3:], images[..., :5]) and mask[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    placed, mask = place(images, scale=0.5)
    assert int((mask == 0).sum()) == 16 and torch.equal(mask[0, 2:6, 2:6], torch.zeros(4, 4))
    assert torch.equal(place(images)[0], images) and not place(images)[1].any()
    with refuses("nothing of the picture is left"):
        place(images, right=8)
    with refuses("scale is 0"):
        place(images, scale=0)


def test_larger_pictures_stay_as_they_are_outside(either, refuses):
    size = 3 * size_of(either)
    images = torch.rand(1, 4, size, size) * 2 - 1
    mask = half(size)
    new = either.inpaint(images, mask, "bird", settings=ONE_STEP)
    assert torch.equal(new[..., size // 2 :], images[..., size // 2 :])
    assert not torch.equal(new[..., : size // 2], images[..., : size // 2])
    with refuses("crop or pad them to these proportions"):
        either.inpaint(images[..., :-1], mask, "bird")
