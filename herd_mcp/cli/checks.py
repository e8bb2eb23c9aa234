"""What `doctor` looks at. Each check is a function that gives findings; none changes anything on this Mac."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from herd_mcp import bridge
from herd_mcp.cli.check_herd import herd
from herd_mcp.cli.console import human_bytes, human_s
from herd_mcp.cli.findings import Finding
from herd_mcp.jobs import HerdError

if TYPE_CHECKING:
    from herd_mcp.cli.client import NodeClient
    from herd_mcp.jobs import ChatRequest, ChatResult, ImageRequest, ImageResult

GIB = 1024**3
LOW_MEMORY_BYTES = 8 * GIB
LOW_DISK_BYTES = 10 * GIB
LEAST_DISK_BYTES = GIB
IMPORT_S = 120


def python() -> Iterable[Finding]:
    yield Finding("python", "ok", f"Python {platform.python_version()} ({sys.executable})")


def system() -> Iterable[Finding]:
    name, machine = platform.system(), platform.machine()
    if name == "Darwin" and machine == "arm64":
        yield Finding("system", "ok", f"macOS {platform.mac_ver()[0]} on Apple silicon")
    elif name == "Darwin":
        yield Finding(
            "system",
            "broken",
            f"macOS {platform.mac_ver()[0]} on {machine}: MLX needs Apple silicon.",
            "Use a Mac with an M chip; where this is one, install an arm64 Python: uv python install 3.12",
        )
    else:
        yield Finding(
            "system",
            "note",
            f"{name} on {machine}: models run on the CPU here, which suits tests and the built-in models only.",
            "Use a Mac with Apple silicon for real models.",
        )


def libraries() -> Iterable[Finding]:
    """mlx, mlx-lm and mflux, imported in a child so that a crash of theirs is only a finding."""
    code = (
        "import importlib, importlib.metadata as m, json, sys\n"
        "out = {}\n"
        "for module, package in (('mlx.core', 'mlx'), ('mlx_lm', 'mlx-lm'), ('mflux', 'mflux')):\n"
        "    try:\n"
        "        importlib.import_module(module); out[package] = [True, m.version(package)]\n"
        "    except Exception as error:\n"
        "        out[package] = [False, f'{type(error).__name__}: {error}']\n"
        "sys.__stdout__.write('\\n' + json.dumps(out))\n"
    )
    reinstall = "uv tool install --reinstall ., or in a checkout: uv sync --reinstall"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=IMPORT_S,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=True,
        )
        told = json.loads(child.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        yield Finding("libraries", "broken", f"Importing mlx took more than {IMPORT_S} s.", reinstall)
        return
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        last = getattr(error, "stderr", "") or str(error)
        yield Finding("libraries", "broken", f"Importing mlx ends Python: {last.strip()[-300:]}", reinstall)
        return
    for package, (works, words) in told.items():
        yield Finding(package, "ok" if works else "broken", f"{package} {words}", "" if works else reinstall)


def memory() -> Iterable[Finding]:
    memory = psutil.virtual_memory()
    text = f"{human_bytes(memory.available)} of {human_bytes(memory.total)} memory free"
    if memory.total < LOW_MEMORY_BYTES:
        yield Finding("memory", "note", f"{text}: only small models fit.", "Choose small models of 4 bits.")
    else:
        yield Finding("memory", "ok", text)


def _home() -> Path:
    return Path(bridge.herd_home())


def disk() -> Iterable[Finding]:
    folder = _home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{human_bytes(free)} free where {_home()} lies"
    if free < LEAST_DISK_BYTES:
        yield Finding("disk", "broken", f"{text}: images and history cannot be kept safely.", "Free some space.")
    elif free < LOW_DISK_BYTES:
        yield Finding("disk", "note", f"{text}: most image models need more.", "Free some space before a download.")
    else:
        yield Finding("disk", "ok", text)


def home_folder() -> Iterable[Finding]:
    home = _home()
    if not home.exists():
        yield Finding("home", "ok", f"{home} will be made at the first start")
        return
    found = home.stat()
    if found.st_uid != os.getuid() or not os.access(home, os.W_OK | os.X_OK):
        yield Finding("home", "broken", f"{home} is not writable for this user.", f"sudo chown -R $(id -un) {home}")
    elif stat.S_IMODE(found.st_mode) & 0o077:
        yield Finding("home", "note", f"{home} can be read by other users; a start mends it.", f"chmod 700 {home}")
    else:
        yield Finding("home", "ok", f"{home} is writable, for this user only")


def settings() -> Iterable[Finding]:
    from herd_mcp.settings import load_settings

    try:
        load_settings()
    except HerdError as error:
        yield Finding("settings", "broken", error.info.message, error.info.hint)
    else:
        yield Finding("settings", "ok", f"settings are valid ({_home() / 'config.toml'} and HERD_*)")


def port() -> Iterable[Finding]:
    """Free, or held by our own node."""
    from herd_mcp.cli.run_dir import read_record
    from herd_mcp.serving.server import bind
    from herd_mcp.settings import load_settings

    try:
        wanted = load_settings().port
        record = read_record(_home())
        bind(wanted).close()
    except HerdError as error:
        if error.info.code == "invalid_request":
            return  # told by `settings`
        if record is not None and record["port"] == wanted and _answers():
            yield Finding("port", "ok", f"port {wanted} is held by the node of this home")
        else:
            yield Finding("port", "broken", error.info.message, error.info.hint)
    else:
        yield Finding("port", "ok", f"port {wanted} is free" if wanted else "any free port is taken (port = 0)")


def _answers() -> bool:
    from herd_mcp.cli.client import find_node

    try:
        find_node().status()
    except HerdError:
        return False
    return True


def node() -> Iterable[Finding]:
    from herd_mcp.cli.client import find_node
    from herd_mcp.cli.run_dir import NodeLock

    if not NodeLock(_home()).is_held():
        yield Finding("node", "ok", "no node runs; the first client starts one")
        return
    try:
        own = find_node().status().nodes[0]
    except HerdError as error:
        yield Finding("node", "broken", f"A node runs and does not answer: {error}", "herd-mcp stop")
        return
    yield Finding("node", "ok", f"the node {own.name} answers, version {own.version}")
    if own.paused:
        fix = "herd-mcp resume ends a pause by hand; pause_times and pause_on_battery are settings (herd-mcp config)"
        yield Finding("pause", "note", f"it does nothing for other Macs: {own.paused}", fix)


def models() -> Iterable[Finding]:
    """Incomplete models, and whether others than the built-in ones are there."""
    from herd_mcp.node.choose import download_command
    from herd_mcp.node.models import find_models
    from herd_mcp.settings import load_settings

    try:
        known = find_models(load_settings(), _home())
    except HerdError:
        return  # told by `settings`
    for model in known:
        if not model.complete:
            yield Finding(
                "models",
                "note",
                f"{model.name} is not complete: {model.problem}",
                download_command(model.name)
                if model.source == "huggingface"
                else f"Copy the missing files to {model.path}.",
            )
    for kind, example in (("image", "filipstrand/Z-Image-Turbo-mflux-4bit"), ("chat", "mlx-community/Qwen3-4B-4bit")):
        usable = [model for model in known if model.kind == kind and model.complete and not model.builtin]
        if usable:
            yield Finding("models", "ok", f"{kind} models: {', '.join(model.name for model in usable[:5])}")
        else:
            yield Finding(
                "models",
                "note",
                f"No {kind} model but the small built-in one, which is for trying out. One of a few GB to begin with:",
                download_command(example),
            )


def built_in() -> Iterable[Finding]:
    """Draw and answer for real with the built-in models, in a temporary node."""
    from herd_mcp.cli.client import NodeClient
    from herd_mcp.cli.temporary import temporary_node
    from herd_mcp.jobs import ChatRequest, ImageRequest, Message

    started = time.monotonic()
    try:
        with temporary_node() as temporary:
            client = NodeClient(temporary.port, temporary.token)
            yield Finding("trial", "ok", f"a temporary node started in {human_s(time.monotonic() - started)}")
            requests: tuple[ChatRequest | ImageRequest, ...] = (
                ChatRequest(
                    model="herd-tiny-chat", messages=(Message(role="user", content="What is herd-mcp?"),), max_tokens=64
                ),
                ImageRequest(model="herd-tiny-image", prompt="a large red circle on a blue background", seed=1),
            )
            for request in requests:
                yield _trial(client, request)
    except HerdError as error:
        yield Finding("trial", "broken", str(error), "herd-mcp up, whose log says more")


def _trial(client: NodeClient, request: ChatRequest | ImageRequest) -> Finding:
    from herd_mcp.jobs import Completed, Failed

    what = "the chat engine answers" if request.kind == "chat" else "the image engine draws"
    started = time.monotonic()
    for event in client.run(request):
        if isinstance(event, Completed):
            if not makes_sense(event.result):
                fix = "Install herd-mcp again: its built-in models are not what they were, or MLX does not compute."
                return Finding("trial", "broken", f"{what}, but not what it was asked for", fix)
            return Finding("trial", "ok", f"{what} ({human_s(time.monotonic() - started)} with its start)")
        if isinstance(event, Failed):
            fix = event.error.hint or "Open an issue with the output of herd-mcp doctor --json."
            return Finding("trial", "broken", f"{request.kind}: {event.error.message}", fix)
    return Finding("trial", "broken", f"{request.kind}: the job was cancelled", "herd-mcp doctor")


def makes_sense(result: ChatResult | ImageResult) -> bool:
    """Whether the answer is about herd-mcp, and whether the picture is red in the middle and blue at its corner."""
    from PIL import Image

    if result.kind == "chat":
        return "herd-mcp runs image and chat models" in result.text
    with Image.open(result.path) as picture:
        wide, high = picture.size
        middle, corner = (
            picture.convert("RGB").resize((1, 1), box=box).tobytes()
            for box in ((0.45 * wide, 0.45 * high, 0.55 * wide, 0.55 * high), (0, 0, 0.08 * wide, 0.08 * high))
        )
    return middle[0] > 2 * middle[2] and corner[2] > 2 * corner[0]


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    python,
    system,
    libraries,
    memory,
    disk,
    home_folder,
    settings,
    port,
    node,
    herd,
    models,
    built_in,
)
