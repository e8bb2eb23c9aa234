"""MCP over stdio as a byte pump: from this process's stdin and stdout to the 0600 socket of the node.

The MCP server itself runs in the node, once per connection, so several clients share one node and its loaded models.
A client starts this program for every session, so it imports a few modules of the standard library and nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module costs as much as all the rest
    import subprocess
    from collections.abc import Callable
    from typing import Any

NO_NODE = 3
"""Exit code: no node could be reached or started, or it went away."""
START_S = 30.0
"""Seconds a new node may take until it answers."""
LEAVE_S = 40.0
"""Seconds to wait for a node that is about to end, before a new one is started."""
POLL_S = 0.03
CHUNK_BYTES = 1 << 16
SOCKET_PATH_BYTES = 100
"""A Unix socket's path may have 103 bytes on macOS."""
LOG_LINES = 15


class NoNode(Exception):
    """No node to talk to; the text says why and what to do."""


# ── Where things are ──────────────────────────────────────────────────────────────────────────────────────────────────


def herd_home() -> str:
    """HERD_HOME, or ~/.herd, as an absolute path. The one place that knows the rule."""
    return os.path.abspath(os.environ.get("HERD_HOME") or os.path.join(os.path.expanduser("~"), ".herd"))


def socket_path(home: str | os.PathLike[str]) -> str:
    """Where the node of `home` listens: `run/mcp.sock` there, or a short path under /tmp when that is too long.

    Raises NoNode when the folder under /tmp is not this user's own.
    """
    home = os.path.abspath(os.fspath(home))
    path = os.path.join(home, "run", "mcp.sock")
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    import hashlib

    folder = f"/tmp/herd-{os.getuid()}"  # noqa: S108 (checked below)
    if os.path.islink(folder):
        raise NoNode(f"{folder} is a link, so it is not trusted. Remove it, or set HERD_HOME to a shorter path.")
    private_folder(folder)
    return f"{folder}/{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}.sock"


