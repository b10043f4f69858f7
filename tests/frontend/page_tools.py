"""What drives a page of the front end: graphs to show, and hands that draw, type and press."""

import copy
import json

from nvg_nodes.sockets import NVGModel, NVGStructure

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


SUBGRAPH = "11111111-2222-4333-8444-555555555555"
HOST = 2
"""The node that stands for the subgraph, in `subgraph_graph` (where `painting_graph` has its reroute)."""
PANEL_SWITCH = "[aria-label='Toggle properties panel']"


def subgraph_graph(promoted: bool) -> dict:
    """Load Model -> a subgraph with Paint Structure and Generate -> Save Image.

    If `promoted`, the painting and the class name are inputs of the subgraph, so that its node shows their widgets.
    """
    model = NVGModel.io_type
    host = node(HOST, SUBGRAPH, 340, (340, 640), [("model", model, 1)], [("image", "IMAGE", [2])])
    if promoted:
        host["inputs"] += [_widget_input(name, None) for name in ("painting", "class_name")]
        host |= {
            "widgets_values": ["", "heart"],
            "properties": {"proxyWidgets": [["-1", "painting"], ["-1", "class_name"]]},
        }
    load_outputs = [("model", model, [1]), ("classes", "STRING", None)]
    nodes = [
        node(LOAD, "NVGLoadModel", 0, (280, 120), outputs=load_outputs, values=["emoji64", "auto", ""]),
        host,
        node(SAVE, "SaveImage", 740, (260, 200), [("images", "IMAGE", 2)], values=["drawn"]),
    ]
    return {
        "id": "99999999-0000-4000-8000-000000000000",
        "nodes": nodes,
        "links": [[1, LOAD, 0, HOST, 0, model], [2, HOST, 0, SAVE, 0, "IMAGE"]],
        "definitions": {"subgraphs": [_definition(promoted)]},
        "version": 0.4,
        "last_node_id": 10,
        "last_link_id": 20,
    }


def _definition(promoted: bool) -> dict:
    """The subgraph itself."""
    model, structure = NVGModel.io_type, NVGStructure.io_type
    paint = node(
        PAINT, "NVGPaintStructure", 200, (340, 560), [("model", model, 11)], [("structure", structure, [13])], ["", 0]
    )
    generate_inputs = [("model", model, 12), ("structure", structure, 13)]
    generate_values = ["heart", 7, "fixed", 1]
    generate = node(
        GENERATE, "NVGGenerate", 600, (300, 300), generate_inputs, [("image", "IMAGE", [14])], generate_values
    )
    links = [(11, -10, 0, PAINT, 0, model), (12, -10, 0, GENERATE, 0, model)]
    links += [(13, PAINT, 0, GENERATE, 1, structure), (14, GENERATE, 0, -20, 0, "IMAGE")]
    inputs = [("model", model, [11, 12])]
    if promoted:
        for link, inner, name in ((15, paint, "painting"), (16, generate, "class_name")):
            links.append((link, -10, len(inputs), inner["id"], len(inner["inputs"]), "STRING"))
            inner["inputs"].append(_widget_input(name, link))
            inputs.append((name, "STRING", [link]))
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return _EMPTY_SUBGRAPH | {
        "inputs": [_slot(index, *one) for index, one in enumerate(inputs)],
        "outputs": [_slot(9, "image", "IMAGE", [14])],
        "nodes": [paint, generate],
        "links": [dict(zip(keys, link, strict=True)) for link in links],
    }


_EMPTY_SUBGRAPH = {
    "id": SUBGRAPH,
    "version": 1,
    "state": {"lastGroupId": 0, "lastNodeId": 10, "lastLinkId": 20, "lastRerouteId": 0},
    "revision": 0,
    "config": {},
    "name": "Drawn",
    "inputNode": {"id": -10, "bounding": [0, 0, 120, 100]},
    "outputNode": {"id": -20, "bounding": [1000, 0, 120, 60]},
    "widgets": [],
    "groups": [],
    "extra": {},
}


def _widget_input(name: str, link: int | None) -> dict:
    """The input of a node that a widget of that name belongs to."""
    return {"name": name, "type": "STRING", "link": link, "widget": {"name": name}}


def _slot(index: int, name: str, type: str, links: list[int]) -> dict:
    """An input or output of a subgraph."""
    id = f"aaaaaaaa-0000-4000-8000-00000000000{index}"
    return {"id": id, "name": name, "type": type, "linkIds": links, "pos": [0, 20 * index]}


