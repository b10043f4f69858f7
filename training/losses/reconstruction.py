"""Reconstruction losses and measures that need no downloaded weights.

Shapes: B images [B,3,H,W] in [-1,1]. Half precision is taken up to float32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import TrainingError
from training.recipes.base import TokenizerRecipe


def multiscale_gradient(output: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients over `scales` halvings of the images.

    L1 alone rewards the blurred mean of the sharp answers; differences of neighbours make edges count.

    Raises:
        ValueError: the shapes differ, or a side is shorter than 2^scales pixels.
    """
    check_pair(output, target, 2**scales, f"the gradient loss over {scales} scales")
    output, target = _precise(output), _precise(target)
    loss = output.new_zeros(())
    for _ in range(scales):
        difference = output - target
        loss = loss + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss / scales


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every image, in decibels: [B]. Raises ValueError if the shapes differ."""
    check_pair(output, target, 1, "PSNR")
    error = (_precise(output) - _precise(target)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)  # the peak-to-peak range of [-1,1] is 2


def ssim(output: Tensor, target: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of every image (Wang et al. 2004), 1 where they are equal: [B].

    Gaussian windows that lie wholly inside the image, every colour channel by itself. A loss is `1 - ssim(...).mean()`.

    Raises:
        ValueError: the shapes differ, or a side is shorter than the window.
    """
    check_pair(output, target, window, f"SSIM with a window of {window} pixels")
    luminance, contrast = _similarity(_precise(output), _precise(target), window, sigma)
    return (luminance * contrast).mean(dim=(1, 2, 3))


def picture_losses(settings: TokenizerRecipe, output: Tensor, target: Tensor) -> dict[str, tuple[float, Tensor]]:
    """(weight, loss) by name of the measures that need no weights, where the settings want them."""
    losses: dict[str, tuple[float, Tensor]] = {}
    if settings.gradient_weight:
        losses["gradient_loss"] = settings.gradient_weight, multiscale_gradient(output, target)
    if settings.ssim_weight:
        losses["ssim_loss"] = settings.ssim_weight, 1 - ssim(output, target).mean()
    return losses


def _similarity(output: Tensor, target: Tensor, window: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Luminance term, and contrast times structure term, of SSIM at every position: [B,C,H-window+1,W-window+1]."""
    x, y = (output + 1) / 2, (target + 1) / 2  # the luminance term compares ratios, so black must be 0
    c1, c2 = 0.01**2, 0.03**2
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y], dim=1), window, sigma)
    mean_x, mean_y, square_x, square_y, product = moments.chunk(5, dim=1)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * (product - mean_x * mean_y) + c2) / (variance_x + variance_y + c2)
    return luminance, contrast


def _blur(maps: Tensor, window: int, sigma: float) -> Tensor:
    """Gaussian mean of maps [B,M,H,W] over every window that lies inside, first along the columns, then the rows."""
    place = torch.arange(window, device=maps.device, dtype=maps.dtype) - (window - 1) / 2
    line = torch.exp(-place.square() / (2 * sigma**2))
    line = (line / line.sum()).view(1, 1, window, 1).expand(maps.shape[1], 1, window, 1)
    with torch.autocast(maps.device.type, enabled=False):  # variances are small differences of large numbers
        return F.conv2d(F.conv2d(maps, line, groups=maps.shape[1]), line.mT, groups=maps.shape[1])


def _precise(images: Tensor) -> Tensor:
    """At least float32."""
    return images.to(torch.promote_types(images.dtype, torch.float32))


def feature_differences(features: Callable[[Tensor], list[Tensor]], output: Tensor, target: Tensor) -> list[Tensor]:
    """Squared differences [B,C,h,w] of two images' features at every depth. The gradient reaches `output` only."""
    with torch.no_grad():
        expected = features(target)
    return [(found - wanted).square() for found, wanted in zip(features(output), expected, strict=True)]


def check_pair(output: Tensor, target: Tensor, side: int, what: str) -> None:
    """Raises ValueError unless both are images [B,C,H,W] of one shape, at least `side` pixels high and wide."""
    if output.ndim != 4 or output.shape != target.shape:
        raise ValueError(
            f"{what} compares images [B,C,H,W] of one shape, not {list(output.shape)} with {list(target.shape)}"
        )
    if min(output.shape[2:]) < side:
        height, width = output.shape[2:]
        raise TrainingError(f"{what} needs images of at least {side}x{side} pixels; these have {height}x{width}")
