"""NVG: the bundle of the three networks, what users hold.

Shapes: images [B,3,H,W] in [-1,1]; B batch, S = K+1 stages, L positions, C latent channels.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from nvg_model import hierarchy
from nvg_model.config import NVGConfig
from nvg_model.content import ContentGenerator
from nvg_model.errors import NVGError, shortened
from nvg_model.generation import Request, next_structure, run_stages
from nvg_model.sampling import SamplingSettings
from nvg_model.sequence import VisualGranularitySequence
from nvg_model.structure_flow import StructureGenerator
from nvg_model.tokenizer import Tokenizer

NO_CLASS = "unconditional"
"""The word for the null class, where no class has that name."""
Classes = str | int | Sequence[str | int] | Tensor | None
"""One class or several, by name or index; None or the word NO_CLASS: the null class."""
_NEAR = 0.7
"""How alike a slip and the name that was meant are, by difflib: hart and heart 0.89, but car and cat 0.67."""


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
        self.tokenizer = Tokenizer(config)
        if config.generator is not None:
            if len(self.classes) != config.generator.num_classes:
                raise NVGError(f"{len(self.classes)} class names for {config.generator.num_classes} classes")
            self.content = ContentGenerator(config)
            self.structure = StructureGenerator(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where results come out."""
        return self.tokenizer.quantizer.codebook.device

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> VisualGranularitySequence:
        """The whole sequence of images [B,3,H,W] in [-1,1]. Raises NVGError for another size or NaN."""
        return self.tokenizer.tokenize(images.to(self.device))

    @torch.no_grad()
    def decode(self, sequence: VisualGranularitySequence, stage: int | None = None) -> Tensor:
        """Images float32 [B,3,H,W] in [-1,1] of the canvas after `stage` (the last one present by default)."""
        last = sequence.num_stages - 1
        stage = last if stage is None else stage
        if not 0 <= stage <= last:
            raise NVGError(f"stage {stage} is not in the sequence; it has stages 0 to {last}")
        return self.tokenizer.decode(sequence.canvases[:, stage].to(self.device))

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
        first_item: int = 0,
        on_evaluation: Callable[[], None] | None = None,
    ) -> VisualGranularitySequence:
        """Generates one image per class: `stages` run to the end, where the arguments are explained.

        Args:
            on_stage: called with the sequence so far after every stage.
        Returns:
            The whole sequence; `decode` makes images of it.
        """
        given = (structure, sequence, keep_structure, keep_content, structure_noise, first_item, on_evaluation)
        for state in self.stages(classes, seed, settings, *given):
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
        first_item: int = 0,
        on_evaluation: Callable[[], None] | None = None,
    ) -> Iterator[VisualGranularitySequence]:
        """Generates as an iterator that yields the immutable sequence so far after every stage (paper section 2.3).

        To stop and go on later, pass a state back as `sequence` with `keep_structure` and `keep_content` at its number
        of stages (or fewer), with the same seed: the result equals that of one run.

        Args:
            classes: names or indices, one per image; None for one unconditional image.
            seed: item b of the batch draws its noise from (seed, first_item + b) alone.
            settings: None: the defaults of the checkpoint.
            structure: long [B,S',L] (or [1,S',L] for all), labels of the first S' stages, followed exactly.
            sequence: what to keep stages of; one item serves the whole batch.
            keep_structure: keep the structure of so many stages of `sequence`.
            keep_content: keep the content of so many stages of `sequence`: cluster j of a stage keeps its token,
                whatever structure it now has (the paper's stage-wise variation).
            structure_noise: float [B,L,K], instead of the noise from the seed.
            first_item: number of the first item, to repeat one item of a larger batch alone.
            on_evaluation: called before every network evaluation; what it raises ends the run.
        Raises:
            NVGError: an unknown class, a structure that is not a hierarchy, shapes of another model, NaN.
        """
        given = (structure, sequence, keep_structure, keep_content, structure_noise, first_item, on_evaluation)
        return run_stages(self, self._request(classes, seed, settings, *given))

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
    ) -> Tensor:
        """Labels long [B,L] of the stage that follows the last one of `sequence`, without its content.

        They are those of `stages` with both numbers to keep at `sequence.num_stages` and otherwise the same arguments,
        which are explained there.

        Raises:
            NVGError: as `stages`, and for a sequence that is whole.
        """
        count = sequence.num_stages
        given = (None, sequence, count, count, structure_noise, first_item, on_evaluation)
        request = self._request(classes, seed, settings, *given)
        if not 0 < count <= self.config.splits:
            raise NVGError(f"the sequence has {count} stages; give 1 to {self.config.splits}, so that one can follow")
        *_, kept = islice(run_stages(self, request), count)  # needs no network: all of it is kept
        canvas, labels = kept.canvases[:, -1], kept.structure[:, -1]
        return next_structure(self, request, canvas, labels, request.flow_noise(self), count - 1)

    def _request(
        self,
        classes: Classes,
        seed: int,
        settings: SamplingSettings | None,
        structure: Tensor | None,
        sequence: VisualGranularitySequence | None,
        keep_structure: int,
        keep_content: int,
        structure_noise: Tensor | None,
        first_item: int,
        on_evaluation: Callable[[], None] | None,
    ) -> Request:
        """The arguments of `stages`, checked."""
        if self.config.generator is None:
            raise NVGError("this checkpoint has a tokenizer but no generator; it can tokenize and decode only")
        indices = self.class_indices(classes).to(self.device)
        return Request(
            classes=indices,
            seed=_non_negative(seed, "seed"),
            first_item=_non_negative(first_item, "first_item"),
            settings=settings or self.settings,
            structure=self._given_structure(structure, sequence, keep_structure, len(indices)),
            tokens=self._kept_tokens(sequence, keep_content, len(indices)),
            structure_noise=self._given_noise(structure_noise, len(indices)),
            on_evaluation=on_evaluation or (lambda: None),
        )

    def class_indices(self, classes: Classes) -> Tensor:
        """Indices long [B] of classes given by name or index; None and NO_CLASS are the null class. Raises NVGError.

        In a tensor, and only there, the number after the last class is the null class: what this function returns.
        """
        most = len(self.classes) - 1
        if isinstance(classes, Tensor):
            classes, most = classes.reshape(-1).tolist(), most + 1
        elif isinstance(classes, str | int) or classes is None:
            classes = [classes]  # type: ignore[list-item]
        if not len(classes):
            raise NVGError("no class was given; name at least one")
        return torch.tensor([self._class_index(one, most) for one in classes])

    def _class_index(self, one: str | int | None, most: int) -> int:
        """The index of one class; an index may be at most `most`."""
        if one is None:
            return len(self.classes)
        if isinstance(one, str):
            folded = {name.casefold(): index for index, name in enumerate(self.classes)}
            if one.casefold() in folded:
                return folded[one.casefold()]
            if one.casefold() == NO_CLASS:
                return len(self.classes)
            near = difflib.get_close_matches(one.casefold(), folded, n=3, cutoff=_NEAR)
            near += [name for name in folded if one.casefold().strip() in name.split() and name not in near]
            if near:
                hint = f"did you mean {' or '.join(self.classes[folded[name]] for name in near[:3])}?"
            else:
                more = f" and {len(self.classes) - 30} more" if len(self.classes) > 30 else ""
                hint = f"there are {', '.join(self.classes[:30])}{more}"
            raise NVGError(f"there is no class {shortened(one)!r}; {hint}")
        if not isinstance(one, Integral):
            raise NVGError(f"{one!r} is no class; give a name or an index")
        if not 0 <= one <= most:
            raise NVGError(
                f"class {one} is out of range; this model has classes 0 to {len(self.classes) - 1} "
                f"(for no class at all write {NO_CLASS!r})"
            )
        return int(one)

    def _given_structure(
        self, structure: Tensor | None, sequence: VisualGranularitySequence | None, keep: int, batch: int
    ) -> Tensor:
        """The structure to follow, long [B,S',L], S' >= 1; checked."""
        positions = self.config.positions
        if structure is None:
            structure = torch.zeros(1, 1, positions, dtype=torch.long)
            if keep:
                structure = _kept(sequence, keep, "keep_structure").structure[:, :keep]
        elif keep:
            raise NVGError("give either a structure or keep_structure, not both: one stage cannot follow two")
        hierarchy.check(structure, positions)
        return _for_batch(structure.long().to(self.device), batch, "structure")

    def _kept_tokens(self, sequence: VisualGranularitySequence | None, keep: int, batch: int) -> tuple[Tensor, ...]:
        """Codes [B,2^i] of the first `keep` stages."""
        if not keep:
            return ()
        kept = _kept(sequence, keep, "keep_content")
        hierarchy.check(kept.structure[:, :keep], self.config.positions)
        size = self.config.autoencoder.codebook_size
        if not 0 <= int(kept.tokens.min()) <= int(kept.tokens.max()) < size:
            raise NVGError(
                f"the sequence has tokens from {int(kept.tokens.min())} to {int(kept.tokens.max())}; this model has "
                f"codes 0 to {size - 1}: tokenize with this model"
            )
        codes = [kept.cluster_tokens(stage) for stage in range(keep)]
        return tuple(_for_batch(code.to(self.device), batch, "sequence") for code in codes)

    def _given_noise(self, noise: Tensor | None, batch: int) -> Tensor | None:
        if noise is None:
            return None
        wanted = [batch, self.config.positions, self.config.splits]
        if list(noise.shape) != wanted or not bool(torch.isfinite(noise).all()):
            raise NVGError(f"structure_noise has shape {list(noise.shape)}; it must be {wanted} and finite")
        return noise.float().to(self.device)


def _kept(sequence: VisualGranularitySequence | None, keep: int, name: str) -> VisualGranularitySequence:
    if sequence is None:
        raise NVGError(f"{name} is {keep}, but there is no sequence to keep from; pass one")
    if not 0 <= keep <= sequence.num_stages:
        raise NVGError(f"{name} is {keep}; the sequence has {sequence.num_stages} stages")
    return sequence


def _for_batch(x: Tensor, batch: int, name: str) -> Tensor:
    """One item for all, or one each."""
    if len(x) not in (1, batch):
        raise NVGError(f"the {name} has {len(x)} items for {batch} classes; give one, or one per class")
    return x.expand(batch, *x.shape[1:])


def _non_negative(value: int, name: str) -> int:
    if not isinstance(value, Integral) or value < 0:
        raise NVGError(f"{name} is {value!r}; it must be a whole number and not negative")
    return int(value)
