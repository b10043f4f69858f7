"""Feature spaces to compare sets of pictures in.

Shapes: N pictures, D features, C classes; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor
from tqdm import tqdm

from training.errors import TrainingError
from training.extras import missing

Space = Literal["data", "inception", "lite0", "lite1", "lite2"]
Extract = Callable[[Tensor], tuple[Tensor, Tensor]]
"""pixels -> (features [N,D], logits [N,C])."""


def inception(device: torch.device, batch: int = 32) -> Extract:
    """Inception-v3 of the original FID (2048 features, 1008 logits without bias), through torch-fidelity.

    Raises:
        TrainingError: torch-fidelity is not installed, or its weights (91 MiB) are neither here nor to be had.
    """
    try:
        from torch_fidelity.utils import create_feature_extractor
    except ImportError as error:
        raise missing(
            "the feature space `inception` needs", "torch-fidelity", "inception", "choose --features data"
        ) from error
    except RuntimeError as error:  # torchvision was built for another torch
        raise TrainingError(
            f"torch-fidelity cannot be loaded ({error}); reinstall it and torchvision, or choose --features data"
        ) from error
    try:
        network = create_feature_extractor(
            "inception-v3-compat", ["2048", "logits_unbiased"], cuda=False, verbose=False
        ).to(device)
    except (URLError, OSError) as error:
        raise TrainingError(
            f"the weights of the feature space `inception` could not be downloaded ({error}); "
            "check the network or choose --features data"
        ) from error

    @torch.inference_mode()
    def extract(pixels: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for part in tqdm(pixels.split(batch), desc="inception", unit="batch", mininterval=5):
            parts.append([one.cpu() for one in network(part.to(device))])
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(logits)

    return extract
