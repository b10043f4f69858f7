"""The node API: our own small equal, what every node promises, the entry point, and the genuine host's half."""

import enum
import inspect
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from nvg_model import VisualGranularitySequence
from nvg_nodes import api, extension, host
from nvg_nodes import types as values
from nvg_nodes.sockets import Options
from nvg_nodes.standalone import schema
from nvg_nodes.standalone.graph import inputs_of
from nvg_nodes.standalone.runner import KINDS

ROOT = Path(__file__).resolve().parents[2]
NODES = {node.GET_SCHEMA().node_id: node for node in extension.NODES}


@pytest.mark.parametrize("name", NODES)
def test_everything_is_explained(name):
    info = NODES[name].GET_NODE_INFO_V1()
    assert name.startswith("NVG") and name == NODES[name].__name__
    assert info["description"].endswith(".") and info["display_name"].startswith("NVG")
    assert info["category"].split("/")[0] == "NVG" and "nvg" in info["search_aliases"]
    for input_name, _, options, _ in inputs_of(info):
        assert options["tooltip"].strip()[-1] in ".)", input_name
    assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"])
    assert len(set(info["output_name"])) == len(info["output_name"])


def parameters_of(name, inputs):
    """What `execute` takes by name, where `**given` stands for those of the inputs that `Options` has."""
    parameters = dict(inspect.signature(NODES[name].execute).parameters)
    if parameters.pop("given", None):
        options = inspect.signature(Options).parameters
        parameters |= {name: options[name] for name in inputs - {*parameters}}
    return parameters


@pytest.mark.parametrize("name", NODES)
def test_execute_takes_what_the_schema_says(name):
    """An optional value that a prompt leaves out is then what the widget would have said, or what it says itself."""
    described = list(inputs_of(NODES[name].GET_NODE_INFO_V1()))
    parameters = parameters_of(name, {one[0] for one in described})
    if "numbers" in parameters:
        return
    assert list(parameters) == [one[0] for one in described] or set(parameters) == {one[0] for one in described}
    for input_name, _, options, optional in described:
        default, absent = parameters[input_name].default, options.get("absent", options.get("default"))
        assert default == (absent if optional else inspect.Parameter.empty), input_name


TYPES = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "COMBO": str,
    "BOOLEAN": bool,
    "IMAGE": torch.Tensor,
    "MASK": torch.Tensor,
    "NVG_MODEL": values.Model,
    "NVG_STRUCTURE": values.Structure,
    "NVG_SEQUENCE": VisualGranularitySequence,
    "NVG_SETTINGS": values.Settings,
    "NVG_STATE": values.State,
    "NVG_REGIONS": values.Regions,
}


@pytest.mark.parametrize("name", NODES)
def test_execute_is_annotated_with_the_types_of_the_sockets(name):
    execute = NODES[name].execute
    inputs = NODES[name].GET_SCHEMA().inputs
    taken = parameters_of(name, {one.id for one in inputs})
    hints = {key: hint for key, hint in (get_type_hints(Options) | get_type_hints(execute)).items() if key in taken}
    for one in inputs:
        hint = hints.get(one.id, hints.get("numbers"))
        kinds = {float, int} if one.id not in hints else {*(get_args(hint) or (hint,))} - {types.NoneType}
        assert TYPES[one.io_type] in kinds, one.id


def test_unknown_words_are_refused_as_by_the_host():
    with pytest.raises(TypeError, match="unexpected keyword argument 'advanced'"):
        schema.Int.Input("x", advanced=True)
    with pytest.raises(ValueError, match="input id twice"):
        schema.Schema("x", inputs=[schema.Int.Input("x"), schema.Int.Input("x")])


def test_words_that_the_host_does_not_know_are_left_out():
    made = api.schema(node_id="x", no_such_word=1)
    assert made.node_id == "x"
    shown = api.advanced(schema.Int.Input("x", default=1, tooltip="t"))
    assert list(shown.as_dict().items()) == [("tooltip", "t"), ("advanced", True), ("default", 1)]  # the host's order


