"""Workflow files: reading both formats, and turning the front end's (UI) into the one that is executed (API).

An API prompt is {node id: {"class_type": ..., "inputs": {name: value or [node id, output]}, "_meta": {"title": ...}}}.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvg_model import NVGError

Prompt = dict[str, dict[str, Any]]
Catalogue = Mapping[str, Mapping[str, Any]]
"""Node descriptions by class_type, as in the host's `/object_info`."""

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_VIRTUAL = ("Reroute", "PrimitiveNode", "Note", "MarkdownNote")
"""Nodes that exist in the front end only."""
_MUTED, _BYPASSED = 2, 4
_CONTROL = ("fixed", "increment", "decrement", "randomize")


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
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


@dataclass(frozen=True)
class Workflow:
    """A workflow ready to run."""

    prompt: Prompt
    ui: dict[str, Any] | None
    """The front end's graph, where the file holds one; it is kept in the pictures."""

    def title(self, id: str) -> str:
        """How to speak of a node."""
        node = self.prompt[id]
        title = node.get("_meta", {}).get("title")
        named = f"{title!r} " if title and title != node["class_type"] else ""
        return f"{named}{node['class_type']} (node {id})"

    def find(self, name: str) -> str:
        """Id of the node with that id, title or class_type. Raises WorkflowError unless it is exactly one."""
        if name in self.prompt:
            return name
        for key in (lambda node: node.get("_meta", {}).get("title"), lambda node: node["class_type"]):
            found = [id for id, node in self.prompt.items() if key(node) == name]
            if len(found) == 1:
                return found[0]
            if found:
                raise WorkflowError(f"{len(found)} nodes are called {name!r}; name one by its id: {', '.join(found)}")
        raise WorkflowError(f"there is no node {name!r}; --list shows all")

    def with_value(self, node: str, input: str, value: Any, catalogue: Catalogue) -> Workflow:
        """The same workflow with another value of an input. Raises WorkflowError where it is connected."""
        id = self.find(node)
        if is_link(self.prompt[id]["inputs"].get(input)):
            source = self.prompt[id]["inputs"][input][0]
            raise WorkflowError(f"{input} of {self.title(id)} is connected to {self.title(source)}: set it there")
        prompt = copy.deepcopy(self.prompt)
        prompt[id]["inputs"][input] = value
        ui = copy.deepcopy(self.ui)
        if ui is not None:
            _Canvas(ui, catalogue).write(id, input, value)
        return Workflow(prompt, ui)


