"""The genuine ComfyUI front end in Chromium, served without ComfyUI: our nodes' schemas, our web folder, nothing else.

Every version of VERSIONS is tested: the installed comfyui-frontend-package, and others that pip fetches once into the
environment.

NVG_FRONTENDS  folders of further front ends to test on (each the `static` folder of that package; separated as in PATH)
NVG_CHROMIUM   the browser, if it is not on the PATH as chromium, chromium-browser or google-chrome
"""

import base64
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import mimetypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import page_tools
import pytest
from PIL import Image

from nvg_nodes import nodes_load
from nvg_nodes.extension import CLASSES_ADDRESS
from nvg_nodes.standalone import runner

WEB = Path(__file__).resolve().parents[2] / "nvg_nodes" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VERSIONS = ("1.35.9", "1.58.1")
"""The front end of ComfyUI 0.8.0, and the newest one."""
FETCHED = Path(sys.prefix) / "share" / "nvg-frontends"
FETCH_SECONDS = 180
START_MS = 60_000
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.99.0",
    "Comfy.Release.Status": "skipped",
    "Comfy.VersionCompatibility.DisableWarnings": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"],
    "Comfy.AppBuilder.VueNodeSwitchDismissed": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Canvas.NavigationMode": "custom",  # without a value, 1.27 stumbles over its own default
}
"""Of a user who has been here before: no tour, no news."""
ANSWERS = {
    "/users": {"storage": "server", "migrated": True},
    "/system_stats": {"system": {"comfyui_version": "0.8.0", "argv": [], "ram_total": 1, "ram_free": 1}, "devices": []},
    "/queue": {"queue_running": [], "queue_pending": []},
    "/prompt": {"exec_info": {"queue_remaining": 0}},
    "/jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 0, "total": 0, "has_more": False}},
    "/history": {},
    "/i18n": {},
    "/features": {},
    "/global_subgraphs": {},
    "/internal/folder_paths": {},
    "/workflow_templates": {},
    "/userdata": [],
    "/v2/userdata": [],
    "/embeddings": [],
    "/experiment/models": [],
    "/node_replacements": {},
    "/assets": {"assets": [], "total": 0, "has_more": False},
}
"""What the host says on other matters than nodes."""
NOISE = (
    "legacy queue/history",
    "[MaskEditor]",
    "Invalid layout total size",
    "input.link is deprecated",
    "violates the following Content Security Policy",
    "Refused to connect because it violates",
    "Attempted to cleanup event listeners for graph",
    "dropping legacy selectedInput tuple",  # of the workflow before, looked for in the next one
)
"""Warnings that newer front ends give about themselves, as they do without our nodes."""
EMPTY = {
    "/user.css": b"",
    "/api/userdata/user.css": b"",
    "/api/userdata/comfy.templates.json": b"[]",
    "/favicon.ico": b"",
}
"""Files of a user who never made any."""
NO_SHADOWS = "*, *::before, *::after { filter: none !important }"
"""The host's nodes drop shadows, which take a fifth of the time where no GPU draws them, at every frame anew."""


def _picture() -> bytes:
    """A grey PNG."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(file, "PNG")
    return file.getvalue()


PICTURE = _picture()


class Server(ThreadingHTTPServer):
    """As much of a ComfyUI server as the front end needs to show a graph."""

    daemon_threads = True

    def __init__(self, static: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.static = static
        self.settings = dict(SETTINGS)
        self.catalogue = runner.catalogue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, query: dict[str, str]) -> object:
        """What a GET of the API is answered with; None: there is no such thing."""
        if path == "/settings":
            return self.settings
        if path == "/object_info":
            return self.catalogue
        if path == "/extensions":
            return [f"/extensions/nvg/{file.relative_to(WEB).as_posix()}" for file in sorted(WEB.rglob("*.js"))]
        if path == CLASSES_ADDRESS:
            return nodes_load.classes_of(query.get("checkpoint", ""))
        return ANSWERS.get(path)

    def file(self, path: str) -> Path | None:
        """The file that an address stands for."""
        folder, name = self.static, path.strip("/") or "index.html"
        if name.startswith("extensions/nvg/"):
            folder, name = WEB, name.removeprefix("extensions/nvg/")
        found = (folder / name).resolve()
        return found if found.is_file() and found.is_relative_to(folder.resolve()) else None


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args) -> None:
        pass  # the browser tells what went wrong

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        if path == "/ws":
            return self.keep_websocket()
        answer = self.server.answer(path.removeprefix("/api"), dict(parse_qsl(address.query)))
        if answer is not None:
            return self.send(200, json.dumps(answer).encode(), "application/json")
        if path == "/api/view":  # a picture that a workflow loads
            return self.send(200, PICTURE, "image/png")
        if path in EMPTY:
            return self.send(200, EMPTY[path], mimetypes.guess_type(path)[0] or "image/x-icon")
        file = self.server.file(path)
        if file is None:
            return self.send(404, b"", "text/plain")
        # The host's server, too, takes the type from Python's list.
        return self.send(200, file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).removeprefix("/api")
        if path.startswith("/settings/"):
            self.server.settings[path.removeprefix("/settings/")] = json.loads(content)
        self.send(200, b"{}", "application/json")

    def send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def keep_websocket(self) -> None:
        """Opens the websocket over which a host would tell its progress, says hello, and waits for the end."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        hello = {"type": "status", "data": {"sid": "test", "status": ANSWERS["/prompt"]}}
        text = json.dumps(hello).encode()
        self.wfile.write(bytes([0x81, len(text)]) + text)
        self.wfile.flush()
        while self.rfile.read(1):
            pass
        self.close_connection = True


