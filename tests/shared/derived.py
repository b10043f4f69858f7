"""Files that follow from the nodes' schemas: the contract, the English texts, the reference page, the solvers on their
help page, and the slots of the shipped workflows and blueprints.

`make derived` writes them again after a node was added or changed; tests compare. It refuses to write a contract that
would break saved workflows.
"""

import json
import re
import sys
from pathlib import Path

import workflow_slots

from nvg_model.solvers import SOLVERS
from nvg_nodes.extension import NODES
from nvg_nodes.standalone.graph import inputs_of, is_widget

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "tests" / "nvg_nodes" / "contract.json"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
REFERENCE = ROOT / "docs" / "nodes.md"
SETTINGS = ROOT / "nvg_nodes" / "web" / "docs" / "NVGSamplingSettings.md"
FILES = {"checkpoint", "autoencoder", "generator"}
"""Inputs whose lists, and so whose defaults, are the files that happen to be there."""


def signature(node) -> dict:
    """What workflows rely on of a node."""
    info = node.GET_NODE_INFO_V1()
    inputs = []
    for name, kind, options, optional in inputs_of(info):
        entry = {"name": name, "type": kind, "optional": optional}
        if is_widget(kind, options):
            kept = {"default", "absent", "min", "max", "options", "control_after_generate"}
            entry |= {key: value for key, value in options.items() if key in kept}
        if name in FILES:
            entry.pop("options")
            entry.pop("default", None)
        inputs.append(entry)
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}


def present() -> dict[str, dict]:
    """The contract of the nodes as they are now."""
    return json.loads(json.dumps({node.GET_SCHEMA().node_id: signature(node) for node in NODES}))


def breaks(old: dict[str, dict], new: dict[str, dict]) -> list[str]:
    """What would break saved workflows."""
    found = [f"{name} is gone: ids are for ever" for name in old.keys() - new.keys()]
    for name in old.keys() & new.keys():
        before, now = old[name]["inputs"], new[name]["inputs"]
        names = [entry["name"] for entry in before]
        if [entry["name"] for entry in now[: len(before)]] != names:
            now_names = [entry["name"] for entry in now]
            found.append(
                f"{name} has the inputs {now_names}; saved workflows rely on {names}, in this order: keep them, and "
                "append new ones at the end"
            )
            continue
        found += [
            f"{name}.{entry['name']} is new and required: saved workflows have no value for it, make it optional"
            for entry in now[len(before) :]
            if not entry["optional"]
        ]
        for was, entry in zip(before, now, strict=False):
            found += [f"{name}.{was['name']}: {trouble}" for trouble in _narrowed(was, entry)]
        outputs = old[name]["outputs"]
        if new[name]["outputs"][: len(outputs)] != outputs:
            found.append(f"{name} has the outputs {new[name]['outputs']}; saved workflows rely on {outputs}: append")
        if new[name]["output_node"] != old[name]["output_node"]:
            found.append(f"{name} is {'now' if new[name]['output_node'] else 'no longer'} an output node")
    return found


def _narrowed(was: dict, now: dict) -> list[str]:
    """Values of an input that were good and are not any more."""
    found = []
    if was["type"] != now["type"]:
        found.append(f"its type {was['type']} became {now['type']}")
    if now["optional"] < was["optional"]:
        found.append("it became required")
    if was.get("control_after_generate") != now.get("control_after_generate"):
        found.append("control_after_generate changed, which moves all values after it")
    if set(was.get("options", [])) - set(now.get("options", was.get("options", []))):
        found.append(f"choices are gone: {sorted(set(was['options']) - set(now['options']))}")
    if now.get("min", was.get("min")) != was.get("min") and now["min"] > was["min"]:
        found.append(f"its least value rose to {now['min']}")
    if now.get("max", was.get("max")) != was.get("max") and now["max"] < was["max"]:
        found.append(f"its largest value fell to {now['max']}")
    before, after = (one.get("absent", one.get("default")) for one in (was, now))
    if was["optional"] and before != after:
        found.append(f"without it prompts now have {after}; they rely on {before}")
    return found


