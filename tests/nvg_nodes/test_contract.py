"""The contract with saved workflows: ids, names, types and order of every node's inputs and outputs, for ever.

`make derived` records what was appended; it refuses whatever would break a workflow.
"""

import json

import pytest
from derived import CONTRACT, breaks, present


def test_saved_workflows_keep_working():
    assert not breaks(json.loads(CONTRACT.read_text()), present())


def test_what_was_appended_is_recorded():
    assert json.loads(CONTRACT.read_text()) == present(), "nothing broke, but there is news: make derived"


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
