"""Everything that we take from ComfyUI, in one place, and what stands in for it without ComfyUI.

`current()` gives the host. ComfyUI's modules are imported where they are used, so that importing this costs nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nvg_model.errors import NVGError
from nvg_nodes.api import HOSTED

if TYPE_CHECKING:
    from PIL.Image import Image

    from nvg_model import NVG

FOLDER = "nvg"
"""Checkpoints are in the folder of this name under the host's models folder."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Precisions that a loader offers."""
_LARGE = 100_000_000
"""Models with at least this many parameters get the lower precision."""


class Networks:
    """The networks of one checkpoint, wherever they are now."""

    def __init__(self, nvg: NVG) -> None:
        self.nvg = nvg

    def ready(self, memory: int) -> NVG:
        """The networks, all on one device, ready to run. `memory`: bytes that the run itself will need."""
        return self.nvg


class Progress:
    """Counts network evaluations; called before each of them, it also ends a run that was cancelled."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def __call__(self) -> None:
        """One evaluation begins."""
        self.reach(self.done + 1, self.total)

    def reach(self, done: int, total: int) -> None:
        """So many of so many are done."""
        self.done, self.total = done, total

    def show(self, picture: Callable[[], Image]) -> None:
        """Shows a preview on the node; `picture` is called only where somebody looks."""


class Host:
    """No ComfyUI: the CPU, folders under the working directory, no previews and no cancelling."""

    def device(self) -> torch.device:
        """Where weights rest while they are not used."""
        return torch.device("cpu")

    def running_device(self) -> torch.device:
        """Where networks run."""
        return torch.device("cpu")

    def dtype(self, name: str, parameters: int) -> torch.dtype:
        """The precision that a loader's choice means: auto is float32 here. Raises NVGError for an unknown one."""
        if name not in DTYPES:
            raise NVGError(f"dtype is {name!r}; choose one of {', '.join(DTYPES)}")
        return torch.float32 if name == "auto" else getattr(torch, name)

    def networks(self, nvg: NVG) -> Networks:
        """Puts the networks into the host's care."""
        return Networks(nvg)

    def progress(self, total: int) -> Progress:
        """A progress bar of the running node."""
        return Progress(total)

    def check_cancelled(self) -> None:
        """Raises the host's exception where the user cancelled; it must never be swallowed."""

    def say(self, text: str, node_id: str | None) -> None:
        """Writes under a node."""

    def folders(self) -> list[Path]:
        """Where checkpoints are looked for."""
        return [Path("models") / FOLDER]

    def files(self, *suffixes: str) -> list[str]:
        """Names of the checkpoint files that end so, relative to their folder, sorted."""
        found = {
            (Path(place) / name).relative_to(folder).as_posix()
            for folder in self.folders()
            for place, _, names in os.walk(folder, followlinks=True)  # many keep their models elsewhere
            for name in names
            if name.endswith(suffixes)
        }
        return sorted(found)

    def path(self, name: str) -> Path | None:
        """The file of that name in one of the folders; None where there is none."""
        for folder in map(Path.absolute, self.folders()):
            for spelling in (name, name.replace("\\", "/")):  # workflows from Windows have backslashes
                path = Path(os.path.normpath(folder / spelling))  # follows no links, which may lead where they want
                with suppress(OSError, ValueError):  # no file has such a name
                    if path.is_file() and path.is_relative_to(folder):
                        return path
        return None

    def serve(self, address: str, answer: Callable[[dict[str, str]], dict[str, Any]]) -> None:
        """Answers GET requests of the front end: query in, JSON out. Nobody asks where there is no host."""


class _Holder(nn.Module):
    """What the host's ModelPatcher wraps. It writes attributes of its own (`device`) on the module that it is given."""

    def __init__(self, nvg: NVG) -> None:
        super().__init__()
        self.nvg = nvg


class _ComfyNetworks(Networks):
    def __init__(self, nvg: NVG) -> None:
        super().__init__(nvg)
        from comfy import model_management
        from comfy.model_patcher import ModelPatcher

        # Not CoreModelPatcher: with dynamic VRAM that one manages only modules built from ComfyUI's own layers. The
        # plain patcher moves whole modules there and back again, which is what ours can do.
        self._patcher = ModelPatcher(
            _Holder(nvg), model_management.get_torch_device(), model_management.unet_offload_device()
        )

    def ready(self, memory: int) -> NVG:
        from comfy import model_management

        model_management.load_models_gpu([self._patcher], memory_required=memory)
        # When memory is short the host loads what fits, and layers that are not its own cannot run half here, half
        # there: bring the rest too, and if that is too much, run where there is room.
        for device in (self._patcher.load_device, self._patcher.offload_device):
            weights = itertools.chain(self.nvg.parameters(), self.nvg.buffers())
            if all(weight.device == device for weight in weights):
                break
            try:
                self.nvg.to(device)
                break
            except model_management.OOM_EXCEPTION:
                model_management.soft_empty_cache()
        return self.nvg


class _ComfyProgress(Progress):
    def __init__(self, total: int) -> None:
        super().__init__(total)
        from comfy.utils import ProgressBar

        self._bar = ProgressBar(total)

    def reach(self, done: int, total: int) -> None:
        current().check_cancelled()
        super().reach(done, total)
        self._bar.update_absolute(done, total)

    def show(self, picture: Callable[[], Image]) -> None:
        """Makes and sends it unless the host's previews are switched off, at most as large as it wants them."""
        from comfy.cli_args import LatentPreviewMethod, args

        if args.preview_method == LatentPreviewMethod.NoPreviews:  # also where the front end's setting says so
            return
        self._bar.update_absolute(self.done, self.total, ("JPEG", picture(), args.preview_size))


class _Comfy(Host):
    """ComfyUI, 0.3.64 and newer."""

    def device(self) -> torch.device:
        from comfy import model_management

        return model_management.unet_offload_device()

    def running_device(self) -> torch.device:
        from comfy import model_management

        return model_management.get_torch_device()

    def dtype(self, name: str, parameters: int) -> torch.dtype:
        """Auto: bfloat16 for large networks on a device that computes in it, otherwise float32."""
        from comfy import model_management

        if name == "auto" and parameters >= _LARGE:
            device = model_management.get_torch_device()
            if model_management.should_use_bf16(device, model_params=parameters):
                return torch.bfloat16
        return super().dtype(name, parameters)

    def networks(self, nvg: NVG) -> Networks:
        return _ComfyNetworks(nvg)

    def progress(self, total: int) -> Progress:
        return _ComfyProgress(total)

    def check_cancelled(self) -> None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()

    def say(self, text: str, node_id: str | None) -> None:
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is not None and node_id is not None:
            server.send_progress_text(text, node_id)

    def folders(self) -> list[Path]:
        import folder_paths

        # Adds nothing where it is known already, from an earlier call or from the user's extra_model_paths.yaml.
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
        return [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]

    def serve(self, address: str, answer: Callable[[dict[str, str]], dict[str, Any]]) -> None:
        from aiohttp import web
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is not None:

            @server.routes.get(address)
            async def respond(request: web.Request) -> web.Response:
                return web.json_response(answer(dict(request.query)))


def current() -> Host:
    """The host that we run in."""
    return _Comfy() if HOSTED else Host()
