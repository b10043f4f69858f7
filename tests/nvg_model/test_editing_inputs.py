"""Wrong input of editing, a sentence each; and editing at random, which must keep what it promises."""

import dataclasses

import pytest
import torch
from every_edit import QUICK, every_edit

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


CASES = {"tiny": 200, "emoji64": 24}
"""Random masks. 200 hold on emoji64 as well, and take four minutes."""


@pytest.fixture
def cases(request):
    return CASES[request.node.callspec.params["either"]]


def test_random_masks_keep_pixels_canvases_and_balance(either, cases, monkeypatch):
    generator, size, drawn = torch.Generator().manual_seed(19), either.config.image_size[0], []
    decode = NVG.decode
    monkeypatch.setattr(NVG, "decode", lambda *given, **more: drawn.append(given[1]) or decode(*given, **more))
    images = torch.rand(cases, 3, size, size, generator=generator) * 2 - 1
    masks = random_masks(cases, size, generator)
    for start in range(0, cases, 8):
        image, mask = images[start : start + 8], masks[start : start + 8]
        new = either.inpaint(image, mask, "bird", seed=start, settings=QUICK)
        kept = (mask == 0)[:, None].expand_as(image)
        assert torch.equal(new[kept], image[kept]) and not torch.equal(new, image)

        found, reference = drawn.pop(), either.tokenize(image)
        hierarchy.check(found.structure, either.config.positions)
        assert found.is_whole and not torch.equal(found.tokens, reference.tokens)
        positions = kept_positions(mask, either.config.grid)
        where = positions[:, None, :, None].expand_as(found.canvases)
        assert bool(where.any()) and torch.equal(found.canvases[where], reference.canvases[where])


def test_random_areas_and_regions_keep_the_balance(either, cases):
    masks = random_masks(cases, 16, torch.Generator().manual_seed(19))
    for start in range(0, cases, 8):
        mask = masks[start : start + 8]
        options = {"regions": [Region(mask, "bird"), Region((1 - mask) * 0.5, "boat")], "area": mask}
        rule = ("nested", "free")[start // 8 % 2]
        drawn = either.generate(["heart"] * 8, start, QUICK, area_rule=rule, **options)
        hierarchy.check(drawn.structure, either.config.positions)
        assert drawn.is_whole


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
