"""The structure tools: whatever goes in, what comes out is a hierarchy of exact halves that shows what was drawn."""

import math

import numpy as np
import pytest
import torch

import nvg_model
from nvg_nodes import images, layout
from nvg_nodes.extension import NODES as ALL_NODES
from nvg_nodes.types import Model, Structure, structure_of


class _NoNetworks:
    """Sizes are all that the tools need of a model."""

    def __init__(self, size):
        small = nvg_model.preset("tiny").autoencoder
        self.nvg = type("Sizes", (), {"config": nvg_model.NVGConfig(image_size=size, autoencoder=small)})()


def model_of(rows: int, columns: int) -> Model:
    """A model with so many positions of 4x4 pixels."""
    return Model("sizes", _NoNetworks((rows * 4, columns * 4)))


def random_structure(model: Model, batch: int = 1, stages: int | None = None, seed: int = 0) -> Structure:
    """Any hierarchy."""
    generator = torch.Generator().manual_seed(seed)
    positions, stages = model.config.positions, stages or model.config.num_stages
    scores = [torch.rand(batch, positions, generator=generator) for _ in range(stages)]
    return structure_of(model, layout.from_order(scores, stages))


NODES = {node.GET_SCHEMA().node_id: node for node in ALL_NODES}
GRIDS = [(4, 4), (8, 4), (8, 8), (16, 16), (1, 8)]


# A Structure checks itself when it is made: that these end well is the test.
@pytest.mark.parametrize("grid", GRIDS)
def test_every_source_is_valid_for_any_size(run, grid):
    model = model_of(*grid)
    stages = model.config.num_stages
    mask = torch.zeros(2, 37, 23)
    mask[0, 5:20, 2:9] = 1
    mask[1, 20:, 10:] = 1
    picture = torch.rand(2, 19, 31, 3, generator=torch.Generator().manual_seed(1))
    for rule in ("outline distance", "mask value"):
        for masks, batch in (("one per stage", 1), ("one per picture", 2)):
            made, preview = run(
                "NVGStructureFromMask", model=model, mask=mask, stages=stages, rule=rule, masks=masks, fit="pad"
            )
            assert made.labels.shape == (batch, stages, model.config.positions) and len(preview) == batch
    for order in ("auto", "hue", "brightness"):
        made, _ = run("NVGStructureFromImage", model=model, image=picture, order=order)
        assert made.stages == stages
    for shape in ("circle", "rectangle", "gradient"):
        made, _ = run("NVGStructureShape", model=model, shape=shape, x=0.3, angle=20.0, stages=0)
        assert made.stages == stages


@pytest.mark.parametrize("grid", GRIDS)
def test_every_change_is_valid_for_any_size(run, grid):
    model = model_of(*grid)
    a, b = random_structure(model, 2), random_structure(model, 1, seed=5)
    for edges in ("wrap", "extend"):
        turned, _ = run(
            "NVGStructureTransform", structure=a, flip="both", scale=0.7, angle=33.0, shift_x=0.13, edges=edges
        )
        assert turned.labels.shape == a.labels.shape
    blended, _ = run("NVGStructureBlend", structure_a=b, structure_b=a, amount=0.3)
    assert blended.labels.shape == a.labels.shape
    for stages in range(1, model.config.num_stages + 1):
        swapped, _ = run("NVGStructureSwap", structure_a=a, structure_b=b, stages=stages)
        assert torch.equal(swapped.labels[:, :stages], a.labels[:, :stages])
        assert swapped.labels.shape == a.labels.shape


def test_a_drawn_area_is_recognisable(run, disc):
    """The half that is made of a disc is again a disc: the positions nearest to its centre."""
    model = model_of(16, 16)
    made, _ = run("NVGStructureFromMask", model=model, mask=disc)
    half = made.labels[0, 1].view(16, 16).bool()
    y, x = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    radius = torch.hypot(y - 20.5 * 0.4, x - 14.5 * 0.4)
    assert radius[half].max() <= radius[~half].min() + 1


