"""Wrong input of editing, a sentence each; and editing at random, which must keep what it promises."""

import dataclasses

import pytest
import torch
from every_edit import every_edit

import nvg_model
from nvg_model import NVG, Region, SamplingSettings, hierarchy, memory
from nvg_model.editing import kept_positions

ONE_STEP = SamplingSettings(structure_steps=1)


def half(size=16):
    mask = torch.zeros(size, size)
    mask[:, : size // 2] = 1
    return mask


@pytest.fixture(scope="module")
def other_model():
    """Of the same grid, with other latent channels and a smaller codebook."""
    tiny = nvg_model.preset("tiny")
    autoencoder = dataclasses.replace(tiny.autoencoder, latent_channels=4, codebook_size=16)
    return NVG(dataclasses.replace(tiny, autoencoder=autoencoder)).eval().requires_grad_(False)


def test_more_regions_than_fit_are_refused_before_anything_runs(tiny_model, monkeypatch, refuses):
    each, image = memory.row_bytes(tiny_model.config, 4), memory.image_bytes(tiny_model.config)
    free = 9 * each + 2 * image  # 2 images: the rest, null, and 2 regions each
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    masks = [half() * 0.25] * 4
    regions = [Region(mask, index % 3, guidance=float(index)) for index, mask in enumerate(masks)]
    started = []
    tiny_model.generate(["heart", "bird"], 3, ONE_STEP, regions=regions[:2])
    with refuses("the regions of 2 images are 12 network inputs at once.*; 2 regions an image fit: use fewer"):
        tiny_model.generate(["heart", "bird"], 3, regions=regions, on_evaluation=lambda: started.append(1))
    assert not started
    monkeypatch.setattr(memory, "free_bytes", lambda device: each)
    with refuses("not one region an image fits"):
        tiny_model.generate("heart", 3, regions=regions[:1])


def test_free_memory_is_known_where_the_system_says_it():
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert memory.free_bytes(torch.device("meta")) is None


def test_a_reference_of_another_model(tiny_model, other_model, refuses):
    foreign = other_model.tokenize(torch.zeros(1, 3, 16, 16))
    with refuses("the sequence is of another model: it has 4 channels"):
        tiny_model.generate("heart", sequence=foreign, keep=half())
    with refuses("do not fit: 5 stages"):
        tiny_model.interpolate(foreign, tiny_model.generate("heart", 3, ONE_STEP), 3)


@pytest.mark.parametrize(
    "keep, message",
    [
        (torch.ones(8, 8), "keep covers everything, so there is nothing to draw"),
        (torch.ones(3, 8, 8), "keep has 3 items for 1 images"),
        (torch.ones(8), "keep has shape .8.; give .height, width."),
        (torch.full((8, 8), -1.0), "keep has values from -1 to -1"),
    ],
)
def test_wrong_masks_of_what_is_kept(tiny_model, refuses, keep, message):
    with refuses(message):
        tiny_model.generate("heart", sequence=tiny_model.generate("bird", 1, ONE_STEP), keep=keep)


def test_keeping_nothing_is_a_plain_call(tiny_model):
    reference = tiny_model.generate("bird", 1, ONE_STEP)
    plain = tiny_model.generate("heart", 3, ONE_STEP)
    kept = tiny_model.generate("heart", 3, ONE_STEP, sequence=reference, keep=torch.zeros(8, 8))
    assert torch.equal(plain.canvases, kept.canvases)


def test_wrong_inpainting(tiny_model, refuses):
    with refuses("the mask is 0 everywhere, so there is nothing to draw anew"):
        tiny_model.inpaint(torch.zeros(1, 3, 16, 16), torch.zeros(16, 16), "heart")
    with refuses("the images are 16x24 pixels .*, this model draws 16x16: crop or pad"):
        tiny_model.inpaint(torch.zeros(1, 3, 16, 24), half(), "heart")
    with refuses("the mask has 2 items for 1 images"):
        tiny_model.inpaint(torch.zeros(1, 3, 16, 16), torch.stack([half(), half()]), "heart")


def random_masks(count, size, generator):
    """Noise at three scales, thresholded at random: specks, blobs and bands, none of them empty."""
    masks = []
    for index in range(count):
        small = torch.rand(1, 1, *((2, 2), (4, 4), (size, size))[index % 3], generator=generator)
        noise = torch.nn.functional.interpolate(small, (size, size), mode="bilinear")[0, 0]
        level = noise.flatten().quantile(0.1 + 0.8 * float(torch.rand((), generator=generator)))
        masks.append((noise >= level).float())
    return torch.stack(masks)


def test_200_random_masks_keep_pixels_canvases_and_balance(tiny_model):
    generator = torch.Generator().manual_seed(19)
    images = torch.rand(200, 3, 16, 16, generator=generator) * 2 - 1
    masks = random_masks(200, 16, generator)
    for start in range(0, 200, 50):
        image, mask = images[start : start + 50], masks[start : start + 50]
        new = tiny_model.inpaint(image, mask, "bird", seed=start, settings=ONE_STEP)
        kept = (mask == 0)[:, None].expand_as(image)
        assert torch.equal(new[kept], image[kept]) and not torch.equal(new, image)

        reference, positions = tiny_model.tokenize(image), kept_positions(mask, (4, 4))
        keep = torch.nn.functional.interpolate(positions.view(-1, 1, 4, 4).float(), (16, 16))[:, 0]
        classes, size = ["heart"] * len(image), hierarchy.num_splits(16) + 1
        drawn = tiny_model.generate(classes, start, ONE_STEP, sequence=reference, keep=keep)
        hierarchy.check(drawn.structure, 16)
        assert drawn.structure.shape[1] == size
        where = positions[:, None, :, None].expand_as(drawn.canvases)
        assert torch.equal(drawn.canvases[where], reference.canvases[where])


def test_200_random_areas_and_regions_keep_the_balance(tiny_model):
    generator = torch.Generator().manual_seed(19)
    masks = random_masks(200, 16, generator)
    for start in range(0, 200, 50):
        mask = masks[start : start + 50]
        options = {"regions": [Region(mask, "bird"), Region((1 - mask) * 0.5, "boat")], "area": mask}
        rule = ("nested", "free")[start // 50 % 2]
        drawn = tiny_model.generate(["heart"] * 50, start, ONE_STEP, area_rule=rule, **options)
        hierarchy.check(drawn.structure, 16)


@pytest.fixture(scope="module")
def ten_splits():
    """K = 10: 1024 positions, of 2x2 pixels each."""
    tiny = nvg_model.preset("tiny")
    autoencoder = dataclasses.replace(tiny.autoencoder, channel_multipliers=(1, 2))
    config = dataclasses.replace(tiny, image_size=(64, 64), autoencoder=autoencoder)
    assert config.splits == 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NVG(config)
        model.content.initialize()
        model.structure.initialize()
        model.tokenizer.quantizer.spread()
    return model.eval().requires_grad_(False)


def test_every_feature_with_ten_splits(ten_splits):
    every_edit(ten_splits)
