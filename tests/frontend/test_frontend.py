"""Our nodes in the genuine ComfyUI front end, in a browser (see conftest.py), in classic and in Vue nodes."""

import base64
import json
from pathlib import Path

import pytest
import torch
from page_tools import (
    CANVAS,
    FIELD,
    GENERATE,
    LOAD,
    PAINT,
    PRIMITIVE,
    add_map,
    node,
    offered,
    press,
    serialized,
    set_value,
    show,
    stroke,
    value,
)

import nvg_model
from nvg_nodes.painting import read_painting
from nvg_nodes.sockets import NVGModel, NVGRegions, NVGSequence, NVGSettings, NVGState, NVGStructure
from nvg_nodes.standalone import graph, runner
from nvg_nodes.standalone.core_nodes import Files

pytestmark = pytest.mark.frontend

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))


def masks(page):
    """What Python reads of the painting."""
    return read_painting(value(page, PAINT, "painting")).masks


def test_extension_loads_without_complaints(opened):
    assert opened.evaluate("() => app.extensions.some((one) => one.name === 'nvg')")
    assert not opened.at_start


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
    add_map(page)
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    (first,) = masks(page)
    height, width = first.shape
    assert first[height // 4, width // 4 : width * 3 // 4].min() == 1
    assert first[height // 2 :].max() == 0
    add_map(page)
    stroke(page, (0.5, 0.1), (0.5, 0.9))
    assert len(masks(page)) == 2 and masks(page)[1][:, width // 2].mean() > 0.8

    painted = value(page, PAINT, "painting")
    saved = serialized(page)
    assert next(one for one in saved["nodes"] if one["id"] == PAINT)["widgets_values"] == [painted, 0, "half"]
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
    assert (again[1] == read_painting(painted).masks[1]).all()


def test_what_came_later_means_what_it_was_in_older_workflows(page, painting_graph):
    """A painter from before it had an area halves; a new one nests, and keeps what is chosen when it is saved."""
    show(page, painting_graph)
    assert value(page, PAINT, "area") == "half"
    made = "() => { const n = LiteGraph.createNode('NVGPaintStructure'); app.graph.add(n); return n.id; }"
    new = page.evaluate(made)
    assert value(page, new, "area") == "nested"
    saved = serialized(page)
    show(page, saved)
    assert [value(page, one, "area") for one in (PAINT, new)] == ["half", "nested"]


def test_painting_tools(page, elements, painting_graph):
    show(page, painting_graph)
    add_map(page)
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


def leave(page, field):
    """Closes the offered classes and takes the focus away."""
    field.press("Escape")
    page.evaluate("() => document.activeElement.blur()")


def type_fl(page, field):
    """Types the beginning of flag and flower after what is there; returns the classes that have it in their names."""
    field.press("End")
    field.type(", fl")
    page.wait_for_function("() => document.querySelectorAll('.nvg-classes li').length < 5")
    return {name for name in nvg_model.info("emoji64")["classes"] if "fl" in name}


def test_classes_are_offered(page, elements, painting_graph):
    show(page, painting_graph)
    names = nvg_model.info("emoji64")["classes"]
    field = page.locator(FIELD)
    field.click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == [*names, "unconditional"]
    left = type_fl(page, field)
    assert set(offered(page)) == left
    field.press("Enter")
    assert value(page, GENERATE, "class_name") == f"heart, {next(name for name in names if name.startswith('fl'))}"
    leave(page, field)
    field.fill("")
    field.type("3, no such class")
    assert value(page, GENERATE, "class_name") == "3, no such class"


def test_an_answer_that_comes_late_is_no_news(page, elements, painting_graph):
    """The field asks for the classes when it gets the focus and when it is clicked."""
    show(page, painting_graph)
    field, late = page.locator(FIELD), []

    def answer(route):
        late.append(route) if not late else route.continue_()

    page.route("**/nvg/classes*", answer)
    field.click()
    page.wait_for_selector(".nvg-classes")
    left = type_fl(page, field)
    with page.expect_response("**/nvg/classes*"):
        late[0].continue_()
    page.wait_for_timeout(300)
    assert set(offered(page)) == left
    page.unroute("**/nvg/classes*")


def test_classes_follow_the_loader(page, elements, painting_graph):
    show(page, painting_graph)
    field = page.locator(FIELD)
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
    types = [one.io_type for one in (NVGModel, NVGStructure, NVGSequence, NVGState, NVGSettings, NVGRegions)]
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