def test_the_area_itself_comes_first(run, disc):
    model = model_of(16, 16)
    made, _ = run("NVGStructureFromMask", model=model, mask=disc, stages=3)
    area = layout.resize(disc[None], (16, 16), "stretch", "area")[0, 0].flatten() >= 0.5
    assert int(area.sum()) < 64, "a quarter at most"
    assert bool((made.labels[0, 2][area] == 3).all()), "and the innermost quarter holds all of it"


def test_every_mask_splits_further(run):
    model = model_of(8, 8)
    left, top = torch.zeros(2, 1, 8, 8)
    left[..., :4], top[..., :4, :] = 1, 1
    made, _ = run("NVGStructureFromMask", model=model, mask=torch.cat([left, top]))
    quarters = made.labels[0, 2].view(8, 8)
    assert made.stages == 3
    assert [int(quarters[y, x]) for y, x in ((0, 0), (0, 7), (7, 0), (7, 7))] == [3, 1, 2, 0]
    first, _ = run("NVGStructureFromMask", model=model, mask=left)
    second, _ = run("NVGStructureFromMask", model=model, mask=top, structure=first)
    assert torch.equal(second.labels, made.labels), "one node after the other gives the same"


def test_a_soft_mask_is_ranked_by_its_value(run):
    model = model_of(8, 8)
    slope = torch.linspace(0, 0.4, 64).view(1, 8, 8)  # never above one half: it has no outline
    made, _ = run("NVGStructureFromMask", model=model, mask=slope, rule="mask value", stages=7)
    assert made.finest[0].tolist() == list(range(64))


def test_distance_is_euclidean_and_signed():
    area = torch.rand(9, 7, generator=torch.Generator().manual_seed(2)) > 0.6
    points = torch.tensor([[y, x] for y in range(9) for x in range(7)]).float()
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    flat = area.flatten()
    expected = torch.stack([(1 if flat[i] else -1) * distances[i][flat != flat[i]].min() for i in range(63)])
    assert torch.allclose(layout.signed_distance(area).flatten(), expected)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_palette_picture_is_read_again(run, stage):
    model = model_of(8, 8)
    structure = random_structure(model, 2)
    (picture,) = run("NVGStructureToImage", structure=structure, stage=stage)
    assert picture.shape == (2, 32, 32, 3)
    again, _ = run("NVGStructureFromImage", model=model, image=picture)
    assert torch.equal(again.labels, structure.labels[:, : stage + 1])


