"""Checkpoints: our format there and back, damage of every kind, a full disk, and a hub spoken over real HTTP."""

import dataclasses
import http.server
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nvg_model
from nvg_model import CheckpointError, SamplingSettings

ROOT = Path(nvg_model.__file__).parents[1]


def run_python(code, *arguments, **environment):
    """Runs `code` in a process of its own, which imports this nvg_model; returns what it printed."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"} | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


@pytest.fixture
def rewrite(tiny, tmp_path):
    """Writes the tiny checkpoint again with changed weights or metadata, outside of nvg_model."""

    def write(weights=lambda w: w, **metadata):
        with safe_open(tiny, "pt") as file:
            kept = file.metadata() | metadata
        path = tmp_path / "changed.safetensors"
        save_file(weights(load_file(tiny)), path, {key: value for key, value in kept.items() if value is not None})
        return path

    return write


# There and back.


def test_round_trip(tiny_model, tiny):
    loaded = nvg_model.load(tiny)
    assert loaded.config == tiny_model.config
    assert loaded.classes == ("heart", "bird", "boat")
    assert_same_weights(loaded, tiny_model)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.device == torch.device("cpu")
    settings = SamplingSettings(structure_steps=2)
    a, b = (model.generate(["heart", "bird"], settings=settings) for model in (tiny_model, loaded))
    assert torch.equal(tiny_model.decode(a), loaded.decode(b))


def test_metadata_is_kept(tiny, tmp_path):
    model = nvg_model.load(tiny)
    model.settings = SamplingSettings(content_guidance=(1.0, 2.0), solver="multistep", structure_steps=4)
    provenance = {"licence": "Apache-2.0", "training": {"recipe": "tiny", "pictures": 12}, "note": "grün ✓"}
    again = nvg_model.load(nvg_model.save(model, tmp_path / "a.safetensors", provenance))
    assert again.settings == model.settings
    assert again.provenance == provenance | {"file": str(tmp_path / "a.safetensors")}
    # The provenance stays with the model through further files.
    third = nvg_model.load(nvg_model.save(again, tmp_path / "b.safetensors"))
    assert third.provenance == provenance | {"file": str(tmp_path / "b.safetensors")}
    assert nvg_model.info(tmp_path / "b.safetensors")["provenance"] == provenance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision(tiny_model, tiny, tmp_path, dtype):
    """Stored at a precision and read as float32, or read at it: the same rounding."""
    path = nvg_model.save(tiny_model, tmp_path / "stored.safetensors", dtype=dtype)
    stored, read, file = nvg_model.load(path), nvg_model.load(tiny, dtype=dtype), load_file(path)
    for key, value in tiny_model.state_dict().items():
        wanted = torch.float32 if key == "content.canvas_scales" else dtype
        assert stored.state_dict()[key].dtype == torch.float32
        assert read.state_dict()[key].dtype == wanted and file[key].dtype == wanted
        assert torch.equal(stored.state_dict()[key], value.to(wanted).float()), key
        assert torch.equal(read.state_dict()[key], value.to(wanted)), key
    sequence = read.generate(["heart", None], settings=SamplingSettings(structure_steps=2))
    image = read.decode(sequence)
    assert image.dtype == torch.float32 and torch.isfinite(image).all()
    assert read.tokenize(image).is_whole
    assert tiny_model.state_dict()["content.start_canvas"].dtype == torch.float32  # saving changed nothing


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_unsupported_precision(tiny, dtype, refuses):
    with refuses(f"{dtype} is not supported; use float32", CheckpointError):
        nvg_model.load(tiny, dtype=dtype)


def test_info(tiny_model, tiny):
    info = nvg_model.info(tiny)
    assert info["file"] == str(tiny)
    assert info["parameters"] == sum(value.numel() for value in tiny_model.state_dict().values())
    assert nvg_model.NVGConfig.from_dict(info["config"]) == tiny_model.config
    assert info["classes"] == ["heart", "bird", "boat"]
    assert info["settings"] == dataclasses.asdict(SamplingSettings())
    assert info["provenance"] == {"licence": "none"}


def test_config_survives_json():
    for config in nvg_model.PRESETS.values():
        assert nvg_model.NVGConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_tokenizer_without_generator(tmp_path):
    config = dataclasses.replace(nvg_model.preset("tiny"), generator=None)
    tokenizer = nvg_model.NVG(config)
    loaded = nvg_model.load(nvg_model.save(tokenizer, tmp_path / "tokenizer.safetensors"))
    assert loaded.config.generator is None and loaded.classes == ()
    assert_same_weights(loaded, tokenizer)


def test_folder(tiny, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(tiny.read_bytes())
    assert_same_weights(nvg_model.load(tmp_path), nvg_model.load(str(tiny)))


def test_home_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(tiny.read_bytes())
    assert nvg_model.load("~/mine.safetensors").classes == ("heart", "bird", "boat")


def test_new_folders_are_made(tiny_model, tmp_path):
    path = nvg_model.save(tiny_model, tmp_path / "a" / "b" / "c.safetensors")
    assert nvg_model.info(path)["classes"] == ["heart", "bird", "boat"]


def test_saving_replaces_and_leaves_nothing_else(tiny_model, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    for _ in range(2):
        nvg_model.save(tiny_model, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert_same_weights(nvg_model.load(path), tiny_model)


def test_saving_is_a_rename(tiny_model, tmp_path):
    """Whoever holds the old file keeps all of it; the new one is as readable as any other new file."""
    path, plain = tmp_path / "model.safetensors", tmp_path / "plain"
    for file in (path, plain):
        file.write_bytes(b"old")
    (tmp_path / "held").hardlink_to(path)
    nvg_model.save(tiny_model, path)
    assert (tmp_path / "held").read_bytes() == b"old"
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_loaded_model_does_not_need_its_file(tiny_model, tiny, tmp_path):
    """A checkpoint may be replaced by a better one under a model that came from it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny.read_bytes())
    loaded = nvg_model.load(path)
    nvg_model.save(loaded, path)
    path.unlink()
    assert_same_weights(loaded, tiny_model)


