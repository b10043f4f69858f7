"""In-betweens by the node: frames between pictures and between layouts."""

import pytest
import torch

from nvg_nodes import images


@pytest.fixture
def ends(run, model):
    return tuple(run("NVGGenerate", model=model, class_name=name, seed=2)[1] for name in ("heart", "boat"))


@pytest.mark.parametrize("content", ["blend", "nearer", "stages"])
def test_frames_are_those_of_the_model(run, model, tiny_model, ends, content):
    image, sequence, structure, _, mask = run(
        "NVGInterpolate", model=model, first=ends[0], second=ends[1], frames=5, content=content
    )
    wanted = tiny_model.interpolate(*ends, 5, content)
    assert torch.equal(sequence.canvases, wanted.canvases) and torch.equal(structure.labels, wanted.structure)
    assert torch.equal(image, images.from_model(tiny_model.decode(wanted))) and len(mask) == 5
    for place, end in ((0, ends[0]), (-1, ends[1])):
        assert torch.equal(sequence.tokens[place], end.tokens[0])


def test_there_and_back(run, model, ends):
    given = {"model": model, "first": ends[0], "second": ends[1], "frames": 4}
    there, *_ = run("NVGInterpolate", **given)
    both, *_ = run("NVGInterpolate", there_and_back=True, **given)
    assert torch.equal(both, there[[0, 1, 2, 3, 2, 1]])


def test_batches_go_pair_by_pair(run, model, ends):
    two = run("NVGGenerate", model=model, class_name="bird, boat", seed=4)[1]
    image, *_ = run("NVGInterpolate", model=model, first=ends[0], second=two, frames=3)
    (start,) = run("NVGDecode", model=model, sequence=ends[0])[:1]
    assert len(image) == 6 and torch.equal(image[0], start[0]) and torch.equal(image[3], start[0])
    (finals,) = run("NVGDecode", model=model, sequence=two)[:1]
    assert torch.equal(image[[2, 5]], finals)


def test_between_layouts_one_noise_draws_every_frame(run, model, tiny_model):
    shapes = [run("NVGStructureShape", model=model, x=x)[0] for x in (0.3, 0.7)]
    image, sequence, structure, *_ = run(
        "NVGInterpolate", model=model, first_structure=shapes[0], second_structure=shapes[1], frames=4, seed=6
    )
    assert len(image) == 4
    for place, shape in ((0, shapes[0]), (-1, shapes[1])):
        assert torch.equal(structure.labels[place, :2], shape.labels[0])
        alone = tiny_model.generate("heart", seed=6, structure=shape.labels)
        assert torch.equal(sequence.tokens[place], alone.tokens[0])


def test_seamless_frames(run, model, tiny_model, ends):
    between = {"model": model, "first": ends[0], "second": ends[1], "frames": 3}
    image, sequence, *_ = run("NVGInterpolate", seamless=True, **between)
    assert torch.equal(image, images.from_model(tiny_model.decode(sequence, seamless=True)))
    assert not torch.equal(image, run("NVGInterpolate", **between)[0])
    shapes = [run("NVGStructureShape", model=model, x=x)[0] for x in (0.3, 0.7)]
    layouts = {"model": model, "first_structure": shapes[0], "second_structure": shapes[1], "frames": 3, "seed": 6}
    drawn = run("NVGInterpolate", seamless=True, **layouts)[1]
    alone = tiny_model.generate("heart", seed=6, structure=shapes[1].labels, seamless=True)
    assert torch.equal(drawn.tokens[-1], alone.tokens[0])


def test_frames_along_a_batch_of_masks(run, model):
    """A band that moves: in every frame the same region is inside, and the noise is that of the first."""
    columns = torch.arange(16).expand(3, 16, 16)
    masks = (columns >= torch.tensor([0, 4, 8])[:, None, None]) & (columns < torch.tensor([8, 12, 16])[:, None, None])
    structure, _ = run("NVGStructureFromMask", model=model, mask=masks.float(), masks="one per picture")
    inside = structure.labels[:, 1].view(3, 4, 4) == 1
    assert [sorted({*frame.nonzero()[:, 1].tolist()}) for frame in inside] == [[0, 1], [1, 2], [2, 3]]
    given = {"model": model, "class_name": "heart", "seed": 3}
    frames = run("NVGGenerate", structure=structure, shared_noise=True, **given)[1]
    assert torch.equal(frames.structure[:, :2], structure.labels[:, :2])
    for frame in range(3):
        (one, _) = run("NVGStructureFromMask", model=model, mask=masks[frame : frame + 1].float())
        assert torch.equal(frames.tokens[frame], run("NVGGenerate", structure=one, **given)[1].tokens[0])
