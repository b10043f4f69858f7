"""Nodes that edit: regions with classes of their own.

Shapes: MASK [B,H,W] in [0,1].
"""

from __future__ import annotations

from torch import Tensor

from nvg_model import NVGError, Region
from nvg_nodes import images, layout
from nvg_nodes.api import io, schema, words
from nvg_nodes.nodes_generate import parse_classes
from nvg_nodes.sockets import MAIN, NVGRegions, class_input, fit_input, model_input
from nvg_nodes.types import Model, Regions

AS_SETTINGS = -1.0
"""The guidance that means that of the settings."""


class NVGRegion(io.ComfyNode):
    """Mask and class -> regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGRegion",
            display_name="NVG Region",
            category=MAIN,
            description="Gives a part of the picture a class of its own. Chain several through regions, and connect "
            "the last one to NVG Generate or NVG Inpaint, whose class_name is drawn everywhere else.",
            search_aliases=words(
                "nvg, regional, regional prompt, area, mask, conditioning set mask, attention couple, latent couple, "
                "composition, layout, control, edit"
            ),
            inputs=[
                model_input(),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the class is drawn. Soft values mix it with what is below. A batch has one mask for "
                    "every picture.",
                ),
                class_input("What to draw there: the name of one class of the model, or its number."),
                io.Float.Input(
                    "guidance",
                    default=AS_SETTINGS,
                    min=AS_SETTINGS,
                    max=100.0,
                    step=0.05,
                    tooltip="How strongly the content there follows the class, at every stage. -1: as everywhere.",
                ),
                fit_input("a mask"),
                NVGRegions.Input(
                    "regions", optional=True, tooltip="Regions before this one. Their masks must not overlap with it."
                ),
            ],
            outputs=[NVGRegions.Output(display_name="regions", tooltip="Those before, and this one.")],
        )

    @classmethod
    def execute(
        cls, model: Model, mask: Tensor, class_name: str, guidance: float, fit: str, regions: Regions | None = None
    ) -> io.NodeOutput:
        """One more region."""
        framed = layout.framed(images.checked_mask(mask)[:, None], model.config.image_size, fit)[:, 0]
        own = None if guidance == AS_SETTINGS else guidance
        region = Region(framed, one_class(model, class_name), own)
        return io.NodeOutput(Regions((*(regions or Regions()).items, region)))


def one_class(model: Model, text: str) -> str | None:
    """The name of the one class that a text names; None for the null class. Raises NVGError."""
    found = parse_classes(model.nvg, text).tolist()
    if len(found) != 1:
        raise NVGError(f"a region has one class, and class_name names {len(found)}; add an NVG Region for each")
    return model.classes[found[0]] if found[0] < len(model.classes) else None
