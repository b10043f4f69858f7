"""The front end's graph as it lies in the file: nodes and links of the workflow itself and of every subgraph instance.

A subgraph is defined once and may stand in the graph several times; every instance is a `Level` of its own, and a node
in it has the ids of all instances around it in its own: 4:7 is node 7 in instance 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MUTED, BYPASSED = 2, 4
PRIMITIVE = "PrimitiveNode"
SETTERS = ("SetNode", "easy setNode")
GETTERS = ("GetNode", "easy getNode")
REROUTES = ("Reroute", "Reroute (rgthree)")
_OTHERS = ("Note", "MarkdownNote")
_SWITCHES = re.compile(r"(Fast |Mute / Bypass |Random Unmuter|Node Collector|Bookmark|Label).*\(rgthree\)")
_WORKS = re.compile(r"NVG.*|workflow[>/].*|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.DOTALL)
"""Types of nodes that certainly do something: ours, group nodes and subgraphs."""
_PREFIX = re.compile(r"\s*\d+\s*:\s*")
INPUTS, OUTPUTS = "-10", "-20"
"""Ids of a subgraph's own ends, where its definition names no others."""
Node = dict[str, Any]


class Link(NamedTuple):
    """Where a link begins and ends; ids are text, as some front ends write numbers and some text."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


def mode(node: Node) -> int:
    """Whether it runs (0), is muted or bypassed."""
    return int(node.get("mode") or 0)


def entries(node: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Its "inputs" or "outputs", which a file may leave out."""
    return node.get(kind) or []


def is_virtual(node: Node, known: bool) -> bool:
    """Whether the node is the front end's own and never sent to be executed.

    Args:
        known: whether there is a node of that type. Of types that nobody here knows, the front end's own are those that
            nothing can be connected to, and some that are famous.
    """
    kind = str(node["type"])
    if kind in (*_OTHERS, *REROUTES, *SETTERS, *GETTERS, PRIMITIVE) or _SWITCHES.fullmatch(kind):
        return True
    return not known and not _WORKS.fullmatch(kind) and not entries(node, "inputs") and not entries(node, "outputs")


def valid_connection(one: Any, other: Any) -> bool:
    """Whether the front end lets two socket types be connected."""
    if one in ("*", "", 0, None) or other in ("*", "", 0, None):
        return True
    kinds = [set(str(kind).lower().split(",")) for kind in (one, other)]
    return bool(kinds[0] & kinds[1])


@dataclass
class Level:
    """The workflow itself, or one instance of a subgraph."""

    graph: Mapping[str, Any]
    definitions: Mapping[str, Mapping[str, Any]]
    path: tuple[str, ...] = ()
    parent: Level | None = None
    nodes: dict[str, Node] = field(init=False)
    links: dict[str, Link] = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = {str(node["id"]): node for node in self.graph["nodes"]}
        given = self.graph.get("links") or []
        self.links = dict(map(_ends, filter(None, given.values() if isinstance(given, dict) else given)))

    def id(self, node: str) -> str:
        """The node's id in the prompt."""
        return ":".join((*self.path, node))

    def instance(self, node: str) -> Level | None:
        """What is inside a node; None where it is no subgraph. Raises RecursionError for one that holds itself."""
        definition = self.definitions.get(str(self.nodes[node]["type"]))
        if definition is None:
            return None
        around: Level | None = self
        while around is not None:
            if around.graph is definition:
                raise RecursionError("a subgraph holds itself")
            around = around.parent
        return Level(definition, self.definitions, (*self.path, node), self)

    @property
    def node(self) -> Node:
        """The node in the graph around that this is the inside of."""
        assert self.parent is not None
        return self.parent.nodes[self.path[-1]]

    def end(self, which: str) -> str:
        """Id of the subgraph's own node of inputs ("inputNode") or outputs ("outputNode")."""
        return str((self.graph.get(which) or {}).get("id", INPUTS if which == "inputNode" else OUTPUTS))

    def links_of(self, slot: Mapping[str, Any], kind: str, index: int) -> list[Link]:
        """Links at one of the subgraph's own inputs or outputs, in their order."""
        named = [self.links[str(link)] for link in slot.get("linkIds") or [] if str(link) in self.links]
        if named:
            return named
        if kind == "inputs":
            end = self.end("inputNode")
            return [link for link in self.links.values() if (link.origin, link.origin_slot) == (end, index)]
        end = self.end("outputNode")
        return [link for link in self.links.values() if (link.target, link.target_slot) == (end, index)]

    def outer_input(self, index: int) -> dict[str, Any] | None:
        """The instance's own input of the graph around, for the subgraph's input number `index`."""
        slots = entries(self.graph, "inputs")
        inputs = entries(self.node, "inputs")
        name = slots[index]["name"] if index < len(slots) else None
        named = [one for one in inputs if one.get("name") == name]
        return named[0] if named else (inputs[index] if index < len(inputs) else None)

    def input_link(self, one: Mapping[str, Any]) -> Link | None:
        """The link that ends in an input."""
        return None if one.get("link") is None else self.links.get(str(one["link"]))


def primitive_value(node: Node) -> Any:
    """What a primitive node gives; None where it has no value of its own, and so gives what it finds."""
    values = node.get("widgets_values")
    return values[0] if isinstance(values, list) and values else None


def widget_name(text: str) -> str:
    """A promoted widget's name without the ids of nested nodes that old files put before it."""
    while found := _PREFIX.match(text):
        text = text[found.end() :]
    return text


def _ends(link: Any) -> tuple[str, Link]:
    """A link's id and ends; links are lists or objects."""
    if isinstance(link, dict):
        names = ("origin_id", "origin_slot", "target_id", "target_slot")
        id, (origin, origin_slot, target, target_slot) = link["id"], (link[name] for name in names)
    else:
        id, origin, origin_slot, target, target_slot = link[:5]
    return str(id), Link(str(origin), int(origin_slot), str(target), int(target_slot))
