"""EfficientNet-Lite against what the package efficientnet-lite-pytorch 0.1.0 computes with the same weights."""

from __future__ import annotations

import pytest
import torch

from training.efficientnet_lite import load_lite, normalised, resized
from training.losses.perceptual import load_perceptual


def image() -> torch.Tensor:
    """Odd and even sizes on the way down."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 72), torch.linspace(-1, 1, 96), indexing="ij")
    return torch.stack([torch.sin(9 * x * y), x * y, torch.cos(5 * x + 3 * y)])[None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lite0", [-1.4568, -2.2785, -1.7303, -2.3648, 1.0410, 0.2452, 2.3170, -3.9183]),
        ("lite1", [-0.7380, -4.1238, 3.3123, -1.0508, -0.7774, 2.0518, 0.0611, -0.3342]),
    ],
)
def test_logits_are_the_reference(name: str, expected: list[float]) -> None:
    network = load_lite(name)  # type: ignore[arg-type]
    features, logits = network(image())
    assert features.shape == (1, 1280)
    torch.testing.assert_close(logits[0, :400:50], torch.tensor(expected), atol=1e-3, rtol=0)
    found = network.after_blocks(image(), (0, 2, 4))
    assert [tuple(one.shape[1:]) for one in found[:2]] == [(16, 36, 48), (24, 18, 24)]


def test_what_the_network_sees() -> None:
    assert normalised(torch.tensor([-1.0, 1.0])).tolist() == [-127 / 128, 1.0]
    assert resized(torch.zeros(1, 3, 64, 64), 112).shape == (1, 3, 112, 112)
    fine = (torch.arange(256) % 2 * 2.0 - 1).expand(1, 3, 256, 256)
    assert float(resized(fine, 64).abs().max()) < 0.1  # smoothed, not sampled


def test_the_perceptual_loss_prefers_sharp_to_blurred() -> None:
    """A blurred picture is nearer in pixels to a sharp one than the same moved by a pixel; to the eye it is not."""
    loss = load_perceptual()
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    sharp = (((x // 8 + y // 8) % 2) * 2.0 - 1).expand(1, 3, 64, 64).contiguous()
    moved, blurred = sharp.roll(1, 3), torch.nn.functional.avg_pool2d(sharp, 7, 1, 3)
    distances = [float(loss(one, sharp)) for one in (sharp, moved, blurred)]
    assert distances[0] == 0 < distances[1] < distances[2]
    output = blurred.clone().requires_grad_(True)
    loss(output, sharp).sum().backward()
    assert float(output.grad.abs().max()) > 0
    assert not any(one.requires_grad for one in loss.parameters())
