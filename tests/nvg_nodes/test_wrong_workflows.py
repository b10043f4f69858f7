"""Mistakes in a workflow, by `nvg-run`: each is one sentence that says what to do."""

import json
import re

import pytest

from nvg_nodes.standalone import workflow

LOAD = {"class_type": "NVGLoadModel", "inputs": {"checkpoint": "tiny.safetensors", "dtype": "float32"}}
DRAW = {"class_type": "NVGGenerate", "inputs": {"model": ["1", 0], "class_name": "heart", "seed": 7, "batch_size": 1}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "nvg"}}
GOOD = {"1": LOAD, "2": DRAW, "3": SAVE}


def changed(node="2", **inputs):
    """The good workflow with other inputs of a node; None leaves one out."""
    merged = {name: value for name, value in (GOOD[node]["inputs"] | inputs).items() if value is not None}
    return GOOD | {node: GOOD[node] | {"inputs": merged}}


def graph_of(**node):
    """A front end's graph with one node."""
    return {"nodes": [{"id": 1, "type": "NVGLoadModel", "inputs": [], "outputs": []} | node], "links": []}


LOOP = {"class_type": "NVGStructureKeep", "inputs": {"structure": ["2", 0], "stages": 1}}
SHOW = {"class_type": "NVGStructurePreview", "inputs": {"structure": ["2", 0]}}
WORKFLOWS = {
    "no model": (changed(model=None), "model of NVGGenerate .node 2. is missing"),
    "wrong socket": (changed("3", images=["1", 0]), "needs IMAGE, but NVGLoadModel .node 1. gives NVG_MODEL"),
    "value for a socket": (changed(model="emoji64"), "needs a connection of type NVG_MODEL, not a value"),
    "link to nowhere": (changed(model=["77", 0]), "node 77, which is not in the workflow"),
    "output that is not there": (changed(model=["1", 9]), "connected to output 9 of NVGLoadModel"),
    "unknown class": (changed(class_name="hart"), "there is no class 'hart'; did you mean heart"),
    "class number out of range": (changed(class_name="99"), "class 99 is out of range"),
    "no class": (changed(class_name=" "), "no class was given"),
    "deleted checkpoint": (changed("1", checkpoint="gone.safetensors"), "there is no checkpoint 'gone.safetensors'"),
    "path out of the folder": (changed("1", checkpoint="../../secret"), "there is no checkpoint '../../secret'"),
    "truncated checkpoint": (changed("1", checkpoint="cut.safetensors"), "damaged, truncated or not a safetensors"),
    "not a hub id": (changed("1", hub_id="http://x/y"), "'http://x/y' is not a hub id; write owner/name"),
    "number out of range": (
        changed(batch_size=0),
        "batch_size of NVGGenerate .node 2. is 0; .* not be less than 1",
    ),
    "number too large": (changed(batch_size=10**6), "must not be more than 256"),
    "text for a number": (changed(seed="seven"), "seed of NVGGenerate .node 2. is 'seven', which is no INT"),
    "negative seed": (changed(seed=-1), "seed of NVGGenerate .node 2. is -1; it must not be less than 0"),
    "not in the list": (changed("1", dtype="float8"), "is 'float8'; choose one of auto, float32, bfloat16, float16"),
    "no such input": (
        changed(quality=["1", 0]),
        "has no input 'quality', to which something is connected; it has model, class_name, seed",
    ),
    "keeping without a sequence": (changed(keep_structure=2), "keep_structure is 2, but there is no sequence"),
    "circle": (
        {"1": LOOP | {"inputs": {"structure": ["1", 0], "stages": 1}}, "2": SHOW | {"inputs": {"structure": ["1", 0]}}},
        "runs in a circle through NVGStructureKeep",
    ),
    "no output": ({"1": LOAD}, "the workflow has no output; add a Save Image"),
    "node of a newer version": (
        GOOD | {"9": {"class_type": "NVGDream", "inputs": {}}},
        "NVGDream .*update nvg",
    ),
    "node of another pack": (
        GOOD | {"9": {"class_type": "KSampler", "inputs": {}}},
        "KSampler .node 9. is not a",
    ),
    "subgraph that is not in the file": (
        graph_of(type="11111111-2222-4333-8444-555555555555"),
        "node 1 is a subgraph whose contents are not in the file",
    ),
    "group node": (
        graph_of(type="workflow>Bigger"),
        "node 1 is the group node 'Bigger', which only ComfyUI can take apart: .* Convert to nodes",
    ),
    "type that is null": ({"1": {"class_type": None, "inputs": {}}}, "node 1 has no class_type"),
    "damaged graph": (graph_of() | {"nodes": [{"id": 1}]}, "the workflow is damaged"),
    "not a workflow": ([1, 2], "this is not a workflow"),
    "another JSON": ({"a": 1}, "this is not a workflow: entry 'a' has no class_type"),
    "not JSON": ("{", "is not JSON"),
    "no such picture": (
        {"1": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}}, "3": changed("3", images=["1", 0])["3"]},
        "there is no picture 'gone.png'",
    ),
    "not a picture": (
        {"1": {"class_type": "LoadImage", "inputs": {"image": "text.png"}}, "3": changed("3", images=["1", 0])["3"]},
        "text.png is not a picture of a known format",
    ),
    "prefix out of the folder": (changed("3", filename_prefix="../../x"), "leads out of out"),
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow(name, folder, capsys):
    content, complaint = WORKFLOWS[name]
    (folder / "models/nvg/cut.safetensors").write_bytes((folder / "models/nvg/tiny.safetensors").read_bytes()[:5000])
    (folder / "text.png").write_text("no picture")
    path = folder / "workflow.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert workflow.main([str(path), "--out", "out", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nvg-run: ") and said.count("\n") == 1
    assert re.search(complaint, said), said


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("seed=3", "not of the form NODE.INPUT=VALUE"),
        ("Nobody.seed=3", "there is no node 'Nobody'; --list shows all"),
        ("2.model=3", "model of NVGGenerate .node 2. is connected to NVGLoadModel"),
        ("2.sead=3", "has no input 'sead'"),
        ("NVGGenerate.seed=3", "2 nodes are called 'NVGGenerate'; name one by its id: 2, 4"),
    ],
)
def test_setting(setting, complaint, folder, capsys):
    content = GOOD | ({"4": DRAW} if setting.startswith("NVGGenerate") else {})
    (folder / "workflow.json").write_text(json.dumps(content))
    assert workflow.main(["workflow.json", "--set", setting]) == 2
    said = capsys.readouterr().err
    assert re.search(complaint, said), said


def test_missing_workflow_and_wrong_option(capsys):
    assert workflow.main(["gone.json"]) == 2
    assert "gone.json cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        workflow.main(["--nonsense"])
    assert capsys.readouterr().err.count("\n") == 1


def test_everything_works_after_all_that(folder):
    (folder / "workflow.json").write_text(json.dumps(GOOD))
    assert workflow.main(["workflow.json", "--quiet"]) == 0
