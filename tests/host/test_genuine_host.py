"""The nodes on a genuine ComfyUI (see conftest.py for how to name one)."""

import dataclasses
import io
import itertools
import json
import os
import re
import subprocess
import textwrap
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

import nvg_model
from nvg_nodes.extension import NODES, catalogue
from nvg_nodes.standalone import graph, runner
from nvg_nodes.standalone.core_nodes import CORE

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
IDS = [node.GET_SCHEMA().node_id for node in NODES]
UNKNOWN_TO_OLD_HOSTS = {"search_aliases", "output_matchtypes"}
"""Entries of the node catalogue that came later than the oldest host that we support."""
GENERATE, SAVE = "2", "3"


@pytest.fixture
def prompt(host):
    """Makes API prompts: a picture of the tiny model, saved; other inputs of the generating node can be given."""

    def make(checkpoint="tiny.safetensors", settings=None, **inputs) -> dict:
        generate = {"model": ["1", 0], "class_name": "heart", "seed": 7, "batch_size": 2, "settings": ["4", 0]}
        nodes = {
            "1": ("NVGLoadModel", {"checkpoint": checkpoint, "dtype": "float32"}),
            GENERATE: ("NVGGenerate", generate | inputs),
            SAVE: ("SaveImage", {"images": [GENERATE, 0], "filename_prefix": "host"}),
            "4": ("NVGSamplingSettings", settings or {}),
        }
        return {id: {"class_type": kind, "inputs": defaults(host, kind) | given} for id, (kind, given) in nodes.items()}

    return make


def defaults(host, kind: str) -> dict:
    """The values that the front end would send for the widgets that nobody touched."""
    required = host.get(f"/object_info/{kind}")[kind]["input"]["required"]
    options = {name: entry[1] for name, entry in required.items() if len(entry) > 1}  # 0.3.64 leaves out empty ones
    return {name: one["default"] for name, one in options.items() if "default" in one}


