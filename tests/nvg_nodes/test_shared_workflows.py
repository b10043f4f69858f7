"""Workflows as people share them: each becomes the prompt that the genuine front end (1.58) would send, or a sentence.

Every kind is made here in small; `test_cases` also goes through the folder $NVG_CASES (../shared/cases).
"""

import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image
from shared_graphs import (
    API,
    FACTOR,
    OTHER,
    chain,
    defined,
    enlarge,
    flow,
    inner_link,
    instance,
    load,
    node,
    primitive,
    save,
    saved_to,
    scale,
    slot,
    subgraph,
    with_factor,
)

from nvg_nodes.standalone import graph, runner, workflow

CASES = Path(os.environ.get("NVG_CASES") or Path(__file__).resolve().parents[3] / "shared" / "cases")


@pytest.fixture
def prompt(folder):
    def parse(content):
        return graph.parse(content, runner.catalogue()).prompt

    return parse


# ------------------------------------------------------------------------------------------------------- subgraphs


@pytest.mark.parametrize("text", [False, True])
def test_subgraph(prompt, text):
    found = prompt(chain(instance("4", 1), **defined(enlarge(text))))
    assert list(found) == ["1", "4:7", "5"]
    assert found["4:7"]["inputs"] == {"image": ["1", 0], "upscale_method": "nearest-exact", "scale_by": 2.0}
    assert found["5"]["inputs"]["images"] == ["4:7", 0]


def test_definitions_that_no_node_uses(prompt):
    unused = [{"id": OTHER, "nodes": [{"id": 1, "type": "KSampler"}]}, {}, None]
    assert prompt(chain(scale("4", 1), **defined(*unused))) == prompt(chain(scale("4", 1)))


def test_nested_subgraphs_and_several_instances(prompt):
    links = [inner_link(1, -10, 0, 8, 0), inner_link(2, 9, 0, -20, 0), inner_link(3, 8, 0, 9, 0)]
    outer = subgraph(instance(8, 1), instance(9, 3), links=links, id=OTHER)
    found = prompt(chain(instance("4", 1, type=OTHER), **defined(enlarge(), outer)))
    assert list(found) == ["1", "4:8:7", "4:9:7", "5"]
    assert found["4:8:7"]["inputs"]["image"] == ["1", 0]
    assert found["4:9:7"]["inputs"]["image"] == ["4:8:7", 0]
    assert found["5"]["inputs"]["images"] == ["4:9:7", 0]