def test_a_grey_label_map_is_read_by_brightness(run):
    model = model_of(8, 8)
    structure = random_structure(model, 1, 4)
    grey = (structure.finest.view(1, 8, 8, 1) / 7.0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    again, _ = run("NVGStructureFromImage", model=model, image=grey)
    assert torch.equal(again.labels, structure.labels)


def test_a_label_that_is_cut_is_cut_along_its_neighbour(run):
    model = model_of(8, 8)
    picture = torch.zeros(1, 8, 8, 3)
    picture[:, :, :2] = 1  # a quarter of the area, on the left
    made, _ = run("NVGStructureFromImage", model=model, image=picture, stages=2)
    assert made.labels[0, 1].view(8, 8)[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_shapes_are_where_the_numbers_say(run):
    model = model_of(16, 16)

    def half(**numbers):
        return run("NVGStructureShape", model=model, **numbers)[0].labels[0, 1].view(16, 16)

    assert half(shape="gradient")[0].tolist() == [0] * 8 + [1] * 8
    assert half(shape="gradient", angle=90.0)[:, 0].tolist() == [0] * 8 + [1] * 8
    assert half(shape="gradient", angle=180.0)[0].tolist() == [1] * 8 + [0] * 8
    wide = half(shape="rectangle", width=1.0, height=0.5)
    assert wide.all(1).sum() == 8 and bool(wide[4:12].all())
    assert bool((half(shape="circle", x=0.25, y=0.25)[:4, :4] == 1).all())
    circle = half(shape="circle")
    assert (circle != circle.T).sum() <= 8, "a circle is the same lying down, but for positions equally far out"


def test_flips_and_whole_shifts_are_exact(run):
    model = model_of(8, 4)
    structure = random_structure(model, 2)

    def moved(**how):
        return run("NVGStructureTransform", structure=structure, **how)[0].labels.unflatten(2, (8, 4))

    maps = structure.labels.unflatten(2, (8, 4))
    assert torch.equal(moved(), maps)
    assert torch.equal(moved(flip="horizontal"), maps.flip(3))
    assert torch.equal(moved(flip="vertical"), maps.flip(2))
    assert torch.equal(moved(flip="both"), maps.flip(2, 3))
    assert torch.equal(moved(angle=180.0), maps.flip(2, 3))
    assert torch.equal(moved(shift_x=0.25), maps.roll(1, 3))
    assert torch.equal(moved(shift_y=-0.5), maps.roll(-4, 2))


def test_a_quarter_turn_is_clockwise(run):
    model = model_of(8, 8)
    structure = random_structure(model)
    turned, _ = run("NVGStructureTransform", structure=structure, angle=90.0)
    assert torch.equal(turned.labels.unflatten(2, (8, 8)), structure.labels.unflatten(2, (8, 8)).rot90(-1, (2, 3)))


def test_scaling_enlarges_about_the_centre():
    structure = random_structure(model_of(8, 8))
    source = layout.source_positions(structure, "none", 2.0, 0.0, (0.0, 0.0), "extend").view(8, 8)
    assert source[0, 0] == 2 * 8 + 2 and source[7, 7] == 5 * 8 + 5


def test_blend_ends_at_its_ends(run):
    model = model_of(8, 8)
    a, b = random_structure(model, 1, 4), random_structure(model, 3, seed=1)
    for amount, end in ((0.0, a), (1.0, b)):
        blended, _ = run("NVGStructureBlend", structure_a=a, structure_b=b, amount=amount)
        assert torch.equal(blended.labels, end.labels[:, :4].expand(3, -1, -1))


def test_swap_goes_on_exactly_where_both_agree(run):
    model = model_of(8, 8)
    b = random_structure(model)
    a = b.replace(b.labels[:, :3])
    swapped, _ = run("NVGStructureSwap", structure_a=a, structure_b=b, stages=3)
    assert torch.equal(swapped.labels, b.labels)


def test_masks_of_regions(run):
    model = model_of(8, 8)
    structure = random_structure(model, 2)
    (masks,) = run("NVGStructureToMask", structure=structure, stage=2, regions="0, 2-3", combine="one mask each")
    assert masks.shape == (6, 32, 32) and set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.mean((1, 2)).tolist() == [0.25] * 6
    assert torch.equal(masks[4, ::4, ::4].flatten(), (structure.labels[1, 2] == 2).float())
    (union,) = run("NVGStructureToMask", structure=structure, stage=2, regions="0, 2-3")
    assert torch.equal(union, masks.view(2, 3, 32, 32).sum(1))
    (whole,) = run("NVGStructureToMask", structure=structure)
    assert bool((whole == 1).all())


def test_region_lists():
    assert layout.parse_regions("", 4) == [0, 1, 2, 3]
    assert layout.parse_regions(" 3, 0 - 1 ;1", 4) == [0, 1, 3]


def test_keep_and_preview(run):
    structure = random_structure(model_of(8, 8), 2)
    kept, preview = run("NVGStructureKeep", structure=structure, stages=3)
    assert torch.equal(kept.labels, structure.labels[:, :3]) and len(preview) == 2
    (sheet,) = run("NVGStructurePreview", structure=structure)
    assert sheet.shape[0] == 2 and sheet.shape[-1] == 3


def test_structures_of_the_tools_are_followed(run, model, disc):
    made, _ = run("NVGStructureFromMask", model=model, mask=disc, stages=3)
    _, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", structure=made)
    assert torch.equal(sequence.structure[:, :3], made.labels)


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (7, 7), (1, 1)])
def test_label_maps_keep_their_values(fit, shape):
    labels = torch.arange(1.0, 1 + math.prod(shape)).view(1, 1, *shape)
    fitted = layout.resize(labels, (8, 8), fit, "nearest-exact")
    assert fitted.shape == (1, 1, 8, 8)
    assert set(fitted.unique().tolist()) <= {0.0, *labels.flatten().tolist()}
    assert (0.0 in fitted) == (fit == "pad" and shape[0] != shape[1])


