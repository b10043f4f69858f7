"""LPIPS with VGG16 (Zhang et al. 2018): the perceptual loss of the paper's tokenizer, and the measure of its table 3.

The network is written out here because the `lpips` package needs torchvision; the weights are the published ones:
VGG16 of torchvision, and the calibration of PerceptualSimilarity version 0.1.
Shapes: B images [B,3,H,W] in [-1,1].
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from training.errors import TrainingError
from training.losses.reconstruction import check_pair, feature_differences

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Channels of the convolutions; 0 halves the picture. What is before a 0, and the end, is compared."""
WIDTHS = (64, 128, 256, 512, 512)
"""Channels where features are compared."""
SMALLEST = 16
"""Four halvings must leave a pixel."""


@dataclass(frozen=True)
class WeightsFile:
    """A published file, and the start of its SHA-256, which is checked after the download."""

    url: str
    name: str
    sha256: str
    option: str
    """Of the tokenizer's training, which takes another place of it."""

    @property
    def path(self) -> Path:
        """Where PyTorch keeps it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name


BACKBONE = WeightsFile(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg16-397923af.pth",
    "397923af",
    "--lpips-backbone",
)
CALIBRATION = WeightsFile(
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/vgg.pth",
    "lpips-vgg-0.1-a78928a0.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "--lpips-calibration",
)


class LPIPS(nn.Module):
    """Distance of two images in the features of a frozen VGG16; made with random weights (see `load_lpips`)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []  # in torchvision's order, so that its names fit
        self.compared: list[int] = []
        before = 3
        for width in VGG16:
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            else:
                self.compared.append(len(layers) - 1)
                layers.append(nn.MaxPool2d(2))
        self.compared.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.calibration = nn.ParameterList([torch.rand(width) / width for width in WIDTHS])
        # LPIPS normalises [-1,1] by these; they are ImageNet's mean and deviation, rounded.
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of every pair of images, 0 where they are equal: [B]. The gradient reaches `output` only.

        Raises:
            ValueError: the shapes differ, or a side is shorter than 16 pixels.
        """
        check_pair(output, target, SMALLEST, "LPIPS")
        distance = output.new_zeros(len(output), dtype=torch.float32)
        for difference, weight in zip(
            feature_differences(self._directions, output, target), self.calibration, strict=True
        ):
            distance = distance + (difference * weight[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        return distance

    def _directions(self, images: Tensor) -> list[Tensor]:
        """The compared features, of unit length at every position, float32 [B,C,h,w] each."""
        x, directions = (images - self.mean) / self.deviation, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.compared:
                # F.normalize has a zero gradient, not NaN, where no feature is active.
                directions.append(F.normalize(x.float(), dim=1, eps=1e-10))
        return directions


def load_lpips(backbone: Path | None = None, calibration: Path | None = None) -> LPIPS:
    """LPIPS with the published weights, downloaded once (528 MB) into PyTorch's cache, or read from the given files.

    Args:
        backbone: VGG16 as torchvision or timm name it. calibration: the five heads of the package `lpips`, whose own
            file is used where it is installed.
    Raises:
        TrainingError: a file cannot be downloaded, or is not what it should be.
    """
    model = LPIPS()
    for given, file in ((backbone, BACKBONE), (calibration, CALIBRATION)):
        if given is not None and not given.is_file():
            raise TrainingError(f"there is no file {given}; download {file.url} and give it with {file.option}")
    backbone = backbone or _fetch(BACKBONE)
    calibration = calibration or _packaged() or _fetch(CALIBRATION)
    convolutions = {f"features.{name}" for name, _ in model.features.named_parameters()}
    weights = {name: value for name, value in _read(backbone).items() if name in convolutions}
    for name, value in _read(calibration).items():
        weights[name.replace("lin", "calibration.").removesuffix(".model.1.weight")] = value.flatten()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"{backbone} and {calibration} are not VGG16 and its LPIPS calibration; get {BACKBONE.url} "
            f"and {CALIBRATION.url} ({reason})"
        ) from error
    return model


def _packaged() -> Path | None:
    """The calibration in an installed package `lpips`, which is not imported: it needs torchvision."""
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "weights/v0.1/vgg.pth"
    return path if path.is_file() else None


def _fetch(file: WeightsFile) -> Path:
    """The file in PyTorch's cache, downloaded if it is not there."""
    if not file.path.exists():
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(file.url, str(file.path), hash_prefix=file.sha256)
        except (OSError, RuntimeError) as error:  # no network, no room; another file than expected
            raise TrainingError(
                f"LPIPS needs {file.url}, which could not be downloaded ({error}); put that file at {file.path} or "
                f"give it with {file.option}, or train without LPIPS: the SSIM and gradient losses need no weights"
            ) from error
    return file.path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise TrainingError(
            f"the weights {path} cannot be read ({error}); delete the file to download it again"
        ) from error
