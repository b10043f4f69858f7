"""Generation with the tiny model: seeds, batches, resuming, what is given and kept, callbacks, and wrong input."""

import dataclasses
from itertools import pairwise

import pytest
import torch

import nvg_model
from nvg_model import SamplingSettings
from nvg_model.generation import count_evaluations
from nvg_model.hierarchy import all_stages, check, split
from nvg_model.sampling import time_grid
from nvg_model.solvers import SOLVERS

FAST = SamplingSettings(structure_steps=3)
STAGES = 5  # of the tiny model: K = 4


def assert_same(a, b):
    assert torch.equal(a.structure, b.structure)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.canvases, b.canvases)


def differs(a, b):
    return not torch.equal(a.structure, b.structure) and not torch.equal(a.tokens, b.tokens)


def random_structure(batch, stages=STAGES, positions=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    finest = torch.stack([torch.randperm(positions, generator=generator) for _ in range(batch)])
    return all_stages(finest)[:, :stages]


@pytest.fixture(scope="module")
def whole(tiny_model):
    """One run of two classes, with the default settings but for the steps."""
    return tiny_model.generate(["heart", "boat"], seed=7, settings=FAST)


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
        h = quantizer.codebook[whole.tokens[:, stage]]
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