def read(path: Path, catalogue: Catalogue) -> Workflow:
    """A workflow file of either format. Raises WorkflowError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise WorkflowError(f"{path} is not JSON ({error})") from error
    return parse(content, catalogue)


def parse(content: Any, catalogue: Catalogue) -> Workflow:
    """A workflow of either format. Raises WorkflowError for anything else."""
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        try:
            return Workflow(_Canvas(content, catalogue).prompt(), content)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise WorkflowError(f"the workflow is damaged: its graph cannot be followed ({error!r})") from error
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]
    if not isinstance(content, dict) or not content:
        raise WorkflowError("this is not a workflow: it has neither the front end's 'nodes' nor an API prompt")
    for id, node in content.items():
        if not isinstance(node, dict) or "class_type" not in node or not isinstance(node.get("inputs"), dict):
            raise WorkflowError(f"this is not a workflow: entry {id!r} has no class_type and inputs")
    return Workflow(content, None)


class _Canvas:
    """The front end's graph."""

    def __init__(self, ui: dict[str, Any], catalogue: Catalogue) -> None:
        if (ui.get("definitions") or {}).get("subgraphs"):
            raise WorkflowError("the workflow has subgraphs; unpack them in ComfyUI, or export it in API format")
        self.catalogue = catalogue
        self.nodes = {str(node["id"]): node for node in ui["nodes"]}
        self.links = dict(map(_ends, filter(None, ui.get("links") or [])))

    def prompt(self) -> Prompt:
        """The API prompt that the front end would send: without virtual, muted and bypassed nodes."""
        return {
            id: {
                "class_type": node["type"],
                "inputs": self._inputs(id),
                "_meta": {"title": node.get("title") or self._info(id)["display_name"] or node["type"]},
            }
            for id, node in self.nodes.items()
            if node["type"] not in _VIRTUAL and node.get("mode", 0) not in (_MUTED, _BYPASSED)
        }

    def write(self, id: str, input: str, value: Any) -> None:
        """Changes the value of a widget, or of the primitive node that it is connected to."""
        link = self._links_into(id).get(input)
        if link is not None:
            self.nodes[self.links[link][0]]["widgets_values"] = [value]
        elif input in self._slots(id):
            values = self.nodes[id].setdefault("widgets_values", [])
            slot = self._slots(id).index(input)
            values.extend([None] * (slot + 1 - len(values)))
            values[slot] = value

    def _inputs(self, id: str) -> dict[str, Any]:
        inputs = self._values(id)
        for name, link in self._links_into(id).items():
            source = self._source(link)
            if source is None:
                continue  # muted: what the widget holds, if it is one
            node, output = source
            if self.nodes[node]["type"] == "PrimitiveNode":
                inputs[name] = self.nodes[node]["widgets_values"][0]
            else:
                inputs[name] = [node, output]
        return inputs

    def _values(self, id: str) -> dict[str, Any]:
        """Values of the widgets by input."""
        values = self.nodes[id].get("widgets_values") or []
        if isinstance(values, dict):
            return dict(values)
        slots = self._slots(id)
        if len(values) > len(slots):
            raise WorkflowError(
                f"{self.nodes[id]['type']} (node {id}) has {len(values)} values, but here it has only {len(slots)}: a "
                "newer version saved the workflow; update nvg"
            )
        return {name: value for name, value in zip(slots, values, strict=False) if name and value is not None}

    def _slots(self, id: str) -> list[str | None]:
        """Input of every entry of widgets_values; None for what the front end adds of its own."""
        slots: list[str | None] = []
        values = self.nodes[id].get("widgets_values") or []
        for name, kind, options, _ in inputs_of(self._info(id)):
            if not is_widget(kind, options):
                continue
            slots.append(name)
            added: tuple[str, ...] = ("image",) if options.get("image_upload") else ()
            if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                added = _CONTROL
            if len(slots) < len(values) and values[len(slots)] in added:
                slots.append(None)
        return slots

    def _info(self, id: str) -> Mapping[str, Any]:
        kind = self.nodes[id]["type"]
        if kind not in self.catalogue:
            raise unknown_node(kind, id, self.catalogue)
        return self.catalogue[kind]

    def _links_into(self, id: str) -> dict[str, int]:
        """Links by the name of the input that they end in."""
        inputs = self.nodes[id].get("inputs") or []
        return {one["name"]: one["link"] for one in inputs if one.get("link") is not None}

    def _source(self, link: int) -> tuple[str, int] | None:
        """The node and output that a link begins at, through reroutes and bypassed nodes; None behind a muted one."""
        seen: set[int] = set()
        while link in self.links and link not in seen:
            seen.add(link)
            id, output = self.links[link]
            node = self.nodes[id]
            if node.get("mode", 0) == _MUTED:
                return None
            if node["type"] != "Reroute" and node.get("mode", 0) != _BYPASSED:
                return id, output
            through = _passed_through(node, output)
            if through is None:
                return None
            link = through
        return None


def _ends(link: Any) -> tuple[int, tuple[str, int]]:
    """A link's id, and the node and output that it begins at; links are lists or objects."""
    if isinstance(link, dict):
        return link["id"], (str(link["origin_id"]), link["origin_slot"])
    return link[0], (str(link[1]), link[2])


def _passed_through(node: dict[str, Any], output: int) -> int | None:
    """The link whose value a bypassed node or a reroute hands on: at the same place, or the first of its type."""
    inputs = node.get("inputs") or []
    if node["type"] == "Reroute":
        return inputs[0].get("link") if inputs else None
    kind = node["outputs"][output]["type"]
    for one in inputs[output : output + 1] + inputs:
        if one["type"] == kind and one.get("link") is not None:
            return one["link"]
    return None


def unknown_node(kind: str, id: str, catalogue: Catalogue) -> WorkflowError:
    """The complaint about a node that cannot be run here."""
    if kind.startswith("NVG"):
        return WorkflowError(f"there is no node {kind} (node {id}) in this version of nvg; update nvg")
    core = ", ".join(sorted(name for name in catalogue if not name.startswith("NVG")))
    return WorkflowError(f"{kind} (node {id}) is not a node of NVG; without ComfyUI only those and {core} can be run")