def twice(graph: dict) -> dict:
    """The graph with a second node for its subgraph, whose picture is saved too."""
    graph = copy.deepcopy(graph)
    (host,) = (one for one in graph["nodes"] if one["id"] == HOST)
    other = copy.deepcopy(host) | {"id": 8, "pos": [1040, 0]}
    other["inputs"][0]["link"], other["outputs"][0]["links"] = 3, [4]
    graph["nodes"] += [other, node(9, "SaveImage", 1440, (260, 200), [("images", "IMAGE", 4)], values=["other"])]
    graph["links"] += [[3, LOAD, 0, 8, 0, NVGModel.io_type], [4, 8, 0, 9, 0, "IMAGE"]]
    graph["nodes"][0]["outputs"][0]["links"] = [1, 3]
    return graph


def enter(page, id: int = HOST) -> None:
    """Opens the subgraph of a node."""
    page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.openSubgraph(node.subgraph, node);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset.splice(0, 2, 0, 120);
            app.canvas.setDirty(true, true);
        }""",
        id,
    )
    settle(page)


def select(page, id: int) -> None:
    page.evaluate("(id) => app.canvas.selectItems([app.graph.getNodeById(id)])", id)


def prompt(page) -> dict:
    """What the front end would queue."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def show(page, workflow: dict) -> None:
    """Loads a workflow, and has a look at it in its own size."""
    page.evaluate(
        """async (workflow) => {
            app.canvas.setGraph(app.graph.rootGraph ?? app.graph);
            // Which widgets are promoted, as 1.35 says it; newer ones would keep the values that they found first.
            const [major, minor] = window.__COMFYUI_FRONTEND_VERSION__.split(".").map(Number);
            if (major > 1 || minor > 40) for (const node of workflow.nodes) delete node.properties.proxyWidgets;
            await app.loadGraphData(workflow);
            // It opened a tab; a page with a hundred of them is twice as slow.
            const tabs = app.extensionManager.workflow;
            for (const tab of [...tabs.openWorkflows]) if (tab !== tabs.activeWorkflow) await tabs.closeWorkflow(tab);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset.splice(0, 2, 60, 120);
            app.canvas.setDirty(true, true);
        }""",
        workflow,
    )
    settle(page)
    assert page.locator(".p-toast-detail").all_inner_texts() == []


def settle(page) -> None:
    """Waits until the page has drawn, and our elements have stayed where they are for some frames."""
    page.evaluate(
        """async () => {
            const places = () => [...document.querySelectorAll("[class*=nvg-]")].map((one) => {
                const { x, y, width, height } = one.getBoundingClientRect();
                return [x, y, width, height];
            }).join();
            for (let before = null, same = 0, frame = 0; same < 5 && frame < 120; frame++) {
                await new Promise(requestAnimationFrame);
                const now = places();
                same = now === before ? same + 1 : 0;
                before = now;
            }
        }"""
    )


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


def stroke(page, start: tuple[float, float], end: tuple[float, float], canvas: str = CANVAS) -> None:
    """Draws a line with the mouse, in fractions of the map."""
    along(page, [start, end], canvas)


def along(page, points: list[tuple[float, float]], canvas: str = CANVAS) -> None:
    """Draws along points with the mouse, in fractions of the map."""
    box = page.locator(f"{canvas}:visible").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()


def press(page, name: str) -> None:
    """Presses a button of the painter."""
    page.locator(".nvg-painter").get_by_role("button", name=name, exact=True).click()


def choose_colour(page, number: int, within: str = ".nvg-painter") -> None:
    """Takes a colour of the legend; 0: none."""
    page.locator(f"{within} .nvg-swatch:visible").nth(number).click()


def give_class(page, number: int, name: str, within: str = ".nvg-painter") -> None:
    """Chooses a class from the list for a colour of the legend."""
    field = page.locator(f"{within} .nvg-entry input:visible").nth(number - 1)
    field.click()
    field.fill(name)
    page.wait_for_selector(".nvg-classes")
    page.locator(".nvg-classes li").get_by_text(name, exact=True).click()


def add_map(page) -> None:
    """Goes from the colours to a further map."""
    press(page, "Add map")


def offered(page) -> list[str]:
    return page.locator(".nvg-classes li").all_inner_texts()
