"""Nodes that load checkpoints, and what the front end may ask about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import nvg_model
from nvg_model import NVG, NVGError
from nvg_model.errors import UnreachableError, shortened
from nvg_nodes import host
from nvg_nodes.api import advanced, io, schema, words
from nvg_nodes.sockets import MAIN, NVGModel
from nvg_nodes.types import Model

OURS = (".safetensors",)
RELEASED = (".ckpt", ".pt", ".pth", ".safetensors")
NO_GENERATOR = "none (tokenizer only)"
NO_FILE = "none: put checkpoints into models/nvg"
"""Stands in an empty list, so that the node still has a value there."""


def _dtype_input() -> io.Input:
    return io.Combo.Input(
        "dtype",
        options=[*host.DTYPES],
        default="auto",
        tooltip="Precision of the weights. auto: float32, but bfloat16 for large models on a GPU that computes in it.",
    )


def _compile_input() -> io.Input:
    return advanced(
        io.Boolean.Input(
            "compile",
            optional=True,
            default=False,
            tooltip="Compile the networks with torch.compile: the first picture takes a minute or more, later ones "
            "less time than without, on a GPU above all. The pictures are the same but for rounding. Needs a compiler.",
        )
    )


def _outputs() -> list[io.Output]:
    return [
        NVGModel.Output(display_name="model", tooltip="The loaded model: tokenizer, generators, class names."),
        io.String.Output(
            display_name="classes",
            tooltip="Names of all classes, one a line. Connected to a class_name, it draws one image of each.",
        ),
    ]


class NVGLoadModel(io.ComfyNode):
    """A checkpoint in our format: embedded, a file, or from the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGLoadModel",
            display_name="NVG Load Model",
            category=MAIN,
            description="Loads an NVG checkpoint: one that comes with the nodes, a file in models/nvg, or one from the "
            "Hugging Face hub.",
            search_aliases=words("nvg, next visual granularity, load checkpoint, emoji64"),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoints(),
                    tooltip="A checkpoint that comes with the nodes (by name), or a .safetensors file in models/nvg.",
                ),
                _dtype_input(),
                advanced(
                    io.String.Input(
                        "hub_id",
                        optional=True,
                        default="",
                        tooltip="owner/name or owner/name@revision on the Hugging Face hub. When filled in, it is used "
                        "instead of the checkpoint above, and downloaded when the graph runs, once.",
                    )
                ),
                _compile_input(),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool:
        """Takes the host's own check of the list away: `execute` says better what is wrong, and a hub id may win."""
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, hub_id: str | None = "", **others: Any) -> str:
        """Changes when the file does."""
        return hub_id or _stamp(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, dtype: str, hub_id: str = "", compile: bool = False) -> io.NodeOutput:
        """Loads it onto the device where weights rest; the host brings it to the GPU when it runs."""
        here = host.current()
        name = hub_id.strip() or checkpoint
        source = _downloaded(name, here) if hub_id.strip() else _find(name)
        parameters = nvg_model.info(source)["parameters"]
        with torch.inference_mode(False):  # the host's mode would leave weights that run in no other
            nvg = nvg_model.load(source, here.device(), here.dtype(dtype, parameters))
        return _loaded(nvg, name, cls.hidden.unique_id, compile)


