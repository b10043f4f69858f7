"""Generation with the tiny model: seeds, batches, settings, callbacks."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from shared_sequences import FAST, STAGES, assert_same, differs, random_structure

import nvg_model
from nvg_model import SamplingSettings
from nvg_model.generation import count_evaluations
from nvg_model.hierarchy import check, split
from nvg_model.sampling import time_grid
from nvg_model.solvers import SOLVERS

# The result.


def test_the_result_is_whole(tiny_model, whole):
    assert whole.is_whole and len(whole) == 2 and whole.num_stages == STAGES and whole.grid == (4, 4)
    assert whole.structure.shape == whole.tokens.shape == (2, STAGES, 16)
    assert whole.canvases.shape == (2, STAGES, 16, 8)
    check(whole.structure, 16)
    for stage in range(STAGES):
        codes = whole.cluster_tokens(stage)
        assert torch.equal(codes.gather(1, whole.structure[:, stage]), whole.tokens[:, stage])
    images = tiny_model.decode(whole)
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1


def test_canvases_follow_from_tokens(tiny_model, whole):
    """Each stage adds h + 0.5 conv(h), h being the codebook vectors of its tokens."""
    quantizer, canvas = tiny_model.tokenizer.quantizer, 0
    for stage in range(STAGES):
        h = quantizer.lookup(whole.tokens[:, stage])
        refined = quantizer.refiners[stage](h.mT.unflatten(2, (4, 4))).flatten(2).mT
        canvas = canvas + h + 0.5 * refined
        assert torch.allclose(whole.canvases[:, stage], canvas, atol=1e-5)


def test_decode_any_stage(tiny_model, whole, refuses):
    images = [tiny_model.decode(whole, stage) for stage in range(STAGES)]
    assert torch.equal(images[-1], tiny_model.decode(whole))
    assert all(not torch.equal(a, b) for a, b in pairwise(images))
    for stage in (-1, STAGES):
        with refuses(f"stage {stage} is not in the sequence; it has stages 0 to 4"):
            tiny_model.decode(whole, stage)
    with refuses("stages 0 to 1"):
        tiny_model.decode(whole.first_stages(2), 2)


# Seeds and batches.


def test_same_seed_same_result(tiny_model, whole):
    assert_same(tiny_model.generate(["heart", "boat"], seed=7, settings=FAST), whole)


def test_another_seed_another_result(tiny_model, whole):
    assert differs(tiny_model.generate(["heart", "boat"], seed=8, settings=FAST), whole)


def test_items_of_one_class_differ(tiny_model):
    sequence = tiny_model.generate(["heart", "heart"], seed=7, settings=FAST)
    assert differs(sequence.items([0]), sequence.items([1]))


def test_classes_differ(tiny_model):
    tokens = [tiny_model.generate(name, seed=7, settings=FAST).tokens for name in ("heart", "bird", None)]
    assert len({str(one.tolist()) for one in tokens}) == 3


@pytest.mark.parametrize("gumbel", [False, True])
@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_an_item_alone_equals_itself_in_a_batch(tiny_model, solver, gumbel):
    settings = dataclasses.replace(FAST, solver=solver, gumbel=gumbel)
    classes = ["heart", "boat", None, "boat"]
    batch = tiny_model.generate(classes, seed=3, settings=settings)
    for item, name in enumerate(classes):
        alone = tiny_model.generate([name], seed=3, first_item=item, settings=settings)
        assert torch.equal(alone.structure, batch.structure[item : item + 1])
        assert torch.equal(alone.tokens, batch.tokens[item : item + 1])
        assert torch.allclose(alone.canvases, batch.canvases[item : item + 1], atol=1e-5)


def test_a_solver_may_ask_at_any_time(tiny_model, monkeypatch):
    """The midpoint rule, whose second evaluation lies off the time grid, against itself over the public velocity."""

    def midpoint(velocity, z, times, project):
        for now, then in pairwise(times):
            half = project(z + (then - now) / 2 * velocity(z, now))
            z = project(z + (then - now) * velocity(half, (now + then) / 2))
        return z

    monkeypatch.setitem(SOLVERS, "midpoint", midpoint)
    settings = dataclasses.replace(FAST, solver="midpoint", structure_guidance=(1.0, 1.0))
    noise = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(0))
    run = tiny_model.generate(["heart"], settings=settings, structure_noise=noise)
    canvas, labels = run.canvases[:, 0], run.structure[:, 0]

    def velocity(z, t):
        return tiny_model.structure.velocity(z, t, canvas, labels, torch.tensor([0]), 0)

    end = midpoint(velocity, noise, time_grid(settings.structure_steps, 16), lambda z: z)
    assert torch.equal(split(labels, end[..., 0]), run.structure[:, 1])


def test_one_thread_or_two(tiny_model, whole):
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert_same(tiny_model.generate(["heart", "boat"], seed=7, settings=FAST), whole)
    finally:
        torch.set_num_threads(threads)


def test_the_global_generator_is_not_touched(tiny_model):
    before = torch.get_rng_state()
    settings = dataclasses.replace(FAST, gumbel=True)
    first = tiny_model.generate(["heart"], seed=1, settings=settings)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        assert_same(tiny_model.generate(["heart"], seed=1, settings=settings), first)


def test_stages_draw_independent_noise(tiny_model):
    """So hot that the noise alone decides: the first cluster's tokens of two stages agree once in 32 times."""
    settings = SamplingSettings(temperature=1e6, top_p=(1, 1), structure_steps=1)
    sequence = tiny_model.generate([0] * 200, settings=settings)
    first = torch.stack([sequence.cluster_tokens(stage)[:, 0] for stage in range(STAGES)])
    for stage in range(STAGES):
        for other in range(stage):
            assert (first[stage] == first[other]).float().mean() < 0.1


