"""Forty mistakes in graphs of the genuine host: each is one sentence, and the next run works.

A mistake that the host's own validation sees is refused there, with the host's words; all others end in our node.
"""

import dataclasses
import re

import pytest

import nvg_model

TINY = {"checkpoint": "tiny.safetensors", "dtype": "float32"}
SHAPE = ("NVGStructureShape", {"model": ["1", 0], "stages": 3})
PIXEL = ("EmptyImage", {"width": 1, "height": 1, "batch_size": 1, "color": 0})
IMAGE = ("EmptyImage", {"width": 8, "height": 8, "batch_size": 1, "color": 0})
DRAW = {"model": ["1", 0], "class_name": "heart", "seed": 7, "batch_size": 1}


def mask(value: float) -> tuple[str, dict]:
    return "SolidMask", {"value": value, "width": 8, "height": 8}


def show(structure: str, output: int = 0) -> dict[str, tuple[str, dict]]:
    return {"9": ("NVGStructurePreview", {"structure": [structure, output]})}


def save(image: str) -> dict[str, tuple[str, dict]]:
    return {"9": ("SaveImage", {"images": [image, 0], "filename_prefix": "wrong"})}


def drawn(**inputs: object) -> dict[str, tuple[str, dict]]:
    """A picture of the tiny model with other inputs of the generating node."""
    return {"2": ("NVGGenerate", DRAW | inputs), **save("2")}


def settings(**values: object) -> dict[str, tuple[str, dict]]:
    return {"4": ("NVGSamplingSettings", values), **drawn(settings=["4", 0])}


def masked(value: float, **inputs: object) -> dict[str, tuple[str, dict]]:
    return {
        "5": mask(value),
        "6": ("NVGStructureFromMask", {"model": ["1", 0], "mask": ["5", 0]} | inputs),
        **show("6"),
    }


def tool(kind: str, **inputs: object) -> dict[str, tuple[str, dict]]:
    return {"5": SHAPE, "6": (kind, {"structure": ["5", 0]} | inputs), **show("6")}


def painted(painting: str) -> dict[str, tuple[str, dict]]:
    return {"6": ("NVGPaintStructure", {"model": ["1", 0], "painting": painting}), **show("6")}


SEQUENCE = {"5": IMAGE, "6": ("NVGTokenize", {"model": ["1", 0], "image": ["5", 0]})}
OTHER = {"7": ("NVGLoadModel", {"checkpoint": "other.safetensors", "dtype": "float32"})}

IN_OUR_NODES = {
    "unknown class": (drawn(class_name="hart"), "there is no class 'hart'; did you mean heart"),
    "class number out of range": (drawn(class_name="99"), "class 99 is out of range"),
    "no class": (drawn(class_name=" "), "no class was given"),
    "keeping structure without a sequence": (drawn(keep_structure=2), "no sequence to keep from|there is no sequence"),
    "keeping content without a sequence": (drawn(keep_content=2), "no sequence to keep from|there is no sequence"),
    "more kept than there is": (
        SEQUENCE | drawn(sequence=["6", 0], keep_content=9),
        "keep_content is 9; the sequence has 5 stages",
    ),
    "structure and keep_structure": (
        SEQUENCE | {"8": SHAPE} | drawn(structure=["8", 0], sequence=["6", 0], keep_structure=1),
        "either a structure or keep_structure, not both",
    ),
    "structure of another K": (
        OTHER | {"5": ("NVGStructureShape", {"model": ["7", 0], "stages": 2})} | drawn(structure=["5", 0]),
        "structure is of a grid of",
    ),
    "model of another grid": (
        OTHER | SEQUENCE | {"8": ("NVGDecode", {"model": ["7", 0], "sequence": ["6", 0]}), **save("8")},
        "sequence is of a grid of",
    ),
    "deleted checkpoint": ({"1": ("NVGLoadModel", TINY | {"checkpoint": "gone.safetensors"})} | drawn(), "there is no"),
    "path out of the folder": ({"1": ("NVGLoadModel", TINY | {"checkpoint": "../../x"})} | drawn(), "there is no"),
    "truncated checkpoint": (
        {"1": ("NVGLoadModel", TINY | {"checkpoint": "broken.safetensors"})} | drawn(),
        "cannot be read|damaged|truncated",
    ),
    "not a hub id": ({"1": ("NVGLoadModel", TINY | {"hub_id": "http://x/y"})} | drawn(), "is not a hub id"),
    "nucleus of nothing": (settings(top_p_last=0.0), "top_p is"),
    "mask of zeros": (masked(0.0), "the mask is empty"),
    "mask of ones": (masked(1.0), "the mask covers everything"),
    "mask of one value": (masked(0.7, rule="mask value"), "same value everywhere"),
    "more stages than there are": (
        {"6": ("NVGStructureShape", {"model": ["1", 0], "stages": 20}), **show("6")},
        "20 stages are not possible",
    ),
    "picture of one colour": (
        {"5": IMAGE, "6": ("NVGStructureFromImage", {"model": ["1", 0], "image": ["5", 0]}), **show("6")},
        "one colour only",
    ),
    "1x1 label picture": (
        {"5": PIXEL, "6": ("NVGStructureFromImage", {"model": ["1", 0], "image": ["5", 0]}), **show("6")},
        "one colour only",
    ),
    "too many stages of a picture": (
        {"5": IMAGE, "6": ("NVGExtractStructure", {"model": ["1", 0], "image": ["5", 0], "stages": 9}), **show("6")},
        "9 stages are too many",
    ),
    "nothing painted": (painted(""), "nothing is painted yet"),
    "first map not painted": (painted('{"version": 1, "masks": [null]}'), "the first map is not painted"),
    "painting of a newer version": (painted('{"version": 9, "masks": []}'), "neither a picture nor|version 9"),
    "damaged painting": (painted("data:image/png;base64,AAAA"), "the painting is damaged"),
    "painting that is no painting": (painted("hello"), "neither a picture nor JSON"),
    "stages that are not there": (tool("NVGStructureKeep", stages=9), "the structure has 3"),
    "map that is not there": (
        {"5": SHAPE, "6": ("NVGStructureToImage", {"structure": ["5", 0], "stage": 7}), **save("6")},
        "no stage 7",
    ),
    "region that is not there": (
        {"5": SHAPE, "6": ("NVGStructureToMask", {"structure": ["5", 0], "regions": "0, 99"}),
         "8": ("MaskToImage", {"mask": ["6", 0]}), **save("8")},
        "no region 99",
    ),
    "region that is a word": (
        {"5": SHAPE, "6": ("NVGStructureToMask", {"structure": ["5", 0], "regions": "left"}),
         "8": ("MaskToImage", {"mask": ["6", 0]}), **save("8")},
        "'left' is not a region",
    ),
    "different grids": (
        OTHER | {"5": SHAPE, "8": ("NVGStructureShape", {"model": ["7", 0], "stages": 2}),
                 "6": ("NVGStructureBlend", {"structure_a": ["5", 0], "structure_b": ["8", 0]}), **show("6")},
        "different grids",
    ),
    "swapping more than there is": (
        {"5": SHAPE, "6": ("NVGStructureSwap", {"structure_a": ["5", 0], "structure_b": ["5", 0], "stages": 9}),
         **show("6")},
        "the first structure has 3",
    ),
    "stage of a picture that is not there": (
        SEQUENCE | {"8": ("NVGDecode", {"model": ["1", 0], "sequence": ["6", 0], "show": "one stage", "stage": 9}),
                    **save("8")},
        "stage 9 is not in the sequence",
    ),
    "two structures in a row": (
        {"5": ("NVGStart", {"model": ["1", 0], "class_name": "heart"}),
         "6": ("NVGGenerateStructure", {"model": ["1", 0], "state": ["5", 0]}),
         "8": ("NVGGenerateStructure", {"model": ["1", 0], "state": ["6", 0]}), **show("8", 1)},
        "has its structure already",
    ),
}  # fmt: skip

