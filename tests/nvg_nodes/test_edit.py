"""Editing by nodes: they give what the model gives, whatever sizes and batches come in."""

import copy

import pytest
import torch

from nvg_model import Region, editing
from nvg_nodes import host, images
from nvg_nodes.types import Model


def half(height=16, width=16):
    """MASK [1,H,W]: the right half."""
    mask = torch.zeros(1, height, width)
    mask[..., width // 2 :] = 1
    return mask


# ----------------------------------------------------------------------------------------------------------- regions


def test_a_region_is_that_of_the_model(run, model, tiny_model):
    (regions,) = run("NVGRegion", model=model, mask=half(), class_name="bird")
    image, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", seed=3, regions=regions)
    wanted = tiny_model.generate("heart", seed=3, regions=[Region(half(), "bird")])
    assert torch.equal(sequence.tokens, wanted.tokens)
    assert torch.equal(image, images.from_model(tiny_model.decode(wanted)))
    plain, *_ = run("NVGGenerate", model=model, class_name="heart", seed=3)
    assert not torch.equal(image, plain)


def test_a_region_of_everything_is_a_plain_call(run, model):
    (regions,) = run("NVGRegion", model=model, mask=torch.ones(1, 30, 20), class_name="bird")
    image, *_ = run("NVGGenerate", model=model, class_name="heart", seed=3, regions=regions)
    plain, *_ = run("NVGGenerate", model=model, class_name="bird", seed=3)
    assert torch.equal(image, plain)


def test_regions_chain_and_their_order_does_not_matter(run, model):
    left, right = ("bird", 1 - half(), 2.0), ("boat", half(), -1.0)
    results = []
    for order in ((left, right), (right, left)):
        regions = None
        for name, mask, guidance in order:
            (regions,) = run("NVGRegion", model=model, mask=mask, class_name=name, guidance=guidance, regions=regions)
        assert [region.class_name for region in regions.items] == [name for name, *_ in order]
        results.append(run("NVGGenerate", model=model, class_name="heart", regions=regions)[0])
    assert torch.equal(*results)


def test_a_batch_of_masks_makes_a_batch_of_pictures(run, model):
    masks = torch.cat([half(), 1 - half(), torch.ones(1, 16, 16)])
    (regions,) = run("NVGRegion", model=model, mask=masks, class_name="boat")
    image, *_ = run("NVGGenerate", model=model, class_name="heart", regions=regions)
    assert len(image) == 3
    (second,) = run("NVGRegion", model=model, mask=masks[1:2], class_name="boat")
    alone, *_ = run("NVGGenerate", model=model, class_name="heart", regions=second, first_item=1)
    assert torch.equal(alone[0], image[1])


@pytest.mark.parametrize(("fit", "share"), [("crop", 1.0), ("pad", 0.5), ("stretch", 1.0)])
def test_a_mask_of_other_proportions_is_fitted(run, model, fit, share):
    (regions,) = run("NVGRegion", model=model, mask=torch.ones(1, 10, 20), class_name="boat", fit=fit)
    mask = regions.items[0].mask
    assert float(mask.mean()) == pytest.approx(share)
    assert fit == "stretch" or mask.shape[1] == mask.shape[2]


# -------------------------------------------------------------------------------------------------------- variations


def test_a_variation_lies_between_two_seeds(run, model, tiny_model):
    def drawn(**more):
        return run("NVGGenerate", model=model, class_name="heart", batch_size=2, **more)[1].tokens

    assert torch.equal(drawn(seed=3, variation_seed=9), drawn(seed=3))
    assert torch.equal(drawn(seed=3, variation_seed=9, variation=1.0), drawn(seed=9))
    wanted = tiny_model.generate(["heart"] * 2, seed=3, variation_seed=9, variation=0.4).tokens
    assert torch.equal(drawn(seed=3, variation_seed=9, variation=0.4), wanted)


def test_shared_noise_draws_a_batch_alike(run, model):
    image, *_ = run("NVGGenerate", model=model, class_name="heart", batch_size=3, shared_noise=True)
    assert (image == image[:1]).all()


# -------------------------------------------------------------------------------------------- inpainting, outpainting


def corner(height=16, width=16):
    """MASK [1,H,W]: a quarter of the picture."""
    mask = torch.zeros(1, height, width)
    mask[:, height // 2 :, width // 2 :] = 1
    return mask


def random_image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_inpainting_is_that_of_the_model(run, model, tiny_model):
    image = random_image(2, 16, 16, 3)
    given = {"model": model, "class_name": "bird", "seed": 5}
    result, mask, sequence = run("NVGInpaint", image=image, mask=corner(), **given)
    wanted = tiny_model.inpaint(image.permute(0, 3, 1, 2) * 2 - 1, corner(), "bird", seed=5)
    assert torch.allclose(result, (wanted.permute(0, 2, 3, 1) + 1) / 2, atol=0.6 / 255)
    assert torch.equal(mask, corner().expand(2, -1, -1)) and len(sequence) == 2


@pytest.mark.parametrize("shape", [(16, 16, 3), (40, 60, 3), (60, 40, 4), (33, 21, 1), (512, 300, 3)])
def test_pixels_outside_the_mask_come_back_bit_equal(run, model, shape):
    image, mask = random_image(2, *shape), corner(*shape[:2])
    result, drawn, _ = run("NVGInpaint", model=model, class_name="bird", image=image, mask=mask)
    assert result.shape == (2, *shape[:2], max(3, shape[2]))
    same = (result == image.expand_as(result)).all(-1)
    assert bool(same[:, mask[0] == 0].all()) and not bool(same.all()) and drawn.shape == result.shape[:3]


def test_a_batch_of_variants(run, model):
    given = {"model": model, "image": random_image(1, 16, 16, 3), "mask": corner()}
    many, *_ = run("NVGInpaint", class_name="bird, boat", batch_size=2, **given)
    alone, *_ = run("NVGInpaint", class_name="boat", first_item=3, **given)
    assert len(many) == 4 and torch.equal(many[3], alone[0])
    masks, *_ = run("NVGInpaint", class_name="bird", **given | {"mask": torch.cat([corner(), half()])})
    assert len(masks) == 2


def test_outpainting_draws_what_is_left_free(run, model):
    image = random_image(1, 16, 16, 3)
    result, mask, _ = run("NVGInpaint", model=model, class_name="bird", image=image, right=4, down=-2)
    assert torch.equal(result[:, :14, 4:], image[:, 2:, :12])
    assert float(mask[:, :14, 4:].sum()) == 0 and float(mask.sum()) == 256 - 14 * 12
    smaller, mask, _ = run("NVGInpaint", model=model, class_name="bird", image=image, scale=0.5)
    assert float(mask.sum()) == 256 - 64
    placed, _ = editing.place(image.movedim(-1, 1), 0.5)
    assert torch.equal(smaller[:, 4:12, 4:12], placed.movedim(1, -1).clamp(0, 1)[:, 4:12, 4:12])


def test_a_mask_moves_with_the_picture(run, model):
    given = {"model": model, "class_name": "bird", "image": random_image(1, 16, 16, 3)}
    _, mask, _ = run("NVGInpaint", mask=corner(), right=4, **given)
    assert float(mask[:, 8:, 12:].mean()) == 1 and float(mask[:, :8, 4:].sum()) == 0


def test_structure_regions_and_outlines_inside_the_mask(run, model, tiny_model):
    image, (structure, _) = random_image(1, 16, 16, 3), run("NVGStructureShape", model=model)
    (regions,) = run("NVGRegion", model=model, mask=half(), class_name="boat")
    given = {"model": model, "class_name": "bird", "image": image, "mask": corner()}
    plain = run("NVGInpaint", **given)[2]
    drawn = run("NVGInpaint", structure=structure, **given)[2]
    assert torch.equal(drawn.structure[:, :2], structure.labels[:, :2])
    assert not torch.equal(plain.tokens, run("NVGInpaint", regions=regions, **given)[2].tokens)
    reference = tiny_model.tokenize(image.permute(0, 3, 1, 2) * 2 - 1)
    outlined = run("NVGInpaint", keep_structure=3, **given)[2]
    assert torch.equal(outlined.structure[:, :3], reference.structure[:, :3])


def test_a_partner_draws_the_late_stages_of_the_new_part(run, model, tiny_model):
    """Here one of the same tokenizer with other weights; from Python the same."""
    other = copy.deepcopy(tiny_model)
    for network in (other.content, other.structure):
        network.class_embedding.weight.data.neg_()
    partner = Model("other", host.current().networks(other))
    image = random_image(1, 16, 16, 3)
    given = {"model": model, "class_name": "bird", "image": image, "mask": corner()}
    drawn = run("NVGInpaint", partner=partner, partner_from=2, **given)[2]
    reference = tiny_model.tokenize(image.permute(0, 3, 1, 2) * 2 - 1)
    options = {"sequence": reference, "keep": 1 - corner(), "partner": other, "partner_from": 2}
    assert torch.equal(drawn.tokens, tiny_model.generate("bird", **options).tokens)
    plain = run("NVGInpaint", **given)[2]
    assert torch.equal(drawn.tokens[:, :2], plain.tokens[:, :2])
    assert not torch.equal(drawn.tokens, plain.tokens)


def test_content_inside_the_mask_is_kept(run, model, tiny_model):
    image = random_image(1, 16, 16, 3)
    given = {"model": model, "class_name": "bird", "image": image, "mask": corner()}
    drawn = run("NVGInpaint", keep_content=4, **given)[2]
    reference = tiny_model.tokenize(image.permute(0, 3, 1, 2) * 2 - 1)
    for stage in range(4):
        assert torch.equal(drawn.cluster_tokens(stage), reference.cluster_tokens(stage))
    assert not torch.equal(drawn.tokens, run("NVGInpaint", **given)[2].tokens)


# ---------------------------------------------------------------------------------------------------------- seamless


def test_seamless_pictures_are_those_of_the_model(run, model, tiny_model):
    image, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", seed=3, seamless=True)
    wanted = tiny_model.generate("heart", seed=3, seamless=True)
    assert torch.equal(sequence.canvases, wanted.canvases)
    tiles = images.from_model(tiny_model.decode(wanted, seamless=True))
    assert torch.equal(image, tiles)
    assert torch.equal(run("NVGDecode", model=model, sequence=sequence, seamless=True)[0], tiles)
    assert not torch.equal(run("NVGDecode", model=model, sequence=sequence)[0], tiles)
    cut = images.from_model(tiny_model.cut_out(wanted, seamless=True))
    assert torch.equal(run("NVGCutOut", model=model, sequence=sequence, seamless=True)[0], cut)


def test_seamless_inpainting_is_that_of_the_model(run, model, tiny_model):
    image = random_image(1, 16, 16, 3)
    given = {"model": model, "class_name": "bird", "seed": 5, "image": image, "mask": corner()}
    result, *_ = run("NVGInpaint", seamless=True, **given)
    wanted = tiny_model.inpaint(image.permute(0, 3, 1, 2) * 2 - 1, corner(), "bird", seed=5, seamless=True)
    assert torch.allclose(result, (wanted.permute(0, 2, 3, 1) + 1) / 2, atol=0.6 / 255)
    assert not torch.equal(result, run("NVGInpaint", **given)[0])
