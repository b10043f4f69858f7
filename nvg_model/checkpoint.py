"""Reading and writing checkpoints: our single safetensors file, the hub, and the released Lightning files.

Ours holds every weight, and in its metadata the format version, configuration, class names, sampling defaults,
licence and provenance. Reading makes the model on the meta device and assigns the tensors, so that memory is needed
once; nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nvg_model import files, foreign
from nvg_model.config import NVGConfig
from nvg_model.errors import CheckpointError, shortened
from nvg_model.hub import HUB_FILE, HUB_ID, download
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings

FORMAT, VERSION = "nvg", "1"
_OTHERS = {
    "nvgformer.": "released NVG weights: use load_released",
    "ema_model.nvgformer.": "released NVG weights: use load_released",
    "lora_": "it is a LoRA of another model",
    "base_model.model.": "it is a LoRA of another model",
    "control_model.": "it is a ControlNet",
    "controlnet_": "it is a ControlNet",
    "model.diffusion_model.double_blocks.": "it is a FLUX checkpoint",
    "double_blocks.": "it is a FLUX model",
    "model.diffusion_model.joint_blocks.": "it is a Stable Diffusion 3 checkpoint",
    "model.diffusion_model.input_blocks.": "it is a Stable Diffusion checkpoint",
    "model.diffusion_model.": "it is a checkpoint of another diffusion model",
    "cond_stage_model.": "it is a Stable Diffusion checkpoint",
    "conditioner.embedders.": "it is a Stable Diffusion checkpoint",
    "first_stage_model.": "it is a Stable Diffusion VAE",
    "down_blocks.": "it is a Stable Diffusion network of diffusers",
    "text_model.": "it is a CLIP text encoder",
}
"""What files of other models hold, by the beginning of a weight's name; the first that is found counts."""


def embedded() -> tuple[str, ...]:
    """Names of the checkpoints that come with the package."""
    folder = resources.files("nvg_model") / "weights"
    if not folder.is_dir():
        return ()
    return tuple(sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".safetensors")))


def load(
    name: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
) -> NVG:
    """Loads a checkpoint in our format.

    Args:
        name: an embedded name ("emoji64"), a .safetensors file, a folder with model.safetensors, or a hub id
            ("owner/name" or "owner/name@revision").
        device, dtype: of the weights (float32, bfloat16 or float16).
        compile: compile the generators at their first use (`NVG.compile`); the results are equal but for rounding.
    Raises:
        CheckpointError: nothing there, truncated, another kind of file, missing or unexpected weights, NaN.
        NVGError: there is nothing that compiles, or no generator.
    """
    path = _find(str(name))
    weights, metadata = _read(path, torch.device(device), _float_type(dtype))
    config, classes, settings, provenance = _describe(metadata, path)
    model = build(config, weights, classes, settings, str(path))
    model.provenance = {**provenance, "file": str(path)}
    model.preview_map = _preview_map(metadata, config, path)
    if compile:
        model.compile()
    return model


