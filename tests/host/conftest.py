"""A genuine ComfyUI host for the tests of this folder, on a loopback port, driven through HTTP and its websocket.

COMFYUI_PATH        a ComfyUI checkout; without it these tests are skipped
COMFYUI_PYTHON      the Python that has the checkout's requirements (default: the one that runs pytest)
COMFYUI_PYTHONPATH  PYTHONPATH of the host, if it needs one
COMFYUI_FLAGS       further flags of main.py, such as --front-end-root with the `static` folder of another front end
"""

import base64
import io
import json
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "NVG-v1.0_main(2)"
"""What the pack's folder is called in custom_nodes: users rename it, browsers and zips add to it, and it is no name
that Python could import. No blanks or umlauts, though: with aiohttp 3.14 ComfyUI answers 404 for the web files and
workflows of any pack in such a folder (its nodes work)."""
BOOT_SECONDS = 600
RUN_SECONDS = 600
FINAL = ("execution_success", "execution_error", "execution_interrupted")


class Events:
    """The messages of the host to one client: the reading half of a websocket, which is all that we need of one."""

    def __init__(self, port: int, client: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=RUN_SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.file = self.socket.makefile("rb")
        assert b" 101 " in self.file.readline()
        while self.file.readline().strip():
            pass

    def next(self) -> dict:
        """The next message; `at` is when it came. Of a binary one (such as a preview) `data` is the bytes."""
        while True:
            kind, size = struct.unpack("!BB", self.file.read(2))
            if size == 126:
                (size,) = struct.unpack("!H", self.file.read(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.file.read(8))
            payload = self.file.read(size)
            if kind == 0x81:
                return json.loads(payload) | {"at": time.monotonic()}
            if kind == 0x82:
                return {"type": "binary", "data": payload, "at": time.monotonic()}

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@dataclass
class Run:
    """One prompt from queueing to its end."""

    id: str
    events: list[dict] = field(default_factory=list)
    outputs: dict = field(default_factory=dict)

    @property
    def end(self) -> str:
        return self.events[-1]["type"]

    @property
    def error(self) -> str:
        """What the failed node said."""
        return str(self.events[-1]["data"].get("exception_message", "")).strip()

    def of(self, kind: str) -> list[dict]:
        """The messages of a kind that concern this prompt."""
        return [event for event in self.events if event["type"] == kind]

    @property
    def cached(self) -> set[str]:
        """Nodes that were not run because nothing had changed."""
        return {node for event in self.of("execution_cached") for node in event["data"]["nodes"]}

    @property
    def executed(self) -> set[str]:
        """Nodes that did run."""
        return {event["data"]["node"] for event in self.of("executing") if event["data"]["node"]} - self.cached

    @property
    def previews(self) -> list[Image.Image]:
        """The pictures sent while running: 4 bytes of event (1), 4 of format, then the file."""
        return [
            Image.open(io.BytesIO(event["data"][8:]))
            for event in self.of("binary")
            if struct.unpack("!I", event["data"][:4]) == (1,)
        ]


class Host:
    """A running ComfyUI."""

    folder = FOLDER

    def __init__(self, process: subprocess.Popen, port: int, base: Path, log: Path) -> None:
        self.process, self.port, self.base, self.log = process, port, base, log

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{urllib.parse.quote(path, safe='/?=&')}"

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url(path), timeout=30) as answer:
            return answer.read()

    def get(self, path: str):
        return json.loads(self.read(path))

    def post(self, path: str, data: dict):
        """The JSON answer, of a refusal too."""
        request = urllib.request.Request(
            self.url(path), json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, prompt: dict, workflow: dict | None = None, on_event=lambda event, run: None, **extra) -> Run:
        """Queues a prompt (API form) with other extra data, and follows it to its end."""
        client = uuid.uuid4().hex
        events = Events(self.port, client)
        try:
            extra |= {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
            answer = self.post("/prompt", {"prompt": prompt, "client_id": client, "extra_data": extra})
            assert "prompt_id" in answer and not answer["node_errors"], json.dumps(answer, indent=1)
            run = Run(answer["prompt_id"])
            while not (run.events and run.end in FINAL):
                event = events.next()
                if event["type"] == "binary" or event["data"].get("prompt_id") == run.id:
                    run.events.append(event)
                    on_event(event, run)
        finally:
            events.close()
        while run.id not in (history := self.get(f"/history/{run.id}")):
            time.sleep(0.05)
        run.outputs = history[run.id]["outputs"]
        return run

    def succeed(self, prompt: dict, workflow: dict | None = None) -> Run:
        """As `run`; anything but success fails the test."""
        run = self.run(prompt, workflow)
        assert run.end == "execution_success", run.error or run.end
        return run

    def files(self, run: Run) -> list[bytes]:
        """The picture files that a run put out, in the order of their nodes."""
        found = [
            entry
            for node in sorted(run.outputs, key=lambda name: [int(part) for part in name.split(":")])
            for entry in run.outputs[node].get("images", [])
        ]
        return [self.read("/view?" + "&".join(f"{key}={one[key]}" for key in sorted(one))) for one in found]

    def pixels(self, run: Run) -> list[np.ndarray]:
        return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in self.files(run)]

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def free(self) -> None:
        """What the menu's "unload models and execution cache" does.

        Asked again, because the host sets the two flags one after the other, and its worker overlooks one that is set
        while it is busy with the first, or with tidying up after a prompt, until something else wakes it.
        """
        for _ in range(3):
            self.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(1)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _base(folder: Path, checkout: Path, tiny: Path) -> Path:
    """A base directory with the pack, a checkpoint, and another pack with a folder that is called like one of ours."""
    nodes, models = folder / "custom_nodes", folder / "models" / "nvg"
    (nodes / "other" / "training").mkdir(parents=True)
    (nodes / FOLDER).symlink_to(REPOSITORY, target_is_directory=True)
    # What many packs do. Were our folder on sys.path too, one of the two packs would get the other's `training`.
    (nodes / "other" / "__init__.py").write_text(
        "import os, sys\n"
        "sys.path.append(os.path.dirname(__file__))\n"
        "import training\n"
        "assert training.OWNER == 'other', training\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    (nodes / "other" / "training" / "__init__.py").write_text("OWNER = 'other'\n")
    models.mkdir(parents=True)
    shutil.copy(tiny, models / "tiny.safetensors")
    shutil.copytree(checkout / "input", folder / "input")
    return folder


@pytest.fixture(scope="session")
def python() -> str:
    """The host's interpreter."""
    return os.environ.get("COMFYUI_PYTHON") or sys.executable


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The ComfyUI checkout to test on."""
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH names no ComfyUI checkout, so there is no genuine host to test on")
    checkout = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve()
    if not (checkout / "main.py").is_file():
        pytest.fail(f"COMFYUI_PATH is {checkout}, which is no ComfyUI checkout: there is no main.py")
    return checkout


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment variables of the host."""
    return {
        **os.environ,
        "PYTHONPATH": os.environ.get("COMFYUI_PYTHONPATH", ""),
        "PYTHONUTF8": "1",
        "HF_HUB_OFFLINE": "1",
        # The allocator gives back at once what is freed, so that resident memory shows what is held.
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }


@pytest.fixture(scope="session")
def host(checkout, environment, python, tiny, tmp_path_factory):
    """The host, booted once for all tests of a session."""
    base = _base(tmp_path_factory.mktemp("host") / "base", checkout, tiny)
    port, log = _free_port(), base.parent / "log.txt"
    flags = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"]
    flags += ["--preview-method", "auto"]  # ComfyUI's default is none
    flags += shlex.split(os.environ.get("COMFYUI_FLAGS", ""))
    paths = ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "main.py", *flags, *paths], cwd=checkout, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    host = Host(process, port, base, log)
    try:
        _wait(host)
        yield host
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(host: Host) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and host.process.poll() is None:
        try:
            return host.get("/system_stats")
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"ComfyUI did not come up; the end of its log:\n{host.log.read_text()[-4000:]}")