@pytest.fixture(scope="session")
def big(host):
    """Name of a checkpoint of some 400 MB with random weights: slow enough to cancel, large enough to be missed."""
    config = nvg_model.preset("emoji64")
    sizes = {"content_depth": 8, "content_width": 640, "structure_depth": 8, "structure_width": 512}
    config = dataclasses.replace(config, generator=dataclasses.replace(config.generator, **sizes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nvg_model.NVG(config, classes=["heart", *map(str, range(1, config.generator.num_classes))])
    nvg_model.save(model, host.base / "models" / "nvg" / "big.safetensors", {"licence": "none"})
    return "big.safetensors"


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    """Whether they are the same pictures, in any order."""
    return sorted(one.tobytes() for one in left) == sorted(one.tobytes() for one in right)


def read_pictures(folder: Path) -> list[np.ndarray]:
    """Of animations the first frame."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".webp")]
    return [np.asarray(Image.open(path).convert("RGB")) for path in files]


def command(host, python, module: str, *arguments: str) -> None:
    """Runs one of our console scripts with the host's interpreter, but without the host, in its base directory."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [python, "-m", module, *map(str, arguments)], cwd=host.base, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------- the pack


def test_pack_and_its_neighbours_are_imported(host):
    log = host.log.read_text()
    assert "IMPORT FAILED" not in log, log
    assert "Error while calling comfy_entrypoint" not in log, log


def test_import_takes_little_beyond_what_the_host_has_loaded(host, checkout, environment, python):
    """In CPU time, so that a busy machine makes no difference."""
    script = f"""
        import asyncio, importlib.util, sys, time
        sys.path.insert(0, {str(checkout)!r})
        import comfy.options
        comfy.options.enable_args_parsing()
        import utils.extra_config, server, nodes, execution, comfy_api.latest

        async def load(path):
            spec = importlib.util.spec_from_file_location("pack", path)
            sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(pack)
            for node in await (await pack.comfy_entrypoint()).get_node_list():
                node.GET_SCHEMA()

        start = time.process_time()
        asyncio.run(load({str(REPOSITORY / "__init__.py")!r}))
        print("seconds", time.process_time() - start)
    """
    flags = ["--cpu", "--base-directory", str(host.base)]
    done = subprocess.run(
        [python, "-c", textwrap.dedent(script), *flags], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seconds = float(done.stdout.split("seconds")[1])
    assert seconds < 0.3


def test_catalogue_is_the_standalone_one(host, monkeypatch):
    monkeypatch.chdir(host.base)  # where the same checkpoints are found
    there = {name: info for name, info in host.get("/object_info").items() if name in IDS}
    here = json.loads(json.dumps(catalogue()))
    assert list(here) == IDS
    for name in IDS:
        assert there[name].pop("python_module").startswith("custom_nodes.")
        here[name].pop("python_module")
        for key in UNKNOWN_TO_OLD_HOSTS - there[name].keys():
            here[name].pop(key)
        for key in there[name].keys() - here[name].keys():
            assert not there[name].pop(key), key  # flags that came later, not set
        assert there[name] == here[name]
        assert json.dumps(there[name]["input"]) == json.dumps(here[name]["input"])  # the order too


@pytest.mark.parametrize("kind", [node.GET_SCHEMA().node_id for node in CORE])
def test_the_core_nodes_of_the_runner_are_the_hosts(host, kind):
    """Where it counts for a workflow: names, types, order and ranges of inputs, and types of outputs."""
    there, here = host.get(f"/object_info/{kind}")[kind], json.loads(json.dumps(runner.catalogue()[kind]))
    # From 0.33 on nodes that save or show pictures hand them on too.
    assert there["output"][: len(here["output"])] == here["output"] and there["output_node"] == here["output_node"]
    mine, theirs = list(graph.inputs_of(here)), list(graph.inputs_of(there))
    assert [one[0] for one in mine] == [one[0] for one in theirs]
    for (name, type, options, _), (_, other, others, _) in zip(mine, theirs, strict=True):
        choices = other if isinstance(other, list) else others.get("options", [])
        assert type == ("COMBO" if isinstance(other, list) else other), name
        assert name == "image" or options.get("options", []) == choices
        for key in ("default", "min", "max"):
            assert options.get(key, others.get(key)) == others.get(key), f"{key} of {name}"


@pytest.mark.parametrize("name", IDS)
def test_help_page_is_served(host, name):
    assert host.read(f"/extensions/{host.folder}/docs/{name}.md").strip()


def test_front_end_extension_is_served_once(host):
    mine = [one for one in map(unquote, host.get("/extensions")) if one.startswith(f"/extensions/{host.folder}/")]
    assert len(mine) == 1
    assert host.read(mine[0]).strip()


def test_templates_are_offered_with_their_pictures(host):
    assert WORKFLOWS
    assert sorted(host.get("/workflow_templates").get(host.folder, [])) == [path.stem for path in WORKFLOWS]
    for path in WORKFLOWS:
        address = f"/api/workflow_templates/{host.folder}/{path.stem}"
        assert json.loads(host.read(f"{address}.json")) == json.loads(path.read_text())
        picture = Image.open(io.BytesIO(host.read(f"{address}.jpg")))
        assert min(picture.size) >= 64


def test_blueprints_are_offered(host, checkout):
    if not (checkout / "app" / "subgraph_manager.py").is_file():
        pytest.skip("this ComfyUI has no blueprints")
    pack = f"custom_nodes.{host.folder}"
    offered = {id: one for id, one in host.get("/global_subgraphs").items() if one["info"]["node_pack"] == pack}
    files = {path.stem: path.read_text(encoding="utf-8") for path in (REPOSITORY / "subgraphs").glob("*.json")}
    assert {one["name"] for one in offered.values()} == files.keys() and files
    for id, one in offered.items():
        assert json.loads(host.get(f"/global_subgraphs/{id}")["data"]) == json.loads(files[one["name"]])


def test_class_names_are_served(host):
    assert host.get("/nvg/classes?checkpoint=tiny.safetensors") == {
        "classes": ["heart", "bird", "boat"],
        "grid": [4, 4],
    }
    refused = host.get("/nvg/classes?checkpoint=../../../etc/passwd")
    assert refused["classes"] == [] and "there is no checkpoint" in refused["error"]


# ---------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_is_cached_and_equals_headless(host, python, tmp_path, path):
    workflow = graph.parse(json.loads(path.read_text()), runner.catalogue())
    if any(node["class_type"] == "NVGLoadReleased" for node in workflow.prompt.values()):
        pytest.skip("needs the released checkpoints in models/nvg")
    first = host.succeed(workflow.prompt, workflow.ui)
    pixels = host.pixels(first)
    assert pixels
    again = host.succeed(workflow.prompt, workflow.ui)
    assert again.cached == set(workflow.prompt) and not again.executed
    command(host, python, "nvg_nodes.standalone.workflow", path, "--previews", "--quiet", "--out", tmp_path)
    assert same(pixels, read_pictures(tmp_path))


def test_pixels_equal_headless_and_command_line(host, prompt, python, tmp_path):
    pixels = host.pixels(host.succeed(prompt()))
    (tmp_path / "prompt.json").write_text(json.dumps(prompt()))
    command(host, python, "nvg_nodes.standalone.workflow", tmp_path / "prompt.json", "--out", tmp_path / "run")
    assert len(pixels) == 2 and same(pixels, read_pictures(tmp_path / "run"))
    for item, picture in enumerate(pixels):
        given = ["--model", "models/nvg/tiny.safetensors", "--class", "heart", "--seed", "7", "--quiet"]
        out = tmp_path / str(item)
        out.mkdir()
        command(host, python, "nvg_model.cli", "generate", *given, "--first-item", str(item), "--out", out / "one.png")
        assert same([picture], read_pictures(out))


def test_only_what_changed_runs_again(host, prompt):
    host.succeed(prompt(seed=1))
    assert not host.succeed(prompt(seed=1)).executed
    assert host.succeed(prompt(seed=2)).executed == {GENERATE, SAVE}


def test_a_checkpoint_that_changed_is_loaded_again(host, prompt):
    file = host.base / "models" / "nvg" / "tiny.safetensors"
    host.succeed(prompt())
    os.utime(file)
    assert "1" in host.succeed(prompt()).executed


def test_progress_and_previews_come_while_it_runs(host, prompt):
    host.free()
    run = host.succeed(prompt(settings={"structure_steps": 3}))
    progress = [event["data"] for event in run.of("progress") if event["data"]["node"] == GENERATE]
    evaluations = [data["value"] for data in progress if data["value"]]  # repeated with every preview
    stages = nvg_model.preset("tiny").num_stages
    # Content at every stage, structure at all but the first, which is one region, and the last, of single positions.
    total = stages + 3 * (stages - 2)
    # 0.33 leaves out those that come too quickly after each other, but never the last.
    told = list(dict.fromkeys(evaluations))
    assert told == sorted(told) and set(told) <= set(range(1, total + 1)) and told[-1] == total and len(told) >= stages
    assert {data["max"] for data in progress} == {total}
    assert len(run.previews) == stages
    assert run.previews[-1].height > run.previews[0].height, "the last is the two pictures alone, twice as large"


def test_no_preview_is_sent_where_previews_are_off(host, prompt, checkout):
    if "preview_method" not in (checkout / "execution.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has no setting for it, only a flag")
    host.free()
    run = host.run(prompt(seed=4), preview_method="none")
    assert run.end == "execution_success" and run.of("progress") and not run.previews
    host.free()
    assert host.run(prompt(seed=4), preview_method="latent2rgb").previews


def test_saved_picture_brings_its_graph_along(host, prompt):
    workflow = {"version": 0.4, "nodes": [], "links": [], "note": "Grüße"}
    run = host.succeed(prompt(seed=99), workflow)
    file = host.files(run)[0]
    text = Image.open(io.BytesIO(file)).text
    assert json.loads(text["workflow"]) == workflow
    assert same(host.pixels(host.succeed(json.loads(text["prompt"]))), host.pixels(run))


def test_frames_become_an_animation_and_a_video(host, prompt, python):
    """By the nodes of the host."""
    nodes = prompt(batch_size=3)
    for id, kind, inputs in (
        (SAVE, "SaveAnimatedWEBP", {"images": [GENERATE, 0], "filename_prefix": "moving", "method": "default"}),
        ("5", "CreateVideo", {"images": [GENERATE, 0], "fps": 8.0}),
        ("6", "SaveVideo", {"video": ["5", 0], "format": "auto", "codec": "auto", "format.codec": "auto"}),
    ):
        nodes[id] = {"class_type": kind, "inputs": defaults(host, kind) | inputs}
    animation, video = host.files(host.succeed(nodes))
    assert Image.open(io.BytesIO(animation)).n_frames == 3
    count = "import av, io, sys; print(len([*av.open(io.BytesIO(sys.stdin.buffer.read())).decode(video=0)]))"
    counted = subprocess.run([python, "-c", count], input=video, capture_output=True, check=True)
    assert int(counted.stdout) == 3


# ------------------------------------------------------------------------------------------------- cancel, memory


def inpainted(host, prompt: dict) -> dict:
    """The prompt with a part of a black picture drawn, instead of a whole one."""
    sources = {"5": ("EmptyImage", {}), "6": ("SolidMask", {"value": 0.0}), "7": ("SolidMask", {"width": 200})}
    sources["8"] = "MaskComposite", {"destination": ["6", 0], "source": ["7", 0], "operation": "add"}
    given = prompt[GENERATE]["inputs"] | {"image": ["5", 0], "mask": ["8", 0]}
    nodes = sources | {GENERATE: ("NVGInpaint", given)}
    return prompt | {
        id: {"class_type": kind, "inputs": defaults(host, kind) | inputs} for id, (kind, inputs) in nodes.items()
    }


@pytest.mark.parametrize("kind", ["NVGGenerate", "NVGInpaint"])
def test_cancel_takes_one_evaluation_and_the_next_run_works(host, prompt, big, kind):
    wanted = host.pixels(host.succeed(prompt(seed=3)))
    asked: list[float] = []
    steps: list[float] = []

    def cancel(event, run) -> None:
        if event["type"] == "progress" and event["data"]["node"] == GENERATE and not asked:
            steps.append(event["at"])
            if event["data"]["value"] == 6:
                assert event["data"]["max"] > 100
                host.post("/interrupt", {})
                asked.append(time.monotonic())

    asked_for = prompt(big, batch_size=8)
    run = host.run(asked_for if kind == "NVGGenerate" else inpainted(host, asked_for), on_event=cancel)
    assert run.end == "execution_interrupted" and asked
    evaluation = max(after - before for before, after in itertools.pairwise(steps))
    assert run.events[-1]["at"] - asked[0] < 1.5 * evaluation + 0.2
    host.free()
    assert same(host.pixels(host.succeed(prompt(seed=3))), wanted)


def test_memory_is_given_back(host, prompt, big):
    host.succeed(prompt(seed=4))  # what any run imports and sets up is not the model's
    host.free()
    before = host.memory()
    size = (host.base / "models" / "nvg" / big).stat().st_size / 2**20
    for seed in (1, 2):
        host.succeed(prompt(big, seed=seed, batch_size=1, settings={"structure_steps": 1}))
        assert host.memory() - before > 0.8 * size, "the model was not in memory, so this shows nothing"
        host.free()
        assert host.memory() - before < 50


# ---------------------------------------------------------------------------------------------------- wrong uses


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("there is no class 'hart'; did you mean heart", {"class_name": "hart"}),
        ("there is no checkpoint 'gone.safetensors'", {"checkpoint": "gone.safetensors"}),
        ("cannot be read|damaged|truncated", {"checkpoint": "broken.safetensors"}),
        ("no sequence to keep from", {"keep_structure": 2}),
        ("top_p is", {"settings": {"top_p_last": 0.0}}),
    ],
)
def test_wrong_use_is_one_sentence_and_the_host_goes_on(host, prompt, message, change):
    whole = (host.base / "models" / "nvg" / "tiny.safetensors").read_bytes()
    (host.base / "models" / "nvg" / "broken.safetensors").write_bytes(whole[: len(whole) // 2])
    run = host.run(prompt(**change))
    assert run.end == "execution_error"
    assert re.search(message, run.error) and "\n" not in run.error and len(run.error) < 500
    host.succeed(prompt())


def test_a_wrong_connection_is_refused(host, prompt):
    wrong = prompt(model=["4", 0])
    answer = host.post("/prompt", {"prompt": wrong})
    assert answer["node_errors"][GENERATE]["errors"][0]["type"] == "return_type_mismatch"
