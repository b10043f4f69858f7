"""The painter itself: its grid, what counts as a drawing, the picture under it, and what it keeps."""

import io

import pytest
from page_tools import CANVAS, PAINT, add_map, press, serialized, set_value, settle, show, stroke, value
from PIL import Image

import nvg_model
from nvg_nodes.painting import read_painting

pytestmark = [pytest.mark.frontend, pytest.mark.usefixtures("elements")]

LOAD_IMAGE = 11
UNDER = ".nvg-under"
CHOICE = ".nvg-painter select[aria-label='Picture under']"


def zoom(page, scale: float) -> None:
    page.evaluate("(scale) => { app.canvas.ds.scale = scale; app.canvas.setDirty(true, true); }", scale)
    settle(page)


def lines(pixels: list[int]) -> int:
    """How many runs of grid colour there are along a row or column of pixels."""
    is_line = [value > 60 for value in pixels]
    return sum(here and not before for here, before in zip(is_line, [False, *is_line], strict=False))


def test_grid_lines_are_seen_at_every_zoom(page, painting_graph):
    show(page, painting_graph)
    press(page, "Grid")
    rows, columns = nvg_model.preset("emoji64").grid
    for scale in (1, 0.33, 0.5, 0.77, 1.3):
        zoom(page, scale)
        box = page.locator(".nvg-grid").bounding_box()
        shot = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("L")
        # Between two lines, so that no line runs along: a third of a cell into the picture.
        x, y = int(shot.width / columns * 1.4), int(shot.height / rows * 1.4)
        across = [shot.getpixel((at, y)) for at in range(shot.width)]
        down = [shot.getpixel((x, at)) for at in range(shot.height)]
        assert abs(lines(across) - columns - 1) <= 1 and abs(lines(down) - rows - 1) <= 1, (
            scale
        )  # the outermost may be cut
    zoom(page, 1)
    press(page, "Grid")


def test_what_an_eraser_leaves_is_no_drawing(page, painting_graph):
    show(page, painting_graph)
    add_map(page)
    stroke(page, (0.2, 0.3), (0.8, 0.63))
    assert value(page, PAINT, "painting")
    press(page, "Eraser")
    stroke(page, (0.2, 0.3), (0.8, 0.63))  # the same way: its soft edge takes less than everything
    press(page, "Brush")
    assert value(page, PAINT, "painting") == ""
    assert page.locator(".nvg-status").inner_text() == "Paint the area that is to be one half."
    left = page.evaluate(
        f"() => document.querySelector('{CANVAS}').getContext('2d').getImageData(0, 0, 256, 256).data.some(Boolean)"
    )
    assert not left

    stroke(page, (0.2, 0.3), (0.8, 0.3))
    kept = read_painting(value(page, PAINT, "painting")).masks[0]
    stroke(page, (0.2, 0.7), (0.8, 0.9))
    press(page, "Eraser")
    stroke(page, (0.2, 0.7), (0.8, 0.9))
    press(page, "Brush")
    assert (read_painting(value(page, PAINT, "painting")).masks[0] == kept).all()  # beside a drawing, too


def test_a_picture_lies_under_the_map(page, painting_graph):
    load = {
        "id": LOAD_IMAGE, "type": "LoadImage", "pos": [0, 200], "size": [280, 300], "flags": {}, "order": 0, "mode": 0,
        "properties": {}, "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": None}],
        "widgets_values": ["photo.png", "image"], "title": "My photo",
    }  # fmt: skip
    painting_graph["nodes"].append(load)
    show(page, painting_graph)
    assert not page.locator(UNDER).is_visible()
    page.locator(CHOICE).focus()
    page.locator(CHOICE).select_option(label="My photo")
    page.wait_for_function(f"() => document.querySelector('{UNDER}').naturalWidth === 64")
    assert page.locator(UNDER).is_visible()
    saved = serialized(page)
    show(page, {"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})
    show(page, saved)
    page.wait_for_function(f"() => document.querySelector('{UNDER}').naturalWidth === 64")
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    assert "photo" not in value(page, PAINT, "painting")  # it is seen, not painted
    page.locator(CHOICE).select_option(label="Nothing under the map")
    assert not page.locator(UNDER).is_visible()


def test_a_picture_from_a_file_lies_under_the_map(page, painting_graph):
    file = io.BytesIO()
    Image.new("RGB", (48, 32), "green").save(file, "PNG")
    show(page, painting_graph)
    with page.expect_file_chooser() as chooser:
        page.locator(CHOICE).select_option(label="A picture from a file ...")
    chooser.value.set_files({"name": "mine.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.wait_for_function(f"() => document.querySelector('{UNDER}').naturalWidth === 48")
    assert page.locator(UNDER).is_visible()
    assert "blob:" not in str(serialized(page))  # what is on somebody's disk is not shared
    page.locator(CHOICE).select_option(label="Nothing under the map")
    assert not page.locator(UNDER).is_visible()


def test_what_is_kept_for_removed_nodes_is_freed(page, painting_graph):
    kept = "async () => (await import('/extensions/nvg/desk.mjs')).kept.size"
    show(page, painting_graph)
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    assert page.evaluate(kept) >= 1
    page.evaluate(f"() => app.graph.remove(app.graph.getNodeById({PAINT}))")
    page.wait_for_function(f"async () => await ({kept})() === 0", timeout=8000)


def test_a_painting_of_faint_pixels_is_shown(page, painting_graph):
    """From outside comes what may: it is shown as it is, and drawing on it goes on from there."""
    file = io.BytesIO()
    Image.new("RGBA", (256, 256), (255, 255, 255, 60)).save(file, "PNG")
    import base64

    show(page, painting_graph)
    set_value(page, PAINT, "painting", "data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    page.wait_for_timeout(300)
    stroke(page, (0.2, 0.25), (0.8, 0.25))
    (mask,) = read_painting(value(page, PAINT, "painting")).masks
    assert mask[64, 128] == 1 and mask[200, 128] == 0
