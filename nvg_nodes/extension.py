"""What ComfyUI gets: the nodes of all families, and the web route that lists a checkpoint's classes."""

from __future__ import annotations

from types import ModuleType

from nvg_nodes import (
    host,
    nodes_between,
    nodes_edit,
    nodes_generate,
    nodes_load,
    nodes_paint,
    nodes_photo,
    nodes_show,
    nodes_stages,
    nodes_structure,
    nodes_structure_from,
    nodes_tokenize,
)
from nvg_nodes.api import ComfyExtension, io

FAMILIES = (
    nodes_load,
    nodes_generate,
    nodes_edit,
    nodes_between,
    nodes_show,
    nodes_tokenize,
    nodes_photo,
    nodes_stages,
    nodes_structure_from,
    nodes_paint,
    nodes_structure,
)
"""The files of nodes, in the order of the menu."""


def _nodes_of(family: ModuleType) -> list[type[io.ComfyNode]]:
    """The nodes that a file defines, in its order."""
    classes = [one for one in vars(family).values() if isinstance(one, type) and one.__module__ == family.__name__]
    return [one for one in classes if issubclass(one, io.ComfyNode)]


NODES = [node for family in FAMILIES for node in _nodes_of(family)]
"""All nodes. Their ids never change, and inputs are only appended."""

CLASSES_ADDRESS = "/nvg/classes"
"""GET ?checkpoint=NAME answers {"classes": [...]}: the classes to choose from before the graph has run."""


class NVGExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        host.current().serve(CLASSES_ADDRESS, lambda query: nodes_load.classes_of(query.get("checkpoint", "")))
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI once, when it loads the pack."""
    return NVGExtension()


def catalogue() -> dict[str, dict[str, object]]:
    """The nodes' part of the host's `/object_info`, by node id."""
    return {info["name"]: info for info in (node.GET_NODE_INFO_V1() for node in NODES)}
