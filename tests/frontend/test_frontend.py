"""Our nodes in the genuine ComfyUI front end, in a browser (see conftest.py), in classic and in Vue nodes."""

import base64
import json
from pathlib import Path

import pytest
import torch

import nvg_model
from nvg_nodes import graph, runner
from nvg_nodes.core_nodes import Files
from nvg_nodes.paint import read_painting
from nvg_nodes.types import NVGModel, NVGSequence, NVGSettings, NVGState, NVGStructure

pytestmark = pytest.mark.frontend

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
LOAD, REROUTE, PAINT, GENERATE, SAVE, PRIMITIVE = 1, 2, 3, 4, 5, 6
CANVAS = ".nvg-map"
FIELD = ".nvg-class textarea"


def node(id: int, kind: str, x: int, size: tuple[int, int], inputs=(), outputs=(), values=()) -> dict:
    """A node as the front end saves it. Inputs: (name, type, link); outputs: (name, type, links)."""
    return {
        "id": id,
        "type": kind,
        "pos": [x, 0],
        "size": list(size),
        "flags": {},
        "order": id,
        "mode": 0,
        "properties": {},
        "inputs": [{"name": name, "type": type, "link": link} for name, type, link in inputs],
        "outputs": [{"name": name, "type": type, "links": links} for name, type, links in outputs],
        "widgets_values": list(values),
    }


@pytest.fixture
def painting_graph() -> dict:
    """Load Model -> Reroute -> Paint Structure -> Generate -> Save Image."""
    model = NVGModel.io_type
    structure = NVGStructure.io_type
    load_outputs = [("model", model, [1, 2]), ("classes", "STRING", None)]
    generate_inputs = [("model", model, 3), ("structure", structure, 4)]
    nodes = [
        node(LOAD, "NVGLoadModel", 0, (260, 120), outputs=load_outputs, values=["emoji64", "auto", ""]),
        node(REROUTE, "Reroute", 290, (80, 26), [("", "*", 2)], [("", model, [3])]),
        node(
            PAINT, "NVGPaintStructure", 400, (340, 540), [("model", model, 1)], [("structure", structure, [4])], ["", 0]
        ),
        node(
            GENERATE,
            "NVGGenerate",
            780,
            (300, 300),
            generate_inputs,
            [("image", "IMAGE", [5])],
            ["heart", 7, "fixed", 1],
        ),
        node(SAVE, "SaveImage", 1100, (200, 120), [("images", "IMAGE", 5)], values=["drawn"]),
    ]
    links = [
        [1, LOAD, 0, PAINT, 0, model],
        [2, LOAD, 0, REROUTE, 0, model],
        [3, REROUTE, 0, GENERATE, 0, model],
        [4, PAINT, 0, GENERATE, 1, structure],
        [5, GENERATE, 0, SAVE, 0, "IMAGE"],
    ]
    return {"nodes": nodes, "links": links, "version": 0.4, "last_node_id": SAVE, "last_link_id": 5}


@pytest.fixture
def page(opened):
    """The page; whatever it complains about during a test fails the test."""
    opened.complaints.clear()
    yield opened
    assert not opened.complaints


@pytest.fixture
def elements(opened) -> None:
    """For tests of our own elements: Vue nodes show those of packs since front end 1.31."""
    version, in_vue = opened.evaluate("() => [window.__COMFYUI_FRONTEND_VERSION__, LiteGraph.vueNodesMode]")
    if in_vue and tuple(map(int, version.split(".")[:2])) < (1, 31):
        pytest.skip(f"the Vue nodes of front end {version} show no elements of packs")


def show(page, workflow: dict) -> None:
    """Loads a workflow, and has a look at it in its own size."""
    page.evaluate(
        """async (workflow) => {
            await app.loadGraphData(workflow);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset.splice(0, 2, 60, 120);
            app.canvas.setDirty(true, true);
        }""",
        workflow,
    )
    page.wait_for_timeout(300)  # drawn, and laid out
    assert page.locator(".p-toast-detail").all_inner_texts() == []


def serialized(page) -> dict:
    """The workflow as the front end would save it."""
    return json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))


def value(page, id: int, name: str):
    return page.evaluate(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === name).value", [id, name]
    )


def set_value(page, id: int, name: str, new: str) -> None:
    page.evaluate(
        "([id, name, value]) => { app.graph.getNodeById(id).widgets.find((one) => one.name === name).value = value; }",
        [id, name, new],
    )


