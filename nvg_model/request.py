"""A request: what is asked of the stage loop, and the checks of it.

Shapes: B batch, S' stages given, L positions, K splits.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TypedDict

import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.errors import NVGError, shortened
from nvg_model.noise import Noise
from nvg_model.regions import Region
from nvg_model.sampling import SamplingSettings
from nvg_model.sequence import VisualGranularitySequence

NO_CLASS = "unconditional"
"""The word for the null class, where no class has that name."""
Classes = str | int | Sequence[str | int] | Tensor | None
"""One class or several, by name or index; None or the word NO_CLASS: the null class."""
_NEAR = 0.7
"""How alike a slip and the name that was meant are, by difflib: hart and heart 0.89, but car and cat 0.67."""


@dataclass(frozen=True)
class Request:
    """The arguments of `NVG.generate`, `stages` and `next_structure`; unchecked, with nothing of a model in them."""

    classes: Classes
    """Names or indices, one per image; None for one unconditional image."""
    seed: int = 0
    """Item b of the batch draws its noise from (seed, first_item + b) alone."""
    settings: SamplingSettings | None = None
    """None: the defaults of the checkpoint."""
    structure: Tensor | None = None
    """long [B,S',L] (or [1,S',L] for all), labels of the first S' stages, followed exactly."""
    sequence: VisualGranularitySequence | None = None
    """What to keep stages of; one item serves the whole batch."""
    keep_structure: int = 0
    """Keep the structure of so many stages of `sequence`."""
    keep_content: int = 0
    """Keep the content of so many stages of `sequence`: cluster j of a stage keeps its token, whatever structure it
    now has (the paper's stage-wise variation)."""
    structure_noise: Tensor | None = None
    """float [B,L,K], instead of the noise from the seed."""
    first_item: int = 0
    """Number of the first item, to repeat one item of a larger batch alone."""
    on_evaluation: Callable[[], None] | None = None
    """Called before every network evaluation; what it raises ends the run."""
    regions: Sequence[Region] = ()
    """Parts of the canvas with classes of their own; `classes` is that of the rest."""
    variation_seed: int = 0
    """Another seed, for a variation of the picture of `seed`."""
    variation: float = 0.0
    """How far towards it, 0 to 1: small values change little, 1 is the picture of `variation_seed`."""
    shared_noise: bool = False
    """Whether all images draw the noise of the first: frames that differ in their structure or class only."""
    keep: Tensor | None = None
    """float [H,W] or [B,H,W]: 1 where `sequence`, a whole one, stays what it is; drawn anew where it is 0."""


class More(TypedDict, total=False):
    """The fields of a `Request` that are given by name only."""

    first_item: int
    on_evaluation: Callable[[], None] | None
    regions: Sequence[Region]
    variation_seed: int
    variation: float
    shared_noise: bool
    keep: Tensor | None


def class_indices(names: Sequence[str], classes: Classes) -> Tensor:
    """Indices long [B] of classes given by name or index; see `NVG.class_indices`. Raises NVGError."""
    most = len(names) - 1
    if isinstance(classes, Tensor):
        classes, most = classes.reshape(-1).tolist(), most + 1
    elif isinstance(classes, str | int) or classes is None:
        classes = [classes]  # type: ignore[list-item]
    if not len(classes):
        raise NVGError("no class was given; name at least one")
    return torch.tensor([_class_index(names, one, most) for one in classes])


def _class_index(names: Sequence[str], one: str | int | None, most: int) -> int:
    """The index of one class; an index may be at most `most`."""
    if one is None:
        return len(names)
    if isinstance(one, str):
        folded = {name.casefold(): index for index, name in enumerate(names)}
        if one.casefold() in folded:
            return folded[one.casefold()]
        if one.casefold() == NO_CLASS:
            return len(names)
        near = difflib.get_close_matches(one.casefold(), folded, n=3, cutoff=_NEAR)
        near += [name for name in folded if one.casefold().strip() in name.split() and name not in near]
        if near:
            hint = f"did you mean {' or '.join(names[folded[name]] for name in near[:3])}?"
        else:
            more = f" and {len(names) - 30} more" if len(names) > 30 else ""
            hint = f"there are {', '.join(names[:30])}{more}"
        raise NVGError(f"there is no class {shortened(one)!r}; {hint}")
    if not isinstance(one, Integral):
        raise NVGError(f"{one!r} is no class; give a name or an index")
    if not 0 <= one <= most:
        raise NVGError(
            f"class {one} is out of range; this model has classes 0 to {len(names) - 1} "
            f"(for no class at all write {NO_CLASS!r})"
        )
    return int(one)


def given_structure(request: Request, positions: int, batch: int) -> Tensor:
    """The structure to follow, long [B,S',L], S' >= 1. Raises NVGError."""
    structure, keep = request.structure, request.keep_structure
    if structure is None and not keep:
        return torch.zeros(batch, 1, positions, dtype=torch.long)
    if structure is None:
        structure = _kept(request, keep, "keep_structure").structure[:, :keep]
    elif keep:
        raise NVGError("give either a structure or keep_structure, not both: one stage cannot follow two")
    hierarchy.check(structure, positions)
    return _for_batch(structure.long(), batch, "structure")


def given_tokens(request: Request, positions: int, num_codes: int, batch: int) -> tuple[Tensor, ...]:
    """Codes long [B,2^i] of the first stages, those that are kept. Raises NVGError."""
    keep = request.keep_content
    if not keep:
        return ()
    kept = _kept(request, keep, "keep_content")
    hierarchy.check(kept.structure[:, :keep], positions)
    if not 0 <= int(kept.tokens.min()) <= int(kept.tokens.max()) < num_codes:
        raise NVGError(
            f"the sequence has tokens from {int(kept.tokens.min())} to {int(kept.tokens.max())}; this model has "
            f"codes 0 to {num_codes - 1}: tokenize with this model"
        )
    codes = [kept.cluster_tokens(stage) for stage in range(keep)]
    return tuple(_for_batch(code, batch, "sequence") for code in codes)


def given_noise(request: Request, positions: int, batch: int) -> Tensor | None:
    """The structure noise float [B,L,K], or None. Raises NVGError."""
    noise = request.structure_noise
    if noise is None:
        return None
    wanted = [batch, positions, hierarchy.num_splits(positions)]
    if list(noise.shape) != wanted or not bool(torch.isfinite(noise).all()):
        raise NVGError(f"structure_noise has shape {list(noise.shape)}; it must be {wanted} and finite")
    return noise.float()


def _kept(request: Request, keep: int, name: str) -> VisualGranularitySequence:
    sequence = request.sequence
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


def noise_of(request: Request) -> Noise:
    """The noise of a run. Raises NVGError."""
    share = request.variation
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise NVGError(f"variation is {share!r}; it must lie between 0 (this seed) and 1 (variation_seed)")
    seed, first_item = non_negative(request.seed, "seed"), non_negative(request.first_item, "first_item")
    other = non_negative(request.variation_seed, "variation_seed")
    return Noise(seed, first_item, request.shared_noise, other, share)


def non_negative(value: int, name: str) -> int:
    """A whole number from 0 on. Raises NVGError."""
    if not isinstance(value, Integral) or value < 0:
        raise NVGError(f"{name} is {value!r}; it must be a whole number and not negative")
    return int(value)
