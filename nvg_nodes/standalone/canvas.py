"""The front end's graph -> the prompt that the front end would send, as front end 1.58 builds it.

Left out are muted and bypassed nodes and those that exist in the front end only; links are followed through all of them
to the node that makes the value, into subgraphs and out of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nvg_nodes.standalone import words
from nvg_nodes.standalone.inputs import Catalogue, Prompt, WorkflowError, inputs_of, is_widget, slots_of, unknown_node
from nvg_nodes.standalone.levels import (
    BYPASSED,
    GETTERS,
    MUTED,
    PRIMITIVE,
    SETTERS,
    Level,
    Link,
    Node,
    entries,
    is_virtual,
    mode,
    primitive_value,
    valid_connection,
    widget_name,
)

_REPLACES = "Run widget replace on values"
_NAME = "Node name for S&R"
_SAVERS = "Save"
"""Nodes that save have no name for words of their own, as in the front end."""
Seen = set[tuple[Any, ...]]


class _Found(NamedTuple):
    """What an input gets: [id, output] of a node, or a value."""

    value: Any


class _Host(NamedTuple):
    """Values that a subgraph instance has for what is inside it."""

    by_slot: dict[int, Any]
    """Of its own inputs."""
    by_widget: dict[tuple[str, str], Any]
    """Of widgets of inner nodes, by node and name."""


class Canvas:
    """The graph of a workflow file."""

    def __init__(self, ui: dict[str, Any], catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.root = Level(ui, dict(_definitions(ui)))
        self._hosts: dict[tuple[str, ...], _Host] = {(): _Host({}, {})}

    def prompt(self) -> Prompt:
        """The API prompt."""
        prompt: Prompt = {}
        for level, id, node in self._nodes(self.root, running=True):
            if level.instance(id) is None and not self._virtual(node):
                title = node.get("title") or self._info(level, id)["display_name"] or node["type"]
                inputs = self._inputs(level, id, node)
                prompt[level.id(id)] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": str(title)}}
        return prompt

    def named(self) -> list[words.Named]:
        """Every node by the names that `%Node.widget%` may use, muted ones too."""
        found = []
        for level, id, node in self._nodes(self.root, running=False):
            if level.instance(id) is None:
                name = (node.get("properties") or {}).get(_NAME)
                if name is None and not str(node["type"]).startswith(_SAVERS):
                    name = node["type"]
                known = node["type"] in self.catalogue
                values = self._values(level, id) if known else {"value": primitive_value(node)}
                found.append(words.Named(level.id(id), name, node.get("title"), values))
        return found

    def write(self, id: str, input: str, value: Any) -> None:
        """Changes the value of a widget: its own, that of the primitive node, or of the subgraph that gives it."""
        *path, name = id.split(":")
        level = self.root
        for step in path:
            inner = level.instance(step)
            assert inner is not None
            level = inner
        for one in entries(level.nodes[name], "inputs"):
            link = level.input_link(one)
            if one.get("name") != input or link is None:
                continue
            if link.origin in level.nodes:
                level.nodes[link.origin]["widgets_values"] = [value]
            elif level.parent is not None:
                promoted = [index for index, _ in self._promoted(level)]
                _put(level.node, promoted.index(link.origin_slot), value)
            return
        slots = slots_of(self._info(level, name), _listed(level.nodes[name]))
        if input in slots:
            _put(level.nodes[name], slots.index(input), value)

    def _nodes(self, level: Level, running: bool) -> Iterator[tuple[Level, str, Node]]:
        """All nodes, subgraphs unfolded; only those that run, or those that are muted and bypassed as well."""
        for id, node in level.nodes.items():
            if running and mode(node) in (MUTED, BYPASSED):
                continue
            yield level, id, node
            inner = level.instance(id)
            if inner is not None:
                yield from self._nodes(inner, running)

    def _virtual(self, node: Node) -> bool:
        return is_virtual(node, node["type"] in self.catalogue)

    def _info(self, level: Level, id: str) -> Mapping[str, Any]:
        kind = level.nodes[id]["type"]
        if kind not in self.catalogue:
            raise unknown_node(kind, level.id(id), self.catalogue)
        return self.catalogue[kind]

    # ----------------------------------------------------------------------------------------------------- values

    def _inputs(self, level: Level, id: str, node: Node) -> dict[str, Any]:
        inputs = self._values(level, id)
        for one in entries(node, "inputs"):
            found = self._resolve_input(level, id, one, None, set())
            if found is not None:  # else what the widget holds, if it is one
                inputs[one["name"]] = found.value
        return inputs

    def _values(self, level: Level, id: str) -> dict[str, Any]:
        """Values of a node's widgets by input."""
        node = level.nodes[id]
        info = self._info(level, id)
        if isinstance(node.get("widgets_values"), dict):
            values = dict(node["widgets_values"])
        else:
            given = _listed(node)
            values = {name: one for name, one in zip(slots_of(info, given), given, strict=False) if name}
        for (inner, name), value in self._host(level).by_widget.items():
            if inner == id:
                values[name] = value
        return {name: _unlike_a_link(value) for name, value in values.items() if value is not None}

    def _is_widget(self, node: Node, name: str) -> bool:
        info = self.catalogue.get(node["type"])
        return info is not None and any(
            one == name and is_widget(kind, options) for one, kind, options, _ in inputs_of(info)
        )

    def _promoted(self, level: Level) -> list[tuple[int, str]]:
        """(index, name) of the inputs of a subgraph that are widgets, in the order of its widgets."""
        slots = enumerate(entries(level.graph, "inputs"))
        return [(index, slot["name"]) for index, slot in slots if self._widget_behind(level, index, slot) is not None]

    def _widget_behind(self, level: Level, index: int, slot: Mapping[str, Any]) -> tuple[str, str] | None:
        """(node, name) of the first widget inside that an input of a subgraph leads to."""
        for link in level.links_of(slot, "inputs", index):
            node = level.nodes.get(link.target)
            name = _input_of(level, link)
            if node is None or name is None:
                continue
            inner = level.instance(link.target)
            if inner is not None:
                if any(one == name for _, one in self._promoted(inner)):
                    return link.target, name
            elif self._is_widget(node, name):
                return link.target, name
        return None

    def _host(self, level: Level) -> _Host:
        """The values that an instance gives to its inside; what is missing there is as the inner widgets have it."""
        if level.path not in self._hosts:
            assert level.parent is not None
            host = self._own_values(level)
            for (inner, name), value in self._host(level.parent).by_widget.items():
                if inner == level.path[-1]:
                    self._give(level, host, name, value)
            self._hosts[level.path] = host
        return self._hosts[level.path]

    def _own_values(self, level: Level) -> _Host:
        """What is written at the instance: one value a promoted widget; in older files also for widgets inside."""
        host, values = _Host({}, {}), _listed(level.node)
        promoted = self._promoted(level)
        proxies = _proxies(level.node)
        if not proxies:
            host.by_slot.update((index, value) for (index, _), value in zip(promoted, values, strict=False))
        elif len(values) > len(proxies) and all(inner != "-1" for inner, _ in proxies):
            proxies = [("-1", name) for _, name in promoted] + proxies  # front end 1.35 puts the inputs first
        for (inner, name), value in zip(proxies, values, strict=False):
            behind = {
                self._widget_behind(level, index, slot): index
                for index, slot in enumerate(entries(level.graph, "inputs"))
            }
            if inner == "-1":
                self._give(level, host, name, value)
            elif (inner, name) in behind:
                host.by_slot[behind[inner, name]] = value
            else:
                host.by_widget[inner, name] = value
        return host

    def _give(self, level: Level, host: _Host, name: str, value: Any) -> None:
        """A value for the instance's widget of that name: an input's, or one that stands for a widget inside."""
        slots = [index for index, one in self._promoted(level) if one == name]
        if slots:
            host.by_slot[slots[0]] = value
            return
        for inner, widget in _proxies(level.node):
            if widget == name:
                host.by_widget[inner, widget] = value

    def _promoted_value(self, level: Level, index: int) -> _Found | None:
        """Value of a subgraph's input that nothing is connected to."""
        value = self._host(level).by_slot.get(index)
        slots = entries(level.graph, "inputs")
        behind = self._widget_behind(level, index, slots[index]) if index < len(slots) else None
        if value is None and behind is not None:
            inner = level.instance(behind[0])
            if inner is None:
                value = self._values(level, behind[0]).get(behind[1])
            else:
                nested = {name: slot for slot, name in self._promoted(inner)}
                return self._promoted_value(inner, nested[behind[1]])
        return None if value is None else _Found(_unlike_a_link(value))

    # ------------------------------------------------------------------------------------------------ connections

    def _resolve_input(self, level: Level, id: str, one: Mapping[str, Any], kind: Any, seen: Seen) -> _Found | None:
        """What an input is connected to; None: nothing, or nothing that runs.

        Args:
            kind: socket type that is asked for; None: the input's own.
        """
        _once((level.path, id, "in", one.get("name")), seen)
        link = level.input_link(one)
        if link is None:
            return None
        origin = level.nodes.get(link.origin)
        if origin is not None and origin["type"] == PRIMITIVE:
            return self._primitive(origin) if kind is None else None  # it fills in widgets, and reroutes have none
        kind = one.get("type") if kind is None else kind
        if level.parent is not None and link.origin == level.end("inputNode"):
            return self._from_outside(level, link.origin_slot, seen)
        return self._resolve_output(level, link.origin, link.origin_slot, kind, seen)

    def _from_outside(self, level: Level, index: int, seen: Seen) -> _Found | None:
        """What comes into a subgraph instance at its input number `index`."""
        outer = level.outer_input(index)
        assert level.parent is not None
        if outer is not None and level.parent.input_link(outer) is not None:
            return self._resolve_input(level.parent, level.path[-1], outer, None, seen)
        return self._promoted_value(level, index)

    def _resolve_output(self, level: Level, id: str, slot: int, kind: Any, seen: Seen) -> _Found | None:
        """What an output gives."""
        _once((level.path, id, "out", slot), seen)
        node = level.nodes.get(id)
        if node is None:
            return None
        if mode(node) == MUTED:
            return None
        inputs = entries(node, "inputs")
        if mode(node) == BYPASSED:
            through = _bypass(node, slot, kind)
            return None if through is None else self._resolve_input(level, id, through, kind, seen)
        inner = level.instance(id)
        if inner is not None:
            return self._from_inside(inner, node, slot, kind, seen)
        if node["type"] in GETTERS:
            where, setter = _setter(level, id)
            node, inputs = where.nodes[setter], entries(where.nodes[setter], "inputs")
            return self._resolve_input(where, setter, inputs[0], kind, seen) if inputs else None
        if self._virtual(node):
            return self._resolve_input(level, id, inputs[slot], kind, seen) if slot < len(inputs) else None
        return _Found([level.id(id), slot])

    def _from_inside(self, inner: Level, node: Node, slot: int, kind: Any, seen: Seen) -> _Found | None:
        """What an output of a subgraph instance gives."""
        outer, slots = entries(node, "outputs"), entries(inner.graph, "outputs")
        name = outer[slot].get("name") if slot < len(outer) else None
        index = next((index for index, one in enumerate(slots) if one.get("name") == name), slot)
        links = inner.links_of(slots[index], "outputs", index) if index < len(slots) else []
        if not links:
            return None
        if links[0].origin == inner.end("inputNode"):
            return self._from_outside(inner, links[0].origin_slot, seen)
        return self._resolve_output(inner, links[0].origin, links[0].origin_slot, kind, seen)

    def _primitive(self, node: Node) -> _Found | None:
        value = primitive_value(node)
        if isinstance(value, str) and (node.get("properties") or {}).get(_REPLACES):
            value = words.filled(value, self.named())
        return None if value is None else _Found(_unlike_a_link(value))


