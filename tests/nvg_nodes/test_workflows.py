"""The shipped workflows: they keep the contract, are laid out well, have their picture and page, and run."""

import dataclasses
import io
import itertools
import json
import re
import shlex
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model import render
from nvg_nodes.standalone import graph, runner, thumbnail, workflow
from nvg_nodes.standalone.core_nodes import CORE, Files

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = REPOSITORY / "docs" / "workflows"
FILES = sorted((REPOSITORY / "workflows").glob("*.json"))
RELEASED = "10 Released ImageNet checkpoint"
RUNNABLE = [path for path in FILES if path.stem != RELEASED]
NOTE = "MarkdownNote"
SHOWING = ("SaveImage", "SaveAnimatedWEBP", "PreviewImage", "NVGStructurePreview")
TITLE = 30
"""Height of a node's title bar, which lies above its position."""
TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}

every = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
every_runnable = pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)


def content_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """What a workflow is called; the number before it is its place in the order of learning."""
    return path.stem[3:]


def nodes_of(content: dict) -> dict[int, dict]:
    """The nodes that are executed, by id."""
    return {node["id"]: node for node in content["nodes"] if node["type"] != NOTE}


@pytest.fixture(scope="session")
def contract() -> dict[str, dict]:
    """Inputs and outputs of every node that a workflow may use: ours as they are for ever, and ComfyUI's."""
    ours = json.loads(Path(__file__).with_name("contract.json").read_text())
    for node in CORE:
        info = node.GET_NODE_INFO_V1()
        inputs = [
            {"name": name, "type": kind, "optional": optional, **options}
            for name, kind, options, optional in graph.inputs_of(info)
        ]
        ours[info["name"]] = {"inputs": inputs, "outputs": list(zip(info["output_name"], info["output"], strict=True))}
    return ours


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A checkpoint with the stages and classes of emoji64 and random weights, which draws in two steps a stage."""
    config = nvg_model.preset("tiny")
    classes = nvg_model.info("emoji64")["classes"]
    generator = dataclasses.replace(config.generator, num_classes=len(classes))
    config = dataclasses.replace(config, image_size=(32, 32), generator=generator)
    assert config.num_stages == nvg_model.preset("emoji64").num_stages
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nvg_model.NVG(config, classes, nvg_model.SamplingSettings(structure_steps=2))
        model.content.initialize()
        model.structure.initialize()
        model.tokenizer.quantizer.spread()
    return nvg_model.save(model, tmp_path_factory.mktemp("small") / "small.safetensors", {"licence": "none"})


# ------------------------------------------------------------------------------------------------------ the files


def test_there_is_one_for_every_way_of_use():
    assert len(FILES) == 18 and RELEASED in [path.stem for path in FILES]


@every
def test_root_is_that_of_the_front_end(path):
    content = content_of(path)
    assert str(uuid.UUID(content["id"])) == content["id"]
    assert content["version"] == 0.4
    assert content["last_node_id"] == max(node["id"] for node in content["nodes"])
    assert content["last_link_id"] == max(link[0] for link in content["links"])


def test_ids_are_their_own():
    ids = [content_of(path)["id"] for path in FILES]
    assert len(set(ids)) == len(ids)


@every
def test_nodes_keep_the_contract(path, contract):
    for node in nodes_of(content_of(path)).values():
        promised = contract[node["type"]]
        kinds = {entry["name"]: entry["type"] for entry in promised["inputs"]}
        assert {entry["name"]: entry["type"] for entry in node["inputs"]} == kinds, node["type"]
        assert [[entry["name"], entry["type"]] for entry in node["outputs"]] == list(map(list, promised["outputs"]))
        for entry in node["inputs"]:
            is_widget = entry["type"] in graph.WIDGETS
            assert is_widget == ("widget" in entry), f"{entry['name']} of {node['type']}"


@every
def test_widgets_hold_values_of_the_contract(path, contract):
    for node in nodes_of(content_of(path)).values():
        values = list(node["widgets_values"])
        for entry in contract[node["type"]]["inputs"]:
            if entry["type"] not in graph.WIDGETS:
                continue
            value, where = values.pop(0), f"{entry['name']} of {node['type']}"
            assert isinstance(value, TYPES[entry["type"]]) and isinstance(value, bool) == (entry["type"] == "BOOLEAN")
            assert entry.get("min", value) <= value <= entry.get("max", value), where
            assert value in entry.get("options", [value]), where
            if entry.get("control_after_generate"):
                assert values.pop(0) in ("fixed", "randomize"), where
            if entry.get("image_upload"):
                assert values.pop(0) == "image"
        assert not values, f"{node['type']} has values that belong to no input: {values}"


@every
def test_links_join_equal_types(path):
    content = content_of(path)
    nodes = nodes_of(content)
    ends, starts = {}, {}
    for node in nodes.values():
        ends |= {entry["link"]: (node["id"], slot) for slot, entry in enumerate(node["inputs"]) if entry["link"]}
        for slot, entry in enumerate(node["outputs"]):
            starts |= dict.fromkeys(entry["links"] or [], (node["id"], slot))
    links = {link[0]: link[1:] for link in content["links"]}
    assert len(links) == len(content["links"]) and links.keys() == ends.keys() == starts.keys()
    for id, (source, output, target, input, kind) in links.items():
        assert starts[id] == (source, output) and ends[id] == (target, input)
        assert nodes[source]["outputs"][output]["type"] == kind == nodes[target]["inputs"][input]["type"]


@every
def test_becomes_a_prompt_that_can_be_run(path):
    info = runner.catalogue()
    content = content_of(path)
    parsed = graph.parse(content, info)
    assert parsed.prompt.keys() == {str(id) for id in nodes_of(content)}
    assert set(runner.check(parsed, info)) == parsed.prompt.keys(), "a node whose result nobody sees"


@every_runnable
def test_is_made_for_the_embedded_checkpoint(path):
    """So that it runs without a download, and every class that it names is there."""
    known = set(nvg_model.info("emoji64")["classes"])
    for node in graph.parse(content_of(path), runner.catalogue()).prompt.values():
        if node["class_type"] == "NVGLoadModel":
            assert node["inputs"]["checkpoint"] == "emoji64" and not node["inputs"]["hub_id"]
        named = node["inputs"].get("class_name", "")
        if isinstance(named, str):  # else the loader's list of all
            assert {name.strip() for name in named.split(",") if named} <= known


def test_they_are_in_the_order_of_learning():
    """As the numbers, the tables and the alphabet of the template browser have it."""
    assert [path.stem[:3] for path in FILES] == [f"{place:02d} " for place in range(1, len(FILES) + 1)]
    for page in (PAGES / "README.md", REPOSITORY / "README.md"):
        listed = re.findall(r"^\|.*?\[([A-Z][\w -]+)\]\([\w/-]+\.md\)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert listed == [name_of(path) for path in FILES], page


@every
def test_opts_in_to_app_mode(path):
    """With inputs that are widgets without a link and that a user changes, and outputs that show pictures."""
    content = content_of(path)
    nodes, extra = nodes_of(content), content["extra"]
    assert extra["linearMode"] is True
    assert extra["linearData"]["inputs"] and extra["linearData"]["outputs"]
    for id, widget in extra["linearData"]["inputs"]:
        (entry,) = [entry for entry in nodes[id]["inputs"] if entry["name"] == widget]
        assert "widget" in entry and entry["link"] is None
    assert all(nodes[id]["type"] in SHOWING for id in extra["linearData"]["outputs"])


# -------------------------------------------------------------------------------------------------------- layout


def box(node: dict) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def frame(group: dict) -> tuple[float, float, float, float]:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a, b) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


@every
def test_nothing_overlaps(path):
    content = content_of(path)
    for a, b in itertools.combinations(content["nodes"], 2):
        assert not overlap(box(a), box(b)), f"{a['type']} {a['id']} lies on {b['type']} {b['id']}"
    for a, b in itertools.combinations(content["groups"], 2):
        assert not overlap(frame(a), frame(b)), f"{a['title']} lies on {b['title']}"
    for node, group in itertools.product(content["nodes"], content["groups"]):
        assert not overlap(box(node), frame(group)) or inside(box(node), frame(group)), f"{node['id']} sticks out"


@every
def test_reads_from_left_to_right(path):
    content = content_of(path)
    nodes = nodes_of(content)
    for _, source, _, target, _, _ in content["links"]:
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0], f"{target} lies left of {source}, which it needs"


@every
def test_says_what_it_does(path):
    content = content_of(path)
    notes = [node["widgets_values"][0] for node in content["nodes"] if node["type"] == NOTE]
    assert len(notes) == 1 and notes[0].startswith(f"## {name_of(path)}\n")
    for word in ("**Change**", "**Look at**"):
        assert word in notes[0]
    titles = [str(node.get("title")) for node in content["nodes"]] + [group["title"] for group in content["groups"]]
    titles += ["Load Image", "NVG Tokenize Image", "Open in MaskEditor", "Generate"]  # elsewhere in ComfyUI
    for named in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", notes[0]):
        assert any(title.startswith(named) for title in titles), f"the note speaks of {named}, which is not there"
    assert content["groups"] and all(group["title"] for group in content["groups"])


# ------------------------------------------------------------------------------------------------------- pictures


@every
def test_has_a_thumbnail(path):
    file = path.with_suffix(".jpg")
    assert file.stat().st_size <= thumbnail.MOST_BYTES
    with Image.open(file) as picture:
        moves = any(node["type"] == "SaveAnimatedWEBP" for node in content_of(path)["nodes"])
        assert picture.format == ("WEBP" if moves else "JPEG") and picture.size == (thumbnail.SIDE, thumbnail.SIDE)
        assert not moves or picture.n_frames > 8
        assert np.asarray(picture).std() > 5, "it is blank"


@every
def test_has_a_page(path):
    name = name_of(path).lower().replace(" ", "-")
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name_of(path)}\n") and f"({name}.jpg)" in page
    (command,) = re.findall(r"^nvg-run (.*)$", page, re.MULTILINE)
    file, *arguments = shlex.split(command)
    assert REPOSITORY / file == path
    assert workflow.main([str(path), *arguments, "--list"]) == 0, "it names a node that is not there"
    picture = PAGES / f"{name}.jpg"
    assert picture.stat().st_size <= 60_000
    with Image.open(picture) as opened:
        assert 600 <= opened.width <= 1200
    assert f"({name}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")


def test_a_thumbnail_shows_what_was_saved_and_the_end_of_every_preview():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    pictures = colours[:, None, None].expand(-1, 8, 8, -1)
    prompt = {"1": {"class_type": "PreviewImage", "inputs": {}}, "2": {"class_type": "SaveImage", "inputs": {}}}
    made = thumbnail.make(graph.Workflow(prompt, None), {"1": pictures[:2], "2": pictures[2:]})
    sheet = np.asarray(Image.open(io.BytesIO(made)).convert("RGB")) / 255
    quarter = thumbnail.SIDE // 4
    seen = [sheet[y, x] for y in (quarter, 3 * quarter) for x in (quarter, 3 * quarter)]
    assert np.abs(np.array(seen) - colours[1:].numpy()).max() < 0.05


def test_a_thumbnail_of_an_animation_moves():
    frames = torch.linspace(0, 1, 20)[:, None, None, None].expand(-1, 8, 8, 3)
    prompt = {"1": {"class_type": "SaveAnimatedWEBP", "inputs": {}}, "2": {"class_type": "PreviewImage", "inputs": {}}}
    shown = {"2": frames[:1], "1": frames}
    with Image.open(io.BytesIO(thumbnail.make(graph.Workflow(prompt, None), shown))) as animation:
        seen = []
        for number in range(animation.n_frames):
            animation.seek(number)
            seen.append(float(np.asarray(animation.convert("L"))[thumbnail.SIDE // 2, thumbnail.SIDE // 2]) / 255)
    assert len(seen) == 10 and np.abs(np.array(seen) - np.arange(0, 20, 2) / 19).max() < 0.03


@pytest.mark.parametrize(("kind", "frames", "side"), [("SaveImage", 1, 384), ("SaveAnimatedWEBP", 12, 16)])
def test_a_thumbnail_stays_small(kind, frames, side):
    noise = torch.rand(frames, side, side, 3, generator=torch.Generator().manual_seed(0))
    prompt = {"1": {"class_type": kind, "inputs": {}}}
    assert len(thumbnail.make(graph.Workflow(prompt, None), {"1": noise})) <= thumbnail.MOST_BYTES


# ----------------------------------------------------------------------------------------------------------- runs


@every_runnable
def test_runs_without_comfyui(path, folder, small, capsys):
    (folder / "models/nvg/small.safetensors").write_bytes(small.read_bytes())
    arguments = ["--set", "NVGLoadModel.checkpoint=small.safetensors", "--previews", "--quiet"]
    assert workflow.main([str(path), *arguments, "--thumbnail", "small.jpg"]) == 0
    *pictures, sheet = map(Path, capsys.readouterr().out.split("\n")[:-1])
    shown = [node for node in content_of(path)["nodes"] if node["type"] in SHOWING]
    assert len(pictures) >= len(shown) and all(picture.is_file() for picture in pictures)
    assert sheet == Path("small.jpg") and sheet.stat().st_size <= thumbnail.MOST_BYTES


def test_generate_draws_what_the_model_draws(folder, capsys):
    path = REPOSITORY / "workflows" / "01 Generate.json"
    plainly = ["--set", "Enlarge.upscale_method=nearest-exact", "--set", "Enlarge.scale_by=4"]
    assert workflow.main([str(path), "--set", "Draw.batch_size=1", *plainly, "--quiet"]) == 0
    inputs = graph.parse(content_of(path), runner.catalogue())
    inputs = inputs.prompt[inputs.find("Draw")]["inputs"]
    nvg = nvg_model.load("emoji64")
    expected = render.to_pil(nvg.decode(nvg.generate(inputs["class_name"], seed=inputs["seed"])))[0]
    with Image.open(capsys.readouterr().out.strip()) as picture:
        assert (np.array(picture) == np.array(render.enlarge(expected, 4))).all()


def test_old_names_still_run(capsys):
    """Of the time before workflows were numbered; scripts rely on them."""
    for path in RUNNABLE:
        assert workflow.main([str(path.with_name(f"{name_of(path)}.json")), "--list"]) == 0
    assert workflow.main([str(FILES[0].with_name("Nothing.json")), "--list"]) == 2
    assert "Nothing.json" in capsys.readouterr().err


def test_a_late_stage_runs_alone(folder, small):
    """What the note of "Stage by stage" promises."""
    (folder / "models/nvg/small.safetensors").write_bytes(small.read_bytes())
    info = runner.catalogue()
    chain = graph.read(REPOSITORY / "workflows" / "08 Stage by stage.json", info)
    chain = chain.with_value("NVGLoadModel", "checkpoint", "small.safetensors", info)
    engine = runner.Runner(Files([], Path("out")))
    engine.run(chain)
    engine.run(chain.with_value("Content 5", "stage_seed", 1, info))
    titles = {chain.prompt[id]["_meta"]["title"] for id in engine.executed}
    assert titles == {"Content 5", "After stage 5", "Structure 6", "Map 6: 64 regions", "Content 6"} | {
        "Enlarge",
        "Finished pictures",
    }


@pytest.mark.parametrize("name", ["picture.png", "picture"])
def test_a_thumbnail_is_a_jpeg(name, capsys):
    with pytest.raises(SystemExit) as ended:
        workflow.main([str(FILES[0]), "--thumbnail", name])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------------- ComfyUI's own nodes


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("add", [0.25, 1.0, 1.0]),
        ("subtract", [0.25, 0.0, 0.0]),
        ("multiply", [0.25, 0.0, 0.75]),
        ("and", [0.25, 0.0, 1.0]),
        ("or", [0.25, 1.0, 1.0]),
        ("xor", [0.25, 1.0, 0.0]),
    ],
)
def test_masks_are_combined_where_they_meet(run, operation, expected):
    below = torch.tensor([0.25, 0.0, 0.75]).view(1, 1, 3)
    (result,) = run("MaskComposite", destination=below, source=torch.ones(1, 2, 4), x=1, y=0, operation=operation)
    assert result.flatten().tolist() == expected and below.flatten().tolist() == [0.25, 0.0, 0.75]


def test_a_solid_mask_is_one_value(run):
    (mask,) = run("SolidMask", value=0.5, width=3, height=2)
    assert mask.shape == (1, 2, 3) and (mask == 0.5).all()


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_pictures_are_scaled_by_a_factor(run, picture, method):
    (scaled,) = run("ImageScaleBy", image=picture, upscale_method=method, scale_by=2.0)
    assert scaled.shape == (2, 40, 60, 3)
    assert torch.allclose(scaled.mean((1, 2)), picture.mean((1, 2)), atol=0.02)