class NVGLoadReleased(io.ComfyNode):
    """The authors' released files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.current().files(*RELEASED)
        return schema(
            node_id="NVGLoadReleased",
            display_name="NVG Load Released Checkpoints",
            category=MAIN,
            description="Loads the released files of the NVG authors (ae.ckpt with d16.ckpt, d20.ckpt or d24.ckpt), "
            "which you fetch yourself and put into models/nvg. Only tensors are read from them, never code.",
            search_aliases=words("nvg, imagenet, ae.ckpt, d16.ckpt, released weights"),
            inputs=[
                io.Combo.Input(
                    "autoencoder", options=files or [NO_FILE], tooltip="The autoencoder's file, such as ae.ckpt."
                ),
                io.Combo.Input(
                    "generator",
                    options=[NO_GENERATOR, *files],
                    tooltip="The generators' file, such as d16.ckpt; without one the model only tokenizes and decodes.",
                ),
                io.Boolean.Input(
                    "ema", default=True, tooltip="Take the generators' averaged weights, where the file has them."
                ),
                advanced(
                    io.Boolean.Input(
                        "autoencoder_ema",
                        default=False,
                        tooltip="Take the autoencoder's averaged weights. The released generators were trained on the "
                        "plain ones.",
                    )
                ),
                _dtype_input(),
                _compile_input(),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, autoencoder: str | None, generator: str | None) -> bool:
        """As for NVGLoadModel."""
        return True

    @classmethod
    def fingerprint_inputs(cls, autoencoder: str | None, generator: str | None, **others: Any) -> str:
        """Changes when one of the files does."""
        return f"{_stamp(autoencoder)} {_stamp(generator)}"

    @classmethod
    def execute(
        cls, autoencoder: str, generator: str, ema: bool, autoencoder_ema: bool, dtype: str, compile: bool = False
    ) -> io.NodeOutput:
        """Loads both files as one model."""
        here = host.current()
        paths = [_file(name) for name in (autoencoder, generator) if name != NO_GENERATOR]
        # In float32 a parameter has four bytes; the files also hold averaged copies, so this errs towards large.
        precision = here.dtype(dtype, sum(path.stat().st_size for path in paths) // 8)
        generator_path = paths[1] if len(paths) > 1 else None
        with torch.inference_mode(False):
            nvg = nvg_model.load_released(paths[0], generator_path, ema, autoencoder_ema, here.device(), precision)
        return _loaded(nvg, " + ".join(path.name for path in paths), cls.hidden.unique_id, compile)


def checkpoints() -> list[str]:
    """What NVGLoadModel offers: embedded names first."""
    return [*nvg_model.embedded(), *host.current().files(*OURS)] or [NO_FILE]


def classes_of(checkpoint: str) -> dict[str, Any]:
    """What the front end asks about a checkpoint: {"classes": [...], "grid": [h, w]}, or why it cannot tell."""
    try:
        info = nvg_model.info(_find(checkpoint))
        return {"classes": info["classes"], "grid": list(nvg_model.NVGConfig.from_dict(info["config"]).grid)}
    except NVGError as error:
        return {"classes": [], "error": str(error)}


def _find(name: str) -> str | Path:
    """An embedded name as it is, else the path of a file. Raises NVGError where there is none."""
    return name if name in nvg_model.embedded() else _file(name)


def _file(name: str) -> Path:
    """The path of a file in models/nvg. Raises NVGError where there is none."""
    path = host.current().path(name)
    if path is None:
        folders = " or ".join(map(str, host.current().folders()))
        raise NVGError(f"there is no checkpoint {name!r} in {folders}; put the file there, or choose another")
    return path


def _stamp(name: str | None) -> str:
    """Name, time and size of a checkpoint; the name alone where there is no such file."""
    path = host.current().path(name) if name else None
    if path is None:
        return str(name)
    status = path.stat()
    return f"{path}:{status.st_mtime_ns}:{status.st_size}"


def _downloaded(hub_id: str, here: host.Host) -> Path:
    """A hub checkpoint's file, downloaded with progress on the node where it is not there yet; it can be cancelled."""
    bar = here.progress(1)
    try:
        return nvg_model.download(hub_id, lambda done, total: bar.reach(done, total or done))
    except UnreachableError as error:
        repository = hub_id.partition("@")[0]
        raise UnreachableError(
            f"{repository} is not in the local cache and the hub cannot be reached; where there is a network, download "
            f"model.safetensors from https://huggingface.co/{repository}, put it into {here.folders()[0]} under a name "
            "of its own, press R, choose it as checkpoint and empty hub_id"
        ) from error


def _loaded(nvg: NVG, name: str, node_id: str | None, compile: bool) -> io.NodeOutput:
    here = host.current()
    if compile:
        nvg.compile(device=here.running_device())
    here.say(_summary(nvg, name), node_id)
    return io.NodeOutput(Model(name, here.networks(nvg)), "\n".join(nvg.classes))


def _summary(nvg: NVG, name: str) -> str:
    """One line about a model, to be shown under the node."""
    height, width = nvg.config.image_size
    dtype = next(nvg.parameters()).dtype
    words = [name, f"{width} x {height}", f"{nvg.config.num_stages} stages", f"{len(nvg.classes)} classes"]
    words.append(str(dtype).removeprefix("torch."))
    for key in ("revision", "licence"):
        stated = str(nvg.provenance.get(key) or "none")
        if stated.casefold() != "none":
            words.append(f"{key} {shortened(stated)}")
    return " · ".join(words)
