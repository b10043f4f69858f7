"""What ComfyUI is handed: the list of nodes, and the one question that the front end may ask."""

from __future__ import annotations

from nvg_nodes import (
    host,
    nodes_generate,
    nodes_load,
    nodes_paint,
    nodes_stages,
    nodes_structure,
    nodes_structure_from,
    nodes_tokenize,
)
from nvg_nodes.api import ComfyExtension, io

NODES: list[type[io.ComfyNode]] = [
    nodes_load.NVGLoadModel,
    nodes_load.NVGLoadReleased,
    nodes_generate.NVGGenerate,
    nodes_generate.NVGSamplingSettings,
    nodes_tokenize.NVGTokenize,
    nodes_tokenize.NVGDecode,
    nodes_tokenize.NVGExtractStructure,
    nodes_stages.NVGStart,
    nodes_stages.NVGGenerateStructure,
    nodes_stages.NVGGenerateContentStage,
    nodes_structure_from.NVGStructureFromMask,
    nodes_structure_from.NVGStructureFromImage,
    nodes_structure_from.NVGStructureShape,
    nodes_paint.NVGPaintStructure,
    nodes_structure.NVGStructureTransform,
    nodes_structure.NVGStructureBlend,
    nodes_structure.NVGStructureSwap,
    nodes_structure.NVGStructureKeep,
    nodes_structure.NVGStructureToMask,
    nodes_structure.NVGStructureToImage,
    nodes_structure.NVGStructurePreview,
]
"""All nodes, in the order of the menu. Their ids are for ever, and their inputs are only ever appended."""

CLASSES_ADDRESS = "/nvg/classes"
"""GET ?checkpoint=NAME answers {"classes": [...]}: the list from which a class is chosen before the graph ever ran."""


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