def private_folder(path: str) -> None:
    """Make `path` with mode 0700, or check that it is a folder of this user that nobody else may enter.

    Raises NoNode when it is neither.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise NoNode(f"{path} cannot be used: {error.strerror}. Make it writable, or set HERD_HOME.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise NoNode(f"{path} is not a folder of this user. Remove it, or set HERD_HOME to another place.")


def read_record(home: str) -> dict[str, Any] | None:
    """What `run/node.json` says, or None when there is none. Raises NoNode when somebody else could have written it."""
    path = os.path.join(home, "run", "node.json")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NoNode(f"{path} cannot be read: {error.strerror}.") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise NoNode(f"{path} is not a file, so it is not trusted. Remove it and try again.")
    with os.fdopen(fd, "rb") as file:
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise NoNode(f"{path} is not this user's alone (mode 0600), so it is not trusted. Remove it and try again.")
        try:
            record = json.loads(file.read())
        except ValueError:
            return None
    return record if isinstance(record, dict) and isinstance(record.get("socket"), str) else None


# ── Finding and starting the node ─────────────────────────────────────────────────────────────────────────────────────


def find(home: str) -> socket.socket | None:
    """A connection to the running node of `home`, or None. Raises NoNode when what is there cannot be trusted."""
    record = read_record(home)
    if record is None:
        return None
    path = record["socket"]
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        raise NoNode(f"{path} is not a socket of this user, so it is not trusted. Remove it and try again.")
    node = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        node.connect(path)
    except OSError:
        node.close()
        return None
    return node


def find_or_start(home: str) -> socket.socket:
    """A connection to the node of `home`; starts one when none runs. Two callers at once start one node.

    Raises NoNode when it does not come up within START_S, with the last lines of its log.
    """
    node = find(home)
    if node is not None:
        return node
    private_folder(home)
    private_folder(os.path.join(home, "run"))
    private_folder(os.path.join(home, "logs"))
    lock = os.open(os.path.join(home, "run", "start.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        node = _wait(lambda: _free(lock, keep=True) or find(home), START_S + LEAVE_S)
        if isinstance(node, socket.socket):
            return node
        if node is None:
            raise NoNode("Another program has been starting the node for too long. `herd-mcp status` shows what runs.")
        # A node that is about to end holds run/node.lock until it has; one that a person starts holds it already.
        node = _wait(lambda: find(home) or _ended(home), LEAVE_S)
        if isinstance(node, socket.socket):
            return node
        if node is None:
            raise NoNode("A node of this home runs but does not answer. `herd-mcp stop` ends it; then try again.")
        return _start(home)
    finally:
        os.close(lock)


def _start(home: str) -> socket.socket:
    """Start the node as a process of its own and connect to it. The caller holds the start lock."""
    import subprocess

    log = os.open(os.path.join(home, "logs", "node.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(log).st_size
        child = subprocess.Popen(  # -P: the client's working folder is not on sys.path
            [sys.executable, "-P", "-m", "herd_mcp", "up", "--detached"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={**os.environ, "HERD_HOME": home},
            start_new_session=True,
        )
    finally:
        os.close(log)
    # A child that found another node's lock ends at once, and that node soon answers.
    node = _wait(lambda: find(home) or (_died(child) and _ended(home)), START_S)
    if isinstance(node, socket.socket):
        return node
    if node is None:
        child.terminate()
        problem = f"did not answer within {START_S:.0f} s"
    else:
        problem = f"ended at once (exit code {child.returncode})"
    raise NoNode(
        f"The node {problem}. The end of {home}/logs/node.log:\n{_tail(home, before)}\n"
        "`herd-mcp doctor` tells what is missing on this machine."
    )


def _wait(look: Callable[[], Any], limit_s: float) -> Any:
    """What `look` returns as soon as it is true; None after `limit_s` seconds."""
    until = time.monotonic() + limit_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > until:
            return None
        time.sleep(POLL_S)


def _died(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is not None


def _free(lock: int, *, keep: bool) -> bool:
    """Whether nobody else holds the file lock; then it is ours when `keep`."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if not keep:
        fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _ended(home: str) -> bool:
    """Whether no node of `home` lives: each holds run/node.lock for its whole life."""
    try:
        lock = os.open(os.path.join(home, "run", "node.lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return _free(lock, keep=False)
    finally:
        os.close(lock)


def _tail(home: str, start: int) -> str:
    """The last lines that were written to the log since it was `start` bytes long."""
    try:
        with open(os.path.join(home, "logs", "node.log"), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - CHUNK_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-LOG_LINES:]) or "(nothing was logged)"


# ── Pumping ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pump(node: socket.socket, source: int = 0, target: int = 1) -> bool:
    """Carry bytes both ways until the node closes the connection. Whether the client was the one who left.

    The end of `source` is passed on as the end of writing, and what the node still has to say is carried out.
    """
    left = threading.Event()

    def forward() -> None:
        try:
            while chunk := os.read(source, CHUNK_BYTES):
                node.sendall(chunk)
            left.set()
        except OSError:  # the node is gone: the other direction notices and says so
            pass
        try:  # noqa: SIM105 (contextlib is one more import)
            node.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    threading.Thread(target=forward, daemon=True).start()
    try:
        while chunk := node.recv(CHUNK_BYTES):
            view = memoryview(chunk)
            try:
                while view:
                    view = view[os.write(target, view) :]
            except OSError:  # nobody reads any more
                left.set()
                break
    except OSError:  # reset: the node was killed
        pass
    node.close()
    return left.is_set()


def main() -> int:
    """Connect stdin and stdout with the node; returns the exit code: 0, or 3 with the reason on stderr."""
    try:
        node = find_or_start(herd_home())
        if pump(node):
            return 0
        raise NoNode("The node ended while this client was connected. Start the client's session again.")
    except (NoNode, OSError) as problem:
        try:  # noqa: SIM105
            os.write(2, f"herd-mcp: {problem}\n".encode(errors="replace"))
        except OSError:
            pass
        return NO_NODE
    except KeyboardInterrupt:
        return 130
