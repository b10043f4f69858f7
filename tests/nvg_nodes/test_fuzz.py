"""Mutated workflow files: whatever is in them, they are read, or one sentence says what is wrong; never a traceback."""

import copy
import json
import random
from pathlib import Path

import pytest
from PIL import Image

from nvg_model import NVGError
from nvg_nodes.standalone import graph, runner, workflow
from nvg_nodes.standalone.core_nodes import Files

FILES = 1000
SEED = 17
JUNK = [
    None,
    True,
    -1,
    0,
    3,
    1e308,
    float("nan"),
    10**30,
    "",
    "-10",
    "\ud800",
    "a\0b",
    [],
    {},
    [[]],
    {"__value__": [1]},
]
UUID = "11111111-2222-4333-8444-555555555555"
API = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png", "upload": "image"}},
    "2": {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 2.0},
        "_meta": {"title": "Bigger"},
    },
    "3": {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "%date:yy%/%Bigger.scale_by%"},
    },
}


def with_subgraph(content):
    """A graph as front ends write it, with a node that stands for a subgraph, and nodes of the front end's own."""
    content = copy.deepcopy(content)
    image = {"name": "image", "type": "IMAGE", "link": 1}
    inner = {"id": 7, "type": "ImageScaleBy", "inputs": [image], "outputs": [{"name": "IMAGE", "type": "IMAGE"}]}
    links = [(1, "-10", 0, 7, 0), (2, 7, 0, -20, 0), (3, -10, 1, 7, 1)]
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    factor = {"name": "scale_by", "type": "FLOAT", "link": 3, "widget": {"name": "scale_by"}}
    inner = inner | {"inputs": [image, factor], "widgets_values": ["area", 2]}
    ends = [
        [{"name": "image", "type": "IMAGE", "linkIds": [1]}, {"name": "f", "type": "FLOAT", "linkIds": [3]}],
        [{"name": "IMAGE", "type": "IMAGE", "linkIds": [2]}],
    ]
    definition = {"id": UUID, "nodes": [inner], "links": [dict(zip(names, one, strict=True)) for one in links]}
    definition |= {"inputs": ends[0], "outputs": ends[1], "inputNode": {"id": -10}, "outputNode": {"id": -20}}
    standing = {"id": 90, "type": UUID, "inputs": [image | {"link": 91}], "outputs": [{"type": "IMAGE"}]}
    standing |= {"properties": {"proxyWidgets": [["7", "upscale_method"]]}, "widgets_values": ["area", 3]}
    primitive = {"id": 94, "type": "PrimitiveNode", "widgets_values": [2.0], "outputs": [{"type": "FLOAT"}]}
    setter = {"id": 95, "type": "SetNode", "widgets_values": ["a"], "inputs": [image | {"link": 93}], "outputs": []}
    getter = {"id": 96, "type": "GetNode", "widgets_values": ["a"], "outputs": [{"type": "IMAGE"}], "mode": 4}
    saver = {"id": 92, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 92}]}
    loader = {"id": 93, "type": "LoadImage", "widgets_values": ["in.png", "image"], "outputs": [{"type": "IMAGE"}]}
    content["nodes"] += [standing, primitive, setter, getter, saver, loader]
    content["links"] += [[91, 93, 0, 90, 0, "IMAGE"], [92, 90, 0, 92, 0, "IMAGE"], [93, 93, 0, 95, 0, "IMAGE"]]
    return content | {"definitions": {"subgraphs": [definition]}}


@pytest.fixture(scope="module")
def originals():
    folder = Path(__file__).resolve().parents[2] / "workflows"
    shipped = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    assert shipped
    return [*shipped, API, *map(with_subgraph, shipped[:4])]


def places(tree):
    """Every (container, key) of a tree of JSON."""
    found, left = [], [tree]
    while left:
        branch = left.pop()
        keys = list(branch) if isinstance(branch, dict) else range(len(branch))
        for key in keys:
            found.append((branch, key))
            if isinstance(branch[key], dict | list):
                left.append(branch[key])
    return found


