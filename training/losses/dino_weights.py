"""Pretrained DINO and DINOv2 transformers, from the files that people have.

A file of torch.hub (`dinov2_vitb14_pretrain.pth`, `dino_deitsmall16_pretrain.pth`; timm's names are the same), or a
folder or hub id of the `transformers` package. Sizes come from the tensors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.errors import TrainingError
from training.extras import missing

FILES = (".pth", ".pt", ".bin", ".safetensors")
HEAD = 64
"""Width of a head, in all of these transformers."""
ADVICE = "choose what needs none: the PatchGAN discriminator (--discriminator patch), and --repa-weight 0"


@dataclass(frozen=True)
class Published:
    """A transformer as its authors publish it."""

    name: str
    """Hub id."""
    url: str
    """Of the authors' own file."""
    option: str
    """Which takes another name, a folder or a file."""


DINO_SMALL = Published(
    "facebook/dino-vits16",
    "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    "--discriminator-encoder",
)
DINOV2_BASE = Published(
    "facebook/dinov2-base",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    "--repa-encoder",
)


def load_vit(name: str, published: Published) -> Any:
    """A pretrained vision transformer: a file, a folder, or a hub id ("owner/name" or "owner/name@revision").

    Args:
        published: named, with the place to get it, where the weights cannot be had.
    Raises:
        TrainingError: `transformers` is not installed, the weights can neither be read, downloaded nor found in the
            cache, or they are of another kind.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing("DINO features need", "transformers", "train", ADVICE) from error
    path = Path(name).expanduser()
    if path.is_file():
        return _from_file(transformers, path)
    if not path.is_dir() and (name.startswith(("/", "~", ".")) or path.suffix in FILES):
        raise TrainingError(
            f"there are no weights {path}; download {published.url} and give the file with {published.option}"
        )
    hub_id, _, revision = name.partition("@")
    local = str(path) if path.is_dir() else hub_id
    try:
        return transformers.AutoModel.from_pretrained(local, revision=revision or "main").float()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise TrainingError(
            f"the weights {name} could not be loaded ({reason}); download {published.url} "
            f"and give the file with {published.option}, or {ADVICE}"
        ) from error


def _from_file(transformers: Any, path: Path) -> Any:
    """The transformer of a file with the names of torch.hub or timm. Raises TrainingError."""
    weights = _read(path)
    kind = f"{path} holds another kind of network than DINO or DINOv2"
    try:
        model, config = _of_sizes(transformers, weights)
    except (KeyError, ValueError) as error:
        raise TrainingError(
            f"{kind} (it has no {error}); give a file of torch.hub, or a folder of transformers"
        ) from error
    found, names = model.from_pretrained(
        None, config=config, state_dict=_renamed(weights), output_loading_info=True, ignore_mismatched_sizes=True
    )
    never_used = ("mask_token", "pooler")
    odd = [*names["mismatched_keys"], *names["unexpected_keys"], *names["missing_keys"]]
    odd = [one if isinstance(one, str) else one[0] for one in odd]
    odd = sorted(one for one in odd if not any(part in one for part in never_used))
    if odd:
        raise TrainingError(f"{kind} (they differ in {odd[0]}); give a file of torch.hub, or a folder of transformers")
    return found.float()


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. A whole training checkpoint gives its teacher."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("teacher", state)
    except Exception as error:  # torch.load raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TrainingError(f"the weights {path} cannot be read ({reason}); download the file again") from error
    tensors = {key: value for key, value in state.items() if torch.is_tensor(value)}
    return {re.sub(r"^(module\.)?(backbone\.)?", "", key): value for key, value in tensors.items()}


def _of_sizes(transformers: Any, weights: dict[str, Tensor]) -> tuple[Any, Any]:
    """(class, configuration) of a transformer of the sizes of the tensors. Raises KeyError, ValueError."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    inner = weights["blocks.0.mlp.fc1.weight"].shape[0]
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        "num_attention_heads": width // HEAD,
        "image_size": math.isqrt(weights["pos_embed"].shape[1]) * patch,  # one position is the class token's
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }
    if "blocks.0.ls1.gamma" not in weights:  # DINO; DINOv2 scales what its layers add
        return transformers.ViTModel, transformers.ViTConfig(**sizes, intermediate_size=inner)
    sizes["mlp_ratio"] = inner // width
    if "register_tokens" not in weights:
        return transformers.Dinov2Model, transformers.Dinov2Config(**sizes)
    registers = weights["register_tokens"].shape[1]
    config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers)
    return transformers.Dinov2WithRegistersModel, config


_NAMES = [
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
]
_FIRST = [
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
]
"""More names of DINO, which DINOv2 keeps."""


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names that transformers saves. A classifier's weights are left out."""
    rules = _NAMES if "blocks.0.ls1.gamma" in weights else _NAMES + _FIRST
    renamed = {}
    for key, value in weights.items():
        if key.startswith(("head.", "fc_norm.")):
            continue
        name = key
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if ".attn.qkv." not in key:
            renamed[name] = value
            continue
        for own, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
            renamed[name.replace(".attn.qkv.", f".attention.attention.{own}.")] = part
    return renamed
