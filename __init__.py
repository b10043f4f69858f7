"""NVG for ComfyUI: the entry point that ComfyUI loads, under whatever name the folder has.

It makes `nvg_model` and `nvg_nodes` importable by these names without putting the folder on sys.path, where its
`training` and `tests` would stand in the way of other packs' folders of the same names.
"""

import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _provide(name: str) -> None:
    """Imports the package of this folder by its name; raises ImportError where another copy was there first."""
    there = sys.modules.get(name)
    if there is not None:
        if Path(there.__file__ or "").resolve().parent != _HERE / name:
            raise ImportError(f"another copy of NVG is loaded already, from {there.__file__}; keep only one of the two")
        return
    folder = _HERE / name
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


for _package in ("nvg_model", "nvg_nodes"):
    _provide(_package)

from nvg_nodes.extension import comfy_entrypoint  # noqa: E402 (importable only now)

WEB_DIRECTORY = "./nvg_nodes/web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
