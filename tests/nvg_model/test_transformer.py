"""The transformer under both generators: rotations and blocks against their formulas."""

import dataclasses
import math

import pytest
import torch
from shared_sequences import generator_of, random_structure

import nvg_model
from nvg_model.hierarchy import embed
from nvg_model.transformer import Block, class_token_ids, position_ids, rope_axes, rope_table, rotate

TINY = nvg_model.preset("tiny")

# Rotation.


@pytest.mark.parametrize(("splits", "place"), [(4, 24), (6, 22), (8, 20), (10, 18)])
def test_rope_axes(splits, place):
    assert rope_axes(splits) == [8] + [2] * splits + [place, place]


@pytest.mark.parametrize("splits", range(1, 13))
def test_rope_axes_fill_the_head(splits):
    axes = rope_axes(splits)
    assert sum(axes) == 64 and all(width % 2 == 0 for width in axes)


def angles_of(rope):
    """Of each pair of channels, [B,T,1,1,32]."""
    return torch.atan2(rope[1, ..., 1::2], rope[0, ..., ::2])


def test_rope_table_by_hand():
    ids = torch.tensor([[[0, 2, 1, 0, 1, 3, 2]]])  # K = 4
    angles = angles_of(rope_table(ids))[0, 0, 0, 0]
    assert len(angles) == 32
    assert angles[:4].tolist() == [0] * 4  # kind 0
    assert angles[4:8].tolist() == pytest.approx([2, 1, 0, 1])  # one pair per bit, at frequency 1
    row = [3 * 10_000 ** (-2 * m / 24) for m in range(12)]
    column = [2 * 10_000 ** (-2 * m / 24) for m in range(12)]
    assert angles[8:].tolist() == pytest.approx(row + column, abs=1e-6)


def test_position_ids():
    labels = random_structure(2)[:, 3]
    ids = position_ids(labels, 3, 4, (4, 4), 2)
    assert (ids[..., 0] == 2).all()
    assert torch.equal(ids[..., 1:5], embed(labels, 3, 4))
    assert ids[1, :, 5].tolist() == [p // 4 for p in range(16)]
    assert ids[1, :, 6].tolist() == [p % 4 for p in range(16)]
    assert (class_token_ids(ids) == 1).all() and class_token_ids(ids).shape == (2, 1, 7)


# Blocks.


@pytest.fixture(scope="module")
def block():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block(128).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def block_input():
    x = torch.randn(2, 17, 128, generator=generator_of())
    labels = random_structure(2)[:, 2]
    ids = position_ids(labels, 2, 4, (4, 4), 0)
    return x, torch.randn(2, 3 * 128, generator=generator_of(1)), torch.cat([class_token_ids(ids), ids], 1)


def plain_block(block, x, modulation, ids):
    """The formulas of nvg-method section 2, one after the other."""
    shift, scale, gate = modulation[:, None].chunk(3, -1)
    centred = x - x.mean(-1, keepdim=True)
    y = (1 + scale) * centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() + shift
    q, k, v, mlp = block.linear_in(y).split([128, 128, 128, 512], -1)
    angles = angles_of(rope_table(ids))[:, :, 0]  # [B,T,1,32]

    def heads(part):
        return part.unflatten(-1, (2, 64))

    def turned(part, learned):
        part = heads(part)
        part = part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * learned
        even, odd = part[..., 0::2], part[..., 1::2]
        pairs = [even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()]
        return torch.stack(pairs, -1).flatten(-2)

    scores = torch.einsum("bqhd,bkhd->bhqk", turned(q, block.qk_scale[0]), turned(k, block.qk_scale[1])) / 8
    attended = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), heads(v)).flatten(2)
    gelu = 0.5 * mlp * (1 + torch.tanh(math.sqrt(2 / math.pi) * (mlp + 0.044715 * mlp**3)))
    return x + gate * block.linear_out(torch.cat([attended, gelu], -1))


def test_block_follows_the_formulas(block, block_input):
    block = Block(128).requires_grad_(False)
    block.load_state_dict(
        {key: torch.randn(value.shape, generator=generator_of(5)) * 0.1 for key, value in block.state_dict().items()}
    )
    x, modulation, ids = block_input
    assert torch.allclose(block(x, modulation, rope_table(ids)), plain_block(block, x, modulation, ids), atol=1e-4)


@pytest.mark.parametrize("last", [1, 5, 16, 17])
def test_last_tokens_equal_the_tail_of_the_full_block(block, block_input, last):
    x, modulation, ids = block_input
    whole = block(x, modulation, rope_table(ids))
    assert torch.allclose(block(x, modulation, rope_table(ids), last), whole[:, -last:], atol=1e-5)


def test_drop_path(block_input):
    x, modulation, ids = block_input
    rope = rope_table(ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = Block(128, drop_path=0.5).requires_grad_(False)
        full = block.eval()(x, modulation, rope) - x
        assert torch.equal(block(x, modulation, rope) - x, full)
        block.train()
        many = [block(x, modulation, rope)[0] - x[0] for _ in range(40)]
    dropped = sum(torch.equal(one, torch.zeros_like(one)) for one in many)
    assert 5 < dropped < 35
    assert all(torch.allclose(one, 2 * full[0], atol=1e-4) for one in many if one.any())


def test_drop_path_rates_rise_linearly():
    config = dataclasses.replace(
        TINY, generator=dataclasses.replace(TINY.generator, content_depth=5, structure_depth=3, drop_path=0.1)
    )
    model = nvg_model.NVG(config)
    assert [b.drop_path for b in model.content.transformer.blocks] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert [b.drop_path for b in model.structure.transformer.blocks] == pytest.approx([0, 0.05, 0.1])


def test_rotation_is_a_product_of_complex_numbers():
    values = torch.randn(2, 5, 2, 3, 64, generator=generator_of())
    rope = rope_table(torch.randint(0, 9, (2, 5, 7), generator=generator_of()))
    turns = torch.polar(torch.ones(2, 5, 1, 1, 32), angles_of(rope))
    wanted = torch.view_as_real(torch.view_as_complex(values.unflatten(-1, (32, 2))) * turns).flatten(-2)
    assert torch.allclose(rotate(values, rope), wanted, atol=1e-5)
    assert not torch.allclose(wanted, values, atol=0.1)
