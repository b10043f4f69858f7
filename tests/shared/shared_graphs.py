"""Graphs as front ends save them, in small: for the tests of our reader, and to compare it with the genuine front end.

LoadImage 1 -> a node 4 in the middle -> SaveImage 5; a subgraph has an ImageScaleBy 7 in it.
"""

UUID = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"


def slot(name, kind, link=None, widget=False):
    return {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})


def node(id, kind, values=(), inputs=(), outputs=(), **more):
    return {
        "id": id,
        "type": kind,
        "mode": 0,
        "widgets_values": list(values),
        "inputs": list(inputs),
        "outputs": [{"name": name, "type": name} for name in outputs],
    } | more


def load(id="1", **more):
    return node(id, "LoadImage", ["plain.png", "image"], [], ["IMAGE", "MASK"], **more)


def scale(id, link, by=2.0, factor=None, **more):
    inputs = [slot("image", "IMAGE", link), slot("scale_by", "FLOAT", factor, widget=True)]
    return node(id, "ImageScaleBy", ["nearest-exact", by], inputs, ["IMAGE"], **more)


def save(id, link, prefix="x", **more):
    return node(id, "SaveImage", [prefix], [slot("images", "IMAGE", link)], **more)


def flow(*nodes, links, **more):
    return {"nodes": list(nodes), "links": [list(link) for link in links]} | more


def inner_link(id, origin, origin_slot, target, target_slot, kind="IMAGE"):
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, (id, origin, origin_slot, target, target_slot, kind), strict=True))


def subgraph(*nodes, links, inputs=(("image", "IMAGE", [1]),), outputs=(("IMAGE", "IMAGE", [2]),), id=UUID, text=False):
    """A definition; `text`: ids of its ends are text, as front end 1.58 writes them."""
    ends = [
        [{"id": f"{name}-{number}", "name": name, "type": kind, "linkIds": ids} for number, (name, kind, ids) in given]
        for given in (enumerate(inputs), enumerate(outputs))
    ]
    kind = str if text else int
    for one in links:
        for end in ("origin_id", "target_id"):
            one[end] = kind(one[end])
    return {
        "id": id,
        "name": "Bigger",
        "inputNode": {"id": kind(-10)},
        "outputNode": {"id": kind(-20)},
        "inputs": ends[0],
        "outputs": ends[1],
        "nodes": list(nodes),
        "links": list(links),
    }


def instance(id, link, values=(), inputs=(), proxies=None, type=UUID, **more):
    properties = {"properties": {"proxyWidgets": proxies}} if proxies is not None else {}
    return node(id, type, values, [slot("image", "IMAGE", link), *inputs], ["IMAGE"], **properties, **more)


def enlarge(text=False):
    """A subgraph with one ImageScaleBy in it."""
    links = [inner_link(1, -10, 0, 7, 0), inner_link(2, 7, 0, -20, 0)]
    return subgraph(scale(7, 1), links=links, text=text)


def with_factor(links=(), **more):
    """The same, whose scale_by is an input of the subgraph."""
    inner = [inner_link(1, -10, 0, 7, 0), inner_link(2, 7, 0, -20, 0), inner_link(3, -10, 1, 7, 1, "FLOAT")]
    inputs = (("image", "IMAGE", [1]), ("factor", "FLOAT", [3]))
    return subgraph(scale(7, 1, factor=3), links=inner, inputs=inputs, **more)


FACTOR = slot("factor", "FLOAT", None, widget=True)
DEFINITIONS = "definitions"


def defined(*subgraphs):
    return {DEFINITIONS: {"subgraphs": list(subgraphs)}}


def chain(middle, *more, links=((1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE")), **rest):
    """LoadImage 1 -> the middle node 4 -> SaveImage 5."""
    return flow(load(), middle, save("5", 2), *more, links=links, **rest)


def primitive(values=(), mode=0, **more):
    """A primitive that gives ImageScaleBy its factor; the widget's own is 2."""
    links = [(1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE"), (3, "9", 0, "4", 1, "FLOAT")]
    return chain(
        scale("4", 1, factor=3), node("9", "PrimitiveNode", values, (), ["FLOAT"], mode=mode, **more), links=links
    )


def graphs():
    """Graphs by name of which front end 1.58 makes the same prompt as our reader."""
    across = [(1, "1", 0, "3", 0, "IMAGE"), (3, "3", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE")]
    twice = [inner_link(1, -10, 0, 8, 0), inner_link(2, 9, 0, -20, 0), inner_link(3, 8, 0, 9, 0)]
    nested = subgraph(instance(8, 1), instance(9, 3), links=twice, id=OTHER)
    ends = [inner_link(1, -10, 0, 8, 0), inner_link(2, 8, 0, -20, 0)]
    held = subgraph(instance(8, 1, [], [FACTOR]), links=ends, id=OTHER)
    proxies = {
        "no value": ([], None),
        "own input": ([3.0], [["-1", "factor"]]),
        "inner widget": ([3.0], [["7", "scale_by"]]),
        "both": (["area", 3.0], [["7", "upscale_method"], ["-1", "factor"]]),
    }
    both = [instance("3", 1, [3.0], [FACTOR]), instance("4", 3, [0.5], [FACTOR])]
    words = "%Big.scale_by%-%LoadImage.image%-%date:yyyy.MM%-%ImageScaleBy.upscale_method%-%date:yy M%"
    return {
        "subgraph": chain(instance("4", 1), **defined(enlarge())),
        "subgraph with ids of text": chain(instance("4", 1), **defined(enlarge(text=True))),
        "nested": chain(instance("4", 1, type=OTHER), **defined(enlarge(), nested)),
        "two instances": flow(load(), *both, save("5", 2), links=across, **defined(with_factor())),
        "proxy of a nested one": chain(
            instance("4", 1, [6.0], (), [["8", "factor"]], type=OTHER), **defined(with_factor(), held)
        ),
        "words": flow(
            load(), scale("4", 1, title="Big"), save("5", 2, words), links=[(1, "1", 0, "4", 0, "IMAGE"), across[2]]
        ),
        **{
            f"promoted, {name}": chain(instance("4", 1, values, [FACTOR], given), **defined(with_factor()))
            for name, (values, given) in proxies.items()
        },
        "primitive without a value": primitive(),
        **graphs_of_modes(),
    }


def graphs_of_modes():
    """Those with a node that is muted (2) or bypassed (4)."""
    muted = [(1, "1", 0, "4", 0, "IMAGE"), (2, "4", 0, "5", 0, "IMAGE"), (3, "8", 0, "4", 1, "FLOAT")]
    source = node("8", "SolidMask", [1.0, 2, 2], (), ["FLOAT"], mode=2)
    return {
        "muted source": chain(scale("4", 1, factor=3), source, links=muted),
        **{f"subgraph of mode {mode}": chain(instance("4", 1, mode=mode), **defined(enlarge())) for mode in (2, 4)},
        **{f"node of mode {mode}": chain(scale("4", 1, mode=mode)) for mode in (2, 4)},
        **{
            f"reroute of mode {mode}": chain(node("4", "Reroute", (), [slot("", "*", 1)], ["*"], mode=mode))
            for mode in (0, 2, 4)
        },
        **{f"primitive of mode {mode}": primitive((3.0, "fixed"), mode) for mode in (0, 2, 4)},
    }


API = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "plain.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def saved_to(prefix):
    return API | {"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}}}
