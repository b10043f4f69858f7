"""The solvers of the structure flow, on fields whose solution is known."""

import math
import re

import pytest
import torch

from nvg_model import SamplingSettings
from nvg_model.generation import count_evaluations
from nvg_model.sampling import time_grid
from nvg_model.solvers import SOLVERS, euler, evaluations, heun, multistep, summary


def identity(z):
    return z


def solve(solver, field, start, times):
    """Integrates dz/dt = field(z, t) along `times`; returns the end and the states at which the field was asked."""
    asked = []

    def velocity(z, t):
        asked.append((t, z))
        return field(z, t)

    return solver(velocity, start, times, identity), asked


START = torch.tensor([[[1.0, -2.0, 0.3]]], dtype=torch.float64)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_straight_lines_are_exact(name, steps):
    slope = torch.tensor([0.5, 1.0, -3.0], dtype=torch.float64)
    end, _ = solve(SOLVERS[name], lambda z, t: slope, START, time_grid(steps, 256))
    assert torch.allclose(end, START - slope, atol=1e-12)


ORDERS = {"euler": 1, "heun": 2, "multistep": 2}
FIELDS = {
    "exponential": (lambda z, t: z, math.exp(-1)),
    "in time": (lambda z, t: math.cos(3 * t) * z, math.exp(-math.sin(3) / 3)),
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("grid", ["even", "shifted"])
@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name, grid, field):
    """Twice the steps: half the error at first order, a quarter at second. A solver that is not listed has at least the
    first."""
    derivative, factor = FIELDS[field]

    def error(steps):
        times = torch.linspace(1, 0, steps + 1).tolist() if grid == "even" else time_grid(steps, 256)
        end, _ = solve(SOLVERS[name], derivative, START, times)
        return (end - factor * START).abs().max().item()

    assert error(80) < error(40)
    order = math.log2(error(80) / error(160))
    assert order == pytest.approx(ORDERS[name], abs=0.2) if name in ORDERS else order > 0.8


@pytest.mark.parametrize("solver", [heun, multistep])
@pytest.mark.parametrize("steps", [3, 5, 8])
def test_few_steps_of_second_order_help(solver, steps):
    times = time_grid(steps, 256)
    first, second = (solve(s, FIELDS["exponential"][0], START, times)[0] for s in (euler, solver))
    exact = START * math.exp(-1)
    assert (second - exact).abs().max() < 0.7 * (first - exact).abs().max()


def test_solvers_by_hand():
    times = [1.0, 0.5, 0.0]
    one = torch.ones(1, 1, 1)

    def end(solver):
        return solve(solver, lambda z, t: z, one, times)[0].item()

    assert end(euler) == pytest.approx(0.25)
    # Heun: 1 - 0.5 * (1 + 0.5) / 2 = 0.625, then 0.625 - 0.5 * (0.625 + 0.3125) / 2 = 0.390625.
    assert end(heun) == pytest.approx(0.390625)
    # Adams-Bashforth: an Euler step to 0.5, then 0.5 - 0.5 * (1.5 * 0.5 - 0.5 * 1) = 0.375.
    assert end(multistep) == pytest.approx(0.375)


def test_multistep_on_uneven_steps():
    """A velocity that is linear in time is integrated exactly from the second step on, whatever the steps."""
    times = [1.0, 0.7, 0.1, 0.0]
    end, _ = solve(multistep, lambda z, t: torch.full_like(z, t), START, times)
    assert torch.allclose(end, START - 0.3 * 1 - 0.7**2 / 2, atol=1e-12)


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 6), ("heun", 12), ("multistep", 6)])
def test_solvers_ask_within_the_grid(name, evaluations):
    times = time_grid(6, 256)
    _, asked = solve(SOLVERS[name], lambda z, t: z, START, times)
    assert len(asked) == evaluations
    assert {t for t, _ in asked} == set(times if name == "heun" else times[:-1])


@pytest.mark.parametrize("name", SOLVERS)
def test_the_known_channel_is_clean_at_every_evaluation(name):
    def project(z):
        return torch.cat([torch.full_like(z[..., :1], 7.0), z[..., 1:]], -1)

    seen = []

    def velocity(z, t):
        seen.append(z)
        return torch.ones_like(z)

    end = SOLVERS[name](velocity, project(START), time_grid(4, 256), project)
    assert all((z[..., 0] == 7).all() for z in [*seen, end])
    assert torch.allclose(end[..., 1:], START[..., 1:] - 1)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_leave_the_start_alone(name):
    start = START.clone()
    solve(SOLVERS[name], lambda z, t: z, start, time_grid(3, 256))
    assert torch.equal(start, START)


def test_evaluations_of_any_solver(monkeypatch):
    def warm(velocity, z, times, project):
        """Euler, with a look at the start that is thrown away."""
        velocity(z, 1.0)
        return euler(velocity, z, times, project)

    monkeypatch.setitem(SOLVERS, "warm", warm)
    expected = {"euler": [1, 5], "heun": [2, 10], "multistep": [1, 5], "warm": [2, 6]}
    assert {name: [evaluations(name, steps) for steps in (1, 5)] for name in expected} == expected
    assert count_evaluations(SamplingSettings(solver="warm", structure_steps=5), 8) == 9 + 7 * 6


def test_help_texts_name_every_solver(monkeypatch):
    assert re.findall(r"(\w+) \(", summary()) == list(SOLVERS)
    for name in SOLVERS.keys() - ORDERS.keys():  # one that was added since
        monkeypatch.delitem(SOLVERS, name)
    assert summary() == (
        "euler (the paper's), heun (closer per step, twice the work) or multistep (as much work, closer with few steps)"
    )

    def rough(velocity, z, times, project):
        """Quick, and wrong.

        No more is shown."""

    monkeypatch.setitem(SOLVERS, "rough", rough)
    assert summary().endswith("or rough (quick, and wrong)")
