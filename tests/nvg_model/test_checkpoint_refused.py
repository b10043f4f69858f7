"""Files that are no checkpoints, and checkpoints that do not fit: one sentence each."""

import json
import pickle
import re
import struct

import pytest
import torch
from safetensors.torch import save_file

import nvg_model
from nvg_model import CheckpointError, SamplingSettings

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
