"""Settings of the structure flow by stage."""

import dataclasses

import pytest
import torch

import nvg_model
from nvg_model import SamplingSettings, schedule
from nvg_model.generation import Request, count_evaluations
from nvg_model.regions import Region
from nvg_model.sampling import time_grid
from nvg_model.sheets import Axis
from nvg_model.solvers import SOLVERS

GUIDED = SamplingSettings(structure_guidance=(2.0, 3.0), structure_steps=4)
BY_STAGE = dataclasses.replace(
    GUIDED,
    structure_steps=(4, 2, 3),
    solver=("euler", "heun", "multistep"),
    reuse=(False, True, True),
    guidance_every=(2, 1, 3),
    time_shift=(0.0, None, -0.5),
)


def structure(model, settings, **more):
    return model.generate(["heart", "bird"], 3, settings, **more).structure


def test_one_value_is_the_same_as_one_for_each_stage(tiny_model):
    each = dataclasses.replace(GUIDED, structure_steps=(4,) * 3, solver=["euler"] * 3, reuse=(False,) * 3)
    assert torch.equal(structure(tiny_model, each), structure(tiny_model, GUIDED))


def test_every_stage_runs_as_its_settings_say(tiny_model):
    """Stage by stage, what a schedule draws is what its own settings draw for the whole picture up to there."""
    state = None
    for stage in range(3):
        given = {
            name: value[stage] for name in schedule.BY_STAGE if isinstance(value := getattr(BY_STAGE, name), tuple)
        }
        kept = {} if state is None else {"sequence": state, "keep_structure": stage + 1, "keep_content": stage + 1}
        *_, state = list(tiny_model.stages(["heart", "bird"], 3, dataclasses.replace(BY_STAGE, **given), **kept))[
            : stage + 2
        ]
    whole = list(tiny_model.stages(["heart", "bird"], 3, BY_STAGE))[3]
    assert torch.equal(state.structure, whole.structure)


@pytest.mark.parametrize("reuse", [False, True])
def test_held_guidance_costs_one_pass_and_is_what_it_was(tiny_model, reuse):
    """Against the same computed plainly: two Euler steps, of which the second adds the first one's guidance."""
    settings = dataclasses.replace(GUIDED, structure_steps=2, guidance_every=2, reuse=reuse)
    run = tiny_model.run(Request([0, 1], settings=settings))
    canvas = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(1))
    labels, rows = torch.zeros(2, 16, dtype=torch.long), []
    hook = tiny_model.structure.structure_in.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        end = run.integrate(canvas, labels, noise, 0)
    finally:
        hook.remove()
    assert rows == [4, 2]
    if reuse:
        return
    first, middle, _ = time_grid(2, 16)
    classes = torch.tensor([0, 1])
    conditional, null = (tiny_model.structure.velocity(noise, first, canvas, labels, one, 0) for one in (classes, None))
    z = noise + (middle - first) * (null + 2.0 * (conditional - null))
    later = tiny_model.structure.velocity(z, middle, canvas, labels, classes, 0) + (conditional - null)
    assert torch.allclose(end, z - middle * later, atol=1e-5)


def test_held_guidance_with_regions(tiny_model):
    """A region of the picture's own class, everywhere, changes nothing; one of another class does."""
    settings = dataclasses.replace(GUIDED, guidance_every=2, reuse=True)
    half = torch.zeros(16, 16)
    half[:, 8:] = 1
    plain = tiny_model.generate(["heart"], 3, settings).structure
    same = tiny_model.generate(["heart"], 3, settings, regions=[Region(half, "heart")]).structure
    other = tiny_model.generate(["heart"], 3, settings, regions=[Region(half, "bird")]).structure
    assert torch.equal(plain, same) and not torch.equal(plain, other)


def test_an_item_is_the_same_alone(tiny_model):
    alone = tiny_model.generate("bird", 3, BY_STAGE, first_item=1).structure
    assert torch.equal(structure(tiny_model, BY_STAGE)[1:], alone)


def test_evaluations_follow_the_schedule(tiny_model):
    counted = []
    structure(tiny_model, BY_STAGE, on_evaluation=lambda: counted.append(1))
    assert len(counted) == count_evaluations(BY_STAGE, 4) == 5 + 4 + 2 * 2 + 3
    assert count_evaluations(BY_STAGE, 4, structure_stages=2) == 5 + 4 + 3, "the first split is given"
    assert count_evaluations(BY_STAGE, 4, structure_stages=5) == 5


def test_a_schedule_of_another_model_is_refused_before_anything_is_drawn(tiny_model, refuses):
    few = dataclasses.replace(GUIDED, structure_steps=(4, 2))
    message = (
        "structure_steps has 2 values, 4 2; the structure flow of this model splits 3 stages: give one value for all"
    )
    with refuses(message):
        tiny_model.stages("heart", settings=few)
    with refuses(message):
        count_evaluations(few, 4)


def test_metadata(tiny_model, tmp_path):
    model = tiny_model
    had, model.settings = model.settings, BY_STAGE
    try:
        path = nvg_model.save(model, tmp_path / "model.safetensors")
    finally:
        model.settings = had
    assert nvg_model.load(path).settings == BY_STAGE
    assert not {"guidance_every", "time_shift"} & SamplingSettings().to_dict().keys(), "older versions read the rest"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("structure_steps", (4, 0), r"structure_steps is \(4, 0\); give one value, or one for each stage"),
        ("structure_steps", (), r"structure_steps is \(\)"),
        ("structure_steps", 2.5, "structure_steps is 2.5; it must be a whole number of at least 1"),
        ("solver", ("euler", "rk4"), f"each one of {', '.join(SOLVERS)}$"),
        ("guidance_every", 0, "guidance_every is 0; it must be a whole number of at least 1"),
        ("time_shift", float("nan"), "time_shift is nan; it must be a number from -10 to 10, or none"),
        ("time_shift", (0, "x"), "time_shift is .*each a number from -10 to 10"),
        ("reuse", (True, 1), "reuse is .*each true or false"),
    ],
)
def test_wrong_values(field, value, said, refuses):
    with refuses(said):
        SamplingSettings(**{field: value})


def test_texts():
    assert schedule.read("structure_steps", "4, 4 2") == (4, 4, 2) and schedule.read("structure_steps", "3") == 3
    assert schedule.read("time_shift", "0 none -0.5") == (0, None, -0.5)
    assert schedule.read_all("structure_steps 4 2 2; guidance_every: 2\nreuse=on") == {
        "structure_steps": (4, 2, 2),
        "guidance_every": 2,
        "reuse": True,
    }
    assert schedule.read_all(" ") == {}
    for name in schedule.BY_STAGE:
        assert schedule.read(name, schedule.shown(getattr(BY_STAGE, name))) == getattr(BY_STAGE, name)
    axis = Axis.read("structure_steps", "4, 4 2 2")
    assert axis.values == (4, (4, 2, 2)) and axis.captions == ["structure steps 4", "structure steps 4 2 2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("structure_steps", "structure_steps is ''; give one value"),
        ("structure_steps four", "structure_steps is 'four'; give one value, or one for each stage"),
        ("top_k 3", "the schedule sets 'top_k'; it can set structure_steps, solver, reuse"),
        ("solver heun; solver euler", "the schedule sets solver twice"),
        ("time_shift inf", "time_shift is 'inf'"),
    ],
)
def test_wrong_texts(text, said, refuses):
    with refuses(said):
        schedule.read_all(text)
