"""Classes by name or index: what is meant, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from nvg_model.errors import NVGError, shortened
from nvg_model.generation import NO_CLASS, Classes

_NEAR = 0.7
"""How alike a slip and the name that was meant are, by difflib: hart and heart 0.89, but car and cat 0.67."""


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
