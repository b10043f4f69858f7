"""Socket types, menu categories, and the inputs and outputs that several families of nodes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nvg_model import VisualGranularitySequence, areas, render
from nvg_model.generation import NO_CLASS
from nvg_nodes import images
from nvg_nodes.api import advanced, io, once_absent
from nvg_nodes.types import Model, Regions, Settings, Structure, check_sequence

NVGModel = io.Custom("NVG_MODEL")
NVGStructure = io.Custom("NVG_STRUCTURE")
NVGSequence = io.Custom("NVG_SEQUENCE")
NVGState = io.Custom("NVG_STATE")
NVGSettings = io.Custom("NVG_SETTINGS")
NVGRegions = io.Custom("NVG_REGIONS")

MAIN, STRUCTURE, BY_STAGE = "NVG", "NVG/structure", "NVG/stage by stage"
"""Categories of the menu."""
SEEDS = 2**64 - 1
"""The largest seed."""


def model_input() -> io.Input:
    """The socket of the model."""
    return NVGModel.Input("model", tooltip="The model, from NVG Load Model.")


def picture_inputs() -> list[io.Input]:
    """A picture to take apart, and how it is fitted."""
    return [
        io.Image.Input("image", tooltip="One or more pictures of any size with 1, 3 or 4 channels."),
        io.Combo.Input(
            "fit",
            options=list(render.PICTURE_FITS),
            default="crop",
            tooltip="How a picture of another size is fitted to the model's: crop (fill, and cut what sticks out), pad "
            "(keep all, with a margin), stretch (change the aspect) or subject (what is not transparent, in the "
            "middle and as large as the model knows it).",
        ),
    ]


def subject_input() -> io.Input:
    """What of a picture counts."""
    return io.Mask.Input(
        "subject",
        optional=True,
        tooltip="1 on the subject of a photo; the rest becomes white, as the embedded model knows it. From any "
        "segmentation node, or painted. With fit 'subject' it is also brought to the size that the model knows.",
    )


def fit_input(what: str) -> io.Input:
    """How something of another size becomes the model's."""
    return io.Combo.Input(
        "fit",
        options=list(render.FITS),
        default="crop",
        tooltip=f"How {what} of another size is fitted to the model's: crop (fill, and cut what sticks out), pad (keep "
        "all, with a margin) or stretch (change the aspect).",
    )


def class_input(what: str) -> io.Input:
    """The field of a class; the front end adds the list of the model that the node gets."""
    return io.String.Input("class_name", default="heart", tooltip=f"{what} '{NO_CLASS}' draws anything.")


