"""Checkpoints in our format: there and back, and places that cannot be written."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_processes import run_python

import nvg_model
from nvg_model import CheckpointError, SamplingSettings


def assert_same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


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
    assert image.shape == (1, 3, *model.config.output_size)


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


# Places that cannot be written.


FULL_DISK = """
import pathlib, resource, sys
import nvg_model
model, path = nvg_model.load(sys.argv[1]), pathlib.Path(sys.argv[2])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in (0, 1_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        nvg_model.save(model, path)
    except nvg_model.CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        print(error)
"""


def test_full_disk(tiny, tmp_path):
    """The system refuses to write anything, or more than a part of it: what was there stays, and nothing else."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old one")
    messages = run_python(FULL_DISK, tiny, path)
    assert re.fullmatch(r"(.*model\.safetensors could not be written \(.*\); free some room.*\n){2}", messages)
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
