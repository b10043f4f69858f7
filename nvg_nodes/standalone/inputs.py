"""Prompts and node descriptions: what every part of the small host knows of them.

An API prompt is {node id: {"class_type": ..., "inputs": {name: value or [node id, output]}, "_meta": {"title": ...}}}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nvg_model import NVGError
from nvg_model.errors import shortened

Prompt = dict[str, dict[str, Any]]
Catalogue = Mapping[str, Mapping[str, Any]]
"""Node descriptions by class_type, as in the host's `/object_info`."""

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_CONTROL = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
_GROUPS = ("workflow>", "workflow/")


class WorkflowError(NVGError):
    """A workflow that cannot be read or run."""


def inputs_of(info: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    """(name, type, options, optional) of a node's inputs, in the order of its widgets."""
    for kind in ("required", "optional"):
        for name, entry in info["input"].get(kind, {}).items():
            yield name, entry[0], (entry[1] if len(entry) > 1 else {}), kind == "optional"


def is_widget(kind: str, options: Mapping[str, Any]) -> bool:
    """Whether an input of that type has a value of its own in the node."""
    return kind in WIDGETS and not options.get("forceInput")


def is_link(value: Any) -> bool:
    """Whether a value in a prompt stands for another node's output."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def slots_of(info: Mapping[str, Any], values: Sequence[Any]) -> list[str | None]:
    """Input of every entry of a node's widgets_values; None for what the front end adds of its own.

    What a file has beyond them (the text of a status, a widget of a newer version) belongs to no input.
    """
    widgets = [(name, kind, options) for name, kind, options, _ in inputs_of(info) if is_widget(kind, options)]
    slots: list[str | None] = []
    for index, (name, kind, options) in enumerate(widgets):
        slots.append(name)
        if len(slots) >= len(values):
            continue
        next_one = values[len(slots)]
        if options.get("image_upload"):
            added = next_one == "image"
        elif options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
            # The front end always has a widget there that says what becomes of the seed; hand-made files do not.
            text_may_follow = index + 1 < len(widgets) and widgets[index + 1][1] in ("STRING", "COMBO")
            added = next_one is None or next_one in _CONTROL or (isinstance(next_one, str) and not text_may_follow)
        else:
            added = False
        if added:
            slots.append(None)
    return slots


def unknown_node(kind: Any, id: str, catalogue: Catalogue) -> WorkflowError:
    """The complaint about a node that cannot be run here."""
    if not isinstance(kind, str):
        return WorkflowError(f"node {id} has no class_type, so nobody knows what it does; export the workflow again")
    kind = shortened(kind)  # whatever a damaged file has there
    if kind.startswith("NVG"):
        return WorkflowError(f"there is no node {kind} (node {id}) in this version of nvg; update nvg")
    if kind.startswith(_GROUPS):
        return WorkflowError(
            f"node {id} is the group node {kind[len(_GROUPS[0]) :]!r}, which only ComfyUI can take apart: open the "
            "workflow there, right-click the node, choose Convert to nodes (or to a subgraph), and save it again"
        )
    if kind.count("-") == 4 and len(kind) == 36:
        return WorkflowError(f"node {id} is a subgraph whose contents are not in the file ({kind}); save it again")
    core = ", ".join(sorted(name for name in catalogue if not name.startswith("NVG")))
    return WorkflowError(f"{kind} (node {id}) is not a node of NVG; without ComfyUI only those and {core} can be run")