def request_inputs() -> list[io.Input]:
    """What every generation begins with: model, class, seed, number of pictures."""
    return [
        model_input(),
        class_input(
            "What to draw: the name of a class of the model, or its number. Several, separated by commas or lines, "
            "make a batch."
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=SEEDS,
            control_after_generate=True,
            tooltip="The same seed gives the same pictures, on every device. Each picture of a batch has noise of its "
            "own; first_item draws one of them alone.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=256, tooltip="How many pictures of each class."),
    ]


def optional_whole(name: str, most: int, tooltip: str) -> io.Int.Input:
    """A whole number from 0, which it is where nothing is connected."""
    return io.Int.Input(name, optional=True, default=0, min=0, max=most, tooltip=tooltip)


def first_item_input() -> io.Input:
    """The widget that picks one item of a larger batch."""
    what = "Number of the batch's first picture: with batch_size 1 and 3 here, the fourth picture of a larger batch is "
    return advanced(optional_whole("first_item", 2**31 - 1, what + "drawn alone."))


def settings_input() -> io.Input:
    """The socket of the sampling settings."""
    return NVGSettings.Input(
        "settings",
        optional=True,
        tooltip="From NVG Sampling Settings. Without it, all settings are the checkpoint's own.",
    )


def opacity_output() -> io.Output:
    """What of the pictures is drawn, and what is transparent."""
    return io.Mask.Output(
        display_name="mask",
        tooltip="1 where something is drawn, 0 where the picture is transparent, to lay it on another (ImageComposite"
        "Masked). 1 everywhere with a model that draws no transparency; NVG Cut Out finds the subject there.",
    )


def regions_input() -> io.Input:
    """The socket of the regions."""
    return NVGRegions.Input(
        "regions",
        optional=True,
        tooltip="Parts of the picture with classes of their own, from NVG Region; class_name is drawn elsewhere.",
    )


def variation_inputs() -> list[io.Input]:
    """Noise between two seeds."""
    return [
        optional_whole("variation_seed", SEEDS, "The seed towards which variation goes."),
        io.Float.Input(
            "variation",
            optional=True,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How far from the noise of seed to that of variation_seed: 0 is the picture of seed, 0.1 a near "
            "relative, 1 the picture of variation_seed.",
        ),
    ]


def shared_noise_input() -> io.Input:
    """One noise for a whole batch."""
    return advanced(
        io.Boolean.Input(
            "shared_noise",
            optional=True,
            default=False,
            tooltip="Draw all pictures of the batch with the noise of the first. For frames of an animation, which "
            "differ in structure or regions only.",
        )
    )


def partner_inputs() -> list[io.Input]:
    """Another model for the late stages."""
    return [
        NVGModel.Input(
            "partner",
            optional=True,
            tooltip="Another model with the same tokenizer, which draws the late stages: a smaller one saves time "
            "there.",
        ),
        advanced(
            optional_whole("partner_from", 32, "The first stage that the partner draws. 0: the second half of them.")
        ),
    ]


def seamless_input(what: str) -> io.Input:
    """Pictures that tile."""
    return advanced(io.Boolean.Input("seamless", optional=True, default=False, tooltip=what))


@dataclass(frozen=True, eq=False)
class Options:
    """The optional inputs of the nodes that draw, by the names that they have there. None: not connected."""

    structure: Structure | None = None
    sequence: VisualGranularitySequence | None = None
    keep_structure: int = 0
    keep_content: int = 0
    settings: Settings | None = None
    first_item: int = 0
    regions: Regions | None = None
    variation_seed: int = 0
    variation: float = 0.0
    shared_noise: bool = False
    partner: Model | None = None
    partner_from: int = 0
    seamless: bool = False

    @property
    def kept(self) -> VisualGranularitySequence | None:
        """The sequence, where stages of it are to be kept."""
        return self.sequence if self.keep_structure or self.keep_content else None

    @property
    def images(self) -> int:
        """For how many images they are; 1 where each serves all."""
        structures = len(self.structure.labels) if self.structure else 1
        sequences = len(self.kept) if self.kept else 1
        return max(structures, sequences, (self.regions or Regions()).images)

    def request(self, model: Model) -> dict[str, Any]:
        """The fields of a `Request` that follow from them. Raises NVGError for what was made with another model."""
        if self.kept is not None:
            check_sequence(model, self.kept)
        return vars(self) | {
            "settings": (self.settings or Settings()).over(model.nvg.settings),
            "structure": self.structure.fitting(model) if self.structure else None,
            "sequence": self.kept,
            "regions": (self.regions or Regions()).items,
            "partner": self.partner and self.partner.nvg,
        }


def stages_input(default: int, what: str) -> io.Input:
    """How many stages a tool makes."""
    return io.Int.Input(
        "stages",
        default=default,
        min=0,
        max=32,
        tooltip="How many stages the structure has, counting the first, which is one region: 2 is two regions, 3 is "
        f"four. The generator adds the rest. 0: {what}.",
    )


def area_input(what: str) -> io.Input:
    """How a structure comes to an area that is no half; nodes from before this input halve once."""
    rule = io.Combo.Input(
        "area",
        options=[areas.NESTED, areas.HALF],
        default=areas.NESTED,
        optional=True,
        tooltip=f"What becomes of an area that is not half of the picture. nested: the splits follow its outline until "
        f"it is whole regions, of about its own size. half: the first split is grown or shrunk to a half. {what}",
    )
    return once_absent(rule, areas.HALF)


def before_input() -> io.Input:
    """A structure to continue."""
    return NVGStructure.Input(
        "structure", optional=True, tooltip="Its stages come first, and what is given here splits its regions further."
    )


def structure_outputs() -> list[io.Output]:
    """A structure and the picture of it."""
    return [
        NVGStructure.Output(display_name="structure", tooltip="For NVG Generate, NVG Start and other structure tools."),
        io.Image.Output(display_name="preview", tooltip="A sheet per picture with the maps of its stages."),
    ]


def structure_output(structure: Structure) -> io.NodeOutput:
    """The values of `structure_outputs`."""
    return io.NodeOutput(structure, images.structure_sheet(structure), ui=images.structure_ui(structure))
