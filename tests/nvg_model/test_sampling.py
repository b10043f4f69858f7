"""Schedules, and the choice of tokens."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from nvg_model import SamplingSettings
from nvg_model.networks import known_channels, time_sinusoid
from nvg_model.sampling import choose_tokens, filter_logits, guidance_schedule, time_grid, top_p_schedule
from nvg_model.solvers import SOLVERS

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
        ("solver", "rk4", f"solver is 'rk4'; it must be one of {', '.join(SOLVERS)}$"),
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
    assert dataclasses.astuple(SamplingSettings()) == (
        (1, 3.5),
        (1, 2.5),
        (1, 0.5),
        0,
        1,
        25,
        "euler",
        False,
        False,
        1,
        None,
    )


def test_reuse_is_yes_or_no(refuses):
    with refuses("reuse is 1; it must be true or false"):
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
