"""What ComfyUI is handed: the list of nodes, and the one question that the front end may ask."""

from __future__ import annotations

from nvg_nodes import decode, generate, host, loaders, paint, stages, structure, structure_sources, tokens
from nvg_nodes.api import ComfyExtension, io

NODES: list[type[io.ComfyNode]] = [
    loaders.NVGLoadModel,
    loaders.NVGLoadReleased,
    generate.NVGGenerate,
    generate.NVGSamplingSettings,
    tokens.NVGTokenize,
    decode.NVGDecode,
    tokens.NVGExtractStructure,
    stages.NVGStart,
    stages.NVGGenerateStructure,
    stages.NVGGenerateContentStage,
    structure_sources.NVGStructureFromMask,
    structure_sources.NVGStructureFromImage,
    structure_sources.NVGStructureShape,
    paint.NVGPaintStructure,
    structure.NVGStructureTransform,
    structure.NVGStructureBlend,
    structure.NVGStructureSwap,
    structure.NVGStructureKeep,
    structure.NVGStructureToMask,
    structure.NVGStructureToImage,
    structure.NVGStructurePreview,
]
"""All nodes, in the order of the menu. Their ids are for ever, and their inputs are only ever appended."""

CLASSES_ADDRESS = "/nvg/classes"
"""GET ?checkpoint=NAME answers {"classes": [...]}: the list from which a class is chosen before the graph ever ran."""


class NVGExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        host.current().serve(CLASSES_ADDRESS, lambda query: loaders.classes_of(query.get("checkpoint", "")))
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI once, when it loads the pack."""
    return NVGExtension()


def catalogue() -> dict[str, dict[str, object]]:
    """The nodes' part of the host's `/object_info`, by node id."""
    return {info["name"]: info for info in (node.GET_NODE_INFO_V1() for node in NODES)}
