"""Files that are not what they were taken for, and a hub that refuses: one sentence each, with what to do."""

import argparse
import contextlib
import io
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

import nvg_model
from nvg_model import cli, foreign, released
from nvg_model.errors import CheckpointError
from nvg_nodes.standalone import workflow

CASES = Path(os.environ.get("NVG_CASES") or Path(__file__).resolve().parents[3] / "shared" / "cases")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
READERS = (nvg_model.load, nvg_model.info, nvg_model.load_released)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (POINTER, "is a Git LFS pointer, .*fetch the file itself"),
        (b"<!DOCTYPE html>\n<html>no access</html>", "is a web page; the download gave an error page"),
        (b"", "is an empty file; download it again"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"hello, this is text" * 9, "damaged, truncated or not"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_files_that_are_no_checkpoints(tmp_path, refuses, content, says, suffix):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    for read in READERS if suffix == "safetensors" else (nvg_model.load_released,):
        with refuses(f"{path} .*{says}", CheckpointError):
            read(path)


def test_weights_of_something_else_are_named(tmp_path, refuses):
    path = tmp_path / "other.safetensors"
    save_file({"model.a": torch.zeros(2)}, path)
    for read in READERS:
        with refuses("its first weight is 'model.a'", CheckpointError):
            read(path)


def test_a_pointer_instead_of_a_picture(tmp_path, tiny, capsys):
    (tmp_path / "in.png").write_bytes(POINTER)
    assert cli.main(["tokenize", str(tmp_path / "in.png"), "--model", str(tiny)]) == 2
    assert re.fullmatch(r"nvg: .*in.png is a Git LFS pointer.*\n", capsys.readouterr().err)


# -------------------------------------------------------------------------------------------------- legacy pickles


def test_a_legacy_file_is_read_without_mapping(tmp_path, refuses):
    """Files of torch before 1.6 are no zip archives; their tensors are those of today's form."""
    content = {"state_dict": {"encoder.a": torch.arange(5.0), "b": torch.ones(2, 3)}, "epoch": 3}
    new, old = tmp_path / "new.ckpt", tmp_path / "old.ckpt"
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    found = [released._read(path) for path in (new, old)]
    for name, expected in content["state_dict"].items():
        assert all(torch.equal(one[name], expected) for one in found)
    with refuses("old.ckpt is not the expected released checkpoint", CheckpointError):
        nvg_model.load_released(old)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_class_that_was_refused_is_named(tmp_path, refuses, legacy):
    path = tmp_path / "args.ckpt"
    content = {"state_dict": {"w": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with refuses(r"holds more than tensors: it refers to argparse\.Namespace; it was not opened", CheckpointError):
        nvg_model.load_released(path)


# --------------------------------------------------------------------------------------------------------- the hub


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: the name of the repository says how."""

    def do_HEAD(self):
        answers = {
            "gated": (403, "GatedRepo"),
            "private": (401, "RepoNotFound"),
            "missing": (404, "RepoNotFound"),
            "nofile": (404, "EntryNotFound"),
            "norevision": (404, "RevisionNotFound"),
            "token": (401, None),
        }
        status, code = answers.get(self.path.split("/")[2], (404, None))  # the client also asks for other things
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"about {code}")
        else:
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch, capsys):
    """`hub("owner/gated", ...)`: what `nvg info` says about each, with a hub of our own at a local address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def ask(name):
        assert cli.main(["info", name]) == 2
        return capsys.readouterr().err

    yield ask
    server.shutdown()
    server.server_close()


def test_the_hubs_reasons_differ(hub):
    expected = {
        "o/gated": "nvg: o/gated is gated: accept its terms at https://huggingface.co/o/gated, then log in .*HF_TOKEN",
        "o/private": "nvg: the hub has no o/private, or it is private: check the name, and log in",
        "o/nofile": "nvg: o/nofile has no model.safetensors, so it is not an NVG checkpoint",
        "o/norevision@v9": "nvg: o/norevision has no revision 'v9'",
        "o/token": "nvg: o/token .*the hub does not take the token",
        "o/missing": "nvg: the hub has no o/missing, or it is private",
    }
    said = {name: hub(name) for name in expected}
    for name, pattern in expected.items():
        assert re.match(pattern, said[name]) and said[name].count("\n") == 1, said[name]
    assert len({re.sub("o/[a-z]+", "", one) for one in said.values()}) == 5, "private and missing cannot be told apart"


# -------------------------------------------------------------------------------------------------------- pictures


def test_floating_point_pixels_are_refused(tmp_path, tiny, capsys):
    path = tmp_path / "float.tif"
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    for command in (
        ["tokenize", str(path)],
        ["transfer", str(path), "--class", "bird", "--out", str(tmp_path / "x.png")],
    ):
        assert cli.main([*command, "--model", str(tiny)]) == 2
        assert re.fullmatch(r"nvg: .*float.tif has floating-point pixels.*8 or 16 bits.*\n", capsys.readouterr().err)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["float.tif"]


def test_whole_numbers_of_32_bits_are_refused(tmp_path, tiny, capsys):
    """Those that fit into 16 bits are taken for 16-bit grey."""
    path = tmp_path / "whole.tif"
    command = ["tokenize", str(path), "--model", str(tiny)]
    Image.fromarray(np.full((8, 8), 65535, dtype=np.int32)).save(path)
    assert cli.main(command) == 0
    Image.fromarray(np.full((8, 8), 70000, dtype=np.int32)).save(path)
    assert cli.main(command) == 2
    assert re.fullmatch(r"nvg: .*from 70000 to 70000 as pixels.*8 or 16 bits.*\n", capsys.readouterr().err)


def test_too_many_pixels_are_refused(huge_png, tiny, capsys):
    assert cli.main(["tokenize", str(huge_png), "--model", str(tiny)]) == 2
    assert re.fullmatch(r"nvg: .*large.png has 400 million pixels.*make it smaller\n", capsys.readouterr().err)


# -------------------------------------------------------------------------------------------- terminals and classes


def test_output_in_any_encoding(tmp_path, monkeypatch):
    """Titles and file names have characters that Windows' old code page lacks, and nothing is a terminal."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("画像-ž.png")
    saves = {"1": {"class_type": "LoadImage", "inputs": {"image": "画像-ž.png"}, "_meta": {"title": "画像"}}}
    saves["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "画"}}
    Path("flow.json").write_text(json.dumps(saves))
    for main, arguments, status in (
        (workflow.main, ["flow.json", "--list"], 0),
        (workflow.main, ["flow.json", "--out", "out-画"], 0),
        (workflow.main, ["画.json"], 2),
        (cli.main, ["info", "画"], 2),
        (cli.main, ["generate", "--class", "heart", "--out", "画/x.png"], 2),
    ):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2)]
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            assert main(arguments) == status
        for stream in streams:
            stream.flush()
        assert rb"\u753b" in b"".join(stream.buffer.getvalue() for stream in streams)


def test_the_null_class_is_asked_for_by_its_word(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = ["generate", "--model", str(tiny), "--out", "x.png", "--class"]
    assert cli.main([*drawn, "3"]) == 2
    says = (
        r"nvg: class 3 is out of range; this model has classes 0 to 2 \(for no class at all write 'unconditional'\)\n"
    )
    assert re.fullmatch(says, capsys.readouterr().err)
    assert cli.main([*drawn, "9" * 5000]) == 2 and capsys.readouterr().err.count("\n") == 1
    assert cli.main([*drawn, "unconditional"]) == 0 and cli.main([*drawn, "2"]) == 0


# ------------------------------------------------------------------------------------------------ the shared folder


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lfs.safetensors", "Git LFS pointer.*fetch the file itself"),
        ("other.safetensors", "its first weight is 'model.a'"),
        ("float.tif", "has floating-point pixels"),
    ],
)
def test_cases(name, says, tiny, capsys):
    if not CASES.is_dir() or not list(CASES.rglob(name)):
        pytest.skip(f"no {name} in {CASES} (set NVG_CASES to the folder of shared cases)")
    path = str(next(CASES.rglob(name)))
    command = ["info", path] if path.endswith("safetensors") else ["tokenize", path, "--model", str(tiny)]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(says, said), said


def test_kinds_of_files():
    assert foreign.kind(b"\x93NUMPY") is None and foreign.kind(POINTER).startswith("a Git LFS pointer")