@functools.cache
def front_end(version: str) -> Path | str:
    """The `static` folder of a version of the front end, or why there is none."""
    package = importlib.util.find_spec("comfyui_frontend_package")
    if package and package.origin and importlib.metadata.version("comfyui-frontend-package") == version:
        return Path(package.origin).parent / "static"
    folder = FETCHED / version
    if not folder.is_dir():
        problem = _fetch(version, folder)
        if problem:
            return f"front end {version} is not installed, and pip could not fetch it: {problem}"
    return folder / "comfyui_frontend_package" / "static"


def _fetch(version: str, folder: Path) -> str:
    """Brings a version from where pip installs from. Returns what went wrong, if anything."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        wheels, unpacked = Path(name) / "wheels", Path(name) / "unpacked"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1", "--timeout=20"]
        pip += ["--disable-pip-version-check", f"--dest={wheels}", f"comfyui-frontend-package=={version}"]
        try:
            done = subprocess.run(pip, capture_output=True, text=True, timeout=FETCH_SECONDS)
        except subprocess.TimeoutExpired:
            return f"no answer in {FETCH_SECONDS} seconds"
        found = list(wheels.glob("*.whl"))
        if done.returncode or not found:
            return (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return ""


def front_ends() -> list:
    """What to test on: versions, and the folders of NVG_FRONTENDS."""
    folders = filter(None, os.environ.get("NVG_FRONTENDS", "").split(os.pathsep))
    return [*VERSIONS, *map(Path, folders)]


@pytest.fixture(scope="package")
def browser() -> Iterator:
    """Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[frontend]")
    path = os.environ.get("NVG_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium is installed (on Debian and Ubuntu: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def checkpoints(tiny, tmp_path_factory) -> Iterator[Path]:
    """The working directory: models/nvg has the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("frontend")
    (folder / "models" / "nvg").mkdir(parents=True)
    shutil.copy(tiny, folder / "models" / "nvg" / "tiny.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="package", params=front_ends(), ids=str)
def server(request, browser, checkpoints) -> Iterator[Server]:
    """The front end on a loopback port."""
    static = request.param if isinstance(request.param, Path) else front_end(request.param)
    if isinstance(static, str):
        pytest.skip(static)
    server = Server(static)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="package", params=["classic", "vue"])
def opened(request, server, browser) -> Iterator:
    """The page, opened once for the tests of all files (it takes seconds); in classic (LiteGraph) or Vue nodes.

    What it complains about is noted in `complaints`, and in `at_start` until it was there.
    """
    server.settings["Comfy.VueNodes.Enabled"] = request.param == "vue"
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(10_000)
    page.complaints = []
    page.on("console", lambda message: _note(page, message.type, message.text, (message.location or {}).get("url")))
    page.on("pageerror", lambda error: _note(page, "error", str(error), ""))
    page.goto(server.url, timeout=START_MS)
    page.wait_for_function(
        "() => window.app?.canvas && window.LiteGraph?.registered_node_types.NVGGenerate", timeout=START_MS
    )
    page.wait_for_load_state("networkidle")
    page.add_style_tag(content=NO_SHADOWS)
    page.at_start = list(page.complaints)
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """The page; whatever it complains about during a test fails the test."""
    opened.complaints.clear()
    yield opened
    assert not opened.complaints


@pytest.fixture
def elements(opened) -> None:
    """For tests of our own elements: Vue nodes show those of packs since front end 1.31."""
    version, in_vue = opened.evaluate("() => [window.__COMFYUI_FRONTEND_VERSION__, LiteGraph.vueNodesMode]")
    if in_vue and tuple(map(int, version.split(".")[:2])) < (1, 31):
        pytest.skip(f"the Vue nodes of front end {version} show no elements of packs")


@pytest.fixture(name="painting_graph")
def _painting_graph() -> dict:
    return page_tools.painting_graph()


def _note(page, kind: str, text: str, url: str | None) -> None:
    elsewhere = url and not url.startswith("http://127.0.0.1")  # the front end asks its makers for news
    if kind in ("error", "warning") and not elsewhere and not any(words in text for words in NOISE):
        page.complaints.append(f"{kind}: {text} ({url})")
