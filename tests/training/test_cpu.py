"""The backward passes that are written out for training on CPUs, against those that torch derives."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nvg_model
from nvg_model.transformer import Block, Transformer, rope_table
from training.cpu import blocks, norm_swish

WIDTH, BATCH, TOKENS = 128, 3, 7


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    made = Block(WIDTH).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def inputs(dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, TOKENS, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    modulation = torch.randn(BATCH, 3 * WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    rope = rope_table(torch.randint(0, 8, (BATCH, TOKENS, 9), generator=generator))
    return x, modulation, rope.to(dtype)


def gradients(output: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return [output.detach(), *torch.autograd.grad((output * weight).sum(), wanted)]


def both(block: Block, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    x, modulation, rope = inputs(dtype)
    into, out = block.linear_in, block.linear_out
    parameters = [into.weight, into.bias, out.weight, out.bias, block.qk_scale]
    wanted = [x, modulation, *parameters]
    plain = gradients(block(x, modulation, rope), wanted)
    written = blocks.block(x, modulation, blocks.expand_rope(rope, WIDTH), *parameters)
    return plain, gradients(written, wanted)


def test_the_block_has_torchs_values_and_gradients(block: Block) -> None:
    # attention's queries and keys are rotated in float32 by the plain block, so its own error is that of float32
    for plain, written in zip(*both(block, torch.double), strict=True):
        assert float((plain - written).norm() / plain.norm()) < 1e-6


def test_under_autocast_it_is_bfloat16s_rounding_away(block: Block) -> None:
    block.float()
    exact, _ = both(block, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain, written = both(block, torch.float32)
    for one, two, three in zip(exact, plain, written, strict=True):
        assert three.dtype is torch.float32
        assert float((one - three).norm()) < 2 * float((one - two).norm()) + 0.01 * float(one.norm())


def test_a_transformer_uses_it_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    transformer = Transformer(2, WIDTH, 5)
    x, _, rope = inputs(torch.float32)
    modulations = transformer.modulate(torch.randn(BATCH, WIDTH))
    plain = transformer(x, modulations, rope, last=4)
    blocks.write_gradients(transformer)
    assert torch.allclose(transformer(x, modulations, rope, last=4), plain, atol=1e-5)
    calls = []
    monkeypatch.setattr(blocks, "block", lambda *arguments: calls.append(1) or arguments[0])
    transformer(x, modulations, rope, last=4)
    assert len(calls) == 2
    transformer.eval()
    assert torch.equal(transformer(x, modulations, rope, last=4), plain) and len(calls) == 2
    blocks.write_gradients(transformer.train(), written=False)
    assert torch.equal(transformer(x, modulations, rope, last=4), plain) and len(calls) == 2


@pytest.mark.parametrize("height", [32, 8])
def test_norm_and_swish(height: int) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, height, 40, dtype=torch.double).to(memory_format=torch.channels_last).requires_grad_()
    wanted = [x, norm.weight, norm.bias]
    found, right = gradients(norm_swish.norm_swish(norm, x), wanted), gradients(F.silu(norm(x)), wanted)
    for one, other in zip(found, right, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
    expected = "_NormSwishBackward" if height * 40 >= 1024 else "SiluBackward0"
    assert type(norm_swish.norm_swish(norm, x).grad_fn).__name__ == expected


def test_the_autoencoder_trains_the_same_in_both_memory_formats() -> None:
    """channels_last takes the written gradient at its largest level, the other format never does."""
    config = nvg_model.preset("tiny")
    torch.manual_seed(0)
    encoder = nvg_model.NVG(config).tokenizer.encoder.double()
    names = list(encoder.state_dict())
    norm_swish.write_gradients(encoder)
    assert list(encoder.state_dict()) == names
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        encoder.to(memory_format=form)
        found.append(gradients(encoder(images.to(memory_format=form)), list(encoder.parameters())))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