def info(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything that a checkpoint's metadata says, without reading the weights. Raises CheckpointError."""
    path = _find(str(name))
    with _open(path) as file:
        keys = list(file.keys())
        _check_format(file.metadata() or {}, path, keys)
        config, classes, settings, provenance = _describe(file.metadata() or {}, path)
        shapes = [file.get_slice(key).get_shape() for key in keys]
    return {
        "file": str(path),
        "parameters": sum(int(torch.Size(shape).numel()) for shape in shapes),
        "config": config.to_dict(),
        "classes": list(classes),
        "settings": dataclasses.asdict(settings),
        "provenance": provenance,
    }


def save(
    model: NVG, path: str | os.PathLike[str], provenance: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Writes a model in our format: to a temporary file, then renamed, so that it is whole or not there.

    Args:
        provenance: licence, training command and the like; the model's own by default.
        dtype: precision of the stored weights; as they are by default.
    Raises:
        CheckpointError: the file cannot be written (a full disk, no permission); nothing is left behind.
    """
    path = Path(path)
    weights = {name: cast(name, one.detach(), "cpu", dtype).contiguous() for name, one in model.state_dict().items()}
    kept = {key: value for key, value in (provenance or model.provenance).items() if key != "file"}
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        "config": json.dumps(model.config.to_dict()),
        "classes": json.dumps(model.classes),
        "settings": json.dumps(model.settings.to_dict()),
        "provenance": json.dumps(kept),
    }
    if model.preview_map is not None:
        metadata["preview"] = json.dumps([[round(value, 6) for value in row] for row in model.preview_map.tolist()])
    try:
        with files.replacing(path) as partial:
            partial.touch()
            mode = partial.stat().st_mode
            save_file(weights, partial, metadata)
            partial.chmod(mode)  # safetensors makes files that only their owner can read
    except (OSError, SafetensorError) as error:
        message = f"{path} could not be written ({error}); free some room or choose another place"
        raise CheckpointError(message) from error
    return path


def build(
    config: NVGConfig, weights: dict[str, Tensor], classes: tuple[str, ...], settings: SamplingSettings, source: str
) -> NVG:
    """A model in evaluation mode whose parameters are the given tensors themselves. Raises CheckpointError."""
    try:
        with torch.device("meta"):
            model = NVG(config, classes, settings)
    except (ValueError, TypeError) as error:  # NVGError is a ValueError; torch raises both for impossible sizes
        raise CheckpointError(f"{source}: {error}") from error
    expected = model.state_dict()
    _complain_about_keys(expected.keys() - weights.keys(), weights.keys() - expected.keys(), source)
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(value.shape)}, but the configuration needs "
                f"{list(expected[name].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{source}: {name} holds NaN or infinity; the training failed or the file is damaged")
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _complain_about_keys(missing: set[str], unexpected: set[str], source: str) -> None:
    if not missing and not unexpected:
        return
    parts = []
    for kind, keys in (("misses", missing), ("has the unexpected", unexpected)):
        if keys:
            named = ", ".join(sorted(keys)[:4])
            parts.append(f"{kind} {len(keys)} weight{'s' * (len(keys) > 1)} ({named}{', ...' * (len(keys) > 4)})")
    raise CheckpointError(f"{source} {' and '.join(parts)}; it was written for another model or is incomplete")


def _float_type(dtype: torch.dtype) -> torch.dtype:
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise CheckpointError(f"dtype {dtype} is not supported; use float32, bfloat16 or float16")
    return dtype


def _find(name: str) -> Path:
    """The file that a name stands for; a hub id is downloaded (resumably) into the hub's cache."""
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            path = path / HUB_FILE
        if path.is_file():
            return path
    except OSError as error:
        raise CheckpointError(f"{name!r} cannot be looked up ({error.strerror}); check the name") from error
    if name in embedded():
        return Path(str(resources.files("nvg_model") / "weights" / f"{name}.safetensors"))
    if HUB_ID.fullmatch(name) and not name.endswith((".safetensors", ".ckpt", ".pt")):
        return download(name)
    raise CheckpointError(
        f"there is no checkpoint {name!r}: not a file, not a hub id (owner/name), and not embedded "
        f"({', '.join(embedded()) or 'none is'})"
    )


def _open(path: Path) -> Any:
    if path.suffix in (".ckpt", ".pt", ".pth"):
        raise CheckpointError(
            f"{path} is not a safetensors file; for released checkpoints use load_released or nvg convert"
        )
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        if other := foreign.kind_of(path):
            raise CheckpointError(f"{path} is not a safetensors file: it is {other}") from error
        raise CheckpointError(f"{path} is damaged, truncated or not a safetensors file ({error})") from error


def _read(path: Path, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _open(path) as file:
        metadata = file.metadata() or {}
        _check_format(metadata, path, list(file.keys()))
        try:
            weights = {key: cast(key, file.get_tensor(key), device, dtype) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{path} could not be read ({error})") from error
    return weights, metadata


def cast(name: str, value: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    """A weight where and as it is wanted; the canvas scales stay in float32, as everything hangs on them."""
    wanted = torch.float32 if name.endswith("canvas_scales") else dtype
    return value.to(device, wanted if value.is_floating_point() else None)


def _preview_map(metadata: dict[str, str], config: NVGConfig, path: Path) -> Tensor | None:
    """The map [C+1,3] from latent to colour; None where the checkpoint has none, and it is fitted when needed."""
    if "preview" not in metadata:
        return None
    try:
        colours = torch.tensor(json.loads(metadata["preview"]), dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: preview is no table of numbers ({error})") from error
    wanted = [config.autoencoder.latent_channels + 1, 3]
    if list(colours.shape) != wanted or not bool(torch.isfinite(colours).all()):
        raise CheckpointError(f"{path}: preview has shape {list(colours.shape)}; it must be {wanted} and finite")
    return colours


def held_by(keys: Sequence[str]) -> str:
    """What weights of these names are, in a few words: other models that people have lying around, or the first name.

    A file with the metadata of ours removed has none of these names, so it goes by its first weight.
    """
    for start, kind in _OTHERS.items():
        if any(key.startswith(start) for key in keys):
            return kind
    return f"its first weight is {shortened(keys[0])!r}" if keys else "it holds no weights"


def _check_format(metadata: dict[str, str], path: Path, keys: list[str]) -> None:
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise CheckpointError(f"{path} is not an NVG checkpoint ({held_by(keys)})")
    if metadata.get("format_version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {metadata.get('format_version')}; this nvg reads version {VERSION}: update nvg"
        )


def _describe(
    metadata: dict[str, str], path: Path
) -> tuple[NVGConfig, tuple[str, ...], SamplingSettings, dict[str, Any]]:
    """Configuration, class names, sampling defaults and provenance of the metadata."""
    try:
        config = NVGConfig.from_dict(json.loads(metadata["config"]))
        settings = SamplingSettings(**json.loads(metadata.get("settings", "{}")))
        classes = tuple(json.loads(metadata.get("classes", "[]")))
        provenance = dict(json.loads(metadata.get("provenance", "{}")))
    except (ValueError, TypeError, KeyError) as error:  # NVGError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{path}: {error}") from error
    revision = re.search(r"snapshots/([0-9a-f]{40})/", str(path))
    return config, classes, settings, provenance | ({"revision": revision[1]} if revision else {})
