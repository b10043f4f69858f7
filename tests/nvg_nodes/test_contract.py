"""The contract with saved workflows: ids, names, types and order of every node's inputs and outputs, for ever.

`python tests/nvg_nodes/test_contract.py` records what was appended; it refuses whatever would break a workflow.
"""

import json
import sys
from pathlib import Path

import pytest

from nvg_nodes.extension import NODES
from nvg_nodes.standalone.graph import inputs_of, is_widget

CONTRACT = Path(__file__).with_name("contract.json")
FILES = {"checkpoint", "autoencoder", "generator"}
"""Inputs whose lists are the files that happen to be there."""
RECORD = "python tests/nvg_nodes/test_contract.py"


def signature(node) -> dict:
    """What workflows rely on of a node."""
    info = node.GET_NODE_INFO_V1()
    inputs = []
    for name, kind, options, optional in inputs_of(info):
        entry = {"name": name, "type": kind, "optional": optional}
        if is_widget(kind, options):
            kept = {"default", "min", "max", "options", "control_after_generate"}
            entry |= {key: value for key, value in options.items() if key in kept}
        if name in FILES:
            entry.pop("options")
            entry.pop("default", None)
        inputs.append(entry)
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}


def present() -> dict[str, dict]:
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
    if was["optional"] and was.get("default") != now.get("default"):
        found.append(f"its default changed to {now.get('default')}, on which prompts without it rely")
    return found


def test_saved_workflows_keep_working():
    assert not breaks(json.loads(CONTRACT.read_text()), present())


def test_what_was_appended_is_recorded():
    assert json.loads(CONTRACT.read_text()) == present(), f"nothing broke, but there is news: record it with {RECORD}"


def _edit(contract, node, **changes):
    edited = json.loads(json.dumps(contract))
    edited[node] |= changes
    return edited


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "NVGDecode"}, "NVGDecode is gone"),
        (lambda c: _edit(c, "NVGDecode", inputs=c["NVGDecode"]["inputs"][::-1]), "in this order"),
        (lambda c: _edit(c, "NVGDecode", inputs=c["NVGDecode"]["inputs"][:-1]), "keep them"),
        (
            lambda c: _edit(
                c,
                "NVGDecode",
                inputs=[*c["NVGDecode"]["inputs"], {"name": "new", "type": "INT", "optional": False}],
            ),
            "make it optional",
        ),
        (lambda c: _edit(c, "NVGDecode", outputs=[["picture", "IMAGE"]]), "saved workflows rely on"),
    ],
)
def test_the_guard_notices(change, complaint):
    found = breaks(present(), change(present()))
    assert len(found) == 1 and complaint in found[0]


def test_appending_an_optional_input_breaks_nothing():
    inputs = [*present()["NVGDecode"]["inputs"], {"name": "new", "type": "INT", "optional": True}]
    assert not breaks(present(), _edit(present(), "NVGDecode", inputs=inputs))


if __name__ == "__main__":
    old = json.loads(CONTRACT.read_text()) if CONTRACT.exists() else {}
    trouble = breaks(old, present())
    if trouble:
        sys.exit("\n".join(trouble))
    CONTRACT.write_text(json.dumps(present(), indent=1) + "\n")
