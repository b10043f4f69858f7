"""Painter and class list wherever the front end shows them: in and promoted from subgraphs, in panels, in App mode."""

import pytest
from page_tools import (
    CANVAS,
    FIELD,
    GENERATE,
    HOST,
    LOAD,
    PAINT,
    PANEL_SWITCH,
    enter,
    offered,
    press,
    prompt,
    select,
    serialized,
    set_value,
    show,
    stroke,
    subgraph_graph,
    twice,
    value,
)

import nvg_model
from nvg_nodes.painting import read_painting

pytestmark = [pytest.mark.frontend, pytest.mark.usefixtures("elements")]

TINY = ["heart", "bird", "boat", "unconditional"]
IN_PANEL = ".nvg-panel"
TOGGLE_APP = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"


def front_end(page) -> tuple[int, ...]:
    return tuple(map(int, page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__").split(".")))


def choose(page, name: str, field: str = FIELD) -> None:
    """Clicks into a field of class names, and on a class of the list."""
    page.locator(field).click()
    page.wait_for_selector(".nvg-classes")
    page.locator(field).press("Control+a")
    page.locator(field).press("Backspace")
    page.locator(".nvg-classes li", has_text=name).click()


@pytest.fixture
def panel(page):
    """The Parameters panel, open."""
    if not page.locator(".widget-item, [data-testid='properties-panel']").count():
        page.locator(PANEL_SWITCH).first.click()
    yield page
    page.locator(PANEL_SWITCH).first.click()
    page.wait_for_timeout(300)


@pytest.fixture
def app_mode(page):
    """Switches App mode on and off."""
    yield lambda: (page.evaluate(TOGGLE_APP), page.wait_for_timeout(500))


def test_inside_a_subgraph_the_model_from_outside_is_found(page):
    workflow = subgraph_graph(promoted=False)
    workflow["nodes"][0]["widgets_values"][0] = "tiny.safetensors"
    show(page, workflow)
    enter(page)
    page.locator(FIELD).click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == TINY
    page.keyboard.press("Escape")
    press(page, "Grid")
    page.wait_for_timeout(300)
    assert "grid is shown once" not in page.locator(".nvg-status").inner_text()
    press(page, "Grid")


def test_promoted_widgets_are_usable_on_the_node_of_the_subgraph(page):
    workflow = subgraph_graph(promoted=True)
    show(page, workflow)
    names = nvg_model.info("emoji64")["classes"]
    page.locator(FIELD).click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == [*names, "unconditional"]
    page.keyboard.press("Escape")
    choose(page, "fish")
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    (mask,) = read_painting(value(page, HOST, "painting")).masks
    assert mask[64, 128] == 1 and mask[200, 128] == 0
    queued = prompt(page)
    assert queued[f"{HOST}:{GENERATE}"]["inputs"]["class_name"] == "fish"
    assert queued[f"{HOST}:{PAINT}"]["inputs"]["painting"] == value(page, HOST, "painting")

    saved = serialized(page)
    show(page, workflow)
    assert page.locator(FIELD).input_value() == "heart"
    show(page, saved)
    assert page.locator(FIELD).input_value() == "fish"
    assert prompt(page) == queued
    stroke(page, (0.2, 0.75), (0.8, 0.75))  # below what is there
    (mask,) = read_painting(value(page, HOST, "painting")).masks
    assert mask[64, 128] == 1 and mask[192, 128] == 1


def test_every_node_of_a_subgraph_has_values_of_its_own(page):
    if front_end(page) < (1, 40):
        pytest.skip("front end 1.35 keeps one value for all nodes of a subgraph, of its own text fields too")
    show(page, twice(subgraph_graph(promoted=True)))
    choose(page, "fish", f"{FIELD} >> nth=1")
    queued = prompt(page)
    assert queued[f"{HOST}:{GENERATE}"]["inputs"]["class_name"] == "heart"
    assert queued[f"8:{GENERATE}"]["inputs"]["class_name"] == "fish"


def test_undo_of_the_host_reaches_promoted_widgets(page):
    show(page, subgraph_graph(promoted=True))
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    one = value(page, HOST, "painting")
    stroke(page, (0.2, 0.8), (0.8, 0.8))
    page.keyboard.press("Control+z")
    page.wait_for_function(f"(text) => app.graph.getNodeById({HOST}).widgets[0].value === text", arg=one)
    page.wait_for_timeout(300)
    stroke(page, (0.2, 0.5), (0.8, 0.5))
    (mask,) = read_painting(value(page, HOST, "painting")).masks
    assert mask[51, 128] == 1 and mask[128, 128] == 1 and mask[205, 128] == 0


@pytest.mark.parametrize("kind", ["plain", "promoted"])
def test_the_parameters_panel_has_painter_and_class_list(page, panel, painting_graph, kind):
    show(page, painting_graph if kind == "plain" else subgraph_graph(promoted=True))
    paint, generate = (PAINT, GENERATE) if kind == "plain" else (HOST, HOST)
    select(page, paint)
    stroke(page, (0.2, 0.25), (0.8, 0.25), f"{IN_PANEL} {CANVAS}")
    one = value(page, paint, "painting")
    (mask,) = read_painting(one).masks
    assert mask[64, 128] == 1 and mask[200, 128] == 0
    page.wait_for_function(  # the node shows it too
        f"() => [...document.querySelectorAll('{CANVAS}')].every("
        "(map) => map.getContext('2d').getImageData(128, 64, 1, 1).data[3] === 255)"
    )
    page.keyboard.press("Control+z")
    page.wait_for_function(f"() => app.graph.getNodeById({paint}).widgets[0].value === ''")
    page.wait_for_timeout(300)
    select(page, paint)
    stroke(page, (0.2, 0.75), (0.8, 0.75), f"{IN_PANEL} {CANVAS}")  # of the node that is there now
    (mask,) = read_painting(value(page, paint, "painting")).masks
    assert mask[64, 128] == 0 and mask[192, 128] == 1

    select(page, generate)
    page.wait_for_selector(f"{IN_PANEL} textarea")
    choose(page, "fish", f"{IN_PANEL} textarea")
    assert value(page, generate, "class_name") == "fish"


@pytest.mark.parametrize("kind", ["plain", "promoted"])
def test_what_the_panel_shows_leaves_the_node_as_wide_as_it_was(page, panel, painting_graph, kind):
    show(page, painting_graph if kind == "plain" else subgraph_graph(promoted=True))
    widths = "() => [...document.querySelectorAll('.nvg-view:not(.nvg-panel)')].map((view) => view.offsetWidth)"
    before = page.evaluate(widths)
    assert len(before) == 2 and min(before) > 200
    for id in (PAINT, GENERATE) if kind == "plain" else (HOST,):
        select(page, id)
        page.wait_for_selector(f"{IN_PANEL}:visible")
        page.wait_for_timeout(300)
    assert page.evaluate(widths) == before


def test_the_panel_of_a_subgraph_has_the_widgets_of_the_nodes_inside(page, panel):
    if front_end(page) < (1, 40):
        pytest.skip("the panel of front end 1.35 does not show them")
    workflow = subgraph_graph(promoted=False)
    (inside,) = workflow["definitions"]["subgraphs"]
    copy = {"links": [], "outputs": [], "inputs": [], "widgets_values": ["bird", 7, "fixed", 1]}
    inside["nodes"].append(inside["nodes"][1] | copy | {"id": 9, "pos": [600, 500]})  # of the same title
    show(page, workflow)
    select(page, HOST)
    page.get_by_text("ADVANCED INPUTS", exact=True).click()
    stroke(page, (0.2, 0.25), (0.8, 0.25), f"{IN_PANEL} {CANVAS}")
    shown = page.locator(f"{IN_PANEL} textarea").evaluate_all("(all) => all.map((one) => one.value)")
    assert shown == ["heart", "bird"]
    choose(page, "fish", f"{IN_PANEL} textarea >> nth=0")
    queued = prompt(page)
    assert queued[f"{HOST}:{GENERATE}"]["inputs"]["class_name"] == "fish"
    (mask,) = read_painting(queued[f"{HOST}:{PAINT}"]["inputs"]["painting"]).masks
    assert mask[64, 128] == 1 and mask[200, 128] == 0


@pytest.mark.parametrize("kind", ["plain", "promoted"])
def test_app_mode_has_painter_and_class_list_and_gives_them_back(page, app_mode, painting_graph, kind):
    workflow = painting_graph if kind == "plain" else subgraph_graph(promoted=True)
    paint, generate = (PAINT, GENERATE) if kind == "plain" else (HOST, HOST)
    inputs = [[paint, "painting"], [generate, "class_name"]]
    workflow["extra"] = {"linearMode": False, "linearData": {"inputs": inputs, "outputs": [5]}}
    show(page, workflow)
    for height, row, other, name in ((0.25, 64, 200, "fish"), (0.75, 192, None, "moon")):
        app_mode()
        stroke(page, (0.2, height), (0.8, height))
        (mask,) = read_painting(value(page, paint, "painting")).masks
        assert mask[64, 128] == 1 and mask[row, 128] == 1 and (other is None or mask[other, 128] == 0)
        choose(page, name)
        assert value(page, generate, "class_name") == name
        if front_end(page) >= (1, 58):  # older ones have no label of their own there
            assert page.get_by_text("class_name").filter(visible=True).count() == 1


@pytest.mark.parametrize("kind", ["plain", "promoted"])
def test_a_workflow_opened_in_app_mode_shows_its_own_painter_and_class_list(page, app_mode, painting_graph, kind):
    if front_end(page) < (1, 40):
        pytest.skip("App mode of front end 1.35 goes on showing the workflow before, the host's own widgets too")
    workflow = painting_graph if kind == "plain" else subgraph_graph(promoted=True)
    paint, generate = (PAINT, GENERATE) if kind == "plain" else (HOST, HOST)
    inputs = [[paint, "painting"], [generate, "class_name"]]
    workflow["extra"] = {"linearMode": True, "linearData": {"inputs": inputs, "outputs": [5]}}
    holder = next(one for one in workflow["nodes"] if one["id"] == generate)
    for name in ("fish", "moon"):  # the same nodes and widgets, as in undo, and in a template opened over another
        holder["widgets_values"] = [name, 7, "fixed", 1] if kind == "plain" else ["", name]
        show(page, workflow)
        assert page.locator(FIELD).filter(visible=True).input_value() == name
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    (mask,) = read_painting(value(page, paint, "painting")).masks
    assert mask[64, 128] == 1 and mask[200, 128] == 0
    app_mode()
    page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.setDirty(true, true); }")  # 1.49 has made it 0
    for element in (FIELD, CANVAS):
        page.wait_for_selector(f"{element}:visible")


def test_classes_follow_the_loader_outside(page):
    show(page, subgraph_graph(promoted=True))
    set_value(page, LOAD, "checkpoint", "tiny.safetensors")
    page.locator(FIELD).click()
    page.wait_for_selector(".nvg-classes")
    assert offered(page) == TINY
    page.keyboard.press("Escape")
