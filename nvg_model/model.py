"""NVG: the bundle of the three networks, what users hold.

Shapes: images [B,3,H,W] in [-1,1]; B batch, S = K+1 stages, L positions, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nvg_model import memory, preview
from nvg_model.areas import FREE, fitted
from nvg_model.classes import class_indices
from nvg_model.compiling import Compiled, check_compiler
from nvg_model.config import NVGConfig
from nvg_model.cutout import cut_out
from nvg_model.editing import EditedRun, along_area, kept_of, paste, pixel_mask, resized
from nvg_model.errors import NVGError
from nvg_model.generation import (
    Classes,
    Request,
    Run,
    given_noise,
    given_structure,
    given_tokens,
    noise_of,
)
from nvg_model.interpolation import interpolate
from nvg_model.networks import ContentGenerator, StructureGenerator
from nvg_model.partner import late_run, partner_stage
from nvg_model.regions import Region, regional
from nvg_model.sampling import SamplingSettings
from nvg_model.tokenizer import Tokenizer, VisualGranularitySequence

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nvg_model.generation import Layout, More


class NVG(nn.Module):
    """Tokenizer, content generator and structure generator, with class names and sampling defaults."""

    content: ContentGenerator
    structure: StructureGenerator

    def __init__(
        self, config: NVGConfig, classes: Sequence[str] = (), settings: SamplingSettings | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.classes = tuple(classes) or tuple(
            str(index) for index in range(config.generator.num_classes if config.generator else 0)
        )
        self.settings = settings or SamplingSettings()
        self.provenance: dict[str, Any] = {}
        """Where the weights come from: licence, training, file, hub revision."""
        self.preview_map: Tensor | None = None
        """float32 [C+1,3] on the CPU: of the checkpoint, else fitted when the first preview is asked for."""
        self.tokenizer = Tokenizer(config)
        if config.generator is not None:
            if len(self.classes) != config.generator.num_classes:
                raise NVGError(f"{len(self.classes)} class names for {config.generator.num_classes} classes")
            self.content = ContentGenerator(config)
            self.structure = StructureGenerator(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where results come out."""
        return self.tokenizer.quantizer.device

    def compile(self, mode: str | None = None, device: torch.device | str | None = None, **options: Any) -> None:
        """torch.compile for both generators; the graphs are made at their first use, and serve any number of pictures.

        Args:
            mode: None: with CUDA graphs on a GPU, torch's default elsewhere.
            device: where the networks will run; where they are by default.
            options: other arguments of torch.compile.
        Raises:
            NVGError: there is no generator, or nothing that compiles for the device.
        """
        if self.config.generator is None:
            raise NVGError("this checkpoint has no generator to compile; leave compile out")
        if options.get("backend", "inductor") == "inductor":
            check_compiler(self.device if device is None else torch.device(device))
        for network in (self.content, self.structure):
            network.transformer.compiled = Compiled(mode, **options)

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> VisualGranularitySequence:
        """The whole sequence of images [B,3,H,W] in [-1,1], or [B,4,H,W] with opacity, which are put on white.

        Raises NVGError for another size or NaN.
        """
        return self.tokenizer.tokenize(images.to(self.device))

    @torch.no_grad()
    def decode(self, sequence: VisualGranularitySequence, stage: int | None = None, seamless: bool = False) -> Tensor:
        """Images float32 [B,3,H,W] in [-1,1] of the canvas after `stage` (default: the last stage present).

        What is transparent is white; H and W are the configuration's `output_size`.
        Pictures generated with `seamless` are decoded with it too.
        """
        return self.tokenizer.decode(self._canvas(sequence, stage), seamless)

    @torch.no_grad()
    def decode_rgba(
        self, sequence: VisualGranularitySequence, stage: int | None = None, seamless: bool = False
    ) -> Tensor:
        """The same with opacity: [B,4,H,W] in [-1,1], not premultiplied; opaque where the model has no opacity."""
        return self.tokenizer.decode_rgba(self._canvas(sequence, stage), seamless)

    @torch.no_grad()
    def decode_with_opacity(
        self, sequence: VisualGranularitySequence, stage: int | None = None, seamless: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The images of `decode`, and their opacity [B,H,W] in [0,1]: 1 everywhere where the model has none."""
        return self.tokenizer.decode_with_opacity(self._canvas(sequence, stage), seamless)

    @torch.no_grad()
    def cut_out(
        self,
        sequence: VisualGranularitySequence | None = None,
        images: Tensor | None = None,
        seamless: bool = False,
    ) -> Tensor:
        """Pictures whose ground is transparent: float32 [B,4,H,W] in [-1,1], not premultiplied.

        The opacity is the decoder's where it gives any; otherwise it follows from the first split (`nvg_model.cutout`).

        Args:
            sequence: whole or with two stages or more; None: that of `images`.
            images: [B,3,H,W] in [-1,1], of any size with the model's proportions, whose ground is taken away; those
                with opacity, [B,4,H,W], have it already. None: what `decode` makes of `sequence`.
            seamless: for `decode`.
        Raises:
            NVGError: neither of both; as `tokenize` and `cutout.cut_out`.
        """
        if images is not None and images.dim() == 4 and images.shape[1] == 4:
            return images.float()
        if sequence is None:
            if images is None:
                raise NVGError("there is nothing to cut out; give a sequence, or images")
            sequence = self.tokenize(resized(images, self.config))
        if images is None:
            if self.config.autoencoder.output_channels == 4:
                return self.decode_rgba(sequence, seamless=seamless)
            images = self.decode(sequence, seamless=seamless)
        return cut_out(images.to(self.device), sequence.structure.to(self.device), self.config.grid)

    def _canvas(self, sequence: VisualGranularitySequence, stage: int | None) -> Tensor:
        """The canvas [B,L,C] after `stage`. Raises NVGError where the sequence has no such stage."""
        last = sequence.num_stages - 1
        stage = last if stage is None else stage
        if not 0 <= stage <= last:
            raise NVGError(f"stage {stage} is not in the sequence; it has stages 0 to {last}")
        return sequence.canvases[:, stage].to(self.device)

    def preview(self, sequence: VisualGranularitySequence) -> Tensor:
        """Images float32 [B,3,h,w] in [-1,1] of the last canvas present, one pixel per position, on the CPU.

        By a linear map from latent to colour, which costs next to nothing where `decode` runs a network.
        """
        if self.preview_map is None:
            self.preview_map = preview.fit(self.tokenizer)
        return preview.draw(sequence.canvases[:, -1], self.preview_map, self.config.grid)

    def generate(
        self,
        classes: Classes,
        seed: int = 0,
        settings: SamplingSettings | None = None,
        structure: Tensor | None = None,
        sequence: VisualGranularitySequence | None = None,
        keep_structure: int = 0,
        keep_content: int = 0,
        structure_noise: Tensor | None = None,
        on_stage: Callable[[VisualGranularitySequence], None] | None = None,
        **more: Unpack[More],
    ) -> VisualGranularitySequence:
        """Generates one image per class: `stages` run to the end.

        Args:
            classes ... structure_noise, more: see `Request`.
            on_stage: called with the sequence so far after every stage.
        Returns:
            The whole sequence; `decode` makes images of it.
        """
        given = (structure, sequence, keep_structure, keep_content, structure_noise)
        request = Request(classes, seed, settings, *given, **more)
        for state in self.run(request).stages():
            if on_stage is not None:
                on_stage(state)
        return state

    def stages(
        self,
        classes: Classes,
        seed: int = 0,
        settings: SamplingSettings | None = None,
        structure: Tensor | None = None,
        sequence: VisualGranularitySequence | None = None,
        keep_structure: int = 0,
        keep_content: int = 0,
        structure_noise: Tensor | None = None,
        **more: Unpack[More],
    ) -> Iterator[VisualGranularitySequence]:
        """Generates as an iterator that yields the immutable sequence so far after every stage (paper section 2.3).

        To stop and go on later, pass a state back as `sequence` with `keep_structure` and `keep_content` at its number
        of stages (or fewer), with the same seed: the result equals that of one run.

        Args:
            classes ... structure_noise, more: see `Request`.
        Raises:
            NVGError: an unknown class, a structure that is not a hierarchy, shapes of another model, NaN.
        """
        given = (structure, sequence, keep_structure, keep_content, structure_noise)
        request = Request(classes, seed, settings, *given, **more)
        return self.run(request).stages()

    @torch.no_grad()
    def next_structure(
        self,
        sequence: VisualGranularitySequence,
        classes: Classes,
        seed: int = 0,
        settings: SamplingSettings | None = None,
        structure_noise: Tensor | None = None,
        first_item: int = 0,
        on_evaluation: Callable[[], None] | None = None,
        regions: Sequence[Region] = (),
    ) -> Tensor:
        """Labels long [B,L] of the stage that follows the last one of `sequence`, without its content.

        `stages` gives the same labels if both numbers to keep are `sequence.num_stages` and the rest is equal.

        Raises:
            NVGError: as `stages`, and for a sequence that is whole.
        """
        count = sequence.num_stages
        given = (None, sequence, count, count, structure_noise)
        run = self.run(Request(classes, seed, settings, *given, first_item, on_evaluation, regions))
        if not 0 < count <= self.config.splits:
            raise NVGError(f"the sequence has {count} stages; give 1 to {self.config.splits}, so that one can follow")
        *_, kept = islice(run.stages(), count)  # needs no network: all of it is kept
        canvas, labels = kept.canvases[:, -1], kept.structure[:, -1]
        found = run.next_labels(canvas, labels, run.flow_noise(), count - 1)
        run.check()
        return found

    def run(self, request: Request) -> Run:
        """The stage loop of a request, ready to go. Raises NVGError as `stages` does."""
        if self.config.generator is None:
            raise NVGError("this checkpoint has a tokenizer but no generator; it can tokenize and decode only")
        classes, device, positions = self.class_indices(request.classes), self.device, self.config.positions
        late: dict[str, Any] = {}
        if request.partner is not None:
            late["late_from"] = partner_stage(request, self.config.splits)
            names = [(*self.classes, None)[index] for index in classes.tolist()]
            late["late"] = late_run(self, request, names, request.settings or self.settings)
        if request.area is not None or request.area_rule != Request.area_rule:
            request = along_area(request, len(classes), self.config.grid)
        structure = given_structure(request, positions, len(classes))
        tokens = given_tokens(request, positions, self.tokenizer.quantizer.num_codes, len(classes))
        noise = given_noise(request, positions, len(classes))
        edited = self._edits(request, classes)
        return (EditedRun if edited else Run)(
            self.content,
            self.structure,
            self.tokenizer.quantizer,
            classes=classes.to(device),
            settings=request.settings or self.settings,
            given_structure=structure.to(device),
            given_tokens=tuple(codes.to(device) for codes in tokens),
            structure_noise=None if noise is None else noise.to(device),
            noises=noise_of(request),
            on_evaluation=request.on_evaluation or (lambda: None),
            **late,
            **edited,
        )

    def _edits(self, request: Request, classes: Tensor) -> dict[str, Any]:
        """What makes a run an edited one; nothing where it is a plain one."""
        grid = self.config.grid
        edits: dict[str, Any] = {}
        if request.regions:
            own = [int(self.class_indices(region.class_name)) for region in request.regions]
            found = regional(classes, request.regions, own, grid)
            element = self.content.class_embedding.weight.element_size()
            rows = len(found.rows[0]) + len(classes)
            each, image = memory.row_bytes(self.config, element), memory.image_bytes(self.config)
            memory.check_regions(rows, len(classes), each, image, memory.free_bytes(self.device))
            edits["regions"] = found.to(self.device)
        if (
            request.keep is not None
            and (kept := kept_of(request, grid, len(classes), self.tokenizer.quantizer)) is not None
        ):
            edits["kept"] = kept.to(self.device)
        if request.area is not None and request.area_rule == FREE:
            edits["areas"] = fitted(request.area.cpu(), len(classes), grid).to(self.device)
        if request.seamless:
            edits["seamless"] = True
        return edits

    @torch.no_grad()
    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        classes: Classes,
        seed: int = 0,
        regions: Sequence[Region] = (),
        keep_structure: int = 0,
        settings: SamplingSettings | None = None,
        on_evaluation: Callable[[], None] | None = None,
        keep_content: int = 0,
        **more: Unpack[Layout],
    ) -> Tensor:
        """The same pictures with a part redrawn, [B,3|4,H,W]; the rest is bit-equal.

        Args:
            images: [B,3|4,H,W] in [-1,1], of any size with the model's proportions: where they are larger the new part
                is enlarged, and the rest stays as sharp as it was. With opacity the new part has some as well.
            mask: float [H,W] or [B,H,W], any size: above 0 is redrawn, values below 1 blend with the old picture.
                The new part fades in over `editing.SEAM` of its shorter side, inside the mask.
            classes: one for all, or one per image.
            keep_structure, keep_content: keep the structure, the content of this many stages inside the mask as well.
            more: other fields of a `Request`, such as an area for the structure, seamless, or a partner.
        Raises:
            NVGError: as `tokenize` and `stages`; a mask of nothing.
        """
        indices = self.class_indices(classes)
        if len(images) == 1 < len(indices):
            images = images.expand(len(indices), -1, -1, -1)
        if len(indices) == 1:
            indices = indices.expand(len(images))
        mask, sequence = pixel_mask(mask, images), self.tokenize(resized(images, self.config))
        drawn = self.generate(
            indices, seed, settings, sequence=sequence, keep_structure=keep_structure, keep_content=keep_content,
            on_evaluation=on_evaluation, regions=regions, keep=(mask == 0).float(), **more,
        )  # fmt: skip
        decode = self.decode_rgba if images.shape[1] == 4 else self.decode
        new = decode(drawn, seamless=more.get("seamless", False))
        return paste(new, images, mask)

    @torch.no_grad()
    def interpolate(
        self,
        first: VisualGranularitySequence,
        second: VisualGranularitySequence,
        frames: int,
        content: str = "blend",
    ) -> VisualGranularitySequence:
        """A batch of `frames` pictures between two sequences of one item each.

        Only the decoder runs. The outlines of the regions move from the first sequence's to the second's.

        Args:
            frames: at least 2; the first and the last are the ends themselves.
            content: "blend" mixes the regions' code vectors, "nearer" takes the tokens of the nearer end, "stages"
                changes them stage by stage, coarse ones first.
        Raises:
            NVGError: sequences of several items, of different models or lengths, or another `content`.
        """
        return interpolate(first.to(self.device), second.to(self.device), frames, self.tokenizer.quantizer, content)

    def class_indices(self, classes: Classes) -> Tensor:
        """Indices long [B] of classes given by name or index; None and NO_CLASS are the null class. Raises NVGError.

        In a tensor, and only there, the number after the last class is the null class: what this function returns.
        """
        return class_indices(self.classes, classes)