@pytest.mark.parametrize("name", nvg_model.embedded())
def test_embedded_checkpoints(name):
    model = nvg_model.load(name)
    assert len(model.classes) == model.config.generator.num_classes
    assert model.provenance["licence"]
    assert Path(nvg_model.info(name)["file"]).stat().st_size <= 40e6
    image = model.decode(model.generate(0, settings=SamplingSettings(structure_steps=1)))
    assert image.shape == (1, 3, *model.config.image_size)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_loading_needs_the_memory_once(tiny, tmp_path):
    """Peak resident memory of a process that loads a file of 96 MB of blocks: far less than twice the file."""
    generator = dataclasses.replace(
        nvg_model.preset("tiny").generator, content_depth=24, content_width=256, structure_depth=1
    )
    model = nvg_model.NVG(dataclasses.replace(nvg_model.preset("tiny"), generator=generator))
    model.content.initialize()
    path = nvg_model.save(model, tmp_path / "large.safetensors")
    size = path.stat().st_size
    assert size > 90e6
    grown = run_python(
        """
import re, sys, nvg_model
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
nvg_model.load(sys.argv[1])  # whatever the first call sets up
before = peak()
model = nvg_model.load(sys.argv[2])
sum(parameter.sum() for parameter in model.parameters())  # touches every page
print(peak() - before)
""",
        tiny,
        path,
    )
    assert 0.8 * size < int(grown) < 1.5 * size


# Files that are no checkpoints.


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.01, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("read", [nvg_model.load, nvg_model.info])
def test_truncated_file(tiny, tmp_path, share, read, refuses):
    content = tiny.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in {int(share * len(content)), min(int(share * len(content)) + 8, len(content) - 1)}:
        path.write_bytes(content[:length])
        with refuses("cut.safetensors is (damaged, truncated or )?not a safetensors file", CheckpointError):
            read(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000, 100_000])
def test_random_bytes(tmp_path, length, refuses):
    content = bytes(torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist())
    for name in ("noise.safetensors", "noise.ckpt"):
        path = tmp_path / name
        path.write_bytes(content)
        for read in (nvg_model.load, nvg_model.info, nvg_model.load_released):
            with refuses(re.escape(str(path)), CheckpointError):
                read(path)


