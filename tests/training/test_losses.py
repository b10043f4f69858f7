"""Losses of the reconstruction: values by hand, gradients, invariances, and what they refuse."""

import math
from pathlib import Path

import pytest
import torch
from shared_images import pictures
from torch import Tensor

from training.errors import TrainingError
from training.losses import lpips
from training.losses.lpips import LPIPS, WeightsFile, load_lpips
from training.losses.reconstruction import multiscale_gradient, psnr, ssim


def pair(*shape: int, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Images and noisy copies of them."""
    images = pictures(*shape)
    return (images + noise * pictures(*shape, seed=1)).clamp(-1, 1), images


# SSIM and the other measures that need no weights


def similarity_by_loops(x: Tensor, y: Tensor, window: int, sigma: float) -> tuple[float, float]:
    """Mean SSIM, and mean contrast term, of two images [H,W] in [0,1], by the definition: one window at a time."""
    weights = torch.tensor(
        [
            [math.exp(-((i - window // 2) ** 2 + (j - window // 2) ** 2) / (2 * sigma**2)) for j in range(window)]
            for i in range(window)
        ],
        dtype=torch.float64,
    )
    weights /= weights.sum()
    c1, c2 = 0.0001, 0.0009
    similarities, contrasts = [], []
    for top in range(x.shape[0] - window + 1):
        for left in range(x.shape[1] - window + 1):
            a, b = (image[top : top + window, left : left + window] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
            contrasts.append(contrast)
            similarities.append(contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1))
    return float(torch.stack(similarities).mean()), float(torch.stack(contrasts).mean())


def test_ssim_is_its_definition() -> None:
    output, target = pair(2, 3, 13, 12)
    expected = [
        [similarity_by_loops((x.double() + 1) / 2, (y.double() + 1) / 2, 11, 1.5)[0] for x, y in zip(a, b, strict=True)]
        for a, b in zip(output, target, strict=True)
    ]
    torch.testing.assert_close(ssim(output, target), torch.tensor(expected).mean(1), rtol=0, atol=1e-5)


def test_similarity_is_symmetric_and_highest_for_equals() -> None:
    measure = ssim
    output, target = pair(2, 3, 24, 24)
    worse, _ = pair(2, 3, 24, 24, noise=0.6)
    torch.testing.assert_close(measure(target, target), torch.ones(2))
    torch.testing.assert_close(measure(output, target), measure(target, output))
    assert (measure(worse, target) < measure(output, target)).all()
    torch.testing.assert_close(measure(output.flip(3), target.flip(3)), measure(output, target))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: multiscale_gradient(x, y, scales=2),
        lambda x, y: ssim(x, y, window=5),
    ],
)
def test_reconstruction_gradients(loss) -> None:
    output, target = pair(1, 3, 8, 8)
    assert torch.autograd.gradcheck(lambda x: loss(x, target.double()), output.double().requires_grad_())


def test_opposite_images_have_a_finite_gradient() -> None:
    target = pictures(1, 3, 24, 24)
    output = (-target).requires_grad_()
    ssim(output, target).sum().backward()
    assert output.grad is not None and output.grad.isfinite().all()


def test_half_precision_is_measured_in_full() -> None:
    output, target = (images.bfloat16() for images in pair(1, 3, 24, 24))
    with torch.autocast("cpu", torch.bfloat16):
        for measure in (ssim, multiscale_gradient, psnr):
            found = measure(output, target)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, measure(output.float(), target.float()))


@pytest.mark.parametrize(
    ("measure", "needed"),
    [(ssim, "11x11"), (multiscale_gradient, "8x8"), (LPIPS(), "16x16")],
)
def test_small_and_unequal_images_are_refused(measure, needed: str) -> None:
    one = torch.zeros(1, 3, 1, 1)
    with pytest.raises(TrainingError, match=f"at least {needed} pixels; these have 1x1$"):
        measure(one, one)
    with pytest.raises(ValueError, match=r"one shape, not \[1, 3, 64, 64\] with \[1, 3, 64, 32\]$"):
        measure(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 32))


# LPIPS, with random weights in the places of the published ones


@pytest.fixture(scope="module")
def perceptual() -> LPIPS:
    torch.manual_seed(0)
    return LPIPS()


def test_lpips_is_a_distance(perceptual: LPIPS) -> None:
    output, target = pair(2, 3, 32, 24)
    worse, _ = pair(2, 3, 32, 24, noise=0.8)
    distance = perceptual(output, target)
    torch.testing.assert_close(perceptual(target, target), torch.zeros(2))
    torch.testing.assert_close(distance, perceptual(target, output))
    assert (distance > 0).all() and (perceptual(worse, target) > distance).all()
    torch.testing.assert_close(perceptual(output[1:], target[1:]), distance[1:])


def test_lpips_compares_directions_of_features(perceptual: LPIPS) -> None:
    """With a calibration of ones, the squared distance of two directions is 2 - 2 cosine."""
    output, target = pair(1, 3, 16, 16)
    ones = LPIPS()
    ones.load_state_dict(perceptual.state_dict())
    for weight in ones.calibration:
        weight.fill_(1)
    x, y = ((image - ones.mean) / ones.deviation for image in (output, target))
    expected, start = torch.zeros(1), 0
    for end in (4, 9, 16, 23, 30):  # after the last ReLU before each pooling
        x, y = ones.features[start:end](x), ones.features[start:end](y)
        assert (x.norm(dim=1) > 0).all() and (y.norm(dim=1) > 0).all()
        expected += (2 - 2 * torch.cosine_similarity(x, y, dim=1)).mean()
        start = end
    torch.testing.assert_close(ones(output, target), expected)


def test_lpips_gradient_reaches_the_output_only(perceptual: LPIPS) -> None:
    output, target = (images.requires_grad_() for images in pair(1, 3, 16, 16))
    perceptual(output, target).sum().backward()
    assert output.grad is not None and output.grad.abs().sum() > 0
    assert target.grad is None and all(parameter.grad is None for parameter in perceptual.parameters())
    black = torch.full((1, 3, 16, 16), -1.0, requires_grad=True)
    LPIPS()(black, target.detach()).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all()


def test_lpips_reads_the_published_files(perceptual: LPIPS, tmp_path: Path) -> None:
    """VGG16 as torchvision names it, with its classifier, and the calibration as PerceptualSimilarity does."""
    state = perceptual.state_dict()
    backbone = {name: value for name, value in state.items() if name.startswith("features.")}
    torch.save({**backbone, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
    heads = {f"lin{i}.model.1.weight": state[f"calibration.{i}"].view(1, -1, 1, 1) for i in range(5)}
    torch.save(heads, tmp_path / "heads.pth")
    model = load_lpips(tmp_path / "vgg16.pth", tmp_path / "heads.pth")
    output, target = pair(1, 3, 16, 16)
    assert torch.equal(model(output, target), perceptual(output, target))
    with pytest.raises(
        TrainingError, match=r"no file .*none\.pth; download .*/vgg16-397923af\.pth .* --lpips-backbone$"
    ):
        load_lpips(tmp_path / "none.pth")
    with pytest.raises(TrainingError, match=r"no file .*none\.pth; download .*/v0\.1/vgg\.pth .* --lpips-calibration$"):
        load_lpips(tmp_path / "vgg16.pth", tmp_path / "none.pth")
    with pytest.raises(TrainingError, match="are not VGG16 and its LPIPS calibration"):
        load_lpips(tmp_path / "heads.pth", tmp_path / "heads.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=r"broken\.pth cannot be read"):
        load_lpips(tmp_path / "broken.pth", tmp_path / "heads.pth")


def test_lpips_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    nobody = WeightsFile("http://127.0.0.1:9/vgg16.pth", "vgg16.pth", "00", "--lpips-backbone")
    monkeypatch.setattr(lpips, "BACKBONE", nobody)
    with pytest.raises(
        TrainingError,
        match=r"127\.0\.0\.1:9/vgg16\.pth, which could not .* give it with --lpips-backbone, or train without",
    ):
        load_lpips()
    (tmp_path / "other").write_bytes(b"another file")
    other = WeightsFile((tmp_path / "other").as_uri(), "vgg16.pth", "00", "--lpips-backbone")
    monkeypatch.setattr(lpips, "BACKBONE", other)
    with pytest.raises(TrainingError, match="invalid hash value"):
        load_lpips()
    assert not other.path.exists()