@pytest.mark.parametrize("seed", [0, 2**32, 2**64 - 1, 10**30])
def test_large_seeds(tiny_model, seed):
    one, other = (next(tiny_model.stages([0] * 20, seed=s)).tokens for s in (seed, seed + 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["seed", "first_item"])
def test_negative_numbers(tiny_model, name, refuses):
    with refuses(f"{name} is -1"):
        tiny_model.generate(0, **{name: -1})


# Settings.


def test_settings_come_from_the_model(tiny):
    model = nvg_model.load(tiny)
    model.settings = dataclasses.replace(FAST, top_k=1)
    given = model.generate([1], settings=dataclasses.replace(FAST, top_k=1))
    assert_same(model.generate([1]), given)


def test_guidance_of_one_equals_no_guidance(tiny_model):
    """Scale 1 takes one pass; a scale next to 1 takes two and must come to the same."""
    runs = [
        tiny_model.generate(
            [0, 1],
            seed=2,
            settings=dataclasses.replace(FAST, content_guidance=(s, s), structure_guidance=(s, s)),
        )
        for s in (1.0, 1 + 1e-12, 2.0)
    ]
    assert torch.equal(runs[0].structure, runs[1].structure) and torch.equal(runs[0].tokens, runs[1].tokens)
    assert differs(runs[0], runs[2])


def test_guidance_of_zero_ignores_the_class(tiny_model):
    settings = dataclasses.replace(FAST, content_guidance=(0, 0), structure_guidance=(0, 0))
    by_class = [tiny_model.generate(name, seed=2, settings=settings) for name in ("heart", "boat", None)]
    assert torch.equal(by_class[0].tokens, by_class[1].tokens) and torch.equal(by_class[0].tokens, by_class[2].tokens)


def test_each_setting_matters(tiny_model, whole):
    changes = (
        {"content_guidance": (1, 9)},
        {"structure_guidance": (4, 9)},
        {"top_p": (0.1, 0.1)},
        {"top_k": 1},
        {"temperature": 5.0},
        {"structure_steps": 1},
        {"solver": "multistep"},
        {"gumbel": True},
    )
    for change in changes:
        changed = tiny_model.generate(["heart", "boat"], seed=7, settings=dataclasses.replace(FAST, **change))
        assert not torch.equal(changed.tokens, whole.tokens), change


def test_greedy_tokens_depend_on_the_structure_only(tiny_model):
    greedy = dataclasses.replace(FAST, top_k=1)
    structure = random_structure(1)
    runs = [tiny_model.generate("bird", seed=seed, settings=greedy, structure=structure) for seed in (1, 2)]
    assert_same(*runs)


def test_structure_noise(tiny_model, refuses):
    noise = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))
    greedy = dataclasses.replace(FAST, top_k=1)
    runs = [tiny_model.generate([0, 1], seed=seed, settings=greedy, structure_noise=noise) for seed in (1, 2)]
    assert_same(*runs)
    # The last split orders each pair by the last channel of the noise.
    pairs, bits = runs[0].structure[:, 3], runs[0].structure[:, 4] & 1
    for item in range(2):
        for pair in range(8):
            first, second = (pairs[item] == pair).nonzero().flatten().tolist()
            assert (noise[item, first, 3] > noise[item, second, 3]) == (bits[item, first] > bits[item, second])
    for wrong in (noise[:1], noise[..., :3], noise.clone().fill_(torch.nan)):
        with refuses(r"structure_noise has shape .*; it must be \[2, 16, 4\] and finite"):
            tiny_model.generate([0, 1], structure_noise=wrong)


# Callbacks.


def test_on_stage(tiny_model, whole):
    seen = []
    result = tiny_model.generate(["heart", "boat"], seed=7, settings=FAST, on_stage=seen.append)
    assert [state.num_stages for state in seen] == [1, 2, 3, 4, 5]
    assert seen[-1] is result
    assert_same(result, whole)


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("structure_stages", "content_stages"), [(1, 0), (0, 0), (3, 1), (4, 5), (5, 0), (5, 5)])
def test_evaluations_are_counted(tiny_model, whole, solver, steps, structure_stages, content_stages):
    settings = SamplingSettings(structure_steps=steps, solver=solver)
    calls = []
    tiny_model.generate(
        [0, 1],
        settings=settings,
        sequence=whole,
        keep_structure=structure_stages,
        keep_content=content_stages,
        on_evaluation=lambda: calls.append(1),
    )
    assert len(calls) == count_evaluations(settings, 4, structure_stages, content_stages)


def test_counts_by_hand():
    # Nine content passes and seven flows of 25 steps: the 175 evaluations of the paper's default.
    assert count_evaluations(SamplingSettings(), 8) == 9 + 175
    assert count_evaluations(SamplingSettings(solver="heun", structure_steps=5), 8) == 9 + 7 * 10


@pytest.mark.parametrize("at", [1, 2, 7, 12])
def test_an_exception_ends_the_run(tiny_model, whole, at):
    class Interrupted(Exception):
        pass

    calls, states, before = [], [], torch.get_rng_state()

    def interrupt():
        calls.append(1)
        if len(calls) == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        tiny_model.generate(["heart", "boat"], seed=7, settings=FAST, on_evaluation=interrupt, on_stage=states.append)
    assert len(calls) == at
    assert torch.equal(torch.get_rng_state(), before) and torch.is_grad_enabled()
    for state in states:
        assert_same(state, whole.first_stages(state.num_stages))


def test_stages_leave_gradients_as_they_are(tiny_model):
    with torch.enable_grad():
        for state in tiny_model.stages(0, settings=FAST):
            assert torch.is_grad_enabled() and not state.canvases.requires_grad