def test_a_header_that_is_not_json(tmp_path, refuses):
    path = tmp_path / "odd.safetensors"
    for header in (
        b"not json at all",
        b'{"a": 1}',
        b"[]",
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with refuses("damaged", CheckpointError):
            nvg_model.load(path)


class Harmful:
    """An object whose pickle, once loaded, makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def pickled(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.safetensors", "model"])
@pytest.mark.parametrize("write", [pickled, torch.save])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": {"encoder.conv_in.conv.weight": x}}])
def test_a_pickle_with_code_is_never_run(tiny, tmp_path, name, write, wrap, refuses):
    path, marker = tmp_path / name, tmp_path / "marker"
    write(wrap(Harmful(marker)), path)
    for attempt in (
        lambda: nvg_model.load(path),
        lambda: nvg_model.info(path),
        lambda: nvg_model.load_released(path),
    ):
        with refuses(re.escape(str(path)), CheckpointError):
            attempt()
        assert not marker.exists()
    with path.open("rb") as file:  # the file is indeed harmful to whoever just loads it
        _ = pickle.load(file) if write is pickled else torch.load(file, weights_only=False)
    assert marker.exists()


def test_a_pickle_with_code_says_so(tmp_path, refuses):
    path = tmp_path / "model.ckpt"
    torch.save(Harmful(tmp_path / "marker"), path)
    with refuses("holds more than tensors.*could run code", CheckpointError):
        nvg_model.load_released(path)


def test_a_released_file_points_to_load_released(tmp_path, refuses):
    torch.save({"state_dict": {"encoder.conv_in.conv.weight": torch.zeros(2)}}, tmp_path / "ae.ckpt")
    with refuses("use load_released or nvg convert", CheckpointError):
        nvg_model.load(tmp_path / "ae.ckpt")
    save_file({"ema_model.nvgformer.content_embed.weight": torch.zeros(2)}, tmp_path / "gen.safetensors")
    with refuses("released NVG weights: use load_released", CheckpointError):
        nvg_model.load(tmp_path / "gen.safetensors")


@pytest.mark.parametrize("write", [torch.save, lambda content, path: save_file(content, path)])
def test_load_released_of_another_kind(tmp_path, write, refuses):
    for path in (tmp_path / "other.ckpt", tmp_path / "other.safetensors"):
        if (write is torch.save) != (path.suffix == ".ckpt"):
            continue
        write({"unet.weight": torch.zeros(2)}, path)
        with refuses("not the expected released checkpoint.*first weight is 'unet.weight'", CheckpointError):
            nvg_model.load_released(path)
        write({}, path)
        with refuses("holds no tensors", CheckpointError):
            nvg_model.load_released(path)


@pytest.mark.parametrize("content", [None, [torch.zeros(2)], torch.zeros(3), {"state_dict": 5}, {"state_dict": {}}])
def test_load_released_of_other_objects(tmp_path, content, refuses):
    torch.save(content, tmp_path / "x.ckpt")
    with refuses("holds no tensors", CheckpointError):
        nvg_model.load_released(tmp_path / "x.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.99])
def test_truncated_released_file(tmp_path, share, refuses):
    path = tmp_path / "ae.ckpt"
    torch.save({"state_dict": {f"encoder.{i}": torch.zeros(1000) for i in range(20)}}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refuses("damaged, truncated|an empty file", CheckpointError):
        nvg_model.load_released(path)


def test_safetensors_of_another_kind(tmp_path, refuses):
    path = tmp_path / "lora.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "nvg"}):
        save_file({"lora.up": torch.zeros(2)}, path, metadata)
        for read in (nvg_model.load, nvg_model.info):
            with refuses(r"lora\.safetensors is not an NVG checkpoint", CheckpointError):
                read(path)
    with refuses("its first weight is 'lora.up'", CheckpointError):
        nvg_model.load(path)
    save_file({}, path)
    with refuses("it holds no weights", CheckpointError):
        nvg_model.load(path)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "it is a Stable Diffusion checkpoint"),
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", "it is a Stable Diffusion checkpoint"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "it is a Stable Diffusion checkpoint"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.alpha", "it is a LoRA of another model"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "it is a FLUX model"),
        ("w" * 400, "its first weight is 'w{76} ...'"),
    ],
)
def test_files_of_other_models_are_named(tmp_path, weight, says, refuses):
    """In our format and among the released files, by every way of reading."""
    path = tmp_path / "other.safetensors"
    save_file({weight: torch.zeros(2), "zz": torch.zeros(2)}, path, {"format": "pt"})
    for read in (nvg_model.load, nvg_model.info, nvg_model.load_released):
        with refuses(says, CheckpointError):
            read(path)


def test_nothing_there(tmp_path, refuses):
    for name in (tmp_path / "none.safetensors", "none.safetensors", "emoji46", "folder/none.ckpt", tmp_path, ""):
        with refuses("there is no checkpoint", CheckpointError):
            nvg_model.load(name)
    with refuses("there is no file", CheckpointError):
        nvg_model.load_released(tmp_path / "none.ckpt")


# Checkpoints that do not fit.


def without(*keys):
    return lambda weights: {key: value for key, value in weights.items() if key not in keys}


def test_missing_and_unexpected_weights_are_named(rewrite, refuses):
    path = rewrite(without("content.start_canvas", "tokenizer.quantizer.codebook"))
    with refuses(r"misses 2 weights \(content\.start_canvas, tokenizer\.quantizer\.codebook\);", CheckpointError):
        nvg_model.load(path)
    path = rewrite(lambda weights: {**weights, "extra.bias": torch.zeros(1)})
    with refuses(r"has the unexpected 1 weight \(extra\.bias\);", CheckpointError):
        nvg_model.load(path)
    path = rewrite(lambda weights: {f"model.{key}": value for key, value in weights.items()})
    with refuses(r"misses \d+ weights \(.*, \.\.\.\) and has the unexpected \d+ weights \(.*, \.\.\.\)"):
        nvg_model.load(path)


def test_wrong_shape_is_named(rewrite, refuses):
    path = rewrite(lambda weights: weights | {"content.canvas_in.bias": torch.zeros(7)})
    with refuses(r"content\.canvas_in\.bias has shape \[7\], but the configuration needs \[128\]", CheckpointError):
        nvg_model.load(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", ["structure.transformer.blocks.1.qk_scale", "content.canvas_scales"])
def test_nan_weights_are_named(rewrite, key, value, refuses):
    def spoil(weights):
        weights[key].view(-1)[-1] = value
        return weights

    path = rewrite(spoil)
    with refuses(rf"{re.escape(key)} holds NaN", CheckpointError):
        nvg_model.load(path)


def test_newer_format(rewrite, refuses):
    path = rewrite(format_version="2")
    for read in (nvg_model.load, nvg_model.info):
        with refuses("format version 2; this nvg reads version 1: update nvg", CheckpointError):
            read(path)


def changed_config(**changes):
    config = nvg_model.preset("tiny").to_dict()
    for place, value in changes.items():
        *parents, last = place.split("__")
        inner = config
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return json.dumps(config)


@pytest.mark.parametrize(
    "config",
    [
        changed_config(generator__heads=4),
        changed_config(autoencoder__attention=True),
        changed_config(autoencoder=None),
        changed_config(image_size="large"),
        changed_config(image_size=[16, 20]),
        changed_config(generator__content_width=100),
        changed_config(generator__num_classes=4),
        changed_config(autoencoder__norm_groups=5),
        changed_config(autoencoder__channel_multipliers=[]),
        changed_config(generator__content_depth=0),
        changed_config(generator__content_depth=-1),
        "{}",
        "[]",
        "null",
        "{",
        "",
    ],
)
def test_odd_configuration(rewrite, config, refuses):
    path = rewrite(config=config)
    with refuses(re.escape(str(path)), CheckpointError):
        nvg_model.load(path)


def test_unknown_field_says_update(rewrite, refuses):
    with refuses("heads.*update nvg", CheckpointError):
        nvg_model.load(rewrite(config=changed_config(generator__heads=4)))


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": None},
        {"classes": '["only one"]'},
        {"classes": "5"},
        {"settings": '{"solver": "rk4"}'},
        {"settings": '{"colour": 1}'},
        {"settings": '{"top_p": 1}'},
        {"settings": "[]"},
        {"settings": "null"},
        {"provenance": "no json"},
        {"provenance": "[1]"},
    ],
)
def test_odd_metadata(rewrite, metadata, refuses):
    path = rewrite(**metadata)
    with refuses(re.escape(str(path)), CheckpointError):
        nvg_model.load(path)


def test_optional_metadata(rewrite):
    model = nvg_model.load(rewrite(classes=None, settings=None, provenance=None))
    assert model.classes == ("0", "1", "2") and model.settings == SamplingSettings()


# Places that cannot be written.


FULL_DISK = """
import pathlib, resource, sys
import nvg_model
model, path = nvg_model.load(sys.argv[1]), pathlib.Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    nvg_model.save(model, path)
except nvg_model.CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1_000_000])
def test_full_disk(tiny, tmp_path, limit):
    """The system refuses to write more than `limit` bytes: what was there stays, and nothing else."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old one")
    message = run_python(FULL_DISK, tiny, path, limit)
    assert re.fullmatch(r".*model\.safetensors could not be written \(.*\); free some room.*\n", message)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == b"the old one"


def test_unwritable_folder(tiny_model, tmp_path, refuses):
    folder = Path("/proc/self")  # nobody can make a file there, root included
    if not folder.is_dir():
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o500)
    with refuses("could not be written", CheckpointError):
        nvg_model.save(tiny_model, folder / "model.safetensors")


def test_a_folder_of_that_name(tiny_model, tmp_path, refuses):
    path = tmp_path / "model.safetensors"
    path.mkdir()
    with refuses("could not be written", CheckpointError):
        nvg_model.save(tiny_model, path)
    assert list(tmp_path.iterdir()) == [path] and not list(path.iterdir())


def test_a_file_instead_of_the_folder(tiny_model, tmp_path, refuses):
    (tmp_path / "file").write_bytes(b"x")
    with refuses("could not be written", CheckpointError):
        nvg_model.save(tiny_model, tmp_path / "file" / "model.safetensors")


def test_a_name_that_is_too_long(tiny_model, tmp_path, refuses):
    with refuses("could not be written", CheckpointError):
        nvg_model.save(tiny_model, tmp_path / f"{'x' * 300}.safetensors")
    assert not list(tmp_path.iterdir())


# The hub: a server that speaks as much of its protocol as hf_hub_download uses.

MAIN, TAGGED, LARGE = "a" * 40, "b" * 40, "c" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` {(repository, revision): (commit, bytes)}; notes every request."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.files, self.requests, self.ranges, self.broken_off = files, Counter(), [], set()


class HubRequest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        repository = f"{owner}/{name}"
        self.server.requests[f"{self.command} {repository}@{revision}"] += 1
        if (repository, revision) not in self.server.files:
            known = any(repository == other for other, _ in self.server.files)
            return self.refuse("RevisionNotFound" if known else "RepoNotFound")
        commit, content = self.server.files[repository, revision]
        if content is None or file != "model.safetensors":
            return self.refuse("EntryNotFound", commit)
        if with_body and repository == "bad/line":
            return self.reset()
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            self.server.ranges.append(start)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{commit[::-1]}{len(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return None
        if repository == "long/way" and repository not in self.server.broken_off:  # once, at nine tenths
            self.server.broken_off.add(repository)
            self.close_connection = True
            return self.wfile.write(content[: 9 * len(content) // 10])
        return self.wfile.write(content[start:])

    def refuse(self, code, commit=None):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} at {self.path}")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


LOAD_ALL = """
import json, sys, traceback
import nvg_model
results = {}
def stop(done, total):
    raise KeyError("cancelled")
