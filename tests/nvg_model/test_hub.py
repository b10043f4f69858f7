"""Checkpoints of the hub, from a server that speaks as much of its protocol as hf_hub_download uses."""

import dataclasses
import http.server
import json
import re
import socket
import struct
import threading
from collections import Counter

import pytest
import torch
from shared_processes import run_python

import nvg_model
from nvg_model import CheckpointError

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


def two_models(folder):
    """Another tiny model, and a tokenizer whose file is large; and both files."""
    config = nvg_model.preset("tiny")
    large = dataclasses.replace(
        config, generator=None, autoencoder=dataclasses.replace(config.autoencoder, codebook_size=450_000)
    )
    models = {"v1": nvg_model.NVG(config), "large": nvg_model.NVG(large)}
    for name, model in models.items():
        if name == "v1":
            model.content.initialize()
        torch.nn.init.normal_(model.tokenizer.quantizer.codebook, generator=torch.Generator().manual_seed(1))
    return models, {name: nvg_model.save(model, folder / f"{name}.safetensors") for name, model in models.items()}


@pytest.fixture(scope="module")
def hub(tiny, tmp_path_factory):
    """What loading each of NAMES gave, one process after the other: {"online": ..., "offline": ...}, and the server."""
    folder = tmp_path_factory.mktemp("hub")
    models, paths = two_models(folder)
    first, small, large = paths["v1"].read_bytes(), tiny.read_bytes(), paths["large"].read_bytes()
    server = Hub(
        {
            ("owner/name", "main"): (MAIN, small),
            ("owner/name", "v1.0"): (TAGGED, first),
            ("owner/name", TAGGED): (TAGGED, first),
            ("long/way", "main"): (LARGE, large),
            ("no/weights", "main"): (MAIN, None),
            ("bad/line", "main"): (MAIN, small),
            ("with/progress", "main"): (LARGE, large),
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
    sizes = {"small": len(small), "large": len(large)}
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
