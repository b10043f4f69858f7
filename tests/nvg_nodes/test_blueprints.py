"""The blueprints that ComfyUI offers as nodes: they keep the contract, and draw what their nodes draw."""

import json
from pathlib import Path

import pytest
import torch

import nvg_model
from nvg_nodes import images
from nvg_nodes.standalone import graph, runner
from nvg_nodes.standalone.core_nodes import Files

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
FILES = sorted(FOLDER.glob("*.json"))
CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text())
every = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def content_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def used(path: Path, model: str) -> dict:
    """A workflow of a blueprint with a loader before it, a picture where it takes one, and its image saved."""
    content = content_of(path)
    (node,) = content["nodes"]
    slots = {entry["name"]: slot for slot, entry in enumerate(node["inputs"])}
    content["nodes"] += [
        _node(100, "NVGLoadModel", [], [["model", "NVG_MODEL"], ["classes", "STRING"]], [model, "auto", ""]),
        _node(101, "LoadImage", [], [["IMAGE", "IMAGE"], ["MASK", "MASK"]], ["example.png", "image"]),
        _node(102, "SaveImage", [["images", "IMAGE", 3]], [], ["nvg"]),
    ]
    content["links"] = [[1, 100, 0, node["id"], slots["model"], "NVG_MODEL"], [3, node["id"], 0, 102, 0, "IMAGE"]]
    node["inputs"][slots["model"]]["link"] = 1
    if "mask" in slots:
        content["nodes"].append(_node(103, "SolidMask", [], [["MASK", "MASK"]], [1.0, 8, 8]))
        content["links"].append([4, 103, 0, node["id"], slots["mask"], "MASK"])
        node["inputs"][slots["mask"]]["link"] = 4
    if "image" in slots:
        content["links"].append([2, 101, 0, node["id"], slots["image"], "IMAGE"])
        node["inputs"][slots["image"]]["link"] = 2
    else:
        content["nodes"] = [one for one in content["nodes"] if one["id"] != 101]
    for entry in node["outputs"]:
        entry["links"] = [3] if entry["name"] == "image" else []
    return content


def _node(id: int, kind: str, inputs: list, outputs: list, values: list) -> dict:
    return {
        "id": id,
        "type": kind,
        "mode": 0,
        "inputs": [{"name": name, "type": type, "link": link} for name, type, link in inputs],
        "outputs": [{"name": name, "type": type, "links": []} for name, type in outputs],
        "widgets_values": values,
    }


def test_there_are_four():
    names = ["NVG Inpaint and Compare", "NVG Stage by Stage", "NVG Structure Transfer", "NVG Two Regions"]
    assert [path.stem for path in FILES] == names


@every
def test_it_keeps_the_contract(path):
    content = content_of(path)
    (definition,) = content["definitions"]["subgraphs"]
    (node,) = content["nodes"]
    assert node["type"] == definition["id"] and definition["name"] == path.stem and definition["description"]
    for side in ("inputs", "outputs"):
        assert [(one["name"], one["type"]) for one in node[side]] == [
            (one["name"], one["type"]) for one in definition[side]
        ]
    nodes, ends = {one["id"]: one for one in definition["nodes"]}, {}
    for one in nodes.values():
        promised = CONTRACT[one["type"]]
        assert {entry["name"]: entry["type"] for entry in one["inputs"]} == {
            entry["name"]: entry["type"] for entry in promised["inputs"]
        }
        assert [[entry["name"], entry["type"]] for entry in one["outputs"]] == promised["outputs"]
        ends |= {entry["link"]: (one["id"], slot) for slot, entry in enumerate(one["inputs"]) if entry["link"]}
    inside = {link["id"]: link for link in definition["links"]}
    assert ends == {
        id: (link["target_id"], link["target_slot"]) for id, link in inside.items() if link["target_id"] != -20
    }
    for slot, one in enumerate(definition["inputs"]):
        assert all(inside[id]["origin_id"] == -10 and inside[id]["origin_slot"] == slot for id in one["linkIds"])
    for slot, one in enumerate(definition["outputs"]):
        assert [(inside[id]["target_id"], inside[id]["target_slot"]) for id in one["linkIds"]] == [(-20, slot)]


def test_stage_by_stage_is_the_picture_of_its_class():
    """Only emoji64 has as many stages as the chain has."""
    content = used(FOLDER / "NVG Stage by Stage.json", "emoji64")
    result = run(content)
    nvg = nvg_model.load("emoji64")
    assert torch.equal(result, images.from_model(nvg.decode(nvg.generate("heart", seed=7))))


def test_structure_transfer_draws_the_class_in_the_pictures_layout(folder):
    content = used(FOLDER / "NVG Structure Transfer.json", "tiny.safetensors")
    example = FOLDER.parent / "workflows" / "input" / "example.png"
    (folder / "input").mkdir()
    (folder / "input" / "example.png").write_bytes(example.read_bytes())
    result = run(content)
    nvg = nvg_model.load("models/nvg/tiny.safetensors")
    picture = images.render.from_pil(images.Image.open(example), nvg.config.image_size, "crop")
    structure = nvg.tokenize(picture).structure[:, :4]
    wanted = nvg.decode(nvg.generate("heart", seed=7, structure=structure))
    assert torch.equal(result, images.from_model(wanted))


def test_two_regions_draw_a_class_each():
    """The mask is white everywhere, so the picture is of the region's class alone."""
    content = used(FOLDER / "NVG Two Regions.json", "tiny.safetensors")
    (node,) = [one for one in content["nodes"] if "proxyWidgets" in one.get("properties", {})]
    node["widgets_values"] = ["heart", "boat", 3, 1]
    nvg = nvg_model.load("models/nvg/tiny.safetensors")
    assert torch.equal(run(content), images.from_model(nvg.decode(nvg.generate("boat", seed=3))))


def test_inpaint_and_compare_draws_what_is_masked(folder):
    content = used(FOLDER / "NVG Inpaint and Compare.json", "tiny.safetensors")
    example = FOLDER.parent / "workflows" / "input" / "example.png"
    (folder / "input").mkdir()
    (folder / "input" / "example.png").write_bytes(example.read_bytes())
    result, nvg = run(content), nvg_model.load("models/nvg/tiny.safetensors")
    size = nvg.config.image_size
    plain = images.from_model(nvg.decode(nvg.generate("heart", seed=7)))
    assert result.shape == (1, 256, 256, 3), "the picture's own size"
    inner = torch.nn.functional.interpolate(plain.movedim(-1, 1), (256, 256), mode="bicubic").movedim(1, -1).clamp(0, 1)
    assert float((result - inner).abs().mean()) < 0.02 and size == (16, 16)


def run(content: dict) -> torch.Tensor:
    """The pictures that its SaveImage got."""
    engine = runner.Runner(Files([Path("input")], Path("out")))
    engine.run(graph.parse(content, runner.catalogue()))
    (shown,) = engine.shown.values()
    return shown