def test_crop_keeps_the_middle():
    x = torch.arange(12.0).expand(1, 1, 4, 12)
    assert layout.resize(x, (4, 4), "crop", "nearest-exact")[0, 0, 0].tolist() == [4, 5, 6, 7]


def test_label_order_is_by_label_then_by_neighbours():
    values = torch.tensor([[0.0, 0, 0, 5, 5, 9]])
    order = layout.label_order(values)
    assert order.tolist() == sorted(order.tolist())
    assert order.floor().tolist() == [0, 0, 0, 1, 1, 2]


def test_scores_do_not_depend_on_the_last_digit():
    """What is symmetrical is ranked by position, not by rounding."""
    score = layout.shape_score("circle", (8, 8), (64, 64), (0.5, 0.5), (0.5, 0.5), 0.0).view(8, 8)
    assert torch.equal(score, score.flip(0)) and torch.equal(score, score.flip(1))


def test_maps_are_drawn_in_the_palette():
    from nvg_model import render

    structure = random_structure(model_of(4, 4), 1, 3)
    (picture,) = images.structure_map(structure)
    assert (np.array(picture)[::4, ::4].reshape(-1, 3) == render.palette(4)[structure.finest[0]]).all()


@pytest.mark.parametrize("grid", [(8, 8), (16, 16)])
@pytest.mark.parametrize("side, splits", [(0.25, 4), (0.36, 3), (0.5, 2)])
def test_a_nested_area_is_whole_regions_of_its_own_size(run, grid, side, splits):
    """A square of a sixteenth, an eighth or a quarter of the picture, so that nothing has to be rounded."""
    model, rows = model_of(*grid), torch.arange(200) < round(200 * side)
    mask = (rows[:, None] & rows).float()[None]
    made, _ = run("NVGStructureFromMask", model=model, mask=mask)
    assert made.stages == splits + 1
    area = nvg_model.areas.fitted(mask, 1, model.config.grid)
    assert torch.equal(made.labels, area.structure())
    assert int(area.positions.sum()) * 2**splits == model.config.positions
    assert torch.equal(made.labels[0, -1] == 2**splits - 1, area.positions[0])


def test_an_older_workflow_halves_once(run, disc):
    model = model_of(8, 8)
    nested, _ = run("NVGStructureFromMask", model=model, mask=disc)
    halved, _ = run("NVGStructureFromMask", model=model, mask=disc, area="half")
    absent = NODES["NVGStructureFromMask"].execute(model, disc, 0, "outline distance", "one per stage", "crop").args[0]
    assert (nested.stages, halved.stages) == (3, 2) and torch.equal(absent.labels, halved.labels)
    assert torch.equal(nested.labels[:, :2], halved.labels)


def test_a_nested_area_without_an_outline_needs_one_split(run):
    gradient = torch.linspace(0, 0.4, 32).expand(1, 32, 32)
    made, _ = run("NVGStructureFromMask", model=model_of(8, 8), mask=gradient, rule="mask value")
    assert made.stages == 2


def test_nested_masks_go_on_from_a_structure_and_differ_by_picture(run, disc):
    model = model_of(8, 8)
    half = (torch.arange(40) < 20).float().expand(1, 40, 40)
    masks = torch.cat([disc, half])
    made, _ = run("NVGStructureFromMask", model=model, mask=masks, masks="one per picture")
    assert made.labels.shape[:2] == (2, 3)
    before = random_structure(model, stages=3)
    made, _ = run("NVGStructureFromMask", model=model, mask=disc, structure=before)
    assert made.stages == 5 and torch.equal(made.labels[:, :3], before.labels)
    whole = random_structure(model, stages=6)
    made, _ = run("NVGStructureFromMask", model=model, mask=disc, structure=whole)
    assert made.stages == model.config.num_stages
    made, _ = run("NVGStructureFromMask", model=model, mask=masks)
    assert made.stages == 3  # one split for each
