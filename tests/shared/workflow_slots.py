"""Shipped workflows and blueprints follow the nodes: inputs and outputs that were appended to a node appear in them.

The front end does the same when it opens an older workflow; ours show every slot at once.
"""

import json

from nvg_nodes.standalone.graph import WIDGETS

WIDTH = 120


def completed(text: str, contract: dict[str, dict]) -> str:
    """A workflow's text with the slots and widget values that its nodes lack."""
    content = json.loads(text)
    graphs = [content, *content.get("definitions", {}).get("subgraphs", [])]
    for graph in graphs:
        for node in graph["nodes"]:
            if node["type"] in contract:
                _complete(node, contract[node["type"]])
    return written(content)


def written(content: dict) -> str:
    """A workflow as its file has it: what fits stands on one line, and so do lists of plain values."""
    return _lines(content, "") + "\n"


def _lines(value: object, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False)
    plain = not isinstance(value, dict | list) or (
        isinstance(value, list) and not any(isinstance(one, dict | list) for one in value)
    )
    if plain or (indent and isinstance(value, dict | list) and len(indent) + len(line) < WIDTH and "\n" not in line):
        return line
    deeper = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name, ensure_ascii=False)}: {_lines(one, deeper)}" for name, one in value.items()]
    else:
        parts = [_lines(one, deeper) for one in value]  # type: ignore[attr-defined]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + ",".join(f"\n{deeper}{part}" for part in parts) + f"\n{indent}{closing}"


def _complete(node: dict, promised: dict) -> None:
    there = {entry["name"] for entry in node["inputs"]}
    missing = [entry for entry in promised["inputs"] if entry["name"] not in there]
    for entry in missing:
        slot = {"name": entry["name"], "type": entry["type"]}
        if entry["type"] in WIDGETS:
            slot["widget"] = {"name": entry["name"]}
            node["widgets_values"].append(entry.get("default", ""))
        else:
            slot["shape"] = 7  # optional
        node["inputs"].append(slot | {"link": None})
    outputs = promised["outputs"][len(node["outputs"]) :]
    node["outputs"] += [{"name": name, "type": kind, "links": None} for name, kind in outputs]
