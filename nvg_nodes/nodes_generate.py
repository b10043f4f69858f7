"""The node that generates pictures in one go, and the node of its sampling settings.

Shapes: B images of a batch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nvg_model import NVG, NVGError, SamplingSettings, VisualGranularitySequence, solvers
from nvg_model import schedule as schedules
from nvg_model.errors import shortened
from nvg_model.generation import Request, count_evaluations
from nvg_nodes import host, images
from nvg_nodes.api import io, schema, words
from nvg_nodes.sockets import (
    MAIN,
    NVGSequence,
    NVGSettings,
    NVGStructure,
    Options,
    first_item_input,
    opacity_output,
    optional_whole,
    partner_inputs,
    regions_input,
    request_inputs,
    seamless_input,
    settings_input,
    shared_noise_input,
    variation_inputs,
)
from nvg_nodes.types import Model, Settings, structure_of

THE_CHECKPOINTS, THE_CHECKPOINTS_NUMBER = "checkpoint", -1


def _given_inputs() -> list[io.Input]:
    """What need not be generated: a structure, and stages of a sequence."""
    return [
        NVGStructure.Input(
            "structure",
            optional=True,
            tooltip="Structure of the first stages, which is followed exactly; the rest is generated. One "
            "serves the whole batch; a batch of them gives one picture each.",
        ),
        NVGSequence.Input(
            "sequence", optional=True, tooltip="A picture to keep stages of, as many as the two numbers say."
        ),
        optional_whole(
            "keep_structure",
            32,
            "Keep the structure of so many stages of the sequence (counting the first, which is one region). 0 keeps "
            "none.",
        ),
        optional_whole(
            "keep_content",
            32,
            "Keep the content of so many stages of the sequence: every region keeps its token, whatever shape it now "
            "has. 0 keeps none.",
        ),
    ]


def picture_outputs() -> list[io.Output]:
    """Pictures with all that they are made of."""
    return [
        io.Image.Output(display_name="image", tooltip="The pictures."),
        NVGSequence.Output(display_name="sequence", tooltip="All stages, to decode or to keep some of."),
        NVGStructure.Output(display_name="structure", tooltip="The structure of all stages."),
        io.Image.Output(display_name="preview", tooltip="A sheet per picture with the maps of its stages."),
        opacity_output(),
    ]


def draw(
    model: Model, classes: Tensor, seed: int, options: Options, **more: Any
) -> tuple[VisualGranularitySequence, Tensor, Tensor]:
    """Generates, each stage shown on the node as it comes.

    Args:
        classes: long [B].
        more: fields of a `Request` that come before those of the options.
    Returns:
        The whole sequence on the CPU, the model's images of it, and the MASK of what is opaque.
    """
    request = options.request(model) | more
    given = request["structure"]
    known = given.shape[1] if given is not None else request["keep_structure"]
    bar = host.current().progress(
        count_evaluations(request["settings"], model.config.splits, known, request["keep_content"])
    )
    rows = len(classes), len(request["regions"])
    if options.partner is not None:
        options.partner.ready(*rows)
    nvg = model.ready(*rows)
    for state in nvg.run(Request(classes, seed, on_evaluation=bar, **request)).stages():
        if not state.is_whole:
            bar.show(lambda state=state: images.preview(nvg, state))  # type: ignore[misc]
    result = state.to("cpu")
    pictures, mask = images.decode(nvg, result, seamless=options.seamless)
    bar.show(lambda: images.contact_sheet(pictures))  # the last preview stays on the node: the result
    return result, pictures, mask


def picture_output(model: Model, result: VisualGranularitySequence, pictures: Tensor, mask: Tensor) -> io.NodeOutput:
    """The values of `picture_outputs`."""
    whole = structure_of(model, result.structure)
    values = images.from_model(pictures), result, whole, images.structure_sheet(whole), mask
    return io.NodeOutput(*values, ui=images.structure_ui(whole))


class NVGGenerate(io.ComfyNode):
    """Class -> pictures: the whole stage loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGGenerate",
            display_name="NVG Generate",
            category=MAIN,
            description="Draws pictures of a class from coarse to fine. Their structure can be given, parts can have "
            "classes of their own, and stages of another picture can be kept.",
            search_aliases=words(
                "nvg, ksampler, sampler, class conditional, text to image, next visual granularity, img2img, inpaint, "
                "edit, reference, style, regional"
            ),
            inputs=[
                *request_inputs(),
                *_given_inputs(),
                settings_input(),
                first_item_input(),
                regions_input(),
                *variation_inputs(),
                shared_noise_input(),
                *partner_inputs(),
                seamless_input("Draw pictures that tile: they go on at their opposite edges. It takes twice the time."),
            ],
            outputs=picture_outputs(),
        )

    @classmethod
    def execute(cls, model: Model, class_name: str, seed: int, batch_size: int, **given: Any) -> io.NodeOutput:
        """Draws all stages, each shown on the node as it comes."""
        options = Options(**given)
        classes = batch_of_classes(model, class_name, batch_size, options)
        return picture_output(model, *draw(model, classes, seed, options))