def schemas() -> dict:
    """The schemas of all nodes by their ids."""
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in NODES)}


def definitions() -> dict:
    """The schemas as the front end wants its English: everything that it shows of a node, by its keys."""
    return {
        node_id: {
            "display_name": escaped(schema.display_name),
            "description": escaped(schema.description),
            "inputs": {one.id: {"name": one.id, "tooltip": escaped(one.tooltip)} for one in schema.inputs},
            "outputs": {
                str(index): {"name": one.display_name, "tooltip": escaped(one.tooltip)}
                for index, one in enumerate(schema.outputs)
            },
        }
        for node_id, schema in schemas().items()
    }


def escaped(text: str) -> str:
    """A text as a message of vue-i18n, to which @, {, } and | mean something."""
    return re.sub(r"[@{}|]", lambda found: f"{{'{found[0]}'}}", text)


def default_of(one) -> str:
    """What a table says of an input's default."""
    if one.id in FILES:
        return "first"
    entry = one.as_dict()
    if "default" not in entry:
        return "optional" if one.optional else "required"
    value = entry["default"]
    return "empty" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def reference() -> str:
    """A page with every node, its inputs and its outputs, by category."""
    lines = [
        "# Nodes",
        "",
        "Every node with its inputs and outputs. The name of a node leads to its help page, which has tips and what to "
        "do when something goes wrong; in ComfyUI the same page opens with the node's *?*.",
        "",
        "<!-- Written by `make derived` from the nodes' schemas: change those. -->",
    ]
    category = None
    for node_id, schema in sorted(schemas().items(), key=lambda pair: _CATEGORIES.index(pair[1].category)):
        if schema.category != category:
            category = schema.category
            lines += ["", f"## {category}"]
        lines += ["", f"### [{schema.display_name}](../nvg_nodes/web/docs/{node_id}.md)", "", schema.description, ""]
        lines += _rows(("input", "type", "default", "meaning"), [_input_row(one) for one in schema.inputs])
        lines += ["", *_rows(("output", "type", "meaning"), [_output_row(one) for one in schema.outputs])]
    return "\n".join(lines) + "\n"


_CATEGORIES = list(dict.fromkeys(schema.category for schema in schemas().values()))


def _input_row(one) -> tuple[str, ...]:
    return f"`{one.id}`", one.io_type, default_of(one), one.tooltip


def _output_row(one) -> tuple[str, ...]:
    return f"`{one.display_name}`", one.io_type, one.tooltip


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]


def with_solvers(page: str) -> str:
    """The help page of the sampling settings with all solvers in the row of `solver`, as its tooltip has them."""
    solver = next(one for one in schemas()["NVGSamplingSettings"].inputs if one.id == "solver")
    row = f"| `solver`<br>{solver.io_type}<br>{default_of(solver)} | "
    named = re.sub(rf"\b({'|'.join(SOLVERS)}) \(", r"`\1` (", solver.tooltip)
    return "\n".join(f"{row}{named} |" if line.startswith(row) else line for line in page.split("\n"))


def contents() -> dict[Path, str]:
    """What the derived files should hold."""
    contract = present()
    graphs = [*(ROOT / "workflows").glob("*.json"), *(ROOT / "subgraphs").glob("*.json")]
    return {
        **{path: workflow_slots.completed(path.read_text(encoding="utf-8"), contract) for path in sorted(graphs)},
        CONTRACT: json.dumps(contract, indent=1) + "\n",
        ENGLISH: json.dumps(definitions(), ensure_ascii=False, indent=2) + "\n",
        REFERENCE: reference(),
        SETTINGS: with_solvers(SETTINGS.read_text(encoding="utf-8")),
    }


def main() -> None:
    """Writes those that changed, and names them."""
    trouble = breaks(json.loads(CONTRACT.read_text(encoding="utf-8")), present())
    if trouble:
        sys.exit("\n".join(trouble))
    for path, content in contents().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
