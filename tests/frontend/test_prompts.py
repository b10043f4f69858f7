"""Our reader of workflow files against the genuine front end: both make the same prompt of the same graph."""

import json

import pytest
from shared_graphs import graphs

from nvg_nodes.standalone import graph

pytestmark = pytest.mark.frontend
SINCE = (1, 58)
"""The front end whose rules are ours; older ones differ where nodes in and around subgraphs are muted."""
GRAPHS = graphs()


@pytest.fixture
def page(opened):
    """The page; skips front ends that are older than our rules."""
    version = opened.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    if tuple(map(int, version.split(".")[:2])) < SINCE:
        pytest.skip(f"front end {version} is older than {SINCE[0]}.{SINCE[1]} (see NVG_FRONTENDS)")
    return opened


def as_saved(content):
    """The graph with all that the front end wants to find: ids that are numbers, places, sizes, links at outputs."""
    content = json.loads(json.dumps(content)) | {"version": 0.4, "last_node_id": 99, "last_link_id": 99}
    content |= {"groups": [], "config": {}, "extra": {}}
    _complete(content)
    for definition in content.get("definitions", {}).get("subgraphs", []):
        _complete(definition)
        state = {"lastGroupId": 0, "lastNodeId": 99, "lastLinkId": 99, "lastRerouteId": 0}
        definition |= {"version": 1, "state": state, "revision": 0, "config": {}, "groups": [], "widgets": []}
        for end in ("inputNode", "outputNode"):
            definition[end]["bounding"] = [0, 0, 1, 1]
    return content


def _complete(level):
    begins = {}
    for link in level["links"]:
        if isinstance(link, list):
            link[1], link[3] = int(link[1]), int(link[3])
            id, origin, slot = link[:3]
        else:
            id, origin, slot = link["id"], link["origin_id"], link["origin_slot"]
        begins.setdefault((int(origin), slot), []).append(id)
    for node in level["nodes"]:
        node["id"] = int(node["id"])
        for name, value in {"pos": [0, 0], "size": [99, 99], "flags": {}, "order": 0, "properties": {}}.items():
            node.setdefault(name, value)
        for slot, output in enumerate(node["outputs"]):
            output["links"] = begins.get((node["id"], slot))
            if node["type"] == "PrimitiveNode":
                output["widget"] = {"name": "scale_by"}


def essence(prompt):
    """Types and inputs; an upload button has no meaning."""
    return {
        id: (node["class_type"], {name: value for name, value in node["inputs"].items() if name != "upload"})
        for id, node in prompt.items()
    }


@pytest.mark.parametrize("opened", ["classic"], indirect=True)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_prompt(page, server, name):
    content = as_saved(GRAPHS[name])
    load = "async (content) => { await app.loadGraphData(content); return (await app.graphToPrompt()).output; }"
    theirs = page.evaluate(load, content)
    assert essence(graph.parse(content, server.catalogue).filled().prompt) == essence(theirs)