def _definitions(graph: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Subgraphs by their id, those inside the definitions of others too."""
    definitions = graph.get("definitions")
    for one in (definitions.get("subgraphs") or []) if isinstance(definitions, dict) else []:
        if isinstance(one, dict):
            yield str(one.get("id")), one
            yield from _definitions(one)


def _once(place: tuple[Any, ...], seen: Seen) -> None:
    """Notes a place that a link leads through. Raises WorkflowError where it leads there again."""
    if place in seen:
        raise WorkflowError(f"the connections run in a circle through node {':'.join((*place[0], place[1]))}")
    seen.add(place)


def _listed(node: Node) -> list[Any]:
    values = node.get("widgets_values")
    return values if isinstance(values, list) else []


def _put(node: Node, index: int, value: Any) -> None:
    values = node.setdefault("widgets_values", [])
    values.extend([None] * (index + 1 - len(values)))
    values[index] = value


def _proxies(node: Node) -> list[tuple[str, str]]:
    """(inner node, widget) that an instance shows as its own; inner node -1: its own input."""
    given = (node.get("properties") or {}).get("proxyWidgets") or []
    if isinstance(given, str):
        given = json.loads(given)
    return [(str(entry[0]), widget_name(str(entry[1]))) for entry in given]


def _input_of(level: Level, link: Link) -> str | None:
    """Name of the input that a link ends in."""
    inputs = entries(level.nodes[link.target], "inputs") if link.target in level.nodes else []
    for one in inputs:
        if level.input_link(one) is link:
            return one.get("name")
    return inputs[link.target_slot].get("name") if link.target_slot < len(inputs) else None


def _bypass(node: Node, slot: int, kind: Any) -> Mapping[str, Any] | None:
    """The input whose value a bypassed node hands on: at the same place, else the first of the type."""
    inputs, outputs = entries(node, "inputs"), entries(node, "outputs")
    if not inputs:
        return None
    if kind in ("*", "", None):
        return inputs[slot if slot < len(inputs) else 0]
    own = outputs[slot].get("type") if slot < len(outputs) else kind

    def fits(one: Mapping[str, Any]) -> bool:
        return valid_connection(one.get("type"), own) and valid_connection(one.get("type"), kind)

    same_place = [one for one in inputs[slot : slot + 1] if fits(one)]
    exact = [one for one in inputs if one.get("type") == kind]
    return next(iter([*same_place, *exact, *filter(fits, inputs)]), None)


def _setter(level: Level, id: str) -> tuple[Level, str]:
    """The Set node that a Get node reads, here or in a graph around. Raises WorkflowError where there is none."""
    name = (_listed(level.nodes[id]) or [None])[0]
    around: Level | None = level
    while around is not None:
        for other, node in around.nodes.items():
            if node["type"] in SETTERS and _listed(node)[:1] == [name]:
                return around, other
        around = around.parent
    raise WorkflowError(f"node {level.id(id)} gets {name!r}, but no Set node of that name is in the workflow")


def _unlike_a_link(value: Any) -> Any:
    """A list as the front end sends it, so that it is not taken for a connection."""
    return {"__value__": value} if isinstance(value, list) else value
