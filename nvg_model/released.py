"""The authors' released checkpoints: names of their tensors, and the sizes that the tensors imply.

Only tensors are read, with `weights_only=True`. See nvg-method section 7 for the names.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from nvg_model import foreign
from nvg_model.checkpoint import build, cast, held_by
from nvg_model.config import AutoencoderConfig, GeneratorConfig, NVGConfig
from nvg_model.errors import CheckpointError, shortened
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings

Weights = dict[str, Tensor]

LICENCE = "S-Lab License 1.0 (non-commercial); weights by the authors of NVG, read from the user's own files"


def load_released(
    autoencoder: str | os.PathLike[str],
    generator: str | os.PathLike[str] | None = None,
    ema: bool = True,
    autoencoder_ema: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NVG:
    """Loads the authors' files (Lightning .ckpt, or the same tensors as .safetensors); sizes come from the tensors.

    Args:
        autoencoder: `ae.ckpt`.
        generator: `d16.ckpt` and the like; None for the tokenizer alone.
        ema: the averaged weights of the generator, where the file has them.
        autoencoder_ema: the averaged weights of the autoencoder; the released generators were trained on the plain
            ones.
    Raises:
        CheckpointError: not readable without running code, another kind of file, missing or unexpected tensors.
    """
    ours = _select(_read(autoencoder), "encoder.conv_in.conv.weight", "", autoencoder_ema, autoencoder)
    ours = {key: value for key, value in ours.items() if key.startswith(("encoder.", "decoder.", "quantize."))}
    theirs: Weights = {}
    if generator is not None:
        theirs = _select(_read(generator), "content_embed.weight", "nvgformer.", ema, generator)
        theirs = {key: value for key, value in theirs.items() if not key.startswith("projector.")}
    source = " + ".join(str(path) for path in (autoencoder, generator) if path)
    config = _infer_config(ours, theirs, source)
    theirs.pop("rope_ids", None)  # computed here
    weights = _rename(ours, _autoencoder_names(ours)) | _rename(_join_scales(theirs), _GENERATOR_NAMES)
    weights = {name: cast(name, value, device, dtype) for name, value in weights.items()}
    model = build(config, weights, (), SamplingSettings(), source)
    model.provenance = {"licence": LICENCE, "source": source, "ema": ema, "autoencoder_ema": autoencoder_ema}
    return model


def _read(file: str | os.PathLike[str]) -> Weights:
    """The tensors of a file. A pickle is read by a reader that knows tensors only: code in it cannot run."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; download the released checkpoint and pass its path")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            # What torch wrote before 1.6 is no zip archive, and cannot be mapped into memory.
            zipped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if found := _refused(error):
            raise CheckpointError(
                f"{path} holds more than tensors: it refers to {found}; it was not opened, as that could run code"
            ) from error
        raise CheckpointError(f"{path} is {_other(path)} ({_first_line(error)})") from error
    except Exception as error:  # damaged pickles make the reader raise nearly anything
        raise CheckpointError(f"{path} is {_other(path)} ({_first_line(error)})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = (
        {key: value for key, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    )
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; it is not a released NVG checkpoint")
    return tensors


def _refused(error: Exception) -> str | None:
    """The class or function that the restricted reader refused; None where it stopped for another reason."""
    found = re.search(r"(?:GLOBAL|Unsupported (?:global|class)[^\w]*)\s*(?:GLOBAL\s+)?([\w.]+)", str(error))
    return found[1] if found else None


def _other(path: Path) -> str:
    """What a file is that is no checkpoint."""
    known = foreign.kind_of(path)
    return known if known and "PyTorch" not in known else "damaged, truncated or not a checkpoint"


def _first_line(error: Exception) -> str:
    return shortened((str(error).strip() or type(error).__name__).splitlines()[0], 120)


def _select(weights: Weights, marker: str, plain: str, ema: bool, file: str | os.PathLike[str]) -> Weights:
    """The plain or the averaged copy, without its prefix; where the wanted copy is missing, the other."""
    averaged = f"ema_model.{plain}"
    order = (averaged, plain, "") if ema else (plain, averaged, "")
    for prefix in order:
        if prefix + marker in weights:
            return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    raise CheckpointError(
        f"{file} is not the expected released checkpoint: it has no {marker!r}, {held_by(list(weights))}"
    )


def _infer_config(ours: Weights, theirs: Weights, source: str) -> NVGConfig:
    """The configuration that the tensors imply."""
    try:
        base = ours["encoder.conv_in.conv.weight"].shape[0]
        levels = _count(ours, r"encoder\.down\.(\d+)\.")
        widths = [ours[f"encoder.down.{i}.block.0.conv2.conv.weight"].shape[0] for i in range(levels)]
        codes, channels = ours["quantize.embedding.weight"].shape
        splits = _count(ours, r"quantize\.quant_resi\.(\d+)\.") - 1
        autoencoder = AutoencoderConfig(
            base_channels=base,
            channel_multipliers=tuple(width // base for width in widths),
            residual_blocks=_count(ours, r"encoder\.down\.0\.block\.(\d+)\."),
            latent_channels=channels,
            codebook_size=codes,
        )
        rows, columns = 2 ** (splits // 2), 2 ** (splits - splits // 2)
        if "rope_ids" in theirs:  # its last two columns are row and column; the class token comes first
            rows, columns = (int(side) + 1 for side in theirs["rope_ids"][0, 1:, -2:].amax(0))
        factor = autoencoder.downsampling
        return NVGConfig((rows * factor, columns * factor), autoencoder, _generator_config(theirs) if theirs else None)
    except KeyError as error:
        raise CheckpointError(f"{source} misses the weight {error}; it was written for another model") from error


def _generator_config(theirs: Weights) -> GeneratorConfig:
    return GeneratorConfig(
        num_classes=theirs["content_class_embed.weight"].shape[0] - 1,
        content_depth=_count(theirs, r"content_blocks\.(\d+)\."),
        content_width=theirs["content_embed.weight"].shape[0],
        structure_depth=_count(theirs, r"structure_blocks\.(\d+)\."),
        structure_width=theirs["structure_embed.weight"].shape[0],
    )


def _count(weights: Weights, pattern: str) -> int:
    """One more than the largest index that the pattern finds in a name; 0 where it finds none."""
    return max((int(found[1]) + 1 for key in weights if (found := re.match(pattern, key))), default=0)


def _join_scales(theirs: Weights) -> Weights:
    """The two scales of query and key become one tensor [2,64]."""
    joined = dict(theirs)
    for key in [key for key in theirs if key.endswith("norm.query_norm.scale")]:
        other = key.replace("query_norm", "key_norm")
        if other in joined:
            joined[key.replace("norm.query_norm.scale", "qk_scale")] = torch.stack([joined.pop(key), joined.pop(other)])
    return joined


def _rename(weights: Weights, names: list[tuple[str, str]]) -> Weights:
    """Our names. A name that no rule knows keeps its own, and is then reported as unexpected."""
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _autoencoder_names(ours: Weights) -> list[tuple[str, str]]:
    """The rules, with those that depend on the number of levels and blocks."""
    blocks, levels = (_count(ours, rf"encoder\.down\.{level}") for level in (r"0\.block\.(\d+)\.", r"(\d+)\."))
    # Their decoder counts its levels from the finest, ours runs from the coarsest.
    order = [(rf"^decoder\.up\.{level}\.", f"decoder.levels.{levels - 1 - level}.") for level in range(levels)]
    return [*order, (r"\.downsample\.", f".{blocks}."), (r"\.upsample\.", f".{blocks + 1}."), *_AUTOENCODER_NAMES]


_AUTOENCODER_NAMES = [
    (r"\.(conv|norm)\.(weight|bias)$", r".\2"),  # their layers are wrapped once more
    (r"^encoder\.down\.", "encoder.levels."),
    (r"\.block\.", "."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.mid\.block_1\.", ".middle.0."),
    (r"\.mid\.block_2\.", ".middle.1."),
    (r"\.conv_in\.", ".stem."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"^quantize\.embedding\.weight$", "quantizer.codebook"),
    (r"^quantize\.quant_resi\.", "quantizer.refiners."),
    (r"^", "tokenizer."),
]
_GENERATOR_NAMES = [
    (r"\.modulation\.lin\.", ".modulation."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"\.linear1\.", ".linear_in."),
    (r"\.linear2\.", ".linear_out."),
    (r"^(content|structure)_blocks\.", r"\1.transformer.blocks."),
    (r"^x0_head\.", "content.transformer.final."),
    (r"^structure_head\.", "structure.transformer.final."),
    (r"^cls_head\.linear\.", "content.code_head."),
    (r"^content_start_embed$", "content.start_canvas"),
    (r"^scale_factors$", "content.canvas_scales"),
    (r"^(content|structure)_(class|stage)_embed\.", r"\1.\2_embedding."),
    (r"^content_embed\.", "content.canvas_in."),
    (r"^structure_embed\.", "structure.structure_in."),
    (r"^structure_content_cond_embed\.", "structure.canvas_in."),
    (r"^structure_time_embed\.in_layer\.", "structure.time_mlp.0."),
    (r"^structure_time_embed\.out_layer\.", "structure.time_mlp.2."),
]
