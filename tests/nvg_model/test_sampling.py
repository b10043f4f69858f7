"""Schedules, the choice of tokens, and the solvers of the structure flow on fields whose solution is known."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from nvg_model import SamplingSettings
from nvg_model.generation import count_evaluations
from nvg_model.networks import known_channels, time_sinusoid
from nvg_model.sampling import choose_tokens, filter_logits, guidance_schedule, time_grid, top_p_schedule
from nvg_model.solvers import SOLVERS, euler, evaluations, heun, multistep, summary

SPLITS = range(2, 11)


# Schedules.


@pytest.mark.parametrize("splits", SPLITS)
def test_guidance_is_linear(splits):
    scales = guidance_schedule((1.0, 3.5), splits)
    assert len(scales) == splits + 1
    assert scales[0] == 1 and scales[-1] == pytest.approx(3.5)
    steps = [after - before for before, after in pairwise(scales)]
    assert steps == pytest.approx([2.5 / splits] * splits)


@pytest.mark.parametrize("splits", SPLITS)
def test_guidance_of_one_stays_exactly_one(splits):
    assert guidance_schedule((1.0, 1.0), splits) == [1.0] * (splits + 1)


@pytest.mark.parametrize("splits", SPLITS)
def test_top_p_follows_the_formula(splits):
    values = top_p_schedule((1.0, 0.5), splits)
    assert len(values) == splits + 1 and values[0] == 1 and values[-1] == pytest.approx(0.5)
    for stage, value in enumerate(values):
        assert value == pytest.approx(0.5 + 0.5 * (1 - (splits ** (stage / splits) - 1) / (splits - 1)))
    falls = [before - after for before, after in pairwise(values)]
    assert all(0 < early < late for early, late in pairwise(falls))  # slowly at first


def test_top_p_between_other_ends():
    values = top_p_schedule((0.9, 0.3), 6)
    assert values[0] == pytest.approx(0.9) and values[-1] == pytest.approx(0.3)
    assert top_p_schedule((0.7, 0.7), 6) == pytest.approx([0.7] * 7)


@pytest.mark.parametrize(("positions", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63), (2176, 0.825), (64, 0.4675)])
def test_time_grid(positions, mu):
    times = time_grid(7, positions)
    assert times == torch.tensor(times).tolist() and len(times) == 8  # in the precision of float32
    assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
    for index in range(7):
        u = 1 - index / 7
        assert times[index] == pytest.approx(math.exp(mu) / (math.exp(mu) + 1 / u - 1), abs=1e-6)


def test_time_grid_of_one_step():
    assert time_grid(1, 256) == [1, 0]


def test_time_sinusoid():
    t = torch.tensor([0.0, 0.3, 12.0])
    embedding = time_sinusoid(t)
    assert embedding.shape == (3, 64)
    for m in (0, 1, 17, 31):
        assert embedding[:, m].tolist() == pytest.approx(torch.cos(t * 10_000 ** (-m / 32)).tolist(), abs=1e-5)
        assert embedding[:, 32 + m].tolist() == pytest.approx(torch.sin(t * 10_000 ** (-m / 32)).tolist(), abs=1e-5)


def test_known_channels():
    # Label 2 of stage 2 is 10: +1, -1, then what is not known yet.
    assert known_channels(torch.tensor([[2]]), 2, 4).tolist() == [[[1, -1, 0, 0]]]


# Settings.


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("content_guidance", (1.0,), r"content_guidance is \(1\.0,\)"),
        ("content_guidance", (1.0, math.nan), "content_guidance"),
        ("structure_guidance", (1.0, math.inf), "structure_guidance"),
        ("structure_guidance", (1, 2, 3), "structure_guidance"),
        ("content_guidance", (1.0, -0.5), r"content_guidance is \(1\.0, -0\.5\); both values must be 0 or more"),
        ("structure_guidance", (-1, 2), r"structure_guidance is \(-1, 2\); both values must be 0 or more"),
        ("top_p", (1.0, 0.0), r"top_p.*\(0, 1\]"),
        ("top_p", (1.5, 0.5), r"top_p.*\(0, 1\]"),
        ("top_k", -1, "top_k is -1"),
        ("temperature", 0.0, "temperature is 0"),
        ("temperature", -1.0, "temperature is -1"),
        ("temperature", math.nan, "temperature is nan"),
        ("structure_steps", 0, "structure_steps is 0"),
        ("solver", "rk4", "no solver 'rk4'; there are euler, heun, multistep"),
    ],
)
def test_settings_are_checked(field, value, named, refuses):
    with refuses(named):
        SamplingSettings(**{field: value})


def test_settings_from_json_and_frozen():
    settings = SamplingSettings(content_guidance=[1, 2], top_p=[1.0, 0.9])
    assert settings == SamplingSettings(content_guidance=(1, 2), top_p=(1.0, 0.9))
    assert settings == SamplingSettings(**dataclasses.asdict(settings))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.top_k = 3


def test_the_defaults_are_the_papers():
    assert dataclasses.astuple(SamplingSettings()) == ((1, 3.5), (1, 2.5), (1, 0.5), 0, 1, 25, "euler", False, False)


def test_reuse_is_yes_or_no(refuses):
    with refuses("reuse is 1; give true or false"):
        SamplingSettings(reuse=1)


def test_plain_values_leave_out_what_older_versions_do_not_know():
    assert "reuse" not in SamplingSettings(top_k=3).to_dict()
    used = SamplingSettings(top_k=3, reuse=True)
    assert SamplingSettings(**used.to_dict()) == used


# Filters.


def kept(logits, **arguments):
    filtered = filter_logits(logits, **arguments)
    keep = filtered > -torch.inf
    assert torch.equal(filtered[keep], logits[keep])  # what stays is not changed
    return keep


@pytest.fixture(scope="module")
def logits():
    return 3 * torch.randn(5, 7, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("top_k", [1, 2, 25, 39])
def test_top_k(logits, top_k):
    keep = kept(logits, top_k=top_k)
    assert (keep.sum(-1) == top_k).all()
    assert (logits.masked_fill(~keep, torch.inf).amin(-1) > logits.masked_fill(keep, -torch.inf).amax(-1)).all()


@pytest.mark.parametrize("top_k", [0, 40, 100])
def test_top_k_of_all(logits, top_k):
    assert kept(logits, top_k=top_k).all()


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.5, 0.9, 0.999])
def test_top_p_equals_the_plain_loop(logits, top_p):
    keep = kept(logits, top_p=top_p)
    for row, row_keep in zip(logits.flatten(0, 1).double(), keep.flatten(0, 1), strict=True):
        before, expected = 0.0, set()
        probability = row.softmax(-1)
        for token in row.argsort(descending=True).tolist():
            if before <= top_p:
                expected.add(token)
            before += probability[token].item()
        assert set(row_keep.nonzero().flatten().tolist()) == expected


def test_top_p_of_one_keeps_all(logits):
    assert kept(logits, top_p=1.0).all()


def test_top_p_keeps_the_one_that_reaches_it():
    # Quarters: the sums before are 0, 0.25, 0.5 and 0.75.
    assert kept(torch.zeros(4), top_p=0.5).tolist() == [True, True, True, False]
    assert kept(torch.zeros(4), top_p=0.49).tolist() == [True, True, False, False]


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.999])
@pytest.mark.parametrize("peak", [50.0, 1e4, 3e38])
def test_top_p_of_a_peaked_distribution(peak, top_p):
    row = torch.zeros(1000)
    row[137] = peak
    assert kept(row, top_p=top_p).nonzero().tolist() == [[137]]


def test_top_p_always_keeps_the_best():
    nearly_flat = 1e-3 * torch.randn(20, 4096, generator=torch.Generator().manual_seed(1))
    keep = kept(nearly_flat, top_p=1e-9)
    assert torch.equal(keep.nonzero()[:, 1], nearly_flat.argmax(-1))


def test_top_p_counts_within_top_k():
    row = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of the best two, the first has 4/7: more than 0.5, less than 0.6.
    assert kept(row, top_k=2, top_p=0.5).tolist() == [True, False, False, False]
    assert kept(row, top_k=2, top_p=0.6).tolist() == [True, True, False, False]


# The choice of tokens.


def gumbel_noise(*shape, seed=0):
    return -torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(seed)).log()


def frequencies(row, draws, top_p=1.0, **settings):
    rows = row.expand(1, draws, -1)
    tokens = choose_tokens(rows, SamplingSettings(**settings), top_p, gumbel_noise(1, draws, len(row)))
    assert tokens.shape == (1, draws)
    return tokens[0].bincount(minlength=len(row)).double()


def assert_drawn_from(counts, probability):
    """Chi-square of the counts below mean + 5 standard deviations; nothing drawn that may not be."""
    possible = probability > 0
    assert counts[~possible].sum() == 0
    expected = counts.sum() * probability[possible]
    freedom = len(expected) - 1
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum().item()
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


ROW = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, -2.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax(temperature):
    counts = frequencies(ROW, 50_000, temperature=temperature)
    assert_drawn_from(counts, (ROW.double() / temperature).softmax(-1))


def test_tokens_are_drawn_from_the_nucleus():
    keep = filter_logits(ROW, top_p=0.6)
    assert_drawn_from(frequencies(ROW, 50_000, top_p=0.6), keep.double().softmax(-1))


def test_tokens_are_drawn_from_the_best():
    keep = filter_logits(ROW, top_k=3)
    assert_drawn_from(frequencies(ROW, 50_000, top_k=3), keep.double().softmax(-1))


def test_the_temperature_comes_before_the_nucleus():
    # Hot, the best token holds less than 0.6, so the nucleus takes the second in.
    row = torch.tensor([2.0, 0.0, -1.0])
    assert (frequencies(row, 1000, top_p=0.6) > 0).tolist() == [True, False, False]
    assert (frequencies(row, 1000, top_p=0.6, temperature=4.0) > 0).tolist() == [True, True, False]


def test_a_low_temperature_is_greedy():
    assert frequencies(ROW, 1000, temperature=1e-4)[0] == 1000


def test_top_k_of_one_is_argmax(logits):
    settings = SamplingSettings(top_k=1)
    assert torch.equal(choose_tokens(logits, settings, 0.5, None), logits.argmax(-1))
    assert torch.equal(choose_tokens(logits, settings, 0.5, gumbel_noise(*logits.shape)), logits.argmax(-1))


def test_tokens_of_a_run_are_drawn_from_the_softmax(tiny_model):
    """The noise of the seeds is Gumbel, and independent over the items: stage 0 of many items at once."""
    draws = 1500
    state = next(tiny_model.stages([1] * draws, seed=11))
    labels = torch.zeros(1, tiny_model.config.positions, dtype=torch.long)
    _, logits = tiny_model.content.predict(None, labels, torch.tensor([1]), 0)
    assert_drawn_from(
        state.tokens[:, 0, 0].bincount(minlength=logits.shape[-1]).double(), logits[0, 0].double().softmax(-1)
    )


# Solvers.


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


FIELDS = {
    "exponential": (lambda z, t: z, math.exp(-1)),
    "in time": (lambda z, t: math.cos(3 * t) * z, math.exp(-math.sin(3) / 3)),
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("grid", ["even", "shifted"])
@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2), (multistep, 2)])
def test_order_of_convergence(solver, order, grid, field):
    """Twice the steps: half the error at first order, a quarter at second."""
    derivative, factor = FIELDS[field]

    def error(steps):
        times = torch.linspace(1, 0, steps + 1).tolist() if grid == "even" else time_grid(steps, 256)
        end, _ = solve(solver, derivative, START, times)
        return (end - factor * START).abs().max().item()

    assert error(80) < error(40)
    assert math.log2(error(80) / error(160)) == pytest.approx(order, abs=0.2)


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
    found = {name: [evaluations(name, steps) for steps in (1, 5)] for name in SOLVERS}
    assert found == {"euler": [1, 5], "heun": [2, 10], "multistep": [1, 5], "warm": [2, 6]}
    assert count_evaluations(SamplingSettings(solver="warm", structure_steps=5), 8) == 9 + 7 * 6


def test_help_texts_name_every_solver(monkeypatch):
    assert summary() == (
        "euler (the paper's), heun (closer per step, twice the work) or multistep (as much work, closer with few steps)"
    )

    def rough(velocity, z, times, project):
        """Quick, and wrong.

        No more is shown."""

    monkeypatch.setitem(SOLVERS, "rough", rough)
    assert summary().endswith("or rough (quick, and wrong)")
