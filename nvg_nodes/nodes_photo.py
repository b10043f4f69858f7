"""The photo that comes with the pack: a template cannot bring a file into the host's input folder.

Shapes: IMAGE [B,H,W,3] and MASK [B,H,W], both in [0,1].
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from nvg_model import NVGError
from nvg_nodes import images
from nvg_nodes.api import io, schema, words
from nvg_nodes.sockets import MAIN

FOLDER = Path(__file__).parent / "photos"
PHOTOS = ("astronaut",)
"""Files of `FOLDER` without their ending. Astronaut: Eileen Collins, by NASA, in the public domain."""


class NVGExamplePhoto(io.ComfyNode):
    """Photo of the pack -> picture and subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGExamplePhoto",
            display_name="NVG Example Photo",
            category=MAIN,
            description="A photo that comes with the nodes, and a mask of its subject, to try what needs both. Put Load"
            " Image and a mask of your own in its place.",
            search_aliases=words("nvg, sample image, test image, load image, astronaut, portrait"),
            inputs=[
                io.Combo.Input(
                    "photo",
                    options=list(PHOTOS),
                    default=PHOTOS[0],
                    tooltip="Which one. astronaut: head and shoulders.",
                )
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The photo as it is, with its background."),
                io.Mask.Output(display_name="subject", tooltip="1 on the subject, 0 on the background."),
            ],
        )

    @classmethod
    def execute(cls, photo: str) -> io.NodeOutput:
        """One picture and one mask. Raises NVGError where the pack lacks the file."""
        try:
            with Image.open(FOLDER / f"{photo}.webp") as opened:
                picture = opened.convert("RGBA")
        except OSError as error:
            raise NVGError(f"the photo {photo!r} cannot be read ({error}); install the nodes again") from error
        return io.NodeOutput(images.from_pil([picture.convert("RGB")]), images.from_pil([picture.getchannel("A")]))
