"""Editing by nodes: they give what the model gives, whatever sizes and batches come in."""

import pytest
import torch

from nvg_model import Region
from nvg_nodes import images


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
