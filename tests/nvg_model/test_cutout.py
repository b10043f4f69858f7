"""Cut-outs: on drawn pictures whose outline is known, and from the models."""

import pytest
import torch

import nvg_model
from nvg_model.cutout import cut_out, guided_filter, subject_half


def disc(side=64, radius=20, centre=(32, 32), ground=1.0):
    """A red disc [1,3,H,W] on a grey ground, and where it is."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    colour = torch.tensor([1.0, -1, -1])[:, None, None]
    return torch.where(inside, colour, torch.tensor(ground))[None], inside


def halves(inside, grid=(8, 8)):
    """Structure [1,2,L]: the half of the positions with most of the shape, and the rest."""
    share = torch.nn.functional.avg_pool2d(inside[None, None].float(), 64 // grid[0]).flatten()
    labels = torch.zeros(2, grid[0] * grid[1], dtype=torch.long)
    labels[1, share.argsort(descending=True)[: len(share) // 2]] = 1
    return labels[None]


def iou(opacity, inside):
    inside = inside.float()
    return float(torch.minimum(opacity, inside).sum() / torch.maximum(opacity, inside).sum())


@pytest.mark.parametrize("ground", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("radius, centre", [(20, (32, 32)), (9, (40, 22)), (27, (30, 34))])
def test_a_disc_is_cut_out_to_the_pixel(ground, radius, centre):
    image, inside = disc(radius=radius, centre=centre, ground=ground)
    cut = cut_out(image, halves(inside), (8, 8))
    opacity = (cut[0, 3] + 1) / 2
    assert iou(opacity, inside) > 0.97
    assert float(opacity[0].max()) < 1e-3 and float(opacity[centre]) > 0.999


def test_what_is_enclosed_is_no_ground():
    """A white spot inside, as an eye; the hole of a ring is one as well."""
    image, inside = disc()
    image[..., 28:36, 28:36] = 1
    opacity = cut_out(image, halves(inside), (8, 8))[0, 3]
    assert float(opacity[32, 32]) == 1


def test_no_rim_of_the_ground_is_left():
    image, inside = disc(side=256, radius=80, centre=(128, 128), ground=-1.0)
    image = torch.nn.functional.avg_pool2d(image, 4)  # soft edges, which are dark
    soft = torch.nn.functional.avg_pool2d(inside[None, None].float(), 4)[0, 0]
    cut = cut_out(image, halves(soft > 0.5), (8, 8))[0]
    edge = (cut[3] > -0.5) & (cut[3] < 0.5)
    assert bool(edge.any()) and float(cut[0][edge].mean()) > image[0, 0][edge].mean() + 0.3


def test_the_subject_has_less_of_the_border():
    inside = disc()[1]
    labels = halves(inside)[:, 1]
    assert torch.equal(subject_half(labels, (8, 8)), labels == 1)
    assert torch.equal(subject_half(1 - labels, (8, 8)), labels == 1)
    alike = torch.arange(64)[None] // 32  # upper and lower half
    assert torch.equal(subject_half(alike, (8, 8)), alike == 1)


def test_guided_filter_against_the_formula_in_one_window():
    generator = torch.Generator().manual_seed(0)
    guide, values = torch.rand(1, 3, 5, 5, generator=generator), torch.rand(1, 1, 5, 5, generator=generator)
    constant = torch.full_like(values, 0.4)
    torch.testing.assert_close(guided_filter(guide, constant, 1, 1e-4), constant)
    of_guide = (0.2 * guide[:, :1] + 0.5 * guide[:, 1:2] + 0.1).clamp(0, 1)  # a linear function of it stays
    torch.testing.assert_close(guided_filter(guide, of_guide, 2, 1e-9), of_guide, atol=1e-3, rtol=0)


def test_from_sequences_and_pictures(tiny_model):
    sequence = tiny_model.generate(["heart", "bird"], seed=3)
    cut = tiny_model.cut_out(sequence)
    assert cut.shape == (2, 4, 16, 16) and float(cut.abs().max()) <= 1
    assert torch.equal(cut, tiny_model.cut_out(sequence, tiny_model.decode(sequence)))
    large = torch.rand(1, 3, 40, 40) * 2 - 1
    assert tiny_model.cut_out(images=large).shape == (1, 4, 40, 40)
    own = torch.rand(1, 4, 40, 40) * 2 - 1
    assert torch.equal(tiny_model.cut_out(images=own), own)


def test_a_decoder_with_opacity_gives_its_own():
    config = nvg_model.preset("tiny")
    four = nvg_model.NVGConfig.from_dict(
        config.to_dict() | {"autoencoder": config.autoencoder.to_dict() | {"output_channels": 4}}
    )
    model = nvg_model.NVG(four).eval().requires_grad_(False)
    sequence = model.tokenize(torch.rand(1, 3, 16, 16) * 2 - 1)
    assert torch.equal(model.cut_out(sequence), model.decode_rgba(sequence))


def test_wrong_uses(tiny_model, refuses):
    sequence = tiny_model.generate("heart", seed=3)
    with refuses("nothing to cut out; give a sequence, or images"):
        tiny_model.cut_out()
    with refuses("1 items of 1 stages for 1 pictures"):
        tiny_model.cut_out(sequence.first_stages(1))
    with refuses("1 items of 5 stages for 2 pictures"):
        tiny_model.cut_out(sequence, torch.zeros(2, 3, 16, 16))


@pytest.mark.slow
def test_emoji64_cuts_its_hearts_out():
    model = nvg_model.load("emoji64")
    opacity = (model.cut_out(model.generate("heart", seed=7))[0, 3] + 1) / 2
    assert float(opacity[64, 64]) == 1 and float(opacity[0].max()) == 0
    assert 0.2 < float(opacity.mean()) < 0.6
