"""`nvg-run`: both formats of workflow files, --set, --list, caching, and pictures that carry their graph."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nvg_nodes.standalone import graph, runner, workflow
from nvg_nodes.standalone.core_nodes import Files

API = {
    "1": {"class_type": "NVGLoadModel", "inputs": {"checkpoint": "tiny.safetensors", "dtype": "float32"}},
    "2": {
        "class_type": "NVGGenerate",
        "inputs": {"model": ["1", 0], "class_name": "heart", "seed": 7, "batch_size": 2},
        "_meta": {"title": "Draw"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "pictures/nvg"}},
}


def node(id, kind, values=None, inputs=(), outputs=(), **more):
    """A node as the front end saves it; inputs are (name, type, link)."""
    return {
        "id": id,
        "type": kind,
        "mode": 0,
        "widgets_values": values,
        "inputs": [{"name": name, "type": type, "link": link} for name, type, link in inputs],
        "outputs": [{"name": type, "type": type} for type in outputs],
    } | more


def ui(*nodes, links):
    """A graph as the front end saves it; links are (id, from, slot, to, slot, type)."""
    return {"version": 0.4, "nodes": list(nodes), "links": [list(link) for link in links]}


def loader(**more):
    return node(1, "NVGLoadModel", ["tiny.safetensors", "float32", ""], outputs=["NVG_MODEL", "STRING"], **more)


def generate(values=("heart", 7, "randomize", 2, 0, 0, 0), inputs=(("model", "NVG_MODEL", 1),), **more):
    outputs = ["IMAGE", "NVG_SEQUENCE", "NVG_STRUCTURE", "IMAGE"]
    return node(2, "NVGGenerate", list(values), inputs, outputs, **more)


def save(link=2):
    return node(3, "SaveImage", ["pictures/nvg"], [("images", "IMAGE", link)])


MODEL, PICTURE = (1, 1, 0, 2, 0, "NVG_MODEL"), (2, 2, 0, 3, 0, "IMAGE")
UI = ui(loader(), generate(title="Draw"), save(), links=[MODEL, PICTURE])


@pytest.fixture
def start(folder):
    """`start(content, "--set", ...)` writes a workflow file and runs it."""

    def run(content, *arguments) -> int:
        path = folder / "workflow.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return workflow.main([str(path), "--out", "out", *arguments])

    return run


def prompt_of(content):
    return graph.parse(content, runner.catalogue()).prompt


@pytest.fixture
def execute(folder):
    """Runs a prompt and returns the runner; another prompt can be given to it."""
    engine = runner.Runner(Files([Path()], Path("out")))

    def run(content, engine=engine):
        engine.run(graph.parse(content, runner.catalogue()))
        return engine

    return run


def test_both_formats_give_the_same_pictures(start, folder, capsys, tiny_model):
    from nvg_model import render

    assert start(API) == 0 and start(UI, "--out", "ui") == 0
    written = capsys.readouterr().out.split()
    names = [f"pictures/nvg_0000{number}_.png" for number in (1, 2)]
    assert written == [f"{out}/{name}" for out in ("out", "ui") for name in names]
    expected = render.to_pil(tiny_model.decode(tiny_model.generate(["heart"] * 2, seed=7)))
    for out in ("out", "ui"):
        for name, picture in zip(names, expected, strict=True):
            assert (np.array(Image.open(folder / out / name)) == np.array(picture)).all()


def test_pictures_carry_prompt_and_workflow(start, folder):
    start(UI, "--set", "Draw.seed=9", "--set", "NVGGenerate.batch_size=1")
    with Image.open(folder / "out/pictures/nvg_00001_.png") as picture:
        prompt, saved = json.loads(picture.info["prompt"]), json.loads(picture.info["workflow"])
    assert prompt["2"]["inputs"]["seed"] == 9 and prompt["2"]["inputs"]["model"] == ["1", 0]
    assert saved["nodes"][1]["widgets_values"] == ["heart", 9, "randomize", 1, 0, 0, 0]
    assert prompt_of(saved) == prompt, "the graph of the picture makes the picture"


def test_nothing_is_overwritten(start, folder):
    start(API)
    start(API)
    names = sorted(path.name for path in (folder / "out/pictures").iterdir())
    assert names == [f"nvg_0000{number}_.png" for number in range(1, 5)]


def test_the_prompt_is_that_of_the_front_end():
    assert prompt_of(UI) == {
        "1": {
            "class_type": "NVGLoadModel",
            "inputs": {"checkpoint": "tiny.safetensors", "dtype": "float32", "hub_id": ""},
            "_meta": {"title": "NVG Load Model"},
        },
        "2": {
            "class_type": "NVGGenerate",
            "inputs": {
                "model": ["1", 0],
                "class_name": "heart",
                "seed": 7,
                "batch_size": 2,
                "keep_structure": 0,
                "keep_content": 0,
                "first_item": 0,
            },
            "_meta": {"title": "Draw"},
        },
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "pictures/nvg"},
            "_meta": {"title": "Save Image"},
        },
    }


def test_an_older_workflow_with_fewer_values_gets_the_defaults(execute):
    content = ui(loader(), generate(("heart", 7, "fixed", 1)), save(), links=[MODEL, PICTURE])
    assert "first_item" not in prompt_of(content)["2"]["inputs"]
    execute(content)


def test_links_may_be_objects():
    links = [
        {"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "NVG_MODEL"},
        {"id": 2, "origin_id": 2, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "IMAGE"},
    ]
    assert prompt_of(UI | {"links": links}) == prompt_of(UI)


def test_reroutes_primitives_and_notes_are_the_front_ends_own():
    reroute = node(5, "Reroute", None, [("", "*", 1)], ["*"])
    primitive = node(6, "PrimitiveNode", [42, "fixed"], (), ["INT"])
    note = node(7, "MarkdownNote", ["hello"])
    drawing = generate(inputs=[("model", "NVG_MODEL", 4), ("seed", "INT", 5)])
    links = [(1, 1, 0, 5, 0, "*"), (4, 5, 0, 2, 0, "NVG_MODEL"), (5, 6, 0, 2, 2, "INT"), PICTURE]
    content = ui(loader(), drawing, save(), reroute, primitive, note, links=links)
    prompt = prompt_of(content)
    assert set(prompt) == {"1", "2", "3"}
    assert prompt["2"]["inputs"]["model"] == ["1", 0] and prompt["2"]["inputs"]["seed"] == 42
    parsed = graph.parse(content, runner.catalogue()).with_value("2", "seed", 5, runner.catalogue())
    assert parsed.ui["nodes"][4]["widgets_values"] == [5], "--set goes to the primitive"


def decoding(mode):
    """Generate, then Structure Keep (which can be bypassed), then Generate along it, then save."""
    outputs = ["NVG_STRUCTURE", "IMAGE"]
    keep = node(4, "NVGStructureKeep", [2], [("structure", "NVG_STRUCTURE", 3)], outputs, mode=mode)
    along = generate(inputs=[("model", "NVG_MODEL", 5), ("structure", "NVG_STRUCTURE", 4)]) | {"id": 6}
    links = [
        MODEL,
        (3, 2, 2, 4, 0, "NVG_STRUCTURE"),
        (4, 4, 0, 6, 1, "NVG_STRUCTURE"),
        (5, 1, 0, 6, 0, "NVG_MODEL"),
        (2, 6, 0, 3, 0, "IMAGE"),
    ]
    return ui(loader(), generate(), keep, along, save(), links=links)


def test_bypassed_nodes_hand_on_what_they_are_given():
    assert prompt_of(decoding(0))["6"]["inputs"]["structure"] == ["4", 0]
    bypassed = prompt_of(decoding(4))
    assert "4" not in bypassed and bypassed["6"]["inputs"]["structure"] == ["2", 2]


def test_muted_nodes_are_not_there(execute, refuses):
    muted = prompt_of(decoding(2))
    assert "4" not in muted and "structure" not in muted["6"]["inputs"]
    with refuses("model of 'Draw' NVGGenerate .node 2. is missing"):
        execute(ui(loader(mode=2), generate(title="Draw"), save(), links=[MODEL, PICTURE]))


def test_only_what_an_output_needs_is_run(execute):
    content = API | {"9": {"class_type": "NVGLoadModel", "inputs": {"checkpoint": "gone", "dtype": "auto"}}}
    assert execute(content).executed == ["1", "2", "3"]


def test_a_changed_input_runs_only_what_follows(execute, folder):
    chain = {"1": API["1"], "s": {"class_type": "NVGStart", "inputs": {"model": ["1", 0], "class_name": "boat"}}}
    chain["s"]["inputs"] |= {"seed": 3, "batch_size": 1}
    state = ["s", 0]
    for stage in range(3):
        chain[f"a{stage}"] = {"class_type": "NVGGenerateStructure", "inputs": {"model": ["1", 0], "state": state}}
        inputs = {"model": ["1", 0], "state": [f"a{stage}", 0]}
        chain[f"b{stage}"] = {"class_type": "NVGGenerateContentStage", "inputs": inputs}
        state = [f"b{stage}", 0]
    chain["out"] = {"class_type": "SaveImage", "inputs": {"images": ["b2", 1], "filename_prefix": "x"}}
    assert len(execute(chain).executed) == 9
    assert execute(chain).executed == []
    chain["b1"]["inputs"]["stage_seed"] = 9
    assert execute(chain).executed == ["b1", "a2", "b2", "out"]
    path = folder / "models/nvg/tiny.safetensors"
    path.touch()
    assert execute(chain).executed[0] == "1", "another file of the same name"


def test_values_come_in_their_types(execute, start, folder):
    assert start(API, "--set", "2.seed=3", "--set", "2.class_name=bird", "--set", "Draw.batch_size=1") == 0
    with Image.open(folder / "out/pictures/nvg_00001_.png") as picture:
        inputs = json.loads(picture.info["prompt"])["2"]["inputs"]
    assert (inputs["seed"], inputs["class_name"], inputs["batch_size"]) == (3, "bird", 1)


def test_list_shows_nodes_and_runs_nothing(start, folder, capsys):
    assert start(UI, "--list") == 0
    out = capsys.readouterr().out
    assert '2  NVGGenerate  Draw\n    class_name = "heart"' in out and "images <- node 2, output 0" in out
    assert not (folder / "out").exists()


def test_core_nodes(execute, folder):
    picture = Image.new("RGBA", (12, 10), (200, 100, 50, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 6, 10))
    picture.save(folder / "given.png")
    content = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "given.png [input]"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
        "3": {"class_type": "ImageToMask", "inputs": {"image": ["2", 0], "channel": "red"}},
        "4": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "m_%width%x%height%"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    execute(content)
    saved = np.array(Image.open(folder / "out/m_12x10_00001_.png"))
    assert (saved[:, :6] == 255).all() and (saved[:, 6:] == 0).all()
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["m_12x10_00001_.png"]


def test_previews_are_written_when_asked_for(start, folder):
    shown = {"3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}
    assert start(API | shown, "--previews") == 0
    assert (folder / "out/previews/node_3_00001_.png").is_file()


def test_released_loader_and_every_solver_validate():
    info = runner.catalogue()
    content = {
        "1": API["1"],
        "2": {"class_type": "NVGStructureShape", "inputs": {"model": ["1", 0]}},
        "3": {"class_type": "NVGStructurePreview", "inputs": {"structure": ["2", 0]}},
    }
    parsed = graph.parse(content, info)
    assert runner.check(parsed, info) == ["1", "2", "3"]
    assert parsed.prompt["2"]["inputs"]["width"] == 0.5, "what is left out is the default"


def test_results_stay_on_the_cpu(execute):
    engine = execute(API)
    tensors = [one for results in engine._results.values() for one in results if isinstance(one, torch.Tensor)]
    assert tensors and {str(one.device) for one in tensors} == {"cpu"}