def test_an_output_node_is_handed_prompt_and_workflow():
    info = NODES["NVGStructurePreview"].GET_NODE_INFO_V1()
    assert info["output_node"]
    assert info["input"]["hidden"] == {"prompt": ("PROMPT",), "extra_pnginfo": ("EXTRA_PNGINFO",)}


def test_no_family_of_nodes_is_forgotten():
    files = {path.stem for path in (ROOT / "nvg_nodes").glob("nodes_*.py")}
    assert {family.__name__.rpartition(".")[2] for family in extension.FAMILIES} == files
    assert all(family.__doc__ for family in extension.FAMILIES)


def test_the_catalogue_covers_all_nodes():
    assert list(extension.catalogue()) == list(NODES)
    assert set(NODES) < set(KINDS)


def python(code: str, **environment) -> str:
    """Runs code in a fresh interpreter in which our packages are not installed, and returns what it prints."""
    hide = """
    import sys
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
    """
    script = textwrap.dedent(hide) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOAD = f"""
import importlib.util, time
import PIL.Image, torch
def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
ROOT = {str(ROOT)!r}
"""


def test_the_pack_loads_under_any_name_and_leaves_the_path_alone():
    out = python(
        LOAD
        + textwrap.dedent(
            """
            before, path = set(sys.modules), list(sys.path)
            start = time.process_time()
            pack = load(ROOT, "/x/custom_nodes/Some-Name_x_1")
            spent = time.process_time() - start
            import asyncio
            nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
            assert sys.path == path and pack.WEB_DIRECTORY == "./nvg_nodes/web"
            assert not {"training", "tests", "sympy", "huggingface_hub"} & (set(sys.modules) - before)
            import nvg_model, nvg_nodes.standalone.workflow
            assert nvg_model.__file__.startswith(ROOT)
            print(len(nodes), spent < 0.3 or spent)
            """
        )
    )
    assert out == f"{len(NODES)} True"


def test_a_second_copy_of_the_pack_says_so(tmp_path):
    (tmp_path / "__init__.py").write_text((ROOT / "__init__.py").read_text())
    out = python(
        LOAD
        + textwrap.dedent(
            f"""
            load(ROOT, "one")
            try:
                load({str(tmp_path)!r}, "two")
            except ImportError as error:
                print(error)
            """
        )
    )
    assert out.startswith("another copy of NVG is loaded already, from ") and out.endswith("keep only one of the two")


# --------------------------------------------------------------------------------- the genuine host's half, in play


class PreviewMethod(enum.Enum):
    """The host's LatentPreviewMethod, as far as we ask."""

    NoPreviews = "none"
    Auto = "auto"


