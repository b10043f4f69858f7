"""Sampling with a structure generator of average velocities: one evaluation a step, the guidance inside."""

import dataclasses
import json

import pytest
import torch

import nvg_model
from nvg_model import NVGConfig, SamplingSettings
from nvg_model.checkpoint import info
from nvg_model.cli import main
from nvg_model.networks import known_channels
from nvg_model.sampling import time_grid

SETTINGS = SamplingSettings(structure_guidance=(1.0, 3.0), structure_steps=2, top_k=1)


@pytest.fixture(scope="module")
def average(tiny_model) -> nvg_model.NVG:
    """The tiny model with lively random weights for average velocities."""
    generator = dataclasses.replace(tiny_model.config.generator, flow="average", largest_guidance=4.0, time_factor=4.0)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator), tiny_model.classes)
    model.load_state_dict(tiny_model.state_dict(), strict=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.structure.average_mlp.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval().requires_grad_(False)


@pytest.fixture
def first_split(average):
    """Arguments of the flow at stage 1 of a generated image: canvas, structure, classes."""
    sequence = average.generate([0, 1], settings=SETTINGS)
    return sequence.canvases[:, 1], sequence.structure[:, 1], torch.tensor([0, 1])


def test_a_step_moves_by_the_average_velocity_and_needs_no_second_pass(average):
    """The structure of a whole run, against z_r = z_t - (t - r) u step by step, from the public velocity."""
    noise = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(2))
    evaluations = []
    sequence = average.generate(
        [0, 2], settings=SETTINGS, structure_noise=noise, on_evaluation=lambda: evaluations.append(1)
    )
    assert len(evaluations) == 5 + 3 * SETTINGS.structure_steps  # content of 5 stages, and 3 splits
    times = time_grid(2, 16)
    for stage, guidance in ((0, 1.0), (1, 1.5), (2, 2.0)):
        canvas, labels = sequence.canvases[:, stage], sequence.structure[:, stage]
        known = known_channels(labels, stage, 4)
        z = torch.cat([known[..., :stage], noise[..., stage:]], dim=-1)
        for t, r in ((times[0], times[1]), (times[1], times[2])):
            u = average.structure.velocity(z, t, canvas, labels, torch.tensor([0, 2]), stage, t - r, guidance)
            z = torch.cat([known[..., :stage], (z - (t - r) * u)[..., stage:]], dim=-1)
        found = nvg_model.hierarchy.split(labels, z[..., stage])
        assert torch.equal(found, sequence.structure[:, stage + 1])


def test_span_and_guidance_matter_and_default_to_none(average, first_split):
    z, at = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(3)), (0.6, *first_split, 1)
    plain = average.structure.velocity(z, *at)
    assert torch.equal(plain, average.structure.velocity(z, *at, span=0.0, guidance=1.0))
    assert not torch.allclose(plain, average.structure.velocity(z, *at, span=0.6), atol=1e-2)
    assert not torch.allclose(plain, average.structure.velocity(z, *at, guidance=3.0), atol=1e-2)


def test_save_and_load_and_info(average, tmp_path, capsys):
    path = nvg_model.save(average, tmp_path / "few.safetensors")
    again = nvg_model.load(path)
    assert again.config == average.config and again.structure.averages
    one, other = (model.generate([1], seed=4, settings=SETTINGS) for model in (average, again))
    assert torch.equal(one.structure, other.structure) and torch.equal(one.tokens, other.tokens)
    assert info(path)["config"]["generator"]["flow"] == "average"
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["generator"]["largest_guidance"] == 4.0
    assert main(["info", str(path)]) == 0
    assert "structure flow        in few steps, with guidance from 1 to 4 inside" in capsys.readouterr().out


def test_configurations_from_before_are_velocities(tiny_model):
    values = tiny_model.config.to_dict()
    for name in ("flow", "largest_guidance"):
        del values["generator"][name]
    assert NVGConfig.from_dict(values) == tiny_model.config
    assert not tiny_model.structure.averages and not hasattr(tiny_model.structure, "average_mlp")


@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_other_solvers_are_refused(average, solver, refuses):
    with refuses(f"solver is {solver}; this few-step checkpoint .* choose euler"):
        average.generate([0], settings=dataclasses.replace(SETTINGS, solver=solver))


def test_guidance_now_and_then_is_refused(average, refuses):
    with refuses(
        "guidance_every is 2; this few-step checkpoint has the guidance inside every evaluation: leave it at 1"
    ):
        average.generate([0], settings=dataclasses.replace(SETTINGS, guidance_every=2))


@pytest.mark.parametrize("ends", [(5.0, 5.0), (0.5, 1.0)])
def test_guidance_that_was_not_trained_is_refused(average, ends, refuses):
    with refuses(f"structure guidance is {ends[0]:g}; this few-step checkpoint has it inside, from 1 to 4: choose"):
        average.generate([0], settings=dataclasses.replace(SETTINGS, structure_guidance=ends))


def test_a_given_structure_asks_for_no_flow(average):
    """So nothing is refused that is not used."""
    whole = average.generate([0], settings=SETTINGS)
    wrong = dataclasses.replace(SETTINGS, solver="heun", structure_guidance=(9.0, 9.0))
    assert torch.equal(average.generate([0], settings=wrong, structure=whole.structure).structure, whole.structure)


def test_a_velocity_network_gives_no_averages(tiny_model, refuses):
    z, canvas, labels = torch.zeros(1, 16, 4), torch.zeros(1, 16, 8), torch.zeros(1, 16, dtype=torch.long)
    for wrong in ({"span": 0.5}, {"guidance": 2.0}):
        with refuses("gives velocities of one time, without guidance"):
            tiny_model.structure.velocity(z, 1.0, canvas, labels, None, 0, **wrong)


def test_an_unknown_kind_of_flow_is_refused(tiny_model, refuses):
    generator = dataclasses.replace(tiny_model.config.generator, flow="shortcut")
    with refuses("flow is 'shortcut'; this nvg knows velocity and average"):
        dataclasses.replace(tiny_model.config, generator=generator)
