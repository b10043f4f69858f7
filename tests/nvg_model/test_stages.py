"""Stages of a generation: stopping, going on, what is given and what is kept."""

import dataclasses

import pytest
import torch
from shared_sequences import FAST, STAGES, assert_same, random_structure

from nvg_model.generation import count_evaluations
from nvg_model.hierarchy import check

# Stages: stop, go on, give, keep.


def test_stages_are_prefixes_of_the_whole(tiny_model, whole):
    states = list(tiny_model.stages(["heart", "boat"], seed=7, settings=FAST))
    assert [state.num_stages for state in states] == [1, 2, 3, 4, 5]
    for state in states:
        assert_same(state, whole.first_stages(state.num_stages))


@pytest.mark.parametrize("gumbel", [False, True])
@pytest.mark.parametrize("stop", range(1, STAGES + 1))
def test_stop_and_go_on(tiny_model, stop, gumbel):
    settings = dataclasses.replace(FAST, gumbel=gumbel)
    run = tiny_model.stages(["heart", "boat"], seed=7, settings=settings)
    for _ in range(stop):
        state = next(run)
    on = tiny_model.generate(
        ["heart", "boat"], seed=7, settings=settings, sequence=state, keep_structure=stop, keep_content=stop
    )
    assert_same(on, tiny_model.generate(["heart", "boat"], seed=7, settings=settings))


@pytest.mark.parametrize("gumbel", [False, True])
@pytest.mark.parametrize("stage", range(1, STAGES))
def test_next_structure_is_that_of_the_whole_run(tiny_model, stage, gumbel):
    settings = dataclasses.replace(FAST, gumbel=gumbel)
    noise = torch.randn(2, 16, STAGES - 1, generator=torch.Generator().manual_seed(1))
    given = {"classes": ["heart", "boat"], "seed": 7, "settings": settings, "first_item": 2, "structure_noise": noise}
    run = tiny_model.generate(**given)
    counted = []
    labels = tiny_model.next_structure(run.first_stages(stage), **given, on_evaluation=lambda: counted.append(1))
    assert torch.equal(labels, run.structure[:, stage])
    splits = STAGES - 1
    assert len(counted) == count_evaluations(settings, splits, stage) - count_evaluations(settings, splits, stage + 1)


def test_next_structure_draws_the_same_noise(tiny_model, whole):
    labels = tiny_model.next_structure(whole.first_stages(2), ["heart", "boat"], 7, FAST)
    assert torch.equal(labels, whole.structure[:, 2])
    other = tiny_model.next_structure(whole.first_stages(2), ["heart", "boat"], 8, FAST)
    assert not torch.equal(labels, other)


def test_nothing_follows_the_last_structure(tiny_model, whole, refuses):
    with refuses("the sequence has 5 stages; give 1 to 4, so that one can follow"):
        tiny_model.next_structure(whole, ["heart", "boat"])
    with refuses("the structure has 2 items for 3 classes"):
        tiny_model.next_structure(whole.first_stages(2), [0, 1, 2])


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.long])
def test_given_structure_is_followed(tiny_model, stages, dtype):
    structure = random_structure(2, stages)
    result = tiny_model.generate([0, 1], seed=1, settings=FAST, structure=structure.to(dtype))
    assert result.structure.dtype == torch.long
    assert torch.equal(result.structure[:, :stages], structure)
    check(result.structure, 16)


def test_given_structure_leaves_the_rest_to_the_model(tiny_model, whole):
    """The model's own prefix, given, changes nothing."""
    for stages in range(1, STAGES + 1):
        result = tiny_model.generate(["heart", "boat"], seed=7, settings=FAST, structure=whole.structure[:, :stages])
        assert_same(result, whole)


def test_one_structure_for_the_whole_batch(tiny_model):
    structure = random_structure(1)
    result = tiny_model.generate([0, 1, 2], seed=1, settings=FAST, structure=structure)
    assert torch.equal(result.structure, structure.expand(3, -1, -1))
    repeated = tiny_model.generate([0, 1, 2], seed=1, settings=FAST, structure=structure.repeat(3, 1, 1))
    assert_same(result, repeated)
    assert not torch.equal(result.tokens[0], result.tokens[1])


@pytest.mark.parametrize("keep", range(STAGES + 1))
def test_keep_structure_alone(tiny_model, whole, keep):
    result = tiny_model.generate([1, 1], seed=20, settings=FAST, sequence=whole, keep_structure=keep)
    assert torch.equal(result.structure[:, :keep], whole.structure[:, :keep])
    assert not torch.equal(result.tokens, whole.tokens)
    if keep <= 1:  # stage 0 is no choice: this is the run without the sequence
        assert_same(result, tiny_model.generate([1, 1], seed=20, settings=FAST))


@pytest.mark.parametrize("keep", range(STAGES + 1))
def test_keep_content_alone(tiny_model, whole, keep):
    """Clusters keep their tokens wherever they now lie."""
    result = tiny_model.generate([1, 1], seed=20, settings=FAST, sequence=whole, keep_content=keep)
    for stage in range(keep):
        assert torch.equal(result.cluster_tokens(stage), whole.cluster_tokens(stage))
    assert not torch.equal(result.structure, whole.structure)
    check(result.structure, 16)


def test_keep_different_numbers_of_both(tiny_model, whole):
    result = tiny_model.generate([1, 1], seed=20, settings=FAST, sequence=whole, keep_structure=4, keep_content=2)
    assert torch.equal(result.structure[:, :4], whole.structure[:, :4])
    assert torch.equal(result.tokens[:, :2], whole.tokens[:, :2])
    assert not torch.equal(result.tokens[:, 2:4], whole.tokens[:, 2:4])


def test_content_of_one_and_structure_of_another(tiny_model, whole):
    structure = random_structure(2)
    result = tiny_model.generate(
        [0, 2], seed=1, settings=FAST, structure=structure, sequence=whole, keep_content=STAGES
    )
    assert torch.equal(result.structure, structure)
    assert torch.equal(result.cluster_tokens(4), whole.cluster_tokens(4))


def test_one_sequence_for_the_whole_batch(tiny_model, whole):
    one = whole.items([0])
    result = tiny_model.generate([0, 1, 2], seed=1, settings=FAST, sequence=one, keep_structure=3, keep_content=2)
    assert torch.equal(result.structure[:, :3], one.structure[:, :3].expand(3, -1, -1))
    assert torch.equal(result.tokens[:, :2], one.tokens[:, :2].expand(3, -1, -1))


def test_a_picture_kept_whole_is_reconstructed(tiny_model):
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sequence = tiny_model.tokenize(image)
    result = tiny_model.generate([0, 1], sequence=sequence, keep_structure=STAGES, keep_content=STAGES)
    assert torch.equal(result.tokens, sequence.tokens)
    assert torch.allclose(result.canvases, sequence.canvases, atol=1e-5)
    assert torch.allclose(tiny_model.decode(result), tiny_model.decode(sequence), atol=1e-5)