def mutated(content, chance):
    """A copy with one to four changes: something is replaced, removed, doubled, wrapped or renamed."""
    content = copy.deepcopy(content)
    for _ in range(chance.randint(1, 4)):
        branch, key = chance.choice(places(content) or [(content, None)])
        if key is None:
            continue
        change = chance.choice(("junk", "junk", "other", "remove", "double", "wrap", "rename"))
        if change == "junk":
            branch[key] = copy.deepcopy(chance.choice(JUNK))
        elif change == "other":
            other, place = chance.choice(places(content))
            branch[key] = copy.deepcopy(other[place])
        elif change == "remove":
            del branch[key]
        elif change == "wrap":
            branch[key] = [branch[key]]
        elif isinstance(branch, list):
            branch.append(copy.deepcopy(branch[key]))
        else:
            branch[str(key) + "_"] = branch.pop(key)
    return content


def check(content, catalogue, set_values=False):
    """Reads a workflow, shows it, sets values in it, and checks it; what an NVGError said, which is all that may be."""
    try:
        read = graph.parse(content, catalogue)
        workflow._listed(read)
        for id, node in list(read.prompt.items())[: 3 * set_values]:
            for name in list(node["inputs"])[:2]:
                try:
                    read.with_value(id, name, 5, catalogue)
                except NVGError as error:
                    assert str(error)
        runner.check(read.filled(), catalogue)
    except NVGError as error:
        return str(error)
    return ""


def test_mutated_workflows(originals):
    chance, catalogue = random.Random(SEED), runner.catalogue()
    assert not any(check(content, catalogue) for content in originals if content is API)
    outcomes = []
    for number in range(FILES):
        content = mutated(originals[number % len(originals)], chance)
        try:
            outcomes.append(check(content, catalogue, set_values=number % 5 == 0))
        except Exception as error:
            pytest.fail(f"file {number}: {error!r} from {json.dumps(content)[:3000]}")
    refused = [one for one in outcomes if one]
    bad = [one for one in refused if "\n" in one.strip() or len(one) >= 2000]
    assert not bad, [(len(one), one[:300]) for one in bad]
    assert FILES * 0.1 < len(refused) < FILES * 0.9, "mutations that change nothing, or break everything, test little"


def test_mutated_bytes(folder, originals, monkeypatch, capsys):
    """Files that are cut, and whose bytes are changed, through the console script."""
    monkeypatch.setenv("NVG_TRACEBACK", "1")
    chance = random.Random(SEED)
    catalogue = runner.catalogue()
    monkeypatch.setattr(runner, "catalogue", lambda: catalogue)
    for number in range(200):
        data = bytearray(json.dumps(originals[number % len(originals)]).encode())
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        (folder / "file.json").write_bytes(data)
        status = workflow.main(["file.json", "--list"])
        assert (status, capsys.readouterr().err.count("\n")) in ((0, 0), (2, 1))


def test_mutated_prompts_that_run(folder):
    """Cheap ones, so that nodes meet the values that the checks let through."""
    Image.new("RGB", (4, 3), "red").save(folder / "in.png")
    chance = random.Random(SEED)
    ran = 0
    for number in range(200):
        content = copy.deepcopy(API)
        branch, key = chance.choice([(node["inputs"], key) for node in content.values() for key in node["inputs"]])
        branch[key] = chance.choice([*JUNK, ["1", 1], ["2", 0], "area", "x" * 300, 7, "../x", "a\\b"])
        engine = runner.Runner(Files([folder], folder / "out"))
        try:
            engine.run(graph.parse(content, runner.catalogue()))
            ran += 1
        except NVGError:
            pass
        except Exception as error:
            pytest.fail(f"file {number}: {error!r} from {json.dumps(content)}")
    assert 20 < ran < 180, ran