def test_promoted_widgets_have_a_value_for_every_instance(prompt):
    links = [(1, "1", 0, "3", 0, "IMAGE"), (3, "3", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE")]
    both = [instance("3", 1, [3.0], [FACTOR]), instance("4", 3, [0.5], [FACTOR])]
    found = prompt(flow(load(), *both, save("5", 2), links=links, **defined(with_factor())))
    assert [found[id]["inputs"]["scale_by"] for id in ("3:7", "4:7")] == [3.0, 0.5]


@pytest.mark.parametrize(
    ("values", "proxies", "expected"),
    [
        ([], None, 2.0),  # no value of its own: the inner widget's
        ([None], None, 2.0),
        ([3.0], [["-1", "factor"]], 3.0),
        ([3.0], [["7", "scale_by"]], 3.0),  # older files name the inner widget
        (["area", 3.0], [["7", "upscale_method"], ["-1", "factor"]], 3.0),
        ([3.0, "area"], [["7", "upscale_method"]], 3.0),  # front end 1.35: inputs first
        ([3.0], json.dumps([["7", "scale_by"]]), 3.0),
    ],
)
def test_promoted_widgets_of_every_front_end(prompt, values, proxies, expected):
    found = prompt(chain(instance("4", 1, values, [FACTOR], proxies), **defined(with_factor())))
    assert found["4:7"]["inputs"]["scale_by"] == expected
    assert found["4:7"]["inputs"]["upscale_method"] == ("area" if "area" in values else "nearest-exact")


def test_a_widget_promoted_through_two_subgraphs(prompt):
    inner = [inner_link(1, -10, 0, 8, 0), inner_link(2, 8, 0, -20, 0), inner_link(3, -10, 1, 8, 1, "FLOAT")]
    inputs = (("image", "IMAGE", [1]), ("much", "FLOAT", [3]))
    nested = instance(8, 1, [4.0], [FACTOR | {"link": 3}])
    outer = subgraph(nested, links=inner, inputs=inputs, id=OTHER)
    much = FACTOR | {"name": "much"}
    for values, expected in (([5.0], 5.0), ([], 4.0)):
        content = chain(instance("4", 1, values, [much], type=OTHER), **defined(with_factor(), outer))
        assert prompt(content)["4:8:7"]["inputs"]["scale_by"] == expected


def test_a_proxy_of_a_nested_subgraphs_widget(prompt):
    inner = [inner_link(1, -10, 0, 8, 0), inner_link(2, 8, 0, -20, 0)]
    outer = subgraph(instance(8, 1, [], [FACTOR]), links=inner, id=OTHER)
    content = chain(instance("4", 1, [6.0], (), [["8", "7: factor"]], type=OTHER), **defined(with_factor(), outer))
    assert prompt(content)["4:8:7"]["inputs"]["scale_by"] == 6.0


def test_a_connected_promoted_widget_takes_what_is_connected(prompt):
    primitive = node("9", "PrimitiveNode", [7.0, "fixed"], (), ["FLOAT"])
    links = [(1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE"), (8, "9", 0, "4", 1, "FLOAT")]
    middle = instance("4", 1, [3.0], [FACTOR | {"link": 8}])
    found = prompt(chain(middle, primitive, links=links, **defined(with_factor())))
    assert found["4:7"]["inputs"]["scale_by"] == 7.0


def test_an_input_that_goes_straight_to_an_output(prompt):
    through = subgraph(links=[inner_link(1, -10, 0, -20, 0)], outputs=(("IMAGE", "IMAGE", [1]),))
    assert prompt(chain(instance("4", 1), **defined(through)))["5"]["inputs"]["images"] == ["1", 0]


def test_a_muted_and_a_bypassed_subgraph(prompt):
    muted = prompt(chain(instance("4", 1, mode=2), **defined(enlarge())))
    assert list(muted) == ["1", "5"] and "images" not in muted["5"]["inputs"]
    bypassed = prompt(chain(instance("4", 1, mode=4), **defined(enlarge())))
    assert list(bypassed) == ["1", "5"] and bypassed["5"]["inputs"]["images"] == ["1", 0]


def test_a_subgraph_that_holds_itself(prompt, refuses):
    loop = subgraph(instance(7, 1), links=[inner_link(1, -10, 0, 7, 0), inner_link(2, 7, 0, -20, 0)])
    with refuses("the workflow is damaged: .*a subgraph holds itself"):
        prompt(chain(instance("4", 1), **defined(loop)))


def test_a_value_set_in_a_subgraph_is_in_the_picture(plain, folder):
    content = chain(instance("4", 1, [3.0], [FACTOR]), **defined(with_factor()))
    assert plain(content, "--set", "4:7.scale_by=2.5") == 0
    with Image.open(folder / "out/x_00001_.png") as picture:
        assert picture.size == (15, 10)
        again = json.loads(picture.info["workflow"])
        assert graph.parse(again, runner.catalogue()).prompt == json.loads(picture.info["prompt"])
    links = [(1, "1", 0, "3", 0, "IMAGE"), (3, "3", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE")]
    twice = flow(load(), instance("3", 1), instance("4", 3), save("5", 2), links=links, **defined(enlarge()))
    assert plain(twice, "--set", "4:7.scale_by=1") == 0
    with Image.open(folder / "out/x_00002_.png") as picture:
        assert picture.size == (12, 8), "one of two instances"
        assert "workflow" not in picture.info, "the graph has no place for it, so it would make another picture"


# ------------------------------------------------------------------------------------- nodes of the front end's own


@pytest.mark.parametrize(
    "virtual",
    [
        node(50, "Label (rgthree)", ["x"]),
        node(50, "Fast Groups Muter (rgthree)", [], [], ["*"]),
        node(50, "Fast Muter (rgthree)", [], [slot("5", "*", 9)], ["*"]),
        node(50, "Note", ["hello"]),
        node(50, "Somebody's own label"),
        node(50, "SetNode", ["pic"], [slot("IMAGE", "IMAGE", 9)], ["IMAGE"]),
    ],
)
def test_front_end_nodes_are_left_out(prompt, virtual):
    links = [(1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE"), (9, "4", 0, "50", 0, "IMAGE")]
    assert prompt(chain(scale("4", 1), virtual, links=links)) == prompt(chain(scale("4", 1)))


@pytest.mark.parametrize("kind", ["Reroute", "Reroute (rgthree)"])
def test_reroutes(prompt, kind):
    middle = node("4", kind, (), [slot("", "*", 1)], ["*"])
    assert prompt(chain(middle))["5"]["inputs"]["images"] == ["1", 0]


@pytest.mark.parametrize("setter", ["SetNode", "easy setNode"])
def test_set_and_get(prompt, refuses, setter):
    getter = setter.replace("set", "get").replace("Set", "Get")
    put = node("3", setter, ["pic"], [slot("IMAGE", "IMAGE", 1)], ["IMAGE"])
    get = node("4", getter, ["pic"], [], ["IMAGE"])
    links = [(1, "1", 0, "3", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE")]
    assert prompt(chain(get, put, links=links))["5"]["inputs"]["images"] == ["1", 0]
    with refuses("node 4 gets 'pic', but no Set node of that name is in the workflow"):
        prompt(chain(get, links=links[1:]))


@pytest.mark.parametrize(
    ("values", "mode", "expected"), [((3.0, "fixed"), 0, 3.0), ((3.0,), 2, 3.0), ((3.0,), 4, 3.0), ((), 0, 2.0)]
)
def test_primitives(prompt, values, mode, expected):
    assert prompt(primitive(values, mode))["4"]["inputs"]["scale_by"] == expected


def test_a_primitive_behind_a_reroute_fills_in_nothing(prompt):
    links = [(1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE")]
    links += [(3, "9", 0, "8", 0, "*"), (4, "8", 0, "4", 1, "*")]
    reroute = node("8", "Reroute", (), [slot("", "*", 3)], ["*"])
    source = node("9", "PrimitiveNode", [3.0], (), ["FLOAT"])
    assert prompt(chain(scale("4", 1, factor=4), source, reroute, links=links))["4"]["inputs"]["scale_by"] == 2.0


def test_a_muted_source_leaves_the_widgets_own_value(prompt):
    links = [(1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE"), (3, "8", 0, "4", 1, "FLOAT")]
    source = node("8", "SolidMask", [1.0, 2, 2], (), ["FLOAT"], mode=2)
    assert prompt(chain(scale("4", 1, factor=3), source, links=links))["4"]["inputs"]["scale_by"] == 2.0


def test_a_bypassed_node_hands_on_the_input_of_the_type(prompt):
    middle = node(
        "4", "MaskComposite", [], [slot("x", "INT"), slot("a", "MASK"), slot("b", "IMAGE", 1)], ["IMAGE"], mode=4
    )
    assert prompt(chain(middle))["5"]["inputs"]["images"] == ["1", 0]
    unfit = node("4", "MaskComposite", [], [slot("a", "MASK", 1)], ["IMAGE"], mode=4)
    assert "images" not in prompt(chain(unfit))["5"]["inputs"]


def test_a_circle_of_reroutes(prompt, refuses):
    links = [(1, "3", 0, "4", 0, "*"), (2, "4", 0, "5", 0, "IMAGE"), (3, "4", 0, "3", 0, "*")]
    reroutes = [node(id, "Reroute", (), [slot("", "*", link)], ["*"]) for id, link in (("4", 1), ("3", 3))]
    with refuses("the connections run in a circle through node 4"):
        prompt(chain(*reroutes, links=links))


# ----------------------------------------------------------------------------------------------------------- values


def generate(values):
    inputs = [slot("model", "NVG_MODEL")]
    return flow(node(3, "NVGGenerate", values, inputs, ["IMAGE"]), links=[])


@pytest.mark.parametrize("control", [("fixed",), (None,), ("increment-wrap",), ("somebody's own word",), ()])
@pytest.mark.parametrize("surplus", [[], ["a status text"], [None, {"of": "a newer version"}], [None]])
def test_surplus_and_null_values(prompt, control, surplus):
    inputs = prompt(generate(["heart", 7, *control, 1, 0, 0, 0, 5, 0.5, True, 3, True, *surplus]))["3"]["inputs"]
    expected = {"class_name": "heart", "seed": 7, "batch_size": 1, "keep_structure": 0, "keep_content": 0}
    expected |= {"first_item": 0, "variation_seed": 5, "variation": 0.5, "shared_noise": True, "partner_from": 3}
    expected |= {"seamless": True}
    assert inputs == expected


def test_values_of_an_older_version(prompt):
    inputs = prompt(generate(["heart", 7, "fixed", 1, 0, 0, 0]))["3"]["inputs"]
    assert inputs.pop("first_item") == 0 and len(inputs) == 5


def test_an_inpaint_node_from_before_the_partner(prompt):
    inputs = [slot("model", "NVG_MODEL"), slot("image", "IMAGE")]
    values = ["heart", 7, "fixed", 1, 0.5, 3, -2, 0, 0, 5, 0.5]
    before, now = (
        prompt(flow(node(3, "NVGInpaint", given, inputs, ["IMAGE"]), links=[]))["3"]["inputs"]
        for given in (values, [*values, 3])
    )
    assert (before["scale"], before["right"], before["down"]) == (0.5, 3, -2)
    assert (before["variation_seed"], before["variation"]) == (5, 0.5)
    assert "partner_from" not in before and now == before | {"partner_from": 3}


def test_null_at_the_end_is_the_default(prompt):
    inputs = prompt(generate(["heart", 7, "fixed", 1, None, None, None]))["3"]["inputs"]
    assert inputs == {"class_name": "heart", "seed": 7, "batch_size": 1}


def test_unknown_literals_are_ignored_and_wrapped_values_unwrapped(plain, folder):
    content = saved_to({"__value__": "wrapped"})
    content["1"] = {
        "class_type": "LoadImage",
        "inputs": {"image": "plain.png", "upload": "image", "of a": {"newer": 1}},
    }
    assert plain(content) == 0 and (folder / "out/wrapped_00001_.png").is_file()


def test_titles_and_types_that_are_null(plain, capsys):
    content = {id: one | {"_meta": meta} for (id, one), meta in zip(API.items(), (None, {"title": None}), strict=True)}
    assert plain(content, "--list") == 0
    assert capsys.readouterr().out.startswith("1  LoadImage\n")
    assert plain(content) == 0
    assert plain(API | {"2": API["2"] | {"class_type": None}}) == 2
    assert capsys.readouterr().err == (
        "nvg-run: node 2 has no class_type, so nobody knows what it does; export the workflow again\n"
    )


def test_an_output_that_cannot_run_does_not_hold_up_the_others(plain, folder, capsys):
    broken = {"class_type": "SaveImage", "inputs": {"filename_prefix": "y"}}
    assert plain({"0": broken} | API) == 2
    said = capsys.readouterr()
    assert said.out == "out/x_00001_.png\n" and (folder / "out/x_00001_.png").is_file()
    assert re.fullmatch(r"nvg-run: left out: images of SaveImage \(node 0\) is missing: connect it, .*\n", said.err)


# ------------------------------------------------------------------------------------------------ the shared folder


def listed(capsys, **expected):
    """Checks the inputs of the one node that has them all."""
    out = capsys.readouterr().out
    for name, value in expected.items():
        assert f"    {name} = {json.dumps(value)}\n" in out, out


def sentence(capsys, says):
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(says, said), said


DRAWN = {"class_name": "heart", "seed": 7, "batch_size": 1}
LISTED = {
    "17_progress_text_1.35.9.json": DRAWN,
    "14_subgraph.json": DRAWN | {"scale_by": 4.0},
    "12_3_virtual_Labelrgthree.json": DRAWN,
    "13_setget.json": DRAWN,
    "06_control_null.json": DRAWN,
    "01_bom.json": DRAWN,
    "08c_primitive_novalue.json": DRAWN,
    "08d_primitive_muted.json": DRAWN | {"seed": 3},
    "meta_null.json": DRAWN,
}
RUN = {
    "m_load_backslash.json": "x_00001_.png",
    "m_load_upload2.json": "x_00001_.png",
    "m_prefix__date_yyyy_MM_dd__a.json": f"{datetime.now():%Y-%m-%d}/a_00001_.png",
}


@pytest.fixture
def case():
    """`case(name)` is the file of that name in the folder of cases; skips where there is none."""

    def find(name):
        if not CASES.is_dir():
            pytest.skip(f"no folder {CASES} of shared cases (set NVG_CASES to it)")
        found = sorted(CASES.rglob(name))
        if not found:
            pytest.skip(f"no {name} in {CASES}")
        return str(found[0])

    return find


@pytest.mark.parametrize("name", LISTED)
def test_cases_that_are_listed(case, capsys, name):
    assert workflow.main([case(name), "--list"]) == 0
    listed(capsys, **LISTED[name])


@pytest.mark.parametrize("name", RUN)
def test_cases_that_run(case, plain, folder, name):
    assert workflow.main([case(name), "--out", "out", "--quiet"]) == 0
    assert (folder / "out" / RUN[name]).is_file()


def test_case_of_a_group_node(case, capsys):
    assert workflow.main([case("15_groupnode.json"), "--list"]) == 2
    sentence(capsys, "node 4 is the group node 'Bigger'.*Convert to nodes")


def test_every_other_file_of_the_cases(case, capsys):
    """A variant that is named nowhere here is a workflow or a sentence, too."""
    case("README.md")
    for path in sorted(CASES.rglob("*.json")):
        status = workflow.main([str(path), "--list"])
        said = capsys.readouterr().err
        assert (status, said.count("\n")) in ((0, 0), (2, 1)), f"{path}: {said}"
