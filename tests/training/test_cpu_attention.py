"""Attention of training on CPUs."""

import torch

from nvg_model.transformer import Block, attention, rope_table
from training.cpu.attention import plain_attention, use_plain_attention


def test_attention_trained_in_bfloat16_is_the_same() -> None:
    """It takes another way on CPUs; the result and the gradients are those of float32, rounded."""
    values, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(2, 3, n, 64, generator=generator).to(dtype).requires_grad_() for n in (7, 9, 9)]
        value = plain_attention(*tensors)
        value.float().square().sum().backward()
        values.append(value.float())
        gradients.append([one.grad.float() for one in tensors])
    with torch.no_grad():
        assert torch.allclose(plain_attention(*tensors).float(), values[1], atol=0.02)
    assert torch.allclose(*values, atol=0.03)
    for full, low in zip(*gradients, strict=True):
        assert (low - full).norm() < 0.02 * full.norm()


def test_it_is_put_into_every_block_and_changes_nothing_in_float32() -> None:
    torch.manual_seed(0)
    blocks = torch.nn.Sequential(Block(64), Block(64))
    x, modulation = torch.randn(2, 5, 64), torch.randn(2, 192)
    rope = rope_table(torch.zeros(2, 5, 7))
    before = blocks[1](x, modulation, rope)
    assert blocks[1].attention is attention
    use_plain_attention(blocks)
    assert [block.attention for block in blocks] == [plain_attention] * 2
    assert torch.equal(blocks[1](x, modulation, rope), before)