BY_THE_HOST = {
    "no model": drawn(model=None),
    "wrong socket": {"2": ("NVGGenerate", DRAW), "9": ("SaveImage", {"images": ["1", 0], "filename_prefix": "x"})},
    "too small a batch": drawn(batch_size=0),
    "too large a batch": drawn(batch_size=10**6),
    "text for a number": drawn(seed="seven"),
    "not in the list": {"1": ("NVGLoadModel", TINY | {"dtype": "float8"})} | drawn(),
    "node of a newer version": {"8": ("NVGDream", {}), **save("8")},
}


@pytest.fixture
def graph(host):
    """Makes an API prompt of nodes, with the values that the front end sends for widgets that nobody touched."""
    (host.base / "models" / "nvg" / "broken.safetensors").write_bytes(
        (host.base / "models" / "nvg" / "tiny.safetensors").read_bytes()[:5000]
    )
    other(host.base / "models" / "nvg" / "other.safetensors")

    def make(nodes: dict[str, tuple[str, dict]]) -> dict:
        prompt = {}
        for id, (kind, given) in ({"1": ("NVGLoadModel", TINY)} | nodes).items():
            info = host.get(f"/object_info/{kind}").get(kind, {"input": {}})
            required = info["input"].get("required", {})
            values = {name: entry[1]["default"] for name, entry in required.items() if "default" in entry[-1]}
            merged = {name: value for name, value in (values | given).items() if value is not None}
            prompt[id] = {"class_type": kind, "inputs": merged}
        return prompt

    return make


def other(path) -> None:
    """A model of another grid: 8 x 8 positions."""
    if not path.exists():
        config = dataclasses.replace(nvg_model.preset("tiny"), image_size=(32, 32))
        nvg_model.save(nvg_model.NVG(config, ("heart", "bird", "boat")), path)


@pytest.mark.parametrize("name", IN_OUR_NODES)
def test_a_mistake_is_one_sentence_of_the_node(host, graph, name):
    nodes, message = IN_OUR_NODES[name]
    run = host.run(graph(nodes))
    assert run.end == "execution_error", run.end
    assert re.search(message, run.error), run.error
    assert "\n" not in run.error.strip() and len(run.error) < 500


@pytest.mark.parametrize("name", BY_THE_HOST)
def test_a_mistake_that_the_host_refuses(host, graph, name):
    """Or our node does, where an older host lets it through."""
    answer = host.post("/prompt", {"prompt": graph(BY_THE_HOST[name])})
    if "error" not in answer:
        run = host.run(graph(BY_THE_HOST[name]))
        assert run.end == "execution_error" and "\n" not in run.error.strip(), run.error


def test_the_host_goes_on(host, graph):
    assert len(IN_OUR_NODES) + len(BY_THE_HOST) >= 40
    host.succeed(graph(drawn(seed=12345)))