class Interrupted(Exception):
    """The host's, when a user presses cancel."""


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    """Stand-ins for the parts of ComfyUI that host.py uses."""
    log = types.SimpleNamespace(loaded=[], bar=[], said=[], interrupted=False, load=lambda patcher: None)
    log.args = types.SimpleNamespace(preview_method=PreviewMethod.Auto, preview_size=512)
    management, paths = comfy_management(log), []
    folders = types.SimpleNamespace(
        models_dir=str(tmp_path / "models"),
        add_model_folder_path=lambda name, path: paths.append(path) if path not in paths else None,
        get_folder_paths=lambda name: list(paths),
    )
    server = types.SimpleNamespace(send_progress_text=lambda text, node: log.said.append((text, node)))
    modules = {
        "comfy": types.SimpleNamespace(model_management=management),
        "comfy.model_management": management,
        "comfy.model_patcher": types.SimpleNamespace(ModelPatcher=ModelPatcher),
        "comfy.utils": types.SimpleNamespace(ProgressBar=progress_bar(log)),
        "comfy.cli_args": types.SimpleNamespace(LatentPreviewMethod=PreviewMethod, args=log.args),
        "folder_paths": folders,
        "server": types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(host, "HOSTED", True)
    log.Interrupted = Interrupted
    return log


class ModelPatcher:
    """The host's keeper of a model."""

    def __init__(self, model, load_device, offload_device):
        model.device = offload_device  # as the genuine one does
        self.model, self.load_device, self.offload_device = model, load_device, offload_device


def progress_bar(log):
    """The host's class; notes what it shows."""

    class ProgressBar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            log.bar.append((value, total, preview))

    return ProgressBar


def comfy_management(log):
    """The host's module of devices and memory; notes what is loaded."""

    def load_models_gpu(patchers, memory_required=0):
        log.loaded.append(memory_required)
        for patcher in patchers:
            log.load(patcher)

    def throw():
        if log.interrupted:
            raise Interrupted

    return types.SimpleNamespace(
        get_torch_device=lambda: torch.device("meta"),
        unet_offload_device=lambda: torch.device("cpu"),
        load_models_gpu=load_models_gpu,
        soft_empty_cache=lambda: None,
        should_use_bf16=lambda device, model_params=0: True,
        throw_exception_if_processing_interrupted=throw,
        OOM_EXCEPTION=torch.OutOfMemoryError,
    )


def small_copy():
    import nvg_model

    return nvg_model.NVG(nvg_model.NVGConfig((16, 16), nvg_model.preset("tiny").autoencoder, None)).eval()


def devices(nvg) -> set[str]:
    return {str(weight.device) for weight in (*nvg.parameters(), *nvg.buffers())}


def test_networks_are_loaded_by_the_host(comfy):
    nvg = small_copy()
    networks = host.current().networks(nvg)
    assert devices(nvg) == {"cpu"}
    comfy.load = lambda patcher: patcher.model.to(patcher.load_device)
    assert networks.ready(1000) is nvg and devices(nvg) == {"meta"} and comfy.loaded == [1000]


def test_what_the_host_leaves_behind_is_brought_too(comfy):
    nvg = small_copy()
    networks = host.current().networks(nvg)
    comfy.load = lambda patcher: nvg.tokenizer.decoder.to(patcher.load_device)
    assert devices(networks.ready(1)) == {"meta"}


def test_out_of_memory_falls_back_to_where_there_is_room(comfy, monkeypatch):
    nvg = small_copy()
    networks = host.current().networks(nvg)
    to = type(nvg).to

    def full(self, device):
        if str(device) == "meta":
            raise torch.OutOfMemoryError
        return to(self, device)

    monkeypatch.setattr(type(nvg), "to", full)
    assert devices(networks.ready(1)) == {"cpu"}


def test_progress_preview_and_cancel_go_to_the_host(comfy):
    from PIL import Image

    progress = host.current().progress(3)
    progress()
    progress.show(lambda: Image.new("RGB", (20, 10)))
    assert [entry[:2] for entry in comfy.bar] == [(1, 3), (1, 3)]
    kind, picture, size = comfy.bar[1][2]
    assert (kind, picture.size, size) == ("JPEG", (20, 10), 512)  # the host makes it as small as its setting says
    comfy.args.preview_method = PreviewMethod.NoPreviews
    progress.show(lambda: pytest.fail("a preview was made that nobody sees"))
    assert len(comfy.bar) == 2
    comfy.interrupted = True
    with pytest.raises(comfy.Interrupted):
        progress()
    with pytest.raises(comfy.Interrupted):
        host.current().check_cancelled()


def test_folders_text_and_precision_are_the_hosts(comfy, folder):
    here = host.current()
    assert here.folders() == here.folders() == [folder / "models" / "nvg"]
    assert here.files(".safetensors") == ["tiny.safetensors"]
    assert here.path("tiny.safetensors") == folder / "models/nvg/tiny.safetensors"
    assert here.path("../nvg/tiny.safetensors") is not None and here.path("../../../etc/passwd") is None
    here.say("hello", "5")
    here.say("nobody", None)
    assert comfy.said == [("hello", "5")]
    assert here.dtype("auto", 10**6) == torch.float32 and here.dtype("auto", 10**9) == torch.bfloat16
    assert here.dtype("float16", 10**9) == torch.float16 and here.device() == torch.device("cpu")