class NVGSamplingSettings(io.ComfyNode):
    """Sampling settings that differ from the checkpoint's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGSamplingSettings",
            display_name="NVG Sampling Settings",
            category=MAIN,
            description="Settings of the generation. What is left at -1 (or 'checkpoint') stays as the checkpoint "
            "says, so change only what you mean to.",
            search_aliases=words("nvg, cfg, guidance, temperature, top p, top k, steps, solver"),
            inputs=[
                *_first_and_last("content_guidance", "How strongly the content follows the class", (1.0, 3.5), 100.0),
                *_first_and_last("structure_guidance", "How strongly the layout follows the class", (1.0, 2.5), 100.0),
                *_first_and_last("top_p", "Share of the probability that tokens are drawn from", (1.0, 0.5), 1.0),
                _int("top_k", "Draw among so many best tokens only; 0: all, 1: always the best", 0, 65536),
                _float("temperature", "Above 1 draws rarer tokens, below 1 likelier ones", 1.0, 100.0),
                _int("structure_steps", "Steps of the structure flow at every stage; fewer are faster", 25, 1000),
                io.Combo.Input(
                    "solver",
                    options=[THE_CHECKPOINTS, *solvers.SOLVERS],
                    default=THE_CHECKPOINTS,
                    tooltip=f"Of the structure flow: {solvers.summary()}.",
                ),
                _switch("gumbel", "Split regions with added noise, for more diverse structures."),
                _switch(
                    "reuse",
                    "Computes canvas and class once a stage instead of at every step of the structure flow: faster, "
                    "and nearly the same structures.",
                    optional=True,
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    optional=True,
                    tooltip="Structure settings by stage, such as: structure_steps 6 6 4 4 2; guidance_every 2. One "
                    "value is for all stages. Empty: as above.",
                ),
            ],
            outputs=[NVGSettings.Output(display_name="settings", tooltip="For NVG Generate and NVG Start.")],
        )

    @classmethod
    def execute(
        cls, solver: str, gumbel: str, reuse: str = THE_CHECKPOINTS, schedule: str = "", **numbers: float
    ) -> io.NodeOutput:
        """What was changed."""
        changes: dict[str, Any] = {name: value for name, value in numbers.items() if value != THE_CHECKPOINTS_NUMBER}
        if solver != THE_CHECKPOINTS:
            changes["solver"] = solver
        for name, choice in (("gumbel", gumbel), ("reuse", reuse)):
            if choice != THE_CHECKPOINTS:
                changes[name] = choice == "on"
        settings = Settings(changes | schedules.read_all(schedule))
        settings.over(SamplingSettings())  # what makes no sense is refused where it was typed
        return io.NodeOutput(settings)


def _first_and_last(name: str, what: str, paper: tuple[float, float], most: float) -> list[io.Input]:
    """Two numbers: at the first stage and at the last, with a straight line between them."""
    note = " (1: unguided)" if name.endswith("guidance") else ""
    ends = zip(("first", "last"), paper, strict=True)
    return [_float(f"{name}_{end}", f"{what}{note} at the {end} stage", value, most) for end, value in ends]


def _switch(name: str, what: str, optional: bool = False) -> io.Input:
    """On, off, or the checkpoint's own."""
    return io.Combo.Input(
        name, options=[THE_CHECKPOINTS, "on", "off"], default=THE_CHECKPOINTS, optional=optional, tooltip=what
    )


def _float(name: str, what: str, paper: float, most: float) -> io.Input:
    """A number whose -1 means the checkpoint's own."""
    return io.Float.Input(name, default=-1.0, min=-1.0, max=most, step=0.05, tooltip=_tooltip(what, paper))


def _int(name: str, what: str, paper: int, most: int) -> io.Input:
    """A whole number whose -1 means the checkpoint's own."""
    return io.Int.Input(name, default=-1, min=-1, max=most, tooltip=_tooltip(what, paper))


def _tooltip(what: str, paper: float) -> str:
    return f"{what}. -1: as the checkpoint says (the paper has {paper:g})."


def parse_classes(nvg: NVG, text: str) -> Tensor:
    """Indices long [n] of the classes that a text names: separated by lines or commas.

    A line that is a class as a whole is that class, though its name may have a comma. A number is an index, unless a
    class has that name.

    Raises:
        NVGError: no class at all, or one that the model does not have (with the nearest names).
    """
    names = {name.casefold() for name in nvg.classes}
    entries: list[str] = []
    for line in text.splitlines():
        entries += [line] if line.strip().casefold() in names else line.split(",")
    classes: list[str | int] = []
    for entry in filter(None, map(str.strip, entries)):
        if entry.casefold() in names:
            classes.append(entry)
        else:
            classes.append(int(entry) if entry.isdecimal() and len(entry) < 10 else entry)
    return nvg.class_indices(classes)


def one_class(model: Model, text: str) -> str | None:
    """The name of the one class that a text names; None for the null class. Raises NVGError."""
    found = parse_classes(model.nvg, text).tolist()
    if len(found) != 1:
        raise NVGError(f"a region has one class, and {shortened(text)!r} names {len(found)}; make a region for each")
    return model.classes[found[0]] if found[0] < len(model.classes) else None


def batch_of_classes(model: Model, text: str, batch_size: int, options: Options) -> Tensor:
    """One class per picture, long [B]: each class `batch_size` times; a single one goes with all that is given.

    Raises:
        NVGError: an unknown class, or no generator to draw it.
    """
    if model.config.generator is None:
        raise NVGError(f"{model.name} has a tokenizer but no generator; it can tokenize and decode only")
    classes = parse_classes(model.nvg, text).repeat_interleave(batch_size)
    return classes.expand(options.images) if len(classes) == 1 else classes
