"""Two Macs on one Linux: the test here, the other node in a network namespace, and a link that can be cut or slow."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_NUMBERS = itertools.count()
SLOW_LINK = str(Path(__file__).parent / "slow_link.py")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


@dataclass
class Link:
    """`host` is the other side's address, `near_host` this side's; `through` puts a command there."""

    host: str
    near_host: str
    through: tuple[str, ...]
    far: tuple[str, str]
    """Namespace and name of the other side's end."""

    def cut(self) -> None:
        """At the other side: without its own end, this side would ask the machine's gateway, which may refuse."""
        self._set("down")

    def heal(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        ip("-n", self.far[0], "link", "set", self.far[1], state)


@contextlib.contextmanager
def link(delay_s: float = 0.0, loss: float = 0.0) -> Iterator[Link]:
    """A link to a namespace, where the system lets us make one; else the test is skipped. With a delay or a loss, each
    way has it."""
    number = next(_NUMBERS)
    mark = f"{os.getpid() % 100_000}{number}"
    far_ns, mid_ns = f"hm{mark}f", f"hm{mark}m"
    near, far, near_mid, far_mid = (f"h{mark}{end}" for end in "abcd")
    net = f"10.{77 + number}.{os.getpid() % 250}"
    with contextlib.ExitStack() as stack:
        try:
            ip("netns", "add", far_ns)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"NETWORK NAMESPACES ARE NOT ALLOWED HERE: faults of the network are not tested ({error})")
        stack.callback(ip, "netns", "delete", far_ns)
        through = ("ip", "netns", "exec", far_ns)
        if delay_s or loss:
            ip("netns", "add", mid_ns)
            stack.callback(ip, "netns", "delete", mid_ns)
            ip("link", "add", near, "type", "veth", "peer", "name", near_mid, "netns", mid_ns)
            stack.callback(ip, "link", "delete", near)
            ip("-n", mid_ns, "link", "add", far_mid, "type", "veth", "peer", "name", far, "netns", far_ns)
            for end in (near_mid, far_mid):
                ip("-n", mid_ns, "link", "set", end, "up")
        else:
            ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", far_ns)
            stack.callback(ip, "link", "delete", near)
        ip("addr", "add", f"{net}.1/24", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", far_ns, "addr", "add", f"{net}.2/24", "dev", far)
        for end in (far, "lo"):
            ip("-n", far_ns, "link", "set", end, "up")
        if delay_s or loss:
            python = (sys.executable, SLOW_LINK)
            subprocess.run([*python, "plain", near], check=True, timeout=30)
            subprocess.run([*through, *python, "plain", far], check=True, timeout=30)
            words = ["ip", "netns", "exec", mid_ns, *python, near_mid, far_mid, str(delay_s), str(loss), "1"]
            forwarder = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            stack.callback(forwarder.kill)
            assert forwarder.stdout is not None
            assert forwarder.stdout.readline() == "ready\n"
        yield Link(f"{net}.2", f"{net}.1", through, (far_ns, far))
