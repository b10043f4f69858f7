"""Classes by name and index, and wrong input of a generation: one sentence each."""

import dataclasses

import pytest
import torch
from shared_sequences import FAST, random_structure

import nvg_model

# Classes.


def test_classes_by_name_and_index(tiny_model):
    expected = tiny_model.class_indices(["bird", "heart", "boat"])
    assert expected.tolist() == [1, 0, 2]
    assert torch.equal(tiny_model.class_indices([1, "HEART", 2]), expected)
    assert torch.equal(tiny_model.class_indices(torch.tensor([1, 0, 2])), expected)
    assert tiny_model.class_indices("boat").tolist() == tiny_model.class_indices(2).tolist() == [2]
    assert tiny_model.class_indices(torch.tensor(2)).tolist() == [2]
    assert tiny_model.class_indices(None).tolist() == tiny_model.class_indices("Unconditional").tolist() == [3]
    assert tiny_model.class_indices(torch.tensor([3])).tolist() == [3], "what it returns, it takes"
    assert tiny_model.class_indices(["bird", None]).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("hart", "no class 'hart'; did you mean heart"),
        (["heart", "baot"], "no class 'baot'; did you mean boat"),
        ("zzzzzz", "no class 'zzzzzz'; there are heart, bird, boat"),
        ("car", "no class 'car'; there are heart, bird, boat"),
        ("a" * 500, "no class 'a{76} ...'; there are heart, bird, boat"),
        ("", "no class ''"),
        (3, r"class 3 is out of range; this model has classes 0 to 2 \(for no class at all write 'unconditional'\)"),
        ([0, 4], "class 4 is out of range"),
        (-1, "class -1 is out of range"),
        (torch.tensor([0, 9]), "class 9 is out of range"),
        ([], "no class was given"),
        (torch.tensor([], dtype=torch.long), "no class was given"),
    ],
)
def test_wrong_classes(tiny_model, classes, message, refuses):
    with refuses(message):
        tiny_model.generate(classes)


def test_class_names_must_fit(refuses):
    with refuses("2 class names for 3 classes"):
        nvg_model.NVG(nvg_model.preset("tiny"), classes=("a", "b"))


# What does not fit.


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (random_structure(2, positions=64, stages=3), r"shape \[2, 3, 64\].*\[batch, stages, 16\]"),
        (random_structure(2)[:, 0], r"shape \[2, 16\]"),
        (random_structure(2)[:, :0], r"shape \[2, 0, 16\]"),
        (random_structure(3), "the structure has 3 items for 2 classes"),
        (random_structure(2).float(), "labels are integers"),
        (random_structure(2)[:, 1:], "stage 0"),
        (torch.zeros(2, 2, 16, dtype=torch.long), "does not split parent 0 of stage 0 in half"),
        (random_structure(2)[:, [0, 2]], "not a hierarchy: at stage 1"),
    ],
)
def test_wrong_structures(tiny_model, structure, message, refuses):
    with refuses(message):
        tiny_model.generate([0, 1], structure=structure)


def test_wrong_errors_come_before_the_first_stage(tiny_model, refuses):
    """`stages` checks when it is called, not when the first stage is asked for."""
    with refuses("no class"):
        tiny_model.stages("hart")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_structure": 2}, "keep_structure is 2, but there is no sequence"),
        ({"keep_content": 2}, "keep_content is 2, but there is no sequence"),
    ],
)
def test_nothing_to_keep_from(tiny_model, arguments, message, refuses):
    with refuses(message):
        tiny_model.generate(0, **arguments)


@pytest.mark.parametrize("name", ["keep_structure", "keep_content"])
@pytest.mark.parametrize("keep", [-1, 3])
def test_keep_more_than_there_is(tiny_model, whole, name, keep, refuses):
    with refuses(f"{name} is {keep}; the sequence has 2 stages"):
        tiny_model.generate([0, 1], sequence=whole.first_stages(2), **{name: keep})


def test_given_and_kept_structure_together(tiny_model, whole, refuses):
    with refuses("either a structure or keep_structure"):
        tiny_model.generate([0, 1], structure=random_structure(2), sequence=whole, keep_structure=1)


def test_sequence_of_another_batch(tiny_model, whole, refuses):
    for keep in ({"keep_structure": 2}, {"keep_content": 2}):
        with refuses("has 2 items for 3 classes"):
            tiny_model.generate([0, 1, 2], sequence=whole, **keep)


def test_sequence_of_another_model(tiny_model, whole, refuses):
    other = dataclasses.replace(whole, tokens=whole.tokens + 32)
    with refuses("tokens from .* to .*; this model has codes 0 to 31"):
        tiny_model.generate([0, 1], sequence=other, keep_content=2)
    larger = nvg_model.VisualGranularitySequence(
        random_structure(2, positions=64, stages=3), torch.zeros(2, 3, 64, dtype=torch.long), torch.zeros(2, 3, 64, 8),
        (8, 8),
    )  # fmt: skip
    for keep in ("keep_content", "keep_structure"):
        with refuses(r"shape \[2, 2, 64\]"):
            tiny_model.generate([0, 1], sequence=larger, **{keep: 2})


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16), (1, 16, 16, 3), (1, 3, 16, 8)])
def test_images_of_the_wrong_size(tiny_model, shape, refuses):
    with refuses(r"this model takes \[batch, 3, 16, 16\]"):
        tiny_model.tokenize(torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_with_nan(tiny_model, value, refuses):
    images = torch.zeros(1, 3, 16, 16)
    images[0, 0, 0, 0] = value
    with refuses("the images hold NaN"):
        tiny_model.tokenize(images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("content.code_head.weight", "content generator returned NaN"),
        ("structure.transformer.final.linear.bias", "structure generator returned NaN"),
    ],
)
@pytest.mark.parametrize("top_k", [0, 1])
def test_nan_weights_while_generating(tiny, name, message, top_k, refuses):
    model = nvg_model.load(tiny)
    dict(model.named_parameters())[name].data[0] = torch.nan
    with refuses(message):
        model.generate(0, settings=dataclasses.replace(FAST, top_k=top_k))


def test_nan_weights_while_tokenizing(tiny, refuses):
    model = nvg_model.load(tiny)
    model.tokenizer.encoder.head[-1].bias.data[0] = torch.nan
    with refuses("NaN.*check the image and the weights"):
        model.tokenize(torch.zeros(1, 3, 16, 16))


def test_tokenizer_without_generator(tiny_model, refuses):
    config = dataclasses.replace(tiny_model.config, generator=None)
    tokenizer = nvg_model.NVG(config).eval()
    image = torch.zeros(1, 3, 16, 16)
    assert tokenizer.decode(tokenizer.tokenize(image)).shape == image.shape
    with refuses("a tokenizer but no generator"):
        tokenizer.generate(0)


@pytest.mark.parametrize("size", [(20, 24), (18, 16), (48, 16), (0, 0)])
def test_image_sizes_without_a_hierarchy(size, refuses):
    with refuses("image size|positions"):
        dataclasses.replace(nvg_model.preset("tiny"), image_size=size)


def test_unknown_preset(refuses):
    with refuses("no preset 'd13'; there are d12, d16"):
        nvg_model.preset("d13")