def stroke(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws a line with the mouse, in fractions of the map."""
    box = page.locator(CANVAS).bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=6)
    page.mouse.up()


def press(page, name: str) -> None:
    """Presses a button of the painter."""
    page.locator(".nvg-painter").get_by_role("button", name=name, exact=True).click()


def masks(page):
    """What Python reads of the painting."""
    return read_painting(value(page, PAINT, "painting"))


def offered(page) -> list[str]:
    return page.locator(".nvg-classes li").all_inner_texts()


def test_extension_loads_without_complaints(opened):
    assert opened.evaluate("() => app.extensions.some((one) => one.name === 'nvg')")
    assert not opened.complaints


def test_there_are_workflows():
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_renders_and_gives_the_prompt_that_the_runner_runs(page, server, path):
    show(page, json.loads(path.read_text()))
    missing = page.evaluate(
        "() => app.graph.nodes.map((n) => n.type).filter((t) => !LiteGraph.registered_node_types[t])"
    )
    assert not missing
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt == graph.read(path, server.catalogue).prompt


def test_painting_is_drawn_with_the_mouse_and_survives_save_and_load(page, elements, painting_graph):
    show(page, painting_graph)
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    (first,) = masks(page)
    height, width = first.shape
    assert first[height // 4, width // 4 : width * 3 // 4].min() == 1
    assert first[height // 2 :].max() == 0
    press(page, "Add a map: a further split")
    stroke(page, (0.5, 0.1), (0.5, 0.9))
    assert len(masks(page)) == 2 and masks(page)[1][:, width // 2].mean() > 0.8

    painted = value(page, PAINT, "painting")
    saved = serialized(page)
    assert next(one for one in saved["nodes"] if one["id"] == PAINT)["widgets_values"] == [painted, 0]
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt[str(PAINT)]["inputs"]["painting"] == painted

    show(page, painting_graph)
    assert value(page, PAINT, "painting") == ""
    show(page, saved)
    assert value(page, PAINT, "painting") == painted
    page.locator(".nvg-tabs").get_by_role("tab", name="Map 1").click()
    page.wait_for_function(
        f"() => document.querySelector('{CANVAS}').getContext('2d').getImageData(128, 64, 1, 1).data[3] === 255"
    )
    stroke(page, (0.2, 0.75), (0.8, 0.75))  # below what is there
    again = masks(page)
    assert again[0][height // 4, width // 2] == 1 and again[0][height * 3 // 4, width // 2] == 1
    assert (again[1] == read_painting(painted)[1]).all()


def test_painting_tools(page, elements, painting_graph):
    show(page, painting_graph)
    stroke(page, (0.01, 0.5), (0.99, 0.5))
    line = masks(page)[0]
    press(page, "Invert")
    assert torch.allclose(masks(page)[0], 1 - line, atol=0.01)
    press(page, "Undo")
    assert (masks(page)[0] == line).all()
    press(page, "Redo")
    assert torch.allclose(masks(page)[0], 1 - line, atol=0.01)
    press(page, "Undo")
    press(page, "Eraser")
    stroke(page, (0.5, 0.3), (0.5, 0.7))
    assert masks(page)[0][128, 128] == 0 and masks(page)[0][128, 60] == 1
    press(page, "Undo")
    press(page, "Fill")
    stroke(page, (0.5, 0.1), (0.5, 0.1))
    assert masks(page)[0][20, 20] == 1 and masks(page)[0][240, 20] == 0
    press(page, "Clear")
    assert value(page, PAINT, "painting") == ""
    press(page, "Brush")
    page.locator(CANVAS).focus()
    for key in ("ArrowRight", "ArrowDown", " "):
        page.keyboard.press(key)
    # From where the mouse was last, at (0.5, 0.1), one step to the right and one down.
    assert masks(page)[0][34, 136] == 1 and masks(page)[0].mean() < 0.2


def test_undo_and_copies_of_the_host_work(page, elements, painting_graph):
    show(page, painting_graph)
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    one = value(page, PAINT, "painting")
    stroke(page, (0.2, 0.8), (0.8, 0.8))
    two = value(page, PAINT, "painting")
    assert one != two
    page.keyboard.press("Control+z")
    page.wait_for_function(f"(text) => app.graph.getNodeById({PAINT}).widgets[0].value === text", arg=one)
    page.wait_for_timeout(300)
    stroke(page, (0.2, 0.5), (0.8, 0.5))  # what is seen is the node that is there now, not the one before the undo
    assert masks(page)[0][128, 128] == 1 and masks(page)[0][205, 128] == 0

    page.evaluate(f"() => {{ app.canvas.selectNode(app.graph.getNodeById({PAINT})); app.canvas.copyToClipboard(); }}")
    page.evaluate("() => app.canvas.pasteFromClipboard()")
    values = page.evaluate("() => app.graph.findNodesByType('NVGPaintStructure').map((node) => node.widgets[0].value)")
    assert len(values) == 2 and values[0] == values[1] != ""


def test_classes_are_offered_and_follow_the_loader(page, elements, painting_graph):
    show(page, painting_graph)
    names = nvg_model.info("emoji64")["classes"]
    field = page.locator(FIELD)
    field.click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == [*names, "unconditional"]
    field.press("End")
    field.type(", fl")
    page.wait_for_function("() => document.querySelectorAll('.nvg-classes li').length < 5")
    assert set(offered(page)) == {name for name in names if "fl" in name}
    field.press("Enter")
    assert value(page, GENERATE, "class_name") == f"heart, {next(name for name in names if name.startswith('fl'))}"

    # The field asks when it gets the focus and when it is clicked; an answer that comes late is no news any more.
    field.press("Escape")
    page.evaluate("() => document.activeElement.blur()")
    late = []

    def answer(route):
        late.append(route) if not late else route.continue_()

    page.route("**/nvg/classes*", answer)
    field.click()
    page.wait_for_selector(".nvg-classes")
    field.press("End")
    field.type(", fl")
    page.wait_for_function("() => document.querySelectorAll('.nvg-classes li').length < 5")
    with page.expect_response("**/nvg/classes*"):
        late[0].continue_()
    page.wait_for_timeout(300)
    assert set(offered(page)) == {name for name in names if "fl" in name}
    page.unroute("**/nvg/classes*")
    field.press("Escape")

    field.fill("")
    field.type("3, no such class")
    assert value(page, GENERATE, "class_name") == "3, no such class"
    field.press("Escape")
    page.evaluate("() => document.activeElement.blur()")

    set_value(page, LOAD, "checkpoint", "tiny.safetensors")
    field.click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == ["heart", "bird", "boat", "unconditional"]
    page.locator(".nvg-classes li", has_text="bird").click()
    assert value(page, GENERATE, "class_name").endswith("bird")
    page.evaluate("() => document.activeElement.blur()")

    set_value(page, LOAD, "hub_id", "someone/something")
    with page.expect_event("console", lambda message: message.text == "asked", timeout=5000):
        field.click()
        page.evaluate("() => setTimeout(() => console.log('asked'), 500)")
    assert not offered(page)


def test_classes_follow_a_primitive(page, elements, painting_graph):
    load = painting_graph["nodes"][0]
    load["inputs"] = [{"name": "checkpoint", "type": "COMBO", "link": 6, "widget": {"name": "checkpoint"}}]
    outputs = [{"name": "COMBO", "type": "COMBO", "links": [6], "widget": {"name": "checkpoint"}}]
    primitive = node(PRIMITIVE, "PrimitiveNode", -300, (200, 80), values=["tiny.safetensors", "fixed"])
    painting_graph["nodes"].append(primitive | {"outputs": outputs})
    painting_graph["links"].append([6, PRIMITIVE, 0, LOAD, 0, "COMBO"])
    show(page, painting_graph)
    page.locator(FIELD).click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == ["heart", "bird", "boat", "unconditional"]


def test_links_have_colours(page, painting_graph):
    show(page, painting_graph)
    types = [one.io_type for one in (NVGModel, NVGStructure, NVGSequence, NVGState, NVGSettings)]
    colours = page.evaluate(
        """(types) => types.map((type) => [
            app.canvas.default_connection_color_byType[type],
            app.canvas.constructor.link_type_colors[type],
            getComputedStyle(document.body).getPropertyValue(`--color-datatype-${type}`),
        ])""",
        types,
    )
    for slot, link, vue in colours:
        assert slot.startswith("#") and slot == link == vue
    assert len({slot for slot, _, _ in colours}) == len(types)


def test_dropped_picture_restores_the_graph(page, server, painting_graph, tmp_path):
    painting_graph["nodes"][0]["widgets_values"][0] = "tiny.safetensors"
    painting_graph["nodes"][2]["mode"] = 2  # muted: nothing is painted
    runner.Runner(Files([], tmp_path)).run(graph.parse(painting_graph, server.catalogue))
    (picture,) = tmp_path.glob("*.png")
    show(page, {"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})
    files = page.evaluate_handle(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "drawn.png", { type: "image/png" }));
            return transfer;
        }""",
        base64.b64encode(picture.read_bytes()).decode(),
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("#graph-canvas", event, {"dataTransfer": files})
    page.wait_for_function("() => app.graph.nodes.length === 5", timeout=10_000)
    restored = serialized(page)
    assert {one["id"]: one["type"] for one in restored["nodes"]} == {
        one["id"]: one["type"] for one in painting_graph["nodes"]
    }
    assert value(page, GENERATE, "class_name") == "heart"
