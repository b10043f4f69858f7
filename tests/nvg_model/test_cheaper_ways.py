"""What a CPU computes another way where no gradients are wanted, against the plain way."""

import pytest
import torch
from shared_sequences import generator_of

from nvg_model.tokenizer import Upsample
from nvg_model.transformer import normalize_and_rotate, rope_table


def test_norm_and_rotation_by_complex_numbers():
    rope = rope_table(torch.randint(0, 9, (2, 5, 7), generator=generator_of()))
    pair = torch.randn(2, 5, 2, 3, 64, generator=generator_of())
    scale = torch.rand(2, 1, 64, generator=generator_of()) + 0.5
    with torch.no_grad():
        fast = normalize_and_rotate(pair, scale, rope)
    assert torch.allclose(fast, normalize_and_rotate(pair, scale, rope), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_upsampling_by_subpixels(batch):
    upsample = Upsample(8)
    x = torch.randn(batch, 8, 5, 3, generator=generator_of())
    with torch.no_grad():
        fast = upsample(x)
    assert torch.allclose(fast, upsample(x), atol=1e-5) and fast.shape == (batch, 8, 10, 6)
