"""Wrong uses: each is one clear sentence that says what is wrong, and the next run works."""

import base64
import dataclasses
import io

import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model import Region
from nvg_nodes.types import Regions, Settings, Structure


def structure(rows=4, columns=4, stages=2, batch=1):
    """A structure of stripes on any grid."""
    labels = torch.arange(rows * columns).repeat(batch, 1, 1) * 2 // (rows * columns)
    return Structure(torch.cat([torch.zeros_like(labels), labels], 1)[:, :stages], (rows, columns), (16, 16))


def sequence(model, items=1):
    return model.nvg.tokenize(torch.zeros(items, 3, 16, 16))


def painting_of(width, height):
    """A painting of that size, as a data URL."""
    file = io.BytesIO()
    Image.new("RGBA", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


NAN = torch.full((1, 8, 8, 3), torch.nan)
MASK = torch.zeros(1, 8, 8)
NO_SVG = r"picture of the kind svg\+xml, which cannot be read here; save it as PNG"
PAINTINGS = {
    "nothing painted": ("", "nothing is painted yet"),
    "first map not painted": ('{"version": 1, "masks": [null]}', "the first map is not painted"),
    "damaged painting": ("data:image/png;base64,AAAA", "the painting is damaged"),
    "SVG in the painter": ("data:image/svg+xml;base64,PHN2Zy8+", NO_SVG),
    "SVG in words in the painter": ("data:image/svg+xml;utf8,<svg/>", NO_SVG),
    "SVG as it is in the painter": (
        '<?xml version="1.0"?><svg/>',
        "is SVG or other markup; save it as PNG",
    ),
    "no picture in the painter": ("data:text/plain;base64,AAAA", "holds 'data:text/plain;base64', not a picture"),
    "huge painting": (painting_of(5000, 10), "5000 x 10 pixels, and at most 4096 a side are read; make it smaller"),
    "text for a painting": ("a house", "neither a picture nor JSON"),
    "painting of a newer version": (
        '{"version": 2, "masks": ["x"]}',
        "version 2, and this nvg reads version 1; update nvg",
    ),
}
NODES = {
    "NaN image": ("NVGTokenize", lambda m: {"image": NAN}, "image holds NaN"),
    "flat image": ("NVGTokenize", lambda m: {"image": torch.zeros(8, 8)}, r"image has shape \[8, 8\]; an IMAGE is"),
    "two channels": ("NVGTokenize", lambda m: {"image": torch.zeros(1, 8, 8, 2)}, "1, 3 or 4 channels"),
    "empty batch": ("NVGTokenize", lambda m: {"image": torch.zeros(0, 8, 8, 3)}, "image has shape"),
    "too many stages": (
        "NVGExtractStructure",
        lambda m: {"image": torch.zeros(1, 8, 8, 3), "stages": 9},
        "9 stages are too many: tiny has 5; 0 keeps all",
    ),
    "mask of zeros": ("NVGStructureFromMask", lambda m: {"mask": MASK}, "the mask is empty, so it has no outline"),
    "mask of ones": ("NVGStructureFromMask", lambda m: {"mask": MASK + 1}, "the mask covers everything"),
    "mask of one value": (
        "NVGStructureFromMask",
        lambda m: {"mask": MASK + 0.7, "rule": "mask value"},
        "same value everywhere",
    ),
    "NaN mask": ("NVGStructureFromMask", lambda m: {"mask": MASK + torch.nan}, "mask holds NaN"),
    "image as mask": ("NVGStructureFromMask", lambda m: {"mask": NAN}, "mask has shape"),
    "more stages than there are": (
        "NVGStructureShape",
        lambda m: {"stages": 20},
        "20 stages are not possible; 16 positions have 1 to 5",
    ),
    "picture of one colour": (
        "NVGStructureFromImage",
        lambda m: {"image": torch.zeros(1, 8, 8, 3)},
        "the picture has one colour only",
    ),
    "1x1 label picture": ("NVGStructureFromImage", lambda m: {"image": torch.ones(1, 1, 1, 3)}, "one colour only"),
    "structure of another K": (
        "NVGGenerate",
        lambda m: {"class_name": "heart", "structure": structure(8, 8)},
        "structure is of a grid of 8 x 8 positions, but tiny has 4 x 4",
    ),
    "structure and keep_structure": (
        "NVGGenerate",
        lambda m: {"class_name": "heart", "structure": structure(), "sequence": sequence(m), "keep_structure": 1},
        "either a structure or keep_structure, not both",
    ),
    "as many structures as nobody asked for": (
        "NVGGenerate",
        lambda m: {"class_name": "heart,bird", "structure": structure(batch=3)},
        "structure has 3 items for 2 classes",
    ),
    "more kept than there is": (
        "NVGGenerate",
        lambda m: {"class_name": "heart", "sequence": sequence(m), "keep_content": 9},
        "keep_content is 9; the sequence has 5 stages",
    ),
    "impossible setting": (
        "NVGGenerate",
        lambda m: {"class_name": "heart", "settings": Settings({"temperature": 0.0})},
        "temperature is 0",
    ),
    "start with too many structures": (
        "NVGStart",
        lambda m: {"class_name": "heart,bird", "structure": structure(batch=3)},
        "structure has 3 items for 2 pictures",
    ),
    "two classes in a region": (
        "NVGRegion",
        lambda m: {"mask": MASK + 1, "class_name": "heart, bird"},
        "names 2; make a region for each",
    ),
    "no class of a region": ("NVGRegion", lambda m: {"mask": MASK, "class_name": "hart"}, "did you mean heart"),
    "image as the mask of a region": ("NVGRegion", lambda m: {"mask": NAN, "class_name": "heart"}, "mask has shape"),
    "regions that overlap": (
        "NVGGenerate",
        lambda m: {
            "class_name": "heart",
            "regions": Regions((Region(MASK + 0.75, "bird"), Region(MASK + 0.5, "boat"))),
        },
        "the masks of the regions sum to 1.25",
    ),
    "more masks than pictures": (
        "NVGGenerate",
        lambda m: {"class_name": "heart,bird", "regions": Regions((Region(MASK.expand(3, -1, -1), "bird"),))},
        "the mask of region 1 has 3 items for 2 images",
    ),
    "a region of another model": (
        "NVGGenerate",
        lambda m: {"class_name": "heart", "regions": Regions((Region(MASK + 1, "zebra"),))},
        "there is no class 'zebra'",
    ),
    "nothing to draw anew": (
        "NVGInpaint",
        lambda m: {"class_name": "heart", "image": torch.zeros(1, 8, 8, 3), "mask": MASK},
        "nothing is to be drawn: paint a mask",
    ),
    "nothing kept by a move": (
        "NVGInpaint",
        lambda m: {"class_name": "heart", "image": torch.zeros(1, 8, 8, 3), "right": 50},
        "moved by 50, 0 pixels nothing of the picture is left",
    ),
    "pictures and masks that do not pair": (
        "NVGInpaint",
        lambda m: {"class_name": "heart", "image": torch.zeros(3, 8, 8, 3), "mask": MASK.expand(2, -1, -1) + 1},
        "there are 3 pictures, 2 masks and 1 classes",
    ),
    "one end": (
        "NVGInterpolate",
        lambda m: {"first": sequence(m)},
        "connect two ends of one kind: first and second, or",
    ),
    "ends of two kinds": (
        "NVGInterpolate",
        lambda m: {"first": sequence(m), "second_structure": structure()},
        "connect two ends of one kind",
    ),
    "ends that do not pair": (
        "NVGInterpolate",
        lambda m: {"first": sequence(m, 2), "second": sequence(m, 3)},
        "there are 2 pictures to begin with and 3 to end with",
    ),
    "two classes between layouts": (
        "NVGInterpolate",
        lambda m: {"first_structure": structure(), "second_structure": structure(), "class_name": "heart, bird"},
        "class_name names 2 classes; the frames between two structures have one",
    ),
    "nothing to cut out": ("NVGCutOut", lambda m: {}, "nothing to cut out; connect image, or sequence"),
    "cut-outs that do not pair": (
        "NVGCutOut",
        lambda m: {"image": torch.zeros(2, 8, 8, 3), "sequence": sequence(m, 3)},
        "image has 2 pictures and sequence 3; connect one of them",
    ),
    "stage that is not there": (
        "NVGDecode",
        lambda m: {"sequence": sequence(m), "show": "one stage", "stage": 7},
        "stage 7 is not in the sequence",
    ),
    **{
        name: ("NVGPaintStructure", lambda m, painting=painting: {"painting": painting}, complaint)
        for name, (painting, complaint) in PAINTINGS.items()
    },
}


@pytest.mark.parametrize("name", NODES)
def test_node(name, run, model, refuses):
    kind, inputs, complaint = NODES[name]
    with refuses(complaint):
        run(kind, model=model, **inputs(model))


SETTINGS = {"solver": "checkpoint", "gumbel": "checkpoint"}
CHANGES = {
    "different grids": (
        "NVGStructureBlend",
        {"structure_a": structure(), "structure_b": structure(8, 8)},
        "different grids, 4 x 4 and 8 x 8",
    ),
    "different batches": (
        "NVGStructureSwap",
        {"structure_a": structure(batch=2), "structure_b": structure(batch=3)},
        "structures have 2 and 3 items",
    ),
    "stages that are not there": ("NVGStructureKeep", {"structure": structure(), "stages": 3}, "the structure has 2"),
    "swapping more than there is": (
        "NVGStructureSwap",
        {"structure_a": structure(), "structure_b": structure(), "stages": 3},
        "the first structure has 2",
    ),
    "map that is not there": (
        "NVGStructureToImage",
        {"structure": structure(), "stage": 5},
        "no stage 5: the structure has the stages 0 to 1",
    ),
    **{
        f"regions {regions[:30]}": ("NVGStructureToMask", {"structure": structure(), "regions": regions}, says)
        for regions, says in [
            ("0, 7", "no region 7: this stage has the regions 0 to 1"),
            ("left", "'left' is not a region"),
            ("1, " + "9" * 5000, "there is no region 9{76} ...: this stage has the regions 0 to 1"),
            ("0-99999999999999999999", "no region 0-99999999999999999999: this stage has the regions 0 to 1"),
            ("1-0", "'1-0' runs backwards; write the smaller region first: 0-1"),
        ]
    },
    **{
        f"{name} is {value}": ("NVGSamplingSettings", SETTINGS | {name: value}, says)
        for name, value, says in [
            ("content_guidance_first", float("nan"), r"content_guidance is \(nan, 3.5\); give two numbers"),
            ("structure_guidance_last", float("nan"), r"structure_guidance is \(1.0, nan\); give two numbers"),
            ("content_guidance_last", -0.5, r"content_guidance is \(1.0, -0.5\); both values must be 0 or more"),
            ("top_p_last", -0.25, r"top_p is \(1.0, -0.25\); both values must lie in \(0, 1\]"),
            ("temperature", 0.0, "temperature is 0.0; it must be positive"),
            ("structure_steps", 0, "structure_steps is 0; it must be a whole number of at least 1"),
        ]
    },
    "NaN amount": (
        "NVGStructureBlend",
        {"structure_a": structure(), "structure_b": structure(), "amount": float("nan")},
        "amount is nan",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_structure_tool(name, run, refuses):
    kind, inputs, complaint = CHANGES[name]
    with refuses(complaint):
        run(kind, **inputs)


def test_structures_are_always_hierarchies(refuses):
    with refuses("does not split parent 0 of stage 0 in half"):
        Structure(torch.tensor([[[0, 0, 0, 0], [0, 0, 0, 1]]]), (2, 2), (8, 8))


def test_a_1x1_picture_is_only_dull(run, model):
    _, seen = run("NVGTokenize", model=model, image=torch.full((1, 1, 1, 3), 0.5))
    assert float(seen.std()) == 0


def test_wrong_turns_of_a_chain(run, model, other_model, refuses):
    (state,) = run("NVGStart", model=model, class_name="heart")
    split, *_ = run("NVGGenerateStructure", model=model, state=state)
    with refuses("stage 0 has its structure already; connect NVG Generate Content Stage"):
        run("NVGGenerateStructure", model=model, state=split)
    first, _, so_far = run("NVGGenerateContentStage", model=model, state=split)
    with refuses("stage 1 has no structure yet; connect NVG Generate Structure"):
        run("NVGGenerateContentStage", model=model, state=first)
    with refuses("the structure given has the stages 0 to 0 and the chain is at stage 1"):
        run("NVGGenerateStructure", model=model, state=first, structure=structure(stages=1))
    with refuses("the sequence to keep has the stages 0 to 0 and the chain is at stage 1"):
        second, *_ = run("NVGGenerateStructure", model=model, state=first)
        run("NVGGenerateContentStage", model=model, state=second, sequence=so_far)
    with refuses("sequence is of a grid of 4 x 4 positions .* but other has 8 x 8"):
        run("NVGGenerateStructure", model=other_model, state=first)
    finished = dataclasses.replace(first, sequence=sequence(model))
    with refuses("the chain is finished: tiny has 5 stages"):
        run("NVGGenerateStructure", model=model, state=finished)


def test_models_that_cannot(run, model, other_model, refuses):
    with refuses("other has a tokenizer but no generator"):
        run("NVGGenerate", model=other_model, class_name="heart")
    with refuses("sequence is of a grid of 4 x 4"):
        run("NVGDecode", model=other_model, sequence=sequence(model))


def test_loaders(run, folder, refuses):
    with refuses("there is no checkpoint 'ae.ckpt' in models/nvg"):
        run("NVGLoadReleased", autoencoder="ae.ckpt", generator="none (tokenizer only)")
    (folder / "models/nvg/ae.ckpt").write_bytes(b"no checkpoint")
    with refuses("ae.ckpt"):
        run("NVGLoadReleased", autoencoder="ae.ckpt", generator="none (tokenizer only)")


def test_a_hub_that_cannot_be_reached(run, monkeypatch, refuses):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*given, **words):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with refuses(
        "owner/name is not in the local cache and the hub cannot be reached; .* download model.safetensors from "
        "https://huggingface.co/owner/name, put it into models/nvg .* empty hub_id"
    ):
        run("NVGLoadModel", checkpoint="", hub_id="owner/name")


def test_there_are_enough_of_them():
    assert len(NODES) + len(CHANGES) >= 30
    assert issubclass(nvg_model.NVGError, ValueError)
