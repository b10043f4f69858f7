"""Random images and a small vision transformer, for the tests of losses."""

import pytest
import torch
from torch import Tensor, nn


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform noise in [-1,1]."""
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 1


def small_vit(kind: str, heads: int = 0) -> nn.Module:
    """A small transformer of the class that the pretrained weights use; `heads` of 64 channels, or two of 16."""
    transformers = pytest.importorskip("transformers")
    width = 64 * heads or 32
    sizes = {"hidden_size": width, "num_attention_heads": heads or 2, "num_hidden_layers": 3}
    sizes |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "dino":
        config = transformers.ViTConfig(**sizes, intermediate_size=2 * width, layer_norm_eps=1e-6)
        return transformers.ViTModel(config, add_pooling_layer=False).eval()
    if kind == "registers":
        config = transformers.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2)
        return transformers.Dinov2WithRegistersModel(config).eval()
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)).eval()