try:
    nvg_model.download("with/progress", stop)
    results["stopped"] = "no: it was in the cache"
except KeyError as error:
    results["stopped"] = "yes"
except nvg_model.CheckpointError as error:
    results["stopped"] = str(error)
results["progress"] = []
try:
    nvg_model.download("with/progress", lambda done, total: results["progress"].append([done, total]))
except nvg_model.CheckpointError as error:
    results["error"] = str(error)
for name in sys.argv[1:]:
    try:
        model = nvg_model.load(name)
        results[name] = {
            "provenance": model.provenance,
            "codes": model.config.autoencoder.codebook_size,
            "sum": model.tokenizer.quantizer.codebook.double().sum().item(),
            "info": nvg_model.info(name),
        }
    except nvg_model.CheckpointError as error:
        results[name] = {"error": str(error)}
    except Exception:
        results[name] = {"raised": traceback.format_exc()}
print(json.dumps(results))
"""

NAMES = (
    "owner/name",
    "owner/name@v1.0",
    f"owner/name@{TAGGED}",
    "long/way",
    "owner/name@v9",
    "owner/nothing",
    "no/weights",
    "bad/line",
)


@pytest.fixture(scope="module")
def hub(tiny, tmp_path_factory):
    """What loading each of NAMES gave, one process after the other: {"online": ..., "offline": ...}, and the server."""
    folder = tmp_path_factory.mktemp("hub")
    config = nvg_model.preset("tiny")
    large = dataclasses.replace(
        config, generator=None, autoencoder=dataclasses.replace(config.autoencoder, codebook_size=450_000)
    )
    models = {"v1": nvg_model.NVG(config), "large": nvg_model.NVG(large)}
    for name, model in models.items():
        if name == "v1":
            model.content.initialize()
        torch.nn.init.normal_(model.tokenizer.quantizer.codebook, generator=torch.Generator().manual_seed(1))
    paths = {name: nvg_model.save(model, folder / f"{name}.safetensors") for name, model in models.items()}
    first, small = paths["v1"].read_bytes(), tiny.read_bytes()
    server = Hub(
        {
            ("owner/name", "main"): (MAIN, small),
            ("owner/name", "v1.0"): (TAGGED, first),
            ("owner/name", TAGGED): (TAGGED, first),
            ("long/way", "main"): (LARGE, paths["large"].read_bytes()),
            ("no/weights", "main"): (MAIN, None),
            ("bad/line", "main"): (MAIN, small),
            ("with/progress", "main"): (LARGE, paths["large"].read_bytes()),
        }
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    try:
        online = json.loads(run_python(LOAD_ALL, *NAMES, **environment))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    offline = json.loads(run_python(LOAD_ALL, *NAMES, HF_HUB_OFFLINE="1", **environment))
    sums = {
        MAIN: nvg_model.load(tiny).tokenizer.quantizer.codebook.double().sum().item(),
        TAGGED: models["v1"].tokenizer.quantizer.codebook.double().sum().item(),
        LARGE: models["large"].tokenizer.quantizer.codebook.double().sum().item(),
    }
    sizes = {"small": len(small), "large": paths["large"].stat().st_size}
    return {"online": online, "offline": offline, "server": server, "sums": sums, "sizes": sizes}


@pytest.mark.parametrize("line", ["online", "offline"])
@pytest.mark.parametrize(
    ("name", "commit"),
    [("owner/name", MAIN), ("owner/name@v1.0", TAGGED), (f"owner/name@{TAGGED}", TAGGED), ("long/way", LARGE)],
)
def test_hub_checkpoint(hub, line, name, commit):
    """The right file, and the exact commit shown; without a network, from the cache."""
    result = hub[line][name]
    assert result.keys() >= {"provenance", "info"}, result
    assert result["provenance"]["revision"] == result["info"]["provenance"]["revision"] == commit
    assert commit in result["provenance"]["file"]
    assert result["sum"] == pytest.approx(hub["sums"][commit])


def test_hub_file_is_downloaded_once(hub):
    gets = {key: count for key, count in hub["server"].requests.items() if key.startswith("GET owner/name")}
    assert sum(gets.values()) == 2  # one for each of two commits


def test_hub_download_is_resumed(hub):
    """Broken off at nine tenths, the download went on from there and not from the start."""
    assert hub["server"].requests["GET long/way@main"] == 2
    assert len(hub["server"].ranges) == 1 and hub["server"].ranges[0] > 0


def test_hub_download_reports_and_can_be_stopped(hub):
    """Also where the terminal's bars are switched off. What the report raises comes out; the next call goes on."""
    online, offline, size = hub["online"], hub["offline"], hub["sizes"]["large"]
    assert online["stopped"] == "yes"
    done = [bytes for bytes, _ in online["progress"]]
    assert {total for _, total in online["progress"]} == {size}
    assert len(done) > 1 and done == sorted(done) and done[-1] == size
    assert offline["stopped"] == "no: it was in the cache" and offline["progress"] == []


def test_what_is_no_hub_id(refuses):
    with refuses("'http://x/y' is not a hub id; write owner/name or owner/name@revision", CheckpointError):
        nvg_model.download("http://x/y")


@pytest.mark.parametrize("line", ["online", "offline"])
@pytest.mark.parametrize("name", ["owner/name@v9", "owner/nothing", "no/weights", "bad/line"])
def test_hub_refusals_are_one_sentence(hub, line, name):
    result = hub[line][name]
    assert "error" in result, result.get("raised", result)
    assert name.partition("@")[0] in result["error"] and "\n" not in result["error"]
